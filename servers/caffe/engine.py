"""The seam between the runtime and what computes a Caffe network: OpenCV, or Caffe itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from servers.caffe.network import Network

Blobs = Mapping[str, NDArray[np.float32]]
Shapes = Mapping[str, tuple[int, ...]]


class EngineError(Exception):
    """The engine refused the files or failed in a run; the words are its own, shortened."""


class Net(Protocol):
    """One network in memory. Not safe for threads: the runtime holds a lock."""

    def output_shapes(self, inputs: Shapes) -> Shapes:
        """Every output's shape for these input shapes. Raises EngineError where they do not fit."""
        ...

    def forward(self, inputs: Blobs) -> Blobs:
        """Every output, in memory of its own. Raises EngineError."""
        ...


class Engine(Protocol):
    """Reads networks."""

    name: str

    def read(self, prototxt: Path, caffemodel: Path, network: Network) -> Net:
        """Raises EngineError when the files are broken or do not belong together."""
        ...


def shape_of(inputs: Blobs) -> dict[str, tuple[int, ...]]:
    """Shapes by name."""
    return {name: tuple(blob.shape) for name, blob in inputs.items()}


def in_order(network: Network, inputs: Shapes) -> Sequence[tuple[int, ...]]:
    """The shapes in the order of the network's inputs."""
    return [inputs[i.name] for i in network.inputs]
