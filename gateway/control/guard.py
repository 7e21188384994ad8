"""Keep other people's web pages out.

A browser will send requests to 127.0.0.1 for any page that asks. Two ways are closed here: a page
of another origin that posts (its Origin or Sec-Fetch-Site gives it away), and DNS rebinding, where
the page's own name has come to mean 127.0.0.1 (the Host is a name that is not ours). There is no
CORS: nobody else's page may read an answer. Programs send neither header and pass.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware

from gateway.control.answers import Handler, error_answer
from gateway.domain.errors import Forbidden

_SAFE = ("GET", "HEAD", "OPTIONS")


def is_address_or_localhost(host: str) -> bool:
    """Whether a Host names no DNS name that others could point here."""
    if host.lower() == "localhost":
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def refusal(
    method: str,
    host: str,
    origin: str | None,
    site: str | None,
    known_hosts: Collection[str] | None,
) -> str | None:
    """Why a request is refused, or None. `known_hosts` None leaves names unchecked."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return f"The Host {host[:100]!r} cannot be read."
    if known_hosts is not None and not is_address_or_localhost(name) and name not in known_hosts:
        return (
            f"This gateway is not called {name[:100]!r}. Use its address, or add the name to the "
            "control API's known hosts."
        )
    if method in _SAFE:
        return None
    if site is not None and site not in ("same-origin", "none"):
        return "Pages of other sites may not change anything here."
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return f"Pages of {origin[:100]!r} may not change anything here."
    return None


def guard(known_hosts: Collection[str] | None) -> Middleware:
    """The middleware."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        words = refusal(
            request.method,
            request.host,
            request.headers.get("Origin"),
            request.headers.get("Sec-Fetch-Site"),
            known_hosts,
        )
        if words is not None:
            return error_answer(Forbidden(words, reason="cross_origin"))
        return await handler(request)

    return guarded
