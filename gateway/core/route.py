"""The routing table, and which version of a model a request means.

The table is one immutable value, built by the lifecycle loops and swapped whole, so that a request
reads one consistent truth without a lock. A version is in it only while replicas that reported it
AVAILABLE are named beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.domain.errors import InvalidRequest, NotFound, Unavailable
from gateway.domain.models import PROTOCOLS, VersionState, VersionStatus
from gateway.domain.names import Version
from gateway.domain.replicas import Endpoint


@dataclass(frozen=True, slots=True)
class Target:
    """One replica that may answer for a version."""

    replica_id: str
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """All that the request path needs to know of one model."""

    name: str
    live: Version | None = None
    """Answers when the caller names no version; None while nothing has loaded yet."""
    targets: Mapping[Version, tuple[Target, ...]] = field(default_factory=dict)
    """Selectable replicas by version; only versions that at least one replica holds AVAILABLE."""
    labels: Mapping[str, Version] = field(default_factory=dict)
    """All labels, the gateway's own `stable` (and later `canary`) among them."""
    statuses: tuple[VersionStatus, ...] = ()
    """Every known version, merged over the replicas, newest first: what GetModelStatus answers."""
    timeout_s: float = 30.0
    in_flight_limit: int = 1024
    backend: str = ""
    speaks: tuple[str, ...] = PROTOCOLS
    """What its replicas answer in, where a replica has not said so itself (`Endpoint.speaks`)."""


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Immutable; replaced whole. `generation` grows with each replacement."""

    generation: int = 0
    models: Mapping[str, ModelRoute] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """Where one request may go."""

    model: ModelRoute
    version: Version
    targets: tuple[Target, ...]


def _servable(name: str, version: Version | None) -> str:
    return f"Latest({name})" if version is None else f"Specific({name}, {version})"


def route(
    table: RoutingTable, name: str, version: Version | None = None, label: str | None = None
) -> Route:
    """Say which version of `name` is meant and which replicas hold it.

    The words of NotFound and of the label errors are TensorFlow Serving's (basic_manager.cc,
    server_core.cc), because its clients match on them.

    Raises:
        NotFound: no such model, or no such version of it (`model_unknown`, `version_unknown`).
        InvalidRequest: the model has no such label (`label_unknown`).
        Unavailable: the model or version is known and on its way (`version_loading`), or all of its
            replicas are gone (`no_selectable_replica`).
    """
    model = table.models.get(name)
    if model is None:
        raise NotFound(
            f"Servable not found for request: {_servable(name, version)}", reason="model_unknown"
        )
    if label is not None:
        if label not in model.labels:
            raise InvalidRequest(
                f"Unrecognized servable version label: {label}", reason="label_unknown"
            )
        wanted: Version | None = model.labels[label]
    else:
        wanted = model.live if version is None else version
    targets = model.targets.get(wanted, ()) if wanted is not None else ()
    if wanted is not None and targets:
        return Route(model, wanted, targets)
    raise _absence(model, version, wanted)


def is_interrupted(
    table: RoutingTable, name: str, version: Version | None = None, label: str | None = None
) -> bool:
    """Whether the version meant is the live one and has no replica now.

    It has answered before and is wanted still, so its replicas are being restarted or replaced:
    holding the request for a moment saves it, where for a version that never answered it would
    only delay the refusal.
    """
    model = table.models.get(name)
    if model is None or model.live is None:
        return False
    wanted = model.labels.get(label) if label is not None else version
    if label is None and version is None:
        wanted = model.live
    return wanted == model.live and not model.targets.get(model.live)


def statuses(
    table: RoutingTable, name: str, version: Version | None = None
) -> tuple[VersionStatus, ...]:
    """What GetModelStatus answers: every known version, newest first, or the one asked for.

    Raises:
        NotFound: none of them is known (`model_unknown`, `version_unknown`); the words are
            TensorFlow Serving's (get_model_status_impl.cc).
    """
    model = table.models.get(name)
    known = model.statuses if model is not None else ()
    if version is not None:
        known = tuple(s for s in known if s.version == version)
    if known:
        return known
    if version is None:
        raise NotFound(f"Could not find any versions of model {name}", reason="model_unknown")
    raise NotFound(f"Could not find version {version} of model {name}", reason="version_unknown")


def _absence(
    model: ModelRoute, asked: Version | None, wanted: Version | None
) -> NotFound | Unavailable:
    """Tell a version that nobody knows from one that is only not ready."""
    status = next((s for s in model.statuses if s.version == wanted), None)
    if wanted is not None and status is None and wanted != model.live:
        return NotFound(
            f"Servable not found for request: {_servable(model.name, asked)}",
            reason="version_unknown",
        )
    if status is not None and status.state is VersionState.FAILED:
        return Unavailable(
            f"Version {wanted} of model {model.name} is kept out: {status.reason}",
            reason="version_failed",
            retry_after_s=5.0,
        )
    if status is not None and status.state is VersionState.GONE:
        return NotFound(
            f"Servable not found for request: {_servable(model.name, asked)}",
            reason="version_unknown",
        )
    if wanted is None or (status is not None and status.state is not VersionState.READY):
        return Unavailable(
            f"Model {model.name} is loading and has no version to answer with yet",
            reason="version_loading",
            retry_after_s=1.0,
        )
    return Unavailable(
        f"No replica of model {model.name} can answer version {wanted} now",
        reason="no_selectable_replica",
        retry_after_s=1.0,
    )
