"""A TCP proxy before a storage server, that can be told to misbehave. Runs on the test's own loop.

Signed requests pass, as the Host header stays what the client signed. Connections are relayed as
bytes; only the first line of each request is looked at, to count and to choose what to break.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_REQUEST = re.compile(rb"(GET|PUT|POST|HEAD|DELETE) (\S+) HTTP/1\.1\r\n")


@dataclass
class Proxy:
    """What passes, and what is to go wrong."""

    upstream: tuple[str, int]
    endpoint: str = ""
    requests: list[str] = field(default_factory=list)
    """`GET /models/resnet/_VERSIONS.json`, in order."""
    statuses: list[int] = field(default_factory=list)
    cut: str = ""
    """Answers to requests whose line holds this end after `cut_bytes`."""
    cut_bytes: int = 0
    cut_times: int = 10**9
    silent: bool = False
    """Accept, and never answer."""
    delay_s: float = 0.0
    """Before each block of an answer."""
    open: set[asyncio.StreamWriter] = field(default_factory=set)

    def take(self) -> list[str]:
        """The requests since the last call."""
        taken, self.requests = self.requests, []
        return taken

    def _cuts(self, line: str) -> bool:
        if not self.cut or self.cut not in line or self.cut_times <= 0:
            return False
        self.cut_times -= 1
        return True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        budget: list[int | None] = [None]
        self.open.add(writer)
        try:
            up_reader, up_writer = await asyncio.open_connection(*self.upstream)
            self.open.add(up_writer)
            with contextlib.suppress(OSError, ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._up(reader, up_writer, budget))
                    group.create_task(self._down(up_reader, writer, budget))
            up_writer.transport.abort()
            self.open.discard(up_writer)
        finally:
            writer.transport.abort()
            self.open.discard(writer)

    async def aclose(self) -> None:
        """Break every connection and wait until nothing of them is left."""
        while self.open:
            for end in list(self.open):
                end.transport.abort()
            await asyncio.sleep(0.005)

    async def _up(self, reader, up_writer, budget) -> None:
        while data := await reader.read(65536):
            for found in _REQUEST.finditer(data):
                line = f"{found[1].decode()} {found[2].decode()}"
                self.requests.append(line)
                budget[0] = self.cut_bytes if self._cuts(line) else None
            if self.silent:
                continue
            up_writer.write(data)
            await up_writer.drain()
        raise ConnectionResetError

    async def _down(self, up_reader, writer, budget) -> None:
        while data := await up_reader.read(65536):
            found = re.match(rb"HTTP/1\.1 (\d{3})", data)
            if found:
                self.statuses.append(int(found[1]))
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if budget[0] is not None:
                data = data[: budget[0]]
                budget[0] -= len(data)
            writer.write(data)
            await writer.drain()
            if budget[0] == 0:
                raise ConnectionResetError
        raise ConnectionResetError


@contextlib.asynccontextmanager
async def proxy_to(endpoint: str) -> AsyncIterator[Proxy]:
    """A proxy on a free port of 127.0.0.1."""
    parts = urlsplit(endpoint)
    assert parts.hostname is not None
    assert parts.port is not None
    proxy = Proxy((parts.hostname, parts.port))
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.aclose()
