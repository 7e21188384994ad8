"""What the gateway itself answers in the Open Inference Protocol, from the routing table.

Models are managed by the control API and not by predicting callers: loading what is deployed only
has its source looked at (v2_loads), and whatever would change something is refused, in Triton's own
words where it has some. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from gateway.codecs.oip_admin import IndexEntry, index_entries
from gateway.codecs.oip_errors import Flavour, model_not_ready, model_unknown
from gateway.core.route import ModelRoute, RoutingTable, is_held, route
from gateway.domain.errors import GatewayError, InvalidRequest, Unavailable, Unimplemented
from gateway.domain.models import VersionState, VersionStatus
from gateway.domain.names import Version

SERVER_NAME = "gateway"

TRACE_SETTINGS: Mapping[str, Any] = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
"""Triton's own defaults, with tracing off: the gateway traces nothing into files."""

LOG_SETTINGS: Mapping[str, bool | int | str] = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}
"""Triton's own defaults, which is what the gateway does."""


def index(table: RoutingTable, *, only_ready: bool) -> list[IndexEntry]:
    """Every known version of every model, by name and version."""
    models = {name: _routable(model) for name, model in sorted(table.models.items())}
    return index_entries(models, only_ready=only_ready)


def _routable(model: ModelRoute) -> list[VersionStatus]:
    """A version whose replicas are gone for the moment is not READY to callers."""
    return [
        replace(status, state=VersionState.LOADING, reason="its replicas are being replaced")
        if status.state is VersionState.READY
        and not model.targets.get(status.version)
        and not model.is_started_on_demand
        else status
        for status in sorted(model.statuses, key=lambda s: s.version)
    ]


def is_ready(table: RoutingTable) -> bool:
    """Whether the lifecycle has published what there is. Models may still load: each says so
    itself, and one that cannot must not take all others out of a balancer before this gateway."""
    return table.generation > 0


def model_ready(
    table: RoutingTable, name: str, version: Version | None, flavour: Flavour
) -> GatewayError | None:
    """None when a request would be answered; else what to say where more than "no" can be said."""
    try:
        route(table, name, version)
    except Unavailable as error:
        if is_held(table, name, version):
            return None
        return model_not_ready(flavour, name, version, reason=error.reason)
    except GatewayError:
        return model_unknown(flavour, name, version)
    return None


def check_load(
    table: RoutingTable, name: str, parameters: Collection[str], flavour: Flavour
) -> None:
    """Whether "load this model" is true already.

    Raises:
        InvalidRequest: the model is unknown (`model_unknown`), or files or a configuration came
            with the request (`load_parameters`).
        Unavailable: it is known and cannot answer yet.
    """
    if name not in table.models:
        raise InvalidRequest(
            f"failed to load '{name}', failed to poll from model repository: no such model is "
            "deployed. Deploy it through the control API (gateway deploy model)",
            reason="model_unknown",
        )
    if parameters:
        raise InvalidRequest(
            f"failed to load '{name}': the parameter '{next(iter(parameters))[:64]}' cannot be "
            "applied; models are configured through the control API (gateway deploy model)",
            reason="load_parameters",
        )
    error = model_ready(table, name, None, flavour)
    if error is not None:
        raise error


class ControlRefused(Unavailable):
    """Model control is not for predicting callers. As in Triton without explicit model control,
    UNAVAILABLE over gRPC and 400 over HTTP."""


def refuse_unload() -> ControlRefused:
    """In Triton's words."""
    return ControlRefused(
        "explicit model load / unload is not allowed if polling is enabled: models are managed "
        "through the control API (gateway delete model)",
        reason="model_control_refused",
    )


def refuse_settings(what: str) -> Unimplemented:
    """Settings of the whole process are not for predicting callers to change."""
    return Unimplemented(
        f"{what} settings are those of the gateway and cannot be changed by its callers; "
        "start it with other flags instead",
        reason="settings_read_only",
    )


def refuse_shared_memory(kind: str) -> Unimplemented:
    """Registering memory makes sense between a caller and a server on one host only."""
    return Unimplemented(
        f"{kind} shared memory is not offered: replicas may run on another host than the caller; "
        "send tensors as binary data instead",
        reason="shared_memory",
    )


def refuse_region(kind: str, name: str) -> InvalidRequest:
    """The status of a region that, like all, is not registered."""
    return InvalidRequest(
        f"Unable to find {kind} shared memory region: '{name[:64]}'", reason="region_unknown"
    )


def check_known(table: RoutingTable, name: str, flavour: Flavour) -> None:
    """Raises NotFound when no such model is deployed."""
    if name not in table.models:
        raise model_unknown(flavour, name)
