"""What lies between two answers of the control API's `traffic`: rates and percentiles. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Object = dict[str, Any]


def rates(before: Object, after: Object, replicas: Sequence[Object] = ()) -> list[Object]:
    """One object for each version of each model, and one without a version where requests ended
    before any had been asked. What is of the model (in_flight queued limit shed_per_s replicas
    trusted_replicas) is the same in all of its objects. Trusted are replicas that are ready and in
    good standing with the data plane.

    What is not in `before` counts from nothing: it has come in between. So does what is less than
    it was, for the gateway has started anew.
    """
    seconds = max(after["at_s"] - before["at_s"], 1e-9)
    if after["at_s"] < before["at_s"]:
        seconds, before = max(after["at_s"], 1e-9), {"items": []}
    earlier = {model["model"]: model for model in before["items"]}
    found = []
    for model in after["items"]:
        old = earlier.get(model["model"], {"shed": 0, "versions": []})
        shared = {
            "shed_per_s": max(0, model["shed"] - old["shed"]) / seconds,
            "in_flight": model["in_flight"],
            "queued": model["queued"],
            "limit": model["limit"],
            **_counted([r for r in replicas if r["model"] == model["model"]]),
        }
        versions = {version["version"]: version for version in old["versions"]}
        for version in sorted(
            model["versions"], key=lambda v: (v["version"] is None, v["version"])
        ):
            was = versions.get(version["version"])
            between = _between(was, version, seconds, after["bounds_s"])
            is_alone = len(model["versions"]) == 1
            if version["version"] is None and not is_alone and not between["requests_per_s"]:
                continue  # nothing was refused lately
            found.append({"model": model["model"], **between, **shared})
    return found


def _counted(replicas: Sequence[Object]) -> Object:
    trusted = [r for r in replicas if r["state"] == "ready" and r.get("standing") in (None, "good")]
    return {"replicas": len(replicas), "trusted_replicas": len(trusted)}


def _between(was: Object | None, now: Object, seconds: float, bounds_s: Sequence[float]) -> Object:
    counts = list(now["latency_counts"])
    requests, errors = now["requests"], now["errors"]
    if was is not None and was["requests"] <= requests:
        requests, errors = requests - was["requests"], errors - was["errors"]
        counts = [n - o for n, o in zip(counts, was["latency_counts"], strict=True)]
    return {
        "version": now["version"],
        "requests_per_s": requests / seconds,
        "errors_per_s": errors / seconds,
        "p50_s": quantile(counts, bounds_s, 0.5),
        "p99_s": quantile(counts, bounds_s, 0.99),
    }


def quantile(counts: Sequence[int], bounds_s: Sequence[float], share: float) -> float | None:
    """As Prometheus' histogram_quantile: even within a bucket, and the highest bound for what is
    above all of them. None of nothing."""
    rank = share * sum(counts)
    if not rank:
        return None
    below, seen = 0.0, 0
    for count, bound in zip(counts, bounds_s, strict=False):
        if count and seen + count >= rank:
            return below + (bound - below) * (rank - seen) / count
        seen, below = seen + count, bound
    return bounds_s[-1]
