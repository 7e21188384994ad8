"""Decide which replicas of a set go when it has too many, where something else ends them.

On Kubernetes a Deployment is told a number and picks the pods itself, and a pod that it picks is
being ended already. Here a replica first drains: it is marked, counted on top of the wanted number
for as long as anybody is sent to it, and only then the number shrinks. Which one the Deployment
then takes is steered by its marks, and not sure; so everything is derived anew from what is there,
and one that was marked and is needed after all is taken back.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    """One replica that is not being ended yet."""

    name: str
    revision: str
    """Of the template, as the Deployment counts them."""
    listens: bool
    is_marked: bool = False
    is_first: bool = False
    """Marked to go before others that are marked."""
    order: str = ""
    """Sorts by age; greater is younger."""


@dataclass(frozen=True, slots=True)
class Shrink:
    """What to ask of the Deployment, and whom to mark before that."""

    replicas: int
    mark: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    """To be marked as going before the others."""
    unmark: tuple[str, ...] = ()


def shrink(wanted: int, members: Sequence[Member], released: Collection[str]) -> Shrink:
    """How many to ask for, so that marked ones last until they are `released`.

    While two revisions stand beside each other the Deployment moves from one to the other by
    itself, one new before one old, and nobody is marked.
    """
    marked = [m for m in members if m.is_marked]
    if len({m.revision for m in members}) > 1:
        return Shrink(wanted, unmark=tuple(m.name for m in marked))
    surplus = max(0, len(members) - wanted)
    # Those that answer nobody go first, which costs nothing, and a Deployment takes them first
    # whatever their marks; then who is marked already; then the youngest, whose caches are coldest.
    order = sorted(members, key=lambda m: m.order, reverse=True)
    order.sort(key=lambda m: (m.listens, m.name not in released, not m.is_marked))
    go = order[:surplus]
    kept = [m for m in go if m.name not in released]
    first = [m for m in go if m.name in released and not m.is_first] if kept else []
    return Shrink(
        wanted + len(kept),
        mark=tuple(m.name for m in go if not m.is_marked and m not in first),
        first=tuple(m.name for m in first),
        unmark=tuple(m.name for m in marked if m not in go),
    )
