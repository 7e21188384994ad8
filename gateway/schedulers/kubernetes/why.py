"""Why a pod does not answer, in words: from what the scheduler and its node say of it. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway.domain.replicas import ReplicaState

if TYPE_CHECKING:
    from gateway.schedulers.kubernetes.pods import Container, Pod

_LONGEST = 600
"""Characters of a reason: the scheduler's words about a cluster of many kinds of nodes, and not a
model server's whole traceback."""

_IMAGE = {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"}
_REFUSED = {
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "StartError",
    "PreStartHookError",
    "PostStartHookError",
}


def judge(pod: Pod, warning: str = "") -> tuple[ReplicaState, str]:
    """STARTING, LOADING or FAILED, with the reason.

    A pod that waits for a node is STARTING: a GPU may become free, a node be added. One that is
    restarted again and again, or whose image is not there, is FAILED, although Kubernetes goes on
    trying.
    """
    if pod.is_over:
        return ReplicaState.FAILED, cut(f"its pod has ended: {pod.phase_reason or pod.phase}")
    if pod.unscheduled:
        return ReplicaState.STARTING, cut(_unscheduled(pod))
    for one in pod.prepare:
        if not one.is_done and (failed := _failed(one, "its before command")):
            return ReplicaState.FAILED, cut(failed)
    for one in pod.containers:
        what = "its container" if len(pod.containers) == 1 else f"its container {one.name}"
        if failed := _failed(one, what):
            return ReplicaState.FAILED, cut(failed)
    if pod.listens:
        return ReplicaState.LOADING, ""
    return ReplicaState.STARTING, cut(_starting(pod, warning))


def is_held_up(pod: Pod, warning: str = "") -> bool:
    """Whether something outside keeps it from starting: no node takes it, or the node warned of
    what it lacks (a volume, a sandbox). Once a container runs, it is that container's own start,
    of which a node warns as well (a startup probe that has not passed yet)."""
    runs = any(c.is_running for c in (*pod.prepare, *pod.containers))
    return bool(pod.unscheduled or (warning and not runs))


def cut(text: str) -> str:
    """One line, not too long; of what is too long the end is kept, which says most."""
    line = re.sub(r"\s*\n\s*", " | ", text.strip())
    return line if len(line) <= _LONGEST else f"{line[:120]} … {line[120 - _LONGEST :]}"


def _unscheduled(pod: Pod) -> str:
    # What follows says that evicting others would not help either.
    said = re.sub(r"\s*preemption: .*", "", pod.unscheduled, flags=re.DOTALL)
    if pod.gpu_type and "didn't match Pod's node affinity/selector" in said:
        said += f" (It asks for the GPU type {pod.gpu_type}: does any node have that?)"
    return said


def _failed(one: Container, what: str) -> str:
    """Why a container is not up and will hardly come up; empty when it may well."""
    if one.waiting in _IMAGE:
        said = one.message or one.waiting
        return f"image {one.image} cannot be had ({one.waiting}): {said}"
    if one.waiting in _REFUSED:
        return f"{what} cannot be started ({one.waiting}): {one.message}"
    ended = not one.is_running and not one.waiting and one.exit_code is not None
    if one.waiting == "CrashLoopBackOff" or ended:
        again = f", {one.restarts} restarts so far" if one.restarts else ""
        return f"{what} {_end(one)}{again}{_last_words(one)}"
    return ""


def _end(one: Container) -> str:
    if one.exit_reason == "OOMKilled":
        return "was killed for using more memory than --memory allows"
    if one.exit_code in (None, 0):
        return "ended by itself"
    if one.exit_code > 128:
        return f"was ended by signal {one.exit_code - 128}"
    return f"exited with code {one.exit_code}"


def _last_words(one: Container) -> str:
    lines = [line.strip() for line in one.last_words.splitlines() if line.strip()]
    return f": {' | '.join(lines[-5:])}" if lines else ""


def _starting(pod: Pod, warning: str) -> str:
    if warning:
        return warning
    for one in pod.prepare:
        if not one.is_done:
            return (
                "its before command runs" if one.is_running else "its before command is waited for"
            )
    if any(c.is_running for c in pod.containers):
        return "its container runs and does not listen yet"
    if pod.node:
        return f"its container is being made on {pod.node}"
    return "a node is being looked for"
