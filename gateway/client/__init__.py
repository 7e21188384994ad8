"""The Python SDK: predictions with numpy in and out, and the control API.

    from gateway.client import Client
    Client("localhost:8500").predict("resnet", {"x": array})    # {name: array}

Names are imported when they are first used, so that a program which only drives the control API
(the CLI is one) pays for neither numpy nor gRPC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.client.control import ControlClient
    from gateway.client.predictions import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "ControlClient"]


def __getattr__(name: str) -> Any:
    if name in ("AsyncClient", "Client"):
        from gateway.client import predictions

        return getattr(predictions, name)
    if name == "ControlClient":
        from gateway.client.control import ControlClient

        return ControlClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
