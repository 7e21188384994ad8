"""Joining requests: what is run together, what fails alone, what is not run at all."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from gateway.domain.errors import DeadlineExceeded, InvalidRequest, Overloaded, Unavailable
from servers.kit.batching import Batcher, Workers
from servers.kit.rows import NotRowwise, offered, split
from servers.kit.settings import BatchSettings
from tests.parts.fake_runtime import FakeModel
from tests.parts.kit_server import eventually


@pytest.fixture
async def workers():
    made = Workers(1)
    yield made
    made.close()


def rows(*values):
    return {"x": np.float32([[v, v] for v in values])}


async def ask(batcher, *values, timeout_s=20.0, outputs=("y",)):
    deadline = asyncio.get_running_loop().time() + timeout_s
    answer = await batcher.run("serving_default", rows(*values), outputs, len(values), deadline)
    return answer["y"][:, 0].tolist()


async def held(batcher, model, tasks):
    """Occupy the one worker, so that what comes next has to queue."""
    model.gate.clear()
    first = tasks.create_task(ask(batcher, 0))
    await asyncio.sleep(0.01)
    return first


async def test_what_queues_while_a_run_is_under_way_is_joined(workers):
    model = FakeModel(1)
    batcher = Batcher(offered(model), BatchSettings(max_rows=4), workers)
    async with asyncio.TaskGroup() as tasks:
        await held(batcher, model, tasks)
        asked = [tasks.create_task(ask(batcher, v, v + 100)) for v in (1, 2, 3)]
        await asyncio.sleep(0.01)
        assert batcher.queued_rows == 6
        model.gate.set()
    assert [t.result() for t in asked] == [[3, 203], [5, 205], [7, 207]]
    assert model.runs == [1, 4, 2]
    assert batcher.queued_rows == 0
    assert batcher.running == 0
    assert not batcher._lanes


async def test_a_bad_row_fails_alone(workers):
    model = FakeModel()
    batcher = Batcher(offered(model), BatchSettings(), workers)
    async with asyncio.TaskGroup() as tasks:
        await held(batcher, model, tasks)
        good = tasks.create_task(ask(batcher, 1))

        async def bad():
            with pytest.raises(InvalidRequest, match="a bad row"):
                await ask(batcher, FakeModel.bad)

        tasks.create_task(bad())
        also_good = tasks.create_task(ask(batcher, 2))
        await asyncio.sleep(0.01)
        model.gate.set()
    assert (good.result(), also_good.result()) == ([2], [4])
    assert model.runs == [1, 3, 1, 1, 1]


async def test_other_shapes_and_other_outputs_are_not_joined(workers):
    model = FakeModel()
    batcher = Batcher(offered(model), BatchSettings(), workers)
    deadline = asyncio.get_running_loop().time() + 20
    async with asyncio.TaskGroup() as tasks:
        await held(batcher, model, tasks)
        wide = {"x": np.zeros((1, 5), np.float32)}
        double = {"x": np.zeros((1, 2), np.float64)}
        tasks.create_task(ask(batcher, 1))
        for inputs in (wide, double):
            tasks.create_task(batcher.run("serving_default", inputs, ("y",), 1, deadline))
        tasks.create_task(batcher.run("serving_default", rows(1), ("y", "z"), 1, deadline))
        await asyncio.sleep(0.01)
        model.gate.set()
    assert model.runs == [1, 1, 1, 1, 1]


async def test_a_row_waits_for_company_as_long_as_it_was_told(workers):
    model = FakeModel()
    batcher = Batcher(offered(model), BatchSettings(max_rows=3, delay_s=0.05), workers)
    async with asyncio.TaskGroup() as tasks:
        for value in (1, 2):
            tasks.create_task(ask(batcher, value))
    assert model.runs == [2]
    # A full batch does not wait, or those who ask would not be there any more.
    batcher = Batcher(offered(model), BatchSettings(max_rows=3, delay_s=60.0), workers)
    async with asyncio.TaskGroup() as tasks:
        for value in (1, 2, 3):
            tasks.create_task(ask(batcher, value, timeout_s=20.0))
    assert model.runs == [2, 3]


async def test_a_full_queue_refuses_and_says_so(workers):
    model = FakeModel()
    batcher = Batcher(offered(model), BatchSettings(queue_rows=3), workers)
    async with asyncio.TaskGroup() as tasks:
        await held(batcher, model, tasks)
        tasks.create_task(ask(batcher, 1, 2))
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded, match="2 rows wait"):
            await ask(batcher, 1, 2)
        tasks.create_task(ask(batcher, 3))
        await asyncio.sleep(0.01)
        model.gate.set()


async def test_the_cancelled_and_the_late_are_not_run(workers):
    model = FakeModel()
    batcher = Batcher(offered(model), BatchSettings(), workers)
    async with asyncio.TaskGroup() as tasks:
        await held(batcher, model, tasks)
        cancelled = tasks.create_task(ask(batcher, 1))

        async def late():
            with pytest.raises(DeadlineExceeded) as caught:
                await ask(batcher, 2, timeout_s=0.03)
            assert caught.value.reason == "queue"

        tasks.create_task(late())
        kept = tasks.create_task(ask(batcher, 3))
        await asyncio.sleep(0.01)
        cancelled.cancel()
        await eventually(lambda: batcher.queued_rows == 1)
        model.gate.set()
    assert kept.result() == [6]
    assert model.runs == [1, 1]


async def test_a_run_that_takes_too_long_is_given_up_by_its_caller(workers):
    model = FakeModel()
    batcher = Batcher(offered(model), BatchSettings(), workers)
    model.gate.clear()
    with pytest.raises(DeadlineExceeded) as caught:
        await ask(batcher, 1, timeout_s=0.03)
    assert caught.value.reason == "call"
    assert batcher.running == 1
    model.gate.set()
    await batcher.settle()
    assert batcher.running == 0


async def test_a_fixed_batch_is_filled_and_padding_stays_inside(workers):
    model = FakeModel(fixed_batch=4)
    batcher = Batcher(offered(model), BatchSettings(), workers)
    async with asyncio.TaskGroup() as tasks:
        await held(batcher, model, tasks)
        asked = [tasks.create_task(ask(batcher, v)) for v in (1, 2, 3)]
        six = tasks.create_task(ask(batcher, 1, 2, 3, 4, 5, 6))
        await asyncio.sleep(0.01)
        model.gate.set()
    assert [t.result() for t in asked] == [[2], [4], [6]]
    assert six.result() == [2, 4, 6, 8, 10, 12]
    assert set(model.runs) == {4}
    assert len(model.runs) == 1 + 1 + 2


async def test_a_model_without_rows_is_never_joined(workers):
    model = FakeModel(batchable=False)
    batcher = Batcher(offered(model), BatchSettings(), workers)
    async with asyncio.TaskGroup() as tasks:
        await held(batcher, model, tasks)
        for value in (1, 2):
            tasks.create_task(ask(batcher, value))
        await asyncio.sleep(0.01)
        model.gate.set()
    assert model.runs == [1, 1, 1]


async def test_outputs_that_do_not_follow_the_rows_end_the_joining(workers):
    class Sum(FakeModel):
        def run(self, signature, inputs, outputs):
            answer = super().run(signature, inputs, outputs)["y"]
            return {"y": answer.sum(axis=0, keepdims=True)}

    model = Sum()
    batcher = Batcher(offered(model), BatchSettings(), workers)
    async with asyncio.TaskGroup() as tasks:
        await held(batcher, model, tasks)
        asked = [tasks.create_task(ask(batcher, v)) for v in (1, 2)]
        await asyncio.sleep(0.01)
        model.gate.set()
    assert [t.result() for t in asked] == [[2], [4]]
    assert not batcher.is_joining
    assert "for 2 joined rows" in batcher.not_joining_because


async def test_a_drain_refuses_what_waits_and_finishes_what_runs(workers):
    model = FakeModel()
    batcher = Batcher(offered(model), BatchSettings(), workers)
    async with asyncio.TaskGroup() as tasks:
        running = await held(batcher, model, tasks)

        async def refused():
            with pytest.raises(Unavailable, match="unloaded"):
                await ask(batcher, 1)

        tasks.create_task(refused())
        await asyncio.sleep(0.01)
        batcher.refuse_queued()
        threading.Timer(0.02, model.gate.set).start()
        await batcher.settle()
    assert running.result() == [0]


def test_an_answer_of_another_length_is_not_split():
    with pytest.raises(NotRowwise, match=r'"y" has shape \[3\] for 2 joined rows'):
        split({"y": np.zeros(3)}, [1, 1])
