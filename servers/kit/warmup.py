"""Run a version before anybody else does, so that the first caller does not pay for lazy work.

Recorded requests are replayed where the version brings them (`assets.extra/
tf_serving_warmup_requests`, TFRecord of PredictionLog, TensorFlow Serving's own convention); else
each signature is run once on zeros. A version that loads but fails here is kept out.

Zeros are a guess where a dimension is dynamic (1 is tried) or the input is a string (empty): a
network may rightly refuse a 1×1 image. Such a failure is reported and does not keep the version
out; one on a shape that the signature states exactly does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_examples import serialized_examples
from gateway.codecs.tfs_tensors import numpy_dtype, to_array
from gateway.domain.errors import GatewayError, InvalidRequest
from gateway.domain.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec
from servers.kit import checks, logs
from servers.kit.rows import Loaded, run_alone
from servers.kit.runtime import Arrays
from servers.kit.tfrecord import read_records

RECORDED = Path("assets.extra") / "tf_serving_warmup_requests"


@dataclass(frozen=True, slots=True)
class Sample:
    """Inputs to try a signature with."""

    signature: str
    inputs: Arrays
    outputs: tuple[str, ...]
    is_guess: bool
    """Whether sizes or contents were made up that the signature does not state."""


def zeros(name: str, signature: Signature, rows: int) -> Sample | None:
    """`rows` rows of zeros for a signature; None where an input's rank is not known."""
    inputs: dict[str, NDArray[np.generic]] = {}
    is_guess = False
    for alias, spec in signature.inputs.items():
        if spec.shape is None:
            return None
        is_guess = is_guess or spec.dtype is DType.STRING or -1 in spec.shape[1:]
        inputs[alias] = _zeros(spec, rows)
    return Sample(name, inputs, tuple(signature.outputs), is_guess)


def _zeros(spec: TensorSpec, rows: int) -> NDArray[np.generic]:
    shape = [max(1, size) for size in spec.shape or ()]
    if spec.shape and spec.shape[0] == -1:
        shape[0] = rows
    if spec.dtype is DType.STRING:
        array = np.empty(shape, dtype=object)
        array.fill(b"")
        return array
    return np.zeros(shape, dtype=numpy_dtype(spec.dtype))


def warm(loaded: Loaded, directory: Path) -> int:
    """Run the recorded requests, or zeros; returns how many were run.

    Raises:
        InvalidRequest: the file of recorded requests cannot be read, or a run failed
            (`warmup_failed`); the message says which and why.
    """
    recorded = directory / RECORDED
    if recorded.is_file():
        samples: Iterator[Sample] = _recorded(loaded, recorded)
        origin = "recorded request"
    else:
        made = (zeros(name, s, 1) for name, s in loaded.signatures.items())
        samples = (sample for sample in made if sample is not None)
        origin = "zeros for"
    count = 0
    for sample in samples:
        count += 1
        try:
            run_alone(loaded, sample.signature, sample.inputs, sample.outputs)
        except Exception as error:
            what = f"warm-up {origin} signature {sample.signature!r} failed: {error}"
            if not sample.is_guess:
                raise InvalidRequest(what, reason="warmup_failed") from error
            logs.warn("version.warmup_guess_failed", folder=directory, why=what)
    return count


def _recorded(loaded: Loaded, path: Path) -> Iterator[Sample]:
    for number, data in enumerate(read_records(path)):
        try:
            log = tfs_pb2.PredictionLog.FromString(data)
            yield from _samples(loaded, log)
        except (DecodeError, GatewayError) as error:
            raise InvalidRequest(
                f"{path.name}, record {number}: {error}", reason="bad_warmup"
            ) from error


def _samples(loaded: Loaded, log: tfs_pb2.PredictionLog) -> Iterator[Sample]:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        request = log.predict_log.request
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        signature = _signature(loaded, name)
        given = {alias: to_array(proto) for alias, proto in request.inputs.items()}
        outputs = checks.outputs_of(signature, list(request.output_filter))
        yield Sample(name, checks.inputs_of(signature, given), outputs, is_guess=False)
        return
    if kind == "classify_log":
        tasks = [log.classify_log.request.model_spec.signature_name]
        examples = log.classify_log.request.input
    elif kind == "regress_log":
        tasks = [log.regress_log.request.model_spec.signature_name]
        examples = log.regress_log.request.input
    elif kind == "multi_inference_log":
        tasks = [t.model_spec.signature_name for t in log.multi_inference_log.request.tasks]
        examples = log.multi_inference_log.request.input
    else:
        raise InvalidRequest("it records no request of a kind known here", reason="bad_warmup")
    array = np.array(serialized_examples(examples), dtype=object)
    for name in tasks:
        signature = _signature(loaded, name or DEFAULT_SIGNATURE)
        alias = next(iter(signature.inputs))
        inputs = checks.inputs_of(signature, {alias: array})
        yield Sample(name or DEFAULT_SIGNATURE, inputs, tuple(signature.outputs), is_guess=False)


def _signature(loaded: Loaded, name: str) -> Signature:
    found = loaded.signatures.get(name)
    if found is None:
        raise InvalidRequest(
            f'Serving signature name: "{name}" not found in signature def',
            reason="unknown_signature",
        )
    return found
