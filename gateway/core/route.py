"""The routing table, and which version of a model a request means.

The table is one immutable value, built by the lifecycle loops and swapped whole, so that a request
reads one consistent truth without a lock. A version is in it only while replicas that reported it
AVAILABLE are named beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from gateway.core.split import STICKY, is_chosen
from gateway.domain.errors import InvalidRequest, NotFound, Unavailable
from gateway.domain.gateways import Use
from gateway.domain.models import PROTOCOLS, VersionState, VersionStatus
from gateway.domain.names import Version
from gateway.domain.replicas import Endpoint

CANARY = "canary"
"""The label of a rollout's canary."""

CANARY_SIDE: Version = -1
"""What the canary's answers are counted by where both sides have the same version: no version is
below 0, so that counts by version serve for both kinds of rollout."""


@dataclass(frozen=True, slots=True)
class Target:
    """One replica that may answer for a version."""

    replica_id: str
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Canary:
    """A rollout's new version, which answers a share of those that name none (core/split.py)."""

    version: Version
    weight: float
    """The share, from 0 to 1."""
    window: int = 0
    """Answers are counted by this number, which changes with every step."""
    sticky: str = STICKY
    """Lower-case name of the header or metadata with the sticky key."""
    shadow: float = 0.0
    """The share of what the stable version answers that is copied to it, from 0 to 1."""
    tolerance: float = 0.01
    """By which its answers to copies are compared (models.ShadowPlan)."""


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """All that the request path needs to know of one model."""

    name: str
    live: Version | None = None
    """Answers when the caller names no version; None while nothing has loaded yet."""
    targets: Mapping[Version, tuple[Target, ...]] = field(default_factory=dict)
    """Selectable replicas by version; only versions that at least one replica holds AVAILABLE."""
    labels: Mapping[str, Version] = field(default_factory=dict)
    """All labels, the gateway's own `stable` and, during a rollout, `canary` among them."""
    statuses: tuple[VersionStatus, ...] = ()
    """Every known version, merged over the replicas, newest first: what GetModelStatus answers."""
    timeout_s: float = 30.0
    in_flight_limit: int = 8192
    hedge: float = 0.0
    """The share of its requests that are answered before a second replica is asked; 0.0: never."""
    backend: str = ""
    speaks: tuple[str, ...] = PROTOCOLS
    """What its replicas answer in, where a replica has not said so itself (`Endpoint.speaks`)."""
    canary: Canary | None = None
    """Answers its share of what the live version does; None while no rollout runs."""
    side: tuple[Target, ...] | None = None
    """The canary's replicas where it is the live version under another template, which are in
    `targets` only if nobody else has that version. None: no such rollout."""
    is_scaled: bool = False
    """How many replicas it has follows from its requests: they are counted (core/autoscale.py)."""
    is_started_on_demand: bool = False
    """It is stopped when nobody asks. A request for a version that is READY in `statuses` and has
    no replica starts one, and waits for it until its deadline."""

    def held(self) -> Iterator[tuple[Version, Target]]:
        """All that answer for it, each with its version."""
        for version, targets in self.targets.items():
            for target in targets:
                yield version, target
        if self.side and self.live is not None:
            for target in self.side:
                yield self.live, target

    def canary_targets(self, canary: Canary) -> tuple[Target, ...]:
        """Who answers for the canary."""
        return self.targets.get(canary.version, ()) if self.side is None else self.side


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Immutable; replaced whole. `generation` grows with each replacement."""

    generation: int = 0
    models: Mapping[str, ModelRoute] = field(default_factory=dict)
    silent: tuple[Target, ...] = ()
    """Replicas that have stopped answering while others hold what they held: in none of the models,
    and nothing that was sent to them is worth waiting for."""


def uses_of(table: RoutingTable) -> frozenset[Use]:
    """All that requests may be sent to by this table."""
    return frozenset(
        (name, version, target.replica_id)
        for name, model in table.models.items()
        for version, target in model.held()
    )


def names(model: ModelRoute | None, version: Version, replica_id: str) -> bool:
    """Whether requests for this version may be sent to that replica."""
    if model is None:
        return False
    if any(t.replica_id == replica_id for t in model.targets.get(version, ())):
        return True
    return version == model.live and is_of_side(model, replica_id)


def is_of_side(model: ModelRoute, replica_id: str) -> bool:
    """Whether it is one of the canary's where both sides have the same version."""
    return bool(model.side) and any(t.replica_id == replica_id for t in model.side or ())


def is_canarys(model: ModelRoute, canary: Canary, version: Version, replica_id: str) -> bool:
    """Whether what this replica answers for that version is an answer of the canary."""
    if model.side is None:
        return version == canary.version
    return is_of_side(model, replica_id)


def peers(model: ModelRoute) -> tuple[frozenset[str], frozenset[str]]:
    """Its replicas by whom they can be compared with: those that answer for the canary alone, and
    all others. A canary that is worse makes no outliers of its own replicas, nor they of others."""
    canary = model.canary.version if model.canary is not None and model.side is None else None
    others = frozenset(
        t.replica_id for v, targets in model.targets.items() if v != canary for t in targets
    )
    mine = model.side
    if mine is None:
        mine = () if canary is None else model.targets.get(canary, ())
    return frozenset(t.replica_id for t in mine) - others, others


class Route(NamedTuple):
    """Where one request may go."""

    model: ModelRoute
    version: Version
    targets: tuple[Target, ...]


def _servable(name: str, version: Version | None) -> str:
    return f"Latest({name})" if version is None else f"Specific({name}, {version})"


def route(
    table: RoutingTable,
    name: str,
    version: Version | None = None,
    label: str | None = None,
    place: float | None = None,
) -> Route:
    """Say which version of `name` is meant and which replicas hold it.

    A request that names neither version nor label goes to the canary, if there is one, where its
    `place` lies below the canary's weight. One without a place, or whose canary no replica holds
    now, goes to the live version.

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
        if label == CANARY and model.side is not None and wanted is not None:
            if model.side:
                return Route(model, wanted, model.side)
            raise _absence(model, version, wanted)
    elif version is not None:
        wanted = version
    else:
        if place is not None and (way := to_canary(model, place)) is not None:
            return way
        wanted = model.live
    targets = model.targets.get(wanted, ()) if wanted is not None else ()
    if wanted is not None and targets:
        return Route(model, wanted, targets)
    raise _absence(model, version, wanted)


def shadow_of(canary: Canary, place: float, rng: Random) -> Canary | None:
    """The canary, if a request at `place` that goes to the stable side is drawn to be copied to it.
    Who chose a side is not, as it is not counted."""
    if not canary.shadow or is_chosen(place):
        return None
    return canary if rng.random() < canary.shadow else None


def to_canary(model: ModelRoute, place: float) -> Route | None:
    """The way of a request with this place that names neither version nor label, where that leads
    to the canary; None where it leads to the live version."""
    canary = model.canary
    if canary is None or place >= canary.weight:
        return None
    targets = model.targets.get(canary.version) if model.side is None else model.side
    return Route(model, canary.version, targets) if targets else None


def is_interrupted(
    table: RoutingTable, name: str, version: Version | None = None, label: str | None = None
) -> bool:
    """Whether the version meant has no replica now and is worth waiting for: it is the live one, or
    one that a request starts (`is_held`).

    The live one has answered before and is wanted still, so its replicas are being restarted or
    replaced: holding the request for a moment saves it, where for a version that never answered it
    would only delay the refusal.
    """
    model = table.models.get(name)
    if model is None or model.live is None:
        return False
    wanted = _meant(model, version, label)
    if wanted == model.live and not model.targets.get(model.live):
        return True
    return is_held(table, name, version, label)


def is_held(
    table: RoutingTable, name: str, version: Version | None = None, label: str | None = None
) -> bool:
    """Whether the version meant has no replica now, and the next request starts one. To callers it
    is as good as there."""
    model = table.models.get(name)
    if model is None or not model.is_started_on_demand:
        return False
    wanted = _meant(model, version, label)
    if wanted is None or model.targets.get(wanted):
        return False
    return any(s.version == wanted and s.state is VersionState.READY for s in model.statuses)


def _meant(model: ModelRoute, version: Version | None, label: str | None) -> Version | None:
    if label is not None:
        return model.labels.get(label)
    return model.live if version is None else version


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
