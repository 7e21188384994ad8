"""What the lifecycle measures."""

from __future__ import annotations

from collections import Counter

from gateway.domain.names import Version
from gateway.domain.replicas import ReplicaState
from gateway.lifecycle.model_loop import ModelLoop
from gateway.telemetry import Metrics

_KEPT_BEGINNINGS = 10_000
"""Versions on their way whose beginning is remembered; the oldest is forgotten beyond that."""


class Meters:
    """The lifecycle's part of telemetry; does nothing without a Metrics."""

    def __init__(self, metrics: Metrics | None) -> None:
        self._metrics = metrics
        self._begun_at: dict[tuple[str, Version], float] = {}

    def reconcile_failed(self, loop: str) -> None:
        """A tick ended in an error."""
        if self._metrics is not None:
            self._metrics.reconcile_errors_total.labels(loop=loop).inc()

    def source_read(self, model: str) -> None:
        """A look at a source succeeded."""
        if self._metrics is not None:
            gauge = self._metrics.source_last_success_timestamp_seconds
            gauge.labels(model=model).set_to_current_time()

    def version_begun(self, model: str, version: Version, now: float) -> None:
        """A version is on its way; only the first time counts."""
        if len(self._begun_at) >= _KEPT_BEGINNINGS:
            del self._begun_at[next(iter(self._begun_at))]
        self._begun_at.setdefault((model, version), now)

    def version_ready(self, model: str, version: Version, now: float) -> None:
        """It has arrived."""
        begun_at = self._begun_at.pop((model, version), None)
        if self._metrics is not None and begun_at is not None:
            self._metrics.version_load_seconds.labels(model=model).observe(now - begun_at)

    def observe(self, model: ModelLoop) -> None:
        """Set the gauges of its replicas by state, and of its rollout."""
        if self._metrics is None:
            return
        views = model.view.replicas if model.view is not None else ()
        rollout = model.rollouts.rollout
        if rollout is not None:
            self._metrics.canary_weight_ratio.labels(model=model.name).set(rollout.weight)
        self._metrics.replicas_wanted.labels(model=model.name).set(model.wanted)
        states = Counter(view.state for view in views)
        for state in ReplicaState:
            gauge = self._metrics.replicas.labels(model=model.name, state=str(state))
            gauge.set(states.get(state, 0))

    def forget(self, model: str) -> None:
        """The model is gone."""
        self._begun_at = {k: at for k, at in self._begun_at.items() if k[0] != model}
        if self._metrics is not None:
            self._metrics.forget_model(model)
