"""What a snippet asks: the same in every language."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from gateway.client import tfs_wires, v2_wires
from gateway.client.calls import Target
from gateway.codecs.example_values import FLOATS, concrete, count, element, flat, nested
from gateway.codecs.oip_dtypes import BINARY_ONLY, DATATYPE
from gateway.domain.errors import Unimplemented
from gateway.domain.tensors import DEFAULT_SIGNATURE, DType, Shape, Signature, TensorSpec

MAX_LITERAL = 64
"""Elements that are written out; a larger tensor is filled by the program with one value."""

_COMPLEX = (DType.COMPLEX64, DType.COMPLEX128)


@dataclass(frozen=True, slots=True)
class Input:
    """One tensor to send."""

    spec: TensorSpec
    shape: Shape
    is_literal: bool

    @property
    def name(self) -> str:
        """Its alias."""
        return self.spec.name

    @property
    def datatype(self) -> str:
        """V2's name of its type."""
        return DATATYPE[self.spec.dtype]

    @property
    def flat(self) -> list[Any]:
        """All elements."""
        return flat(self.spec)

    @property
    def nested(self) -> Any:
        """All elements in lists, as the shape has them."""
        return nested(self.spec)

    @property
    def fill(self) -> Any:
        """The element of a tensor that is too large to write out."""
        return 0.5 if self.spec.dtype in FLOATS else element(self.spec.dtype)

    @property
    def note(self) -> str:
        """`float[-1, 3]`, as the signature has it; -1 is any size."""
        shape = "[?]" if self.spec.shape is None else str(list(self.spec.shape))
        return f"{self.spec.dtype.label}{shape}"


@dataclass(frozen=True, slots=True)
class Plan:
    """One prediction."""

    target: Target
    signature: str
    protocol: str
    address: str
    inputs: tuple[Input, ...]

    @property
    def is_v2(self) -> bool:
        """V2, as opposed to TensorFlow Serving's."""
        return self.protocol.startswith("v2-")

    @property
    def url(self) -> str:
        """Where it is posted."""
        path = (
            f"{v2_wires.path_of(self.target)}/infer"
            if self.is_v2
            else f"{tfs_wires.path_of(self.target)}:predict"
        )
        return f"http://{self.address}{path}"

    @property
    def named_signature(self) -> str | None:
        """Where it is not the default one."""
        return None if self.signature == DEFAULT_SIGNATURE else self.signature

    @property
    def is_literal(self) -> bool:
        """Whether every tensor is written out."""
        return all(i.is_literal for i in self.inputs)

    def rest_of_body(self) -> dict[str, Any]:
        """What a JSON body has besides `inputs`."""
        if self.named_signature is None:
            return {}
        if self.is_v2:
            return {"parameters": {"signature_name": self.signature}}
        return {"signature_name": self.signature}

    @property
    def title(self) -> str:
        """The comment at the head."""
        takes = ", ".join(f"{i.name}: {i.note}" for i in self.inputs)
        return one_line(f"Ask model {self.target.model} for a prediction. It takes {takes}.")


def plan(
    target: Target,
    signature: str,
    spec: Signature,
    protocol: str,
    address: str,
    *,
    in_json: bool,
) -> Plan:
    """What to ask.

    Raises:
        Unimplemented: a tensor's type cannot be said in that protocol (`no_such_type`).
    """
    for side, tensors in (("input", spec.inputs), ("output", spec.outputs)):
        for one in tensors.values():
            _check(side, one, protocol, in_json)
    inputs = tuple(
        Input(s, concrete(s.shape), count(s) <= MAX_LITERAL) for s in spec.inputs.values()
    )
    return Plan(target, signature, protocol, address, inputs)


def _check(side: str, spec: TensorSpec, protocol: str, in_json: bool) -> None:
    has_no_json = spec.dtype in BINARY_ONLY or spec.dtype in _COMPLEX
    if protocol.startswith("v2-") and spec.dtype in _COMPLEX:
        words = "V2 has no such type. Use --language python with --protocol tfs-grpc."
    elif has_no_json and protocol == "tfs-rest":
        words = "JSON has no form for it. Use --language python with --protocol tfs-grpc."
    elif has_no_json and in_json:
        words = "JSON has no form for it. Use --language python with --protocol v2-rest or *-grpc."
    else:
        return
    raise Unimplemented(
        f"{side.capitalize()} {spec.name} is {spec.dtype.label}: {words}", reason="no_such_type"
    )


def quoted(text: str) -> str:
    """A string literal that Python, Go, JavaScript and JSON all read as `text`."""
    # Not ASCII only: escapes of what lies beyond 16 bits are not the same everywhere.
    made = json.dumps(text, ensure_ascii=False)
    return made.replace("\x7f", "\\u007f").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def one_line(text: str) -> str:
    """For comments: a name may hold anything."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
