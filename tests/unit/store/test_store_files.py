"""The database as a file: reopening, crashes, and every way it can be unusable."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from gateway.domain.errors import Conflict, Internal, InvalidRequest, Unavailable
from gateway.domain.models import Backend, ModelSpec
from gateway.ports import Event
from gateway.store import open_store, sqlite
from gateway.store.encoding import spec_from_json, spec_to_json
from gateway.store.tables import SCHEMA_VERSION

SPEC = ModelSpec("m", "file:///m", Backend.ONNX)
ROOT = Path(__file__).parents[3]


async def test_what_was_committed_is_there_after_reopening(tmp_path):
    store = await open_store(tmp_path)
    record = await store.put(SPEC, None)
    event = await store.append(Event("t", "m", "x"))
    await store.aclose()
    again = await open_store(f"sqlite:///{tmp_path / 'gateway.db'}")
    assert list(await again.models()) == [record]
    assert list(await again.events()) == [event]
    assert (await again.append(Event("t", "m", "y"))).seq == 2
    await again.aclose()


async def test_the_database_is_in_wal_mode_and_syncs_fully(tmp_path):
    store = await open_store(tmp_path)
    values = {}
    for pragma in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout"):
        values[pragma] = await store.run(
            lambda c, p=pragma: c.exec_driver_sql(f"PRAGMA {p}").scalar()
        )
    assert values == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 5000,
    }
    await store.aclose()


async def test_a_state_directory_is_private(tmp_path):
    store = await open_store(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o077 == 0
    await store.aclose()


async def test_a_newer_schema_is_refused_untouched(tmp_path):
    await (await open_store(tmp_path)).aclose()
    with sqlite3.connect(tmp_path / "gateway.db") as raw:
        raw.execute("UPDATE meta SET value=99 WHERE key='schema_version'")
    raw.close()
    with pytest.raises(
        Conflict, match=f"newer gateway .schema 99; this one knows {SCHEMA_VERSION}"
    ):
        await open_store(tmp_path)


async def test_a_file_that_is_no_database_is_said_to_be_damaged(tmp_path):
    (tmp_path / "gateway.db").write_bytes(b"this is not a database, " * 100)
    with pytest.raises(Internal, match="Restore it from a backup") as caught:
        await open_store(tmp_path)
    assert caught.value.reason == "store_corrupt"


async def test_a_damaged_page_is_said_to_be_damaged(tmp_path):
    store = await open_store(tmp_path)
    for _ in range(50):
        await store.append(Event("t", "m", "x" * 500))
    await store.aclose()
    path = tmp_path / "gateway.db"
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(Internal) as caught:
        await open_store(tmp_path)
    assert caught.value.reason == "store_corrupt"


async def test_a_row_that_something_else_changed_is_said_to_be_damaged(tmp_path):
    store = await open_store(tmp_path)
    await store.put(SPEC, None)
    with sqlite3.connect(tmp_path / "gateway.db") as raw:
        raw.execute("""UPDATE models SET spec='{"name":"m","source":3,"backend":"onnx"}'""")
    raw.close()
    with pytest.raises(Internal) as caught:
        await store.models()
    assert caught.value.reason == "store_corrupt"
    await store.aclose()


async def test_models_are_read_again_only_when_somebody_changed_them(tmp_path):
    store, other = await open_store(tmp_path), await open_store(tmp_path)
    await store.put(SPEC, None)
    first = await store.models()
    await store.append(Event("t", "m", "x"))
    assert await store.models() is first
    await store.set_live("m", 3)
    assert [m.live_version for m in await store.models()] == [3]
    await other.set_live("m", 4)
    assert [m.live_version for m in await store.models()] == [4]
    with pytest.raises(Conflict):
        await store.put(SPEC, 7)
    assert [m.live_version for m in await store.models()] == [4]
    await other.delete("m")
    assert await store.models() == []
    await store.aclose()
    await other.aclose()


async def test_tables_of_something_else_are_refused(tmp_path):
    with sqlite3.connect(tmp_path / "gateway.db") as raw:
        raw.execute("CREATE TABLE models (x)")
    raw.close()
    with pytest.raises(Conflict) as caught:
        await open_store(tmp_path)
    assert caught.value.reason == "store_foreign"


async def test_a_locked_database_is_said_to_be_locked(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.05)
    store = await open_store(tmp_path)
    raw = sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)
    raw.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable, match="locked by another process") as caught:
        await store.put(SPEC, None)
    assert caught.value.reason == "store_locked"
    raw.execute("ROLLBACK")
    raw.close()
    assert (await store.put(SPEC, None)).generation == 1
    await store.aclose()


async def test_a_state_directory_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable) as caught:
        await open_store(tmp_path / "file")
    assert caught.value.reason == "store_unwritable"


async def test_a_full_disk_changes_nothing(tmp_path):
    store = await open_store(tmp_path)
    pages = await store.run(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar())
    await store.run(lambda c: c.exec_driver_sql(f"PRAGMA max_page_count={pages}"))

    async def fill() -> None:
        for _ in range(100):
            await store.append(Event("t", "m", "x" * 2000))

    with pytest.raises(Unavailable) as caught:
        await fill()
    assert caught.value.reason == "store_full"
    await store.run(lambda c: c.exec_driver_sql("PRAGMA max_page_count=100000"))
    found = await store.events()
    assert [e.seq for e in found] == list(range(1, len(found) + 1))
    assert (await store.append(Event("t", "m", "y"))).seq == len(found) + 1
    await store.aclose()


@pytest.mark.parametrize("url", ["mysql://x/y", "http://x", "sqlite+foo:///x"])
async def test_a_url_of_another_kind_is_refused(url):
    with pytest.raises(InvalidRequest) as caught:
        await open_store(url)
    assert caught.value.reason == "bad_database_url"


async def test_a_password_in_the_url_is_never_shown():
    with pytest.raises((Unavailable, InvalidRequest)) as caught:
        await open_store("postgresql://someone:hunter2@127.0.0.1:1/db")
    assert "hunter2" not in str(caught.value)


async def test_a_cancelled_caller_leaves_a_whole_transaction(tmp_path):
    store = await open_store(tmp_path)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(store.append(Event("t", "m", str(i)))) for i in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
    found = await store.events()
    assert [e.seq for e in found] == list(range(1, len(found) + 1))
    assert {e.message for e in found} >= {str(i) for i in range(1, 20, 2)}
    await store.aclose()


def test_every_field_of_a_spec_is_stored():
    assert set(spec_to_json(SPEC)) == {f.name for f in fields(ModelSpec)}


def test_a_row_from_before_a_field_existed_gets_its_default():
    old = spec_to_json(SPEC)
    del old["in_flight_limit"]
    assert spec_from_json(old) == SPEC


_WRITER = """
import asyncio, sys
from gateway.domain.models import Backend, ModelSpec
from gateway.ports import Event
from gateway.store import open_store

async def main():
    store = await open_store(sys.argv[1])
    spec = ModelSpec("m", "file:///m", Backend.ONNX)
    record = await store.put(spec, None)
    while True:
        event = await store.append(Event("t", "m", "x" * 3000))
        record = await store.put(spec, record.generation)
        print(event.seq, record.generation, flush=True)

asyncio.run(main())
"""


def _write_until_killed(directory: Path) -> list[str]:
    """Lines that the writer had said when it died."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(directory)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(40)]
    process.send_signal(signal.SIGKILL)
    said += process.stdout.readlines()  # what it had said before it died
    process.wait()
    process.stdout.close()
    return [line for line in said if line.endswith("\n")]


@pytest.mark.slow
async def test_sigkill_in_the_middle_of_writing_loses_nothing_committed(tmp_path):
    said = await asyncio.to_thread(_write_until_killed, tmp_path)
    seq, generation = (int(x) for x in said[-1].split())
    store = await open_store(tmp_path)
    (record,) = await store.models()
    found = await store.events()
    assert found[-1].seq >= seq
    assert record.generation >= generation
    assert [e.seq for e in found] == list(range(1, len(found) + 1))
    assert all(len(e.message) == 3000 for e in found)
    check = await store.run(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar())
    assert check == "ok"
    await store.aclose()
