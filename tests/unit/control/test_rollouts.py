"""Rollouts through the control API's service."""

from __future__ import annotations

import json

import msgspec
import pytest

from gateway.control import ModelsService, schema, views
from gateway.control.deploy import DeployLimits
from gateway.control.schema import DeployRequest, RolloutRequest
from gateway.core.placement import template_of
from gateway.core.templates import key_of
from gateway.domain.errors import (
    Conflict,
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    Unimplemented,
)
from gateway.domain.models import Backend, CanaryPlan, ModelRecord, ModelSpec, ShadowPlan
from gateway.domain.observed import ModelView, ReplicaView, TemplateView
from gateway.domain.replicas import CANARY_GROUP, Replica, ReplicaState
from gateway.domain.rollouts import Finding, Phase, Rollout, RolloutView, Side, Verdict
from gateway.domain.templates import Batching, Template, TemplateChange

S = "s3://b/m"
ROLLOUT = Rollout(2, 1, Phase.PROGRESSING, (5.0, 25.0), 1, "so", "a", "b", (7,))
FINDING = Finding(
    Verdict.FAIL, "slow", Side(100, 1, 0.1, 0.2), Side(10, 2), 1e300, 0.123456, limit=600.0
)


async def deployed(world, **keys):
    return await world.service.deploy("m", DeployRequest(source=S, **keys))


async def test_a_plan_is_stored_shown_changed_and_taken_away(world):
    await deployed(world, canary="5, 25,50", canary_key="X-User")
    plan = (await world.store.models())[0].spec.canary
    assert plan == CanaryPlan((5.0, 25.0, 50.0), 500, 60.0, "x-user")
    model = await world.service.model("m")
    again = msgspec.convert(json.loads(msgspec.json.encode(model.spec)), DeployRequest)
    assert not (await world.service.deploy("m", again)).created
    assert (await world.store.models())[0].generation == 1
    await deployed(world, canary_samples=10)
    assert (await world.store.models())[0].spec.canary == CanaryPlan(
        (5.0, 25.0, 50.0), 10, 60.0, "x-user"
    )
    await deployed(world, canary=[10], canary_samples=None, canary_key=None)
    assert (await world.store.models())[0].spec.canary == CanaryPlan((10.0,))
    await deployed(world, canary=None)
    assert (await world.store.models())[0].spec.canary is None
    without = (await world.service.model("m")).spec
    assert without["canary"] is without["canary_samples"] is None
    await world.service.deploy("m", msgspec.convert(without, DeployRequest))


async def test_shadow_traffic_is_a_part_of_the_plan(world):
    await deployed(world, canary="5", shadow="10%", shadow_max_flips="1%")
    plan = ShadowPlan(0.1, 0.01, None, 0.01)
    assert (await world.store.models())[0].spec.canary == CanaryPlan((5.0,), shadow=plan)
    spec = (await world.service.model("m")).spec
    assert (spec["shadow"], spec["shadow_max_flips"]) == (10.0, 1.0)
    assert spec["shadow_max_differing"] is None
    assert not (await world.service.deploy("m", msgspec.convert(spec, DeployRequest))).created
    assert (await world.store.models())[0].generation == 1
    await deployed(world, canary="5,10", shadow_tolerance=0.5, shadow_max_differing=2)
    plan = ShadowPlan(0.1, 0.5, 0.02, 0.01)
    assert (await world.store.models())[0].spec.canary == CanaryPlan((5.0, 10.0), shadow=plan)
    await deployed(world, shadow=20, shadow_tolerance=None, shadow_max_flips=None)
    plan = ShadowPlan(0.2, 0.01, 0.02, None)
    assert (await world.store.models())[0].spec.canary == CanaryPlan((5.0, 10.0), shadow=plan)
    await deployed(world, shadow=None)
    assert (await world.store.models())[0].spec.canary == CanaryPlan((5.0, 10.0))
    await deployed(world, shadow=1)
    await deployed(world, canary=None)
    assert (await world.store.models())[0].spec.canary is None


async def test_replicas_of_its_own_are_a_part_of_the_plan_where_the_scheduler_has_them(world):
    with pytest.raises(Unimplemented, match="--canary-replicas"):
        await deployed(world, canary="5", canary_replicas=1)
    await deployed(world, canary="5", canary_replicas=0)
    limits = DeployLimits(max_replicas=4, offers_groups=True)
    store, source, observed = world.store, world.source, world.observed
    offering = ModelsService(store, source, observed, world.scheduler, world.events, limits=limits)

    async def change(**keys):
        await offering.deploy("m", DeployRequest(**keys))
        return (await store.models())[0].spec.canary

    assert await change(canary_replicas=2) == CanaryPlan((5.0,), replicas=2)
    assert (await offering.model("m")).spec["canary_replicas"] == 2
    assert await change(canary="5,10") == CanaryPlan((5.0, 10.0), replicas=2)
    for wrong in (-1, 5):
        with pytest.raises(InvalidRequest, match=f"from 0 .* to 4; got {wrong}") as refused:
            await change(canary_replicas=wrong)
        assert refused.value.reason == "bad_canary"
    assert await change(canary_replicas=None) == CanaryPlan((5.0, 10.0))
    with pytest.raises(InvalidRequest, match="needs the steps"):
        await change(canary=None, canary_replicas=1)


def test_replicas_of_a_canary_are_shown_as_such_and_do_not_count_for_the_model():
    ready = ReplicaState.READY
    record = ModelRecord(ModelSpec("m", S, Backend.ONNX), 1, "", "")
    shown = tuple(
        ReplicaView(Replica(f"m-{i}", "m", ready, group=group), ready)
        for i, group in enumerate(["", "", CANARY_GROUP])
    )
    view = ModelView("m", replicas=shown)
    assert views.model(record, view).ready_replicas == 2
    assert [r.group for r in views.replicas(record, shown)] == ["stable", "stable", "canary"]


async def test_a_plan_cannot_be_taken_from_under_a_rollout(world):
    await deployed(world, canary="5")
    await world.store.set_rollout("m", ROLLOUT)
    with pytest.raises(Conflict, match="gateway rollout abort m"):
        await deployed(world, canary=None)
    await deployed(world, canary="5,10")
    await world.store.set_rollout("m", Rollout(2, 1, Phase.FAILED))
    await deployed(world, canary=None)


async def test_orders_go_to_the_lifecycle_and_come_back_as_the_rollout(world):
    await deployed(world, canary="5")
    world.observed.ordered = ROLLOUT
    world.observed.show(ModelView("m", live=1, rollout=RolloutView(ROLLOUT, FINDING, 10, 2.0)))
    shown = await world.service.order_rollout("m", RolloutRequest("start", 2))
    assert world.observed.orders == [("m", "start", 2)]
    assert (shown.version, shown.stable_version, shown.weight, shown.step) == (2, 1, 0.25, 1)
    assert shown.can == ["pause", "promote", "abort"]
    assert (shown.canary.failed, shown.stable.p99_s, shown.min_samples) == (2, 0.2, 10)
    assert shown == (await world.service.rollouts("m"))[0]
    json.loads(msgspec.json.encode(shown))
    assert (shown.error_evidence, shown.latency_evidence) == (1e12, 0.1235)
    fresh = Rollout(3, 1)
    world.observed.ordered = fresh
    shown = await world.service.order_rollout("m", RolloutRequest("start"))
    assert (shown.version, shown.canary.requests, shown.evidence_limit) == (3, 0, None)


async def test_labels_name_the_canary_while_there_is_one(world):
    await deployed(world)
    for phase in Phase:
        rollout = Rollout(2, 1, phase)
        view = ModelView("m", live=1, rollout=RolloutView(rollout, Finding()))
        labels = views.model((await world.store.models())[0], view).labels
        runs = phase not in (Phase.SUCCEEDED, Phase.FAILED, Phase.ROLLING_BACK)
        assert labels == ({"stable": 1, "canary": 2} if runs else {"stable": 1})


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (RolloutRequest("explode"), InvalidRequest),
        (RolloutRequest("abort", 2), InvalidRequest),
    ],
)
async def test_orders_that_mean_nothing_are_refused(world, request_, kind):
    await deployed(world)
    with pytest.raises(kind):
        await world.service.order_rollout("m", request_)
    assert world.observed.orders == []


async def test_orders_of_unknown_models_and_in_the_wrong_phase(world):
    with pytest.raises(NotFound):
        await world.service.order_rollout("m", RolloutRequest("pause"))
    await deployed(world)
    world.observed.ordered = FailedPrecondition("no", reason="wrong_phase")
    with pytest.raises(FailedPrecondition):
        await world.service.order_rollout("m", RolloutRequest("pause"))


REFUSED = Rollout(1, 1, Phase.FAILED, rejected_templates=(key_of(Template(image=None), 0),))


@pytest.mark.parametrize(
    ("keys", "attempt"),
    [
        ({"replicas": 3}, 0),  # of something else: it stays taken back
        ({"canary_samples": 5}, 0),
        ({"batch_size": 32}, 1),  # of it, though nothing is new
        ({"image": None}, 1),
        ({"batch_size": 1}, 0),  # another one, which nobody has taken back
    ],
)
async def test_a_template_that_was_taken_back_is_asked_for_by_a_deploy_that_names_it(
    world, keys, attempt
):
    await deployed(world, canary="5")
    await world.store.set_rollout("m", REFUSED)
    await deployed(world, **keys)
    assert (await world.store.models())[0].spec.attempt == attempt
    assert "attempt" not in (await world.service.model("m")).spec


async def test_what_is_compared_and_what_runs_is_shown(world):
    await deployed(world, canary="5")
    change = TemplateChange(Template(), Template(batching=Batching(1)))
    rollout = Rollout(1, 1, Phase.FAILED, (5.0,), change=change)
    template = TemplateView("a0", "b1", ("batch_size 32 → 1",), is_rejected=True)
    world.observed.show(
        ModelView("m", live=1, rollout=RolloutView(rollout, Finding()), template=template)
    )
    (shown,) = await world.service.rollouts("m")
    (record,) = await world.store.models()
    assert shown.template.stable_template == template_of(record.spec)
    assert shown.template.template != shown.template.stable_template
    assert shown.template.changes == ["batch_size 32 → 1"]
    assert (await world.service.model("m")).template == schema.ModelTemplate(
        "a0", "b1", ["batch_size 32 → 1"], True
    )
