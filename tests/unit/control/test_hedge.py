"""`hedge` of a model, from a request to its spec and back."""

from __future__ import annotations

import pytest

from gateway.control.schema import DeployRequest
from gateway.domain.errors import InvalidRequest


async def test_it_is_off_until_it_is_asked_for_and_stays_until_it_is_turned_off(world) -> None:
    deployed = await world.service.deploy("m", DeployRequest(source="s3://b/m"))
    assert deployed.model.spec["hedge"] == "off"
    asked = await world.service.deploy("m", DeployRequest(hedge="p95"))
    assert asked.model.spec["hedge"] == "p95"
    scaled = await world.service.deploy("m", DeployRequest(replicas=2))
    assert scaled.model.spec["hedge"] == "p95"
    ended = await world.service.deploy("m", DeployRequest(hedge="off"))
    assert ended.model.spec["hedge"] == "off"


async def test_what_a_spec_says_makes_it_again(world) -> None:
    asked = await world.service.deploy("m", DeployRequest(source="s3://b/m", hedge="p99.9"))
    said = str(asked.model.spec["hedge"])
    again = await world.service.deploy("n", DeployRequest(source="s3://b/m", hedge=said))
    assert again.model.spec["hedge"] == "p99.9"


@pytest.mark.parametrize("said", ["95", "p49", "p100", "yes"])
async def test_what_is_no_percentile_is_refused(world, said) -> None:
    with pytest.raises(InvalidRequest, match=r"hedge \(--hedge\).*p50 to p99\.9") as caught:
        await world.service.deploy("m", DeployRequest(source="s3://b/m", hedge=said))
    assert caught.value.reason == "bad_hedge"
