"""Our dtypes and the Open Inference Protocol's names for them. Free of numpy."""

from __future__ import annotations

from gateway.codecs.pb import oip_pb2
from gateway.domain.errors import InvalidRequest, Unimplemented
from gateway.domain.tensors import DType

DATATYPE: dict[DType, str] = {
    DType.BOOL: "BOOL",
    DType.INT8: "INT8",
    DType.INT16: "INT16",
    DType.INT32: "INT32",
    DType.INT64: "INT64",
    DType.UINT8: "UINT8",
    DType.UINT16: "UINT16",
    DType.UINT32: "UINT32",
    DType.UINT64: "UINT64",
    DType.HALF: "FP16",
    DType.BFLOAT16: "BF16",
    DType.FLOAT: "FP32",
    DType.DOUBLE: "FP64",
    DType.STRING: "BYTES",
}
"""The protocol's name of a dtype. Complex numbers have none."""

_DTYPE: dict[str, DType] = {name: dtype for dtype, name in DATATYPE.items()}

BINARY_ONLY = frozenset({DType.HALF, DType.BFLOAT16})
"""What has neither a JSON form nor a `contents` list."""


def dtype_of(datatype: str, tensor: str = "") -> DType:
    """The dtype that `datatype` names; `tensor` is whose it is, for the message.

    Raises:
        InvalidRequest: the protocol has no such datatype (`bad_dtype`); Triton's words.
    """
    dtype = _DTYPE.get(datatype)
    if dtype is None:
        raise InvalidRequest(
            f"invalid datatype for input {tensor}: {datatype[:64]!r} is none of "
            f"{', '.join(_DTYPE)}",
            reason="bad_dtype",
        )
    return dtype


def datatype_of(dtype: DType, tensor: str = "") -> str:
    """The protocol's name of `dtype`.

    Raises:
        Unimplemented: complex numbers (`dtype_without_v2`).
    """
    name = DATATYPE.get(dtype)
    if name is None:
        raise Unimplemented(
            f"tensor '{tensor}' is {dtype.label}, for which the Open Inference Protocol has no "
            "datatype; use the TensorFlow Serving protocol for this model",
            reason="dtype_without_v2",
        )
    return name


def shown_datatype(dtype: DType) -> str:
    """`dtype` as metadata shows it; `INVALID`, as Triton says, where the protocol has no name."""
    return DATATYPE.get(dtype, "INVALID")


def config_type(dtype: DType) -> int:
    """`dtype` as a model configuration has it (`TYPE_FP32`, as its number)."""
    name = DATATYPE.get(dtype, "INVALID")
    return oip_pb2.DataType.Value(f"TYPE_{'STRING' if name == 'BYTES' else name}")
