"""Do the rows of a joined run answer as they would alone? Tried once, at load.

A symbolic first dimension says only that its length may vary: it may be time, or the graph may have
baked a batch of one into a reshape. Two comparisons, because rounding and dependence look alike:

- *Neighbours.* A quiet row among loud ones, then among copies of itself. Same shapes are the same
  kernels, so a row of its own answers alike nearly to the bit, however much the network amplifies
  rounding. Batch norm in training mode, softmax, sort, mean or attention over the rows all differ.
- *Company.* Each row with the others, and alone. Other sizes are other kernels, so the tolerance
  is wide; it finds what neighbours cannot: positions along axis 0, a sum of equal rows, a baked 1.
  A graph that takes exactly k rows cannot run one; its rows change places instead.

The rows are seeded noise: constants, silence above all, are where networks take the logarithm of
nothing and blow rounding up to 2e-2. Noise is in [0, 1) where images, audio, features and
logarithms live, every other row ten times that, so that what leaks from it shows. Integers may
index a table of unknown size, so they are 0 or 1. A signature costs five small runs, eight at most
where noise is refused, or three of k rows, six at most; a version that differs is served unjoined.
"""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gateway.domain.tensors import Signature
from servers.kit.runtime import Arrays, LoadedModel
from servers.kit.warmup import Sample, zeros

_JOINED = 3
"""Rows that are joined. The middle one has a neighbour before it and one behind."""

_QUIET = 1
"""The row, not the first, whose neighbours change: a causal graph hides nothing from it."""

_LOUD = 10.0
"""Of every other row. More may overflow where a network squares float16."""

_WORDS = (b"the cat", b"1")
"""Strings: words of two lengths, for what reads text. Neither is a serialized Example; where they
are refused, the empty string, which is one, is tried."""

_SAME_KERNELS = 1e-5
"""Relative, where only the neighbours' values differ. A CPU gives the same bits (measured: 0 on
three real networks); this leaves a GPU that adds in another order a hundred roundings of float32.
Not wider: 1% of a neighbour in each row moves an image network's saturated answer by only 4e-5."""

_OTHER_KERNELS = 1e-2
"""Relative, where sizes or places differ. TF32 and float16 kernels differ by 1e-3, and so does a
text network in float32 that amplifies (measured: 2e-3)."""

_NEAR_TIES = 0.01
"""The share of a row's integers (labels, pixels) that may flip in rounding under other kernels."""

_Run = Callable[[Sample], Arrays]


def why_not_rowwise(model: LoadedModel) -> str:
    """Why rows must not be joined, or "" when nothing speaks against it."""

    def run(sample: Sample) -> Arrays:
        return model.run(sample.signature, sample.inputs, sample.outputs)

    for name, signature in model.signatures.items():
        if model.fixed_batch is None:
            reason = _try_free(name, signature, run)
        else:
            reason = _try_fixed(name, signature, model.fixed_batch, run)
        if reason:
            return f"signature {name!r}: {reason}"
    return ""


def _try_free(name: str, signature: Signature, run: _Run) -> str:
    plain = zeros(name, signature, 1)
    if plain is None:
        return ""
    for alias, array in plain.inputs.items():
        if array.shape[:1] != (1,):
            return f'input "{alias}" has no rows to join'
    failure = ""
    for rows in (_varied(plain, _JOINED), _repeated(plain, 0, _JOINED)):
        try:
            alone = [run(_repeated(rows, place, 1)) for place in range(_JOINED)]
        except Exception as error:  # noqa: BLE001  made-up contents may be refused, so zeros follow
            failure = str(error)
            continue
        try:
            together = run(rows)
            among_copies = run(_repeated(rows, _QUIET, _JOINED))
        except Exception as error:  # noqa: BLE001  whatever it is, joining is what it cannot do
            return f"three rows together fail: {error}"
        return _neighbours(together, among_copies, _JOINED) or _company(together, alone)
    # A made-up size that fails alone says nothing of rows.
    return "" if plain.is_guess else f"one row fails: {failure}"


def _try_fixed(name: str, signature: Signature, count: int, run: _Run) -> str:
    plain = zeros(name, signature, count)
    if plain is None:
        return ""
    for rows in (_varied(plain, count), plain):
        turned = {n: np.roll(a, -1, axis=0) for n, a in rows.inputs.items()}
        try:
            together = run(rows)
            among_copies = run(_repeated(rows, min(_QUIET, count - 1), count))
            moved = run(Sample(name, turned, rows.outputs, rows.is_guess))
        except Exception:  # noqa: BLE001  contents may be refused; zeros were the warm-up's
            continue
        return _neighbours(together, among_copies, count) or _places(together, moved, count)
    return ""


def _varied(plain: Sample, count: int) -> Sample:
    """`count` different rows; `plain` gives shapes and dtypes."""
    rng = np.random.default_rng(0)
    inputs = {n: _noise(rng, a, count) for n, a in plain.inputs.items()}
    return Sample(plain.signature, inputs, plain.outputs, plain.is_guess)


def _noise(rng: np.random.Generator, plain: NDArray[np.generic], count: int) -> NDArray[np.generic]:
    shape = (count, *plain.shape[1:])
    if _is_exact(plain.dtype):
        bits = rng.integers(0, 2, shape, dtype=np.uint8)
        if count > _QUIET:
            bits[_QUIET] = 1 - bits[0]  # two draws of one number may be equal; these never are
        if plain.dtype == object:
            return np.array(_WORDS, dtype=object)[bits]
        return bits.astype(plain.dtype)
    noise = rng.random(shape, dtype=np.float32)
    noise[::2] *= _LOUD
    return noise.astype(plain.dtype, copy=False)


def _repeated(rows: Sample, place: int, count: int) -> Sample:
    inputs = {n: np.repeat(a[place : place + 1], count, axis=0) for n, a in rows.inputs.items()}
    return Sample(rows.signature, inputs, rows.outputs, rows.is_guess)


def _neighbours(together: Arrays, among_copies: Arrays, count: int) -> str:
    quiet = min(_QUIET, count - 1)
    here = slice(quiet, quiet + 1)  # an item of a vector of bytes would lose its dtype
    for alias, array in together.items():
        copies = among_copies[alias]
        if wrong := _not_rows(alias, array, count) or _not_rows(alias, copies, count):
            return wrong
        if not _alike(copies[here], array[here], _scale(array), _SAME_KERNELS, 0.0):
            return f'output "{alias}" of a row depends on the rows beside it'
    return ""


def _company(together: Arrays, alone: list[Arrays]) -> str:
    for alias, array in together.items():
        for place, answer in enumerate(alone):
            if wrong := _not_rows(alias, answer[alias], 1):
                return wrong
            if not _alike(
                answer[alias], array[place : place + 1], _scale(array), _OTHER_KERNELS, _NEAR_TIES
            ):
                return f'output "{alias}" of a row differs from that of the row alone'
    return ""


def _places(together: Arrays, moved: Arrays, count: int) -> str:
    for alias, array in together.items():
        if wrong := _not_rows(alias, moved[alias], count):
            return wrong
        scale = _scale(array)
        turned = np.roll(array, -1, axis=0)
        for place in range(count):
            row, other = moved[alias][place : place + 1], turned[place : place + 1]
            if not _alike(row, other, scale, _OTHER_KERNELS, _NEAR_TIES):
                return f'output "{alias}" of a row depends on its place among the rows'
    return ""


def _not_rows(alias: str, array: NDArray[np.generic], count: int) -> str:
    if array.ndim and array.shape[0] == count:
        return ""
    return f'output "{alias}" has shape {list(array.shape)} for {count} rows'


def _is_exact(dtype: np.dtype[np.generic]) -> bool:
    return dtype.kind in "Obiu"


def _scale(array: NDArray[np.generic]) -> float:
    """The largest finite magnitude of an output, over all rows: what rounding is relative to."""
    if _is_exact(array.dtype):
        return 0.0
    size = np.abs(_wide(array))
    return float(np.max(size, initial=0.0, where=np.isfinite(size)))


def _alike(
    a: NDArray[np.generic], b: NDArray[np.generic], scale: float, tolerance: float, ties: float
) -> bool:
    """Whether two rows of one output agree: numbers within `tolerance * scale`, everything else
    equal but for a share of `ties`."""
    if a.shape != b.shape:
        return False
    if _is_exact(a.dtype):
        return bool(np.count_nonzero(a != b) <= ties * a.size)
    # Eight units in the last place, where the dtype is coarser than the tolerance.
    eps = ml_dtypes.finfo(a.dtype).eps  # type: ignore[no-untyped-call]  # numpy knows no bfloat16
    tolerance = max(tolerance, 8 * float(eps))
    return bool(np.allclose(_wide(a), _wide(b), rtol=0.0, atol=tolerance * scale, equal_nan=True))


def _wide(array: NDArray[np.generic]) -> NDArray[np.float64] | NDArray[np.complex128]:
    if array.dtype.kind == "c":
        return array.astype(np.complex128, copy=False)
    return array.astype(np.float64, copy=False)
