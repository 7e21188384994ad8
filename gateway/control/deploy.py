"""From a DeployRequest to the ModelSpec that it means, and back. Pure.

An update starts from the stored spec and changes what the request names. Everything that can be
known to be wrong without looking at the source is refused here, in words that name the field and
the flag.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from msgspec import UNSET, UnsetType

from gateway.control.canary import canary_plan, canary_request
from gateway.control.given import given
from gateway.control.naming import refuse
from gateway.control.quantities import parse_policy, parse_size, policy_text
from gateway.control.scaling import planned, scaling_request
from gateway.control.schema import DeployRequest
from gateway.core.hedge import share_of
from gateway.domain.errors import InvalidRequest, Unimplemented
from gateway.domain.models import PROTOCOLS, Backend, Batching, ModelSpec, Resources
from gateway.domain.names import INT64_MAX, check_label, check_model_name

SCHEMES = ("s3", "gs", "az", "file")
RESERVED_LABELS = ("stable", "canary")
MAX_TEXT = 4096
"""Characters of a URI, a command's argument or a hook: the longest path that Linux takes."""
MAX_ARGUMENTS = 256
MAX_LABELS = 100


@dataclass(frozen=True, slots=True)
class DeployLimits:
    """What a deploy may ask for."""

    max_replicas: int = 1000
    """Replicas of one model at most. More is nearly always a slipped digit, and starting them
    would hurt every other model; raise it where it is meant."""

    max_gpus: int = 64
    """GPUs of one replica at most; no machine has more."""

    check: Callable[[ModelSpec], None] = lambda spec: None
    """Refuses what the scheduler could not run; raises InvalidRequest."""

    offers_groups: bool = False
    """Whether the scheduler keeps a canary's replicas apart from the model's own. To be said by
    whoever does: another one would take them for the model's only ones."""

    offers_images: bool = False
    """Whether the scheduler runs container images. The local one runs programs."""

    @property
    def max_canary_replicas(self) -> int:
        """Replicas of a canary's own at most."""
        return self.max_replicas if self.offers_groups else 0


def check_source(uri: str) -> str:
    """The URI of a source, an absolute path turned into a file:// one; no slash at its end.

    Raises:
        InvalidRequest: it is empty, too long, relative or of another scheme (`bad_source`).
    """
    if not uri or len(uri) > MAX_TEXT or any(ord(c) < 32 for c in uri):
        raise refuse("source", f"must have 1 to {MAX_TEXT} printable characters.")
    if uri.startswith("/"):
        uri = "file://" + uri
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise refuse("source", f"cannot be read as a URI: {error}.", "bad_source") from error
    if parts.scheme not in SCHEMES or not uri.startswith(f"{parts.scheme}://"):
        raise refuse(
            "source",
            "must be s3://…, gs://…, az://…, file:///… or an absolute path (a relative one would "
            f"mean the gateway's directory, not yours); got {uri[:200]!r}.",
        )
    if parts.scheme == "file" and (parts.netloc or not parts.path.strip("/")):
        raise refuse("source", f"must name a folder as file:///models/resnet; got {uri[:200]!r}.")
    if parts.scheme != "file" and not parts.netloc:
        raise refuse("source", f"names no bucket: {uri[:200]!r}.")
    if parts.username or parts.password:
        raise refuse("source", "must not hold credentials; give them to the gateway's environment.")
    return uri.rstrip("/")


def parse_backend(text: str) -> Backend:
    """The backend of that name; else InvalidRequest (`bad_backend`)."""
    try:
        return Backend(text)
    except ValueError as error:
        kinds = ", ".join(b.value for b in Backend)
        raise refuse("backend", f"must be one of {kinds}; got {text[:40]!r}.") from error


def apply(
    name: str, request: DeployRequest, old: ModelSpec | None, limits: DeployLimits
) -> ModelSpec:
    """The spec that `request` means for a model that is now `old`.

    A new model whose backend is not named comes back as `custom`; its files will tell. `speaks`
    comes back empty where nobody has said it; `with_protocols` fills it in once they have.

    Raises:
        InvalidRequest, Unimplemented: a field's value; the words name it.
    """
    check_model_name(name)
    if old is None:
        if request.source is UNSET:
            raise refuse("source", "is missing: say where the model's versions are.")
        old = ModelSpec(name, check_source(request.source), Backend.CUSTOM, speaks=())
    image = _text("image", request.image, old.image)
    if image is not None and image != old.image and not limits.offers_images:
        raise Unimplemented(
            "image (--image) needs a scheduler that runs containers; this gateway starts programs "
            "on its own machine. Give the program with command (--command).",
            reason="images_not_offered",
        )
    if request.tenant is not UNSET and request.tenant != "default":
        raise Unimplemented(
            "tenant (--tenant) other than `default` is not offered yet: nothing would keep tenants "
            "apart. Leave it out.",
            reason="tenants_not_offered",
        )
    batching = _batching(request, old.batching)
    replicas, scaling = planned(request, old, batching, limits.max_replicas)
    spec = replace(
        old,
        source=old.source if request.source is UNSET else check_source(request.source),
        replicas=replicas,
        scaling=scaling,
        policy=old.policy if request.versions is UNSET else parse_policy(request.versions),
        labels=old.labels if request.labels is UNSET else _labels(request.labels),
        resources=_resources(request, old.resources, limits),
        batching=batching,
        image=image,
        command=_command(request.command, old.command),
        before=_text("before", request.before, old.before),
        after=_text("after", request.after, old.after),
        timeout_s=_between("timeout_s", request.timeout_s, old.timeout_s, 0.001, 86_400.0),
        in_flight_limit=_between(
            "in_flight_limit", request.in_flight_limit, old.in_flight_limit, 1, 1_000_000
        ),
        hedge=_hedge(request.hedge, old.hedge),
        require_manifest=given(request.require_manifest, old.require_manifest),
        speaks=parse_speaks(request.speaks, old.speaks),
        canary=canary_plan(request, old.canary, limits.max_canary_replicas),
    )
    if isinstance(request.backend, str):
        spec = replace(spec, backend=parse_backend(request.backend))
    return spec


def check_program(spec: ModelSpec) -> None:
    """Refuse a custom backend without a program, and a program with another backend."""
    if spec.backend is Backend.CUSTOM and not (spec.image or spec.command):
        raise InvalidRequest(
            "backend (--backend) custom needs the program to run: command (--command) or image "
            "(--image).",
            reason="custom_needs_program",
        )
    if spec.backend is not Backend.CUSTOM and spec.command:
        raise InvalidRequest(
            f"command (--command) is for backend custom; this model's is {spec.backend.value}. "
            "Leave command out, or say --backend custom.",
            reason="bad_command",
        )


def with_protocols(spec: ModelSpec) -> ModelSpec:
    """`spec` with the protocols of its backend where nobody has named them.

    Our own servers speak all. A program of one's own is believed to speak TensorFlow Serving's, as
    every one did before there was a choice; callers of V2 are then translated for, which works
    whatever it speaks besides.
    """
    if spec.speaks:
        return spec
    custom = spec.backend is Backend.CUSTOM
    return replace(spec, speaks=PROTOCOLS[:2] if custom else PROTOCOLS)


def request_of(spec: ModelSpec) -> dict[str, Any]:
    """The DeployRequest that makes this spec again, every key present."""
    return {
        "source": spec.source,
        "backend": spec.backend.value,
        **scaling_request(spec),
        "versions": policy_text(spec.policy),
        "labels": dict(spec.labels),
        "gpus": spec.resources.gpus,
        "gpu_type": spec.resources.gpu_type,
        "cpu": spec.resources.cpus,
        "memory": spec.resources.memory_bytes,
        "image": spec.image,
        "command": list(spec.command) or None,
        "before": spec.before,
        "after": spec.after,
        "batch_size": spec.batching.max_rows,
        "batch_delay_ms": round(spec.batching.delay_s * 1000, 6),
        "timeout_s": spec.timeout_s,
        "in_flight_limit": spec.in_flight_limit,
        "hedge": spec.hedge or "off",
        "require_manifest": spec.require_manifest,
        "speaks": list(spec.speaks),
        **canary_request(spec.canary),
        "tenant": spec.tenant,
    }


def _hedge(value: str | UnsetType, otherwise: str) -> str:
    """Raises InvalidRequest (`bad_hedge`)."""
    if isinstance(value, UnsetType):
        return otherwise
    return value if share_of(value) else ""


N = TypeVar("N", int, float)


def _between(field: str, value: N | UnsetType, otherwise: N, low: N, high: N) -> N:
    if isinstance(value, UnsetType):
        return otherwise
    if not math.isfinite(value) or not low <= value <= high:
        raise refuse(field, f"must be from {low:g} to {high:g}; got {value}.")
    return value


def _text(field: str, value: str | UnsetType | None, otherwise: str | None) -> str | None:
    if isinstance(value, UnsetType):
        return otherwise
    if value is None or value == "":
        return None
    if len(value) > MAX_TEXT or "\0" in value:
        raise refuse(field, f"must have at most {MAX_TEXT} characters and no NUL.")
    return value


def parse_speaks(
    value: list[str] | str | UnsetType | None, otherwise: tuple[str, ...]
) -> tuple[str, ...]:
    """Protocols in our own order; () for `null`, the backend's default.

    Raises:
        InvalidRequest: one that there is not, or none at all (`bad_speaks`).
    """
    if isinstance(value, UnsetType):
        return otherwise
    if value is None:
        return ()
    named = [p.strip() for p in (value.split(",") if isinstance(value, str) else value)]
    unknown = next((p for p in named if p not in PROTOCOLS), None)
    if unknown is not None or not named:
        raise refuse(
            "speaks",
            f"must name one or more of {', '.join(PROTOCOLS)}; got {(unknown or '')[:40]!r}.",
        )
    return tuple(p for p in PROTOCOLS if p in named)


def _labels(labels: Mapping[str, int]) -> dict[str, int]:
    if len(labels) > MAX_LABELS:
        raise refuse("labels", f"may be at most {MAX_LABELS}.")
    for label, version in labels.items():
        check_label(label)
        if label in RESERVED_LABELS:
            raise refuse("labels", f"may not set `{label}`: the gateway keeps that one itself.")
        if not 0 <= version <= INT64_MAX:
            raise refuse("labels", f"must name versions from 0 to 2^63-1; got {label}={version}.")
    return dict(sorted(labels.items()))


def _resources(request: DeployRequest, old: Resources, limits: DeployLimits) -> Resources:
    cpus = given(request.cpu, old.cpus)
    if cpus is not None and not (math.isfinite(cpus) and 0.001 <= cpus <= 4096):
        raise refuse("cpu", f"must be from 0.001 to 4096 cores; got {cpus}.")
    memory = old.memory_bytes
    if not isinstance(request.memory, UnsetType):
        asked = request.memory
        memory = None if asked is None else parse_size(asked, "memory", "--memory")
    gpus = _between("gpus", request.gpus, old.gpus, 0, limits.max_gpus)
    gpu_type = _text("gpu_type", request.gpu_type, old.gpu_type)
    if gpu_type and not gpus:
        raise refuse("gpu_type", "needs gpus (--gpus) of at least 1.")
    return Resources(gpus, gpu_type, cpus, memory)


def _batching(request: DeployRequest, old: Batching) -> Batching:
    rows = _between("batch_size", request.batch_size, old.max_rows, 1, 65_536)
    delay_ms = _between("batch_delay_ms", request.batch_delay_ms, old.delay_s * 1000, 0.0, 10_000.0)
    return Batching(rows, delay_ms / 1000)


def _command(
    value: list[str] | str | UnsetType | None, otherwise: tuple[str, ...]
) -> tuple[str, ...]:
    if isinstance(value, UnsetType):
        return otherwise
    try:
        parts = shlex.split(value) if isinstance(value, str) else list(value or ())
    except ValueError as error:
        raise refuse("command", f"cannot be split as a shell would: {error}.") from error
    if len(parts) > MAX_ARGUMENTS or any(len(p) > MAX_TEXT or "\0" in p for p in parts):
        raise refuse(
            "command", f"may have {MAX_ARGUMENTS} arguments of {MAX_TEXT} characters, without NUL."
        )
    return tuple(parts)
