"""What a request says of a field: a value, null for the default, or nothing. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from msgspec import UNSET, Struct, UnsetType

T = TypeVar("T")


def given(value: T | UnsetType, otherwise: T) -> T:
    """The value, or what it was before where the request leaves it out."""
    return otherwise if isinstance(value, UnsetType) else value


def given_or_default(value: T | UnsetType | None, otherwise: T, default: T) -> T:
    """The same of a field that null returns to its default."""
    if isinstance(value, UnsetType):
        return otherwise
    return default if value is None else value


def first_given(request: Struct, fields: Sequence[str]) -> str | None:
    """The first of the fields that has a value."""
    return next((f for f in fields if getattr(request, f) not in (UNSET, None)), None)
