"""Caffe models as the kit's `Runtime`: a prototxt and a caffemodel in one folder.

The description's first dimension is a batch size somebody trained or tested with, not a demand:
Caffe reshapes nets by their inputs. Whether this net follows is asked of the engine once, at load:
if every output's first dimension follows the inputs', the signature says -1 and rows of several
requests may be joined; if not (a Reshape or Flatten with the size written in), the batch is fixed.

One lock for each net: neither cv2.dnn.Net nor caffe.Net may be used from two threads, since a run
lives in the net's own buffers. A net for each thread would hold the weights once more for each of
them and gain little, because one run already spreads over all the cores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gateway.domain.errors import Internal, InvalidRequest
from gateway.domain.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec
from servers.caffe.engine import Engine, EngineError, Net, Shapes
from servers.caffe.network import Network, read_network
from servers.caffe.prototxt import MAX_BYTES, ParseError
from servers.kit.runtime import Arrays

MAX_ELEMENTS = 2**31 - 1
"""Both engines count a blob's elements in a C int."""


def engine_named(name: str, threads: int | None = None) -> Engine:
    """The engine for `--engine NAME`; `auto` is Caffe itself where it can be imported.

    Raises:
        EngineError: it is not installed; the message says how to install it.
        ValueError: there is none of that name.
    """
    from servers.caffe.pycaffe import PyCaffeEngine

    if name == "caffe":
        return PyCaffeEngine()
    if name == "auto":
        try:
            return PyCaffeEngine()
        except EngineError:
            name = "opencv"
    if name != "opencv":
        raise ValueError(f"there is no engine {name!r}: use auto, opencv or caffe")
    try:
        from servers.caffe.opencv import OpenCvEngine
    except ImportError as error:
        raise EngineError(
            f"OpenCV cannot be imported ({error}); pip install 'opencv-python-headless>=4.10,<5'"
        ) from error
    return OpenCvEngine(threads)


class CaffeRuntime:
    """Loads Caffe models with one engine."""

    platform = "caffe"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def load(self, directory: Path) -> CaffeModel:
        """Load the one network in `directory` (see `servers.kit.runtime.Runtime.load`)."""
        prototxt, caffemodel = _files(directory)
        if prototxt.stat().st_size > MAX_BYTES:
            raise _bad(prototxt, f"it is larger than {MAX_BYTES} bytes")
        try:
            network = read_network(prototxt.read_bytes())
        except ParseError as error:
            raise _bad(prototxt, str(error)) from error

        def read() -> Net:
            return self._engine.read(prototxt, caffemodel, network)

        try:
            return CaffeModel(read(), network, read)
        except EngineError as error:
            raise _bad(caffemodel, f"with {prototxt.name}: {error}") from error


class CaffeModel:
    """One network; see `servers.kit.runtime.LoadedModel`."""

    def __init__(self, net: Net, network: Network, read: Callable[[], Net]) -> None:
        self._lock = threading.Lock()
        self._net: Net | None = net
        self._network = network
        self._read = read
        """Makes the net anew after a failed run, whose half-planned buffers nobody trusts."""
        declared = {i.name: i.shape for i in network.inputs}
        self._shapes = net.output_shapes(declared)
        self.batchable = _follows_batch(net, declared, self._shapes)
        self.fixed_batch = None if self.batchable else _fixed_batch(declared, self._shapes)
        net.output_shapes(declared)
        self.signatures: Mapping[str, Signature] = {
            DEFAULT_SIGNATURE: Signature(
                inputs={n: self._spec(n, shape) for n, shape in declared.items()},
                outputs={n: self._spec(n, shape) for n, shape in self._shapes.items()},
            )
        }

    def _spec(self, name: str, shape: tuple[int, ...]) -> TensorSpec:
        if self.batchable:
            shape = (-1, *shape[1:])
        return TensorSpec(name, DType.FLOAT, shape, graph_name=name)

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Answer `outputs`; runs of several threads queue at the net's lock."""
        specs = self.signatures[signature].inputs
        blobs: dict[str, NDArray[np.float32]] = {}
        for name, spec in specs.items():
            blob = np.asarray(inputs[name], dtype=np.float32)
            _check_shape(spec, blob.shape)
            blobs[name] = blob
        if self.batchable:
            rows = {blob.shape[0] for blob in blobs.values()}
            if len(rows) != 1:
                raise InvalidRequest(
                    f"the inputs bring different numbers of rows: {sorted(rows)}",
                    reason="bad_shape",
                )
            if rows == {0}:  # neither engine plans a net for nothing
                return {o: np.zeros((0, *self._shapes[o][1:]), np.float32) for o in outputs}
        with self._lock:
            found = self._forward(blobs)
        return {output: found[output] for output in outputs}

    def _forward(self, blobs: Mapping[str, NDArray[np.float32]]) -> Arrays:
        try:
            if self._net is None:
                self._net = self._read()
            return self._net.forward(blobs)
        except EngineError as error:
            self._net = None
            raise Internal(f"Caffe could not run the network: {error}", reason="run") from error

    def close(self) -> None:
        """Give the net's memory back."""
        with self._lock:
            self._net = None


def _files(directory: Path) -> tuple[Path, Path]:
    """The description and the weights in `directory`."""
    if not directory.is_dir():
        raise InvalidRequest(f"{directory} is not a folder", reason="bad_model")
    weights = sorted(directory.glob("*.caffemodel"))
    if len(weights) != 1:
        found = ", ".join(p.name for p in weights) or "none"
        raise InvalidRequest(
            f"a Caffe version has one *.caffemodel file; {directory} has {found}",
            reason="bad_model",
        )
    texts = sorted(directory.glob("*.prototxt"))
    chosen = [p for p in texts if "deploy" in p.name.lower()] if len(texts) > 1 else texts
    if len(chosen) != 1:
        found = ", ".join(p.name for p in texts) or "none"
        raise InvalidRequest(
            f"a Caffe version has one *.prototxt file, or one with 'deploy' in its name among "
            f"others; {directory} has {found}",
            reason="bad_model",
        )
    return chosen[0], weights[0]


def _bad(path: Path, what: str) -> InvalidRequest:
    return InvalidRequest(f"{path.name} cannot be served: {what}", reason="bad_model")


def _with_batch(shapes: Shapes, rows: int) -> dict[str, tuple[int, ...]]:
    return {name: (rows, *shape[1:]) for name, shape in shapes.items()}


def _follows_batch(net: Net, inputs: Shapes, outputs: Shapes) -> bool:
    """Whether every output has as many rows as the inputs. Two sizes are tried: with one alone a
    size that is written into the net could agree by chance."""
    if len({shape[0] for shape in inputs.values()}) != 1 or not all(outputs.values()):
        return False
    declared = next(iter(inputs.values()))[0]
    try:
        return all(
            net.output_shapes(_with_batch(inputs, rows)) == _with_batch(outputs, rows)
            for rows in (declared + 1, declared + 2)
        )
    except EngineError:
        return False


def _fixed_batch(inputs: Shapes, outputs: Shapes) -> int | None:
    """The one batch size of a net that takes no other; None where axis 0 is no batch."""
    sizes = {shape[0] if shape else 0 for shape in (*inputs.values(), *outputs.values())}
    return sizes.pop() if len(sizes) == 1 and 0 not in sizes else None


def _check_shape(spec: TensorSpec, shape: tuple[int, ...]) -> None:
    wanted = spec.shape or ()
    if len(shape) != len(wanted) or any(
        w not in (-1, s) for w, s in zip(wanted, shape, strict=True)
    ):
        raise InvalidRequest(
            f'input "{spec.name}" has shape {list(shape)}, '
            f"and the network takes {list(wanted)} (-1 is any size)",
            reason="bad_shape",
        )
    if int(np.prod(shape, dtype=object)) > MAX_ELEMENTS:
        raise InvalidRequest(
            f'input "{spec.name}" has more than {MAX_ELEMENTS} elements', reason="bad_shape"
        )
