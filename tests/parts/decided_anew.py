"""What the lifecycle does not decide again is decided again all the same, and compared."""

from __future__ import annotations

from copy import copy, deepcopy
from dataclasses import dataclass, field

import pytest

from gateway.lifecycle.model_loop import ModelLoop


@dataclass
class Compared:
    """Names of models, once for each time that one's outcome was kept."""

    kept: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Those where deciding anew came to something else. An assertion on the spot would end in the
    reconcile loop, which logs it and goes on."""


def compare_with_deciding_anew(patch: pytest.MonkeyPatch) -> Compared:
    """From now on, for every model that the lifecycle passes over."""
    compared, decide = Compared(), ModelLoop.decide

    def both(model: ModelLoop, *args, **more):
        other = copy(model)
        other.rollouts, other.scale = deepcopy(model.rollouts), deepcopy(model.scale)
        outcome = decide(model, *args, **more)
        if model.is_as_before:
            compared.kept.append(model.name)
            other._acted_on = None
            anew = decide(other, *args, **more)
            if (anew, _left(other)) != (outcome, _left(model)):
                compared.wrong.append(model.name)
        return outcome

    patch.setattr(ModelLoop, "decide", both)
    return compared


def _left(model: ModelLoop) -> tuple[object, ...]:
    """What a decision leaves behind."""
    return (
        (model.decision, model.memory, model.reasons, model.silent),
        (model.rollouts.rollout, model.rollouts.happened, model.scale.proven),
    )
