"""A replica that hangs (SIGSTOP) is taken out of the traffic, and put back when it goes on."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from gateway.client.control import ControlClient
from loadtests.models import write_adder
from loadtests.swap import adder_shot
from loadtests.traffic import Traffic
from tests.parts.gateway_process import GatewayProcess, gateway_process
from tests.parts.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

MODEL = "hanging"


async def _replica(control: ControlClient, replica_id: str, *, state: str) -> dict[str, Any]:
    """Wait until it is in this state."""
    async with asyncio.timeout(120):
        while True:
            found = {r["id"]: r for r in await control.replicas(MODEL)}
            if found[replica_id]["state"] == state:
                return found[replica_id]
            await asyncio.sleep(0.1)


async def _hang_and_go_on(gateway: GatewayProcess) -> tuple[Traffic, dict[str, Any]]:
    traffic = Traffic(gateway.http, gateway.grpc, adder_shot(MODEL), 40.0, timeout_s=100.0)
    async with ControlClient(gateway.url) as control, asyncio.TaskGroup() as group:
        group.create_task(traffic.run())
        stopped = (await control.replicas(MODEL))[0]
        await asyncio.sleep(1.0)
        os.kill(stopped["pid"], signal.SIGSTOP)
        try:
            silent = await _replica(control, stopped["id"], state="loading")
            # What had been sent to it is answered by the other one, while it still hangs.
            await until(lambda: not traffic.outstanding, 60.0)
        finally:
            os.kill(stopped["pid"], signal.SIGCONT)
        await _replica(control, stopped["id"], state="ready")
        await asyncio.sleep(1.0)
        traffic.stop.set()
        events = await control.events(model=MODEL)
    assert "replica.silent" in {e["type"] for e in events if e["replica"] == stopped["id"]}
    return traffic, silent


@pytest.mark.parametrize("workers", [1, 2])
def test_a_replica_that_hangs_costs_no_request_and_comes_back(tmp_path: Path, workers: int) -> None:
    source = tmp_path / MODEL
    write_adder(source / "1", 1.0)
    flags = ("--settle-s", "0", "--workers", str(workers))
    with gateway_process(tmp_path / "state", *flags) as gateway:
        gateway.cli("deploy", "model", MODEL, "--source", str(source), "--replicas", "2")
        traffic, silent = asyncio.run(_hang_and_go_on(gateway))
        assert "does not answer" in silent["reason"]
        shown = gateway.cli("get", "events", MODEL).stdout
        assert "replica.silent" in shown
    assert [s.error for s in traffic.samples if s.error] == []
    assert {s.version for s in traffic.samples} == {1}
    print("longest", max(s.latency_s for s in traffic.samples))


def test_what_waits_at_the_only_replica_is_answered_when_it_goes_on(tmp_path: Path) -> None:
    source = tmp_path / MODEL
    write_adder(source / "1", 1.0)
    with gateway_process(tmp_path / "state", "--settle-s", "0") as gateway:
        gateway.cli("deploy", "model", MODEL, "--source", str(source))
        (only,) = gateway.get("replicas", MODEL)

        async def stop_and_go_on() -> Traffic:
            traffic = Traffic(gateway.http, gateway.grpc, adder_shot(MODEL), 5.0, timeout_s=100.0)
            async with ControlClient(gateway.url) as control, asyncio.TaskGroup() as group:
                group.create_task(traffic.run())
                await asyncio.sleep(1.0)
                os.kill(only["pid"], signal.SIGSTOP)
                try:
                    # Requests under way stay there; those that come later wait for a replica.
                    await asyncio.sleep(1.0)
                    traffic.stop.set()
                    await _replica(control, only["id"], state="loading")
                finally:
                    os.kill(only["pid"], signal.SIGCONT)
                await _replica(control, only["id"], state="ready")
            return traffic

        traffic = asyncio.run(stop_and_go_on())
    assert [s.error for s in traffic.samples if s.error] == []
