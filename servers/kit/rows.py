"""What may be done with a version's rows: joined, padded, split, or left as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gateway.domain.errors import Internal
from gateway.domain.tensors import Signature, TensorSpec
from servers.kit.runtime import Arrays, LoadedModel


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version that has answered at least once, and what the kit may do with its rows."""

    model: LoadedModel
    signatures: Mapping[str, Signature]
    """As offered to callers: a fixed batch dimension, which the kit pads and splits, is -1."""
    batchable: bool = False
    fixed_batch: int | None = None
    not_joining_because: str = ""
    """Why rows are not joined although the runtime says that they may be."""


def offered(model: LoadedModel, not_rowwise: str = "") -> Loaded:
    """What callers see of a model; with a reason against it, its rows are left as they are."""
    if not_rowwise:
        return Loaded(model, model.signatures, not_joining_because=not_rowwise)
    signatures = model.signatures
    if model.fixed_batch is not None:
        signatures = {name: _any_rows(signature) for name, signature in signatures.items()}
    return Loaded(model, signatures, model.batchable, model.fixed_batch)


def _any_rows(signature: Signature) -> Signature:
    def opened(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
        return {
            n: replace(spec, shape=(-1, *spec.shape[1:])) if spec.shape else spec
            for n, spec in specs.items()
        }

    return replace(signature, inputs=opened(signature.inputs), outputs=opened(signature.outputs))


class NotRowwise(Internal):
    """A joined answer has another number of rows than the joined question."""


def split(answer: Arrays, rows: Sequence[int]) -> list[Arrays]:
    """Cut an answer to joined requests into one answer each, without copying.

    Raises:
        NotRowwise: some output's axis 0 is not the joined rows.
    """
    total = sum(rows)
    for name, array in answer.items():
        if array.ndim == 0 or array.shape[0] != total:
            raise NotRowwise(
                f'output "{name}" has shape {list(array.shape)} for {total} joined rows',
                reason="not_rowwise",
            )
    ends = np.cumsum(rows).tolist()
    return [
        {name: array[end - count : end] for name, array in answer.items()}
        for end, count in zip(ends, rows, strict=True)
    ]


def run_alone(loaded: Loaded, signature: str, inputs: Arrays, outputs: tuple[str, ...]) -> Arrays:
    """One run on this thread, split and padded where the graph takes a fixed number of rows."""
    if loaded.fixed_batch is None:
        return loaded.model.run(signature, inputs, outputs)
    return _run_fixed(loaded.model, loaded.fixed_batch, signature, inputs, outputs)


def _run_fixed(
    model: LoadedModel, size: int, signature: str, inputs: Arrays, outputs: tuple[str, ...]
) -> Arrays:
    """Run a graph that takes exactly `fixed_batch` rows: split what is more, pad what is less.

    Padding repeats the last row, because zeros can be invalid where a real row is not (a logarithm,
    an index). The padded rows of the answer are cut off.
    """
    rows = next(iter(inputs.values())).shape[0]
    pieces: list[Arrays] = []
    for start in range(0, rows, size):
        count = min(size, rows - start)
        chunk = {n: a[start : start + count] for n, a in inputs.items()}
        if count < size:
            chunk = {
                n: np.concatenate([a, np.repeat(a[-1:], size - count, axis=0)])
                for n, a in chunk.items()
            }
        answer = model.run(signature, chunk, outputs)
        for name, array in answer.items():
            if array.ndim == 0 or array.shape[0] != size:
                raise Internal(
                    f'output "{name}" has shape {list(array.shape)} for a batch of {size} rows',
                    reason="not_rowwise",
                )
        pieces.append({n: a[:count] for n, a in answer.items()})
    if len(pieces) == 1:
        return pieces[0]
    return {name: np.concatenate([p[name] for p in pieces]) for name in outputs}
