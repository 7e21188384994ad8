"""Is this request one that the signature takes? In TensorFlow Serving's words where it has some.

(predict_util.cc: VerifyRequestInputsSize, PreProcessPrediction; direct_session.cc for the dtype.)
Everything that can be known before the run is refused here, because an input that fails inside a
joined run costs every request in it a second run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_tensors import dtype_of, to_array
from gateway.domain.errors import InvalidRequest
from gateway.domain.tensors import Signature, TensorSpec
from servers.kit.rows import Loaded
from servers.kit.runtime import Arrays


def _refuse(message: str, reason: str) -> InvalidRequest:
    return InvalidRequest(message, reason=reason)


def _joined(names: Iterable[str]) -> str:
    return ",".join(sorted(names))


def inputs_of(signature: Signature, given: Arrays) -> Arrays:
    """The signature's inputs in its own order, defaults filled in.

    Raises:
        InvalidRequest: too many, too few or other names (`unknown_input`), another dtype
            (`bad_dtype`), another rank or size (`bad_shape`).
    """
    specs = signature.inputs
    if given.keys() != specs.keys():
        _check_names(signature, given)
    ready: dict[str, NDArray[np.generic]] = {}
    for position, (name, spec) in enumerate(specs.items()):
        array = given.get(name)
        if array is None:
            array = default_value(spec)
        else:
            _check_tensor(position, spec, array)
        ready[name] = array
    return ready


def _check_names(signature: Signature, given: Arrays) -> None:
    known = set(signature.inputs)
    required = {n for n, spec in signature.inputs.items() if spec.default is None}
    sent = set(given)
    if required <= sent <= known:
        return
    if len(sent) == len(known):
        alias = sorted(sent - known)[0]
        raise _refuse(
            f"input tensor alias not found in signature: {alias}. "
            f"Inputs expected to be in the set {{{_joined(known)}}}.",
            "unknown_input",
        )
    raise _refuse(
        f"input size does not match signature: {len(sent)}!={len(known)} "
        f"len({{{_joined(sent)}}}) != len({{{_joined(known)}}}). "
        f"Sent extra: {{{_joined(sent - known)}}}. "
        f"Missing but required: {{{_joined(required - sent)}}}.",
        "unknown_input",
    )


def default_value(spec: TensorSpec) -> NDArray[np.generic]:
    """What an input that was left out is (SignatureDef.defaults)."""
    return to_array(tfs_pb2.TensorProto.FromString(spec.default or b""))


def _check_tensor(position: int, spec: TensorSpec, array: NDArray[np.generic]) -> None:
    dtype = dtype_of(array)
    if dtype is not spec.dtype:
        raise _refuse(
            f"Expects arg[{position}] to be {spec.dtype.label} but {dtype.label} is provided "
            f'(input "{spec.name}")',
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
            f'input "{spec.name}" has shape {list(shape)}, '
            f"and the signature takes {list(wanted)} (-1 is any size)",
            "bad_shape",
        )


def rows_of(loaded: Loaded, inputs: Arrays) -> int:
    """How many rows a request brings; 1 for a model that knows no rows.

    Raises:
        InvalidRequest: the inputs disagree on axis 0 (`bad_shape`), or bring no row to a graph
            that takes a fixed number of them.
    """
    if not loaded.batchable and loaded.fixed_batch is None:
        return 1
    sizes = {array.shape[0] if array.ndim else -1 for array in inputs.values()}
    if len(sizes) != 1 or -1 in sizes:
        shown = ", ".join(f'"{n}" {list(a.shape)}' for n, a in inputs.items())
        raise _refuse(f"inputs have inconsistent batch size on axis 0: {shown}", "bad_shape")
    rows = sizes.pop()
    if rows == 0 and loaded.fixed_batch is not None:
        raise _refuse(
            f"no rows: this model takes batches of {loaded.fixed_batch}, and one row at least "
            "must be sent",
            "bad_shape",
        )
    return rows


def outputs_of(signature: Signature, output_filter: Sequence[str]) -> tuple[str, ...]:
    """The outputs to answer: those asked for, or all.

    Raises:
        InvalidRequest: an unknown or repeated name (`unknown_output`).
    """
    if not output_filter:
        return tuple(signature.outputs)
    seen: set[str] = set()
    for alias in output_filter:
        if alias not in signature.outputs:
            raise _refuse(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {{{_joined(signature.outputs)}}}.",
                "unknown_output",
            )
        if alias in seen:
            raise _refuse(f"duplicate output tensor alias: {alias}", "unknown_output")
        seen.add(alias)
    return tuple(output_filter)
