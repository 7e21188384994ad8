"""What an answer says of where its time went: `server-timing: queue;dur=…, compute;dur=…`.

In milliseconds, cut to two digits, three from a millisecond on: then there are few different ones,
and whoever reads answers all day (the gateway does) knows most of their heads already. Cut and not
rounded, so that the parts are never more than the whole.
"""

from __future__ import annotations

from gateway.wire.fields import Fields

Spent = tuple[int, int]
"""Nanoseconds: in the queue, and running, with the joining and the telling apart."""

_MAX_KEPT = 4096
_kept: dict[tuple[int, int], Fields] = {}
"""By microseconds."""


def timing_fields(spent: Spent | None) -> Fields:
    """The header, or trailer, for one answer; without a field where nothing was run."""
    if spent is None:
        return _NOTHING
    key = _cut(spent[0] // 1000), _cut(spent[1] // 1000)
    found = _kept.get(key)
    if found is None:
        if len(_kept) >= _MAX_KEPT:
            _kept.clear()
        text = f"queue;dur={key[0] / 1000:.12g}, compute;dur={key[1] / 1000:.12g}"
        found = _kept[key] = Fields((("server-timing", text),))
    return found


_NOTHING = Fields(())


def _cut(us: int) -> int:
    if us < 100:
        return us
    if us < 10_000:
        return us - us % 10
    step: int = 10 ** (len(str(us)) - 3)
    return us - us % step
