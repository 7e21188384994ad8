"""What every store must do: the definition of ports.Store, run on each implementation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from gateway.domain.errors import Conflict, NotFound
from gateway.domain.models import (
    All,
    Backend,
    Batching,
    CanaryPlan,
    Latest,
    ModelSpec,
    Resources,
    ShadowPlan,
    Specific,
)
from gateway.domain.rollouts import Phase, Rollout
from gateway.domain.templates import Template, TemplateChange
from gateway.ports import Event, Store
from gateway.store import MemoryStore, StoreSettings, open_store

SPEC = ModelSpec("resnet", "s3://models/resnet", Backend.ONNX)
FULL = ModelSpec(
    name="full",
    source="file:///models/fü ll",
    backend=Backend.CUSTOM,
    replicas=7,
    policy=Specific((3, 2**63 - 1)),
    labels={"golden": 3},
    resources=Resources(2, "NVIDIA-A100", 1.5, 8 << 30),
    batching=Batching(8, 0.005),
    image="registry/image:1",
    command=("./serve", "--port", "{http_port}"),
    before="true",
    after="echo 'it is done'",
    timeout_s=1.25,
    in_flight_limit=5,
    require_manifest=True,
    canary=CanaryPlan(
        (5.0, 25.0, 50.5), 100, 0.5, "x-user", ShadowPlan(0.1, 0.001, max_flips=0.02), 2
    ),
    tenant="default",
    managed_by="reload",
)
KEPT = 20


KINDS = ["memory", "sqlite", "postgres"]


@pytest.fixture(params=KINDS)
async def store(request, tmp_path) -> AsyncIterator[Store]:
    if request.param == "memory":
        made: Store = MemoryStore(max_events=KEPT)
    elif request.param == "sqlite":
        made = await open_store(tmp_path / "state", StoreSettings(max_events=KEPT))
    else:
        url = request.getfixturevalue("postgres").database()
        made = await open_store(url, StoreSettings(max_events=KEPT))
    yield made
    await made.aclose()


async def test_a_new_store_is_empty(store):
    assert list(await store.models()) == []
    assert list(await store.events()) == []


@pytest.mark.parametrize("spec", [SPEC, FULL], ids=["defaults", "everything set"])
async def test_a_spec_comes_back_as_it_went_in(store, spec):
    record = await store.put(spec, None)
    assert record.spec == spec
    assert list(await store.models()) == [record]
    assert record.generation == 1
    assert record.created_at == record.updated_at
    assert record.created_at.endswith("Z")
    assert record.live_version is None


@pytest.mark.parametrize("policy", [Latest(), Latest(5), All(), Specific(()), Specific((1, 2))])
async def test_every_policy_keeps_its_kind(store, policy):
    record = await store.put(replace(SPEC, policy=policy), None)
    assert record.spec.policy == policy
    assert type(record.spec.policy) is type(policy)
    assert (await store.models())[0].spec.policy == policy


async def test_models_are_listed_by_name(store):
    for name in ("b", "c", "a"):
        await store.put(replace(SPEC, name=name), None)
    assert [r.spec.name for r in await store.models()] == ["a", "b", "c"]


async def test_a_change_names_the_generation_it_read_and_raises_it_by_one(store):
    first = await store.put(SPEC, None)
    await store.set_live("resnet", 4)
    second = await store.put(replace(SPEC, replicas=3), first.generation)
    assert (second.generation, second.spec.replicas, second.live_version) == (2, 3, 4)
    assert second.created_at == first.created_at


async def test_a_stale_writer_changes_nothing(store):
    first = await store.put(SPEC, None)
    second = await store.put(replace(SPEC, replicas=3), first.generation)
    with pytest.raises(Conflict) as caught:
        await store.put(replace(SPEC, replicas=9), first.generation)
    assert caught.value.reason == "stale_generation"
    assert list(await store.models()) == [second]


async def test_creating_what_exists_is_a_conflict(store):
    await store.put(SPEC, None)
    with pytest.raises(Conflict) as caught:
        await store.put(replace(SPEC, replicas=9), None)
    assert caught.value.reason == "model_exists"
    assert (await store.models())[0].spec == SPEC


async def test_replacing_what_does_not_exist_is_a_conflict(store):
    with pytest.raises(Conflict) as caught:
        await store.put(SPEC, 1)
    assert caught.value.reason == "stale_generation"
    assert list(await store.models()) == []


async def test_of_two_writers_that_read_the_same_one_wins(store):
    first = await store.put(SPEC, None)
    wins: list[int] = []
    refused: list[str] = []

    async def write(replicas: int) -> None:
        try:
            await store.put(replace(SPEC, replicas=replicas), first.generation)
            wins.append(replicas)
        except Conflict as error:
            refused.append(error.reason)

    async with asyncio.TaskGroup() as group:
        for replicas in range(2, 8):
            group.create_task(write(replicas))
    assert len(wins) == 1
    assert refused == ["stale_generation"] * 5
    assert (await store.models())[0].spec.replicas == wins[0]


async def test_the_live_version_is_remembered_without_a_new_generation(store):
    await store.put(SPEC, None)
    for version in (2**63 - 1, 0, None):
        await store.set_live("resnet", version)
        (record,) = await store.models()
        assert (record.live_version, record.generation) == (version, 1)


async def test_the_live_version_of_an_unknown_model_is_not_found(store):
    with pytest.raises(NotFound):
        await store.set_live("nobody", 1)


async def test_a_rollout_is_remembered_without_a_new_generation(store):
    await store.put(SPEC, None)
    assert (await store.models())[0].rollout is None
    full = Rollout(
        2**63 - 1, 3, Phase.ROLLING_BACK, (5.0, 25.5), 1, "it is slower — «so»", "a", "b", (1, 2)
    )
    for rollout in (full, Rollout(2, 1), None):
        await store.set_rollout("resnet", rollout)
        (record,) = await store.models()
        assert (record.rollout, record.generation) == (rollout, 1)


async def test_a_rollout_outlives_a_change_of_the_spec_and_not_the_model(store):
    await store.put(SPEC, None)
    await store.set_rollout("resnet", Rollout(2, 1))
    changed = await store.put(replace(SPEC, replicas=3), 1)
    assert changed.rollout == Rollout(2, 1)
    await store.delete("resnet")
    with pytest.raises(NotFound):
        await store.set_rollout("resnet", Rollout(2, 1))
    assert (await store.put(SPEC, None)).rollout is None


async def test_what_runs_is_remembered_beside_what_is_wanted(store):
    await store.put(SPEC, None)
    assert (await store.models())[0].running is None
    full = Template(
        Resources(2, "A100", 1.5, 2**40), Batching(1, 0.005), "r/s:1", ("x", "«y»"), "b", "a"
    )
    for running in (Template(), full):
        await store.set_running("resnet", running)
        changed = await store.put(
            replace(SPEC, image="r/s:2"), (await store.models())[0].generation
        )
        assert changed.running == running
    change = TemplateChange(full, Template(), 3)
    rollout = Rollout(1, 1, Phase.PAUSED, (5.0,), change=change, rejected_templates=("k.0",))
    await store.set_rollout("resnet", rollout)
    assert (await store.models())[0].rollout == rollout
    await store.delete("resnet")
    with pytest.raises(NotFound):
        await store.set_running("resnet", full)
    assert (await store.put(SPEC, None)).running is None


async def test_a_deleted_model_is_gone(store):
    await store.put(SPEC, None)
    await store.delete("resnet")
    assert list(await store.models()) == []
    with pytest.raises(NotFound) as caught:
        await store.delete("resnet")
    assert caught.value.reason == "model_unknown"


async def test_a_stale_delete_deletes_nothing(store):
    await store.put(SPEC, None)
    await store.put(replace(SPEC, replicas=2), 1)
    with pytest.raises(Conflict) as caught:
        await store.delete("resnet", 1)
    assert caught.value.reason == "stale_generation"
    assert len(await store.models()) == 1


async def test_a_model_made_again_counts_on_so_that_old_readers_stay_stale(store):
    await store.put(SPEC, None)
    await store.put(replace(SPEC, replicas=2), 1)
    await store.delete("resnet")
    again = await store.put(SPEC, None)
    assert (again.generation, again.live_version) == (3, None)
    with pytest.raises(Conflict):
        await store.put(SPEC, 1)


async def test_events_get_numbers_without_holes_and_a_time(store):
    kept = [await store.append(Event("t", "m", f"{i}", {"i": i})) for i in range(5)]
    assert [e.seq for e in kept] == [1, 2, 3, 4, 5]
    assert all(e.at.endswith("Z") for e in kept)
    assert list(await store.events()) == kept


async def test_events_after_a_number_come_oldest_first_up_to_the_limit(store):
    for i in range(10):
        await store.append(Event("t", "m", str(i)))
    assert [e.seq for e in await store.events(after=3, limit=4)] == [4, 5, 6, 7]
    assert list(await store.events(after=10)) == []
    assert list(await store.events(after=99)) == []


async def test_events_without_a_position_are_the_newest(store):
    for i in range(10):
        await store.append(Event("t", "m", str(i)))
    assert [e.seq for e in await store.events(limit=3)] == [8, 9, 10]


async def test_events_of_one_model(store):
    for i in range(6):
        await store.append(Event("t", "ab"[i % 2], str(i)))
    assert [e.seq for e in await store.events(model="b")] == [2, 4, 6]
    assert [e.seq for e in await store.events(model="b", after=2, limit=1)] == [4]
    assert list(await store.events(model="c")) == []


async def test_only_the_newest_events_are_kept(store):
    for i in range(KEPT + 7):
        await store.append(Event("t", "m", str(i)))
    found = await store.events()
    assert [e.seq for e in found] == list(range(8, KEPT + 8))


async def test_fields_of_an_event_come_back(store):
    fields = {"version": 3, "text": "é\n", "list": [1, None, {"x": 1.5}], "flag": True}
    await store.append(Event("t", "m", "é", fields))
    (event,) = await store.events()
    assert event.fields == fields
    assert event.message == "é"


async def test_many_at_once_lose_nothing(store):
    async with asyncio.TaskGroup() as group:
        for i in range(KEPT):
            group.create_task(store.append(Event("t", "m", str(i))))
    found = await store.events()
    assert [e.seq for e in found] == list(range(1, KEPT + 1))
    assert {e.message for e in found} == {str(i) for i in range(KEPT)}
