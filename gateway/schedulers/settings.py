"""The knobs of the local scheduler."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """How replicas run on this machine."""

    startup_s: float = 180.0
    """From the start of a process until it must listen. An import of TensorFlow takes seconds on
    an idle machine and a minute on one that starts ten of them; models are loaded afterwards."""

    grace_s: float = 30.0
    """From SIGTERM to SIGKILL: the data plane's default deadline, so that whatever was accepted
    can be answered."""

    hook_s: float = 120.0
    """How long a `before` or `after` command may take."""

    orphan_grace_s: float = 30.0
    """How long replicas outlive a gateway that nobody restarts."""

    surge: int = 1
    """Replicas of one model beyond those asked for, while a changed template is moved to. One: a
    second copy of every model is what machines have no memory for."""

    cache_bytes: int = 50 * 1024 * MIB
    """Bound of the cache of fetched versions that all replicas share."""

    max_body_bytes: int = 128 * MIB
    """Largest request body and message that a replica takes; the gateway's own bound."""

    log_bytes: int = 16 * MIB
    """Size at which a replica's log is cut; as much again is kept of what was before."""

    kept_logs: int = 10
    """Logs kept of replicas that have stopped, for each model."""

    ready_poll_s: float = 0.05
    """How often a starting replica's ready file is looked for; only while it starts."""

    housekeeping_s: float = 5.0
    """How often logs are bounded and replicas that lack a GPU are tried again."""

    gpus: tuple[str, ...] | None = None
    """Ids for CUDA_VISIBLE_DEVICES. None asks nvidia-smi; () uses none."""

    replicas_per_gpu: int = 1
    """How many replicas may share a GPU. One: frameworks take a GPU's memory whole."""

    log_format: str = "text"

    v2_flavour: str = "triton"
    """Whose way replicas take where V2's servers differ; the gateway's own."""
