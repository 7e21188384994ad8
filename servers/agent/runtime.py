"""A `Runtime` that loads nothing itself: it has TensorFlow Serving load, and waits for its word.

The kit's manager fetches, retries and drains as for any other server; here "load" means to add the
version to TensorFlow Serving's configuration and "close" to take it out. That configuration is
always sent whole (it replaces the old one), from what is held at that moment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.domain.errors import InvalidRequest, Unavailable, Unimplemented
from gateway.domain.models import VersionState, VersionStatus
from gateway.domain.tensors import Signature
from servers.agent.tfs import Held, Tfs
from servers.kit import logs
from servers.kit.runtime import Arrays

_UNAVAILABLE = 14  # gRPC's number; a reason travels only beside a code

Labels = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class WaitSettings:
    """How long the agent waits for TensorFlow Serving."""

    load_s: float = 600.0
    """For one version to become AVAILABLE. Large models take minutes to read and warm up."""

    unload_s: float = 60.0
    """For one version to END once it is out of the configuration. Its files are removed after."""

    look_every_s: float = 0.1
    """Between two looks at its status while something is under way."""

    silent_s: float = 10.0
    """How long it may be silent while it loads before that load counts as failed."""

    settle_s: float = 5.0
    """How long an old failure may still show after a version was asked for anew. TensorFlow Serving
    looks at its configuration once a second."""


class AgentRuntime:
    """Loads into one TensorFlow Serving. Called on the kit's threads, never on the loop's."""

    platform = "tensorflow"

    def __init__(self, tfs: Tfs, waits: WaitSettings | None = None) -> None:
        self._tfs = tfs
        self._waits = waits or WaitSettings()
        self._lock = threading.Lock()
        """Over what is held; the loop takes it, too, so never for as long as a call lasts: the loop
        makes the call."""
        self._sending = threading.Lock()
        """Over a configuration on its way, which lasts as long as loading does. Threads only."""
        self._held: dict[str, dict[int, bool]] = {}
        """By model and version: whether it has been AVAILABLE."""
        self._folders: dict[str, Path] = {}
        self._stop = threading.Event()
        self.labels: Callable[[], Labels] = dict
        """Labels in force; only those of AVAILABLE versions are passed on, as it refuses others."""

    def load(self, directory: Path) -> InTfs:
        """Have `<shared>/<model>/<version>` served; returns once it is AVAILABLE.

        Raises:
            InvalidRequest: TensorFlow Serving could not load it; its own words.
            Unavailable: it does not answer, or not within the time allowed.
        """
        model, version = directory.parent.name, int(directory.name)
        old = self._statuses(model).get(version)
        try:
            with self._lock:
                self._held.setdefault(model, {})[version] = False
                self._folders[model] = directory.parent
            objection = self._push()
            self._wait_loaded(model, version, old, objection)
        except BaseException:
            self._take_out(model, version)
            raise
        with self._lock:
            self._held[model][version] = True
        return InTfs(self, model, version)

    def unload(self, model: str, version: int) -> None:
        """Take a version out; returns once it has ended, or the time allowed is over."""
        if not self._take_out(model, version):
            return
        ends_at = time.perf_counter() + self._waits.unload_s
        while time.perf_counter() < ends_at and not self._stop.is_set():
            try:
                status = self._statuses(model).get(version)
            except Unavailable:
                return  # gone altogether, and with it whatever it held
            if status is None or status.state in (VersionState.GONE, VersionState.FAILED):
                return
            self._stop.wait(self._waits.look_every_s)
        logs.warn("tfs.still_unloading", model=model, version=version, after_s=self._waits.unload_s)

    def available(self) -> dict[str, frozenset[int]]:
        """What has been AVAILABLE and is still wanted, by model."""
        with self._lock:
            return {
                model: frozenset(v for v, is_loaded in versions.items() if is_loaded)
                for model, versions in self._held.items()
            }

    def sync(self) -> None:
        """Send the configuration again: labels changed, or the server has come back empty."""
        objection = self._push()
        if objection:
            logs.warn("tfs.objected", why=objection)

    def stop(self) -> None:
        """End every wait; the process is going down."""
        self._stop.set()

    def _push(self) -> str:
        """Send all that is held now; one after the other, so that the last is the newest."""
        with self._sending:
            models = self._configuration()
            return self._tfs.on_thread(self._tfs.reload(models, self._waits.load_s))

    def _configuration(self) -> dict[str, Held]:
        labels, models = self.labels(), {}
        with self._lock:
            for model, versions in self._held.items():
                good = {v for v, is_loaded in versions.items() if is_loaded}
                names = {n: v for n, v in labels.get(model, {}).items() if v in good}
                models[model] = Held(str(self._folders[model]), frozenset(versions), names)
        return models

    def _statuses(self, model: str) -> Mapping[int, VersionStatus]:
        return self._tfs.on_thread(self._tfs.statuses(model))

    def _wait_loaded(
        self, model: str, version: int, old: VersionStatus | None, objection: str
    ) -> None:
        began, heard_at = time.perf_counter(), 0.0
        is_old_failure = old is not None and old.state is VersionState.FAILED
        while (took := time.perf_counter() - began) < self._waits.load_s:
            try:
                status = self._statuses(model).get(version)
                heard_at = took
            except Unavailable:
                # Loading can keep a machine so busy that an answer is late.
                if took - heard_at > self._waits.silent_s or self._stop.wait(1.0):
                    raise
                continue
            state = status.state if status is not None else VersionState.NEW
            if state is VersionState.READY:
                return
            if status is not None and state is VersionState.FAILED:
                if not is_old_failure or took > self._waits.settle_s:
                    raise InvalidRequest(
                        f"TensorFlow Serving could not load it: {status.reason}",
                        reason="bad_model",
                    )
            else:
                is_old_failure = False
                if objection and took > self._waits.settle_s:
                    raise InvalidRequest(
                        f"TensorFlow Serving objects: {objection}", reason="bad_model"
                    )
            if self._stop.wait(self._waits.look_every_s):
                raise Unavailable("the agent is shutting down", reason="draining")
        raise Unavailable(
            f"TensorFlow Serving did not load it within {self._waits.load_s:.0f} s; its log says "
            "what it is doing, and --load-timeout-s allows more",
            reason="load_timeout",
        )

    def _take_out(self, model: str, version: int) -> bool:
        """Whether TensorFlow Serving was told."""
        with self._lock:
            self._held.get(model, {}).pop(version, None)
            if not self._held.get(model):
                self._held.pop(model, None)
        if self._stop.is_set():
            return False
        try:
            self._push()
        except Unavailable as error:
            # It hears of it when it answers again: every configuration is sent whole.
            logs.warn("tfs.silent", why=error.message)
            return False
        return True


class InTfs:
    """A version that TensorFlow Serving holds. Callers are sent there; nothing runs here."""

    signatures: Mapping[str, Signature] = {}
    batchable = False
    fixed_batch: int | None = None

    def __init__(self, runtime: AgentRuntime, model: str, version: int) -> None:
        self._runtime = runtime
        self._model = model
        self._version = version

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Never called: there are no signatures here."""
        raise Unimplemented(
            "the agent answers no predictions; ask TensorFlow Serving", reason="agent"
        )

    def close(self) -> None:
        """Take it out of TensorFlow Serving."""
        self._runtime.unload(self._model, self._version)


def merged(
    ours: Sequence[VersionStatus], theirs: Mapping[int, VersionStatus] | None
) -> list[VersionStatus]:
    """The agent's view of one model with TensorFlow Serving's own word on what it holds.

    The agent knows of fetching and of failures; that a version answers is true only while
    TensorFlow Serving says so. `theirs` is None when it did not answer.
    """
    return [
        _judged(status, theirs) if status.state is VersionState.READY else status for status in ours
    ]


def _judged(ours: VersionStatus, theirs: Mapping[int, VersionStatus] | None) -> VersionStatus:
    if theirs is None:
        return _not_there(ours, "TensorFlow Serving does not answer")
    found = theirs.get(ours.version)
    if found is None or found.state in (VersionState.NEW, VersionState.GONE):
        return _not_there(ours, "TensorFlow Serving does not have it yet")
    if found.state is VersionState.READY:
        return ours
    return replace(ours, state=found.state, reason=found.reason, error_code=found.error_code)


def _not_there(ours: VersionStatus, why: str) -> VersionStatus:
    return replace(ours, state=VersionState.LOADING, reason=why, error_code=_UNAVAILABLE)
