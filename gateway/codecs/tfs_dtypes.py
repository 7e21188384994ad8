"""Our dtypes and TensorFlow's numbers and names for them. Free of numpy."""

from __future__ import annotations

from gateway.codecs.pb import tfs_pb2
from gateway.domain.errors import Unimplemented
from gateway.domain.tensors import DType

PROTO_ENUM: dict[DType, int] = {
    dtype: tfs_pb2.DataType.Value(f"DT_{dtype.label.upper()}") for dtype in DType
}
"""tensorflow.DataType of a dtype."""

_DTYPE: dict[int, DType] = {number: dtype for dtype, number in PROTO_ENUM.items()}


def proto_name(number: int) -> str:
    """`DT_FLOAT`; the bare number where TensorFlow has one that we do not know."""
    known = tfs_pb2.DataType.DESCRIPTOR.values_by_number.get(number)
    return known.name if known is not None else str(number)


def dtype_of_enum(number: int) -> DType:
    """The dtype that tensorflow.DataType `number` means.

    Raises:
        Unimplemented: quantised types, resources, variants and the like (`dtype_unknown`).
    """
    dtype = _DTYPE.get(number)
    if dtype is None:
        raise Unimplemented(
            f"Tensors of type {proto_name(number)} are not supported", reason="dtype_unknown"
        )
    return dtype
