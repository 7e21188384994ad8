"""The leash: held, let go, and what a program under it sees."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from gateway.schedulers import StateLock
from servers.kit import leash

ROOT = Path(__file__).parents[3]


async def test_it_is_held_exactly_while_a_gateway_holds_the_lock(tmp_path):
    path = tmp_path / "gateway.lock"
    assert not leash.is_held(path)
    lock = StateLock.take(tmp_path)
    assert leash.is_held(path)
    lock.release()
    assert not leash.is_held(path)


@pytest.mark.virtual_time
async def test_it_is_let_go_only_after_the_grace_and_a_new_gateway_takes_it_up(tmp_path):
    path = tmp_path / "gateway.lock"
    lock = StateLock.take(tmp_path)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(leash.let_go(path, 0.2, 0.01))
        await asyncio.sleep(0.1)
        lock.release()
        await asyncio.sleep(0.05)
        lock = StateLock.take(tmp_path)
        await asyncio.sleep(0.3)
        assert not waiting.done()
        lock.release()
        async with asyncio.timeout(5):
            await waiting


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "code"),
    [
        (["-c", "raise SystemExit(3)"], 3),
        (["-c", "import os; os.kill(os.getpid(), 9)"], 137),
    ],
)
async def test_the_exit_code_of_the_program_is_passed_on(tmp_path, program, code):
    with_lock = StateLock.take(tmp_path)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "servers.kit.leash", "--leash", str(tmp_path / "gateway.lock")),
        *("--", sys.executable, *program),
        cwd=ROOT,
    )
    async with asyncio.timeout(20):
        assert await process.wait() == code
    with_lock.release()
