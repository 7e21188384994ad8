"""`main()` of every model server: flags, signals, leash, exit codes."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence

from gateway.domain.errors import GatewayError
from gateway.wire.memory import spare_what_is_there
from servers.kit import flags, leash, logs
from servers.kit.background import let_storage_give_way
from servers.kit.runtime import Runtime
from servers.kit.server import PortTaken, serving, write_ready_file
from servers.kit.settings import ServerSettings

RuntimeFactory = Callable[[argparse.Namespace], Runtime]
AddFlags = Callable[[argparse.ArgumentParser], None]


def run(
    runtime_factory: RuntimeFactory,
    name: str,
    argv: Sequence[str] | None = None,
    *,
    add_flags: AddFlags | None = None,
) -> int:
    """Serve until told to stop; returns the exit code (0 drained, 1 could not start, 2 usage).

    `runtime_factory` gets the parsed flags, `add_flags` the parser, for flags of the framework.
    """
    parser = flags.parser(name)
    if add_flags is not None:
        add_flags(parser)
    args = parser.parse_args(argv)
    settings = flags.settings(args)
    logs.set_up(settings.log_format)
    try:
        runtime = runtime_factory(args)
    except ImportError as error:
        return _cannot(f"{error}. Install it with: pip install 'model-gateway[{name}]'")
    except GatewayError as error:
        return _cannot(error.message)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(runtime, name, settings))
    except PortTaken as error:
        return _cannot(str(error))
    except OSError as error:
        return _cannot(f"Cannot start: {error}")
    # A run or a load that is still under way cannot be interrupted, and the interpreter would wait
    # for its thread. Everything that was promised an answer has had it.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _cannot(why: str) -> int:
    logs.warn("server.failed", why=why)
    return 1


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(runtime: Runtime, name: str, settings: ServerSettings) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    why = ""

    def end(reason: str) -> None:
        nonlocal why
        why = why or reason
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, number.name)

    async def watch() -> None:
        if settings.leash is not None:
            await leash.let_go(settings.leash, settings.leash_grace_s)
            end("the gateway has not come back")

    # The framework has been imported, and no version loaded yet, which is to be freed one day.
    let_storage_give_way()
    spare_what_is_there()
    async with serving(runtime, settings) as running:
        if settings.ready_file is not None:
            write_ready_file(settings.ready_file, running)
        logs.event(
            "server.started", backend=name, http=running.http, grpc=running.grpc, pid=os.getpid()
        )
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch())
            await stop.wait()
            if settings.leave_s:
                logs.event("server.leaving", why=why)
                await running.service.left_alone(settings.leave_s, settings.quiet_s)
            watching.cancel()
        logs.event("server.draining", why=why, in_flight=running.service.in_flight)
    logs.event("server.stopped")
