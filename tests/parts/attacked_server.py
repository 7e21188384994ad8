"""A listener of the wire in a process of its own: its memory is to be told from the attacker's.

`python -m tests.parts.attacked_server asyncio|uvloop`: reads commands from stdin and writes answers
to stdout, a JSON document a line. The tests' side is `Attacked`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import uvloop

from gateway.wire.fields import Fields
from gateway.wire.listener import Listener
from gateway.wire.settings import ServerWireSettings
from gateway.wire.tls import CertificateFiles

ROOT = Path(__file__).resolve().parents[2]
TEXT = (Fields([("content-type", "text/plain")]),)
BIG_BYTES = 1 << 20
"""What `/big` is answered with, whole."""
PIECE_BYTES = 10_000
"""What `/stream` is answered with, again and again while the caller takes it."""


class _Request:
    """Counts a body, then answers with its size."""

    def __init__(self, front, exchange):
        self.front, self.exchange, self.size = front, exchange, 0

    def on_data(self, data):
        self.size += len(data)

    def on_end(self, trailers):
        self.front.answer(self.exchange, self.size)

    def on_gone(self, cause):
        self.front.gone[self.exchange.head.path] += 1

    def on_writable(self):
        if self.exchange.head.path == "/stream":
            self.front.go_on(self.exchange)


class Front:
    """`/hold` is never answered and its body never taken, `/big` and `/stream` with much, `/refuse`
    before its body is read; all else with the size of what was sent."""

    def __init__(self):
        self.paths: Counter[str] = Counter()
        """Requests that were begun, by their path, ..."""
        self.gone: Counter[str] = Counter()
        """... and those of which it was told that their caller is gone."""

    def begin(self, exchange, body):
        path = exchange.head.path
        self.paths[path] += 1
        exchange.sink = _Request(self, exchange)
        if path == "/refuse":
            exchange.respond(413, TEXT, b"too large")
        elif path == "/hold":
            pass
        elif body is None:
            exchange.accept_body()
        else:
            self.answer(exchange, len(body))

    def answer(self, exchange, size):
        if exchange.head.path == "/big":
            exchange.respond(200, TEXT, b"x" * BIG_BYTES)
        elif exchange.head.path == "/stream":
            exchange.start(200, TEXT, None)
            self.go_on(exchange)
        else:
            exchange.respond(200, TEXT, b"%d" % size)

    def go_on(self, exchange):
        while not exchange.is_congested:
            exchange.write(b"x" * PIECE_BYTES)


class Counts:
    """exchange.Watch."""

    def __init__(self):
        self.causes: Counter[str] = Counter()
        self.open: Counter[str] = Counter()

    def opened(self, protocol):
        self.open[protocol] += 1

    def closed(self, protocol):
        self.open[protocol] -= 1

    def refused(self, cause):
        self.causes[cause] += 1


def _memory() -> dict[str, int]:
    """This process' memory now and at most, in bytes."""
    status = Path("/proc/self/status").read_text()
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return {name: int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")}


def _forget_most() -> None:
    """Have VmHWM begin anew. Where that is not allowed it stays the most of all times, which is
    stricter."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class _Serving:
    """One listener at a time, with the settings that a test asks for."""

    def __init__(self):
        self.front, self.counts = Front(), Counts()
        self.listener: Listener | None = None

    async def listen(self, settings, tls):
        self.front, self.counts = Front(), Counts()
        context = CertificateFiles(*map(Path, tls)).context if tls else None
        self.listener = Listener(
            self.front, ServerWireSettings(**settings), watch=self.counts, tls=context
        )
        sock = socket.create_server(("127.0.0.1", 0))
        # Accepted ones inherit it: what a caller does not read waits here and not in the kernel.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        await self.listener.start(sock)
        return {"port": sock.getsockname()[1]}

    async def mark(self):
        _forget_most()
        return _memory()

    async def look(self):
        assert self.listener is not None
        return {
            "causes": self.counts.causes,
            "open": self.counts.open,
            "paths": self.front.paths,
            "gone": self.front.gone,
            "connections": self.listener.connections,
            **_memory(),
        }

    async def stop(self):
        assert self.listener is not None
        await self.listener.stop(0.0)
        return {"connections": self.listener.connections}


async def _main() -> None:
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    serving = _Serving()
    while line := await commands.readline():
        name, given = json.loads(line)
        answer = await getattr(serving, name)(**given)
        print(json.dumps(answer), flush=True)


class Attacked:
    """The process, from outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.port = 0

    @classmethod
    @contextlib.contextmanager
    def running(cls, loop: str):
        command = [sys.executable, "-m", "tests.parts.attacked_server", loop]
        with subprocess.Popen(
            command, cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as process:  # fmt: skip
            try:
                yield cls(process)
            finally:
                process.kill()

    def _ask(self, name: str, **given):
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, given]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return "127.0.0.1", self.port

    def listen(self, settings: dict[str, float], tls: tuple[Path, Path] | None = None) -> None:
        """Begin anew, with these settings and nothing counted."""
        files = [str(file) for file in tls or ()]
        self.port = self._ask("listen", settings=settings, tls=files)["port"]

    def mark(self) -> int:
        """The memory that it has, in bytes; its peak is measured from here."""
        return self._ask("mark")["VmRSS"]

    def look(self):
        """What has been counted: `causes open paths gone connections VmHWM`."""
        return self._ask("look")

    def stop(self) -> int:
        """Stop listening; how many connections were left."""
        return self._ask("stop")["connections"]


if __name__ == "__main__":
    {"asyncio": asyncio.run, "uvloop": uvloop.run}[sys.argv[1]](_main())
