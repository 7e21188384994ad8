"""ONNX models on onnxruntime: CUDA where the GPU build and a GPU are there, else the CPU.

A version's folder holds `model.onnx`, or one other `*.onnx`, and beside it whatever external data
it names. Its one signature, `serving_default`, is the graph's inputs and outputs; initializers are
no inputs, though an older graph lists them so.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Before the import: from 1.30 on the library sends telemetry and writes into the home folder.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import ml_dtypes
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from gateway.domain.errors import Internal, InvalidRequest
from gateway.domain.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec
from servers.kit import logs
from servers.kit.runtime import Arrays
from servers.onnx.batch_axis import batch_axis

_DTYPES: dict[str, DType] = {
    "tensor(bool)": DType.BOOL,
    "tensor(int8)": DType.INT8,
    "tensor(int16)": DType.INT16,
    "tensor(int32)": DType.INT32,
    "tensor(int64)": DType.INT64,
    "tensor(uint8)": DType.UINT8,
    "tensor(uint16)": DType.UINT16,
    "tensor(uint32)": DType.UINT32,
    "tensor(uint64)": DType.UINT64,
    "tensor(float16)": DType.HALF,
    "tensor(bfloat16)": DType.BFLOAT16,
    "tensor(float)": DType.FLOAT,
    "tensor(double)": DType.DOUBLE,
    "tensor(complex64)": DType.COMPLEX64,
    "tensor(complex128)": DType.COMPLEX128,
    "tensor(string)": DType.STRING,
}
_CUDA = "CUDAExecutionProvider"
_BFLOAT16_ENUM = 16  # onnx.TensorProto.BFLOAT16

# The library's exceptions share no base but Exception, so they are named one by one.
_state = ort.capi.onnxruntime_pybind11_state
_REFUSALS = (_state.InvalidArgument, _state.NoSuchFile, _state.InvalidGraph, _state.InvalidProtobuf)
_FAILURES = (
    _state.Fail,
    _state.RuntimeException,
    _state.NotImplemented,
    _state.EPFail,
    _state.EngineError,
    _state.NoModel,
    _state.ModelLoaded,
    RuntimeError,
)
_ALL = _REFUSALS + _FAILURES


class OnnxRuntime:
    """The framework."""

    platform = "onnxruntime"

    def __init__(self, *, intra_op_threads: int = 1, device: str = "auto") -> None:
        """`device` is `auto`, `cpu` or `cuda`; InvalidRequest for `cuda` where there is none."""
        self._intra_op_threads = intra_op_threads
        self._device = device
        self._providers = providers(device)

    def load(self, directory: Path) -> OnnxModel:
        """See servers.kit.runtime.Runtime."""
        path = model_file(directory)
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._intra_op_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that spin while idle take the cores from the other versions that are served here.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = ort.InferenceSession(str(path), options, providers=self._providers)
        except _ALL as error:
            raise InvalidRequest(
                f"{path.name} cannot be loaded: {_words(error)}", reason="bad_model"
            ) from error
        if self._device == "cuda" and _CUDA not in session.get_providers():
            raise Internal(
                "onnxruntime could not start its CUDA provider and would have run on the CPU; "
                "check the driver and the CUDA libraries, or use --device auto",
                reason="no_cuda",
            )
        logs.event("onnx.opened", file=path, providers=",".join(session.get_providers()))
        return OnnxModel(session, path.name)


def providers(device: str) -> list[str]:
    """Execution providers to ask for, in order of preference."""
    available = ort.get_available_providers()
    if device == "cuda" and _CUDA not in available:
        raise InvalidRequest(
            "This onnxruntime has no CUDA provider; install 'model-gateway[onnx-gpu]' in place of "
            "[onnx], or use --device auto",
            reason="no_cuda",
        )
    wanted = [_CUDA] if device != "cpu" and _CUDA in available else []
    return [*wanted, "CPUExecutionProvider"]


def model_file(directory: Path) -> Path:
    """`model.onnx`, or the only `*.onnx` in the folder.

    Raises:
        InvalidRequest: there is none, or it is not clear which.
    """
    named = directory / "model.onnx"
    if named.is_file():
        return named
    found = sorted(p for p in directory.glob("*.onnx") if p.is_file())
    if len(found) == 1:
        return found[0]
    has = ", ".join(p.name for p in found) or "none"
    raise InvalidRequest(
        f"The version's folder must hold model.onnx, or one other *.onnx; it has {has}",
        reason="bad_model",
    )


class OnnxModel:
    """One session. `run` may be called from several threads at once, as the library allows."""

    def __init__(self, session: ort.InferenceSession, file: str) -> None:
        self._session: ort.InferenceSession | None = session
        signature = Signature(
            {arg.name: _spec(arg, file) for arg in session.get_inputs()},
            {arg.name: _spec(arg, file) for arg in session.get_outputs()},
        )
        self.signatures: Mapping[str, Signature] = {DEFAULT_SIGNATURE: signature}
        shapes = [arg.shape for arg in (*session.get_inputs(), *session.get_outputs())]
        self.batchable, self.fixed_batch = batch_axis(shapes, len(session.get_inputs()))
        every = [*signature.inputs.values(), *signature.outputs.values()]
        # numpy has no bfloat16 that the library knows; its OrtValue takes and gives the raw bits.
        self._by_value = any(spec.dtype is DType.BFLOAT16 for spec in every)

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """See servers.kit.runtime.LoadedModel."""
        session = self._session
        if session is None:
            raise Internal("this version has been unloaded", reason="closed")
        try:
            if self._by_value:
                return self._run_values(session, inputs, outputs)
            feed = {name: _to_ort(array) for name, array in inputs.items()}
            answers = session.run(list(outputs), feed)
        except _REFUSALS as error:
            raise InvalidRequest(_words(error), reason="bad_input") from error
        except _FAILURES as error:
            raise Internal(f"onnxruntime: {_words(error)}", reason="run_failed") from error
        return {n: _from_ort(a) for n, a in zip(outputs, answers, strict=True)}

    def _run_values(
        self, session: ort.InferenceSession, inputs: Arrays, outputs: Sequence[str]
    ) -> Arrays:
        feed = {name: _value(array) for name, array in inputs.items()}
        answers = session.run_with_ort_values(list(outputs), feed)
        return {n: _array(v) for n, v in zip(outputs, answers, strict=True)}

    def close(self) -> None:
        """See servers.kit.runtime.LoadedModel."""
        self._session = None


def _spec(arg: Any, file: str) -> TensorSpec:
    dtype = _DTYPES.get(arg.type)
    if dtype is None and arg.type.startswith("tensor("):
        raise InvalidRequest(
            f'{file}: "{arg.name}" is a {arg.type}, which no protocol here can carry; cast it to '
            "float16 or a wider type inside the graph",
            reason="bad_model",
        )
    if dtype is None:
        raise InvalidRequest(
            f'{file}: "{arg.name}" is a {arg.type}, and only tensors can be served. Classifiers '
            "exported by sklearn-onnx give tensors with options={'zipmap': False}.",
            reason="bad_model",
        )
    # A graph may give no shape at all (None, or [] for some exporters of unknown rank: a scalar
    # says [] too, and the two cannot be told apart here, so [] is taken as a scalar).
    shape = None if arg.shape is None else tuple(_size(dim) for dim in arg.shape)
    return TensorSpec(arg.name, dtype, shape, arg.name)


def _size(dim: int | str | None) -> int:
    return dim if isinstance(dim, int) and dim >= 0 else -1


def _to_ort(array: NDArray[np.generic]) -> NDArray[np.generic]:
    if array.dtype != object:
        return np.ascontiguousarray(array) if array.ndim else array
    # The library reads object arrays of str; bytes it would take by their repr.
    flat = [_text(item) for item in array.ravel().tolist()]
    made = np.empty(len(flat), dtype=object)
    made[:] = flat
    return made.reshape(array.shape)


def _text(item: object) -> str:
    if isinstance(item, bytes):
        try:
            return item.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(
                f"ONNX strings are UTF-8, and {item[:64]!r} is not: {error.reason}",
                reason="bad_string",
            ) from error
    return str(item)


def _from_ort(answer: Any) -> NDArray[np.generic]:
    array = np.asarray(answer)
    if array.dtype != object:
        return array
    flat = [item.encode() if isinstance(item, str) else item for item in array.ravel().tolist()]
    made = np.empty(len(flat), dtype=object)
    made[:] = flat
    return made.reshape(array.shape)


def _value(array: NDArray[np.generic]) -> Any:
    if array.dtype == ml_dtypes.bfloat16:
        bits = np.ascontiguousarray(array).view(np.uint16)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _BFLOAT16_ENUM)
    return ort.OrtValue.ortvalue_from_numpy(_to_ort(array))


def _array(value: Any) -> NDArray[np.generic]:
    if value.data_type() == "tensor(bfloat16)":
        return _bfloat16(value)
    return _from_ort(value.numpy())


def _bfloat16(value: Any) -> NDArray[np.generic]:
    """Copy the bits out: `numpy()` refuses a dtype that numpy itself does not have."""
    shape = tuple(value.shape())
    count = math.prod(shape)
    if not count:
        return np.empty(shape, dtype=ml_dtypes.bfloat16)
    if value.device_name() != "cpu":
        raise Internal(f"a bfloat16 answer stayed on {value.device_name()}", reason="run_failed")
    bits = (ctypes.c_uint16 * count).from_address(value.data_ptr())
    array: NDArray[np.generic] = np.array(bits, dtype=np.uint16).view(ml_dtypes.bfloat16)
    return array.reshape(shape)


def _words(error: Exception) -> str:
    """The library's message without its `[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : ` head."""
    text = str(error)
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    return text.strip() or type(error).__name__


__all__ = ["OnnxModel", "OnnxRuntime", "model_file"]
