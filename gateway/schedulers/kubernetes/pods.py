"""A pod as the API server shows it, cut down to what is used, and the replica that it is. Pure.

A container that is restarted in its pod is a new replica: it has lost what it held. So a replica is
called as its pod, with the number of restarts behind a dot from the first one on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.domain.replicas import Endpoint, Replica, ReplicaState
from gateway.schedulers.kubernetes import names, why

_STOCK_SPEAKS = ("tfs-rest", "tfs-grpc")
"""What TensorFlow Serving answers in; the gateway translates for other callers."""

_RESTARTS = re.compile(r"\.[0-9]+\Z")
"""Behind a pod's name. No name of a pod ends so: a Deployment's end with `-` and five letters."""


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a pod, as its node last said."""

    name: str
    image: str = ""
    is_running: bool = False
    has_started: bool = False
    """Its startup probe has passed."""
    is_done: bool = False
    """It ended with code 0, as init containers do."""
    waiting: str = ""
    """Kubernetes' own word (`ContainerCreating`, `CrashLoopBackOff`); empty when it is not."""
    message: str = ""
    exit_reason: str = ""
    exit_code: int | None = None
    """Of its last end."""
    last_words: str = ""
    """The last lines it wrote before that."""
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of ours."""

    name: str
    uid: str
    model: str
    group: str = ""
    template: str = ""
    revision: str = ""
    """Which of the Deployment's ReplicaSets it belongs to."""
    kind: str = "kit"
    created_at: str = ""
    ip: str = ""
    node: str = ""
    phase: str = ""
    phase_reason: str = ""
    is_deleted: bool = False
    """It is being ended, by whomever; how soon, its grace says."""
    is_draining: bool = False
    """Marked by us as too many."""
    deletion_cost: str = ""
    unscheduled: str = ""
    """Why no node takes it, in the scheduler's words."""
    gpu_type: str = ""
    prepare: tuple[Container, ...] = ()
    containers: tuple[Container, ...] = ()
    outputs: tuple[str, ...] = ()
    """Names of all its containers, begun or not, where there are several; the server's last."""

    @property
    def made_by(self) -> str:
        """The name of the Deployment, and so of its other objects."""
        return names.object_name(self.model, self.group)

    @property
    def restarts(self) -> int:
        """Of all its containers."""
        return sum(c.restarts for c in self.containers)

    @property
    def replica_id(self) -> str:
        """See the module."""
        return f"{self.name}.{self.restarts}" if self.restarts else self.name

    @property
    def is_over(self) -> bool:
        """It has ended for good, and its object is all that is left."""
        return self.phase in ("Failed", "Succeeded")

    @property
    def listens(self) -> bool:
        """Whether callers may be sent to it."""
        up = bool(self.containers) and all(c.is_running and c.has_started for c in self.containers)
        return up and bool(self.ip) and not self.is_over


def pod_of_replica(replica_id: str) -> str:
    """The name of a replica's pod."""
    return _RESTARTS.sub("", replica_id)


def pod_of(shown: Mapping[str, Any], product_label: str) -> Pod:
    """A pod from the API server's JSON."""
    metadata, spec, status = shown["metadata"], shown.get("spec", {}), shown.get("status", {})
    labels = metadata.get("labels") or {}
    annotations = metadata.get("annotations") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled", {})
    images = {c["name"]: c.get("image", "") for c in spec.get("containers", ())}
    said = {c["name"]: c for c in status.get("containerStatuses") or ()}
    return Pod(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        model=labels.get(names.MODEL) or labels.get(names.GROUP_OF, ""),
        group=labels.get(names.GROUP, ""),
        template=labels.get(names.TEMPLATE, ""),
        revision=labels.get("pod-template-hash", ""),
        kind=annotations.get(names.KIND, "kit"),
        created_at=metadata.get("creationTimestamp") or "",
        ip=status.get("podIP") or "",
        node=spec.get("nodeName") or "",
        phase=status.get("phase") or "",
        phase_reason=": ".join(filter(None, (status.get("reason"), status.get("message")))),
        is_deleted=bool(metadata.get("deletionTimestamp")),
        is_draining=names.DRAINING in annotations,
        deletion_cost=annotations.get(names.DELETION_COST, ""),
        unscheduled=scheduled.get("message", "") if scheduled.get("status") == "False" else "",
        gpu_type=(spec.get("nodeSelector") or {}).get(product_label, ""),
        prepare=tuple(_container(c) for c in status.get("initContainerStatuses") or ()),
        containers=tuple(
            _container({"name": name, "image": image, **said.get(name, {})})
            for name, image in images.items()
        ),
        outputs=_outputs([*(c["name"] for c in spec.get("initContainers") or ()), *images]),
    )


def _outputs(containers: Sequence[str]) -> tuple[str, ...]:
    several = len(containers) > 1
    return tuple(sorted(containers, key=lambda name: name == names.SERVER)) if several else ()


def _container(said: Mapping[str, Any]) -> Container:
    state, last = said.get("state") or {}, said.get("lastState") or {}
    waiting, ended = state.get("waiting") or {}, state.get("terminated")
    end = ended or last.get("terminated") or {}
    return Container(
        name=said["name"],
        image=said.get("image", ""),
        is_running="running" in state,
        has_started=said.get("started") is not False,
        is_done=ended is not None and ended.get("exitCode") == 0,
        waiting=waiting.get("reason", ""),
        message=waiting.get("message", "") or (ended or {}).get("message", ""),
        exit_reason=end.get("reason", ""),
        exit_code=end.get("exitCode"),
        last_words=end.get("message", ""),
        restarts=said.get("restartCount", 0),
    )


def replica_of(
    pod: Pod, *, is_wanted: bool = True, is_ending: bool = False, warning: str = ""
) -> Replica:
    """The replica that a pod is. `is_wanted`: its model is; `is_ending`: it is about to stop
    answering and is not to be waited for; `warning`: the last one the node gave."""
    state, reason = why.judge(pod, warning)
    endpoint = _endpoint(pod) if pod.listens else None
    if pod.is_deleted or pod.is_draining or not is_wanted:
        # A reason would say that nobody need wait for it; it answers for a while.
        state, reason = ReplicaState.DRAINING, "its pod is being stopped" if is_ending else ""
    return Replica(
        id=pod.replica_id,
        model=pod.model,
        state=state,
        endpoint=endpoint,
        template=pod.template,
        group=pod.group,
        restarts=pod.restarts,
        reason=reason,
        is_held_up=state is ReplicaState.STARTING and why.is_held_up(pod, warning),
        started_at=pod.created_at,
        outputs=pod.outputs,
    )


def _endpoint(pod: Pod) -> Endpoint:
    host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
    http, grpc = f"{host}:{names.HTTP_PORT}", f"{host}:{names.GRPC_PORT}"
    match pod.kind:
        case "agent":
            control = f"{host}:{names.AGENT_GRPC_PORT}"
            status = f"{host}:{names.AGENT_HTTP_PORT}"
            return Endpoint(http, grpc, control, status, _STOCK_SPEAKS)
        case "custom":
            return Endpoint(http, grpc, grpc)
        case _:
            return Endpoint(http, grpc, grpc, http)
