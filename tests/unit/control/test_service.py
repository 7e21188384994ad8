"""Deploying, scaling and deleting: what is stored, what is refused, and in which words."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from gateway.control.bodies import parse
from gateway.control.schema import DeployRequest
from gateway.domain.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    Unavailable,
    Unimplemented,
)
from gateway.domain.models import All, Backend, Latest, Specific, VersionState
from gateway.domain.replicas import ReplicaState
from tests.parts.fakes_control import published, view

R = VersionState.READY
S = "s3://b/m"


def request(**keys) -> DeployRequest:
    return parse(msgspec.json.encode(keys), DeployRequest)


async def test_the_first_deploy_stores_the_model_and_tells_everybody(world):
    deployed = await world.service.deploy("m", request(source=S, replicas=2))
    assert deployed.created
    assert (deployed.model.backend, deployed.model.state) == ("onnx", "pending")
    (record,) = await world.store.models()
    assert record.spec.replicas == 2
    assert record.spec.managed_by == "control"
    assert world.observed.poked == ["m"]
    (event,) = await world.store.events()
    assert (event.type, event.model, event.fields["replicas"]) == ("model.deployed", "m", 2)


async def test_everything_that_can_be_said_is_stored(world):
    keys = {
        "source": S + "/",
        "backend": "onnx",
        "versions": "2,1",
        "labels": {"golden": 1},
        "gpus": 1,
        "gpu_type": "A100",
        "cpu": 1.5,
        "memory": "8Gi",
        "before": "true",
        "after": "false",
        "batch_size": 8,
        "batch_delay_ms": 2,
        "timeout_s": 1,
        "in_flight_limit": 5,
        "tenant": "default",
        "min_replicas": 3,
        "max_replicas": 3,
    }
    model = (await world.service.deploy("m", request(**keys))).model
    (record,) = await world.store.models()
    spec = record.spec
    assert spec.source == S
    assert spec.policy == Specific((1, 2))
    assert spec.resources.memory_bytes == 8 << 30
    assert (spec.resources.gpus, spec.resources.cpus) == (1, 1.5)
    assert (spec.batching.max_rows, spec.batching.delay_s) == (8, 0.002)
    assert (spec.replicas, spec.timeout_s, spec.in_flight_limit) == (3, 1, 5)
    again = await world.service.deploy("m", request(**model.spec))
    assert not again.created
    assert again.model.generation == 1
    assert [r.spec for r in await world.store.models()] == [spec]


async def test_the_spec_of_a_model_makes_another_one_like_it(world):
    model = (await world.service.deploy("m", request(source=S, memory="1Gi"))).model
    await world.service.deploy("twin", request(**model.spec))
    first, second = await world.store.models()
    assert first.spec.resources == second.spec.resources
    assert first.spec.policy == second.spec.policy


async def test_an_update_keeps_what_it_does_not_name_and_null_resets(world):
    await world.service.deploy("m", request(source=S, replicas=3, memory="1Gi", cpu=2))
    model = (await world.service.deploy("m", request(memory=None, versions="all"))).model
    assert (model.generation, model.replicas, model.policy) == (2, 3, "all")
    assert (model.spec["memory"], model.spec["cpu"]) == (None, 2)
    assert (await world.store.events())[-1].fields["changed"] == ["policy", "resources"]


async def test_asking_for_what_is_so_changes_nothing_but_looks_again(world):
    await world.service.deploy("m", request(source=S))
    world.observed.poked.clear()
    again = await world.service.deploy("m", request(source=S))
    assert (again.created, again.model.generation) == (False, 1)
    assert world.observed.poked == ["m"]
    assert len(await world.store.events()) == 1


async def test_an_update_that_leaves_the_source_alone_works_while_it_is_down(world):
    await world.service.deploy("m", request(source=S))
    world.source.versions[S] = Unavailable("down", reason="source_unreachable")
    assert (await world.service.scale("m", 4)).replicas == 4
    assert (await world.service.deploy("m", request(batch_size=1))).model.generation == 3
    with pytest.raises(Unavailable):
        await world.service.deploy("m", request(versions="all"))


REFUSED = [
    ({}, InvalidRequest, "bad_source", "source (--source) is missing"),
    ({"source": ""}, InvalidRequest, "bad_source", "--source"),
    ({"source": "models/m"}, InvalidRequest, "bad_source", "a relative one"),
    ({"source": "http://h/m"}, InvalidRequest, "bad_source", "s3://"),
    ({"source": "s3:///m"}, InvalidRequest, "bad_source", "no bucket"),
    ({"source": "file://host/m"}, InvalidRequest, "bad_source", "file:///"),
    ({"source": "/"}, InvalidRequest, "bad_source", "folder"),
    ({"source": "s3://key:secret@b/m"}, InvalidRequest, "bad_source", "credentials"),
    ({"source": "s3://[b/m"}, InvalidRequest, "bad_source", "URI"),
    ({"replicas": -1}, InvalidRequest, "bad_replicas", "replicas (--replicas) must be from 1"),
    ({"replicas": 1001}, InvalidRequest, "bad_replicas", "1000"),
    ({"replicas": 0}, InvalidRequest, "bad_replicas", "--min-replicas 0 --max-replicas N"),
    ({"min_replicas": 2}, InvalidRequest, "bad_replicas", "needs max_replicas (--max-replicas)"),
    ({"min_replicas": 2, "max_replicas": None}, InvalidRequest, "bad_replicas", "needs max"),
    ({"max_replicas": 1001}, InvalidRequest, "bad_replicas", "max_replicas (--max-replicas)"),
    ({"target_in_flight": 2}, InvalidRequest, "bad_replicas", "--target-in-flight"),
    ({"replicas": 2, "idle_s": 2}, InvalidRequest, "bad_replicas", "needs max_replicas"),
    ({"max_replicas": 2, "target_in_flight": 0}, InvalidRequest, "bad_target", "0.01"),
    ({"max_replicas": 2, "idle_s": 0.5}, InvalidRequest, "bad_idle_s", "idle_s (--idle-s)"),
    ({"min_replicas": 3, "max_replicas": 1}, InvalidRequest, "bad_replicas", "is above"),
    ({"min_replicas": -3, "max_replicas": 1}, InvalidRequest, "bad_replicas", "min_replicas"),
    ({"min_replicas": 0, "max_replicas": 0}, InvalidRequest, "bad_replicas", "max_replicas"),
    ({"replicas": 1, "min_replicas": 1}, InvalidRequest, "bad_replicas", "exclude"),
    ({"versions": "newest"}, InvalidRequest, "bad_versions", "--versions"),
    ({"versions": "3,9"}, InvalidRequest, "version_not_in_source", "it has 1, 2"),
    ({"labels": {"stable": 1}}, InvalidRequest, "bad_labels", "stable"),
    ({"labels": {"a b": 1}}, InvalidRequest, "bad_label", "label"),
    ({"labels": {"a": -1}}, InvalidRequest, "bad_labels", "a=-1"),
    ({"labels": {str(i): 1 for i in range(101)}}, InvalidRequest, "bad_labels", "100"),
    ({"gpus": -1}, InvalidRequest, "bad_gpus", "gpus (--gpus) must be from 0"),
    ({"gpus": 65}, InvalidRequest, "bad_gpus", "64"),
    ({"gpu_type": "A100"}, InvalidRequest, "bad_gpu_type", "gpus (--gpus)"),
    ({"cpu": 0}, InvalidRequest, "bad_cpu", "cpu (--cpu)"),
    ({"memory": "lots"}, InvalidRequest, "bad_size", "memory (--memory)"),
    ({"batch_size": 0}, InvalidRequest, "bad_batch_size", "--batch-size"),
    ({"batch_delay_ms": -1}, InvalidRequest, "bad_batch_delay_ms", "--batch-delay-ms"),
    ({"timeout_s": 0}, InvalidRequest, "bad_timeout_s", "timeout_s must be"),
    ({"in_flight_limit": 0}, InvalidRequest, "bad_in_flight_limit", "in_flight_limit"),
    ({"backend": "pytorch"}, InvalidRequest, "bad_backend", "onnx, tensorflow, caffe, custom"),
    ({"backend": "caffe"}, InvalidRequest, "backend_mismatch", "which is onnx"),
    ({"backend": "custom"}, InvalidRequest, "custom_needs_program", "--command"),
    ({"command": ["x"], "backend": "onnx"}, InvalidRequest, "bad_command", "custom"),
    ({"command": 'a "b'}, InvalidRequest, "bad_command", "shell"),
    ({"command": ["\0"]}, InvalidRequest, "bad_command", "NUL"),
    ({"image": "x:1"}, Unimplemented, "images_not_offered", "--image"),
    ({"tenant": "other"}, Unimplemented, "tenants_not_offered", "--tenant"),
    ({"shadow": "10%"}, InvalidRequest, "bad_canary", "shadow (--shadow) needs the steps"),
    ({"canary": "5", "shadow": "0"}, InvalidRequest, "bad_shadow", "above 0%"),
    ({"canary": "5", "shadow": "101%"}, InvalidRequest, "bad_shadow", "from 0 to 100"),
    ({"canary": "5", "shadow": "ten"}, InvalidRequest, "bad_shadow", "as 10%"),
    ({"canary": "5", "shadow": "nan"}, InvalidRequest, "bad_shadow", "as 10%"),
    ({"canary": "5", "shadow_max_flips": 1}, InvalidRequest, "bad_shadow", "shadow (--shadow)"),
    (
        {"canary": "5", "shadow": 10, "shadow_max_flips": "100%"},
        InvalidRequest,
        "bad_shadow",
        "--shadow-max-flips",
    ),
    (
        {"canary": "5", "shadow": 10, "shadow_max_differing": -1},
        InvalidRequest,
        "bad_shadow",
        "--shadow-max-differing",
    ),
    (
        {"canary": "5", "shadow": 10, "shadow_tolerance": 11},
        InvalidRequest,
        "bad_shadow",
        "--shadow-tolerance",
    ),
    ({"canary": "5,x"}, InvalidRequest, "bad_canary", "canary (--canary)"),
    ({"canary": "25,5"}, InvalidRequest, "bad_canary", "growing percents"),
    ({"canary": [5, 100]}, InvalidRequest, "bad_canary", "below 100"),
    ({"canary": []}, InvalidRequest, "bad_canary", "as 5,25,50"),
    ({"canary": [0, 5]}, InvalidRequest, "bad_canary", "above 0"),
    ({"canary_samples": 5}, InvalidRequest, "bad_canary", "--canary"),
    ({"canary": "5", "canary_samples": 0}, InvalidRequest, "bad_canary", "--canary-samples"),
    ({"canary": "5", "canary_step_s": -1}, InvalidRequest, "bad_canary", "--canary-step-s"),
    ({"canary": "5", "canary_key": "a b"}, InvalidRequest, "bad_canary", "--canary-key"),
    ({"canary": "5", "canary_key": "x-bin"}, InvalidRequest, "bad_canary", "--canary-key"),
    ({"before": "x" * 5000}, InvalidRequest, "bad_before", "--before"),
    ({"require_manifest": True}, InvalidRequest, "manifest_missing", "gateway publish"),
    ({"replcas": 1}, InvalidRequest, "unknown_key", "Did you mean 'replicas'? Known are source"),
    ({"replicas": "2"}, InvalidRequest, "bad_body", "replicas (--replicas) must be an integer"),
    ({"replicas": 1.5}, InvalidRequest, "bad_body", "--replicas"),
    ({"labels": {"a": "x"}}, InvalidRequest, "bad_body", "labels[...] must be an integer"),
    ({"memory": []}, InvalidRequest, "bad_body", "memory (--memory) must be an integer or a str"),
]


@pytest.mark.parametrize(
    ("keys", "kind", "reason", "words"), REFUSED, ids=[f"{list(r[0])}-{r[2]}" for r in REFUSED]
)
async def test_what_is_wrong_is_refused_in_words_and_changes_nothing(
    world, keys, kind, reason, words
):
    async def attempt() -> None:
        await world.service.deploy("m", request(**({"source": S} if keys else {}) | keys))

    with pytest.raises(kind) as caught:
        await attempt()
    assert caught.value.reason == reason
    assert words in caught.value.message
    assert list(await world.store.models()) == []
    assert list(await world.store.events()) == []


@pytest.mark.parametrize("name", ["", "a/b", "-a", "a b", "é", "x" * 129])
async def test_a_name_that_urls_would_mangle_is_refused(world, name):
    with pytest.raises(InvalidRequest) as caught:
        await world.service.deploy(name, request(source=S))
    assert caught.value.reason == "bad_model_name"


@pytest.mark.parametrize(
    ("found", "kind", "reason"),
    [
        (NotFound("no bucket", reason="source_not_found"), NotFound, "source_not_found"),
        (Forbidden("wrong key", reason="source_denied"), Forbidden, "source_denied"),
        (Unavailable("refused", reason="source_unreachable"), Unavailable, "source_unreachable"),
        ([], InvalidRequest, "source_empty"),
        ([published(1, "README.md", "x.bin")], InvalidRequest, "backend_unknown"),
        ([published(1)], InvalidRequest, "backend_unknown"),
        ([published(1, "model.onnx", "saved_model.pb")], InvalidRequest, "backend_unknown"),
        ([published(1, "assets/model.onnx")], InvalidRequest, "backend_unknown"),
        ([published(1, "readme", settled=False)], InvalidRequest, "backend_unknown"),
    ],
)
async def test_a_source_that_cannot_be_served_is_refused_before_anything_is_stored(
    world, found, kind, reason
):
    world.source.versions[S] = found
    with pytest.raises(kind) as caught:
        await world.service.deploy("m", request(source=S))
    assert caught.value.reason == reason
    assert list(await world.store.models()) == []


async def test_words_for_an_unknown_backend_say_what_was_found_and_what_is_known(world):
    world.source.versions[S] = [published(1, *(f"f{i}" for i in range(15)))]
    with pytest.raises(InvalidRequest) as caught:
        await world.service.deploy("m", request(source=S))
    for words in ("version 1 has f0", "and 5 more", "saved_model.pb", "*.caffemodel", "--backend"):
        assert words in caught.value.message


async def test_a_source_that_hangs_is_given_up_in_time(world):
    world.source.hangs = True
    with pytest.raises(Unavailable, match="did not answer within"):
        await world.service.deploy("m", request(source=S))


@pytest.mark.parametrize("pointer_only", [True, False])
@pytest.mark.parametrize(
    ("files", "backend"),
    [
        (["model.onnx"], "onnx"),
        (["net.onnx", "weights.bin"], "onnx"),
        (["saved_model.pb", "variables/variables.index"], "tensorflow"),
        (["saved_model.pb", "assets/x.onnx"], "tensorflow"),
        (["deploy.prototxt", "net.caffemodel"], "caffe"),
    ],
)
async def test_the_backend_is_seen_from_the_files(world, files, backend, pointer_only):
    world.source.pointer_only = pointer_only
    world.source.versions[S] = [published(1, *files)]
    assert (await world.service.deploy("m", request(source=S))).model.backend == backend


async def test_a_version_that_is_still_uploading_is_no_error(world):
    world.source.versions[S] = [
        published(1, "model.onnx"),
        published(2, "model.onnx.part", settled=False),
    ]
    assert (await world.service.deploy("m", request(source=S))).model.backend == "onnx"
    world.source.versions["s3://b/new"] = [published(1, "half", settled=False)]
    named = await world.service.deploy("n", request(source="s3://b/new", backend="onnx"))
    assert named.created


async def test_a_program_of_its_own_needs_no_known_files(world):
    world.source.versions[S] = [published(1, "weights.bin")]
    model = await world.service.deploy("m", request(source=S, command="./serve -p {http_port}"))
    assert model.model.backend == "custom"
    (record,) = await world.store.models()
    assert record.spec.command == ("./serve", "-p", "{http_port}")


async def test_a_name_that_another_backend_has_is_a_conflict(world):
    await world.service.deploy("m", request(source=S))
    world.source.versions["s3://b/tf"] = [published(1, "saved_model.pb")]
    for keys in ({"source": "s3://b/tf"}, {"source": "s3://b/tf", "backend": "tensorflow"}):
        with pytest.raises(Conflict, match="exists with backend onnx") as caught:
            await world.service.deploy("m", request(**keys))
        assert caught.value.reason == "backend_conflict"
    (record,) = await world.store.models()
    assert (record.generation, record.spec.backend) == (1, Backend.ONNX)


async def test_a_generation_that_is_not_the_newest_is_a_conflict(world):
    await world.service.deploy("m", request(source=S))
    await world.service.scale("m", 2)
    for change in (
        world.service.deploy("m", request(replicas=3), 1),
        world.service.deploy("m", request(replicas=3, generation=1)),
        world.service.deploy("m", request(replicas=3, generation=2), 1),
        world.service.scale("m", 3, 1),
        world.service.delete("m", 1),
        world.service.deploy("new", request(source=S), 5),
    ):
        with pytest.raises(Conflict) as caught:
            await change
        assert caught.value.reason == "stale_generation"
    assert (await world.service.deploy("m", request(replicas=3, generation=2))).model.replicas == 3


async def test_two_changes_at_once_both_hold(world):
    await world.service.deploy("m", request(source=S))
    async with asyncio.TaskGroup() as group:
        group.create_task(world.service.deploy("m", request(replicas=5)))
        group.create_task(world.service.deploy("m", request(batch_size=7)))
    (record,) = await world.store.models()
    assert (record.spec.replicas, record.spec.batching.max_rows) == (5, 7)


async def test_deleting_shows_deleting_until_the_lifecycle_has_nothing_left(world):
    await world.service.deploy("m", request(source=S))
    world.observed.show(view(versions={2: R}, replicas={"m-a": ReplicaState.READY}, live=2))
    assert (await world.service.delete("m")).state == "deleting"
    assert (await world.service.delete("m")).state == "deleting"
    assert (await world.service.model("m")).state == "deleting"
    assert [m.state for m in await world.service.models()] == ["deleting"]
    assert [r.id for r in await world.service.replicas("m")] == ["m-a"]
    world.observed.show(None, "m")
    assert await world.service.models() == []
    for gone in (world.service.model("m"), world.service.delete("m"), world.service.replicas("m")):
        with pytest.raises(NotFound) as caught:
            await gone
        assert caught.value.reason == "model_unknown"


async def test_a_model_deployed_while_it_is_being_deleted_counts_on(world):
    await world.service.deploy("m", request(source=S))
    world.observed.show(view(versions={2: R}, live=2, converged=True))
    await world.service.delete("m")
    model = (await world.service.deploy("m", request(source=S))).model
    assert (model.generation, model.state) == (2, "deploying")


async def test_scaling_and_refreshing_what_is_not_there(world):
    for call in (world.service.scale("m", 2), world.service.refresh("m")):
        with pytest.raises(NotFound):
            await call
    with pytest.raises(InvalidRequest):
        await world.service.scale("m", -2)


async def test_the_policy_of_a_deploy_is_stored_as_meant(world):
    for text, policy in (("latest:2", Latest(2)), ("all", All()), ("2", Specific((2,)))):
        await world.service.deploy("m", request(source=S, versions=text))
        assert (await world.store.models())[0].spec.policy == policy


N, F, L = VersionState.NEW, VersionState.FAILED, VersionState.LOADING
READY, DEAD, STARTING = ReplicaState.READY, ReplicaState.FAILED, ReplicaState.STARTING


@pytest.mark.parametrize(
    ("shown", "state", "reason"),
    [
        (view(generation=0), "deploying", "applied"),
        (view(), "deploying", "waiting for a version"),
        (view(versions={1: L}, replicas={"m-a": STARTING}), "deploying", "version 1: loading"),
        (view(versions={1: R}, live=1, replicas={"m-a": READY}, converged=True), "ready", None),
        (view(versions={1: R, 2: L}, live=1, replicas={"m-a": READY}), "deploying", "version 2"),
        (view(versions={1: R, 2: F}, live=1, reason="bad op"), "degraded", "version 2: bad op"),
        (
            view(versions={1: R}, live=1, replicas={"m-a": READY, "m-b": DEAD}, reason="exit 1"),
            "degraded",
            "replica m-b: exit 1",
        ),
        (view(versions={1: R}, live=1, source_reason="403"), "degraded", "source: 403"),
        (view(versions={1: F}, reason="bad op"), "failed", "version 1: bad op"),
        (view(versions={1: N}, replicas={"m-a": DEAD}, reason="no GPU"), "failed", "no GPU"),
        (view(versions={1: F, 2: L}, reason="bad op"), "deploying", "version 2"),
        (view(versions={1: F, 2: N}, reason="bad op"), "failed", "version 1: bad op"),
        (
            view(versions={1: N}, replicas={"m-a": DEAD, "m-b": STARTING}, reason="exit 1"),
            "deploying",
            "version 1: new",
        ),
        (view(source_reason="no such bucket"), "failed", "no such bucket"),
    ],
)
async def test_the_state_says_what_the_lifecycle_sees(world, shown, state, reason):
    await world.service.deploy("m", request(source=S, replicas=2))
    world.observed.show(shown)
    model = await world.service.model("m")
    assert model.state == state
    assert (model.reason is None) if reason is None else (reason in (model.reason or ""))


async def test_what_a_model_shows_of_its_view(world):
    await world.service.deploy("m", request(source=S, labels={"golden": 1}))
    world.observed.show(view(versions={1: R, 2: R}, live=2, replicas={"m-a": READY, "m-b": DEAD}))
    model = await world.service.model("m")
    assert (model.live_version, model.versions, model.ready_replicas) == (2, [1, 2], 1)
    assert model.labels == {"stable": 2, "golden": 1}
    newest, oldest = await world.service.versions("m")
    assert (newest.version, newest.live, newest.labels) == (2, True, ["stable"])
    assert oldest.labels == ["golden"]
    first, second = await world.service.replicas()
    assert (first.endpoint, first.grpc_endpoint, first.pid) == ("127.0.0.1:1", "127.0.0.1:2", 7)
    assert second.state == "failed"
