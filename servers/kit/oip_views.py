"""This server's values in the forms that the V2 codecs write: metadata, configuration, counters."""

from __future__ import annotations

from collections.abc import Sequence

from gateway import __version__
from gateway.codecs import oip_admin
from gateway.codecs.oip_admin import OipConfig
from gateway.codecs.oip_stats import BatchSpans, InferSpans, ModelStats, Span
from gateway.domain.errors import NotFound, Unimplemented
from gateway.domain.names import Version
from servers.kit.counters import Tally
from servers.kit.runtime import Arrays, Runtime
from servers.kit.servable import Servable

NAME = "model-gateway"
VERSION = __version__
EXTENSIONS = (*oip_admin.EXTENSIONS, "trace", "logging")
"""A server of the kit acts on both; see `servers.kit.oip_settings`."""

_PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "tensorflow": "tensorflow_savedmodel"}
"""Triton's names where it has one."""


def platform_of(runtime: Runtime) -> str:
    """`platform` in metadata."""
    return _PLATFORMS.get(runtime.platform, runtime.platform)


def config_of(servable: Servable, runtime: Runtime, versions: Sequence[Version]) -> OipConfig:
    """The model configuration of one loaded version. Its `max_batch_size` is what one run takes at
    most; a request may bring more rows and is then split or run whole."""
    batcher, loaded = servable.batcher, servable.loaded
    has_rows = loaded.batchable or loaded.fixed_batch is not None
    parameters = {"signatures": ",".join(servable.signatures)}
    if loaded.not_joining_because:
        parameters["not_joining_because"] = loaded.not_joining_because
    return OipConfig(
        servable.name,
        platform_of(runtime),
        runtime.platform,
        tuple(versions),
        batcher.limit if has_rows else 0,
        batcher.settings.delay_s,
        parameters,
    )


def stats_of(servable: Servable) -> ModelStats:
    """What one version has counted since it was loaded."""
    counters = servable.batcher.counters
    compute = counters.compute
    return ModelStats(
        servable.name,
        servable.version,
        counters.last_inference_ms,
        counters.inference_count,
        counters.execution_count,
        InferSpans(
            success=_span(counters.success),
            fail=_span(counters.fail),
            queue=_span(counters.queue),
            compute_input=_span(compute.compute_input),
            compute_infer=_span(compute.compute_infer),
            compute_output=_span(compute.compute_output),
        ),
        tuple(
            BatchSpans(
                size,
                _span(tally.compute_input),
                _span(tally.compute_infer),
                _span(tally.compute_output),
            )
            for size, tally in sorted(counters.batches.items())
        ),
    )


def _span(tally: Tally) -> Span:
    return Span(tally.count, tally.ns)


def size(outputs: Arrays) -> int:
    """About how many bytes an answer has."""
    # An object array's nbytes are pointers; strings are rarely short, so each counts for more.
    return sum(a.nbytes * (8 if a.dtype == object else 1) for a in outputs.values())


def no_region(is_cuda: bool, name: str) -> NotFound:
    """Triton's words for a region that nobody has registered; nobody can."""
    kind = "CUDA" if is_cuda else "system"
    return NotFound(
        f"Unable to find {kind} shared memory region: '{name[:128]}'", reason="region_unknown"
    )


def shared_memory_refused() -> Unimplemented:
    """Why no region can be registered."""
    return Unimplemented(
        "shared memory regions are not offered: callers and this server need not share a host; "
        "send tensors in the request",
        reason="shared_memory",
    )


def generate_refused() -> Unimplemented:
    """Why there is no text generation."""
    return Unimplemented(
        "generate and generate_stream are not offered; send tensors to infer", reason="generate"
    )
