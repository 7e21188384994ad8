"""ModelSpec as JSON and back, and what is kept beside it.

The fields are walked by their declared types, so a field added to ModelSpec is stored without a
change here, and one that an older row lacks gets its default. Only the version policy needs words
of its own: three dataclasses in a union do not say which one they are, so each carries a tag.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from gateway.domain.errors import Internal
from gateway.domain.models import All, Latest, ModelSpec, Specific, VersionPolicy
from gateway.domain.rollouts import Rollout
from gateway.domain.templates import Template

T = TypeVar("T", Rollout, Template)

_HINTS = typing.get_type_hints(ModelSpec)
_FIELDS = tuple(f.name for f in dataclasses.fields(ModelSpec))


def _policy_to_json(policy: VersionPolicy) -> dict[str, Any]:
    match policy:
        case Latest(count):
            return {"kind": "latest", "count": count}
        case All():
            return {"kind": "all"}
        case Specific(versions):
            return {"kind": "specific", "versions": list(versions)}


def _policy_from_json(value: Mapping[str, Any]) -> VersionPolicy:
    match value:
        case {"kind": "latest", "count": int(count)}:
            return Latest(count)
        case {"kind": "all"}:
            return All()
        case {"kind": "specific", "versions": list(versions)}:
            return Specific(tuple(msgspec.convert(versions, list[int])))
    raise ValueError(f"no version policy: {value!r}")


def spec_to_json(spec: ModelSpec) -> dict[str, Any]:
    """JSON-able, with every field."""
    values = {f: msgspec.to_builtins(getattr(spec, f)) for f in _FIELDS if f != "policy"}
    return {**values, "policy": _policy_to_json(spec.policy)}


def spec_from_json(value: Mapping[str, Any]) -> ModelSpec:
    """The spec that `spec_to_json` wrote, defaults filled in for fields it did not have yet.

    Raises:
        Internal: the row cannot be read (`store_corrupt`).
    """
    try:
        known: dict[str, Any] = {
            f: _policy_from_json(value[f])
            if f == "policy"
            else msgspec.convert(value[f], _HINTS[f])
            for f in _FIELDS
            if f in value
        }
        return ModelSpec(**known)
    except (TypeError, ValueError, msgspec.ValidationError) as error:
        raise Internal(
            f"A stored model cannot be read ({error}): the state database was changed by "
            "something else. Restore it from a backup, or delete that row of `models`.",
            reason="store_corrupt",
        ) from error


def rollout_to_json(rollout: Rollout | None) -> dict[str, Any] | None:
    """JSON-able, with every field; None for none."""
    return None if rollout is None else msgspec.to_builtins(rollout)


def rollout_from_json(value: Mapping[str, Any] | None) -> Rollout | None:
    """The rollout that `rollout_to_json` wrote.

    Raises:
        Internal: it cannot be read (`store_corrupt`).
    """
    return _part(value, Rollout, "rollout")


def template_to_json(template: Template) -> dict[str, Any]:
    """JSON-able, with every field."""
    value: dict[str, Any] = msgspec.to_builtins(template)
    return value


def template_from_json(value: Mapping[str, Any] | None) -> Template | None:
    """The template that `template_to_json` wrote.

    Raises:
        Internal: it cannot be read (`store_corrupt`).
    """
    return _part(value, Template, "running")


def _part(value: Mapping[str, Any] | None, kind: type[T], column: str) -> T | None:
    if value is None:
        return None
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise Internal(
            f"A stored {kind.__name__.lower()} cannot be read ({error}): the state database was "
            f"changed by something else. Restore it from a backup, or set `{column}` of that model "
            "to NULL.",
            reason="store_corrupt",
        ) from error
