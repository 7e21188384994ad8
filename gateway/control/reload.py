"""TensorFlow Serving's HandleReloadConfigRequest, applied to the gateway itself.

There the new configuration replaces the old one, and what it omits is unloaded. Here models have
two owners: a reload adds and updates what it names, and removes only what an earlier reload had
added (`managed_by="reload"`). A model deployed through the control API is never removed by a
reload, because an old script that knows three models must not take down the other thirty; a reload
that names such a model updates its source, policy and labels and leaves the rest.

Everything is checked before anything is stored. Then, as in TensorFlow Serving, it waits until the
newly added models are AVAILABLE, one of them has failed, or the deadline passes.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from msgspec import UNSET

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_status import ConfiguredModel, model_configs
from gateway.control.looking import aspired
from gateway.control.quantities import policy_text
from gateway.control.schema import DeployRequest
from gateway.control.views import state_of
from gateway.domain.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    GatewayError,
    InvalidRequest,
)
from gateway.domain.models import ModelRecord, ModelSpec, VersionState
from gateway.domain.names import Version
from gateway.ports import Observed, Store, VersionSource

if TYPE_CHECKING:
    from gateway.control.service import ModelsService

MAX_MODELS = 1000
"""Models of one configuration; more is no configuration that somebody wrote."""


class Reload:
    """One reload."""

    def __init__(
        self, service: ModelsService, store: Store, source: VersionSource, observed: Observed
    ) -> None:
        self._service = service
        self._store = store
        self._source = source
        self._observed = observed

    async def run(self, request: bytes, deadline_at: float) -> bytes:
        """Serialized ReloadConfigRequest in, serialized ReloadConfigResponse (OK) out.

        Raises:
            InvalidRequest: the message, or a model in it, cannot be what is meant.
            FailedPrecondition: a label names a version that is not loaded; nothing was stored.
            DeadlineExceeded: the sources did not answer in time; nothing was stored.
            GatewayError: (gRPC UNKNOWN) new models did not become available; they stay configured.
        """
        configs = _configs(request)
        records = {r.spec.name: r for r in await self._store.models()}
        limit = None if math.isinf(deadline_at) else deadline_at
        try:
            async with asyncio.timeout_at(limit):
                plans = [(await self._plan(c, records.get(c.name)), c) for c in configs]
        except TimeoutError as error:
            raise DeadlineExceeded(
                "The deadline passed while the sources were looked at; nothing was changed",
                reason="call",
            ) from error
        added = {}
        for spec, config in plans:
            deployed = await self._service.keep(spec, records.get(config.name))
            if deployed.created:
                added[spec.name] = deployed.model.generation
        for name in _omitted(records, {c.name for c in configs}):
            await self._service.delete(name)
        await self._wait(added, limit)
        answer = tfs_pb2.ReloadConfigResponse()
        answer.status.SetInParent()
        return answer.SerializeToString()

    async def _plan(self, config: ConfiguredModel, old: ModelRecord | None) -> ModelSpec:
        request = DeployRequest(
            source=config.base_path,
            backend=config.platform or UNSET,
            versions=policy_text(config.policy),
            labels=dict(config.labels),
        )
        owner = old.spec.managed_by if old else "reload"
        spec = await self._service.planned(config.name, request, old, managed_by=owner)
        if old is None and spec.labels:
            listing = await self._source.look(spec.source, None)
            _check_labels(spec, {}, set(aspired(spec, listing)))
        elif old is not None:
            _check_labels(spec, old.spec.labels, self._available(spec.name))
        return spec

    def _available(self, name: str) -> set[Version]:
        view = self._observed.view(name)
        if view is None:
            return set()
        return {v.version for v in view.versions if v.state is VersionState.READY}

    async def _wait(self, added: Mapping[str, int], limit: float | None) -> None:
        waiting, failed = dict(added), dict[str, str]()
        try:
            async with asyncio.timeout_at(limit):
                while waiting:
                    for name, generation in list(waiting.items()):
                        end = self._end(name, generation)
                        if end is None:
                            continue
                        del waiting[name]
                        if end:
                            failed[name] = end
                    if waiting:
                        await self._observed.changed()
        except TimeoutError:
            failed.update(dict.fromkeys(waiting, "not available before the deadline"))
        if failed:
            names = ", ".join(f"{name} due to error: {why}" for name, why in failed.items())
            raise GatewayError(
                f"{len(failed)} model(s) did not become available: {{{names}}}",
                reason="not_available",
            )

    def _end(self, name: str, generation: int) -> str | None:
        """None while a model is on its way, "" once it answers, else why it cannot."""
        view = self._observed.view(name)
        if view is None or view.generation < generation:
            return None
        if self._available(name):
            return ""
        state, reason = state_of(view.generation, view)
        return reason if state == "failed" else None


def _configs(request: bytes) -> list[ConfiguredModel]:
    parsed = tfs_pb2.ReloadConfigRequest()
    try:
        parsed.ParseFromString(request)
    except DecodeError as error:
        raise InvalidRequest(
            "The message is no ReloadConfigRequest, or was cut off", reason="bad_proto"
        ) from error
    configs = model_configs(parsed)
    if len(configs) > MAX_MODELS:
        raise InvalidRequest(
            f"A configuration may have {MAX_MODELS} models; this one has {len(configs)}",
            reason="bad_config",
        )
    return configs


def _omitted(records: Mapping[str, ModelRecord], named: set[str]) -> list[str]:
    """Models that only an earlier reload wanted."""
    return [n for n, r in records.items() if n not in named and r.spec.managed_by == "reload"]


def _check_labels(spec: ModelSpec, old: Mapping[str, Version], available: set[Version]) -> None:
    """Refuse a new or moved label on a version that is not available (server_core.cc's words)."""
    for label, version in spec.labels.items():
        if old.get(label) != version and version not in available:
            raise FailedPrecondition(
                f"Request to assign label to version {version} of model {spec.name}, which is not "
                "currently available for inference",
                reason="label_unavailable",
            )
