"""From what a deploy says of replicas to a range, and back."""

from __future__ import annotations

import msgspec
import pytest

from gateway.control.schema import DeployRequest
from gateway.domain.errors import Conflict, Unavailable
from gateway.domain.models import Backend, ModelSpec, Scaling, VersionState
from gateway.domain.observed import ModelView, ScaleView, VersionView
from gateway.store.encoding import spec_from_json, spec_to_json

S = "s3://b/m"


def request(**keys) -> DeployRequest:
    return msgspec.convert(keys, DeployRequest)


async def spec_of(world) -> ModelSpec:
    (record,) = await world.store.models()
    return record.spec


@pytest.mark.parametrize(
    ("keys", "scaling"),
    [
        ({"max_replicas": 4}, Scaling(1, 4, 8.0, 300.0)),
        ({"min_replicas": None, "max_replicas": 4}, Scaling(1, 4, 8.0, 300.0)),
        ({"min_replicas": 0, "max_replicas": 1}, Scaling(0, 1, 8.0, 300.0)),
        ({"max_replicas": 4, "batch_size": 1}, Scaling(1, 4, 2.0, 300.0)),
        ({"max_replicas": 4, "batch_size": 3}, Scaling(1, 4, 6.0, 300.0)),
        (
            {"min_replicas": 2, "max_replicas": 4, "target_in_flight": 0.5, "idle_s": 9},
            Scaling(2, 4, 0.5, 9.0),
        ),
        ({"replicas": None, "max_replicas": 2, "idle_s": None}, Scaling(1, 2, 8.0, 300.0)),
        ({"replicas": 3}, None),
        ({"max_replicas": None, "idle_s": None}, None),
    ],
)
async def test_a_range_is_what_is_said_and_defaults(world, keys, scaling):
    model = (await world.service.deploy("m", request(source=S, **keys))).model
    spec = await spec_of(world)
    assert spec.scaling == scaling
    assert spec.replicas == (keys.get("replicas") or max(1, scaling.least if scaling else 1))
    assert (model.min_replicas, model.max_replicas) == (
        (None, None) if scaling is None else (scaling.least, scaling.most)
    )
    again = await world.service.deploy("m", request(**model.spec))
    assert again.model.generation == 1


@pytest.mark.parametrize(
    ("keys", "replicas", "scaling"),
    [
        ({"max_replicas": 6}, 1, Scaling(0, 6, 8.0, 60.0)),
        ({"min_replicas": 2}, 2, Scaling(2, 4, 8.0, 60.0)),
        ({"min_replicas": None}, 1, Scaling(1, 4, 8.0, 60.0)),
        ({"idle_s": None}, 1, Scaling(0, 4, 8.0, 300.0)),
        ({"target_in_flight": 3}, 1, Scaling(0, 4, 3.0, 60.0)),
        ({"batch_size": 2}, 1, Scaling(0, 4, 4.0, 60.0)),
        ({"replicas": 3}, 3, None),
        ({"max_replicas": None}, 1, None),
        ({"cpu": 1}, 1, Scaling(0, 4, 8.0, 60.0)),
    ],
)
async def test_an_update_changes_what_it_names(world, keys, replicas, scaling):
    first = request(source=S, min_replicas=0, max_replicas=4, idle_s=60)
    await world.service.deploy("m", first)
    await world.service.deploy("m", request(**keys))
    spec = await spec_of(world)
    assert (spec.replicas, spec.scaling) == (replicas, scaling)


async def test_a_target_that_was_said_outlives_another_batch_size(world):
    await world.service.deploy("m", request(source=S, max_replicas=4, target_in_flight=5))
    await world.service.deploy("m", request(batch_size=1))
    assert (await spec_of(world)).scaling == Scaling(1, 4, 5.0)


async def test_scaling_by_hand_is_refused_in_words_where_requests_decide(world):
    await world.service.deploy("m", request(source=S, min_replicas=0, max_replicas=4))
    with pytest.raises(Conflict, match=r"from 0 to 4.*deploy model m --replicas N") as refused:
        await world.service.scale("m", 2)
    assert refused.value.reason == "autoscaled"
    await world.service.deploy("m", request(replicas=2))
    assert (await world.service.scale("m", 3)).replicas == 3


async def test_events_say_the_range(world):
    await world.service.deploy("m", request(source=S, min_replicas=0, max_replicas=4))
    await world.service.deploy("m", request(max_replicas=6))
    deployed, scaled = await world.store.events()
    assert deployed.message.endswith("with 0 to 4 replicas")
    assert (scaled.type, scaled.message) == ("model.scaled", "now 0 to 6 replicas")


async def test_the_api_shows_what_is_wanted_and_why(world):
    await world.service.deploy("m", request(source=S, min_replicas=0, max_replicas=4))
    why = "12.3 in flight per replica over 60 s, target 8"
    scale = ScaleView(2, why, "2026-11-29T18:00:00.000Z", in_flight=12.3456)
    ready = (VersionView(1, VersionState.READY, live=True),)
    world.observed.views["m"] = ModelView(
        "m", 1, live=1, versions=ready, converged=True, scale=scale
    )
    model = await world.service.model("m")
    assert (model.state, model.replicas, model.in_flight) == ("ready", 2, 12.346)
    assert (model.scale_reason, model.scaled_at) == (why, "2026-11-29T18:00:00.000Z")
    idle = ScaleView(0, "no request for 300 s", is_on_demand=True)
    world.observed.views["m"] = ModelView(
        "m", 1, live=1, versions=ready, converged=True, scale=idle
    )
    model = await world.service.model("m")
    assert (model.state, model.replicas) == ("idle", 0)
    assert model.reason == "nobody asks; the next request starts a replica"


async def test_what_an_idle_model_takes_is_told_once_somebody_asked(world):
    await world.service.deploy("m", request(source=S, min_replicas=0, max_replicas=4))
    scale = ScaleView(0, "no request for 300 s", is_on_demand=True)
    world.observed.views["m"] = ModelView("m", 1, live=1, converged=True, scale=scale)
    world.service._signatures = object()
    with pytest.raises(Unavailable, match="`gateway snippet m` and any request start one"):
        await world.service.described("m")


def test_a_range_is_stored_and_older_rows_have_none():
    spec = ModelSpec("m", S, Backend.ONNX, scaling=Scaling(0, 4, 2.5, 60.0))
    assert spec_from_json(spec_to_json(spec)) == spec
    older = spec_to_json(ModelSpec("m", S, Backend.ONNX, replicas=3))
    del older["scaling"]
    assert spec_from_json(older).scaling is None
