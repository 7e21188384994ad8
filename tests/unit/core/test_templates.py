"""Which template runs: what is deployed, what has been taken back, and what a rollout brings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.placement import template_of
from gateway.core.templates import (
    MAX_REJECTED,
    deployed,
    differences,
    digest,
    is_rejected,
    key_of,
    of_group,
    rejecting,
    running,
    started_by,
    template_in,
)
from gateway.domain.models import Backend, Batching, CanaryPlan, ModelSpec, Resources
from gateway.domain.replicas import CANARY_GROUP
from gateway.domain.rollouts import Phase, Rollout
from gateway.domain.templates import Template, TemplateChange

PLAN = CanaryPlan((5.0,), replicas=1)
OLD = Template(command=("serve", "--old"))
NEW = Template(command=("serve", "--new"))
SPEC = ModelSpec("m", "s3://b/m", Backend.CUSTOM, canary=PLAN, command=NEW.command)
CHANGE = TemplateChange(OLD, NEW)
ROLLOUT = Rollout(1, 1, Phase.PROGRESSING, (5.0,), canary_replicas=1, change=CHANGE)
REFUSED = Rollout(1, 1, Phase.FAILED, (5.0,), rejected_templates=(key_of(NEW, 0),))

PARTS = {
    "resources": Resources(1, "A100", 2.0, 5),
    "batching": Batching(1, 0.01),
    "image": "registry/server:2",
    "command": ("serve",),
    "before": "prepare",
    "after": "tidy",
}


@pytest.mark.parametrize("part", PARTS)
def test_whatever_replaces_replicas_is_in_it_and_a_source_is_not(part):
    plain = ModelSpec("m", "s3://b/m", Backend.CUSTOM)
    other = replace(plain, **{part: PARTS[part]})
    assert template_of(other) != template_of(plain)
    assert template_in(other) != template_in(plain)
    assert started_by(plain, template_in(other)) == other
    assert digest(plain, template_in(other)) == template_of(other)
    assert template_in(replace(plain, source="s3://b/n")) == template_in(plain)


@pytest.mark.parametrize(
    ("changes", "rollout", "live", "wanted", "runs"),
    [
        ({}, None, 1, 2, OLD),  # a rollout has yet to bring it
        ({}, ROLLOUT, 1, 2, OLD),
        ({"canary": None}, None, 1, 2, NEW),
        ({"canary": replace(PLAN, replicas=0)}, None, 1, 2, NEW),
        ({"canary": replace(PLAN, replicas=0)}, ROLLOUT, 1, 2, OLD),  # until its end
        ({}, None, None, 2, NEW),  # nothing has answered yet
        ({}, None, 1, 0, NEW),  # nothing runs that it could be compared with
        ({"canary": None}, REFUSED, 1, 2, OLD),  # taken back stays taken back …
        ({"canary": None, "attempt": 1}, REFUSED, 1, 2, NEW),  # … until it is deployed again
        ({}, REFUSED, 1, 0, OLD),
        ({}, replace(ROLLOUT, phase=Phase.ROLLING_BACK), 1, 2, OLD),
    ],
)
def test_what_the_models_own_replicas_are_started_with(changes, rollout, live, wanted, runs):
    assert running(replace(SPEC, **changes), OLD, live, rollout, wanted) == runs


def test_what_an_older_gateway_has_stored_runs_as_it_says():
    assert running(SPEC, None, 1, None, 2) == NEW


def test_what_is_deployed_and_does_not_run():
    assert deployed(SPEC, NEW) is None
    assert deployed(replace(SPEC, attempt=2), OLD) == TemplateChange(OLD, NEW, 2)


@pytest.mark.parametrize(
    ("phase", "own", "canarys"),
    [
        (Phase.PENDING, OLD, NEW),
        (Phase.PROGRESSING, OLD, NEW),
        (Phase.PAUSED, OLD, NEW),
        (Phase.PROMOTING, NEW, NEW),
        (Phase.ROLLING_BACK, OLD, OLD),
        (Phase.FAILED, OLD, OLD),
        (Phase.SUCCEEDED, NEW, NEW),
    ],
)
def test_each_group_is_started_with_its_own(phase, own, canarys):
    known = NEW if phase is Phase.SUCCEEDED else OLD
    rollout = replace(ROLLOUT, phase=phase)
    assert (of_group(known, rollout), of_group(known, rollout, CANARY_GROUP)) == (own, canarys)


def test_an_undo_begins_with_the_models_own():
    undo = replace(ROLLOUT, phase=Phase.PENDING, steps=(), canary_replicas=0)
    assert of_group(OLD, undo) == NEW


def test_a_rollout_of_a_version_starts_all_with_what_runs():
    rollout = replace(ROLLOUT, version=2, change=None)
    assert of_group(OLD, rollout, CANARY_GROUP) == of_group(OLD, rollout) == OLD


def test_the_last_rejections_are_remembered_each_once():
    keys: tuple[str, ...] = ()
    for number in [*range(MAX_REJECTED + 5), 50]:
        keys = rejecting(keys, TemplateChange(OLD, Template(image=str(number))))
    assert len(keys) == len(set(keys)) == MAX_REJECTED
    assert keys[-1] == key_of(Template(image="50"), 0)
    assert is_rejected(replace(SPEC, command=(), image="50"), keys)
    assert not is_rejected(replace(SPEC, command=(), image="50", attempt=1), keys)
    assert not is_rejected(replace(SPEC, command=(), image="2"), keys)


def test_differences_name_values_that_are_short_and_no_commands():
    before = Template(Resources(0, None, 1.0), Batching(32), "a:1", ("x",), None, "y")
    after = Template(Resources(2, "A100", 1.5, 10), Batching(1, 0.005), "a:2", ("z",), "w", None)
    assert differences(before, after) == (
        "image a:1 → a:2", "gpus 0 → 2", "gpu_type none → A100", "cpu 1 → 1.5",
        "memory none → 10", "batch_size 32 → 1", "batch_delay_ms 0 → 5",
        "command changed", "before changed", "after changed",
    )  # fmt: skip
    assert differences(before, before) == ()


def test_a_key_is_the_same_in_every_process():
    # Stored: another gateway, and one of a later version, must know it again.
    assert key_of(Template(), 3) == "4f53cda18c2baa0c.3"
    assert key_of(Template(**PARTS), 0) == "ed3e2c526d812cd5.0"
    keys = {key_of(Template(**{part: value}), 0) for part, value in PARTS.items()}
    assert len(keys) == len(PARTS)
