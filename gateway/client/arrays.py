"""What callers pass in as numpy arrays: arrays as they are, lists by the signature's types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gateway.codecs import tfs_tensors
from gateway.domain.errors import InvalidRequest
from gateway.domain.tensors import DType, Signature, TensorSpec

Array = np.ndarray[Any, np.dtype[Any]]
Inputs = Mapping[str, Any] | Any
"""Arrays (or what numpy makes one of) by name; or one alone, where the model has one input."""


def as_arrays(inputs: Inputs, spec: Signature | None) -> dict[str, Array]:
    """Arrays by name. A numpy array goes as it is; a list takes the type that the signature says.

    Raises:
        InvalidRequest: a lone array where there are several inputs, or values that are no array.
    """
    if not isinstance(inputs, Mapping):
        names = list(spec.inputs) if spec is not None else []
        if len(names) != 1:
            raise InvalidRequest(
                f"This signature has {len(names)} inputs ({', '.join(names)}): pass a mapping "
                "from input names to arrays",
                reason="unknown_input",
            )
        inputs = {names[0]: inputs}
    return {
        str(name): _as_array(str(name), value, spec.inputs.get(str(name)) if spec else None)
        for name, value in inputs.items()
    }


def _as_array(name: str, value: Any, spec: TensorSpec | None) -> Array:
    given = isinstance(value, np.ndarray | np.generic)
    try:
        if given or spec is None:
            array = np.asarray(value)
        elif spec.dtype is DType.STRING:
            array = np.asarray(value, dtype=object)
        else:
            array = np.asarray(value, dtype=tfs_tensors.numpy_dtype(spec.dtype))
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidRequest(
            f"The value for input {name} makes no array: {error}", reason="bad_shape"
        ) from error
    if array.dtype.kind in "UO":
        flat = [v.encode() if isinstance(v, str) else v for v in array.ravel().tolist()]
        wrong = next((v for v in flat if not isinstance(v, bytes)), None)
        if wrong is not None:
            raise InvalidRequest(
                f"Input {name} holds {type(wrong).__name__} among its elements: a tensor holds "
                "numbers of one type, or strings",
                reason="bad_dtype",
            )
        strings = np.empty(len(flat), dtype=object)
        strings[:] = flat
        return strings.reshape(array.shape)
    return array
