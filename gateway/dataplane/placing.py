"""Where a head puts its requests in a rollout's split (core/split.py), found once for each head.

Nothing of this is looked at while no rollout of the model runs.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.core.split import OVERRIDE, place
from gateway.wire.fields import Pairs


class Placed(NamedTuple):
    """What the fields of one head say."""

    model: str
    sticky: str
    place: float | None
    """None: nothing; each request draws its place."""


def placed(fields: Pairs, model: str, sticky: str) -> Placed:
    """Look for the sticky field and the override; whoever owns the head keeps it."""
    key = override = None
    for name, value in fields:
        if name == sticky:
            key = value if key is None else key
        elif name == OVERRIDE:
            override = value if override is None else override
    return Placed(model, sticky, place(model, key, override))
