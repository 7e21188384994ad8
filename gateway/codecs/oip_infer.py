"""An inference call between the Open Inference Protocol's two forms, JSON and protos.

Tensors are numpy arrays by name; BYTES are object arrays of `bytes`, BF16 is `ml_dtypes.bfloat16`.
This module itself needs no numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.domain.errors import InvalidRequest, Unimplemented

if TYPE_CHECKING:
    from numpy.typing import NDArray

Parameter = bool | int | float | str
Parameters = Mapping[str, Parameter]

_CLIENT_MAY_SET = ("triton_enable_empty_final_response",)


@dataclass(frozen=True, slots=True)
class OipOutput:
    """One output that a request names."""

    name: str
    binary: bool = False
    """JSON over HTTP only: whether it comes behind the JSON as bytes."""
    classification: int = 0
    """Answer with the best so many classes instead of the tensor; 0 answers the tensor."""
    parameters: Parameters = field(default_factory=dict)
    """Those that are none of the above."""


@dataclass(frozen=True, slots=True)
class OipInfer:
    """A decoded request."""

    id: str
    inputs: dict[str, NDArray[Any]]
    """By name, in the request's order; shapes and dtypes as sent, not held to a signature."""
    outputs: tuple[OipOutput, ...] = ()
    """Empty asks for all."""
    parameters: Parameters = field(default_factory=dict)
    binary_output: bool = False
    """JSON over HTTP only: how outputs come that `outputs` does not name."""
    model: str = ""
    """In gRPC's request; HTTP has it in the path."""
    version: str = ""


@dataclass(frozen=True, slots=True)
class OipAnswer:
    """A decoded answer."""

    model: str
    version: str
    id: str
    outputs: dict[str, NDArray[Any]]
    parameters: Parameters = field(default_factory=dict)


def refuse_reserved(parameters: Mapping[str, Any]) -> None:
    """Refuse parameters of requests that only a server may set.

    Raises:
        InvalidRequest: a name that begins with `triton_` (`bad_parameter`); Triton's words.
    """
    for name in parameters:
        if name.startswith("triton_") and name not in _CLIENT_MAY_SET:
            raise InvalidRequest(
                "parameter keys starting with 'triton_' are reserved for Triton usage and should "
                "not be specified.",
                reason="bad_parameter",
            )


def refuse_shared_memory(parameters: Mapping[str, Any], tensor: str) -> None:
    """Refuse a tensor that lies in memory which the caller shares with a server on its own host.

    Raises:
        Unimplemented: always where it is asked for (`shared_memory`).
    """
    if "shared_memory_region" in parameters:
        raise Unimplemented(
            f"tensor '{tensor}' is in a shared memory region, which is not supported: the server "
            "may be on another host. Send the tensor's data in the request",
            reason="shared_memory",
        )
