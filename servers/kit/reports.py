"""What a server says of its load on every answer (`gateway.codecs.orca`)."""

from __future__ import annotations

from functools import lru_cache

from gateway.codecs.orca import LOAD, load_text
from gateway.wire.fields import Fields


@lru_cache(maxsize=4096)
def load_fields(in_flight: int, as_json: bool = False) -> Fields:
    """The field for so many requests that are here and not answered; the same object for the same
    number, as what it looks like on the wire is kept with it."""
    return Fields(((LOAD, load_text(in_flight, as_json=as_json)),))
