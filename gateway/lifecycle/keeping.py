"""What a tick has decided, written down before anybody is answered by it.

A crash in between then repeats a change instead of taking it back: nobody who has had a new
version's answers, or the canary's, is sent to the old ones by the next gateway.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from gateway.domain.errors import NotFound
from gateway.lifecycle.model_loop import ModelLoop
from gateway.ports import Store


async def keep(store: Store, models: Iterable[ModelLoop]) -> None:
    """Remember what is live, what runs, and how far the rollouts are. In this order, so that a
    rollout that has succeeded finds everything as it says."""
    models = [m for m in models if not m.deleted]
    for model in models:
        await _keep_live(store, model)
    for model in models:
        await _keep_running(store, model)
    for model in models:
        await keep_rollout(store, model)


async def _keep_live(store: Store, model: ModelLoop) -> None:
    if model.decision is None or model.decision.live == model.live:
        return
    # Deleted in between: the next tick finds that out.
    with contextlib.suppress(NotFound):
        await store.set_live(model.name, model.decision.live)
    model.live = model.decision.live


async def _keep_running(store: Store, model: ModelLoop) -> None:
    if model.running != model.record.running:
        with contextlib.suppress(NotFound):
            await store.set_running(model.name, model.running)


async def keep_rollout(store: Store, model: ModelLoop) -> None:
    """Remember its rollout, if it has changed."""
    loop = model.rollouts
    if loop.is_stored or model.deleted:
        return
    loop.is_stored = True
    try:
        await store.set_rollout(model.name, loop.rollout)
    except NotFound:
        return  # Deleted in between: the next tick finds that out.
    except BaseException:
        loop.is_stored = False
        raise
