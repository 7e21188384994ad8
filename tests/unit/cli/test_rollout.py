"""`gateway rollout` as people run it."""

from __future__ import annotations

import json

import pytest

from tests.parts.fake_control_api import agreement, model, replica, rollout


@pytest.mark.parametrize("action", ["start", "pause", "resume", "promote", "abort", "undo"])
def test_each_action_is_asked_for_and_told(gateway, api, action) -> None:
    api.models, api.rollouts = {"resnet": model()}, [rollout()]
    ran = gateway("rollout", action, "resnet")
    assert (ran.code, ran.err) == (0, "")
    assert "Rollout of resnet version 4: progressing, 5% of the traffic." in ran.out
    assert "gateway rollout status resnet --watch" in ran.out
    assert api.asked[-1] == ("POST", "/api/v1/models/resnet/rollout", {"action": action})
    assert json.loads(gateway("rollout", action, "resnet", "-o", "json").out) == rollout()


def test_a_version_can_be_named_to_start(gateway, api) -> None:
    api.models, api.rollouts = {"resnet": model()}, [rollout()]
    assert gateway("rollout", "start", "resnet", "--version", "4").code == 0
    assert api.asked[-1][2] == {"action": "start", "version": 4}


def test_a_refusal_is_exit_code_1_with_the_servers_words(gateway, api) -> None:
    said = {"error": {"reason": "wrong_phase", "message": "It can: pause, promote, abort."}}
    api.refuse = (400, said, {})
    ran = gateway("rollout", "resume", "resnet")
    assert (ran.code, ran.out) == (1, "")
    assert "It can: pause, promote, abort." in ran.err


def test_status_draws_the_steps_the_verdict_and_the_numbers(gateway, api) -> None:
    api.models, api.rollouts = {"resnet": model()}, [rollout()]
    lines = gateway("rollout", "status", "resnet").out.splitlines()
    assert lines[0] == "resnet: version 4 instead of 3"
    assert lines[1] == "progressing since 2026-11-23 09:31:00, 5% of the traffic: it is loaded"
    assert [line.split()[:2] for line in lines[3:7]] == [
        ["▶", "5%"], ["·", "25%"], ["·", "50%"], ["·", "100%"]
    ]  # fmt: skip
    assert "inconclusive: the canary has answered 212 of 500" in lines[3]
    assert [line.split() for line in lines[9:11]] == [
        ["canary", "212", "0", "2.1", "ms", "8", "ms"],
        ["stable", "4032", "1", "2", "ms", "9", "ms"],
    ]
    assert "rolled back at 600" in lines[11]
    assert lines[-1].startswith("Next: gateway rollout pause resnet")


def test_what_copies_have_shown_is_drawn_output_by_output(gateway, api) -> None:
    api.models, api.rollouts = {"resnet": model()}, [rollout(agreement=agreement())]
    for command in (("rollout", "status", "resnet"), ("describe", "model", "resnet")):
        out = gateway(*command).out
        rows = [line.split() for line in out.splitlines()]
        assert "shadowed: 200 compared of 50 that are needed, 1 failed, 7 dropped" in out
        assert ["scores", "5%", "43%", "0.8", "1.5", "0.930000"] in rows
        assert "int64[1] instead of int32[1]" in out
        assert "more differs than is allowed 1e+12" in out
    api.rollouts = [rollout(agreement=agreement(needed=0, outputs=[], failed=0, dropped=0))]
    out = gateway("rollout", "status", "resnet").out
    assert "shadowed: 200 compared\n" in out
    assert "allowed" not in out


@pytest.mark.parametrize(
    ("more", "marks", "last"),
    [
        ({"phase": "pending", "weight": 0, "can": ["abort"]}, "····", "rollout abort"),
        ({"step": 1, "weight": 0.25}, "✓▶··", "rollout pause"),
        ({"phase": "promoting", "step": 2, "can": ["abort"]}, "✓✓✓▶", "rollout abort"),
        ({"phase": "succeeded", "step": 2, "can": []}, "✓✓✓✓", "rollout undo resnet"),
        ({"phase": "failed", "step": 1, "can": []}, "✓✗··", "start resnet --version 4"),
        ({"phase": "rolling_back", "can": []}, "✗···", "rolled back at"),
        ({"phase": "succeeded", "steps": [], "can": []}, "✓", "rollout undo resnet"),
    ],
)
def test_every_phase_is_drawn(gateway, api, more, marks, last) -> None:
    api.models, api.rollouts = {"resnet": model()}, [rollout(**more)]
    lines = gateway("rollout", "status", "resnet").out.splitlines()
    assert "".join(line.split()[0] for line in lines if "█" in line) == marks
    assert last in lines[-1]


def test_no_rollout_says_how_one_comes(gateway, api) -> None:
    api.models = {"resnet": model()}
    ran = gateway("rollout", "status", "resnet")
    assert (ran.code, ran.out) == (1, "")
    assert "gateway deploy model resnet --canary 5,25,50" in ran.err


@pytest.mark.parametrize(("phase", "code"), [("succeeded", 0), ("failed", 1)])
def test_watch_ends_with_the_rollout_and_its_code_says_how(gateway, api, phase, code) -> None:
    api.models, api.rollouts = {"resnet": model()}, [rollout(phase=phase, can=[])]
    ran = gateway("rollout", "status", "resnet", "--watch", "-o", "json")
    assert ran.code == code
    assert [json.loads(line)["phase"] for line in ran.out.splitlines()] == [phase]


def test_status_says_where_a_canary_has_replicas_of_its_own(gateway, api) -> None:
    api.models = {"resnet": model()}
    words = "resnet: version 4 instead of 3"
    for count, more in (
        (0, ""),
        (1, ", on 1 replica of its own"),
        (3, ", on 3 replicas of its own"),
    ):
        api.rollouts = [rollout(canary_replicas=count)]
        assert gateway("rollout", "status", "resnet").out.splitlines()[0] == words + more


def test_get_replicas_says_which_are_a_canarys(gateway, api) -> None:
    api.models = {"resnet": model()}
    api.replicas = [
        replica("resnet-abcde"),
        replica("resnet-fghij", group="canary"),
        replica("resnet-klmno", group="canary", state="failed", reason="exited"),
    ]
    out = gateway("get", "replicas", "resnet").out.splitlines()[1:]
    assert [line.split()[-1] for line in out] == ["-", "canary", "exited"]
    assert "canary: exited" in out[2]


def test_get_lists_rollouts(gateway, api) -> None:
    api.models, api.rollouts = {"resnet": model()}, [rollout()]
    out = gateway("get", "rollouts", "resnet").out
    assert "progressing" in out
    assert json.loads(gateway("get", "rollouts", "-o", "json").out) == [rollout()]


@pytest.mark.parametrize(
    ("flags", "sent"),
    [
        (("--canary", "5,25,50"), {"canary": [5.0, 25.0, 50.0]}),
        (("--canary", "5%, 25%"), {"canary": [5.0, 25.0]}),
        (("--canary", "none"), {"canary": None}),
        (
            (
                "--canary",
                "5",
                "--canary-samples",
                "50",
                "--canary-step-s",
                "2",
                "--canary-key",
                "u",
            ),
            {"canary": [5.0], "canary_samples": 50, "canary_step_s": 2.0, "canary_key": "u"},
        ),
        (("--canary-replicas", "2"), {"canary_replicas": 2}),
        (("--shadow", "10%"), {"shadow": 10.0}),
        (("--shadow", "none"), {"shadow": None}),
        (
            ("--shadow-max-flips", "1%", "--shadow-max-differing", "0.5"),
            {"shadow_max_flips": 1.0, "shadow_max_differing": 0.5},
        ),
        (
            ("--shadow-tolerance", "0.001", "--shadow-max-flips", "none"),
            {"shadow_tolerance": 0.001, "shadow_max_flips": None},
        ),
    ],
)
def test_deploy_sends_the_plan(gateway, api, flags, sent) -> None:
    api.models = {"resnet": model()}
    assert gateway("deploy", "model", "resnet", *flags, "--no-wait").code == 0
    assert api.asked[-1][2] == sent


def test_deploy_reads_the_plan_from_a_file(gateway, api, tmp_path) -> None:
    api.models = {"resnet": model()}
    file = tmp_path / "model.toml"
    file.write_text(
        'name = "resnet"\ncanary = [5, 25, 50]\ncanary_samples = 10\nshadow = "10%"\n'
        "shadow_max_flips = 1\n"
    )
    assert gateway("deploy", "model", "-f", str(file), "--no-wait").code == 0
    assert api.asked[-1][2] == {
        "canary": [5.0, 25.0, 50.0],
        "canary_samples": 10,
        "shadow": 10.0,
        "shadow_max_flips": 1.0,
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ("deploy", "model", "m", "--canary", "five"),
        ("deploy", "model", "m", "--shadow", "much"),
        ("deploy", "model", "m", "--shadow-max-flips", "101%"),
        ("deploy", "model", "m", "--shadow-tolerance", "-1"),
        ("rollout", "status", "m", "--watch", "-o", "yaml"),
        ("rollout", "status"),
        ("rollout", "explode", "m"),
    ],
)
def test_wrong_usage_is_exit_code_2(gateway, arguments) -> None:
    ran = gateway(*arguments)
    assert (ran.code, ran.out) == (2, "")


CHANGE = {
    "template": "b1c2",
    "stable_template": "a0f1",
    "changes": ["image x:1 → x:2", "command changed"],
}


def test_status_says_which_template_is_compared_with_which(gateway, api) -> None:
    api.models = {"resnet": model()}
    words = "with template b1c2 (image x:1 → x:2, command changed) instead of"
    api.rollouts = [rollout(version=3, template=CHANGE, canary_replicas=1)]
    shown = gateway("rollout", "status", "resnet").out
    assert shown.startswith(f"resnet: version 3 {words} template a0f1, on 1 replica of its own\n")
    api.rollouts = [rollout(template=CHANGE, phase="failed", can=[])]
    lines = gateway("rollout", "status", "resnet").out.splitlines()
    assert lines[0] == f"resnet: version 4 {words} 3 with template a0f1"
    assert lines[-1] == "Try it again with: gateway rollout start resnet"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ({"deployed": "a0f1", "changes": [], "rejected": False}, "Template a0f1"),
        ({"rejected": False}, "is being rolled out"),
        ({"rejected": True}, "was rolled back. Try it again with: gateway rollout start resnet"),
    ],
)
def test_describe_says_what_runs_and_what_became_of_what_was_deployed(
    gateway, api, template, words
) -> None:
    known = {"running": "a0f1", "deployed": "b1c2", "changes": ["command changed"]} | template
    api.models = {"resnet": model(template=known)}
    assert words in " ".join(gateway("describe", "model", "resnet").out.split())
