"""The session to the API server, and how it ends."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gateway.schedulers.kubernetes.access import Access, Sockets
from tests.parts.certificates import self_signed


async def test_a_server_that_says_no_goodbye_keeps_no_socket_open(tmp_path: Path) -> None:
    """One watch broken off in the middle, and one call cancelled in its TLS handshake."""
    cert, key = self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    over = asyncio.Event()

    async def half_an_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await over.wait()
        writer.transport.abort()

    connected = asyncio.Event()

    async def no_hello(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await over.wait()
        writer.transport.abort()

    answering = await asyncio.start_server(half_an_answer, "127.0.0.1", 0, ssl=context)
    silent = await asyncio.start_server(no_hello, "127.0.0.1", 0)
    known = SimpleNamespace(ssl_ca_cert=str(cert), cert_file=None, verify_ssl=True)
    sockets = SeenSockets()
    async with answering, silent:
        session = Access(_url(answering), "models", known, None).session(4, sockets)
        async with session.get("/watch") as answer:
            assert await answer.content.readany() == b"{"
        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(session.get(_url(silent)).__aenter__())
            await connected.wait()
            call.cancel()
        await session.close()
        assert any(s.fileno() >= 0 for s in sockets.seen)
        await sockets.end()
        assert [s.fileno() for s in sockets.seen] == [-1, -1]
        over.set()


class SeenSockets(Sockets):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __call__(self, address: tuple[Any, ...]) -> Any:
        self.seen.append(super().__call__(address))
        return self.seen[-1]


def _url(server: asyncio.Server) -> str:
    return f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
