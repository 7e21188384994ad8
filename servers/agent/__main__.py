"""`python -m servers.agent`: stand beside a stock TensorFlow Serving, or start one."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.codecs.tfs_status import ConfiguredModel
from gateway.wire.listener import Listener
from gateway.wire.tasks import Tasks
from servers.agent.child import ChildFailed, ChildSettings, child
from servers.agent.fronts import Agent, AgentFront
from servers.agent.runtime import AgentRuntime, WaitSettings
from servers.agent.shared import SharedVersions, source_for
from servers.agent.tfs import Tfs
from servers.kit import flags, leash, logs
from servers.kit.batching import Workers
from servers.kit.manager import Manager
from servers.kit.server import PortTaken, address_of, listen_both, log_bug, versions_for
from servers.kit.service import Service
from servers.kit.settings import ServerSettings

_SPEAKS = ("tfs-rest", "tfs-grpc")
"""What the stock server beside us answers in; the gateway translates for other callers."""


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """One agent. `server.http` and `server.grpc` are its own doors, status and ModelService."""

    server: ServerSettings
    shared_dir: Path | None
    """Seen under the same path by TensorFlow Serving. None, with `spawn`: a folder of our own."""
    tfs_grpc: str
    tfs_http: str
    spawn: ChildSettings | None
    waits: WaitSettings


def _parser() -> argparse.ArgumentParser:
    made = flags.parser("agent")
    made.description = "Fetches models for a TensorFlow Serving and tells it what to hold."
    add = made.add_argument
    add("--shared-dir", type=Path, metavar="DIR",
        help="TensorFlow Serving sees it under the same path; the agent empties it")  # fmt: skip
    add("--tfs-grpc", default="127.0.0.1:8500", metavar="H:P", help="TensorFlow Serving's --port")
    add("--tfs-http", default="127.0.0.1:8501", metavar="H:P",
        help="TensorFlow Serving's --rest_api_port, for the ready file")  # fmt: skip
    add("--spawn", metavar="BINARY", help="start this tensorflow_model_server, and end it")
    add("--tfs-arg", action="append", default=[], metavar="FLAG",
        help="with --spawn: a flag to pass on, as in --tfs-arg=--v=1; repeatable")  # fmt: skip
    add("--load-timeout-s", type=float, default=WaitSettings().load_s, metavar="N",
        help="how long TensorFlow Serving may take to load one version")  # fmt: skip
    return made


def _settings(argv: Sequence[str] | None) -> AgentSettings:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.shared_dir is None and args.spawn is None:
        parser.error("--shared-dir is needed to stand beside a TensorFlow Serving")
    server = flags.settings(args)
    spawn = None
    if args.spawn is not None:
        spawn = ChildSettings(args.spawn, tuple(args.tfs_arg), drain_s=server.drain_s)
    waits = WaitSettings(load_s=args.load_timeout_s)
    return AgentSettings(server, args.shared_dir, args.tfs_grpc, args.tfs_http, spawn, waits)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until told to stop. 0 drained, 1 could not start or TensorFlow Serving ended, 2 usage."""
    settings = _settings(argv)
    logs.set_up(settings.server.log_format)
    code = 0
    try:
        asyncio.run(_run(settings))
    except* (PortTaken, ChildFailed, OSError) as group:
        for error in _leaves(group):
            logs.warn("agent.failed", why=error)
        code = 1
    return code


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


async def _run(settings: AgentSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        own = _own_folder(settings.server.cache_dir)
        stack.callback(shutil.rmtree, own, ignore_errors=True)
        tfs_grpc, tfs_http = settings.tfs_grpc, settings.tfs_http
        async with asyncio.TaskGroup() as tasks:
            if settings.spawn is not None:
                started = await stack.enter_async_context(child(settings.spawn, own))
                tfs_grpc, tfs_http = started.grpc, started.http
                watching = [tasks.create_task(started.ended(), name="child")]
            else:
                watching = []
            tfs = Tfs(tfs_grpc)
            stack.push_async_callback(tfs.aclose)
            shared = settings.shared_dir or own / "models"
            async with _serving(settings, tfs, shared) as (http, grpc):
                said = {"pid": os.getpid(), "http": tfs_http, "grpc": tfs_grpc, "speaks": _SPEAKS}
                _write_ready(
                    settings.server.ready_file, {**said, "control": grpc, "status_http": http}
                )
                logs.event("agent.started", control=grpc, status=http, tfs=tfs_grpc)
                watching.append(tasks.create_task(_leash(settings.server, stop), name="leash"))
                await stop.wait()
                logs.event("agent.stopping")
            for task in watching:
                task.cancel()
    logs.event("agent.stopped")


@asynccontextmanager
async def _serving(
    settings: AgentSettings, tfs: Tfs, shared: Path
) -> AsyncIterator[tuple[str, str]]:
    """Both doors open inside the block; gives their addresses."""
    server = settings.server
    runtime = AgentRuntime(tfs, settings.waits)
    versions = await asyncio.to_thread(SharedVersions, shared, versions_for(server))
    workers = Workers(1)
    manager = Manager(runtime, versions, workers, server.batch, server.load)
    runtime.labels = lambda: manager.labels
    service = Service(manager, timeout_s=server.timeout_s, offload_bytes=server.offload_bytes)
    agent = Agent(service, runtime, tfs)
    http, grpc = listen_both(server)
    addresses = address_of(server.http, http), address_of(server.grpc, grpc)
    try:
        async with Tasks(log_bug) as handlers:
            front = AgentFront(agent, server.timeout_s, handlers)
            listener = Listener(front)
            await listener.start(http)
            await listener.start(grpc)
            manager.configure([ConfiguredModel(n, source_for(n, uri)) for n, uri in server.models])
            async with asyncio.TaskGroup() as tasks:
                lives = [tasks.create_task(manager.run()), tasks.create_task(agent.watch())]
                front.health.say(True)
                try:
                    yield addresses
                finally:
                    front.health.say(False)
                    front.health.end()
                    runtime.stop()
                    await listener.stop(1.0)
                    for life in lives:
                        life.cancel()
    finally:
        manager.close()
        workers.close()
        service.close()


async def _leash(server: ServerSettings, stop: asyncio.Event) -> None:
    if server.leash is not None:
        await leash.let_go(server.leash, server.leash_grace_s)
        logs.event("agent.let_go", why="the gateway has not come back")
        stop.set()


def _own_folder(cache_dir: Path | None) -> Path:
    """A folder for this run, beside the cache so that files can be linked; those of agents that
    were killed are removed."""
    if cache_dir is None:
        return Path(tempfile.mkdtemp(prefix="gateway-agent-"))
    siblings = cache_dir.absolute().parent / "agents"
    siblings.mkdir(parents=True, exist_ok=True)
    for old in siblings.iterdir():
        if old.name.isdigit() and not _is_alive(int(old.name)):
            shutil.rmtree(old, ignore_errors=True)
    own = siblings / str(os.getpid())
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(mode=0o700)
    return own


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write_ready(path: Path | None, said: dict[str, object]) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    draft.write_text(json.dumps(said))
    draft.replace(path)


if __name__ == "__main__":
    code = main()
    # A thread that waits for TensorFlow Serving must not hold up the end (see servers.kit.main).
    logging.shutdown()
    os._exit(code)
