"""How refusals name a field: as the API does, and with the flag where the CLI has one."""

from __future__ import annotations

from gateway.control.schema import DeployRequest
from gateway.domain.errors import InvalidRequest

_NO_FLAG = ("labels", "timeout_s", "in_flight_limit", "require_manifest", "generation")


def field_name(field: str) -> str:
    """`replicas (--replicas)`: the field, and the flag where the CLI has one."""
    key = field.partition(".")[0].partition("[")[0]
    if key in _NO_FLAG or key not in DeployRequest.__struct_fields__:
        return field
    return f"{field} (--{key.replace('_', '-')})"


def refuse(field: str, words: str, reason: str | None = None) -> InvalidRequest:
    """The error for a field's value; `words` go on after its name."""
    return InvalidRequest(f"{field_name(field)} {words}", reason=reason or f"bad_{field}")
