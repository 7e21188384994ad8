"""Caffe networks through Caffe itself, where `import caffe` works.

Caffe answers a broken file or a shape that does not fit with LOG(FATAL): it ends the process. So
each version is read and run once in a process of its own before it is let in here; a bad one then
costs that process and is reported, and the versions that answer go on answering.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from servers.caffe.caffemodel import Truncated, layers_with_weights
from servers.caffe.engine import Blobs, EngineError, Shapes
from servers.caffe.network import Network, read_network

TRIAL_TIMEOUT_S = 300.0
"""Reading VGG-16 (528 MB) and running it once takes about 10 s; a trial that hangs must end."""


class PyCaffeEngine:
    """Reads networks with `caffe.Net`."""

    name = "caffe"

    def __init__(self) -> None:
        os.environ.setdefault("GLOG_minloglevel", "2")
        try:
            import caffe
        except ImportError as error:
            raise EngineError(
                f"import caffe does not work ({error}); put pycaffe on PYTHONPATH, "
                "or use --engine opencv"
            ) from error
        self._caffe: Any = caffe

    def read(self, prototxt: Path, caffemodel: Path, network: Network) -> PyCaffeNet:
        """Read the files as they are, once they have passed a trial in another process."""
        try:
            layers_with_weights(caffemodel.read_bytes())
        except Truncated as error:
            raise EngineError(f"the file is cut off or no caffemodel: {error}") from error
        can_reshape = _trial(prototxt, caffemodel)
        return self.read_untried(prototxt, caffemodel, network, can_reshape=can_reshape)

    def read_untried(
        self, prototxt: Path, caffemodel: Path, network: Network, *, can_reshape: bool
    ) -> PyCaffeNet:
        """Read the files here. Ends this process if Caffe does not like them."""
        net = self._caffe.Net(str(prototxt), str(caffemodel), self._caffe.TEST)
        if set(net.outputs) != {o.name for o in network.outputs}:
            raise EngineError(
                f"Caffe finds the outputs {', '.join(net.outputs)}, "
                f"the description says {', '.join(o.name for o in network.outputs)}"
            )
        without = sorted(set(net.params) - layers_with_weights(caffemodel.read_bytes()))
        if without:
            raise EngineError(f"the file has no weights for {', '.join(without[:5])}")
        return PyCaffeNet(net, can_reshape)


class PyCaffeNet:
    """One caffe.Net."""

    def __init__(self, net: Any, can_reshape: bool) -> None:
        self._net = net
        self._can_reshape = can_reshape

    def output_shapes(self, inputs: Shapes) -> Shapes:
        self._reshape(inputs)
        return {name: tuple(self._net.blobs[name].data.shape) for name in self._net.outputs}

    def forward(self, inputs: Blobs) -> Blobs:
        self._reshape({name: blob.shape for name, blob in inputs.items()})
        for name, blob in inputs.items():
            self._net.blobs[name].data[...] = blob
        self._net.forward()
        # `data` is a view into the net, which the next run overwrites.
        return {name: np.array(self._net.blobs[name].data) for name in self._net.outputs}

    def _reshape(self, shapes: Shapes) -> None:
        if all(tuple(self._net.blobs[n].data.shape) == tuple(s) for n, s in shapes.items()):
            return
        if not self._can_reshape:
            raise EngineError("this network takes no other batch size than its own")
        for name, shape in shapes.items():
            self._net.blobs[name].reshape(*shape)
        self._net.reshape()


_RUNS, _RESHAPES = "runs", "reshapes"
"""What the trial says on its output, line by line, as far as it gets."""


def _trial(prototxt: Path, caffemodel: Path) -> bool:
    """Whether the net takes other batch sizes. Raises EngineError when it does not even run."""
    command = [sys.executable, "-m", "servers.caffe.pycaffe", str(prototxt), str(caffemodel)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TRIAL_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"Caffe did not read it within {TRIAL_TIMEOUT_S:.0f} s") from error
    said = done.stdout.split()
    if _RUNS not in said:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        fatal = next((line for line in lines if line.startswith("F")), lines[-1] if lines else "")
        raise EngineError(fatal.partition("] ")[2] or fatal or f"it ended with {done.returncode}")
    return _RESHAPES in said


def main() -> None:
    """The trial: run zeros in the description's own shapes, then with two other batch sizes."""
    parser = argparse.ArgumentParser(prog="servers.caffe.pycaffe")
    parser.add_argument("prototxt", type=Path)
    parser.add_argument("caffemodel", type=Path)
    args = parser.parse_args()
    network = read_network(args.prototxt.read_bytes())
    engine = PyCaffeEngine()
    net = engine.read_untried(args.prototxt, args.caffemodel, network, can_reshape=True)
    net.forward({i.name: np.zeros(i.shape, np.float32) for i in network.inputs})
    _say(_RUNS)
    for more in (1, 2):
        shapes = {i.name: (i.shape[0] + more, *i.shape[1:]) for i in network.inputs}
        net.forward({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    _say(_RESHAPES)


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
