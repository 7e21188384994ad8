"""What people want of models: deploy, scale, delete, look, list.

Every change is checked, stored with the generation it was based on, poked at the lifecycle, which
does the work, and written into the event log. Nothing here waits for replicas, reloads aside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.control import logs, schema, views
from gateway.control.canary import asked_again
from gateway.control.deploy import (
    DeployLimits,
    apply,
    check_program,
    with_protocols,
)
from gateway.control.events import EventLog
from gateway.control.looking import LookSettings, SourceLook
from gateway.control.reload import Reload
from gateway.control.scaling import check_replicas, refuse_fixed, replicas_words
from gateway.control.schema import DeployRequest, RolloutRequest
from gateway.domain.errors import Conflict, InvalidRequest, NotFound, Unavailable
from gateway.domain.models import ModelRecord, ModelSpec
from gateway.domain.names import Version
from gateway.domain.observed import ModelView
from gateway.domain.replicas import Replica
from gateway.domain.rollouts import Finding, RolloutView
from gateway.domain.tensors import Signature
from gateway.ports import Event, Observed, Scheduler, Signatures, Store, VersionSource

ACTIONS = ("start", "pause", "resume", "promote", "abort", "undo")

_ATTEMPTS = 3
"""Times that a change without a generation is tried again when another writer was a moment earlier.
Each time it is applied to what that writer left, so nothing is overwritten unseen."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """What a deploy led to."""

    model: schema.Model
    created: bool


class ModelsService:
    """All that the control API and TensorFlow Serving's reload can do to models."""

    def __init__(
        self,
        store: Store,
        source: VersionSource,
        observed: Observed,
        scheduler: Scheduler,
        events: EventLog | None = None,
        *,
        limits: DeployLimits | None = None,
        looking: LookSettings | None = None,
        signatures: Signatures | None = None,
    ) -> None:
        self.events = events or EventLog(store)
        self._store = store
        self._look = SourceLook(source, looking)
        self._source = source
        self._observed = observed
        self._scheduler = scheduler
        self._limits = limits or DeployLimits()
        self._signatures = signatures
        self._deleting: dict[str, ModelRecord] = {}

    def __repr__(self) -> str:
        return f"ModelsService(deleting={sorted(self._deleting)})"

    # ---- what is wanted --------------------

    async def deploy(
        self, name: str, request: DeployRequest, expected_generation: int | None = None
    ) -> Deployed:
        """Create or update a model. Asking for what is already stored changes nothing.

        The source is looked at before anything is stored, unless this is an update that does not
        touch it: replicas must be scalable while the storage is down.

        Raises:
            InvalidRequest, NotFound, Forbidden, Unavailable, Unimplemented: see deploy.py and
                looking.py; nothing was stored.
            Conflict: `stale_generation`, or the model exists with another backend
                (`backend_conflict`).
        """
        if isinstance(request.generation, int):
            if expected_generation not in (None, request.generation):
                raise Conflict(
                    "If-Match and `generation` name different generations; give one.",
                    reason="stale_generation",
                )
            expected_generation = request.generation
        for attempt in range(1, _ATTEMPTS + 1):
            old = await self._find(name)
            _check_generation(name, old, expected_generation)
            spec = await self.planned(name, request, old)
            try:
                return await self.keep(spec, old)
            except Conflict:
                if expected_generation is not None or attempt == _ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def planned(
        self,
        name: str,
        request: DeployRequest,
        old: ModelRecord | None,
        managed_by: str = "control",
    ) -> ModelSpec:
        """The spec that a request means, everything checked and nothing stored."""
        before = old.spec if old else None
        spec = replace(apply(name, request, before, self._limits), managed_by=managed_by)
        _check_rollout(spec, old)
        named = isinstance(request.backend, str)
        if before is not None and named:
            _check_backend(spec, before)
        if before is None and not named and (spec.command or spec.image):
            named = True  # a program of its own: custom, as `apply` has set it
        if before is None or _touches_source(spec, before):
            known = before.backend if before else None
            spec = await self._look.check(spec, named=named, known=known)
        if before is not None:
            _check_backend(spec, before)
        check_program(spec)
        self._limits.check(spec)
        return asked_again(with_protocols(spec), request, old.rollout if old else None)

    async def keep(self, spec: ModelSpec, old: ModelRecord | None) -> Deployed:
        """Store a checked spec, tell the lifecycle, and say what happened.

        Raises:
            Conflict: somebody else has changed the model since `old` was read.
        """
        name = spec.name
        if old is not None and old.spec == spec:
            self._observed.poke(name)
            return Deployed(views.model(old, self._observed.view(name)), created=False)
        record = await self._store.put(spec, old.generation if old else None)
        self._deleting.pop(name, None)
        self._observed.poke(name)
        if old is None:
            await self.events.emit(
                "model.deployed",
                name,
                f"{spec.backend.value} model from {spec.source} with {replicas_words(spec)}",
                generation=record.generation,
                source=spec.source,
                backend=spec.backend.value,
                replicas=spec.replicas,
            )
        else:
            changed = _changed(old.spec, spec)
            is_scaled = not set(changed) - {"replicas", "scaling"}
            kind = "model.scaled" if is_scaled else "model.updated"
            words = f"now {replicas_words(spec)}" if kind == "model.scaled" else "changed: "
            await self.events.emit(
                kind,
                name,
                words if kind == "model.scaled" else words + ", ".join(changed),
                generation=record.generation,
                changed=changed,
                replicas=spec.replicas,
            )
        return Deployed(views.model(record, self._observed.view(name)), created=old is None)

    async def scale(
        self, name: str, replicas: int, expected_generation: int | None = None
    ) -> schema.Model:
        """Ask for this many replicas of an existing model.

        Raises:
            NotFound: no such model. InvalidRequest: a number that cannot be (`bad_replicas`).
            Conflict: its requests decide how many there are (`autoscaled`).
        """
        check_replicas(replicas, self._limits.max_replicas)
        record = await self._existing(name)
        if record.spec.scaling is not None:
            raise refuse_fixed(name, record.spec.scaling)
        # The name is looked up again inside; one deleted in between is then missing its source.
        deployed = await self.deploy(name, DeployRequest(replicas=replicas), expected_generation)
        return deployed.model

    async def delete(self, name: str, expected_generation: int | None = None) -> schema.Model:
        """Stop wanting a model. Its replicas finish what they have begun; `model.deleted` is the
        lifecycle's event for the end of that. Deleting what is being deleted is no error."""
        record = await self._find(name)
        if record is None:
            waiting = self._still_deleting(name)
            if waiting is None:
                raise _unknown(name)
            return views.model(waiting, self._observed.view(name), deleting=True)
        await self._store.delete(name, expected_generation)
        self._deleting[name] = record
        self._observed.poke(name)
        await self.events.emit("model.deleting", name, "its replicas are finishing")
        return views.model(record, self._observed.view(name), deleting=True)

    async def refresh(self, name: str) -> schema.Model:
        """Have the model's source looked at now."""
        record = await self._existing(name)
        self._observed.poke(name)
        return views.model(record, self._observed.view(name))

    async def reload(self, request: bytes, deadline_at: float) -> bytes:
        """ports.Reloader: TensorFlow Serving's HandleReloadConfigRequest, see reload.py."""
        reload = Reload(self, self._store, self._source, self._observed)
        return await reload.run(request, deadline_at)

    # ---- what there is --------------------

    async def model(self, name: str) -> schema.Model:
        """One model. Raises NotFound."""
        record = await self._find(name)
        if record is not None:
            return views.model(record, self._observed.view(name))
        waiting = self._still_deleting(name)
        if waiting is None:
            raise _unknown(name)
        return views.model(waiting, self._observed.view(name), deleting=True)

    async def models(self) -> list[schema.Model]:
        """All models by name, those that are being deleted among them."""
        records = {r.spec.name: r for r in await self._store.models()}
        shown = [views.model(r, self._observed.view(n)) for n, r in records.items()]
        for name in sorted(self._deleting.keys() - records.keys()):
            waiting = self._still_deleting(name)
            if waiting is not None:
                shown.append(views.model(waiting, self._observed.view(name), deleting=True))
        return sorted(shown, key=lambda m: m.name)

    async def described(self, name: str) -> tuple[Version, Mapping[str, Signature]]:
        """A model's live version, and its signatures as a replica tells them now.

        Raises:
            NotFound: no such model. Unavailable: none of its versions answers yet
            (`version_loading`), or no replica could say (`no_selectable_replica`).
        """
        record = await self._existing(name)
        view = self._observed.view(name)
        live = view.live if view is not None else None
        if live is None or self._signatures is None:
            raise Unavailable(
                f"Model {name!r} does not answer yet, and only its replicas know what it takes. "
                f"`gateway describe model {name}` says how far it is.",
                reason="version_loading",
                retry_after_s=1.0,
            )
        if view is not None and view.is_idle:
            raise Unavailable(
                f"Model {name!r} has no replica while nobody asks, and only its replicas know what "
                f"it takes. `gateway snippet {name}` and any request start one; then ask again.",
                reason="no_selectable_replica",
                retry_after_s=5.0,
            )
        return live, await self._signatures.of(name, live, record.spec.speaks)

    async def versions(self, name: str | None = None) -> list[schema.ModelVersion]:
        """Versions of one model (NotFound if there is none), or of all."""
        return [
            version
            for record, view in await self._views(name)
            for version in views.versions(record, view)
        ]

    async def replicas(self, name: str | None = None) -> list[schema.Replica]:
        """Replicas of one model (NotFound if there is none), or of all."""
        return [
            replica
            for record, view in await self._views(name)
            for replica in views.replicas(record, view.replicas)
        ]

    async def rollouts(self, name: str | None = None) -> list[schema.Rollout]:
        """The newest rollout of one model (NotFound if there is none), or of all."""
        return [
            views.rollout(view.name, view.rollout, record.spec if record else None)
            for record, view in await self._views(name)
            if view.rollout is not None
        ]

    async def order_rollout(self, name: str, request: RolloutRequest) -> schema.Rollout:
        """Start, steer or undo a rollout.

        Raises:
            NotFound: no such model. InvalidRequest: no such action (`bad_action`).
            Conflict, FailedPrecondition, InvalidRequest: see core/rollout.py.
        """
        if request.action not in ACTIONS:
            raise InvalidRequest(
                f"action must be one of {', '.join(ACTIONS)}; got {request.action[:40]!r}.",
                reason="bad_action",
            )
        version = request.version if isinstance(request.version, int) else None
        if version is not None and request.action != "start":
            raise InvalidRequest(
                f"version is for `start`; {request.action} is of the rollout that there is.",
                reason="bad_version",
            )
        spec = (await self._existing(name)).spec
        ordered = await self._observed.order(name, request.action, version)
        view = self._observed.view(name)
        known = view.rollout if view is not None else None
        if known is None or known.rollout.started_at != ordered.started_at:
            return views.rollout(name, RolloutView(ordered, Finding()), spec)
        return views.rollout(name, dataclasses.replace(known, rollout=ordered), spec)

    async def log_sources(self, name: str, replica: str | None) -> list[str]:
        """What has written the output that is meant: the replica that is named, or its part, or all
        of the model's; of a replica with several outputs each of them.

        Raises:
            NotFound: no such model (`model_unknown`), or no such replica of it (`replica_unknown`).
        """
        if replica is None:
            await self._existing(name)
            return [s for r in self._scheduler.replicas() if r.model == name for s in _outputs(r)]
        # Also one that has stopped, and one whose model was deleted: logs outlive both.
        known = {r.id: r for r in self._scheduler.replicas()}
        whose = replica.partition("/")[0]
        if (known[whose].model if whose in known else whose.rpartition("-")[0]) != name:
            raise NotFound(
                f"Model {name!r} has no replica {replica!r}. `gateway get replicas {name}` lists "
                "them.",
                reason="replica_unknown",
            )
        async for _ in self._scheduler.logs(replica, follow=False):
            break  # raises NotFound, while it can still be answered, if there is none
        return _outputs(known[replica]) if replica in known else [replica]

    async def logs(
        self,
        replica_ids: Sequence[str],
        write: Callable[[bytes], Awaitable[None]],
        *,
        prefix: bool,
        follow: bool,
    ) -> None:
        """Write the output of replicas; see logs.py."""
        await logs.copy(self._scheduler, replica_ids, write, prefix=prefix, follow=follow)

    async def list_events(
        self, *, after: int = 0, model: str | None = None, limit: int = 1000
    ) -> Sequence[Event]:
        """As ports.Store."""
        return await self.events.events(after=after, model=model, limit=limit)

    # ---- looking up --------------------

    async def _find(self, name: str) -> ModelRecord | None:
        return next((r for r in await self._store.models() if r.spec.name == name), None)

    async def _existing(self, name: str) -> ModelRecord:
        record = await self._find(name)
        if record is None:
            raise _unknown(name)
        return record

    def _still_deleting(self, name: str) -> ModelRecord | None:
        """The record of a deleted model that the lifecycle still has something of."""
        if self._observed.view(name) is None:
            self._deleting.pop(name, None)
        return self._deleting.get(name)

    async def _views(self, name: str | None) -> list[tuple[ModelRecord | None, ModelView]]:
        records = {r.spec.name: r for r in await self._store.models()}
        if name is not None and name not in records and self._still_deleting(name) is None:
            raise _unknown(name)
        names = [name] if name is not None else sorted(records.keys() | self._deleting.keys())
        found = [(records.get(n), self._observed.view(n)) for n in names]
        return [(record, view) for record, view in found if view is not None]


def _unknown(name: str) -> NotFound:
    return NotFound(
        f"There is no model {name!r}. `gateway get models` lists those there are.",
        reason="model_unknown",
    )


def _check_generation(name: str, old: ModelRecord | None, expected: int | None) -> None:
    found = old.generation if old else 0
    if expected is not None and expected != found:
        raise Conflict(
            f"Model {name!r} has changed since it was read: it is at generation {found}, not "
            f"{expected}. Read it again and repeat the change.",
            reason="stale_generation",
        )


def _check_rollout(spec: ModelSpec, old: ModelRecord | None) -> None:
    """Refuse to take the steps from under a rollout: its version would go live at once."""
    rollout = old.rollout if old is not None else None
    if spec.canary is None and rollout is not None and not rollout.is_over:
        raise Conflict(
            f"canary (--canary) cannot be taken away while version {rollout.version} of "
            f"{spec.name} is being rolled out. First `gateway rollout promote {spec.name}` or "
            f"`gateway rollout abort {spec.name}`.",
            reason="rollout_in_progress",
        )


def _check_backend(spec: ModelSpec, old: ModelSpec) -> None:
    if spec.backend is not old.backend:
        raise Conflict(
            f"Model {spec.name!r} exists with backend {old.backend.value}, and "
            f"{'this' if spec.source == old.source else spec.source} is {spec.backend.value}. "
            f"Use another name, or `gateway delete model {spec.name}` first.",
            reason="backend_conflict",
        )


def _touches_source(spec: ModelSpec, old: ModelSpec) -> bool:
    return (spec.source, spec.policy, spec.require_manifest) != (
        old.source,
        old.policy,
        old.require_manifest,
    )


def _changed(old: ModelSpec, new: ModelSpec) -> list[str]:
    names = [f.name for f in dataclasses.fields(ModelSpec)]
    return [n for n in names if getattr(old, n) != getattr(new, n)]


def _outputs(replica: Replica) -> list[str]:
    """As ports.Scheduler's `logs` is asked for them."""
    return [f"{replica.id}/{output}" for output in replica.outputs] or [replica.id]
