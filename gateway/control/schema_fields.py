"""What the control API's shapes (schema.py) say of their fields."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta


def doc(description: str, example: Any = None, **schema: Any) -> Meta:
    """Its description, an example, and more of JSON Schema."""
    return Meta(
        description=description,
        examples=None if example is None else [example],
        extra_json_schema=schema or None,
    )


Name = Annotated[str, doc("A model's name.", "resnet", maxLength=128)]
Moment = Annotated[str, doc("RFC 3339, UTC.", "2026-11-23T09:30:00.000Z")]
