"""The control API's shapes, declared once: requests are checked against them, answers are made of
them, and the OpenAPI document is written from them.

Ranges stand here for the document only (`extra_json_schema`); `deploy.py` checks them, because its
words name the flag and say what to do. In requests UNSET is an absent key (keep what was), None is
`null` (back to the default). In answers a value that is not there is null, never missing.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.domain.models import PROTOCOLS


def _doc(description: str, example: Any = None, **schema: Any) -> Meta:
    return Meta(
        description=description,
        examples=None if example is None else [example],
        extra_json_schema=schema or None,
    )


Name = Annotated[str, _doc("A model's name.", "resnet", maxLength=128)]
Moment = Annotated[str, _doc("RFC 3339, UTC.", "2026-11-23T09:30:00.000Z")]
Replicas = Annotated[int, _doc("How many replicas.", 2, minimum=1, maximum=1000)]
Source = Annotated[
    str,
    _doc(
        "URI of the folder whose children are versions: s3://, gs://, az://, file://, or an "
        "absolute path.",
        "s3://models/resnet",
    ),
]
Policy = Annotated[
    str, _doc("Which versions to hold: `latest`, `latest:N`, `all`, or listed ones.", "latest:1")
]
Labels = Annotated[
    dict[str, int],
    _doc("Aliases of versions; `stable` and `canary` are the gateway's own.", {"golden": 3}),
]
Protocol = Annotated[str, Meta(extra_json_schema={"enum": list(PROTOCOLS)})]
Size = Annotated[int | str | None, _doc("Bytes, or a size as `512MB`, `8Gi`.", "8Gi")]


class DeployRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What `gateway deploy model` asks for. Only `source` is required, and only the first time.
    Keys that are absent keep what they were; `null` returns one to its default."""

    source: Source | UnsetType = UNSET
    backend: (
        Annotated[
            str | None,
            _doc(
                "onnx, tensorflow, caffe or custom; seen from the files when absent. It cannot "
                "change while the model exists.",
                "onnx",
            ),
        ]
        | UnsetType
    ) = UNSET
    replicas: Replicas | UnsetType = UNSET
    min_replicas: (
        Annotated[int | None, _doc("With max_replicas, and equal to it until autoscaling exists.")]
        | UnsetType
    ) = UNSET
    max_replicas: (
        Annotated[int | None, _doc("With min_replicas, and equal to it until autoscaling exists.")]
        | UnsetType
    ) = UNSET
    versions: Policy | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET
    gpus: Annotated[int, _doc("GPUs of each replica.", 1, minimum=0)] | UnsetType = UNSET
    gpu_type: Annotated[str | None, _doc("GPU product; null takes any.")] | UnsetType = UNSET
    cpu: Annotated[float | None, _doc("Cores of each replica; null: no bound.")] | UnsetType = UNSET
    memory: Size | UnsetType = UNSET
    image: (
        Annotated[str | None, _doc("Container image, where the scheduler runs containers.")]
        | UnsetType
    ) = UNSET
    command: (
        Annotated[
            list[str] | str | None,
            _doc(
                "For `custom`: program and arguments; {http_port}, {grpc_port} and {model_dir} are "
                "replaced. A string is split as a shell would.",
                ["./serve", "--port", "{http_port}"],
            ),
        ]
        | UnsetType
    ) = UNSET
    before: (
        Annotated[str | None, _doc("Shell command before a replica starts; it must succeed.")]
        | UnsetType
    ) = UNSET
    after: Annotated[str | None, _doc("Shell command after a replica has stopped.")] | UnsetType = (
        UNSET
    )
    batch_size: (
        Annotated[int, _doc("Rows joined into one run at most; 1 joins none.", 32, minimum=1)]
        | UnsetType
    ) = UNSET
    batch_delay_ms: (
        Annotated[float, _doc("How long the first row waits for company.", 2, minimum=0)]
        | UnsetType
    ) = UNSET
    timeout_s: Annotated[float, _doc("Deadline of a request that brings none.", 30)] | UnsetType = (
        UNSET
    )
    in_flight_limit: (
        Annotated[int, _doc("Requests at once in one worker; more get 429.", 1024, minimum=1)]
        | UnsetType
    ) = UNSET
    require_manifest: (
        Annotated[bool, _doc("Hold only versions that `gateway publish` completed.")] | UnsetType
    ) = UNSET
    speaks: (
        Annotated[
            list[Protocol] | str | None,
            _doc(
                "Protocols in which its replicas answer; as a list, or as text with commas. A "
                "caller's own is passed through, others are translated. null: all four, for "
                "`custom` tfs-rest and tfs-grpc.",
                ["v2-rest", "v2-grpc"],
            ),
        ]
        | UnsetType
    ) = UNSET
    tenant: Annotated[str, _doc("`default` until tenants exist.", "default")] | UnsetType = UNSET
    generation: (
        Annotated[
            int | None,
            _doc("The generation this change is based on, instead of If-Match; never stored."),
        ]
        | UnsetType
    ) = UNSET


class ScaleRequest(Struct, forbid_unknown_fields=True):
    """What `gateway scale model` asks for."""

    replicas: Replicas
    generation: Annotated[int | None, _doc("As in DeployRequest.")] | UnsetType = UNSET


class Model(Struct):
    """A model: what is wanted of it, and how it is."""

    name: Name
    backend: Annotated[str, _doc("onnx, tensorflow, caffe or custom.", "onnx")]
    source: Source
    tenant: str
    state: Annotated[
        str,
        _doc(
            "pending: nothing seen yet. deploying: on its way. ready: all is as asked. degraded: "
            "answers, but not all that was asked for is there. failed: cannot answer. deleting.",
            "ready",
            enum=["pending", "deploying", "ready", "degraded", "failed", "deleting"],
        ),
    ]
    reason: Annotated[str | None, _doc("Why it is not ready, and what to do.")]
    replicas: Annotated[int, _doc("Wanted.", 2)]
    ready_replicas: Annotated[int, _doc("Answering.", 2)]
    policy: Policy
    live_version: Annotated[int | None, _doc("Answers when a caller names none.", 3)]
    versions: Annotated[list[int], _doc("AVAILABLE ones, ascending.", [3])]
    labels: Annotated[dict[str, int], _doc("`stable` among them.", {"stable": 3})]
    generation: Annotated[int, _doc("Counts changes; name it to change only what you read.", 1)]
    created_at: Moment
    updated_at: Moment
    managed_by: Annotated[
        str,
        _doc("control, or reload (HandleReloadConfigRequest).", "control"),
    ]
    spec: Annotated[dict[str, Any], _doc("The DeployRequest that would make this model again.")]
    source_reason: Annotated[str | None, _doc("Why the source cannot be read now.")]
    source_failing_since: Moment | None


class ModelVersion(Struct):
    """One version of a model, merged over its replicas."""

    model: Name
    version: Annotated[int, _doc("Its number.", 3)]
    state: Annotated[
        str,
        _doc(
            "READY answers on at least one replica; FAILED is kept out, `reason` says why.",
            "ready",
            enum=["new", "fetching", "loading", "ready", "draining", "gone", "failed"],
        ),
    ]
    live: Annotated[bool, _doc("Answers when a caller names no version.")]
    labels: list[str]
    reason: str | None
    ready_replicas: int
    total_replicas: int
    fetched_bytes: int | None
    total_bytes: int | None
    phase: Annotated[str | None, _doc("fetching, loading or warming.")]
    has_manifest: Annotated[bool, _doc("Whether `gateway publish` completed it.")]
    in_source: Annotated[bool, _doc("Whether the source still has it.")]


class Replica(Struct):
    """One running server of a model."""

    id: Annotated[str, _doc("Unique for ever.", "resnet-k3x9q")]
    model: Name
    backend: str
    state: Annotated[
        str,
        _doc(
            "What is guaranteed of it.",
            "ready",
            enum=["starting", "loading", "ready", "draining", "stopped", "failed"],
        ),
    ]
    reason: str | None
    pid: int | None
    endpoint: Annotated[str | None, _doc("HTTP, host:port.", "127.0.0.1:40123")]
    grpc_endpoint: Annotated[str | None, _doc("gRPC, host:port.", "127.0.0.1:40124")]
    versions: Annotated[list[int], _doc("AVAILABLE ones, ascending.", [3])]
    restarts: int
    gpus: list[str]
    started_at: Moment | None


class Rollout(Struct):
    """A version on its way through weight steps. None exist until canaries are offered."""

    model: Name
    version: int
    phase: str


class Event(Struct):
    """Something that happened."""

    seq: Annotated[int, _doc("Grows by one with each event.", 41)]
    at: Moment
    type: Annotated[str, _doc("Past tense.", "version.ready")]
    model: Name
    version: int | None
    replica: str | None
    message: str
    fields: dict[str, Any]


class Addresses(Struct):
    """Where this gateway listens."""

    http: str | None
    grpc: str | None
    control: str | None


class Health(Struct):
    """That the control API answers, and what it is."""

    status: Annotated[str, _doc("Always ok.", "ok")]
    version: Annotated[str, _doc("The gateway's.", "0.1.0")]
    pid: int
    addresses: Addresses


class ErrorDetail(Struct):
    """What went wrong."""

    reason: Annotated[str, _doc("Stable slug, for programs.", "source_not_found")]
    message: Annotated[str, _doc("What to do next, for people.")]


class ErrorAnswer(Struct):
    """Every answer that is not 2xx."""

    error: ErrorDetail


class ModelItems(Struct):
    """Models, by name."""

    items: list[Model]


class VersionItems(Struct):
    """Versions, by model, newest first."""

    items: list[ModelVersion]


class ReplicaItems(Struct):
    """Replicas, by model."""

    items: list[Replica]


class RolloutItems(Struct):
    """Rollouts, by model."""

    items: list[Rollout]


class EventItems(Struct):
    """Events, oldest first."""

    items: list[Event]
