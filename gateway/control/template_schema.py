"""The control API's shapes of what replicas are started with, see schema.py."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from gateway.control.schema_fields import doc

_CHANGES = doc(
    "In which parts they differ, in words.",
    ["image registry/server:1 → registry/server:2", "command changed"],
)


class ModelTemplate(Struct):
    """What a model's own replicas are started with: resources, batching, image, command, hooks."""

    running: Annotated[str, doc("Digest; each replica shows its own.", "a0f1b2c3d4e5f607")]
    deployed: Annotated[
        str,
        doc("That of `spec`: another one while a rollout brings it, or once it was taken back."),
    ]
    changes: Annotated[list[str], _CHANGES]
    rejected: Annotated[
        bool,
        doc("The deployed one was taken back; `start`, or a deploy of it, tries it again."),
    ]


class TemplateChange(Struct):
    """The template that a rollout brings."""

    template: Annotated[str, doc("Digest of what its replicas are started with.")]
    stable_template: Annotated[str, doc("The same of the stable side.")]
    changes: Annotated[list[str], _CHANGES]
