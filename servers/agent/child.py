"""TensorFlow Serving as a child of the agent.

It is started through the kit's leash on a file that the agent locks: if the agent is killed the
kernel lets go of the lock and the leash ends TensorFlow Serving within seconds, so no GPU stays
taken by an orphan.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.domain.errors import Unavailable
from servers.agent.tfs import Tfs
from servers.kit import logs

_PROBE = "agent-probe"
"""A model that nobody has; NOT_FOUND for it means that ModelService answers."""


class ChildFailed(Exception):
    """TensorFlow Serving could not be started, or ended by itself."""


@dataclass(frozen=True, slots=True)
class ChildSettings:
    """How TensorFlow Serving is started."""

    binary: str
    extra: tuple[str, ...] = ()
    """Further flags, as they are."""
    start_s: float = 60.0
    """For its ModelService to answer. It loads no model at start; CUDA takes seconds to set up."""
    drain_s: float = 30.0
    """From SIGTERM to SIGKILL."""


@dataclass(frozen=True, slots=True)
class Child:
    """A TensorFlow Serving that answers."""

    http: str
    grpc: str
    process: asyncio.subprocess.Process

    async def ended(self) -> None:
        """Wait until it ends, which it never should. Raises ChildFailed."""
        code = await self.process.wait()
        raise ChildFailed(f"tensorflow_model_server ended with exit code {code}; see its log above")


def command(settings: ChildSettings, grpc_port: int, http_port: int, config: Path) -> list[str]:
    """TensorFlow Serving's command line. Batching is left off: with it, TensorFlow Serving refuses
    every model that has a scalar input, and only the model's owner can know (--tfs-arg)."""
    return [
        settings.binary,
        f"--port={grpc_port}",
        f"--rest_api_port={http_port}",
        f"--model_config_file={config}",
        # The agent tries again by itself, and would rather hear of the failure now than in 5 min.
        "--max_num_load_retries=0",
        "--file_system_poll_wait_seconds=1",
        *settings.extra,
    ]


@asynccontextmanager
async def child(settings: ChildSettings, folder: Path) -> AsyncIterator[Child]:
    """Start it, with its files in `folder`, and wait until it answers; end it on the way out.

    Raises:
        ChildFailed: it cannot be started, ended, or did not answer in time.
    """
    config = folder / "models.config"
    config.write_text("model_config_list {}\n")
    leash = folder / "leash"
    with _locked(leash):
        grpc_port, http_port = _free_ports(2)
        words = command(settings, grpc_port, http_port, config)
        keep = [sys.executable, "-m", "servers.kit.leash", "--leash", str(leash)]
        keep += ["--leash-grace-s", "0", "--drain-s", f"{settings.drain_s:g}", "--"]
        logs.event("tfs.starting", command=" ".join(words))
        process = await asyncio.create_subprocess_exec(*keep, *words)
        try:
            made = Child(f"127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}", process)
            await _answering(made, settings.start_s)
            yield made
        finally:
            await _end(process, settings.drain_s)


async def _answering(made: Child, longest_s: float) -> None:
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + longest_s
    tfs = Tfs(made.grpc)
    try:
        while loop.time() < ends_at:
            if made.process.returncode is not None:
                raise ChildFailed(
                    f"tensorflow_model_server ended with exit code {made.process.returncode} "
                    "before it answered; see its log above"
                )
            try:
                await tfs.statuses(_PROBE)
            except Unavailable:
                await asyncio.sleep(0.1)
            else:
                return
    finally:
        await tfs.aclose()
    raise ChildFailed(f"tensorflow_model_server did not answer within {longest_s:.0f} s")


async def _end(process: asyncio.subprocess.Process, longest_s: float) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            # The leash kills it after the same time; a little more, so that it can.
            async with asyncio.timeout(longest_s + 5.0):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _free_ports(count: int) -> Sequence[int]:
    """Ports free at this moment. It takes no port 0; if somebody is faster it fails to start, the
    agent exits, and its scheduler starts another."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
