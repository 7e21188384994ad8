"""One gateway's time as the leader: what it takes over, and what it makes known. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.core.route import ModelRoute, RoutingTable
from gateway.domain.observed import ModelView
from gateway.ports import Posting

OF_TABLE = ""
"""The posting under this name is of the routing table as a whole; no model has it."""


@dataclass(frozen=True, slots=True)
class Term:
    """What a gateway that begins to lead takes over from the one before."""

    epoch: int
    models: frozenset[str] = frozenset()
    """Those that it knew."""

    @property
    def first_window(self) -> int:
        """Windows of rollouts are counted from here, so that none is one of another term's."""
        return self.epoch << 32


def unposted(
    posted: Mapping[str, Posting],
    table: RoutingTable,
    view: Callable[[str], ModelView | None],
) -> dict[str, Posting]:
    """What the others do not know yet, or not any more so. The first post of all is made even where
    there is no model: a gateway that has heard of none does not know that there is none, and does
    not call itself ready."""
    changes: dict[str, Posting] = {}
    for name in table.models.keys() | posted.keys():
        now = Posting(table.models.get(name), view(name))
        before = posted.get(name, Posting())
        if now.route != before.route or (now.view is not before.view and now.view != before.view):
            changes[name] = now
    changes.pop(OF_TABLE, None)
    whole = Posting(silent=table.silent)
    if whole != posted.get(OF_TABLE):
        changes[OF_TABLE] = whole
    return changes


def applied(table: RoutingTable, postings: Mapping[str, Posting]) -> RoutingTable:
    """A table with what was posted since."""
    models: dict[str, ModelRoute] = dict(table.models)
    silent = table.silent
    for name, posting in postings.items():
        if name == OF_TABLE:
            silent = posting.silent
        elif posting.route is None:
            models.pop(name, None)
        else:
            models[name] = posting.route
    return RoutingTable(table.generation + 1, models, silent)
