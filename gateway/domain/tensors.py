"""What a tensor is, between all protocols: a dtype, a shape and a buffer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class DType(Enum):
    """Element types by TensorFlow's lower-case names; the value is the item size in bytes.

    Python enums with equal values alias, so each value is (name, itemsize). `STRING` elements
    have no fixed size (0).
    """

    BOOL = ("bool", 1)
    INT8 = ("int8", 1)
    INT16 = ("int16", 2)
    INT32 = ("int32", 4)
    INT64 = ("int64", 8)
    UINT8 = ("uint8", 1)
    UINT16 = ("uint16", 2)
    UINT32 = ("uint32", 4)
    UINT64 = ("uint64", 8)
    HALF = ("half", 2)
    BFLOAT16 = ("bfloat16", 2)
    FLOAT = ("float", 4)
    DOUBLE = ("double", 8)
    COMPLEX64 = ("complex64", 8)
    COMPLEX128 = ("complex128", 16)
    STRING = ("string", 0)

    @property
    def label(self) -> str:
        """The name that TensorFlow's error messages use (`float`, `half`, `int64`)."""
        return self.value[0]

    @property
    def itemsize(self) -> int:
        """Bytes per element; 0 for strings."""
        return self.value[1]


Shape = tuple[int, ...]
"""Row-major; axis 0 is the batch where a signature has one. -1 in a TensorSpec is any size."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a signature says of one input or output."""

    name: str
    """The alias that callers use."""

    dtype: DType

    shape: Shape | None
    """-1 where a dimension is dynamic; None where not even the rank is known."""

    graph_name: str = ""
    """The tensor's name inside the graph (`x:0`), shown in metadata; else the alias."""

    default: bytes | None = None
    """A serialized tensor for an input that may be left out (SignatureDef.defaults)."""


PREDICT_METHOD = "tensorflow/serving/predict"
CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"
DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True, slots=True)
class Signature:
    """One way to call a servable; inputs and outputs by alias, in the model's own order."""

    inputs: Mapping[str, TensorSpec] = field(default_factory=dict)
    outputs: Mapping[str, TensorSpec] = field(default_factory=dict)
    method_name: str = PREDICT_METHOD
