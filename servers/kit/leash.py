"""End a replica whose gateway is gone for good: nothing is left running after a crash.

The gateway holds an exclusive flock on one file while it lives; the kernel lets go of it however
the gateway ends, SIGKILL included. A replica looks at that lock once a second. Nobody holding it
for the grace time means that no gateway came back to adopt the replica, so it drains and exits. A
lock was chosen over PR_SET_PDEATHSIG because replicas are meant to outlive a restart of the
gateway, and over a heartbeat file because a lock cannot be left behind.

`python -m servers.kit.leash --leash PATH --leash-grace-s N -- CMD …` keeps any program so.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

LOOK_EVERY_S = 1.0
"""Often enough beside a grace of tens of seconds; one flock and one unlock cost microseconds."""

DEFAULT_GRACE_S = 30.0
"""Longer than any restart of the gateway takes, shorter than people wait for a GPU."""


def is_held(path: Path) -> bool:
    """Whether some gateway holds the leash now. A file that is not there is held by nobody."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared: replicas that look at the same moment must not take each other for a gateway.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


async def let_go(
    path: Path, grace_s: float = DEFAULT_GRACE_S, look_every_s: float = LOOK_EVERY_S
) -> None:
    """Return once nobody has held `path` for `grace_s` seconds in a row."""
    loop = asyncio.get_running_loop()
    last_held_at = loop.time()
    while True:
        now = loop.time()
        if is_held(path):
            last_held_at = now
        elif now - last_held_at >= grace_s:
            return
        await asyncio.sleep(look_every_s)


async def keep(
    command: Sequence[str], path: Path, grace_s: float, drain_s: float, look_every_s: float
) -> int:
    """Run `command` until it ends or the leash is let go; return its exit code.

    SIGTERM and SIGINT are passed on. After the leash is let go the program gets SIGTERM, and
    SIGKILL `drain_s` seconds later.
    """
    loop = asyncio.get_running_loop()
    process = await asyncio.create_subprocess_exec(*command)

    def pass_on(number: signal.Signals) -> None:
        if process.returncode is None:
            process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, pass_on, number)

    async def watch() -> None:
        await let_go(path, grace_s, look_every_s)
        print("leash: no gateway has come back; stopping", file=sys.stderr, flush=True)  # noqa: T201 - a program's own words
        pass_on(signal.SIGTERM)
        await asyncio.sleep(drain_s)
        pass_on(signal.SIGKILL)

    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch())
        code = await process.wait()
        watching.cancel()
    # A shell's convention, so that the scheduler's words on the exit stay the same when wrapped.
    return 128 - code if code < 0 else code


def main(argv: Sequence[str]) -> int:
    """`python -m servers.kit.leash`."""
    parser = argparse.ArgumentParser(prog="python -m servers.kit.leash", description=__doc__)
    parser.add_argument("--leash", type=Path, required=True, help="the file that the gateway locks")
    parser.add_argument("--leash-grace-s", type=float, default=DEFAULT_GRACE_S)
    parser.add_argument("--drain-s", type=float, default=30.0, help="from SIGTERM to SIGKILL")
    parser.add_argument("--look-every-s", type=float, default=LOOK_EVERY_S)
    parser.add_argument("command", nargs="+", metavar="CMD", help="after --")
    args = parser.parse_args(argv)
    try:
        return asyncio.run(
            keep(args.command, args.leash, args.leash_grace_s, args.drain_s, args.look_every_s)
        )
    except (FileNotFoundError, PermissionError) as error:
        print(f"leash: cannot start {args.command[0]}: {error}", file=sys.stderr)  # noqa: T201 - a program's own words
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
