"""A pod as the API server shows it becomes a replica, with the reason why it does not answer."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.domain.replicas import Endpoint, ReplicaState
from gateway.schedulers.kubernetes import names
from gateway.schedulers.kubernetes.events import warning_of
from gateway.schedulers.kubernetes.pods import pod_of, pod_of_replica, replica_of

LABEL = "nvidia.com/gpu.product"
RUNNING = {"state": {"running": {}}, "started": True}


def shown(
    *, status: dict[str, Any] | None = None, annotations=None, containers=("server",), **metadata
) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "m-5d7f-abcde",
            "uid": "u1",
            "creationTimestamp": "2026-11-29T10:00:00Z",
            "labels": {names.MODEL: "m", names.TEMPLATE: "t1", "pod-template-hash": "5d7f"},
            "annotations": {names.KIND: "kit", **(annotations or {})},
            **metadata,
        },
        "spec": {
            "nodeName": "node-1",
            "nodeSelector": {LABEL: "A100"},
            "containers": [{"name": name, "image": f"{name}:1"} for name in containers],
        },
        "status": {"phase": "Running", "podIP": "10.0.0.7", **(status or {})},
    }


def with_containers(**states: dict[str, Any]) -> dict[str, Any]:
    said = [{"name": name, "restartCount": 0, **state} for name, state in states.items()]
    return shown(containers=tuple(states), status={"containerStatuses": said})


def replica(of: dict[str, Any], **more):
    return replica_of(pod_of(of, LABEL), **more)


def waiting(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": message}}, **more}


def ended(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def test_one_that_runs_listens_at_its_own_address():
    got = replica(with_containers(server=RUNNING))
    assert (got.id, got.model, got.state, got.reason) == (
        "m-5d7f-abcde", "m", ReplicaState.LOADING, "",
    )  # fmt: skip
    assert got.endpoint == Endpoint(
        "10.0.0.7:8501", "10.0.0.7:8500", "10.0.0.7:8500", "10.0.0.7:8501"
    )
    assert (got.template, got.started_at) == ("t1", "2026-11-29T10:00:00Z")


def test_stock_tensorflow_serving_is_controlled_through_the_agent_beside_it():
    of = with_containers(server=RUNNING, agent=RUNNING)
    of["metadata"]["annotations"][names.KIND] = "agent"
    of["status"]["podIP"] = "fd00::7"
    assert replica(of).endpoint == Endpoint(
        "[fd00::7]:8501",
        "[fd00::7]:8500",
        "[fd00::7]:8502",
        "[fd00::7]:8503",
        ("tfs-rest", "tfs-grpc"),
    )


def test_one_container_of_two_is_no_replica():
    of = with_containers(server=RUNNING, agent=waiting("ContainerCreating"))
    assert replica(of).state is ReplicaState.STARTING
    assert replica(of).endpoint is None


def test_the_containers_of_a_pod_are_outputs_of_their_own_from_the_beginning_on():
    assert replica(with_containers(server=RUNNING)).outputs == ()
    beside = shown(containers=("server", "agent"))
    assert replica(beside).outputs == ("agent", "server")
    beside["spec"]["initContainers"] = [{"name": "before"}]
    assert replica(beside).outputs == ("before", "agent", "server")


def test_a_restarted_container_is_a_new_replica():
    got = replica(with_containers(server={**RUNNING, "restartCount": 3}))
    assert got.id == "m-5d7f-abcde.3"
    assert got.restarts == 3
    assert pod_of_replica(got.id) == "m-5d7f-abcde"


@pytest.mark.parametrize("restarts", [0, 1, 12])
def test_one_of_a_canarys_own_says_its_group_and_is_found_by_its_id(restarts):
    of = with_containers(server={**RUNNING, "restartCount": restarts})
    of["metadata"]["name"] = "m.canary-5d7f-abcde"
    of["metadata"]["labels"] = {names.GROUP_OF: "m", names.GROUP: "canary"}
    got = replica(of)
    assert (got.model, got.group) == ("m", "canary")
    assert pod_of(of, LABEL).made_by == "m.canary"
    assert pod_of_replica(got.id) == "m.canary-5d7f-abcde"


@pytest.mark.parametrize(
    "of",
    [
        {**with_containers(server=RUNNING), "metadata": shown(deletionTimestamp="x")["metadata"]},
        {
            **with_containers(server=RUNNING),
            "metadata": shown(annotations={names.DRAINING: "true"})["metadata"],
        },
    ],
    ids=["deleted by anybody", "marked by us"],
)
def test_one_that_is_to_go_drains_and_goes_on_answering(of):
    got = replica(of)
    assert got.state is ReplicaState.DRAINING
    assert got.endpoint is not None
    assert got.reason == "", "a reason would say that nobody need wait for it"


def test_one_that_is_about_to_stop_answering_is_not_waited_for():
    of = with_containers(server=RUNNING)
    of["metadata"]["deletionTimestamp"] = "x"
    assert replica(of, is_ending=True).reason


def test_pods_of_a_model_that_should_not_be_drain():
    got = replica(with_containers(server=RUNNING), is_wanted=False)
    assert got.state is ReplicaState.DRAINING


UNSCHEDULED = {
    "phase": "Pending",
    "podIP": "",
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. preemption: 0/2 "
            "nodes are available: 2 No preemption victims found for incoming pod.",
        }
    ],
}

REASONS = [
    (
        "no node has room",
        shown(status=UNSCHEDULED),
        ReplicaState.STARTING,
        "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.",
    ),
    (
        "no node has the GPU type",
        shown(
            status={
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "message": "0/2 nodes are available: 2 node(s) didn't match Pod's node "
                        "affinity/selector.",
                    }
                ]
            }
        ),
        ReplicaState.STARTING,
        "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. "
        "(It asks for the GPU type A100: does any node have that?)",
    ),
    (
        "no such image",
        with_containers(server=waiting("ImagePullBackOff", 'Back-off pulling image "server:1"')),
        ReplicaState.FAILED,
        'image server:1 cannot be had (ImagePullBackOff): Back-off pulling image "server:1"',
    ),
    (
        "a secret is missing",
        with_containers(server=waiting("CreateContainerConfigError", 'secret "s" not found')),
        ReplicaState.FAILED,
        'its container cannot be started (CreateContainerConfigError): secret "s" not found',
    ),
    (
        "crashes again and again, with its last words",
        with_containers(
            server=waiting(
                "CrashLoopBackOff",
                "back-off 10s restarting failed container",
                lastState=ended(1, message="Traceback\n\n  boom\nValueError: no\n"),
                restartCount=2,
            )
        ),
        ReplicaState.FAILED,
        "its container exited with code 1, 2 restarts so far: Traceback | boom | ValueError: no",
    ),
    (
        "killed for memory",
        with_containers(server={"state": ended(137, "OOMKilled")}),
        ReplicaState.FAILED,
        "its container was killed for using more memory than --memory allows",
    ),
    (
        "killed by a signal",
        with_containers(server={"state": ended(137)}, agent=RUNNING),
        ReplicaState.FAILED,
        "its container server was ended by signal 9",
    ),
    (
        "the node put it out",
        shown(
            status={"phase": "Failed", "reason": "Evicted", "message": "The node was low on disk"}
        ),
        ReplicaState.FAILED,
        "its pod has ended: Evicted: The node was low on disk",
    ),
    (
        "the before command fails",
        shown(
            status={
                "phase": "Pending",
                "initContainerStatuses": [
                    {"name": "before", **waiting("CrashLoopBackOff", lastState=ended(3))}
                ],
            }
        ),
        ReplicaState.FAILED,
        "its before command exited with code 3",
    ),
    (
        "the before command runs",
        shown(
            status={
                "phase": "Pending",
                "initContainerStatuses": [{"name": "before", "state": {"running": {}}}],
            }
        ),
        ReplicaState.STARTING,
        "its before command runs",
    ),
    (
        "the probe has not passed",
        with_containers(server={"state": {"running": {}}, "started": False}),
        ReplicaState.STARTING,
        "its container runs and does not listen yet",
    ),
    (
        "being made",
        with_containers(server=waiting("ContainerCreating")),
        ReplicaState.STARTING,
        "its container is being made on node-1",
    ),
]


@pytest.mark.parametrize(
    ("of", "state", "reason"), [r[1:] for r in REASONS], ids=[r[0] for r in REASONS]
)
def test_why_it_does_not_answer(of, state, reason):
    got = replica(of)
    assert (got.state, got.reason, got.endpoint) == (state, reason, None)


def test_a_nodes_warning_says_why_a_container_is_not_made():
    event = {
        "reason": "FailedMount",
        "message": 'MountVolume.SetUp failed for volume "models"',
        "involvedObject": {"name": "m-5d7f-abcde", "uid": "u1"},
    }
    warning = warning_of(event)
    assert (warning.pod, warning.uid) == ("m-5d7f-abcde", "u1")
    got = replica(with_containers(server=waiting("ContainerCreating")), warning=warning.text)
    assert got.reason == 'FailedMount: MountVolume.SetUp failed for volume "models"'
    assert got.is_held_up


def test_what_keeps_it_from_starting_is_told_from_how_far_it_has_come():
    held_up = {row[0] for row in REASONS if replica(row[1]).is_held_up}
    assert held_up == {"no node has room", "no node has the GPU type"}
    # Of a container that runs a node warns too: its startup probe has not passed yet.
    starting = with_containers(server={"state": {"running": {}}, "started": False})
    assert not replica(starting, warning="Unhealthy: Startup probe failed").is_held_up
    assert not replica(with_containers(server=RUNNING), warning="Unhealthy: x").is_held_up


def test_a_warning_that_the_status_says_better_is_left_out():
    assert warning_of({"reason": "BackOff", "message": "x"}).text == ""


def test_long_reasons_keep_their_end():
    long = with_containers(
        server={"state": ended(1, message="first\n" + "x" * 5000 + "\nValueError: the last")}
    )
    reason = replica(long).reason
    assert reason.endswith("ValueError: the last")
    assert len(reason) < 700


def test_a_pod_of_which_hardly_anything_is_known_yet():
    bare = {"metadata": {"name": "m-1-a", "labels": {names.MODEL: "m"}}}
    got = replica(bare)
    assert (got.state, got.endpoint) == (ReplicaState.STARTING, None)
