"""Is this V2 request one that the signature takes? In Triton's words (core's infer_request.cc).

As `servers.kit.checks` does for TensorFlow Serving: all that can be known before the run is refused
here, because an input that fails inside a joined run costs every request in it a second run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from gateway.codecs.oip_dtypes import DATATYPE
from gateway.codecs.tfs_tensors import dtype_of
from gateway.domain.errors import InvalidRequest
from gateway.domain.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec
from servers.kit.checks import default_value
from servers.kit.runtime import Arrays

_UNKNOWN = "unknown_input"
_SHOWN_CHARS = 128
_SHOWN_NAMES = 32


def _refuse(message: str, reason: str) -> InvalidRequest:
    return InvalidRequest(message, reason=reason)


def signature_of(
    signatures: Mapping[str, Signature], model: str, wanted: object = None
) -> tuple[str, Signature]:
    """The signature that a V2 call means: the protocol has one per model, so `serving_default`, or
    the only one; the request parameter `signature_name` may name another.

    Raises:
        InvalidRequest: there is none of that name, or several and none is the default
            (`unknown_signature`).
    """
    if wanted is None:
        wanted = DEFAULT_SIGNATURE
        if wanted not in signatures and len(signatures) == 1:
            wanted = next(iter(signatures))
    found = signatures.get(wanted) if isinstance(wanted, str) else None
    if found is None or not isinstance(wanted, str):
        raise _refuse(
            f"model '{model}' has no signature '{_shown(str(wanted))}'; name one of "
            f"{_listed(signatures)} in the request parameter 'signature_name'",
            "unknown_signature",
        )
    return wanted, found


def inputs_of(model: str, signature: Signature, given: Arrays) -> Arrays:
    """The signature's inputs in its own order, defaults filled in.

    Raises:
        InvalidRequest: other names (`unknown_input`), another datatype (`bad_dtype`), another rank
            or size (`bad_shape`).
    """
    specs = signature.inputs
    if given.keys() != specs.keys():
        _check_names(model, specs, given)
    ready: dict[str, NDArray[np.generic]] = {}
    for name, spec in specs.items():
        array = given.get(name)
        if array is None:
            array = default_value(spec)
        else:
            _check_tensor(model, name, spec, array)
        ready[name] = array
    return ready


def _check_names(model: str, specs: Mapping[str, TensorSpec], given: Arrays) -> None:
    for name in given:
        if name not in specs:
            raise _refuse(
                f"unexpected inference input '{_shown(name)}' for model '{model}'", _UNKNOWN
            )
    missing = [n for n, spec in specs.items() if n not in given and spec.default is None]
    if missing:
        raise _refuse(
            f"expected {len(specs)} inputs but got {len(given)} inputs for model '{model}'. "
            f"Got input(s) {_listed(given)}, but missing required input(s) {_listed(missing)}. "
            "Please provide all required input(s).",
            _UNKNOWN,
        )


def _check_tensor(model: str, name: str, spec: TensorSpec, array: NDArray[np.generic]) -> None:
    dtype = dtype_of(array)
    if dtype is not spec.dtype:
        raise _refuse(
            f"inference input '{name}' data-type is '{_word(dtype)}', but model '{model}' expects "
            f"'{_word(spec.dtype)}'",
            "bad_dtype",
        )
    wanted = spec.shape
    if wanted is None:
        return
    shape = array.shape
    if len(shape) != len(wanted) or any(
        w not in (-1, s) for w, s in zip(wanted, shape, strict=True)
    ):
        raise _refuse(
            f"unexpected shape for input '{name}' for model '{model}'. Expected "
            f"{_dims(wanted)}, got {_dims(shape)} (-1 is any size).",
            "bad_shape",
        )


def outputs_of(model: str, signature: Signature, wanted: Sequence[str]) -> tuple[str, ...]:
    """The outputs to answer: those asked for, or all.

    Raises:
        InvalidRequest: an unknown or repeated name (`unknown_output`).
    """
    if not wanted:
        return tuple(signature.outputs)
    for name in wanted:
        if name not in signature.outputs:
            raise _refuse(
                f"unexpected inference output '{_shown(name)}' for model '{model}'",
                "unknown_output",
            )
    if len(set(wanted)) < len(wanted):
        raise _refuse(f"an output of model '{model}' is asked for twice", "unknown_output")
    return tuple(wanted)


def _word(dtype: DType) -> str:
    return DATATYPE.get(dtype, dtype.label)


def _dims(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _shown(name: str) -> str:
    """A caller's own text, cut so that an error is never as large as the request."""
    return name if len(name) <= _SHOWN_CHARS else f"{name[:_SHOWN_CHARS]}…"


def _listed(names: Collection[str]) -> str:
    first = ",".join(f"'{_shown(name)}'" for name in islice(names, _SHOWN_NAMES))
    return f"[{first}{',…' if len(names) > _SHOWN_NAMES else ''}]"
