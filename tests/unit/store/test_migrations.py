"""A database of an older gateway."""

from __future__ import annotations

import sqlite3

from gateway.domain.models import Backend, CanaryPlan, ModelSpec
from gateway.domain.rollouts import Rollout
from gateway.domain.templates import Template
from gateway.store import open_store
from gateway.store.encoding import spec_to_json
from gateway.store.tables import SCHEMA_VERSION


async def test_a_plan_of_a_gateway_without_shadow_traffic_copies_nothing(tmp_path):
    plan = CanaryPlan((5.0, 25.0), 100, 2.0, "x-user")
    store = await open_store(tmp_path)
    await store.put(ModelSpec("m", "s3://m", Backend.ONNX, canary=plan), None)
    await store.aclose()
    with sqlite3.connect(tmp_path / "gateway.db") as raw:
        raw.execute("UPDATE models SET spec = json_remove(spec, '$.canary.shadow')")
        assert "shadow" not in raw.execute("SELECT spec FROM models").fetchone()[0]
    raw.close()
    store = await open_store(tmp_path)
    assert (await store.models())[0].spec.canary == plan
    await store.aclose()


async def test_a_plan_and_a_rollout_of_before_canaries_had_replicas_have_none(tmp_path):
    spec = ModelSpec("m", "s3://m", Backend.ONNX, canary=CanaryPlan((5.0,), replicas=2))
    store = await open_store(tmp_path)
    await store.put(spec, None)
    await store.set_rollout("m", Rollout(4, 3, canary_replicas=2))
    assert (await store.models())[0].rollout == Rollout(4, 3, canary_replicas=2)
    await store.aclose()
    with sqlite3.connect(tmp_path / "gateway.db") as raw:
        raw.execute(
            "UPDATE models SET spec = json_remove(spec, '$.canary.replicas'), "
            "rollout = json_remove(rollout, '$.canary_replicas')"
        )
        assert "replicas" not in raw.execute("SELECT rollout FROM models").fetchone()[0]
    raw.close()
    store = await open_store(tmp_path)
    (record,) = await store.models()
    assert record.spec.canary == CanaryPlan((5.0,))
    assert record.rollout == Rollout(4, 3)
    await store.aclose()


async def test_a_database_without_rollouts_gets_them_and_loses_nothing(tmp_path):
    store = await open_store(tmp_path)
    await store.put(ModelSpec("m", "s3://m", Backend.ONNX), None)
    await store.set_live("m", 3)
    await store.aclose()
    with sqlite3.connect(tmp_path / "gateway.db") as raw:
        # As version 1 had it.
        raw.execute("ALTER TABLE models DROP COLUMN rollout")
        raw.execute("UPDATE models SET spec = json_remove(spec, '$.canary')")
        raw.execute("UPDATE meta SET value=1 WHERE key='schema_version'")
    raw.close()
    for _ in range(2):
        store = await open_store(tmp_path)
        (record,) = await store.models()
        assert (record.live_version, record.spec.canary) == (3, None)
        await store.set_rollout("m", Rollout(4, 3))
        assert (await store.models())[0].rollout == Rollout(4, 3)
        await store.aclose()
    with sqlite3.connect(tmp_path / "gateway.db") as raw:
        found = raw.execute("SELECT value FROM meta WHERE key='schema_version'").fetchone()
    raw.close()
    assert found == (SCHEMA_VERSION,)
    assert spec_to_json(record.spec)["canary"] is None


async def test_a_database_without_templates_runs_what_its_specs_say(tmp_path):
    spec = ModelSpec("m", "s3://m", Backend.ONNX, image="r/s:1")
    store = await open_store(tmp_path)
    await store.put(spec, None)
    await store.set_rollout("m", Rollout(4, 3))
    await store.set_running("m", Template(image="r/s:0"))
    await store.aclose()
    with sqlite3.connect(tmp_path / "gateway.db") as raw:
        # As version 4 had it.
        raw.execute("ALTER TABLE models DROP COLUMN running")
        raw.execute(
            "UPDATE models SET spec = json_remove(spec, '$.attempt'), "
            "rollout = json_remove(rollout, '$.change', '$.rejected_templates')"
        )
        raw.execute("UPDATE meta SET value=4 WHERE key='schema_version'")
    raw.close()
    for running in (None, Template(image="r/s:1")):
        store = await open_store(tmp_path)
        (record,) = await store.models()
        assert (record.spec, record.rollout, record.running) == (spec, Rollout(4, 3), running)
        await store.set_running("m", Template(image="r/s:1"))
        await store.aclose()
