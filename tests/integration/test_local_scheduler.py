"""Real processes: crashes of replicas and of the gateway, hooks, logs, orphans."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.domain.errors import Conflict
from gateway.domain.models import Resources
from gateway.domain.replicas import ReplicaState
from gateway.schedulers import LocalScheduler
from tests.parts.local_replicas import (
    QUICK,
    crash,
    desired,
    is_running,
    kill,
    listening,
    start_gateway,
    until,
)

pytestmark = pytest.mark.slow


@pytest.fixture
async def scheduler(tmp_path):
    async with LocalScheduler(tmp_path / "state", QUICK, environ=os.environ) as scheduler:
        try:
            async with asyncio.timeout(60):
                yield scheduler
        finally:
            await scheduler.stop_all()


async def gone(pids, seconds=20.0) -> None:
    async with asyncio.timeout(seconds):
        while any(is_running(p) for p in pids):  # noqa: ASYNC110 - processes have no event
            await asyncio.sleep(0.05)


async def test_the_next_gateway_adopts_the_replicas_of_one_that_was_killed(tmp_path):
    first, pids = start_gateway(tmp_path, grace_s=30)
    crash(first)
    async with LocalScheduler(tmp_path, QUICK, environ=os.environ) as scheduler:
        await scheduler.ensure([desired(replicas=2)])
        assert {r.id: r.pid for r in scheduler.replicas()} == pids
        assert all(r.state is ReplicaState.LOADING for r in scheduler.replicas())
        victim = scheduler.replicas()[0]
        kill(victim.pid)
        async with asyncio.timeout(20):
            await until(scheduler, lambda rs: victim.id not in {r.id for r in rs} and len(rs) == 2)
        await scheduler.stop_all()
    await gone(pids.values())


async def test_replicas_end_by_themselves_when_no_gateway_comes_back(tmp_path):
    first, pids = start_gateway(tmp_path, grace_s=1)
    crash(first)
    assert all(is_running(p) for p in pids.values())
    await gone(pids.values())


async def test_a_process_that_lost_its_record_is_ended_by_the_next_gateway(tmp_path):
    first, pids = start_gateway(tmp_path, grace_s=30)
    crash(first)
    lost = next(iter(pids))
    (tmp_path / "replicas" / f"{lost}.json").unlink()
    async with LocalScheduler(tmp_path, QUICK, environ=os.environ) as scheduler:
        assert [r.id for r in scheduler.replicas()] == [i for i in pids if i != lost]
        await gone([pids[lost]])
        await scheduler.stop_all()
    await gone(pids.values())


async def test_a_second_gateway_is_refused_and_told_who_is_there(scheduler, tmp_path):
    with pytest.raises(Conflict, match=rf"in use by another gateway \(pid {os.getpid()}\)"):
        async with LocalScheduler(tmp_path / "state", QUICK, environ=os.environ):
            pass


async def test_a_replica_that_cannot_start_says_why_and_is_tried_again_ever_more_slowly(scheduler):
    await scheduler.ensure([desired(code="import sys; sys.exit('no such weights')")])
    seen: dict[str, tuple[str, int]] = {}
    while len(seen) < 2:
        for replica in scheduler.replicas():
            if replica.state is ReplicaState.FAILED:
                seen[replica.id] = (replica.reason, replica.restarts)
        await scheduler.changed()
    (first, none), (_, one) = list(seen.values())[:2]
    assert first == "exited with code 1: no such weights"
    assert (none, one) == (0, 1)


async def test_a_program_that_does_not_exist_is_a_reason_not_a_crash(scheduler):
    broken = desired()
    spec = replace(broken.spec, command=("no-such-program",))
    await scheduler.ensure([replace(broken, spec=spec)])
    found = await until(scheduler, lambda rs: any(r.state is ReplicaState.FAILED for r in rs))
    assert "cannot start no-such-program" in found[0].reason


async def test_a_replica_that_never_listens_is_ended(tmp_path):
    settings = replace(QUICK, startup_s=0.5)
    async with LocalScheduler(tmp_path, settings, environ=os.environ) as scheduler:
        await scheduler.ensure([desired(code="import time; time.sleep(60)")])
        async with asyncio.timeout(20):
            found = await until(
                scheduler, lambda rs: any(r.state is ReplicaState.FAILED for r in rs)
            )
        assert found[0].reason.startswith("did not listen within 0.5 s of its start")
        await scheduler.stop_all()


async def test_a_replica_that_ignores_sigterm_is_killed_with_all_its_children(tmp_path):
    code = (
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
        "import http.server\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])),"
        " http.server.SimpleHTTPRequestHandler).serve_forever()\n"
    )
    settings = replace(QUICK, grace_s=0.5)
    async with LocalScheduler(tmp_path / "state", settings, environ=os.environ) as scheduler:
        await scheduler.ensure([desired(code=code)])
        async with asyncio.timeout(20):
            found = await until(scheduler, lambda _: listening(scheduler))
        child = int((tmp_path / "child").read_text())
        assert is_running(child)
        await scheduler.stop_all()
        await gone([child, found[0].pid])


async def test_hooks_run_around_a_replica_and_their_output_is_in_its_log(scheduler, tmp_path):
    done = tmp_path / "after"
    await scheduler.ensure(
        [desired(before="echo warming the cache", after=f"echo bye; touch {done}")]
    )
    (replica,) = await until(scheduler, lambda _: listening(scheduler))
    await scheduler.ensure([])
    await scheduler.remove(replica.id)
    assert done.exists()
    log = b"".join([c async for c in scheduler.logs(replica.id, follow=False)]).decode()
    for words in ("[before]", "warming the cache", "listening", "draining", "[after]", "bye"):
        assert words in log


async def test_a_before_hook_that_fails_keeps_the_replica_out(scheduler):
    await scheduler.ensure([desired(before="echo no licence; exit 3")])
    found = await until(scheduler, lambda rs: any(r.state is ReplicaState.FAILED for r in rs))
    assert "its before command failed with code 3" in found[0].reason
    assert "no licence" in found[0].reason


async def test_a_model_without_enough_gpus_says_so(scheduler):
    await scheduler.ensure([desired(resources=Resources(gpus=2))])
    found = await until(scheduler, lambda rs: any(r.state is ReplicaState.FAILED for r in rs))
    assert found[0].reason == "needs 2 GPUs, 0 free of 0 on this machine"


async def test_gpus_are_given_out_once_and_move_to_a_new_template(tmp_path):
    code = (
        "import http.server, os, sys\n"
        "print('gpus', os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])),"
        " http.server.SimpleHTTPRequestHandler).serve_forever()\n"
    )
    settings = replace(QUICK, gpus=("0", "1"))
    async with LocalScheduler(tmp_path, settings, environ=os.environ) as scheduler:
        one = desired(replicas=2, code=code, resources=Resources(gpus=1))
        await scheduler.ensure([one])
        async with asyncio.timeout(20):
            found = await until(scheduler, lambda _: len(listening(scheduler)) == 2)
        assert {r.gpus for r in found} == {("0",), ("1",)}
        other = desired(replicas=2, code=code, resources=Resources(gpus=1), after="true")
        await scheduler.ensure([other])
        found = scheduler.replicas()
        going = [r for r in found if r.state is ReplicaState.DRAINING]
        assert [r.reason for r in going] == ["its GPUs are needed by its replacement"]
        await scheduler.remove(going[0].id)
        async with asyncio.timeout(20):
            await until(
                scheduler,
                lambda rs: any(r.template == other.template and r.endpoint for r in rs),
            )
        await scheduler.stop_all()


async def test_a_log_is_followed_until_the_replica_stops(scheduler):
    await scheduler.ensure([desired()])
    (replica,) = await until(scheduler, lambda _: listening(scheduler))
    said = []

    async def follow() -> None:
        async for chunk in scheduler.logs(replica.id, follow=True):
            said.append(chunk)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(follow())
        await asyncio.sleep(0.1)
        await scheduler.ensure([])
        await scheduler.remove(replica.id)
    assert b"draining" in b"".join(said)


async def test_nothing_is_left_in_the_state_directory_but_logs(scheduler, tmp_path):
    await scheduler.ensure([desired(replicas=2)])
    await until(scheduler, lambda _: len(listening(scheduler)) == 2)
    await scheduler.stop_all()
    state: Path = tmp_path / "state"
    assert list((state / "replicas").iterdir()) == []
    assert list((state / "ready").iterdir()) == []
    assert len(list((state / "logs" / "m").glob("*.log"))) == 2
