"""What the manager remembers of each version and model: mutable, owned by the event loop."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from gateway.codecs.tfs_status import ConfiguredModel
from gateway.domain.models import Specific, VersionState, VersionStatus
from servers.kit import logs, plan
from servers.kit.servable import Servable


@dataclass(slots=True)
class VersionRecord:
    """One life of one version, from NEW to GONE."""

    model: str
    version: int
    state: VersionState = VersionState.NEW
    reason: str = ""
    error_code: int = 0
    failures: int = 0
    retry_at: float = 0.0
    fetched_bytes: int | None = None
    total_bytes: int | None = None
    phase: str = ""
    servable: Servable | None = None
    cancel: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it is no longer wanted while on its way."""
    is_busy: bool = False
    """Whether a task is working on it."""

    def move(self, state: VersionState, **fields: str | int) -> None:
        """Go to another state; every transition is in `plan.NEXT`."""
        if state not in plan.NEXT[self.state]:
            raise AssertionError(f"{self.model} {self.version}: {self.state} → {state}")
        self.state = state
        self.phase = ""
        logs.event(
            f"version.{state.value}", logging.INFO, model=self.model, version=self.version, **fields
        )

    def progress(self, done: int, total: int) -> None:
        """Bytes fetched, for progress displays."""
        self.fetched_bytes, self.total_bytes = done, total

    def tell(self, phase: str) -> None:
        """What it is doing; may be called from a loader thread."""
        self.phase = phase

    def status(self) -> VersionStatus:
        """As told to others."""
        phase = self.phase
        if not phase and self.state in (VersionState.FETCHING, VersionState.LOADING):
            phase = self.state.value
        return VersionStatus(
            self.version,
            self.state,
            reason=self.reason,
            error_code=self.error_code,
            fetched_bytes=self.fetched_bytes,
            total_bytes=self.total_bytes,
            phase=phase,
        )


@dataclass(slots=True)
class ModelRecord:
    """One model: what is asked for, what its source lists, its versions."""

    config: ConfiguredModel
    listed: tuple[int, ...] = ()
    """The last listing that could be read. A source that fails unloads nothing."""
    source_reason: str = ""
    source_failures: int = 0
    next_look_at: float = 0.0
    has_looked: bool = False
    is_looking: bool = False
    is_removed: bool = False
    is_unloaded: bool = False
    """Taken out by V2's repository control, and known still: a load brings it back."""
    versions: dict[int, VersionRecord] = field(default_factory=dict)
    ended: dict[int, VersionRecord] = field(default_factory=dict)

    def aspired(self) -> frozenset[int]:
        """Versions that should answer."""
        if self.is_removed or self.is_unloaded:
            return frozenset()
        return plan.aspired(self.config.policy, self.listed)

    def end(self, record: VersionRecord, keep: int) -> None:
        """Move a version that is GONE among the ended ones, the oldest of which are forgotten."""
        self.versions.pop(record.version, None)
        self.ended.pop(record.version, None)
        self.ended[record.version] = record
        while len(self.ended) > keep:
            self.ended.pop(next(iter(self.ended)))

    def statuses(self) -> list[VersionStatus]:
        """Every known version, newest first, as TensorFlow Serving orders them."""
        known = {**self.ended, **self.versions}
        return [known[version].status() for version in sorted(known, reverse=True)]

    def is_settled(self) -> bool:
        """Whether its source has been looked at and each wanted version answers or has failed."""
        if self.source_failures:
            return True
        if not isinstance(self.config.policy, Specific) and not self.has_looked:
            return False
        wanted = [self.versions.get(version) for version in self.aspired()]
        return all(v and (v.state is VersionState.READY or v.failures) for v in wanted)

    def newest_ready(self) -> Servable | None:
        """What answers when no version is named."""
        best: Servable | None = None
        for version, record in self.versions.items():
            if record.state is VersionState.READY and (best is None or version > best.version):
                best = record.servable
        return best
