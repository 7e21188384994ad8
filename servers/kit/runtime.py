"""The seam between the kit and a framework: one `Runtime` for each, five methods in all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gateway.domain.tensors import Signature

Arrays = Mapping[str, NDArray[np.generic]]
"""Tensors by alias. Strings are `object` arrays of `bytes`; bfloat16 is `ml_dtypes.bfloat16`."""


class LoadedModel(Protocol):
    """One version in memory. `run` is called from several threads at once."""

    signatures: Mapping[str, Signature]

    batchable: bool
    """Whether rows of separate requests may be joined along axis 0 of every input."""

    fixed_batch: int | None
    """The only length of axis 0 that the graph takes, or None. The kit pads and splits."""

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Answer `outputs` (aliases, never empty) for `inputs` (all of the signature's, already of
        the right dtype and rank).

        Raises:
            InvalidRequest: the framework refuses these inputs (shape); it may accept others.
            Internal: the framework failed.
        """
        ...

    def close(self) -> None:
        """Give the memory back. Never called while `run` is under way."""
        ...


class Runtime(Protocol):
    """A framework."""

    platform: str
    """`onnxruntime`, `tensorflow`, `caffe`: `platform` in metadata answers."""

    def load(self, directory: Path) -> LoadedModel:
        """Load one version's folder. Called off the serving threads; may take minutes.

        Raises:
            InvalidRequest: the folder holds no model of this framework, or a broken one
                (`bad_model`); the message names the file and what is wrong with it.
        """
        ...
