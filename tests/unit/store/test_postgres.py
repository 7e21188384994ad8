"""What is true of PostgreSQL only: its failures, its migrations, and that no password is shown."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import psycopg
import pytest
import sqlalchemy as sa

from gateway.domain.errors import Conflict, GatewayError, Unavailable
from gateway.domain.gateways import Beat
from gateway.domain.models import Backend, ModelSpec
from gateway.domain.rollouts import Rollout
from gateway.ports import Event
from gateway.store import SqlSharing, SqlStore, open_store
from gateway.store.tables import SCHEMA_VERSION
from tests.parts.postgres import PASSWORD, Postgres

SPEC = ModelSpec("m", "s3://m", Backend.ONNX)


@pytest.fixture
async def url(postgres: Postgres) -> str:
    return postgres.database()


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlStore]:
    made = await open_store(url)
    yield made
    await made.aclose()


def _name(url: str) -> str:
    return url.rpartition("/")[2]


async def test_connections_that_were_cut_are_made_anew(store, postgres):
    await store.put(SPEC, None)
    postgres.cut_connections()
    assert len(await store.models()) == 1
    postgres.cut_connections()
    await store.set_live("m", 2)
    assert (await store.models())[0].live_version == 2


async def test_a_server_that_is_away_is_said_to_be_and_found_again(store, postgres):
    await store.put(SPEC, None)
    postgres.stop()
    try:
        for call in (store.models, lambda: store.put(SPEC, 1), lambda: store.append(_event())):
            with pytest.raises(Unavailable) as caught:
                await call()
            assert caught.value.reason == "store_unreachable"
            assert caught.value.retry_after_s
            assert PASSWORD not in caught.value.message
    finally:
        postgres.start()
    assert len(await store.models()) == 1


async def test_a_server_that_has_become_a_standby_refuses_writes_for_now(store, postgres, url):
    await store.put(SPEC, None)
    postgres.execute(f"ALTER DATABASE {_name(url)} SET default_transaction_read_only = on")
    postgres.cut_connections()
    with pytest.raises(Unavailable) as caught:
        await store.set_live("m", 2)
    assert (caught.value.reason, caught.value.retry_after_s) == ("store_unreachable", 2.0)
    assert len(await store.models()) == 1


async def test_a_wait_for_somebody_elses_lock_is_bounded(store, url, monkeypatch):
    await store.put(SPEC, None)
    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE models")
        await store.run(lambda c: c.exec_driver_sql("SET lock_timeout = '50ms'"))
        with pytest.raises(Unavailable) as caught:
            await store.set_live("m", 2)
    assert caught.value.reason == "store_busy"
    await store.set_live("m", 2)


async def test_the_waits_of_a_session_are_bounded(store):
    found = await store.run(
        lambda c: [
            c.exec_driver_sql(f"SHOW {name}").scalar_one()
            for name in ("statement_timeout", "lock_timeout", "application_name")
        ]
    )
    assert found == ["8s", "5s", "gateway"]


async def test_no_password_is_shown(store, url, caplog, postgres):
    assert PASSWORD in url
    caplog.set_level(logging.DEBUG)
    assert PASSWORD not in repr(store)
    assert PASSWORD not in repr(SqlSharing(store))
    wrong = url.replace(PASSWORD, "wr0ng-one")
    with pytest.raises(GatewayError) as refused:
        await open_store(wrong)
    assert "password authentication failed" in refused.value.message
    assert "wr0ng-one" not in refused.value.message
    with pytest.raises(GatewayError) as absent:
        await open_store(url + "_is_absent")
    assert "does not exist" in absent.value.message
    assert PASSWORD not in absent.value.message
    assert PASSWORD not in caplog.text
    assert "wr0ng-one" not in caplog.text


async def test_a_user_without_rights_is_told_what_is_missing(postgres, url):
    postgres.execute("CREATE ROLE stranger LOGIN PASSWORD 'x'")
    strange = url.replace(f"gateway:{PASSWORD}", "stranger:x")
    with pytest.raises(Unavailable) as caught:
        await open_store(strange)
    assert caught.value.reason == "store_unwritable"
    assert "own its database" in caught.value.message


async def test_gateways_that_start_at_once_make_the_tables_once(url):
    made: list[SqlStore] = []

    async def start() -> None:
        made.append(await open_store(url))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(6):
            tasks.create_task(start())
    for store in made:
        await store.aclose()
    assert len(made) == 6


async def test_a_database_of_the_first_schema_becomes_a_current_one(store, url, postgres):
    await store.put(SPEC, None)
    await store.set_live("m", 3)
    name = _name(url)
    for statement in (
        "DROP TABLE leases, gateways, postings, orders",
        "ALTER TABLE models DROP COLUMN rollout",
        "UPDATE meta SET value = 1 WHERE key = 'schema_version'",
    ):
        postgres.execute(statement, name)
    again = await open_store(url)
    await again.set_rollout("m", Rollout(4, 3))
    (record,) = await again.models()
    assert (record.live_version, record.rollout) == (3, Rollout(4, 3))
    assert (await SqlSharing(again).take("a", "", None, 1.0)).epoch == 1
    await again.aclose()
    found = postgres.execute("SELECT value FROM meta WHERE key = 'schema_version'", name)
    assert found == [(SCHEMA_VERSION,)]


async def test_a_newer_schema_and_foreign_tables_are_refused(store, url, postgres):
    postgres.execute("UPDATE meta SET value = 99 WHERE key = 'schema_version'", _name(url))
    with pytest.raises(Conflict) as newer:
        await open_store(url)
    assert newer.value.reason == "store_newer"
    other = postgres.database()
    postgres.execute("CREATE TABLE models (x int)", _name(other))
    with pytest.raises(Conflict) as foreign:
        await open_store(other)
    assert foreign.value.reason == "store_foreign"


async def test_news_come_at_once_and_again_after_the_connection_was_cut(url, postgres):
    ours, theirs = await open_store(url), await open_store(url)
    sharing, other = SqlSharing(ours), SqlSharing(theirs)
    try:
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(sharing.listen())
            for _ in range(2):
                await _until_listening(sharing)
                before = (await sharing.beat(Beat("a", "", ""))).newest_event
                async with asyncio.timeout(30):
                    await theirs.append(_event())
                    while (await sharing.beat(Beat("a", "", ""))).newest_event == before:
                        await sharing.changed()
                postgres.cut_connections()
            await _until_listening(sharing)
            listening.cancel()
    finally:
        assert repr(other)
        await ours.aclose()
        await theirs.aclose()


async def _until_listening(sharing: SqlSharing) -> None:
    """Until a NOTIFY of our own comes back before the poll would have looked."""
    async with asyncio.timeout(60):
        while True:
            await asyncio.sleep(0.05)
            assert sharing._listener is not None
            if not sharing._listener.is_listening:
                continue
            sharing._news.clear()
            try:
                await sharing._store.append(_event())
                async with asyncio.timeout(5):
                    await sharing._news.wait()
                return
            except TimeoutError:
                continue


def _event() -> Event:
    return Event("t", "m", "x")


def test_the_url_of_the_listener_is_psycopgs_own():
    # SQLAlchemy's `postgresql+psycopg://` is no URL to libpq.
    url = sa.make_url("postgresql+psycopg://u:p%40w@h:5/d")
    assert url.set(drivername="postgresql").render_as_string(hide_password=False) == (
        "postgresql://u:p%40w@h:5/d"
    )
