"""Replicas as pods: ports.Scheduler on a Kubernetes namespace.

Two halves. Every gateway watches: pods, the warnings about them, and our other objects, so
`replicas()` is a look into memory and never a request. Only the one that acts writes, and only as a
consequence of `ensure` and `remove`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from functools import partial
from random import Random
from types import TracebackType
from typing import Any, Self

from gateway.domain.errors import NotFound, Unavailable
from gateway.domain.replicas import Replica, ReplicaSet, ReplicaState
from gateway.schedulers.kubernetes import logs, names
from gateway.schedulers.kubernetes.access import open_access
from gateway.schedulers.kubernetes.api import EVENTS, PODS, Api, Resource
from gateway.schedulers.kubernetes.applying import KINDS, Applier, Seen
from gateway.schedulers.kubernetes.events import PodWarning, warning_of
from gateway.schedulers.kubernetes.objects import Live, live_of
from gateway.schedulers.kubernetes.pods import Pod, pod_of, pod_of_replica, replica_of
from gateway.schedulers.kubernetes.settings import KubernetesSettings
from gateway.schedulers.kubernetes.watching import Watched
from gateway.telemetry import log

_OBJECTS = "-objects"
"""Behind the name of objects: the id of a replica that there is not, to show why there is none."""

_BEFORE_LEAVING_S = 1.0
"""So long before a pod stops answering it is taken out of the table, whatever else there is."""


class KubernetesScheduler:
    """ports.Scheduler. An async context manager; leaving it leaves everything as it is.

    Raises on entry:
        InvalidRequest, Unauthorized: no usable kubeconfig, see access.py; or credentials that the
            API server does not take.
        Forbidden: a right to look is missing; the words name it.
        NotFound: there is no such namespace (`namespace_unknown`).
    """

    def __init__(
        self,
        settings: KubernetesSettings,
        *,
        rng: Random | None = None,
    ) -> None:
        self._settings = settings
        self._rng = rng or Random()
        self._tasks = asyncio.TaskGroup()
        self._running: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()
        self._shown: tuple[Replica, ...] | None = None
        self._replicas: dict[str, Replica] = {}
        self._of_name: dict[str, dict[str, Pod]] = {}
        """Pods, by the name of what made them (`Pod.made_by`), as all that is by group."""
        self._ending: dict[str, asyncio.TimerHandle] = {}
        """Pods that are being ended, and when they are to be taken out at the latest."""
        self._ended: set[str] = set()
        self._warnings: dict[str, str] = {}
        self._waiting: dict[str, asyncio.Event] = {}
        self._raw: dict[tuple[Resource, str], Mapping[str, Any]] = {}

    def __repr__(self) -> str:
        states = {r.id: str(r.state) for r in self._replicas.values()}
        return f"KubernetesScheduler({self.api!r}, {states})"

    async def __aenter__(self) -> Self:
        self.api = Api(await open_access(self._settings), self._settings)
        await self.api.__aenter__()
        try:
            self._watch_all()
            await self._look_first()
        except BaseException:
            await self.api.__aexit__(None, None, None)
            raise
        await self._tasks.__aenter__()
        for work in (self._pods.run(), self._events.run(), self._applier.run()):
            self._running.append(self._tasks.create_task(work))
        for kept in self._objects.values():
            self._running.append(self._tasks.create_task(kept.run()))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._running:
            task.cancel()
        for timer in self._ending.values():
            timer.cancel()
        try:
            await self._tasks.__aexit__(kind, error, trace)
        finally:
            await self.api.__aexit__(kind, error, trace)

    # ---- the port --------------------

    async def ensure(self, desired: Sequence[ReplicaSet]) -> None:
        """See ports.Scheduler. Returns at once; the objects follow."""
        for name in self._applier.want(desired):
            self._judge_all(name)

    def replicas(self) -> Sequence[Replica]:
        """See ports.Scheduler."""
        self._news.clear()
        if self._shown is None:
            pods = sorted(self._replicas.values(), key=lambda r: (r.model, r.started_at, r.id))
            self._shown = (*pods, *self._missing())
        return self._shown

    async def changed(self) -> None:
        """See ports.Scheduler."""
        await self._news.wait()

    async def remove(self, replica_id: str) -> None:
        """See ports.Scheduler. Also returns when the replica is wanted after all."""
        name = pod_of_replica(replica_id)
        pod = self._pods.known.get(name)
        if pod is not None:
            self._applier.released.add(name)
            self._applier.touch(pod.made_by)
            await self._until(name, partial(self._is_done_with, name))
        elif name.endswith(_OBJECTS):
            of = name.removesuffix(_OBJECTS)
            self._applier.touch(of)
            await self._until(name, lambda: not self._has_objects(of))

    def logs(self, replica_id: str, *, follow: bool) -> AsyncIterator[bytes]:
        """See ports.Scheduler. Kubernetes keeps no output of pods that are gone. Followed, a
        container that has not begun yet is waited for."""
        whose, _, output = replica_id.partition("/")
        pod = self._pods.known.get(pod_of_replica(whose))
        if pod is not None and output:
            return self._output(pod, output, follow=follow)
        if pod is None:
            raise NotFound(
                f"There are no logs of a replica {replica_id!r}. `gateway get replicas` lists "
                "those that run; Kubernetes keeps none of a pod that is gone.",
                reason="replica_unknown",
            )
        name = pod.name
        return logs.read(
            logs.order(pod), lambda c, on: self.api.log(name, c, follow=on), follow=follow
        )

    def _output(self, pod: Pod, output: str, *, follow: bool) -> AsyncIterator[bytes]:
        if output not in pod.outputs:
            listed = f"; it has {', '.join(pod.outputs)}" if pod.outputs else ""
            raise NotFound(
                f"The replica {pod.replica_id} has no container {output!r}{listed}.",
                reason="replica_unknown",
            )

        def is_there() -> bool:
            now = self._pods.known.get(pod.name)
            return now is None or output in logs.order(now)

        return logs.one(
            lambda: self.api.log(pod.name, output, follow=follow),
            is_there,
            partial(self._until, pod.name, is_there) if follow else None,
        )

    async def stop_all(self) -> None:
        """Nothing: pods outlive their gateways."""

    def act_only_while(self, may_act: Callable[[], bool]) -> None:
        """Ask before each write: between two of them another gateway may begin to lead."""
        self.api.may_write = may_act

    def stand_down(self) -> None:
        """Only look from now on; `ensure` makes this gateway act again."""
        self._applier.stand_down()
        for name in list(self._of_name):
            self._judge_all(name)

    # ---- watching --------------------

    def _watch_all(self) -> None:
        ours = {"labelSelector": names.selector(self._settings)}
        of_pods = {"fieldSelector": "involvedObject.kind=Pod,type=Warning"}
        rest = (self._settings, self._rng)
        product_label = self._settings.gpu_product_label
        self._pods: Watched[Pod] = Watched(
            self.api, PODS, ours, lambda shown: pod_of(shown, product_label), self._on_pod, *rest
        )
        self._events: Watched[PodWarning] = Watched(
            self.api, EVENTS, of_pods, warning_of, self._on_warning, *rest
        )
        self._objects: dict[Resource, Watched[Live]] = {
            resource: Watched(
                self.api,
                resource,
                ours,
                partial(self._read, resource),
                partial(self._on_object, resource),
                *rest,
            )
            for resource in KINDS
        }
        live = {resource: kept.known for resource, kept in self._objects.items()}
        self._applier = Applier(
            self.api,
            Seen(lambda name: tuple(self._of_name.get(name, {}).values()), live, self._raw),
            self._is_synced,
            self._tell,
            *rest,
        )

    async def _look_first(self) -> None:
        """List everything, so that what is wrong is said before the gateway serves. Where the API
        server cannot be reached, serving begins without; the watches go on trying."""
        try:
            await self.api.check_namespace()
            await self._pods.start()
            for kept in self._objects.values():
                await kept.start()
            await self._events.start()
        except Unavailable as error:
            log.warning("kubernetes.unreachable", cause=error.message)

    def _is_synced(self) -> bool:
        return self._pods.is_synced and all(o.is_synced for o in self._objects.values())

    def _read(self, resource: Resource, shown: Mapping[str, Any]) -> Live:
        self._raw[resource, shown["metadata"]["name"]] = shown
        return live_of(shown)

    def _on_object(
        self, resource: Resource, name: str, before: Live | None, now: Live | None
    ) -> None:
        if now is None:
            self._raw.pop((resource, name), None)
            self._applier.forget_object(resource, name)
            self._done_waiting(name + _OBJECTS)
        self._applier.touch(name)
        self._tell()

    def _on_pod(self, name: str, before: Pod | None, now: Pod | None) -> None:
        made_by = (now or before).made_by  # type: ignore[union-attr] # one of them is there
        if now is None:
            self._of_name[made_by].pop(name, None)
            if not self._of_name[made_by]:
                del self._of_name[made_by]
            self._forget(name)
        else:
            self._of_name.setdefault(made_by, {})[name] = now
            if now.is_deleted and name not in self._ending:
                self._ending[name] = self._timer(now)
            self._judge(now)
        if now is None or before is None or _matters(before, now):
            self._applier.touch(made_by)
        self._done_waiting(name)
        self._tell()

    def _on_warning(self, name: str, before: PodWarning | None, now: PodWarning | None) -> None:
        warning = now or before
        assert warning is not None
        pod = self._pods.known.get(warning.pod)
        if pod is None or pod.uid != warning.uid:
            return
        if now is not None:
            self._warnings[pod.name] = now.text
        self._judge(pod)
        self._tell()

    def _timer(self, pod: Pod) -> asyncio.TimerHandle:
        """When it is taken out at the latest. What does not drain by itself needs the second half
        of its time for what was sent in the first; see containers.hold_s."""
        answers_s = self._settings.leave_s / (1 if pod.kind == "kit" else 2)
        after_s = max(0.0, answers_s - _BEFORE_LEAVING_S)
        return asyncio.get_running_loop().call_later(after_s, self._end, pod.name)

    def _end(self, name: str) -> None:
        """A pod that is being ended stops answering in a moment."""
        self._ended.add(name)
        if (pod := self._pods.known.get(name)) is not None:
            self._judge(pod)
            self._tell()

    def _forget(self, name: str) -> None:
        self._replicas.pop(name, None)
        self._warnings.pop(name, None)
        self._applier.forget(name)
        self._ended.discard(name)
        if (timer := self._ending.pop(name, None)) is not None:
            timer.cancel()

    # ---- showing --------------------

    def _judge(self, pod: Pod) -> None:
        self._replicas[pod.name] = replica_of(
            pod,
            is_wanted=not self._applier.is_unwanted(pod.made_by),
            is_ending=pod.name in self._ended,
            warning=self._warnings.get(pod.name, ""),
        )

    def _judge_all(self, name: str) -> None:
        for pod in self._of_name.get(name, {}).values():
            self._judge(pod)
        self._tell()

    def _tell(self) -> None:
        self._shown = None
        self._news.set()

    def _missing(self) -> list[Replica]:
        """For each group whose pods cannot be made, one that says why; for each that should not be
        there any more, one that lasts until its objects are gone."""
        shown = []
        deployments = self._objects[KINDS[-1]].known
        for name in {*deployments, *self._applier.troubles}:
            desired = self._applier.wanted(name)
            trouble = self._applier.troubles.get(name, "")
            if self._applier.is_unwanted(name):
                if not self._of_name.get(name):
                    shown.append(_absent(name, "", ReplicaState.DRAINING, trouble))
                continue
            live = deployments.get(name)
            pods = [p for p in self._of_name.get(name, {}).values() if not p.is_deleted]
            if not trouble and live is not None and desired and len(pods) < desired.wanted:
                trouble = live.trouble
            if trouble:
                template = desired.template if desired else ""
                shown.append(_absent(name, template, ReplicaState.FAILED, trouble))
        return sorted(shown, key=lambda r: r.id)

    # ---- waiting --------------------

    def _has_objects(self, name: str) -> bool:
        return name in self._objects[KINDS[-1]].known

    def _is_done_with(self, name: str) -> bool:
        pod = self._pods.known.get(name)
        return pod is None or self._replicas[name].state is not ReplicaState.DRAINING

    async def _until(self, name: str, is_done: Callable[[], bool]) -> None:
        while not is_done():
            await self._waiting.setdefault(name, asyncio.Event()).wait()

    def _done_waiting(self, name: str) -> None:
        if (waiting := self._waiting.pop(name, None)) is not None:
            waiting.set()


def _matters(before: Pod, now: Pod) -> bool:
    """Whether a pod's change may change what is to be done; most of what a node says does not."""
    keep: Collection[str] = ("is_deleted", "is_over", "is_draining", "listens", "revision")
    return any(getattr(before, k) != getattr(now, k) for k in keep)


def _absent(name: str, template: str, state: ReplicaState, why: str) -> Replica:
    model, group = names.of_object(name)
    return Replica(name + _OBJECTS, model, state, template=template, group=group, reason=why)
