"""Say whether axis 0 of a graph is a batch, from its declared shapes alone.

The rule, on the side of not joining:

- batchable: every input and every output has at least one dimension, and the first one is symbolic;
  where inputs name it, they all use one name, because two names are two lengths.
- fixed batch k: the first dimension of every input and output is the same number k > 1. Exporters
  that trace an example leave such graphs. k = 1 is no batch: rows are run one by one then, which is
  what the kit does with fixed_batch = 1 as well, by splitting.
- otherwise the graph has no batch axis, and requests are never joined.

A symbolic axis may still be something else (time): the kit tries three rows together before it
joins any (`servers.kit.rowcheck`).
"""

from __future__ import annotations

from collections.abc import Sequence

Dim = int | str | None


def batch_axis(shapes: Sequence[Sequence[Dim] | None], inputs: int) -> tuple[bool, int | None]:
    """(batchable, fixed_batch) for the shapes of a graph's inputs and then outputs; the first
    `inputs` of them are inputs."""
    if not shapes or not inputs or any(not shape for shape in shapes):
        return False, None
    firsts = [shape[0] for shape in shapes if shape]
    if all(not isinstance(first, int) for first in firsts):
        names = {first for first in firsts[:inputs] if first}
        return len(names) <= 1, None
    sizes = set(firsts)
    if len(sizes) == 1 and isinstance(firsts[0], int) and firsts[0] >= 1:
        return False, firsts[0]
    return False, None
