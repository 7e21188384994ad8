"""Caffe networks through OpenCV's dnn module (OpenCV 4; 5 has removed its Caffe reader).

All outputs are asked for in every run: OpenCV plans its buffers for the set of outputs it is asked
for, and would plan anew whenever a caller names other ones.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from servers.caffe.engine import Blobs, EngineError, Shapes, in_order
from servers.caffe.network import Network

_WORDS = 500
"""Characters of an OpenCV message that are passed on; the rest is stack and layer listings."""


class OpenCvEngine:
    """Reads networks with `cv2.dnn.readNetFromCaffe`."""

    name = "opencv"

    def __init__(self, threads: int | None = None) -> None:
        if not hasattr(cv2.dnn, "readNetFromCaffe"):
            raise EngineError(
                f"OpenCV {cv2.__version__} cannot read Caffe networks; "
                "install one that can: pip install 'opencv-python-headless<5'"
            )
        if threads is not None:
            cv2.setNumThreads(threads)
        # What goes wrong comes back as an exception; OpenCV would also print it to stderr.
        _silence()

    def read(self, prototxt: Path, caffemodel: Path, network: Network) -> OpenCvNet:
        """Read weights from `caffemodel`; the description is `network.deploy_text`."""
        text = np.frombuffer(network.deploy_text.encode("utf-8", "surrogateescape"), np.uint8)
        weights = np.fromfile(caffemodel, np.uint8)
        if not weights.size:
            raise EngineError(f"{caffemodel.name} is empty")
        try:
            net = cv2.dnn.readNetFromCaffe(text, weights)
        except cv2.error as error:
            raise EngineError(_words(error)) from error
        return OpenCvNet(net, network)


class OpenCvNet:
    """One cv2.dnn.Net. It changes its batch size (and buffers) with each input's."""

    def __init__(self, net: cv2.dnn.Net, network: Network) -> None:
        self._net = net
        self._network = network
        self._layers = list(dict.fromkeys(o.layer for o in network.outputs))

    def output_shapes(self, inputs: Shapes) -> Shapes:
        try:
            ids, _, found = self._net.getLayersShapes(
                [list(shape) for shape in in_order(self._network, inputs)]
            )
            by_layer = dict(zip((int(i) for i in ids), found, strict=True))
            shapes = {}
            for output in self._network.outputs:
                blobs = by_layer[self._net.getLayerId(output.layer)]
                shapes[output.name] = tuple(int(dim) for dim in blobs[output.index])
        except cv2.error as error:
            raise EngineError(_words(error)) from error
        except (KeyError, IndexError) as error:
            raise EngineError(f"OpenCV did not make the output {error}") from error
        return shapes

    def forward(self, inputs: Blobs) -> Blobs:
        try:
            for name, blob in inputs.items():
                self._net.setInput(np.ascontiguousarray(blob), name)
            found = self._net.forwardAndRetrieve(self._layers)
        except cv2.error as error:
            raise EngineError(_words(error)) from error
        by_layer = dict(zip(self._layers, found, strict=True))
        # The binding copies results out of the net's buffers (tests/unit/caffe holds it to that).
        outputs = self._network.outputs
        return {o.name: np.asarray(by_layer[o.layer][o.index], np.float32) for o in outputs}


def _silence() -> None:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def _words(error: cv2.error) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _WORDS else text[:_WORDS] + " …"
