"""Make a DeployRequest from flags and `-f model.toml`. Flags win; what nobody said is left out.

Left out means "keep what it was" to the control API, so deploying a name again changes only what
is named. What can be seen to be wrong without the gateway is refused here (exit code 2).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from gateway.cli.session import read_toml, size
from gateway.domain.errors import InvalidRequest
from gateway.domain.models import PROTOCOLS
from gateway.domain.names import check_label, check_model_name, parse_version

FILE_KEYS: Mapping[str, type | tuple[type, ...]] = {
    "name": str,
    "source": str,
    "backend": str,
    "replicas": int,
    "min_replicas": int,
    "max_replicas": int,
    "target_in_flight": (int, float),
    "idle_s": (int, float),
    "versions": (str, int, list),
    "labels": dict,
    "gpus": int,
    "gpu_type": str,
    "cpu": (int, float),
    "memory": (int, str),
    "image": str,
    "command": (str, list),
    "before": str,
    "after": str,
    "batch_size": int,
    "batch_delay_ms": (int, float),
    "timeout_s": (int, float),
    "in_flight_limit": int,
    "hedge": str,
    "require_manifest": bool,
    "speaks": (str, list),
    "canary": (str, int, float, list),
    "canary_samples": int,
    "canary_step_s": (int, float),
    "canary_key": str,
    "shadow": (str, int, float),
    "shadow_tolerance": (int, float),
    "shadow_max_differing": (str, int, float),
    "shadow_max_flips": (str, int, float),
    "canary_replicas": int,
    "tenant": str,
}
"""The keys of model.toml: the long options with `_`; `labels` is a table."""

RANGE_KEYS = ("min_replicas", "max_replicas", "target_in_flight", "idle_s")
"""Where requests decide how many replicas there are."""


def source_uri(source: str) -> str:
    """A path becomes an absolute file:// URI, because the gateway runs in another folder; a URI
    stays as it is."""
    if "://" in source:
        return source
    return Path(source).expanduser().resolve().as_uri()


def from_file(path: Path) -> dict[str, Any]:
    """What `model.toml` says, checked for unknown keys and wrong types."""
    told = read_toml(path, must_exist=True)
    models = told.pop("model", None)
    if models is not None:
        tables = models if isinstance(models, list) else [models]
        if told or len(tables) != 1 or not isinstance(tables[0], dict):
            raise click.UsageError(
                f"{path}: one [model] table, or the keys themselves, and nothing else"
            )
        told = tables[0]
    unknown = sorted(set(told) - set(FILE_KEYS))
    if unknown:
        raise click.UsageError(
            f"{path}: unknown key {unknown[0]!r}; known are: {', '.join(FILE_KEYS)}"
        )
    for key, value in told.items():
        wanted = FILE_KEYS[key]
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise click.UsageError(f"{path}: {key} = {value!r} has the wrong type")
    if "source" in told and "://" not in told["source"]:
        # A relative source is meant relative to the file that says it.
        told["source"] = source_uri(str(path.parent / Path(told["source"]).expanduser()))
    return told


def build(
    name: str | None, flags: Mapping[str, Any], file: Path | None
) -> tuple[str, dict[str, Any]]:
    """The model's name and its DeployRequest.

    Raises:
        click.UsageError: a value that cannot be meant, or options that contradict each other.
    """
    told = from_file(file) if file is not None else {}
    given = {k: v for k, v in flags.items() if v is not None and v != ()}
    if "replicas" in given:
        told = {k: v for k, v in told.items() if k not in RANGE_KEYS}
    elif "min_replicas" in given or "max_replicas" in given:
        told.pop("replicas", None)
    labels = {**told.get("labels", {}), **_labels(given.pop("label", ()))}
    request = {**told, **given}
    named = name or request.pop("name", None)
    request.pop("name", None)
    if named is None:
        raise click.UsageError("Missing argument 'NAME': give it, or `name` in the file of -f")
    try:
        check_model_name(named)
        for label in labels:
            check_label(label)
    except InvalidRequest as error:
        raise click.UsageError(error.message) from error
    if labels:
        request["labels"] = labels
    if "source" in request:
        request["source"] = source_uri(request["source"])
    if "versions" in request:
        request["versions"] = _policy(request["versions"])
    if "memory" in request:
        try:
            size.convert(str(request["memory"]), None, None)
        except click.BadParameter as error:
            raise click.UsageError(f"--memory: {error.message}") from error
    if isinstance(request.get("command"), str):
        request["command"] = _split(request["command"])
    if "canary" in request:
        request["canary"] = _steps(request["canary"])
    for key in ("shadow", "shadow_max_differing", "shadow_max_flips"):
        if key in request:
            request[key] = _percent(key, request[key])
    if "speaks" in request:
        request["speaks"] = _protocols(request["speaks"])
    _contradictions(request)
    return named, request


def _labels(pairs: Sequence[str]) -> dict[str, int]:
    labels: dict[str, int] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        version = parse_version(text)
        if not name or version is None:
            raise click.UsageError(f"--label {pair}: write NAME=VERSION, as in golden=3")
        labels[name] = version
    return labels


def _policy(value: Any) -> str:
    """`latest`, `latest:N`, `all`, or versions: `3,4`."""
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    text = text.replace(" ", "")
    word, _, count = text.partition(":")
    if text in ("all", "latest") or (word == "latest" and (parse_version(count) or 0) > 0):
        return text
    if text and all(parse_version(part) is not None for part in text.split(",")):
        return text
    raise click.UsageError(f"--versions {text!r}: write latest, latest:2, all, or versions as 3,4")


def _steps(value: Any) -> list[float] | None:
    """`5,25,50`; `none` takes them away."""
    if value == "none":
        return None
    parts = value if isinstance(value, list) else str(value).split(",")
    try:
        return [float(str(p).strip().removesuffix("%")) for p in parts]
    except ValueError:
        raise click.UsageError(
            f"--canary {value!r}: write growing percents, as 5,25,50, or none"
        ) from None


def _percent(key: str, value: Any) -> float | None:
    """`10%` or `10`; `none` takes it away."""
    if value == "none":
        return None
    try:
        percent = float(str(value).strip().removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0.0 <= percent <= 100.0:
        flag = "--" + key.replace("_", "-")
        raise click.UsageError(f"{flag} {value!r}: write a percentage, as 10%, or none")
    return percent


def _protocols(value: Any) -> list[str]:
    named = value.split(",") if isinstance(value, str) else value
    named = [str(p).strip() for p in named]
    wrong = [p for p in named if p not in PROTOCOLS]
    if wrong or not named:
        raise click.UsageError(
            f"--speaks {','.join(named)!r}: write one or more of {', '.join(PROTOCOLS)}"
        )
    return named


def _split(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise click.UsageError(f"--command: {error}") from error


def _contradictions(request: Mapping[str, Any]) -> None:
    ranged = "min_replicas" in request or "max_replicas" in request
    if "replicas" in request and ranged:
        raise click.UsageError("Say --replicas, or --min-replicas and --max-replicas, not both")
    low, high = request.get("min_replicas"), request.get("max_replicas")
    if low is not None and high is not None and low > high:
        raise click.UsageError(f"--min-replicas {low} is more than --max-replicas {high}")
    knob = next((k for k in RANGE_KEYS[2:] if k in request), None)
    if "replicas" in request and knob is not None:
        raise click.UsageError(
            f"--{knob.replace('_', '-')} goes with --max-replicas: --replicas is a fixed number"
        )
    if "command" in request and request.get("backend") not in (None, "custom"):
        raise click.UsageError("--command is for --backend custom; other backends bring their own")
