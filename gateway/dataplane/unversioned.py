"""To V2 servers that know no versions and would not find one that is named to them.

What came with a version pinned goes without: cut out of the path, or set back to "" by appending
the empty field (of a scalar that occurs twice protobuf takes the last). The answer then names no
version either; `x-gateway-version` says which one the gateway takes it for.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from gateway.domain.replicas import Endpoint
from gateway.ports import Upstream, UpstreamAnswer, UpstreamRequest

_VERSION = re.compile(r"(?<=[^/])/versions/[0-9]+")
_NO_VERSION = b"\x12\x00"
"""Field 2, which is the version in every V2 request about one model, empty."""


class UnversionedUpstream:
    """ports.Upstream that leaves the version out of V2 requests."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def call(
        self, endpoint: Endpoint, request: UpstreamRequest, deadline_at: float
    ) -> UpstreamAnswer:
        """As the upstream that it wraps."""
        if " " in request.target:
            request = replace(request, target=_VERSION.sub("", request.target, count=1))
        else:
            request = replace(request, body=request.body + _NO_VERSION)
        return await self._upstream.call(endpoint, request, deadline_at)

    def keep(self, endpoints: Collection[Endpoint]) -> None:
        """Nothing: the connections are those of the upstream that it wraps."""

    async def aclose(self) -> None:
        """Nothing, as `keep`."""
