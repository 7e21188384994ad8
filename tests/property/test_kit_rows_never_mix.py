"""Whatever is asked at once, in whatever pieces, everybody gets the answer to their own rows."""

from __future__ import annotations

import asyncio

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain.errors import InvalidRequest
from servers.kit.batching import Batcher, Workers
from servers.kit.rows import offered
from servers.kit.settings import BatchSettings
from tests.parts.fake_runtime import FakeModel
from tests.parts.kit_server import eventually

requests = st.lists(
    st.tuples(
        st.lists(st.integers(0, 1000) | st.just(int(FakeModel.bad)), min_size=1, max_size=7),
        st.integers(0, 2),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    asked=requests,
    threads=st.integers(1, 3),
    max_rows=st.integers(1, 9),
    fixed_batch=st.sampled_from([None, None, 1, 3, 4]),
    delay_s=st.sampled_from([0.0, 0.002]),
)
async def test_rows_never_mix(asked, threads, max_rows, fixed_batch, delay_s):
    workers = Workers(threads)
    model = FakeModel(5, fixed_batch=fixed_batch)
    batcher = Batcher(offered(model), BatchSettings(max_rows, delay_s), workers)
    deadline = asyncio.get_running_loop().time() + 20

    async def one(values, width, is_cancelled):
        x = np.float32(values)[:, None] + np.arange(width + 1, dtype=np.float32)
        x[np.float32(values) == FakeModel.bad] = FakeModel.bad
        run = batcher.run("serving_default", {"x": x}, ("y",), len(values), deadline)
        try:
            async with asyncio.timeout(0 if is_cancelled else None):
                answer = await run
        except TimeoutError:
            assert is_cancelled
        except InvalidRequest:
            assert FakeModel.bad in values
        else:
            assert FakeModel.bad not in values
            np.testing.assert_array_equal(answer["y"], x * 2 + 5)

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        for values, width, is_cancelled in asked:
            tasks.create_task(one(values, width, is_cancelled))
    await batcher.settle()
    assert (batcher.queued_rows, batcher.running) == (0, 0)
    # A lane that holds only cancelled requests goes when its timer rings.
    await eventually(lambda: not batcher._lanes)
    workers.close()
