"""The control API's shapes of rollouts, see schema.py."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Struct, UnsetType

from gateway.control.schema_fields import Moment, Name, doc
from gateway.control.template_schema import TemplateChange


class RolloutRequest(Struct, forbid_unknown_fields=True):
    """What `gateway rollout ACTION` asks for."""

    action: Annotated[
        str,
        doc(
            "start: the deployed template where that was taken back, else the newest version, or "
            "`version`; also one that was rolled back before. pause: keep the weight. resume. "
            "promote: give it everything now. abort: roll back. undo: after success, go back to "
            "the version, or the template, before.",
            "pause",
            enum=["start", "pause", "resume", "promote", "abort", "undo"],
        ),
    ]
    version: Annotated[int | None, doc("Of `start`.", 4)] | UnsetType = UNSET


class RolloutSide(Struct):
    """What one version has answered in this step, of the requests that were split."""

    requests: int
    failed: Annotated[int, doc("By the code that the caller saw: 4xx, 5xx, not OK.", 0)]
    p50_s: Annotated[float | None, doc("Time in calls to replicas, upper bound of a bucket.")]
    p99_s: float | None


class OutputAgreement(Struct):
    """One output of shadowed requests: what the canary answers beside the stable version."""

    name: str
    compared: int
    mismatched: Annotated[int, doc("Missing, or of another dtype or shape.", 0)]
    mismatch: Annotated[str | None, doc("In words, the last one.")]
    differing: Annotated[
        float, doc("Share of the predictions (rows) off by more than the tolerance, 0 to 1.", 0.0)
    ]
    flips: Annotated[
        float | None,
        doc("Share of the predictions whose top-1 is another; null: no classes.", 0.004),
    ]
    max_abs_error: float
    max_rel_error: Annotated[float, doc("Relative to an element's size and a tenth of scale.")]
    mean_cosine: Annotated[float | None, doc("Cosine similarity; null for what is no number.")]
    min_cosine: float | None


class Agreement(Struct):
    """What copies of the stable version's requests have shown in this step."""

    compared: Annotated[int, doc("Requests that both versions have answered.", 200)]
    failed: Annotated[int, doc("Requests that the canary failed and the stable version not.", 0)]
    skipped: Annotated[int, doc("Copied or drawn, and not comparable.", 0)]
    dropped: Annotated[int, doc("Drawn, and not copied, to keep within bounds.", 0)]
    needed: Annotated[int, doc("Comparisons that the step needs; 0: it is not judged.", 50)]
    differing: Annotated[float, doc("Of the worst output of each request, 0 to 1.", 0.0)]
    flips: Annotated[float, doc("The same.", 0.004)]
    evidence: Annotated[
        float, doc("How much likelier the numbers are if more differs than is allowed.", 1.0)
    ]
    reason: Annotated[str | None, doc("The largest difference in words.")]
    outputs: list[OutputAgreement]


class Rollout(Struct):
    """A model's newest rollout: a version, another template of one, or both, on its way through
    weight steps."""

    model: Name
    version: Annotated[int, doc("The canary.", 4)]
    stable_version: Annotated[int, doc("What was live when it began.", 3)]
    template: Annotated[
        TemplateChange | None,
        doc("Where its replicas are started otherwise. `version` may then be `stable_version`."),
    ]
    phase: Annotated[
        str,
        doc(
            "What is guaranteed of it; succeeded and failed are its ends.",
            "progressing",
            enum=[
                "pending",
                "progressing",
                "paused",
                "promoting",
                "rolling_back",
                "succeeded",
                "failed",
            ],
        ),
    ]
    reason: Annotated[str | None, doc("Why it is in this phase.")]
    steps: Annotated[list[float], doc("Percents, ascending; empty for an undo.", [5, 25, 50])]
    step: Annotated[int, doc("Which of them, from 0.", 0)]
    weight: Annotated[float, doc("The canary's share now, 0 to 1.", 0.05)]
    verdict: Annotated[
        str,
        doc(
            "Of this step's answers so far. fail: worse, with the stated error rate.",
            "inconclusive",
            enum=["pass", "fail", "inconclusive"],
        ),
    ]
    verdict_reason: str | None
    canary: RolloutSide
    stable: RolloutSide
    error_evidence: Annotated[
        float, doc("How much likelier the numbers are if the canary fails more often.", 0.4)
    ]
    latency_evidence: Annotated[float, doc("The same, if it is slower.", 0.7)]
    agreement: Annotated[Agreement | None, doc("Where requests are shadowed.")]
    evidence_limit: Annotated[float | None, doc("Evidence from which on it fails.", 600)]
    min_samples: int
    step_s: float
    canary_replicas: Annotated[
        int, doc("Replicas of the canary's own; 0: the model's hold both versions.", 0)
    ]
    can: Annotated[list[str], doc("Actions that it takes now.", ["pause", "promote", "abort"])]
    rejected: Annotated[
        list[int], doc("Versions rolled back or undone; only `start` tries one again.", [2])
    ]
    started_at: Moment
    phase_at: Annotated[Moment, doc("When this phase and step began.")]
