"""Make the objects of each model as they should be. The only writer.

Each group of a model is by itself: all that is known of it goes by the name that its objects have
(`names.object_name`), which for a model's own replicas is the model's. One of a few workers settles
it: whatever is heard of it puts it in the queue, and settling looks at everything of it anew. What
the API server refuses is tried again later, and why is shown as long as it is so. Nothing is
written before the first `want`, nor after `stand_down`: that is for the one gateway that acts,
where several look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from gateway.core.shrinking import Member, shrink
from gateway.domain.errors import GatewayError
from gateway.domain.replicas import ReplicaSet
from gateway.schedulers.kubernetes import names
from gateway.schedulers.kubernetes.api import (
    BUDGETS,
    DEPLOYMENTS,
    NOT_LEADER,
    SERVICES,
    Api,
    Resource,
)
from gateway.schedulers.kubernetes.api import PODS as POD_RESOURCE
from gateway.schedulers.kubernetes.manifests import Manifests, applied, manifests
from gateway.schedulers.kubernetes.objects import Live, is_as_made
from gateway.schedulers.kubernetes.pods import Pod
from gateway.schedulers.kubernetes.settings import KubernetesSettings
from gateway.telemetry import log

KINDS = (SERVICES, BUDGETS, DEPLOYMENTS)

Key = tuple[Resource, str]

# A watch tells within milliseconds. Where it has told of both ends of an object's life at once (all
# was listed anew), nothing more comes, and what was sent must not be waited for for ever.
_UNHEARD_S = 30.0

# Between looks whether all there is was heard of, where the API server was away at the start.
_UNREADY_S = 1.0

# Any below 0, the default: whoever adds costs of their own stays between.
_COST, _FIRST_COST = "-1000", "-2000"


class Seen:
    """What is known of each group's objects, for the one who settles it."""

    def __init__(
        self,
        pods: Callable[[str], Sequence[Pod]],
        live: Mapping[Resource, Mapping[str, Live]],
        shown: dict[Key, Mapping[str, Any]],
    ) -> None:
        self.pods = pods
        self.live = live
        self.shown = shown
        """Objects that were heard of since their group was last settled, whole."""


class Applier:
    """Settles groups of models. `run` it in a TaskGroup; `is_ready` says whether all is known."""

    def __init__(
        self,
        api: Api,
        seen: Seen,
        is_ready: Callable[[], bool],
        on_trouble: Callable[[], None],
        settings: KubernetesSettings,
        rng: Random,
    ) -> None:
        self.troubles: dict[str, str] = {}
        """Why objects are not as they should be, by their name."""
        self.released: set[str] = set()
        """Draining pods that nobody is sent to any more."""
        self._api = api
        self._seen = seen
        self._is_ready = is_ready
        self._on_trouble = on_trouble
        self._settings = settings
        self._rng = rng
        self._desired: dict[str, ReplicaSet] | None = None
        self._made: dict[str, tuple[ReplicaSet, Manifests]] = {}
        self._incomparable: dict[Key, str] = {}
        self._sent: dict[Key, tuple[str, float]] = {}
        """Digests of what was applied, uids of what was deleted, of which the watch has not told
        yet, and when they were sent."""
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._queued: set[str] = set()
        self._busy: set[str] = set()
        self._again: set[str] = set()
        self._failures: dict[str, int] = {}
        self._timers: set[asyncio.TimerHandle] = set()

    def __repr__(self) -> str:
        return f"Applier(queued={len(self._queued)}, troubles={self.troubles})"

    # ---- what is wanted --------------------

    def wanted(self, name: str) -> ReplicaSet | None:
        """What there should be by this name; None where nothing should be."""
        return None if self._desired is None else self._desired.get(name)

    def is_unwanted(self, name: str) -> bool:
        """Whether it is known that nothing should be there by this name."""
        return self._desired is not None and name not in self._desired

    def want(self, desired: Sequence[ReplicaSet]) -> set[str]:
        """Make it so; returns the names of which something changed."""
        now = {_name_of(d): d for d in desired}
        if self._desired is None:
            changed = {*now, *(name for known in self._seen.live.values() for name in known)}
        else:
            was = self._desired
            changed = {n for n in now.keys() | was.keys() if now.get(n) != was.get(n)}
        self._desired = now
        for name in changed:
            self.touch(name)
        return changed

    def stand_down(self) -> None:
        """Write nothing more until somebody wants something again: another gateway acts now."""
        self._desired = None
        self.released.clear()
        self.troubles.clear()
        self._failures.clear()

    def forget(self, pod: str) -> None:
        """A pod is gone."""
        self.released.discard(pod)

    def forget_object(self, resource: Resource, name: str) -> None:
        """An object is gone, by whomever."""
        self._sent.pop((resource, name), None)

    def touch(self, name: str) -> None:
        """Something that goes by this name has changed: settle it."""
        if name in self._busy:
            self._again.add(name)
        elif name not in self._queued:
            self._queued.add(name)
            self._queue.put_nowait(name)

    # ---- settling --------------------

    async def run(self) -> None:
        """Work for ever."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._settings.concurrent_calls):
                    tasks.create_task(self._work())
        finally:
            for timer in self._timers:
                timer.cancel()

    async def _work(self) -> None:
        while True:
            name = await self._queue.get()
            self._queued.discard(name)
            if self._desired is None:
                continue  # `want` touches it again
            if not self._is_ready():
                self._later(name, _UNREADY_S)
                continue
            self._busy.add(name)
            try:
                await self._settle(name)
            except GatewayError as error:
                if error.reason == NOT_LEADER:
                    # `stand_down` is about to be called, or the lead was confirmed too late and is
                    # to go on; it is nothing that a model should be said to suffer from.
                    self._later(name, _UNREADY_S)
                else:
                    self._fail(name, error)
            else:
                self._failures.pop(name, None)
                self._say(name, "")
            finally:
                self._busy.discard(name)
            if name in self._again:
                self._again.discard(name)
                self.touch(name)

    async def _settle(self, name: str) -> None:
        pods = self._seen.pods(name)
        for pod in pods:
            if pod.is_over and not pod.is_deleted:
                # Its successor is made already; a pod that has ended stays for nobody but people,
                # who have its end as an event.
                await self._api.delete(POD_RESOURCE, pod.name, pod.uid)
        here = [p for p in pods if not p.is_deleted and not p.is_over]
        desired = self.wanted(name)
        if desired is None:
            # All pods go together: a Deployment that is deleted makes no new one, and what it has
            # is ended with it.
            if all(p.name in self.released for p in here):
                await self._delete(name)
            return
        names.check(desired.spec, self._settings)
        members = [_member(p) for p in here]
        step = shrink(desired.wanted, members, self.released)
        for pod_name in step.unmark:
            self.released.discard(pod_name)
            await self._api.annotate(pod_name, {names.DRAINING: None, names.DELETION_COST: None})
        for pod_name in step.mark:
            await self._mark(pod_name, _COST)
        for pod_name in step.first:
            await self._mark(pod_name, _FIRST_COST)
        made = self._manifests(desired)
        for resource, manifest in zip(
            KINDS, (made.service, made.budget, made.with_replicas(step.replicas)), strict=True
        ):
            if manifest is not None:
                await self._apply(resource, name, manifest)

    def _manifests(self, desired: ReplicaSet) -> Manifests:
        name = _name_of(desired)
        known = self._made.get(name)
        if known is None or known[0] != desired:
            made = manifests(desired, self._api.namespace, self._settings)
            known = self._made[name] = (desired, made)
        return known[1]

    async def _mark(self, pod: str, cost: str) -> None:
        await self._api.annotate(pod, {names.DRAINING: "true", names.DELETION_COST: cost})

    async def _apply(self, resource: Resource, name: str, manifest: Mapping[str, Any]) -> None:
        """Apply one object, unless it is there as it should be, or it is not ours to say any more:
        another gateway may have begun to lead since its turn came."""
        if self.wanted(name) is None:
            return
        live = self._seen.live[resource].get(name)
        digest = applied(dict(manifest))
        key = (resource, name)
        shown = self._seen.shown.pop(key, None)
        if self._is_unheard(key, digest, live is not None and live.applied == digest):
            return
        if live is not None and live.applied == digest:
            is_comparable = self._incomparable.get(key) != digest
            if shown is None or not is_comparable or is_as_made(shown, manifest):
                return
            log.event("kubernetes.put_back", resource=resource.name, name=name)
        answer = await self._api.apply(resource, manifest, is_ours=live is not None)
        self._note(key, digest)
        if not is_as_made(answer, manifest):
            # The server writes something of it in another way; comparing would never end.
            self._incomparable[key] = digest

    def _note(self, key: Key, what: str) -> None:
        self._sent[key] = (what, asyncio.get_running_loop().time())

    def _is_unheard(self, key: Key, what: str, is_heard: bool) -> bool:
        """Whether `what` was sent and is still to be heard of: nothing is said twice."""
        sent, at = self._sent.get(key, ("", 0.0))
        if sent != what:
            return False
        if is_heard or asyncio.get_running_loop().time() - at > _UNHEARD_S:
            del self._sent[key]
            return False
        return True

    async def _delete(self, name: str) -> None:
        """Delete what there is by this name and should not be."""
        for resource in KINDS:
            if not self.is_unwanted(name):
                return  # asked for again, or another gateway leads
            live, key = self._seen.live[resource].get(name), (resource, name)
            if live is not None and not self._is_unheard(key, live.uid, is_heard=False):
                await self._api.delete(resource, name, live.uid)
                self._note(key, live.uid)
            self._seen.shown.pop(key, None)
            self._incomparable.pop(key, None)
        self._made.pop(name, None)

    # ---- failing --------------------

    def _fail(self, name: str, error: GatewayError) -> None:
        """Show why, and come back later."""
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        full = self._settings.first_retry_s * 2.0 ** min(failures, 16)
        delay_s = min(self._settings.last_apply_retry_s, max(full, error.retry_after_s or 0.0))
        self._say(name, error.message)
        self._later(name, delay_s)

    def _later(self, name: str, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._timers = {t for t in self._timers if not t.cancelled() and t.when() > loop.time()}
        delay_s *= 0.5 + 0.5 * self._rng.random()
        self._timers.add(loop.call_later(delay_s, self.touch, name))

    def _say(self, name: str, why: str) -> None:
        if self.troubles.get(name, "") == why:
            return
        model, group = names.of_object(name)
        if why:
            log.warning("kubernetes.apply_failed", model=model, group=group, cause=why)
            self.troubles[name] = why
        else:
            log.event("kubernetes.apply_recovered", model=model, group=group)
            del self.troubles[name]
        self._on_trouble()


def _name_of(desired: ReplicaSet) -> str:
    return names.object_name(desired.spec.name, desired.group)


def _member(pod: Pod) -> Member:
    return Member(
        name=pod.name,
        revision=pod.revision,
        listens=pod.listens,
        is_marked=pod.is_draining,
        is_first=pod.deletion_cost == _FIRST_COST,
        order=f"{pod.created_at} {pod.name}",
    )
