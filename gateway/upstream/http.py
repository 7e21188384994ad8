"""HTTP/1.1 to replicas: one keep-alive pool for each, bodies as they are.

A pool belongs to one address and is closed when that replica leaves the table, so that no
connection outlives it and is taken for a newcomer on the same port.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from io import BytesIO

import aiohttp
from yarl import URL

from gateway.domain.errors import DeadlineExceeded, UpstreamFailed
from gateway.domain.replicas import Endpoint
from gateway.ports import UpstreamAnswer, UpstreamRequest
from gateway.upstream.settings import UpstreamSettings

_HOP_BY_HOP = frozenset(
    (
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
        "te", "trailer", "transfer-encoding", "upgrade", "content-length",
    )
)  # fmt: skip
"""RFC 9110 section 7.6.1: meant for one connection. The length is written anew by each side."""

_WRITTEN_AT_ONCE_BYTES = 1 << 20
"""Larger bodies are written in pieces, so that one of them does not hold up the event loop."""

_SKIPPED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
"""Headers that aiohttp would invent where the caller sent none."""


class HttpUpstream:
    """ports.Upstream over aiohttp. Made and used within one running loop."""

    def __init__(self, settings: UpstreamSettings | None = None) -> None:
        self._settings = settings or UpstreamSettings()
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._retired: set[aiohttp.ClientSession] = set()
        self._in_use: dict[aiohttp.ClientSession, int] = {}

    async def call(
        self, endpoint: Endpoint, request: UpstreamRequest, deadline_at: float
    ) -> UpstreamAnswer:
        """Send `request` (target `POST /v1/…`) and read the whole answer.

        Raises:
            UpstreamFailed: `connect_refused`, `connect_timeout` (nothing was sent), `reset` (it
                broke before the whole answer was there) or `bad_answer` (that was no HTTP).
            DeadlineExceeded: `call`; the connection was closed, which tells the replica.
        """
        session = self._session(endpoint.http)
        self._in_use[session] = self._in_use.get(session, 0) + 1
        try:
            async with asyncio.timeout_at(deadline_at):
                return await self._exchange(session, endpoint.http, request)
        except aiohttp.ClientError as error:
            raise _translated(error, endpoint.http) from error
        except (TimeoutError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(
                    "The deadline passed while a replica was working on the request", reason="call"
                ) from error
            raise UpstreamFailed(
                f"The connection to the replica at {endpoint.http} broke: {error}",
                reason="reset",
                sent=True,
            ) from error
        finally:
            await self._release(session)

    async def _exchange(
        self, session: aiohttp.ClientSession, address: str, request: UpstreamRequest
    ) -> UpstreamAnswer:
        method, _, path = request.target.partition(" ")
        body = request.body
        large = len(body) > _WRITTEN_AT_ONCE_BYTES
        async with session.request(
            method,
            URL(f"http://{address}{path}", encoded=True),
            data=BytesIO(body) if large else body or None,
            headers=request.headers,
            allow_redirects=False,
        ) as response:
            payload = await response.read()
            headers = [
                (name, value)
                for raw, value in response.headers.items()
                if (name := raw.lower()) not in _HOP_BY_HOP
            ]
            return UpstreamAnswer(response.status, payload, tuple(headers))

    def keep(self, endpoints: Collection[Endpoint]) -> None:
        """Forget every other address. Calls under way finish; the connections are closed with the
        next call that ends, or by their keep-alive limit."""
        kept = {e.http for e in endpoints}
        for address in [a for a in self._sessions if a not in kept]:
            self._retired.add(self._sessions.pop(address))

    async def aclose(self) -> None:
        """Close every connection, in use or not."""
        sessions = [*self._sessions.values(), *self._retired]
        self._sessions.clear()
        self._retired.clear()
        for session in sessions:
            await session.close()

    async def _release(self, session: aiohttp.ClientSession) -> None:
        left = self._in_use[session] - 1
        if left:
            self._in_use[session] = left
        else:
            del self._in_use[session]
        if self._retired:
            for idle in [s for s in self._retired if s not in self._in_use]:
                self._retired.discard(idle)
                await idle.close()

    def _session(self, address: str) -> aiohttp.ClientSession:
        session = self._sessions.get(address)
        if session is None:
            settings = self._settings
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=settings.connections,
                    keepalive_timeout=settings.keepalive_s,
                    happy_eyeballs_delay=None,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=_SKIPPED,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_timeout_s),
                max_line_size=65536,
                max_field_size=65536,
            )
            self._sessions[address] = session
        return session


def _translated(error: aiohttp.ClientError, address: str) -> UpstreamFailed:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return UpstreamFailed(
            f"The replica at {address} did not accept a connection in time",
            reason="connect_timeout",
            sent=False,
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return UpstreamFailed(
            f"The replica at {address} cannot be reached: {error.strerror or error}",
            reason="connect_refused",
            sent=False,
        )
    if isinstance(error, (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)):
        return UpstreamFailed(
            f"The replica at {address} closed the connection before its answer was complete",
            reason="reset",
            sent=True,
        )
    return UpstreamFailed(
        f"The replica at {address} did not answer in HTTP: {error}", reason="bad_answer", sent=True
    )
