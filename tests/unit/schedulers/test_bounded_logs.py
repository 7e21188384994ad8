"""Logs stay bounded and are read in order."""

from __future__ import annotations

import os

from gateway.schedulers import logs


async def test_a_log_that_grew_too_long_is_cut_and_still_read_whole_once(tmp_path):
    log = tmp_path / "m-abcde.log"
    log.write_bytes(b"old " * 100)
    logs.bound(log, 1000)
    assert log.stat().st_size == 400
    logs.bound(log, 100)
    assert log.stat().st_size == 0
    with log.open("ab") as file:
        file.write(b"new")
    said = b"".join([c async for c in logs.read(log, follow=False, is_running=lambda: True)])
    assert said == b"old " * 100 + b"new"


def test_the_tail_is_the_last_that_was_said(tmp_path):
    log = tmp_path / "m.log"
    log.write_text("\n".join(f"line {i}" for i in range(5000)) + "\n\n")
    assert logs.tail(log) == "line 4997 | line 4998 | line 4999"
    assert logs.tail(tmp_path / "none.log") == ""


def test_only_so_many_logs_of_stopped_replicas_are_kept(tmp_path):
    for i in range(6):
        log = tmp_path / f"m-{i}.log"
        log.write_text("x")
        os.utime(log, (i, i))
    logs.forget_old(tmp_path, 2, lambda replica_id: replica_id == "m-0")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m-0.log", "m-4.log", "m-5.log"]
