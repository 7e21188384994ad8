"""The models of one server: what is asked for, what there is, and who waits for the one to become
the other. What is done about it is the manager's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from gateway.codecs.tfs_status import ConfiguredModel
from gateway.domain.errors import InvalidRequest, NotFound
from gateway.domain.models import Specific, VersionState, VersionStatus
from servers.kit.record import ModelRecord, VersionRecord
from servers.kit.servable import Servable

_MAX_REMOVED = 64
"""Removed models whose ended versions are still shown."""


class Catalogue:
    """All models of one server. Lives on one event loop."""

    def __init__(self, keep_ended: int) -> None:
        self._keep_ended = keep_ended
        self._models: dict[str, ModelRecord] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._wake = asyncio.Event()
        self._changed = asyncio.Condition()
        self._is_stopping = False

    # ---- what is asked for --------------------

    def configure(
        self,
        models: Sequence[ConfiguredModel],
        labels: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        """Replace the whole configuration. A model left out is unloaded."""
        wanted = {config.name: config for config in models}
        for name, record in self._models.items():
            if name not in wanted:
                record.is_removed = True
        for name, config in wanted.items():
            if name not in self._models:
                self._models[name] = ModelRecord(config)
                continue
            record = self._models[name]
            if record.is_removed or record.config.base_path != config.base_path:
                record.listed, record.has_looked = (), False
            record.is_removed = record.is_unloaded = False
            record.config = config
            record.next_look_at = 0.0
        if labels is None:
            labels = {config.name: config.labels for config in models}
        self._labels = {name: dict(given) for name, given in labels.items() if given}
        # At once, not only at the next tick: whoever asks for the status right after a reload must
        # see the versions that it asked for.
        for record in self._models.values():
            self._aspire(record)
            self._forget_failed(record)
        self._forget_removed()
        self._wake.set()

    def _forget_failed(self, record: ModelRecord) -> None:
        """End unwanted failures now, so that removing and adding a version again retries it."""
        wanted = record.aspired()
        for held in list(record.versions.values()):
            is_idle_failure = held.state is VersionState.FAILED and not held.is_busy
            if is_idle_failure and held.version not in wanted:
                held.move(VersionState.GONE)
                record.end(held, self._keep_ended)

    def _forget_removed(self) -> None:
        removed = [n for n, r in self._models.items() if r.is_removed and not r.versions]
        for name in removed[: max(0, len(removed) - _MAX_REMOVED)]:
            del self._models[name]

    @property
    def labels(self) -> Mapping[str, Mapping[str, int]]:
        """Labels in force, by model."""
        return self._labels

    @property
    def configured(self) -> frozenset[str]:
        """Names of the models that are asked for."""
        return frozenset(n for n, record in self._models.items() if not record.is_removed)

    # ---- what is --------------------

    def find(self, name: str, version: int | None = None, label: str | None = None) -> Servable:
        """The servable that a request means.

        Raises:
            NotFound: no such model or version answers here (`model_unknown`, `version_unknown`).
            InvalidRequest: no such label (`label_unknown`).
        """
        record = self._models.get(name)
        if record is not None and label:
            version = self._labels.get(name, {}).get(label)
            if version is None:
                raise InvalidRequest(
                    f"Unrecognized servable version label: {label}", reason="label_unknown"
                )
        servable = None
        if record is not None:
            if version is None:
                servable = record.newest_ready()
            else:
                held = record.versions.get(version)
                if held is not None and held.state is VersionState.READY:
                    servable = held.servable
        if servable is None:
            asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise NotFound(
                f"Servable not found for request: {asked}",
                reason="model_unknown" if record is None else "version_unknown",
            )
        return servable

    def statuses(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """Every known version of a model, newest first, or the one named.

        Raises:
            NotFound: nothing is known of it.
        """
        record = self._models.get(name)
        known = record.statuses() if record is not None else []
        if not known:
            raise NotFound(f"Could not find any versions of model {name}", reason="model_unknown")
        if version is None:
            return known
        one = [status for status in known if status.version == version]
        if not one:
            raise NotFound(
                f"Could not find version {version} of model {name}", reason="version_unknown"
            )
        return one

    def overview(self) -> dict[str, list[VersionStatus]]:
        """Every model that is asked for or still has versions."""
        return {
            name: record.statuses()
            for name, record in self._models.items()
            if not record.is_removed or record.versions
        }

    def source_reason(self, name: str) -> str:
        """Why a model's source cannot be read; empty when it can."""
        record = self._models.get(name)
        return record.source_reason if record is not None else ""

    async def tried(self, names: frozenset[str]) -> None:
        """Wait until each of these models answers, or all that it has has failed once."""
        async with self._changed:
            await self._changed.wait_for(lambda: all(self._is_tried(name) for name in names))

    # ---- V2's repository control --------------------

    async def load(self, name: str) -> None:
        """Bring a configured model back, look at its source now, try what failed again; returns
        once each wanted version answers or has failed.

        Raises:
            NotFound: no model of that name is configured.
        """
        record = self._configured(name)
        record.is_unloaded = False
        record.next_look_at, record.source_failures, record.has_looked = 0.0, 0, False
        for held in record.versions.values():
            held.retry_at, held.failures = 0.0, 0
        self._aspire(record)
        self._wake.set()
        async with self._changed:
            await self._changed.wait_for(
                lambda: (
                    self._is_stopping
                    or record.is_removed
                    or record.is_unloaded
                    or record.is_settled()
                )
            )

    async def unload(self, name: str) -> None:
        """Take a configured model out of reach until it is loaded or configured again. Returns
        once nothing new reaches it; what is in flight is drained after that.

        Raises:
            NotFound: no model of that name is configured.
        """
        record = self._configured(name)
        record.is_unloaded = True
        self._wake.set()
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._is_stopping or not record.is_unloaded or record.newest_ready() is None
            )

    def is_unloaded(self, name: str) -> bool:
        """Whether a model was taken out by `unload`."""
        record = self._models.get(name)
        return record is not None and record.is_unloaded

    def _configured(self, name: str) -> ModelRecord:
        record = self._models.get(name)
        if record is None or record.is_removed:
            raise NotFound(f"no model {name!r} is configured here", reason="model_unknown")
        return record

    def _is_tried(self, name: str) -> bool:
        record = self._models.get(name)
        if record is None or record.is_removed or record.newest_ready() is not None:
            return True
        if self._is_stopping:
            return True
        if record.source_failures:
            return True
        if not isinstance(record.config.policy, Specific) and not record.has_looked:
            return False
        return all(
            (v := record.versions.get(version)) is not None and v.failures > 0
            for version in record.aspired()
        )

    def _aspire(self, record: ModelRecord) -> None:
        for version in record.aspired():
            held = record.versions.get(version)
            if held is None:
                record.ended.pop(version, None)
                record.versions[version] = VersionRecord(record.config.name, version)

    async def _notify(self) -> None:
        self._wake.set()
        async with self._changed:
            self._changed.notify_all()

    async def stop_waiting(self) -> None:
        """Let everybody go who waits in `tried`: the server is going down."""
        self._is_stopping = True
        await self._notify()
