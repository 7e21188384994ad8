"""What runs in a model's pod: containers, probes, volumes, by backend. Pure.

kit     one of our servers: HTTP and gRPC on their own ports, drains by itself on SIGTERM
agent   stock TensorFlow Serving, and our agent beside it with a folder that both see
custom  an image of the owner's
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from gateway.domain.models import Backend, ModelSpec
from gateway.schedulers.kubernetes import names
from gateway.schedulers.kubernetes.settings import KubernetesSettings

Manifest = dict[str, Any]

_DEADLINES_S = (5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400)
"""Grace periods are made for one of these. A pod's grace cannot be changed while it runs, and a
model whose deadline is changed a little should not have all its pods replaced."""

_CACHE = "/cache"
_SHARED = "/shared"
_PERIOD_S = 2
"""Between two looks of a probe while a container starts; a replica that listens is used so soon."""

# As the local scheduler: a server with two cores must not start 64 threads.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
)


def kind_of(spec: ModelSpec, settings: KubernetesSettings) -> str:
    """`kit`, `agent` or `custom`."""
    if spec.backend is Backend.CUSTOM:
        return "custom"
    stock = spec.backend is Backend.TENSORFLOW and settings.tensorflow == "stock"
    return "agent" if stock else "kit"


def deadline_s(spec: ModelSpec) -> int:
    """The longest that an accepted request may take, rounded up; see _DEADLINES_S."""
    return next((d for d in _DEADLINES_S if d >= spec.timeout_s), _DEADLINES_S[-1])


def hold_s(spec: ModelSpec, settings: KubernetesSettings) -> int:
    """How long the preStop hook holds back SIGTERM. Our own servers go on answering after it and
    see themselves when nobody asks any more; others just end, so they are given the time for what
    they have begun before."""
    if kind_of(spec, settings) == "kit":
        return 0
    return math.ceil(settings.leave_s / 2 + deadline_s(spec))


def grace_s(spec: ModelSpec, settings: KubernetesSettings) -> int:
    """From the deletion of a pod to SIGKILL."""
    return math.ceil(settings.leave_s + deadline_s(spec) + settings.margin_s)


def containers(spec: ModelSpec, settings: KubernetesSettings) -> list[Manifest]:
    """The pod's containers, the one that answers first."""
    match kind_of(spec, settings):
        case "custom":
            return [_custom(spec, settings)]
        case "agent":
            return [_stock(spec, settings), _agent(spec, settings)]
        case _:
            return [_kit(spec, settings)]


def before(spec: ModelSpec, settings: KubernetesSettings) -> list[Manifest]:
    """Its init containers: `--before`, in the server's own image."""
    if not spec.before:
        return []
    command = ["/bin/sh", "-c", spec.before]
    made = _container(names.BEFORE, _image(spec, settings), command, [], spec, settings)
    return [{**made, "resources": _resources(spec, settings, gpus=False)}]


def volumes(spec: ModelSpec, settings: KubernetesSettings) -> list[Manifest]:
    """What the containers mount. No bound on the cache: versions in use are never evicted from it,
    and a volume over its bound takes the pod with it."""
    made: list[Manifest] = [
        {"name": "cache", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
    ]
    kind, _, what = settings.model_volume.partition(":")
    if kind == "claim":
        claim = {"claimName": what, "readOnly": True}
        made.append({"name": "models", "persistentVolumeClaim": claim})
    elif kind == "host":
        made.append({"name": "models", "hostPath": {"path": what, "type": "Directory"}})
    return made


def gpu_resource(spec: ModelSpec, settings: KubernetesSettings) -> str:
    """The extended resource that its GPUs are."""
    if names.is_mig(spec.resources.gpu_type):
        return f"{settings.mig_resource_prefix}{spec.resources.gpu_type}"
    return settings.gpu_resource


# ---- the three kinds --------------------


def _kit(spec: ModelSpec, settings: KubernetesSettings) -> Manifest:
    command = ["python", "-m", f"servers.{spec.backend}"]
    args = [
        f"--http=0.0.0.0:{names.HTTP_PORT}",
        f"--grpc=0.0.0.0:{names.GRPC_PORT}",
        *_kit_flags(spec, settings),
        f"--leave-s={settings.leave_s:g}",
        f"--batch-size={spec.batching.max_rows}",
        f"--batch-delay-ms={spec.batching.delay_s * 1000:g}",
        f"--v2-flavour={settings.v2_flavour}",
    ]
    if spec.resources.cpus is not None:
        args.append(f"--threads={_threads(spec)}")
    made = _container(names.SERVER, _image(spec, settings), command, args, spec, settings)
    live = _http("/v2/health/live", names.HTTP_PORT)
    # Ready is a pod that holds the model: the Deployment then takes no old pod away before its
    # successor can answer, and a disruption budget counts what can.
    ready = _http(f"/v2/models/{spec.name}/ready", names.HTTP_PORT)
    return {**made, "ports": _ports(), **_probes(live, ready, live, settings)}


def _stock(spec: ModelSpec, settings: KubernetesSettings) -> Manifest:
    """TensorFlow Serving, told to hold nothing yet. It starts with a configuration or not at all,
    hence the shell; no request of a shell's ever reaches it. The shell stays as the container's
    first process: TensorFlow Serving handles no signal, and what the first process does not handle
    the kernel does not deliver, so a pod would keep its GPU until SIGKILL."""
    config = f"{_SHARED}/models.config"
    server = [
        "tensorflow_model_server",
        f"--port={names.GRPC_PORT}",
        f"--rest_api_port={names.HTTP_PORT}",
        f"--model_config_file={config}",
        # The agent tries again by itself, and would rather hear of the failure now.
        "--max_num_load_retries=0",
        "--file_system_poll_wait_seconds=1",
    ]
    shell = (
        f"echo 'model_config_list {{}}' > {config} || exit; "
        f"trap 'kill $!' TERM; {shlex.join(server)} & wait $!"
    )
    command = ["/bin/sh", "-c", shell]
    made = _container(names.SERVER, _image(spec, settings), command, [], spec, settings)
    listens = _tcp(names.GRPC_PORT)
    ready = _http(f"/v1/models/{spec.name}/metadata", names.HTTP_PORT)
    return {**made, "ports": _ports(), **_probes(listens, ready, listens, settings)}


def _agent(spec: ModelSpec, settings: KubernetesSettings) -> Manifest:
    args = [
        f"--http=0.0.0.0:{names.AGENT_HTTP_PORT}",
        f"--grpc=0.0.0.0:{names.AGENT_GRPC_PORT}",
        f"--shared-dir={_SHARED}/models",
        f"--tfs-grpc=127.0.0.1:{names.GRPC_PORT}",
        f"--tfs-http=127.0.0.1:{names.HTTP_PORT}",
        *_kit_flags(spec, settings),
    ]
    image = settings.image("agent")
    command = ["python", "-m", "servers.agent"]
    made = _container(names.AGENT, image, command, args, spec, settings)
    page = _http("/replica/status", names.AGENT_HTTP_PORT)
    ports = [
        {"name": "agent-grpc", "containerPort": names.AGENT_GRPC_PORT, "protocol": "TCP"},
        {"name": "agent-http", "containerPort": names.AGENT_HTTP_PORT, "protocol": "TCP"},
    ]
    # What the model's owner asked for is the server's; the agent copies files.
    resources = {"requests": {"cpu": "100m", "memory": "128Mi"}}
    return {**made, "resources": resources, "ports": ports, **_probes(page, page, page, settings)}


def _custom(spec: ModelSpec, settings: KubernetesSettings) -> Manifest:
    values = {"{http_port}": str(names.HTTP_PORT), "{grpc_port}": str(names.GRPC_PORT)}
    if spec.source.startswith("file://"):
        values["{model_dir}"] = unquote(urlsplit(spec.source).path)
    command = list(spec.command)
    for name, value in values.items():
        command = [part.replace(name, value) for part in command]
    made = _container(names.SERVER, _image(spec, settings), command, [], spec, settings)
    named = " ".join(spec.command)
    listens = next(
        (
            _tcp(port)
            for name, port in (("{http_port}", names.HTTP_PORT), ("{grpc_port}", names.GRPC_PORT))
            if name in named
        ),
        None,
    )
    # No liveness probe: what an unknown program does under load is not ours to judge.
    probes = {} if listens is None else _probes(listens, listens, None, settings)
    return {**made, "ports": _ports(), **probes}


# ---- what they share --------------------


def _image(spec: ModelSpec, settings: KubernetesSettings) -> str:
    if spec.image:
        return spec.image
    own = spec.backend is Backend.TENSORFLOW and settings.tensorflow == "own"
    kind = "tensorflow-own" if own else str(spec.backend)
    return settings.image(kind, gpu=spec.resources.gpus > 0)


def _kit_flags(spec: ModelSpec, settings: KubernetesSettings) -> list[str]:
    # The agent's cache lies where TensorFlow Serving sees it: versions are then linked, not copied.
    cache = f"{_SHARED}/cache" if kind_of(spec, settings) == "agent" else f"{_CACHE}/versions"
    return [
        f"--cache-dir={cache}",
        f"--cache-bytes={settings.cache_bytes}",
        f"--drain-s={deadline_s(spec)}",
        f"--max-body={settings.max_body_bytes}",
        f"--log-format={settings.log_format}",
    ]


def _container(
    name: str,
    image: str,
    command: Sequence[str],
    args: Sequence[str],
    spec: ModelSpec,
    settings: KubernetesSettings,
) -> Manifest:
    kind = kind_of(spec, settings)
    mounts: list[Manifest] = [
        {"name": "cache", "mountPath": _SHARED if kind == "agent" else _CACHE},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    if settings.model_volume:
        mounts.append({"name": "models", "mountPath": settings.model_path, "readOnly": True})
    security: Manifest = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    if kind != "custom":
        security["readOnlyRootFilesystem"] = True
    made: Manifest = {
        "name": name,
        "image": image,
        "imagePullPolicy": settings.image_pull_policy,
        "env": _environment(spec, settings),
        "resources": _resources(spec, settings, gpus=True),
        "volumeMounts": mounts,
        "securityContext": security,
        # The last lines of what it wrote become the reason of its end, without asking for its log.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if command:
        made["command"] = list(command)
    if args:
        made["args"] = list(args)
    if settings.credentials_secret:
        made["envFrom"] = [{"secretRef": {"name": settings.credentials_secret}}]
    if name != names.BEFORE and (hook := _before_stop(name, spec, settings)):
        made["lifecycle"] = {"preStop": hook}
    return made


def _before_stop(name: str, spec: ModelSpec, settings: KubernetesSettings) -> Manifest:
    seconds = hold_s(spec, settings)
    if spec.after and name == names.SERVER:
        command = f"sleep {seconds}; {spec.after}" if seconds else spec.after
        return {"exec": {"command": ["/bin/sh", "-c", command]}}
    return {"sleep": {"seconds": seconds}} if seconds else {}


def _environment(spec: ModelSpec, settings: KubernetesSettings) -> list[Manifest]:
    env = {
        **settings.environment,
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if kind_of(spec, settings) != "custom":
        env["HOME"] = "/tmp"
    if not spec.resources.gpus:
        # Images made for CUDA ask for all GPUs of the node where nobody says otherwise.
        env |= {"NVIDIA_VISIBLE_DEVICES": "void", "CUDA_VISIBLE_DEVICES": "-1"}
    if spec.resources.cpus is not None:
        env |= dict.fromkeys(_THREAD_VARIABLES, str(_threads(spec)))
    return [{"name": name, "value": value} for name, value in sorted(env.items())]


def _threads(spec: ModelSpec) -> int:
    return max(1, math.ceil(spec.resources.cpus or 1))


def _resources(spec: ModelSpec, settings: KubernetesSettings, *, gpus: bool) -> Manifest:
    """Asked for and bounded alike: what is shared beyond that is nobody's."""
    want: dict[str, str] = {}
    if spec.resources.cpus is not None:
        want["cpu"] = f"{max(1, round(spec.resources.cpus * 1000))}m"
    if spec.resources.memory_bytes is not None:
        want["memory"] = str(spec.resources.memory_bytes)
    if gpus and spec.resources.gpus:
        want[gpu_resource(spec, settings)] = str(spec.resources.gpus)
    return {"requests": want, "limits": dict(want)} if want else {}


def _ports() -> list[Manifest]:
    return [
        {"name": "http", "containerPort": names.HTTP_PORT, "protocol": "TCP"},
        {"name": "grpc", "containerPort": names.GRPC_PORT, "protocol": "TCP"},
    ]


def _http(path: str, port: int) -> Manifest:
    return {"httpGet": {"path": path, "port": port, "scheme": "HTTP"}}


def _tcp(port: int) -> Manifest:
    return {"tcpSocket": {"port": port}}


def _probes(
    started: Manifest, ready: Manifest, live: Manifest | None, settings: KubernetesSettings
) -> Manifest:
    patience = max(1, math.ceil(settings.startup_s / _PERIOD_S))
    startup = {"periodSeconds": _PERIOD_S, "timeoutSeconds": 5, "failureThreshold": patience}
    made = {
        "startupProbe": {**started, **startup},
        "readinessProbe": {**ready, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 2},
    }
    if live is not None:
        # A minute of silence, as a machine that loads a model may be slow: the gateway itself takes
        # a silent replica out of its table within seconds; this only ends one that hangs.
        beat = {"periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 6}
        made["livenessProbe"] = {**live, **beat}
    return made
