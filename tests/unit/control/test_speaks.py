"""What a model's replicas are said to speak."""

from __future__ import annotations

import pytest

from gateway.control.schema import DeployRequest
from gateway.domain.errors import InvalidRequest
from gateway.domain.models import PROTOCOLS


async def test_servers_of_ours_speak_everything(world) -> None:
    deployed = await world.service.deploy("m", DeployRequest(source="s3://b/m"))
    assert deployed.model.spec["speaks"] == list(PROTOCOLS)


async def test_a_program_of_ones_own_is_believed_to_speak_tensorflow_servings(world) -> None:
    asked = DeployRequest(source="s3://b/m", backend="custom", command="./serve")
    deployed = await world.service.deploy("m", asked)
    assert deployed.model.spec["speaks"] == ["tfs-rest", "tfs-grpc"]


@pytest.mark.parametrize("said", ["v2-grpc, v2-rest", ["v2-grpc", "v2-rest", "v2-grpc"]])
async def test_what_is_said_is_kept_in_one_order(world, said) -> None:
    asked = DeployRequest(source="s3://b/m", backend="custom", command="./serve", speaks=said)
    deployed = await world.service.deploy("m", asked)
    assert deployed.model.spec["speaks"] == ["v2-rest", "v2-grpc"]
    scaled = await world.service.deploy("m", DeployRequest(replicas=2))
    assert scaled.model.spec["speaks"] == ["v2-rest", "v2-grpc"]
    again = await world.service.deploy("m", DeployRequest(speaks=None))
    assert again.model.spec["speaks"] == ["tfs-rest", "tfs-grpc"]


@pytest.mark.parametrize("said", ["", [], "v3", ["tfs-rest", "http"], "tfs-rest,"])
async def test_a_protocol_that_there_is_not_is_refused(world, said) -> None:
    with pytest.raises(InvalidRequest, match=r"speaks \(--speaks\).*v2-grpc") as caught:
        await world.service.deploy("m", DeployRequest(source="s3://b/m", speaks=said))
    assert caught.value.reason == "bad_speaks"
