"""The control API from Python: what the CLI uses, and nothing that it could not do.

Objects are plain dicts with the keys of gateway/control/README.md. Every refusal arrives as the
error of domain/errors.py that the server raised. Waiting is bounded: a call has `timeout_s`, the
event stream goes on after a lost connection where it stopped (Last-Event-ID) and gives up when the
gateway has been away for `patience_s`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import aiohttp

from gateway.client.answers import from_http, seconds
from gateway.client.sse import EventStreamParser
from gateway.domain.errors import (
    DeadlineExceeded,
    GatewayError,
    InvalidRequest,
    Unavailable,
    UpstreamFailed,
)

DEFAULT_URL = "http://127.0.0.1:8080"
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """How long the client waits, and how much it reads."""

    timeout_s: float = 60.0
    """Seconds for one call. A minute, because `deploy` has the gateway look at the source first,
    and object storage that is slow or away takes tens of seconds to say so."""

    patience_s: float = 60.0
    """Seconds without the gateway after which a watch gives up. A restart of the gateway takes a
    few; a minute also covers a machine that is busy."""

    silence_s: float = 60.0
    """Seconds without a byte after which an event stream is taken for dead and opened again.
    Opening it again costs nothing: it goes on after the last event."""

    max_answer_bytes: int = 64 << 20
    """Bytes of one answer at most. A thousand models with all they say are some megabytes."""


class ControlClient:
    """Use as `async with ControlClient(url) as control`."""

    def __init__(self, url: str = DEFAULT_URL, settings: ControlSettings | None = None) -> None:
        self.url = check_url(url)
        self._settings = settings or ControlSettings()
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"ControlClient({self.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # ---- what there is --------------------

    async def health(self) -> Object:
        """`status`, `version`, `pid` and the `addresses` of the data plane."""
        return await self._object("GET", "health")

    async def models(self) -> list[Object]:
        """All models."""
        return await self._items("models")

    async def model(self, name: str) -> Object:
        """One model. Raises NotFound."""
        return await self._object("GET", f"models/{_part(name)}")

    async def versions(self, model: str | None = None) -> list[Object]:
        """Versions of one model, or of all."""
        return await self._of("versions", model)

    async def replicas(self, model: str | None = None) -> list[Object]:
        """Replicas of one model, or of all."""
        return await self._of("replicas", model)

    async def rollouts(self, model: str | None = None) -> list[Object]:
        """Rollouts of one model, or of all."""
        return await self._of("rollouts", model)

    async def events(
        self, *, after: int = 0, model: str | None = None, limit: int = 1000
    ) -> list[Object]:
        """Events with `seq` above `after`, oldest first; with `after=0` the newest `limit`."""
        query = {"after": str(after), "limit": str(limit)}
        if model is not None:
            query["model"] = model
        return await self._items("events", query)

    async def traffic(self, model: str | None = None) -> Object:
        """`at_s`, `bounds_s` and the `items` of each model: counts to be subtracted."""
        return await self._object(
            "GET", "traffic", query=None if model is None else {"model": model}
        )

    # ---- what is wanted --------------------

    async def deploy(self, name: str, request: Mapping[str, Any]) -> Object:
        """Create or update a model; returns it at once, before it is ready.

        Raises:
            InvalidRequest: the request, or its source, cannot be what is meant.
            NotFound, Forbidden, Unavailable: the source is not there, denied, or does not answer.
            Conflict: the name belongs to a model of another backend.
        """
        return await self._object("PUT", f"models/{_part(name)}", body=request)

    async def scale(self, name: str, replicas: int) -> Object:
        """Ask for this many replicas."""
        return await self._object(
            "POST", f"models/{_part(name)}:scale", body={"replicas": replicas}
        )

    async def rollout(self, name: str, action: str, version: int | None = None) -> Object:
        """`start`, `pause`, `resume`, `promote`, `abort` or `undo` a model's rollout; returns it as
        it is then. `version` is for `start`: else the newest.

        Raises:
            Conflict, InvalidRequest: not in its phase; the words say what may be done instead.
        """
        body: Object = {"action": action}
        if version is not None:
            body["version"] = version
        return await self._object("POST", f"models/{_part(name)}/rollout", body=body)

    async def refresh(self, name: str) -> Object:
        """Have the model's source looked at now."""
        return await self._object("POST", f"models/{_part(name)}:refresh")

    async def delete(self, name: str) -> Object:
        """Begin to remove a model; it is gone when `model()` raises NotFound."""
        return await self._object("DELETE", f"models/{_part(name)}")

    # ---- what happens --------------------

    async def watch(
        self, *, after: int = 0, model: str | None = None
    ) -> AsyncGenerator[Object, None]:
        """Events with `seq` above `after`, then new ones as they happen, for ever.

        A lost connection is opened again and goes on after the last event seen. Close the iterator
        (contextlib.aclosing) to stop. Types that begin with `stream.` are notices about the stream
        itself (`stream.gap`: some events are no longer kept), not events of a model.

        Raises:
            Unavailable: the gateway was away for `patience_s`.
        """
        seen = after
        loop = asyncio.get_running_loop()
        away_since: float | None = None
        delay_s = 0.2
        while True:
            try:
                async with aclosing(self._stream(seen, model)) as stream:
                    async for event in stream:
                        away_since, delay_s = None, 0.2
                        if event is not None:
                            seen = max(seen, int(event["seq"]))
                            yield event
            except (Unavailable, UpstreamFailed, DeadlineExceeded) as error:
                now = loop.time()
                away_since = now if away_since is None else away_since
                if now - away_since > self._settings.patience_s:
                    raise Unavailable(
                        f"The event stream of {self.url} has been away for "
                        f"{self._settings.patience_s:.0f} s: {error.message}",
                        reason="control_unreachable",
                    ) from error
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, 5.0)

    async def logs(
        self, name: str, *, replica: str | None = None, follow: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """Output of a model's replicas as it comes, in chunks that may end within a line."""
        query = {"follow": "1"} if follow else {}
        if replica is not None:
            query["replica"] = replica
        limit = aiohttp.ClientTimeout(
            total=None,
            connect=self._settings.timeout_s,
            sock_read=None if follow else self._settings.timeout_s,
        )
        path = f"models/{_part(name)}/logs"
        async with self._answer("GET", path, query=query, limit=limit) as answer:
            async for chunk in answer.content.iter_any():
                yield chunk

    async def _stream(self, after: int, model: str | None) -> AsyncGenerator[Object | None, None]:
        """One connection's events; None once it stands, so that the caller sees progress."""
        query = {"watch": "1", "after": str(after)}
        if model is not None:
            query["model"] = model
        headers = {"Accept": "text/event-stream"}
        if after:
            headers["Last-Event-ID"] = str(after)
        limit = aiohttp.ClientTimeout(
            total=None, connect=self._settings.timeout_s, sock_read=self._settings.silence_s
        )
        async with self._answer(
            "GET", "events", query=query, headers=headers, limit=limit
        ) as answer:
            yield None
            parser = EventStreamParser()
            async for chunk in answer.content.iter_any():
                for event in parser.feed(chunk):
                    yield _parse(event.data.encode(), self.url)

    # ---- one exchange --------------------

    async def _of(self, kind: str, model: str | None) -> list[Object]:
        return await self._items(kind if model is None else f"models/{_part(model)}/{kind}")

    async def _items(self, path: str, query: Mapping[str, str] | None = None) -> list[Object]:
        answer = await self._object("GET", path, query=query)
        items = answer.get("items")
        if not isinstance(items, list):
            raise _no_control_api(self.url)
        return items

    async def _object(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Object:
        limit = aiohttp.ClientTimeout(total=self._settings.timeout_s)
        async with self._answer(method, path, query=query, body=body, limit=limit) as answer:
            return _parse(await self._read(answer), self.url)

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        *,
        limit: aiohttp.ClientTimeout,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer below 400; foreign errors become ours, also while the body is read."""
        if self._session is None:
            self._session = aiohttp.ClientSession()
        try:
            async with self._session.request(
                method,
                f"{self.url}/api/v1/{path}",
                params=query,
                headers=headers,
                json=body,
                timeout=limit,
                allow_redirects=False,
            ) as answer:
                if answer.status >= 300:
                    raise await self._refusal(answer)
                yield answer
        except TimeoutError as error:
            raise DeadlineExceeded(f"{self.url} did not answer in time", reason="call") from error
        except aiohttp.ClientConnectorError as error:
            raise Unavailable(
                f"No answer at {self.url}: start it with `gateway serve`, or name its address "
                f"with --url or GATEWAY_URL ({error.os_error.strerror or error.os_error})",
                reason="control_unreachable",
            ) from error
        except aiohttp.ClientError as error:
            raise UpstreamFailed(
                f"The connection to {self.url} broke: {error or type(error).__name__}",
                reason="reset",
                sent=True,
            ) from error

    async def _refusal(self, answer: aiohttp.ClientResponse) -> GatewayError:
        try:
            told = json.loads(await self._read(answer))["error"]
            message, reason = str(told["message"]), str(told["reason"])
        except (ValueError, KeyError, TypeError):
            return _no_control_api(self.url, answer.status)
        retry_after_s = seconds(answer.headers.get("Retry-After"))
        return from_http(answer.status, message, reason=reason, retry_after_s=retry_after_s)

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > self._settings.max_answer_bytes:
                raise UpstreamFailed(
                    f"{self.url} answered more than {self._settings.max_answer_bytes} bytes",
                    reason="bad_answer",
                    sent=True,
                )
        return bytes(body)


def check_url(url: str) -> str:
    """`url` without a trailing slash; `host:port` alone means http.

    Raises:
        InvalidRequest: it is no HTTP address.
    """
    full = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(full)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise InvalidRequest(
            f"{url!r} is no address of a control API: write it like {DEFAULT_URL}", reason="bad_url"
        )
    return full.rstrip("/")


def _part(name: str) -> str:
    return quote(name, safe="")


def _parse(body: bytes, url: str) -> Object:
    try:
        value = json.loads(body)
    except ValueError as error:
        raise _no_control_api(url) from error
    if not isinstance(value, dict):
        raise _no_control_api(url)
    return value


def _no_control_api(url: str, status: int | None = None) -> UpstreamFailed:
    what = "" if status is None else f" (HTTP {status})"
    return UpstreamFailed(
        f"What answers at {url}{what} is not the control API of a gateway: look at --url and "
        "GATEWAY_URL (the control API listens on port 8080 unless told otherwise)",
        reason="bad_answer",
        sent=True,
    )


async def fetch_json(url: str, *, timeout_s: float) -> Object:
    """One JSON object of at most a mebibyte from elsewhere in the gateway (a model's metadata).

    Raises:
        Unavailable: it did not come, for whatever reason.
    """
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s)) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > 1 << 20:
                    raise ValueError("more than a mebibyte")
            value = json.loads(body) if answer.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise Unavailable(f"{url} did not answer: {error}", reason="call") from error
    if not isinstance(value, dict):
        raise Unavailable(f"{url} did not answer with an object", reason="call")
    return value
