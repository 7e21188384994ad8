"""A call whose answer comes whole, because it is translated or awaited: the one task there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.domain.errors import GatewayError, UpstreamFailed
from gateway.domain.replicas import Endpoint
from gateway.ports import Upstream, UpstreamRequest

if TYPE_CHECKING:
    from gateway.dataplane.forwarding import Forwarding


async def call(
    asked: Forwarding, upstream: Upstream, endpoint: Endpoint, request: UpstreamRequest
) -> None:
    """Ask, and tell `asked` how it ended. Cancelling it cancels the call, and nothing is told.

    `asked.task` is this one: it is forgotten first, so that what follows does not cancel itself.
    """
    try:
        answer = await upstream.call(endpoint, request, asked.deadline_at)
    except UpstreamFailed as error:
        asked.task = None
        asked.broke(error)
    except GatewayError as error:
        asked.task = None
        asked.refuse(error)
    except Exception as error:  # noqa: BLE001 - a bug becomes an answer, as in rescue
        asked.task = None
        asked.crashed(error)
    else:
        asked.task = None
        asked.told(answer)
