"""What callers ask of the parent by way of its workers."""

from __future__ import annotations

import asyncio

from gateway.dataplane.messages import Refresh, Reload, ReloadDone, reload_failed
from gateway.dataplane.worker_process import WorkerProcess
from gateway.domain.errors import GatewayError, Overloaded, Unimplemented
from gateway.ports import Reloader
from gateway.telemetry import log

_MOST = 4
"""Requests of one worker under way at once. People send them one at a time."""


class Relay:
    """Passes workers' requests to a ports.Reloader, and its answers back."""

    def __init__(self, reloader: Reloader | None) -> None:
        self._reloader = reloader

    @property
    def is_offered(self) -> bool:
        return self._reloader is not None

    async def reload(self, worker: WorkerProcess, request: Reload) -> None:
        """Apply a configuration, and tell the worker how it went."""
        deadline_at = asyncio.get_running_loop().time() + request.timeout_s
        worker.reloads += 1
        try:
            if self._reloader is None:
                raise Unimplemented("Reloading is not offered", reason="reload_not_offered")
            if worker.reloads > _MOST:
                raise Overloaded(
                    "Other configurations are being applied; send one at a time",
                    reason="reloads_limit",
                )
            async with asyncio.timeout_at(deadline_at):
                body = await self._reloader.reload(request.body, deadline_at)
            answer = ReloadDone(request.number, body)
        except GatewayError as error:
            answer = reload_failed(request.number, error)
        except TimeoutError:
            return  # The worker has told its caller by the same deadline.
        finally:
            worker.reloads -= 1
        worker.channel.send(answer)

    async def refresh(self, worker: WorkerProcess, request: Refresh) -> None:
        """Have a model's source looked at."""
        if self._reloader is None or worker.reloads >= _MOST:
            return  # What is lost is only that the source is looked at a little later.
        worker.reloads += 1
        try:
            await self._reloader.refresh(request.model)
        except GatewayError as error:
            log.warning("model.refresh_failed", model=request.model, cause=error.reason)
        finally:
            worker.reloads -= 1
