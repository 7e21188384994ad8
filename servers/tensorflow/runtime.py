"""SavedModels as the kit's `Runtime`, loaded the way TensorFlow Serving loads them.

`tf.compat.v1.saved_model.load` into a session of its own, with tag `serve`: it reads the signatures
that the file declares, of TF 1 and TF 2 models alike, and needs no Python classes to rebuild. The
newer `tf.saved_model.load` rebuilds the object graph instead and fails on models whose optimizer or
custom objects it cannot restore. Each version has its own graph and session, so closing one frees
it and cannot touch another.

Importing TensorFlow takes seconds and half a gigabyte; it happens when the first runtime is made.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_metadata import signature_from_proto
from gateway.domain.errors import (
    GatewayError,
    Internal,
    InvalidRequest,
    Overloaded,
    Unimplemented,
)
from gateway.domain.tensors import Signature, TensorSpec
from servers.kit import logs
from servers.kit.runtime import Arrays

SERVE_TAG = "serve"
MAX_CALLABLES = 32
"""Prepared (signature, outputs) pairs per version. Each costs an executor in the session for as
long as the version lives, and callers choose the outputs: n of them have 2^n - 1 subsets. Past the
bound all outputs are computed and the ones asked for are picked."""

_INIT_OP = "__saved_model_init_op"
"""TF 2 exports list their initializer among the signatures. It is run at load, never called."""

_MAX_WORDS = 1024
"""TensorFlow Serving cuts its own messages there too."""

_NOTE = re.compile(rb"[IW]\d{4} |WARNING: All log messages before absl::InitializeLog")

_LOAD_ERRORS = (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError)
"""What the v1 loader raises on broken files, besides TensorFlow's own errors: each was seen with
one (tests/unit/tensorflow), or is what its protobuf and checkpoint readers document."""

_Call = Callable[..., Sequence[Any]]


class TensorFlowRuntime:
    """Loads SavedModels. `threads` bounds the threads inside one operation; 0 lets TF choose."""

    platform = "tensorflow"

    def __init__(self, threads: int = 0) -> None:
        self._tf = _import_tensorflow()
        self._threads = threads

    def load(self, directory: Path) -> TensorFlowModel:
        """Load one version's folder (see `servers.kit.runtime.Runtime.load`)."""
        file = _saved_model_file(directory)
        v1 = self._tf.compat.v1
        config = v1.ConfigProto(intra_op_parallelism_threads=self._threads)
        # Memory as it is needed: taking all of a GPU at once would leave none for the next version.
        config.gpu_options.allow_growth = True
        # A model saved with /GPU:0 written into it also runs where there is none.
        config.allow_soft_placement = True
        graph = self._tf.Graph()
        session = v1.Session(graph=graph, config=config)
        try:
            with graph.as_default():
                meta = v1.saved_model.load(session, [SERVE_TAG], str(directory))
            graph.finalize()
            return TensorFlowModel(session, _signatures(meta.signature_def), self._tf)
        except (*_LOAD_ERRORS, self._tf.errors.OpError) as error:
            session.close()
            raise InvalidRequest(
                f"{file.name} cannot be served: {_words(error)}", reason="bad_model"
            ) from error
        except BaseException:
            session.close()
            raise


class TensorFlowModel:
    """One SavedModel in a session; see `servers.kit.runtime.LoadedModel`."""

    fixed_batch: int | None = None
    """TensorFlow Serving gives a graph with a fixed first dimension what the caller sent, and so
    does this: axis 0 of such a graph need not be a batch."""

    def __init__(self, session: Any, signatures: Mapping[str, Signature], tf: Any) -> None:
        self.signatures = signatures
        self.batchable = bool(signatures) and all(
            _has_free_rows(spec)
            for signature in signatures.values()
            for spec in (*signature.inputs.values(), *signature.outputs.values())
        )
        self._tf = tf
        self._session = session
        self._calls: dict[tuple[str, tuple[str, ...]], _Call] = {}
        self._lock = threading.Lock()
        for name, signature in signatures.items():
            self._call(name, tuple(signature.outputs))

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Answer `outputs`. Sessions are safe for threads, so runs go side by side."""
        declared = self.signatures[signature]
        # In the signature's own order, whatever order the caller named them in.
        asked = tuple(name for name in declared.outputs if name in frozenset(outputs))
        if len(self._calls) >= MAX_CALLABLES and (signature, asked) not in self._calls:
            asked = tuple(declared.outputs)
        call = self._call(signature, asked)
        try:
            found = call(*(inputs[name] for name in declared.inputs))
        except self._tf.errors.OpError as error:
            raise _translated(error, self._tf.errors) from error
        except (ValueError, TypeError) as error:
            raise InvalidRequest(_words(error), reason="bad_input") from error
        answers = dict(zip(asked, found, strict=True))
        return {name: np.asarray(answers[name]) for name in outputs}

    def _call(self, signature: str, outputs: tuple[str, ...]) -> _Call:
        key = (signature, outputs)
        call = self._calls.get(key)
        if call is None:
            with self._lock:
                call = self._calls.get(key) or self._prepare(self.signatures[signature], outputs)
                self._calls[key] = call
        return call

    def _prepare(self, signature: Signature, outputs: tuple[str, ...]) -> _Call:
        # The public Session.make_callable goes through Session.run for every call: 250 µs on a
        # graph of one addition, this one 30 µs. Keras has used it since TF 1.8.
        options = _callable_options()
        options.feed.extend(spec.graph_name for spec in signature.inputs.values())
        options.fetch.extend(signature.outputs[name].graph_name for name in outputs)
        call: _Call = self._session._make_callable_from_options(options)
        return call

    def close(self) -> None:
        """End the session and let go of the graph; the kit gives the pages back."""
        self._calls.clear()
        self._session.close()
        self._session = None


def _import_tensorflow() -> Any:
    """TensorFlow, without its log noise."""
    # Read by its C++ part while it is imported. 2: errors yes, notes and warnings no.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _notes_dropped():
        import tensorflow

    # Its Python part warns at each load that the v1 loader is deprecated.
    tensorflow.get_logger().setLevel("ERROR")
    return tensorflow


@contextmanager
def _notes_dropped() -> Iterator[None]:
    """Pass on what is written to standard error inside the block, but for notes and warnings.

    TensorFlow's libraries log to the file descriptor before their log level is in force, so no
    variable silences them; all else that they say there comes through once the block ends.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            kept.seek(0)
            for line in kept:
                if not _NOTE.match(line):
                    os.write(2, line)


def _callable_options() -> Any:
    from tensorflow.core.protobuf import config_pb2

    return config_pb2.CallableOptions()


def _saved_model_file(directory: Path) -> Path:
    for name in ("saved_model.pb", "saved_model.pbtxt"):
        if (directory / name).is_file():
            return directory / name
    raise InvalidRequest(
        f"a TensorFlow version has a file saved_model.pb (or .pbtxt); {directory} has none",
        reason="bad_model",
    )


def _signatures(declared: Mapping[str, Any]) -> dict[str, Signature]:
    """Every signature that can be called here, sorted by name.

    One over types that no protocol of ours carries (quantised, variants, sparse tensors) is left
    out with a word in the log; a model that has no other is refused.
    """
    found: dict[str, Signature] = {}
    reasons: list[str] = []
    for name in sorted(declared):
        if name == _INIT_OP:
            continue
        proto = tfs_pb2.SignatureDef.FromString(declared[name].SerializeToString())
        try:
            infos = (*proto.inputs.values(), *proto.outputs.values())
            if any(info.WhichOneof("encoding") != "name" for info in infos):
                raise Unimplemented(
                    "sparse and composite tensors are not supported", reason="dtype"
                )
            found[name] = signature_from_proto(proto)
        except Unimplemented as error:
            reasons.append(f"signature {name!r}: {error.message}")
            logs.warn("signature.left_out", signature=name, why=error.message)
    if not found:
        raise InvalidRequest(
            f"the SavedModel has no signature that can be served: {'; '.join(reasons) or 'none'}",
            reason="bad_model",
        )
    return found


def _has_free_rows(spec: TensorSpec) -> bool:
    return bool(spec.shape) and spec.shape is not None and spec.shape[0] == -1


def _translated(error: Exception, errors: Any) -> GatewayError:
    """A framework error as one of ours, as TensorFlow Serving would pass it on.

    By class and not by `code`: errors of prepared calls come without their attributes.
    """
    words = _words(error)
    if isinstance(error, errors.InvalidArgumentError | errors.OutOfRangeError):
        return InvalidRequest(words, reason="bad_input")
    if isinstance(error, errors.ResourceExhaustedError):
        return Overloaded(words, reason="out_of_memory")
    if isinstance(error, errors.UnimplementedError):
        return Unimplemented(words, reason="op_unimplemented")
    return Internal(words, reason="run")


def _words(error: Any) -> str:
    """The message without the Python traces that TensorFlow puts around it."""
    if isinstance(error, UnicodeDecodeError):
        # The message quotes the caller's bytes, and the binding could not make a str of it.
        text = bytes(error.object).decode("utf-8", "replace")
    else:
        text = str(getattr(error, "message", None) or error).strip()
    for mark in ("\nOriginal stack trace", "\n\nErrors may have originated"):
        text = text.partition(mark)[0]
    return text[:_MAX_WORDS]
