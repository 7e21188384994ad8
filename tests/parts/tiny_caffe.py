"""Tiny Caffe networks. Weights are written by hand as protobuf: no package has Caffe's messages."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tests.parts.need import need

SCALE = """
name: "scale"
input: "data" input_shape { dim: 1 dim: 4 }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "out"
        inner_product_param { num_output: 2 } }
"""
"""out = data @ W.T + b, with W of shape [2, 4]."""


def opencv() -> None:
    """Skip where OpenCV cannot read Caffe networks."""
    try:
        import cv2
    except ImportError:
        need(False, "pip install -e '.[caffe]'")
    need(hasattr(cv2.dnn, "readNetFromCaffe"), "pip install 'opencv-python-headless<5'")


def write_version(
    directory: Path, prototxt: str, weights: Mapping[str, Sequence[np.ndarray]]
) -> Path:
    """Write deploy.prototxt and net.caffemodel to `directory`."""
    directory.mkdir(parents=True)
    (directory / "deploy.prototxt").write_text(prototxt)
    (directory / "net.caffemodel").write_bytes(caffemodel(weights))
    return directory


def scale_model(directory: Path, *, bias: float = 0.0) -> Path:
    """`SCALE` with W = [[1, 1, 1, 1], [2, 2, 2, 2]]."""
    weight = np.array([[1] * 4, [2] * 4], np.float32)
    return write_version(directory, SCALE, {"ip": [weight, np.full(2, bias, np.float32)]})


def caffemodel(weights: Mapping[str, Sequence[np.ndarray]]) -> bytes:
    """A NetParameter with one layer (field 100) for each name, its blobs in field 7."""
    layers = []
    for name, blobs in weights.items():
        body = _field(1, name.encode()) + _field(2, b"InnerProduct")
        body += b"".join(_field(7, _blob(blob)) for blob in blobs)
        layers.append(_field(100, body))
    return _field(1, b"tiny") + b"".join(layers)


def _blob(array: np.ndarray) -> bytes:
    shape = _field(1, b"".join(_varint(dim) for dim in array.shape))
    return _field(5, array.astype("<f4").tobytes()) + _field(7, shape)


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += struct.pack("B", value & 127 | 128)
        value >>= 7
    return out + struct.pack("B", value)
