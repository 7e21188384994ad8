"""What keeps replicas from starting, as events: each reason once, and that it is over. Pure.

Asked at every tick, it says what nobody was told yet. Reasons change all the time in what does not
matter ("0/2 nodes are available", "0/3", "0/2"), come and go with pods that are replaced, and are
the same for all replicas of a model. So they are told by model; those that differ in numbers only
count as one; and what was told is told again after `AGAIN_S` at the earliest, if it still holds and
differs from what the log says last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gateway.domain.observed import ModelView
from gateway.domain.replicas import ReplicaState
from gateway.lifecycle.news import News

AGAIN_S = 300.0
"""Between two events about one kind of reason. Kubernetes lets one more event about an object
through every five minutes, too, once there were many (client-go's spam filter)."""

MOST = 8
"""Kinds of reasons told of one model within that time. There it is 25; ours are told once each."""


@dataclass(frozen=True, slots=True)
class Said:
    """One reason that was told."""

    text: str
    at: float
    """Monotonic seconds."""
    holds: bool = True
    """Whether some replica has waited for it ever since."""


@dataclass(frozen=True, slots=True)
class Waits:
    """What was told of one model's replicas."""

    said: Mapping[str, Said] = field(default_factory=dict)
    """By kind of reason: its text without the numbers."""
    is_open: bool = False
    """Whether people were told that something waits, and not yet that nothing does."""


def waits(before: Waits, view: ModelView, now: float) -> tuple[Waits, list[News]]:
    """What is to be told at `now`, and what has been told when that is done. The memory holds no
    more than `MOST` kinds and those that replicas wait for at this moment."""
    held = _held_up(view)
    said = {
        kind: one if kind in held else replace(one, holds=False)
        for kind, one in before.said.items()
        if kind in held or now - one.at < AGAIN_S
    }
    told: list[News] = []
    for kind, reasons in held.items():
        recent = sum(now - one.at < AGAIN_S for one in said.values())
        if recent < MOST and _is_news(said.get(kind), reasons, now):
            said[kind] = Said(next(iter(reasons.values())), now)
            told.append(_waiting(tuple(reasons), said[kind].text))
    is_open = before.is_open or bool(told)
    if is_open and not held:
        is_open = False
        told.append(News("replica.resumed", f"no replica of {view.name} is waiting any more"))
    return Waits(said, is_open), told


def _held_up(view: ModelView) -> dict[str, dict[str, str]]:
    """By kind of reason: by replica that is kept from starting by it, the reason in its words."""
    found: dict[str, dict[str, str]] = {}
    for one in view.replicas:
        if one.replica.is_held_up and one.state is ReplicaState.STARTING:
            kind = re.sub(r"\d+", "#", one.reason)
            found.setdefault(kind, {})[one.replica.id] = one.reason
    return found


def _is_news(said: Said | None, reasons: Mapping[str, str], now: float) -> bool:
    if said is None:
        return True
    is_in_log = said.holds and said.text in reasons.values()
    return not is_in_log and now - said.at >= AGAIN_S


def _waiting(ids: tuple[str, ...], text: str) -> News:
    more = len(ids) - 1
    who = f"replica {ids[0]} and {more} more are" if more else f"replica {ids[0]} is"
    return News("replica.waiting", f"{who} waiting: {text}", {"replica": ids[0], "reason": text})
