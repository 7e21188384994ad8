"""Carry one call to the gateway: gRPC or HTTP, awaiting or blocking. No retries in here.

Each raises the error of domain/errors.py that the answer stands for: Unavailable where nothing
answers, DeadlineExceeded once `timeout_s` is over.
"""

from __future__ import annotations

import http.client
import json
import threading
from typing import Any, Protocol
from urllib.parse import urlsplit

from gateway.client.answers import from_grpc, from_http, seconds
from gateway.client.calls import Call, Dialect, Reply, bad_answer
from gateway.domain.errors import (
    DeadlineExceeded,
    GatewayError,
    InvalidRequest,
    Unavailable,
    UpstreamFailed,
)

_CHUNK = 1 << 20


class AsyncTransport(Protocol):
    """Awaits answers."""

    async def call(self, call: Call, timeout_s: float) -> Reply: ...

    async def aclose(self) -> None: ...


class Transport(Protocol):
    """Blocks for answers; may be used by several threads."""

    def call(self, call: Call, timeout_s: float) -> Reply: ...

    def close(self) -> None: ...


def split_address(address: str, protocol: str | None = None) -> tuple[Dialect, str, bool]:
    """Dialect, `host:port`, and whether TLS is meant.

    Without a protocol TensorFlow Serving's is spoken, over gRPC, or over HTTP where the address
    says http. Without a scheme the address is one of the protocol's carrier.

    Raises:
        InvalidRequest: neither `host:port`, `grpc://…` nor `http://…` (`bad_url`), a protocol that
            there is not, or one that the address cannot carry (`bad_protocol`).
    """
    if protocol is not None and protocol not in set(Dialect):
        raise InvalidRequest(
            f"protocol={protocol!r} is none of {', '.join(Dialect)}", reason="bad_protocol"
        )
    dialect = None if protocol is None else Dialect(protocol)
    scheme = "grpc" if dialect is None or dialect.is_grpc else "http"
    full = address if "://" in address else f"{scheme}://{address}"
    defaults = {"http": 8501, "https": 443, "grpc": 8500}
    try:
        parts = urlsplit(full)
        if not parts.hostname or parts.path not in ("", "/"):
            raise ValueError("no host, or more than a host")
        port = parts.port or defaults[parts.scheme]
    except (ValueError, KeyError) as error:
        raise InvalidRequest(
            f"{address!r} is no address of a gateway: write localhost:8500 for gRPC, or "
            "http://localhost:8501 for HTTP",
            reason="bad_url",
        ) from error
    is_grpc = parts.scheme == "grpc"
    if dialect is None:
        dialect = Dialect.TFS_GRPC if is_grpc else Dialect.TFS_REST
    if dialect.is_grpc is not is_grpc:
        raise InvalidRequest(
            f"{address!r} carries {parts.scheme}, and {dialect} goes over "
            f"{'gRPC' if dialect.is_grpc else 'HTTP'}",
            reason="bad_protocol",
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return dialect, f"{host}:{port}", parts.scheme == "https"


# ---- gRPC --------------------


def _grpc_options(max_answer_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", max_answer_bytes),
        ("grpc.max_send_message_length", -1),
        # The client above retries, and knows when; a second hand in it would multiply attempts.
        ("grpc.enable_retries", 0),
    ]


def _grpc_error(error: Any, address: str) -> GatewayError:
    reason = next(
        (str(v) for k, v in error.trailing_metadata() or () if k == "x-gateway-reason"), ""
    )
    code = error.code().value[0]
    if code == 14 and not reason:
        return Unavailable(
            f"No answer at {address}: {error.details()}", reason="gateway_unreachable"
        )
    return from_grpc(code, error.details() or "", reason=reason)


class AsyncGrpc:
    """grpc.aio; the channel belongs to the event loop of its first call."""

    def __init__(self, address: str, max_answer_bytes: int) -> None:
        import grpc.aio

        self._error = grpc.aio.AioRpcError
        self._address = address
        # Any: grpc-stubs do not know that (de)serializers and grace may be left out.
        self._channel: Any = grpc.aio.insecure_channel(
            address, options=_grpc_options(max_answer_bytes)
        )
        self._methods: dict[str, Any] = {}

    async def call(self, call: Call, timeout_s: float) -> Reply:
        """Answer bytes, undecoded."""
        method = self._methods.get(call.target)
        if method is None:
            method = self._methods[call.target] = self._channel.unary_unary(call.target)
        try:
            answer: bytes = await method(call.body, timeout=timeout_s)
        except self._error as error:
            raise _grpc_error(error, self._address) from error
        return Reply(answer)

    async def aclose(self) -> None:
        """Cancel what is in flight and close the channel."""
        await self._channel.close()


class Grpc:
    """grpc, blocking."""

    def __init__(self, address: str, max_answer_bytes: int) -> None:
        import grpc

        self._error = grpc.RpcError
        self._address = address
        self._channel: Any = grpc.insecure_channel(address, options=_grpc_options(max_answer_bytes))
        self._methods: dict[str, Any] = {}

    def call(self, call: Call, timeout_s: float) -> Reply:
        """Answer bytes, undecoded."""
        method = self._methods.get(call.target)
        if method is None:
            method = self._methods[call.target] = self._channel.unary_unary(call.target)
        try:
            answer: bytes = method(call.body, timeout=timeout_s)
        except self._error as error:
            raise _grpc_error(error, self._address) from error
        return Reply(answer)

    def close(self) -> None:
        """Cancel what is in flight and close the channel."""
        self._channel.close()


# ---- HTTP --------------------

_HEADER_LENGTH = "Inference-Header-Content-Length"


def _headers(call: Call, timeout_s: float) -> dict[str, str]:
    headers = {"x-request-timeout-ms": str(max(1, int(timeout_s * 1000)))}
    if call.header_length is None:
        return headers | {"Content-Type": "application/json"}
    return headers | {
        "Content-Type": "application/octet-stream",
        _HEADER_LENGTH: str(call.header_length),
    }


def _reply(body: bytes, header_length: str | None) -> Reply:
    if header_length is None:
        return Reply(body)
    if not header_length.isascii() or not header_length.isdigit():
        raise bad_answer(f"The answer's {_HEADER_LENGTH} is {header_length[:40]!r}")
    return Reply(body, int(header_length))


def _http_error(
    status: int, body: bytes, reason: str | None, retry_after: str | None
) -> GatewayError:
    try:
        message = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        message = body[:1024].decode("utf-8", "replace") or f"HTTP {status} without a word"
    return from_http(status, message, reason=reason or "", retry_after_s=seconds(retry_after))


def _unreachable(address: str, error: Exception) -> Unavailable:
    return Unavailable(f"No answer at {address}: {error}", reason="gateway_unreachable")


def _broken(address: str, error: Exception) -> UpstreamFailed:
    return UpstreamFailed(
        f"The connection to {address} broke: {error or type(error).__name__}",
        reason="reset",
        sent=True,
    )


def _too_much(address: str, limit: int) -> UpstreamFailed:
    return UpstreamFailed(
        f"{address} answered more than {limit} bytes", reason="bad_answer", sent=True
    )


class AsyncHttp:
    """aiohttp; the session belongs to the event loop of its first call."""

    def __init__(self, address: str, tls: bool, max_answer_bytes: int) -> None:
        self._url = f"{'https' if tls else 'http'}://{address}"
        self._max = max_answer_bytes
        self._session: Any = None

    async def call(self, call: Call, timeout_s: float) -> Reply:
        """Answer bytes, undecoded."""
        import aiohttp
        from yarl import URL

        if self._session is None:
            # The limit on connections is the gateway's business (429), not the client's.
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        try:
            async with self._session.request(
                "GET" if call.body is None else "POST",
                URL(self._url + call.target, encoded=True),
                data=call.body,
                headers=_headers(call, timeout_s),
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
            ) as answer:
                body = bytearray()
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > self._max:
                        raise _too_much(self._url, self._max)
                if answer.status != 200:
                    get = answer.headers.get
                    raise _http_error(
                        answer.status, bytes(body), get("x-gateway-reason"), get("Retry-After")
                    )
                return _reply(bytes(body), answer.headers.get(_HEADER_LENGTH))
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"{self._url} did not answer within {timeout_s:.1f} s", reason="call"
            ) from error
        except aiohttp.ClientConnectorError as error:
            raise _unreachable(self._url, error) from error
        except aiohttp.ClientError as error:
            raise _broken(self._url, error) from error

    async def aclose(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class Http:
    """http.client, blocking; one connection for each thread that calls."""

    def __init__(self, address: str, tls: bool, max_answer_bytes: int) -> None:
        self._url = f"{'https' if tls else 'http'}://{address}"
        self._max = max_answer_bytes
        parts = urlsplit(self._url)
        self._host, self._port, self._tls = parts.hostname or "", parts.port, tls
        self._mine = threading.local()
        self._all: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def _connection(self) -> http.client.HTTPConnection:
        found: http.client.HTTPConnection | None = getattr(self._mine, "connection", None)
        if found is None:
            kind = http.client.HTTPSConnection if self._tls else http.client.HTTPConnection
            found = self._mine.connection = kind(self._host, self._port)
            with self._lock:
                self._all.append(found)
        return found

    def call(self, call: Call, timeout_s: float) -> Reply:
        """Answer bytes, undecoded. `timeout_s` bounds each wait for bytes; the whole is bounded by
        the gateway, which is told the same limit."""
        connection = self._connection()
        connection.timeout = timeout_s
        method = "GET" if call.body is None else "POST"
        headers = _headers(call, timeout_s)
        try:
            if connection.sock is None:
                try:
                    connection.connect()
                except OSError as error:
                    raise _unreachable(self._url, error) from error
            connection.sock.settimeout(timeout_s)
            connection.request(method, call.target, call.body, headers)
            answer = connection.getresponse()
            body = answer.read(self._max + 1)
        except TimeoutError as error:
            connection.close()
            raise DeadlineExceeded(
                f"{self._url} did not answer within {timeout_s:.1f} s", reason="call"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _broken(self._url, error) from error
        if len(body) > self._max:
            connection.close()
            raise _too_much(self._url, self._max)
        if answer.status != 200:
            get = answer.headers.get
            raise _http_error(answer.status, body, get("x-gateway-reason"), get("Retry-After"))
        return _reply(body, answer.getheader(_HEADER_LENGTH))

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            connections, self._all = self._all, []
        for connection in connections:
            connection.close()
