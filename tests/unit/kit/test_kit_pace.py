"""Which runs are made on the loop's own thread, and which never."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from gateway.domain.errors import DeadlineExceeded, InvalidRequest
from servers.kit.batching import Batcher, Workers
from servers.kit.pace import BLOCKED_S, CLOSE, HELD_S, LONGEST, WARM, Pace
from servers.kit.rows import offered
from servers.kit.settings import BatchSettings
from tests.parts.fake_runtime import FakeModel

QUICK, SLOW = 0.00001, 0.001
LIMIT = 0.0002


def warmed(took_s: float = QUICK) -> Pace:
    pace = Pace(LIMIT)
    for _ in range(WARM):
        assert not pace.is_quick("form")
        pace.ran_on_thread("form", took_s)
    return pace


def test_a_form_has_to_show_that_it_is_quick():
    assert warmed().is_quick("form")
    assert not warmed(SLOW).is_quick("form")
    assert not warmed().is_quick("another")


def test_a_thread_that_waited_for_the_lock_says_nothing_about_the_model():
    pace = Pace(LIMIT)
    for _ in range(WARM - 1):
        pace.ran_on_thread("form", SLOW)
    pace.ran_on_thread("form", QUICK)
    assert pace.is_quick("form")


def test_one_run_that_holds_up_the_loop_sends_a_form_back():
    pace = warmed()
    pace.ran_here("form", HELD_S * 1.1)
    assert not pace.is_quick("form")


def test_two_runs_close_to_each_other_that_others_feel_send_a_form_back():
    pace = warmed()
    for _ in range(CLOSE):
        pace.ran_here("form", QUICK)
    pace.ran_here("form", BLOCKED_S * 1.1)
    assert pace.is_quick("form")
    for _ in range(CLOSE - 1):
        pace.ran_here("form", QUICK)
    pace.ran_here("form", BLOCKED_S * 1.1)
    assert not pace.is_quick("form")


def test_a_process_that_was_held_up_itself_says_nothing_about_the_model():
    pace = warmed()
    for _ in range(CLOSE):
        pace.ran_here("form", QUICK)
    for _ in range(100):
        pace.ran_here("form", BLOCKED_S * 2)
        for _ in range(CLOSE):
            pace.ran_here("form", QUICK)
    assert pace.is_quick("form")


def test_a_form_that_has_become_slow_is_sent_back_within_a_few_runs():
    pace = warmed()
    runs = 0
    while pace.is_quick("form"):
        pace.ran_here("form", LIMIT * 2)
        runs += 1
    assert runs <= 8


def test_a_form_that_deceives_is_believed_ever_more_seldom():
    pace = warmed()
    waits = []
    for _ in range(5):
        pace.ran_here("form", 1.0)
        count = 0
        while not pace.is_quick("form"):
            pace.ran_on_thread("form", QUICK)
            count += 1
        waits.append(count)
    assert waits == [WARM, WARM * 4, WARM * 16, LONGEST, LONGEST]
    for _ in range(LONGEST + 1):
        pace.ran_here("form", QUICK)
    pace.ran_here("form", 1.0)
    for _ in range(WARM):
        assert not pace.is_quick("form")
        pace.ran_on_thread("form", QUICK)
    assert pace.is_quick("form")


def test_forms_do_not_pile_up():
    pace = Pace(LIMIT)
    for form in range(10_000):
        pace.ran_on_thread(form, QUICK)
    assert len(pace._forms) <= 256


class Where(FakeModel):
    """Notes the thread of each run."""

    def run(self, signature, inputs, outputs):
        self.threads.append(threading.current_thread() is threading.main_thread())
        return super().run(signature, inputs, outputs)


@pytest.fixture
async def workers():
    made = Workers(1)
    yield made
    made.close()


def batcher_of(workers, **settings) -> tuple[Batcher, Where]:
    model = Where(1)
    model.threads = []
    return Batcher(offered(model), BatchSettings(**settings), workers), model


async def ask(batcher, rows=1, value=1.0, timeout_s=20.0):
    deadline_at = asyncio.get_running_loop().time() + timeout_s
    inputs = {"x": np.full((rows, 2), value, np.float32)}
    return (await batcher.run("serving_default", inputs, ("y",), rows, deadline_at))["y"]


async def test_a_quick_model_is_run_on_the_loop_after_its_warm_up(workers):
    # A limit that also a machine under load stays below.
    batcher, model = batcher_of(workers, here_s=1.0)
    for _ in range(WARM + 5):
        assert (await ask(batcher)).tolist() == [[3, 3]]
    assert model.threads == [False] * WARM + [True] * 5
    await ask(batcher, rows=2)  # other rows, another form
    assert not model.threads[-1]
    counters = batcher.counters
    assert counters.execution_count == counters.success.count == WARM + 6
    assert counters.inference_count == WARM + 7
    assert counters.batches[1].compute_infer.count == WARM + 5


async def test_errors_and_deadlines_on_the_loop_are_those_of_the_threads(workers):
    batcher, model = batcher_of(workers, here_s=1.0)
    for _ in range(WARM):
        await ask(batcher)
    runs = len(model.runs)
    with pytest.raises(InvalidRequest, match="a bad row"):
        await ask(batcher, value=FakeModel.bad)
    assert model.threads[-1]
    with pytest.raises(DeadlineExceeded):
        await ask(batcher, timeout_s=0.0)
    assert len(model.runs) == runs + 1
    assert batcher.counters.fail.count == 2


@pytest.mark.parametrize("settings", [{"here_s": 0.0}, {"here_s": 1.0, "delay_s": 0.0001}])
async def test_nothing_is_run_on_the_loop_where_that_is_off_or_rows_wait_for_company(
    workers, settings
):
    batcher, model = batcher_of(workers, **settings)
    for _ in range(WARM + 3):
        await ask(batcher)
    assert not any(model.threads)
