"""The control API's shapes, declared once: requests are checked against them, answers are made of
them, and the OpenAPI document is written from them.

Ranges stand here for the document only (`extra_json_schema`); `deploy.py` checks them, because its
words name the flag and say what to do. In requests UNSET is an absent key (keep what was), None is
`null` (back to the default). In answers a value that is not there is null, never missing.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.control.rollout_schema import Agreement as Agreement
from gateway.control.rollout_schema import OutputAgreement as OutputAgreement
from gateway.control.rollout_schema import Rollout as Rollout
from gateway.control.rollout_schema import RolloutRequest as RolloutRequest
from gateway.control.rollout_schema import RolloutSide as RolloutSide
from gateway.control.schema_fields import Moment, Name
from gateway.control.schema_fields import doc as _doc
from gateway.control.template_schema import ModelTemplate as ModelTemplate
from gateway.control.template_schema import TemplateChange as TemplateChange
from gateway.control.traffic_schema import ModelTraffic as ModelTraffic
from gateway.control.traffic_schema import Traffic as Traffic
from gateway.control.traffic_schema import VersionTraffic as VersionTraffic
from gateway.domain.models import PROTOCOLS

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
    replicas: (
        Annotated[
            int | None,
            _doc("How many replicas, always; null: 1.", 2, minimum=1, maximum=1000),
        ]
        | UnsetType
    ) = UNSET
    min_replicas: (
        Annotated[
            int | None,
            _doc(
                "Fewest, where requests decide how many there are (max_replicas). 0: none while "
                "nobody asks; the next request starts one and waits for it, by its deadline. "
                "null: 1.",
                0,
                minimum=0,
                maximum=1000,
            ),
        ]
        | UnsetType
    ) = UNSET
    max_replicas: (
        Annotated[
            int | None,
            _doc("Most; instead of `replicas`. null: a fixed number.", 4, minimum=1, maximum=1000),
        ]
        | UnsetType
    ) = UNSET
    target_in_flight: (
        Annotated[
            float | None,
            _doc(
                "Requests in flight, waiting ones included, that each replica is to have on "
                "average. null: twice batch_size, 8 at most.",
                8,
            ),
        ]
        | UnsetType
    ) = UNSET
    idle_s: (
        Annotated[
            float | None,
            _doc(
                "Seconds without a request after which it has no replica any more, with "
                "min_replicas 0. null: 300.",
                300,
            ),
        ]
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
        Annotated[int, _doc("Requests at once in one worker; more get 429.", 8192, minimum=1)]
        | UnsetType
    ) = UNSET
    hedge: (
        Annotated[
            str,
            _doc(
                "`p95`: a request that takes longer than 95% of them do is sent to a second "
                "replica, too, and the first answer wins; p50 to p99.9, or `off`.",
                "p95",
            ),
        ]
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
    canary: (
        Annotated[
            list[float] | str | None,
            _doc(
                "Percents of the traffic that each later version gets in turn, before all of it; "
                "as a list, or as text with commas. null: it goes live at once.",
                [5, 25, 50],
            ),
        ]
        | UnsetType
    ) = UNSET
    canary_samples: (
        Annotated[
            int | None,
            _doc("Answers of either version that a step needs at least. null: 500.", 500),
        ]
        | UnsetType
    ) = UNSET
    canary_step_s: (
        Annotated[float | None, _doc("Seconds that a step takes at least. null: 60.", 60)]
        | UnsetType
    ) = UNSET
    canary_key: (
        Annotated[
            str | None,
            _doc(
                "Header or gRPC metadata by whose value callers keep their side. null: "
                "x-gateway-key.",
                "x-user-id",
            ),
        ]
        | UnsetType
    ) = UNSET
    shadow: (
        Annotated[
            float | str | None,
            _doc(
                "Percent of the stable version's requests that are copied to a canary, so that its "
                "answers can be compared; callers never get them. Needs `canary`. null: none.",
                10,
            ),
        ]
        | UnsetType
    ) = UNSET
    shadow_tolerance: (
        Annotated[
            float | None,
            _doc(
                "An element of an output differs when it is off by more than this, relative to its "
                "size. null: 0.01.",
                0.01,
            ),
        ]
        | UnsetType
    ) = UNSET
    shadow_max_differing: (
        Annotated[
            float | str | None,
            _doc(
                "Roll back if more than this percent of the predictions differ by more than the "
                "tolerance. null: that is shown and not judged.",
                1,
            ),
        ]
        | UnsetType
    ) = UNSET
    shadow_max_flips: (
        Annotated[
            float | str | None,
            _doc(
                "Roll back if the top-1 of more than this percent of the predictions is another. "
                "null: that is shown and not judged.",
                1,
            ),
        ]
        | UnsetType
    ) = UNSET
    canary_replicas: (
        Annotated[
            int | None,
            _doc(
                "Replicas that are started for a new version, or with a new image, command, "
                "batching or resources, before the model's own. 0 or null: the model's own hold "
                "both versions, and such a change replaces them one by one.",
                1,
                minimum=0,
                maximum=1000,
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
            "answers, but not all that was asked for is there. failed: cannot answer. idle: has no "
            "replica while nobody asks, the next request starts one. deleting.",
            "ready",
            enum=["pending", "deploying", "ready", "degraded", "failed", "idle", "deleting"],
        ),
    ]
    reason: Annotated[str | None, _doc("Why it is not ready, and what to do.")]
    replicas: Annotated[int, _doc("Wanted.", 2)]
    ready_replicas: Annotated[int, _doc("Answering; a canary's own do not count.", 2)]
    min_replicas: Annotated[int | None, _doc("null: the number is fixed.", 0)]
    max_replicas: Annotated[int | None, _doc("null: the number is fixed.", 4)]
    in_flight: Annotated[
        float | None,
        _doc(
            "On average over the last minute, where requests decide how many replicas there are.",
            12.3,
        ),
    ]
    scale_reason: Annotated[
        str | None,
        _doc(
            "Why it has as many replicas as it has, where that has changed since the gateway "
            "started.",
            "12.3 in flight per replica over 60 s, target 8",
        ),
    ]
    scaled_at: Annotated[Moment | None, _doc("When that changed last.")]
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
    template: Annotated[ModelTemplate | None, _doc("What its replicas run with; null: not known.")]


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
    standing: Annotated[
        str,
        _doc(
            "What the data plane thinks of its answers; by it requests go elsewhere.",
            "good",
            enum=["good", "suspect", "ejected", "probation"],
        ),
    ]
    standing_reason: Annotated[str | None, _doc("Why it is not good, and with how many workers.")]
    pid: int | None
    endpoint: Annotated[str | None, _doc("HTTP, host:port.", "127.0.0.1:40123")]
    grpc_endpoint: Annotated[str | None, _doc("gRPC, host:port.", "127.0.0.1:40124")]
    versions: Annotated[list[int], _doc("AVAILABLE ones, ascending.", [3])]
    group: Annotated[
        str,
        _doc(
            "stable: the model's own. canary: started for a rollout, whose version it holds alone.",
            "stable",
            enum=["stable", "canary"],
        ),
    ]
    template: Annotated[str | None, _doc("Digest of what it was started with.")]
    restarts: int
    gpus: list[str]
    started_at: Moment | None


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


class Leadership(Struct):
    """What this gateway is among those that share its database."""

    role: Annotated[str, _doc("`leader` or `follower`.", "leader")]
    gateway: Annotated[str, _doc("Its id.", "host-1f2e3d4c")]
    leader: Annotated[str | None, _doc("Id of the one that leads; null where none does.")]
    leader_control: Annotated[str | None, _doc("Its control API.", "host:8080")]
    since: Annotated[str | None, _doc("When it began to lead.", "2026-11-23T12:00:00.000Z")]
    others: Annotated[int, _doc("Other gateways that were heard of lately.")]


class Health(Struct):
    """That the control API answers, and what it is."""

    status: Annotated[str, _doc("Always ok.", "ok")]
    version: Annotated[str, _doc("The gateway's.", "0.1.0")]
    pid: int
    addresses: Addresses
    leadership: Annotated[Leadership | None, _doc("Null where it shares no database.")] = None


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
