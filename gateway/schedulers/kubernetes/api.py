"""Requests to the API server: list, watch, apply, patch, delete, logs. JSON in and out.

Each call is bounded in time and made once; who calls decides whether to try again. Only a 401 is
met here, by reading the credentials anew. Errors come as our own, in the server's words, which name
the right that is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
import orjson

from gateway.domain.errors import (
    Conflict,
    Forbidden,
    GatewayError,
    InvalidRequest,
    NotFound,
    Unauthorized,
    Unavailable,
)
from gateway.schedulers.kubernetes import names
from gateway.schedulers.kubernetes.access import Access, Sockets
from gateway.schedulers.kubernetes.settings import KubernetesSettings

_PAGE = 500
"""Objects of one answer to a list, as client-go asks for."""

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object."""

    name: str
    group: str
    """`apps/v1`; `v1` for the core."""

    def path(self, namespace: str, name: str = "", part: str = "") -> str:
        """The path of all of them, or of one, or of a part of one."""
        root = "api" if self.group == "v1" else "apis"
        whole = [root, self.group, "namespaces", quote(namespace), self.name, quote(name), part]
        return "/" + "/".join(p for p in whole if p)


PODS = Resource("pods", "v1")
EVENTS = Resource("events", "v1")
SERVICES = Resource("services", "v1")
DEPLOYMENTS = Resource("deployments", "apps/v1")
BUDGETS = Resource("poddisruptionbudgets", "policy/v1")


NOT_LEADER = "not_leader"
"""Reason of a write that was not made, for this gateway is not the one that acts."""


class Gone(GatewayError):
    """The server no longer knows the version from which to watch: list anew. HTTP 410."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="gone")


class Api:
    """One namespace of one API server. An async context manager."""

    def __init__(self, access: Access, settings: KubernetesSettings) -> None:
        self._access = access
        self._settings = settings
        self._sockets = Sockets()
        self._session: aiohttp.ClientSession | None = None
        self.calls: Counter[tuple[str, str]] = Counter()
        """How often each verb was asked for of each resource."""
        self.may_write: Callable[[], bool] = lambda: True
        """Asked at each write, as late as can be: a process that was frozen between its decision
        and its deed may have lost the lead meanwhile."""

    @property
    def namespace(self) -> str:
        """Where everything is."""
        return self._access.namespace

    def __repr__(self) -> str:
        return f"Api({self._access.host}, {self.namespace}, {sum(self.calls.values())} calls)"

    async def __aenter__(self) -> Self:
        # Writes, five watches, and people who read logs.
        self._session = self._access.session(self._settings.concurrent_calls + 32, self._sockets)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            await self._sockets.end()

    # ---- reading --------------------

    async def check_namespace(self) -> None:
        """Raises NotFound where there is no such namespace. One that we may not look at is taken to
        be there: a list of nothing in it succeeds either way."""
        path = f"/api/v1/namespaces/{quote(self.namespace)}"
        try:
            await self._call("get", "namespaces", "GET", path)
        except NotFound as error:
            raise NotFound(
                f"The namespace {self.namespace} does not exist. Make it with: "
                f"kubectl create namespace {self.namespace}",
                reason="namespace_unknown",
            ) from error
        except Forbidden:
            return

    async def list(
        self, resource: Resource, query: Mapping[str, str]
    ) -> tuple[list[dict[str, Any]], str]:
        """All objects, page after page, and the version they are of."""
        found: list[dict[str, Any]] = []
        more = ""
        while True:
            asked = {**query, "limit": str(_PAGE), **({"continue": more} if more else {})}
            path = resource.path(self.namespace)
            page = await self._call("list", resource.name, "GET", path, query=asked)
            found += page.get("items") or ()
            more = page["metadata"].get("continue") or ""
            if not more:
                return found, page["metadata"]["resourceVersion"]

    async def watch(
        self, resource: Resource, query: Mapping[str, str], version: str
    ) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """What happens from `version` on, as (`ADDED` …, object), bookmarks included. Ends when the
        server ends it, or says nothing for long.

        Raises:
            Gone, and whatever else the server answers instead.
        """
        asked = {
            **query,
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(round(self._settings.watch_s)),
        }
        silence = aiohttp.ClientTimeout(
            total=None, sock_connect=self._settings.call_s, sock_read=self._settings.quiet_s
        )
        path = resource.path(self.namespace)
        async with self._asked("watch", resource.name, "GET", path, asked, bound=silence) as got:
            try:
                async for line in lines(got.content.iter_any()):
                    event = orjson.loads(line)
                    if event["type"] == "ERROR":
                        raise _refused(int(event["object"].get("code") or 500), event["object"])
                    yield event["type"], event["object"]
            except TimeoutError:
                return
            except (aiohttp.ClientError, OSError) as error:
                raise _unreachable(self._access.host, error) from error

    async def log(self, pod: str, container: str, *, follow: bool) -> AsyncGenerator[bytes, None]:
        """One container's output. Raises NotFound."""
        asked = {"container": container, **({"follow": "true"} if follow else {})}
        patience = aiohttp.ClientTimeout(total=None, sock_connect=self._settings.call_s)
        path = PODS.path(self.namespace, pod, "log")
        async with self._asked("get", "pods/log", "GET", path, asked, bound=patience) as got:
            try:
                async for chunk in got.content.iter_any():
                    yield chunk
            except (aiohttp.ClientError, OSError) as error:
                raise _unreachable(self._access.host, error) from error

    # ---- writing --------------------

    async def apply(
        self, resource: Resource, manifest: Mapping[str, Any], *, is_ours: bool
    ) -> dict[str, Any]:
        """Server-side apply. `is_ours`: an object that we have made, so fields that others have
        changed are put back; else a stranger's object of that name is a Conflict."""
        query = {
            "fieldManager": names.manager(self._settings),
            "force": "true" if is_ours else "false",
        }
        path = resource.path(self.namespace, manifest["metadata"]["name"])
        return await self._call(
            "patch", resource.name, "PATCH", path, query=query, body=manifest, form=_APPLY
        )

    async def annotate(self, pod: str, annotations: Mapping[str, str | None]) -> None:
        """Set annotations of a pod; None takes one away. A pod that is gone is no error."""
        body = {"metadata": {"annotations": dict(annotations)}}
        path = PODS.path(self.namespace, pod)
        try:
            await self._call("patch", "pods", "PATCH", path, body=body, form=_MERGE)
        except NotFound:
            return

    async def delete(self, resource: Resource, name: str, uid: str = "") -> None:
        """Delete one object, and what it owns behind it. One that is gone, or another by now, is no
        error."""
        body: dict[str, Any] = {"propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        path = resource.path(self.namespace, name)
        try:
            await self._call("delete", resource.name, "DELETE", path, body=body)
        except (NotFound, Conflict):
            return

    # ---- calling --------------------

    async def _call(
        self,
        verb: str,
        resource: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        form: str = "application/json",
    ) -> dict[str, Any]:
        bound = aiohttp.ClientTimeout(total=self._settings.call_s)
        async with self._asked(
            verb, resource, method, path, query or {}, body=body, form=form, bound=bound
        ) as got:
            try:
                answer: dict[str, Any] = orjson.loads(await got.read())
            except (aiohttp.ClientError, OSError) as error:
                raise _unreachable(self._access.host, error) from error
            return answer

    @asynccontextmanager
    async def _asked(
        self,
        verb: str,
        resource: str,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        bound: aiohttp.ClientTimeout,
        body: object = None,
        form: str = "application/json",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that is none of refusal. Raises what `_refused` says, or Unavailable."""
        assert self._session is not None, "enter the Api first"
        data = None if body is None else orjson.dumps(body)
        for attempt in (1, 2):
            self.calls[verb, resource] += 1
            headers = {"accept": "application/json", **await self._access.headers()}
            if data is not None:
                headers["content-type"] = form
            if method != "GET" and not self.may_write():
                raise Unavailable("Another gateway leads by now.", reason=NOT_LEADER)
            try:
                got = await self._session.request(
                    method, path, params=query, data=data, headers=headers, timeout=bound
                )
            except (aiohttp.ClientError, OSError) as error:
                raise _unreachable(self._access.host, error) from error
            async with got:
                if got.status == 401 and attempt == 1:
                    await self._access.renew()
                    continue
                if got.status >= 300:
                    raise _refused(got.status, await _said(got), got.headers.get("retry-after"))
                yield got
                return


async def lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Whole lines, however long, of what comes in pieces; a last one without an end is dropped, as
    its connection was cut within it."""
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line:
                yield line


async def _said(got: aiohttp.ClientResponse) -> dict[str, Any]:
    """The Status object of a refusal, or one made of what it says instead."""
    try:
        text = await got.read()
        said = orjson.loads(text)
    except (aiohttp.ClientError, OSError):
        return {}
    except orjson.JSONDecodeError:
        return {"message": text.decode("utf-8", errors="replace")[:500].strip()}
    return said if isinstance(said, dict) else {}


def _refused(status: int, said: Mapping[str, Any], retry_after: str | None = None) -> GatewayError:
    """The error for a refusal, in the API server's words and with what to do."""
    words = str(said.get("message") or said.get("reason") or f"HTTP {status}")
    match status:
        case 401:
            return Unauthorized(
                "The API server does not take these credentials (401): they have expired, or are "
                f"another cluster's. {words}",
                reason="kubernetes_unauthorized",
            )
        case 403 if "exceeded quota" in words:
            return Forbidden(words, reason="quota_exceeded")
        case 403:
            return Forbidden(
                f"{words}. The gateway's role lacks this right; deploy/ has one with all it needs.",
                reason="kubernetes_forbidden",
            )
        case 404:
            return NotFound(words, reason="kubernetes_not_found")
        case 409:
            return Conflict(words, reason="kubernetes_conflict")
        case 410:
            return Gone(words)
        case 400 | 422:
            return InvalidRequest(words, reason="kubernetes_invalid")
    wait = float(retry_after) if retry_after and retry_after.isdigit() else None
    return Unavailable(
        f"The API server answers {status}: {words}",
        reason="kubernetes_unavailable",
        retry_after_s=wait,
    )


def _unreachable(host: str, error: BaseException) -> Unavailable:
    words = str(error) or type(error).__name__
    return Unavailable(
        f"The API server {host} cannot be reached: {words}", reason="kubernetes_unreachable"
    )
