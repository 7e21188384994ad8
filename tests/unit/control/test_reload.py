"""HandleReloadConfigRequest on the gateway: who owns what, what is waited for, what is refused."""

from __future__ import annotations

import asyncio
import math

import pytest

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_errors import grpc_code
from gateway.control.schema import DeployRequest
from gateway.domain.errors import (
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    GatewayError,
    InvalidRequest,
    NotFound,
)
from gateway.domain.models import Latest, Specific, VersionState
from tests.parts.fakes_control import published, view

S = "s3://b/m"
READY = VersionState.READY


def config(*models: dict) -> bytes:
    request = tfs_pb2.ReloadConfigRequest()
    request.config.model_config_list.SetInParent()
    for model in models:
        one = request.config.model_config_list.config.add()
        one.name, one.base_path = model.get("name", "m"), model.get("base_path", S)
        one.model_platform = model.get("platform", "")
        if "specific" in model:
            one.model_version_policy.specific.versions.extend(model["specific"])
        for label, version in model.get("labels", {}).items():
            one.version_labels[label] = version
    return request.SerializeToString()


async def reloaded(world, *models: dict, ready: bool = True, within_s: float = 1.0) -> bytes:
    """Reload, and have every stored model answer as soon as it is poked."""
    deadline_at = asyncio.get_running_loop().time() + within_s
    if ready:
        poke = world.observed.poke

        def answer(name: str) -> None:
            poke(name)
            world.observed.show(view(name, generation=9, versions={1: READY, 2: READY}, live=2))

        world.observed.poke = answer
    return await world.service.reload(config(*models), deadline_at)


def names(records) -> dict[str, str]:
    return {r.spec.name: r.spec.managed_by for r in records}


async def test_a_reload_adds_what_it_names_and_waits_until_it_answers(world):
    answer = tfs_pb2.ReloadConfigResponse.FromString(await reloaded(world, {"specific": [1]}))
    assert (answer.status.error_code, answer.status.error_message) == (0, "")
    (record,) = await world.store.models()
    assert record.spec.managed_by == "reload"
    assert record.spec.policy == Specific((1,))
    assert (record.spec.source, record.spec.backend) == (S, "onnx")


async def test_a_plain_path_is_a_file_source(world):
    world.source.versions["file:///models/m"] = [published(1, "saved_model.pb")]
    await reloaded(world, {"base_path": "/models/m", "platform": "tensorflow"})
    assert (await world.store.models())[0].spec.source == "file:///models/m"


async def test_what_a_reload_omits_goes_only_if_a_reload_had_added_it(world):
    await world.service.deploy("mine", DeployRequest(source=S))
    await reloaded(world, {"name": "a"}, {"name": "b"})
    assert names(await world.store.models()) == {"mine": "control", "a": "reload", "b": "reload"}
    await reloaded(world, {"name": "b"})
    assert names(await world.store.models()) == {"mine": "control", "b": "reload"}
    await reloaded(world)
    assert names(await world.store.models()) == {"mine": "control"}


async def test_a_model_of_the_control_api_is_updated_and_stays_its_own(world):
    await world.service.deploy("m", DeployRequest(source=S, replicas=3, memory="1Gi"))
    world.observed.show(view(versions={1: READY, 2: READY}, live=2))
    await reloaded(world, {"specific": [1], "labels": {"golden": 1}})
    (record,) = await world.store.models()
    assert record.spec.policy == Specific((1,))
    assert record.spec.labels == {"golden": 1}
    assert (record.spec.replicas, record.spec.resources.memory_bytes) == (3, 1 << 30)
    assert (record.spec.managed_by, record.generation) == ("control", 2)


async def test_the_same_configuration_again_changes_nothing(world):
    await reloaded(world, {"name": "a"})
    await reloaded(world, {"name": "a"})
    assert [r.generation for r in await world.store.models()] == [1]
    assert (await world.store.models())[0].spec.policy == Latest()


async def test_a_model_taken_over_by_a_deploy_is_no_longer_the_reloads(world):
    await reloaded(world, {"name": "a"})
    await world.service.deploy("a", DeployRequest(replicas=2))
    await reloaded(world)
    assert names(await world.store.models()) == {"a": "control"}


async def test_a_label_on_a_version_that_is_not_loaded_changes_nothing(world):
    await world.service.deploy("m", DeployRequest(source=S))
    world.observed.show(view(versions={2: READY}, live=2))
    with pytest.raises(FailedPrecondition, match="label to version 1 of model m, which") as caught:
        await reloaded(world, {"name": "new"}, {"labels": {"golden": 1}})
    assert grpc_code(caught.value) == 9
    assert names(await world.store.models()) == {"m": "control"}


@pytest.mark.parametrize(("label", "fine"), [(2, True), (1, False), (9, False)])
async def test_a_label_of_a_new_model_must_be_of_a_version_that_it_will_load(world, label, fine):
    if fine:
        await reloaded(world, {"labels": {"golden": label}})
        return
    with pytest.raises(FailedPrecondition):
        await reloaded(world, {"labels": {"golden": label}})
    assert list(await world.store.models()) == []


async def test_new_models_that_fail_are_told_with_their_reason(world):
    def poke(name: str) -> None:
        shown = {
            "a": view("a", versions={2: VersionState.FAILED}, reason="bad op"),
            "b": view("b", versions={2: READY}, live=2),
        }
        asyncio.get_running_loop().call_later(0.01, world.observed.show, shown[name])

    world.observed.poke = poke
    with pytest.raises(GatewayError) as caught:
        await reloaded(world, {"name": "a"}, {"name": "b"}, ready=False)
    words = "1 model(s) did not become available: {a due to error: version 2: bad op}"
    assert caught.value.message == words
    assert grpc_code(caught.value) == 2
    assert len(await world.store.models()) == 2


async def test_new_models_that_are_not_there_in_time(world):
    with pytest.raises(GatewayError, match=r"2 model\(s\) did not become available") as caught:
        await reloaded(world, {"name": "a"}, {"name": "b"}, ready=False, within_s=0.05)
    assert grpc_code(caught.value) == 2


async def test_no_deadline_is_no_deadline(world):
    await world.service.deploy("m", DeployRequest(source=S))
    await world.service.reload(config({"name": "m"}), math.inf)


async def test_sources_that_do_not_answer_before_the_deadline_change_nothing(world):
    world.source.hangs = True
    with pytest.raises(DeadlineExceeded):
        await reloaded(world, {}, within_s=0.05)
    assert list(await world.store.models()) == []


@pytest.mark.parametrize(
    ("request_bytes", "kind"),
    [
        (b"\xff\xff", InvalidRequest),
        (b"", InvalidRequest),
        (config({"name": ""}), InvalidRequest),
        (config({"name": "a/b"}), InvalidRequest),
        (config({"base_path": ""}), InvalidRequest),
        (config({"base_path": "relative"}), InvalidRequest),
        (config({}, {}), InvalidRequest),
        (config({"platform": "caffe2"}), InvalidRequest),
        (config({"labels": {"stable": 2}}), InvalidRequest),
        (config({"base_path": "s3://b/none"}), NotFound),
        (config({"specific": [1, 7]}), InvalidRequest),
        (config(*({"name": f"m{i}"} for i in range(1001))), InvalidRequest),
        (config({"name": "good"}, {"base_path": "s3://b/none"}), NotFound),
    ],
)
async def test_a_configuration_that_cannot_be_meant_changes_nothing(world, request_bytes, kind):
    with pytest.raises(kind):
        await world.service.reload(request_bytes, math.inf)
    assert list(await world.store.models()) == []


async def test_another_backend_is_a_conflict(world):
    await world.service.deploy("m", DeployRequest(source=S))
    with pytest.raises(Conflict):
        await reloaded(world, {"platform": "tensorflow"})
