"""Every operation of the control API, declared once: the routes are made from this table, and so is
the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.control import schema

TEXT = "text/plain"
STREAM = "text/event-stream"

Parameter = Mapping[str, Any]


def _query(name: str, description: str, kind: str = "string", **more: Any) -> Parameter:
    return {
        "name": name,
        "in": "query",
        "description": description,
        "schema": {"type": kind, **more},
    }


NAME: Parameter = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "The model's name.",
    "schema": {"type": "string", "maxLength": 128},
    "example": "resnet",
}
IF_MATCH: Parameter = {
    "name": "If-Match",
    "in": "header",
    "description": "The generation that this change is based on; another one gives 409.",
    "schema": {"type": "string"},
    "example": '"3"',
}
MODEL = _query("model", "Only this model's.")


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    id: str
    """Also the name of ControlApi's method that answers it."""
    method: str
    path: str
    summary: str
    answers: Mapping[int, type[msgspec.Struct] | str]
    """By status: the object, or the media type where it is no JSON."""
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: type[msgspec.Struct] | None = None
    example: Mapping[str, Any] | None = None
    """Of the body."""
    errors: Mapping[int, str] = field(default_factory=dict)
    """By status: the reasons that `error.reason` may give."""


_UNKNOWN = {404: "model_unknown"}
_SOURCE_ERRORS = {
    400: "bad_json bad_body unknown_key bad_model_name bad_source bad_backend bad_replicas "
    "bad_target bad_idle_s bad_versions bad_size bad_canary bad_shadow bad_label bad_command "
    "bad_speaks custom_needs_program source_empty version_not_in_source manifest_missing "
    "backend_unknown backend_mismatch bad_if_match",
    403: "source_denied, or cross_origin",
    404: "source_not_found",
    409: "stale_generation backend_conflict rollout_in_progress",
    413: "too_large",
    501: "images_not_offered tenants_not_offered canary_replicas_not_offered",
    503: "source_unreachable store_locked store_full",
}
_V1 = "/api/v1"

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "health", "GET", f"{_V1}/health", "Whether it answers, and where", {200: schema.Health}
    ),
    Operation("list_models", "GET", f"{_V1}/models", "All models", {200: schema.ModelItems}),
    Operation(
        "deploy_model",
        "PUT",
        f"{_V1}/models/{{name}}",
        "Create or update a model",
        {200: schema.Model, 201: schema.Model},
        "The source is looked at before anything is stored, unless this is an update that does not "
        "touch it. Answers at once; watch the events for what follows. Asking for what is already "
        "so changes nothing. 201 says that the model is new.",
        (NAME, IF_MATCH),
        schema.DeployRequest,
        {"source": "s3://models/resnet", "replicas": 2},
        _SOURCE_ERRORS,
    ),
    Operation(
        "get_model",
        "GET",
        f"{_V1}/models/{{name}}",
        "One model",
        {200: schema.Model},
        parameters=(NAME,),
        errors=_UNKNOWN,
    ),
    Operation(
        "delete_model",
        "DELETE",
        f"{_V1}/models/{{name}}",
        "Stop wanting a model",
        {202: schema.Model},
        "Its replicas finish what they have begun; the event `model.deleted` says that it is gone.",
        (NAME, IF_MATCH),
        errors={400: "bad_if_match", **_UNKNOWN, 409: "stale_generation"},
    ),
    Operation(
        "scale_model",
        "POST",
        f"{_V1}/models/{{name}}:scale",
        "Ask for another number of replicas",
        {200: schema.Model},
        "Works while the source is down. Not where requests decide (max_replicas).",
        (NAME, IF_MATCH),
        schema.ScaleRequest,
        {"replicas": 3},
        {
            400: "bad_json bad_body unknown_key bad_replicas bad_if_match",
            **_UNKNOWN,
            409: "stale_generation autoscaled",
        },
    ),
    Operation(
        "refresh_model",
        "POST",
        f"{_V1}/models/{{name}}:refresh",
        "Look at its source now",
        {202: schema.Model},
        "For storage notifications and pipelines that do not want to wait for the next look.",
        (NAME,),
        errors=_UNKNOWN,
    ),
    Operation(
        "model_versions",
        "GET",
        f"{_V1}/models/{{name}}/versions",
        "A model's versions, newest first",
        {200: schema.VersionItems},
        parameters=(NAME,),
        errors=_UNKNOWN,
    ),
    Operation(
        "model_replicas",
        "GET",
        f"{_V1}/models/{{name}}/replicas",
        "A model's replicas",
        {200: schema.ReplicaItems},
        parameters=(NAME,),
        errors=_UNKNOWN,
    ),
    Operation(
        "model_rollouts",
        "GET",
        f"{_V1}/models/{{name}}/rollouts",
        "A model's rollouts",
        {200: schema.RolloutItems},
        "Empty until canaries are offered.",
        (NAME,),
        errors=_UNKNOWN,
    ),
    Operation(
        "model_logs",
        "GET",
        f"{_V1}/models/{{name}}/logs",
        "What its replicas wrote",
        {200: TEXT},
        "Of all replicas, each line after `[replica] `, or of one as it is. Where a replica is a "
        "pod of several containers, lines begin with `[replica/container] `. With `follow` the "
        "answer goes on with new lines.",
        (
            NAME,
            _query("replica", "Only this replica's; it may have stopped. Or `replica/container`."),
            _query("follow", "1 goes on with new output."),
        ),
        errors={404: "model_unknown replica_unknown"},
    ),
    Operation(
        "model_openapi",
        "GET",
        f"{_V1}/models/{{name}}/openapi.json",
        "How to ask this model for predictions, as OpenAPI",
        {200: "application/json"},
        "OpenAPI 3.1 of the model's routes on the data plane, TensorFlow Serving's and V2's, made "
        "from the signature of its live version: names, types and shapes of what goes in and comes "
        "out, with examples.",
        (NAME,),
        errors={**_UNKNOWN, 503: "version_loading no_selectable_replica"},
    ),
    Operation(
        "order_rollout",
        "POST",
        f"{_V1}/models/{{name}}/rollout",
        "Start, steer or undo its rollout",
        {200: schema.Rollout},
        "Answers once it is stored; the traffic follows within a second. `can` of the rollout says "
        "what it takes now.",
        (NAME,),
        schema.RolloutRequest,
        {"action": "pause"},
        {
            400: "bad_json bad_body unknown_key bad_action bad_version no_rollout wrong_phase "
            "no_canary_steps no_live_version nothing_newer nothing_to_undo version_gone",
            **_UNKNOWN,
            409: "rollout_in_progress",
            503: "starting store_locked store_full",
        },
    ),
    Operation(
        "list_versions",
        "GET",
        f"{_V1}/versions",
        "Versions of all models",
        {200: schema.VersionItems},
        parameters=(MODEL,),
        errors=_UNKNOWN,
    ),
    Operation(
        "list_replicas",
        "GET",
        f"{_V1}/replicas",
        "Replicas of all models",
        {200: schema.ReplicaItems},
        parameters=(MODEL,),
        errors=_UNKNOWN,
    ),
    Operation(
        "list_rollouts",
        "GET",
        f"{_V1}/rollouts",
        "Rollouts of all models",
        {200: schema.RolloutItems},
        parameters=(MODEL,),
        errors=_UNKNOWN,
    ),
    Operation(
        "list_events",
        "GET",
        f"{_V1}/events",
        "What happened, and what is happening",
        {200: schema.EventItems},
        "A stream of server-sent events: `id` is seq, `event` is type, `data` is the Event. It "
        "goes on after Last-Event-ID (or `after`), else with what happens from now on. "
        "`stream.gap` says that older events were dropped before they could be sent, `stream.cut` "
        "that the reader was too slow; it may come back with its Last-Event-ID. With `limit`, "
        "`watch=0` or `Accept: application/json`, and without `Accept: text/event-stream`, it is "
        "a list of what was.",
        (
            _query("after", "Events with seq above this; 0 is all that are kept.", "integer"),
            MODEL,
            _query("limit", "At most so many (1 to 10000).", "integer", default=1000),
            _query("watch", "1 asks for the stream, 0 for the list."),
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "Where a stream goes on; before `after`.",
                "schema": {"type": "integer"},
            },
        ),
        errors={400: "bad_query", 429: "too_many_streams"},
    ),
    Operation(
        "traffic",
        "GET",
        f"{_V1}/traffic",
        "Requests, errors and latencies by model and version",
        {200: schema.Traffic},
        "Counts since the gateway started, summed over its processes; those of a worker are up to "
        "half a second old. Two answers, subtracted, give rates and percentiles.",
        (MODEL,),
    ),
    Operation(
        "openapi",
        "GET",
        f"{_V1}/openapi.json",
        "This document",
        {200: "application/json"},
    ),
    Operation("metrics", "GET", "/metrics", "Prometheus metrics", {200: TEXT}),
    Operation("healthz", "GET", "/healthz", "`ok` while the process answers", {200: TEXT}),
)
