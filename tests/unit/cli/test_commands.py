"""The commands as people run them: exit codes, what goes to stdout and what to stderr."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from tests.parts.fake_control_api import event, model, replica, version


def test_no_gateway_says_how_to_start_one(gateway, monkeypatch) -> None:
    monkeypatch.delenv("GATEWAY_URL", raising=False)
    ran = gateway("--url", "http://127.0.0.1:1", "get", "models")
    assert (ran.code, ran.out) == (1, "")
    assert "No answer at http://127.0.0.1:1: start it with `gateway serve`" in ran.err
    assert "--url or GATEWAY_URL" in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("get",),
        ("get", "pods"),
        ("deploy", "model"),
        ("deploy", "model", "a/b", "--source", "s3://x"),
        ("deploy", "model", "a", "--source", "s3://x", "--replicas", "-1"),
        ("deploy", "model", "a", "--backend", "torch"),
        ("scale", "model", "a", "--replicas", "-2"),
        ("scale", "model", "a"),
        ("predict", "a"),
        ("predict", "a", "--data", "{"),
        ("predict", "a", "--data", "3"),
        ("predict", "a", "--data", "[]", "--version", "1", "--label", "x"),
        ("snippet", "a"),
        ("snippet", "a", "--language", "cobol"),
        ("snippet", "a", "--language", "go", "--protocol", "v2-grpc"),
        ("snippet", "a", "--language", "go", "--stdlib"),
        ("snippet", "a", "--language", "go", "--version", "1", "--label", "x"),
        ("snippet", "a", "--language", "go", "--protocol", "v2-rest", "--label", "x"),
        ("deploy", "model", "a", "--source", "s3://x", "--speaks", "v3"),
        ("serve", "--v2-flavour", "seldon"),
        ("predict", "a", "--data", "@/no/such/file"),
        ("publish", "/no/such/dir", "s3://x"),
        ("get", "models", "--watch", "-o", "yaml"),
        ("serve", "--http", "8501"),
        ("serve", "--lease-s", "0.5"),
        ("serve", "--scheduler", "local", "--namespace", "x"),
        ("serve", "--max-body", "huge"),
        ("--config", "/no/such/config.toml", "get", "models"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_nothing_on_stdout(gateway, monkeypatch, arguments) -> None:
    monkeypatch.delenv("GATEWAY_URL", raising=False)
    ran = gateway(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err


def test_the_address_comes_from_flag_then_environment_then_file(
    gateway, api, monkeypatch, tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text('url = "http://127.0.0.1:1"\n')
    assert gateway("--config", str(file), "get", "models").code == 0  # GATEWAY_URL wins
    assert gateway("--url", "http://127.0.0.1:1", "get", "models").code == 1
    monkeypatch.delenv("GATEWAY_URL")
    assert gateway("--config", str(file), "get", "models").code == 1
    file.write_text(f'url = "{api.url}"\n')
    assert gateway("--config", str(file), "get", "models").code == 0
    file.write_text("url = 3\n")
    assert gateway("--config", str(file), "get", "models").code == 2


@pytest.mark.parametrize("noun", ["models", "versions", "replicas", "events"])
def test_get_json_is_the_apis_objects_and_nothing_else(gateway, api, noun: str) -> None:
    api.models, api.versions = {"resnet": model()}, [version()]
    api.replicas, api.events = [replica()], [event(1)]
    wanted = [model()] if noun == "models" else getattr(api, noun)
    for word in (noun, noun.removesuffix("s")):
        for name in ([], ["resnet"]):
            ran = gateway("get", word, *name, "-o", "json")
            assert (ran.code, ran.err) == (0, "")
            assert json.loads(ran.out) == wanted
    assert yaml.safe_load(gateway("get", noun, "-o", "yaml").out) == wanted


def test_nothing_there_is_an_empty_list_and_a_word_to_people(gateway, api) -> None:
    assert json.loads(gateway("get", "models", "-o", "json").out) == []
    ran = gateway("get", "rollouts")
    assert (ran.code, ran.out, ran.err) == (0, "", "No rollouts.\n")


def test_an_unknown_model_is_exit_code_1_with_the_servers_words(gateway, api) -> None:
    lines = "get models x,get events x,describe model x,logs x,scale model x --replicas 1"
    commands = [line.split() for line in f"{lines},delete model x".split(",")]
    for arguments in commands:
        ran = gateway(*arguments)
        assert (ran.code, ran.out) == (1, "")
        assert "There is no model x; see: gateway get models" in ran.err


def test_tables_fit_80_columns_and_lose_nothing(gateway, api) -> None:
    long = "s3://a-bucket-with-a-long-name/and/a/path/that/goes/on/and/on/resnet-50-v1.5-int8"
    api.models = {"a-rather-long-model-name": model("a-rather-long-model-name", source=long)}
    api.replicas = [replica("a-rather-long-model-name-abcde", reason="killed by signal 9 [oom]")]
    api.versions = [version(2**62, reason="model.onnx: " + "bad " * 30, state="failed")]
    for noun in ("models", "replicas", "versions"):
        ran = gateway("get", noun)
        assert ran.code == 0
        assert max(map(len, ran.out.splitlines())) <= 80
        assert "\x1b" not in ran.out
    assert str(2**62) in ran.out


def test_describe_shows_the_reason_and_everything_else(gateway, api) -> None:
    api.models = {"resnet": model(state="degraded", reason="version 4: warm-up failed")}
    api.versions = [version(4, state="failed", reason="warm-up failed", live=False), version()]
    api.replicas, api.events = [replica()], [event(1)]
    ran = gateway("describe", "model", "resnet")
    assert ran.code == 0
    for words in ("version 4: warm-up failed", "resnet-abcde", "127.0.0.1:40001", "happening 1",
                  "batch_size=32", "stable=3"):  # fmt: skip
        assert words in ran.out
    told = json.loads(gateway("describe", "models", "resnet", "-o", "json").out)
    assert sorted(told) == ["events", "model", "replicas", "rollouts", "versions"]


def becomes_ready(api, look: int) -> None:
    """fetching → warming → ready, one step a look."""
    if "resnet" not in api.models:
        return
    total = 480_000_000
    if look <= 3:
        api.versions = [version(state="fetching", phase="fetching", ready_replicas=0,
                                fetched_bytes=look * 100_000_000, total_bytes=total)]  # fmt: skip
    elif look == 4:
        api.versions = [version(state="loading", phase="warming", ready_replicas=0)]
    else:
        api.versions = [version()]
        done = {"state": "ready", "ready_replicas": 2, "live_version": 3, "versions": [3]}
        api.models["resnet"].update(done)
    api.events.append(event(len(api.events) + 1))


def test_deploy_waits_shows_progress_and_ends_with_a_line_to_try(gateway, api) -> None:
    api.on_look = becomes_ready
    dims = {"dim": [{"size": "-1"}, {"size": "2"}], "unknown_rank": False}
    inputs = {"x": {"dtype": "DT_FLOAT", "tensor_shape": dims}}
    api.metadata = {
        "metadata": {"signature_def": {"signature_def": {"serving_default": {"inputs": inputs}}}}
    }
    ran = gateway("deploy", "model", "resnet", "--source", "/models/resnet", "--replicas", "2")
    assert ran.code == 0
    assert ran.err.splitlines() == [
        "resnet: fetching 100/480 MB · ready 0/2",
        "resnet: fetching 200/480 MB · ready 0/2",
        "resnet: fetching 300/480 MB · ready 0/2",
        "resnet: warming · ready 0/2",
        "resnet: ready 2/2",
    ]
    assert "resnet answers with version 3 on 2 replicas." in ran.out
    assert "gateway predict resnet --data '{\"inputs\": [[0.0, 0.0]]}'" in ran.out
    assert "/v1/models/resnet:predict" in ran.out
    assert api.asked[0] == (
        "PUT", "/api/v1/models/resnet", {"source": "file:///models/resnet", "replicas": 2}
    )  # fmt: skip


def test_deploy_json_is_one_model_on_stdout(gateway, api) -> None:
    api.on_look = becomes_ready
    ran = gateway("deploy", "model", "resnet", "--source", "s3://m/r", "-o", "json")
    assert ran.code == 0
    assert json.loads(ran.out)["state"] == "ready"


def test_deploy_no_wait_returns_at_once(gateway, api) -> None:
    ran = gateway("deploy", "model", "resnet", "--source", "s3://m/r", "--no-wait", "-o", "json")
    assert (ran.code, json.loads(ran.out)["state"], len(api.asked)) == (0, "deploying", 1)


@pytest.mark.slow
def test_deploy_that_fails_says_why(gateway, api) -> None:
    def fails(api, _: int) -> None:
        api.models["resnet"].update(state="failed", reason="version 3: model.onnx is corrupt")

    api.on_look = fails
    ran = gateway("deploy", "model", "resnet", "--source", "s3://m/r")
    assert (ran.code, ran.out) == (1, "")
    assert "resnet cannot answer: version 3: model.onnx is corrupt." in ran.err
    assert "gateway describe model resnet" in ran.err


def test_deploy_that_takes_too_long_says_that_it_goes_on(gateway, api) -> None:
    ran = gateway("deploy", "model", "resnet", "--source", "s3://m/r", "--timeout", "0.2")
    assert ran.code == 1
    assert "resnet is not ready after 0.2 s. The deployment goes on" in ran.err


def test_deploy_of_a_model_deleted_meanwhile_ends(gateway, api) -> None:
    api.on_look = lambda api, _: api.models.clear()
    ran = gateway("deploy", "model", "resnet", "--source", "s3://m/r")
    assert ran.code == 1
    assert "was deleted while it was being deployed" in ran.err


def test_deploy_refused_shows_the_servers_words(gateway, api) -> None:
    told = {"error": {"reason": "source_not_found", "message": "s3://m/r does not exist"}}
    api.refuse = (404, told, {})
    ran = gateway("deploy", "model", "resnet", "--source", "s3://m/r")
    assert (ran.code, ran.out, ran.err) == (1, "", "Error: s3://m/r does not exist\n")


def test_scale_and_delete(gateway, api) -> None:
    api.models = {"resnet": model()}
    ran = gateway("scale", "model", "resnet", "--replicas", "4")
    assert (ran.code, ran.err) == (0, "")
    assert "resnet goes to 4 replicas (2 ready now)" in ran.out
    assert (
        json.loads(gateway("scale", "model", "resnet", "--replicas", "5", "-o", "json").out)[
            "replicas"
        ]
        == 5
    )
    ran = gateway("delete", "model", "resnet")
    assert (ran.code, ran.out) == (
        0, "resnet is deleted. Its files in file:///models/resnet are untouched.\n"
    )  # fmt: skip
    assert api.models == {}


def test_delete_waits_on_where_the_gateway_cannot_answer_for_a_moment(gateway, api) -> None:
    told = {"error": {"reason": "store_unreachable", "message": "The database does not answer"}}

    def away_at_first(_: object, look: int) -> None:
        if look == 1:
            raise web.HTTPServiceUnavailable(text=json.dumps(told))

    api.models, api.on_look = {"resnet": model()}, away_at_first
    assert gateway("delete", "model", "resnet").code == 0
    assert [method for method, *_ in api.asked] == ["DELETE", "GET", "GET"]


@pytest.mark.slow
@pytest.mark.parametrize(("typed", "code", "left"), [(b"n\n", 1, 1), (b"y\n", 0, 0)])
def test_on_a_terminal_delete_asks(api, typed: bytes, code: int, left: int) -> None:
    import pty
    import subprocess
    import sys

    api.models = {"resnet": model()}
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gateway", "delete", "model", "resnet"]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, start_new_session=True
    )
    os.close(theirs)
    os.write(ours, typed)
    try:
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
        os.close(ours)
    assert (process.returncode, len(api.models)) == (code, left)
    assert b"Traceback" not in err


def test_logs_are_copied_byte_for_byte(gateway, api) -> None:
    api.models, api.logs = {"resnet": model()}, "[resnet-abcde] é\n[resnet-abcde] two\n".encode()
    ran = gateway("logs", "resnet", "--replica", "resnet-abcde")
    assert (ran.code, ran.out) == (0, api.logs.decode())
    assert api.asked[-1][1] == "/api/v1/models/resnet/logs?replica=resnet-abcde"


@pytest.mark.slow
def test_watch_prints_one_object_per_line_as_it_changes(api) -> None:
    """As a process, because it only ends by Ctrl-C."""
    import signal
    import subprocess
    import sys

    api.models, api.events = {"resnet": model()}, [event(1)]
    command = [sys.executable, "-m", "gateway", "get", "models", "--watch", "-o", "json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ
    )
    try:
        assert json.loads(process.stdout.readline())["state"] == "ready"
        api.models["resnet"]["state"] = "degraded"
        api.events.append(event(2))
        assert json.loads(process.stdout.readline())["state"] == "degraded"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_ctrl_c_while_waiting_says_that_the_deployment_goes_on(api) -> None:
    import signal
    import subprocess
    import sys

    command = [sys.executable, "-m", "gateway", "deploy", "model", "resnet", "--source", "s3://m/r"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ
    )
    try:
        assert b"resnet:" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        assert (process.returncode, out) == (130, b"")
        assert b"The deployment of resnet goes on. Watch it with: gateway get models" in err
        assert b"Traceback" not in err
    finally:
        process.kill()
        process.communicate()


def test_a_bug_is_told_in_one_line_and_raised_for_debugging(gateway, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("gateway.cli.session.Session.call", broken)
    ran = gateway("get", "models")
    assert ran.code == 1
    assert "ZeroDivisionError: oops" in ran.err
    assert "GATEWAY_DEBUG=1" in ran.err
    monkeypatch.setenv("GATEWAY_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        gateway("get", "models")


def test_serve_hands_over_the_flags_that_were_given(gateway, monkeypatch, tmp_path: Path) -> None:
    import sys
    import types

    given: list[object] = []
    fake = types.ModuleType("gateway.app")
    fake.main = lambda flags, file: given.extend((flags, file)) or 3
    monkeypatch.setitem(sys.modules, "gateway.app", fake)
    monkeypatch.setattr("gateway.app", fake, raising=False)
    file = tmp_path / "gateway.toml"
    file.write_text("")
    line = "serve --http 127.0.0.1:0 --max-body 2MiB --workers 2 --insecure --settle-s 0"
    ran = gateway(*line.split(), "--state", str(tmp_path), "--config", str(file))
    assert ran.code == 3
    assert given == [
        {"http": "127.0.0.1:0", "state": str(tmp_path), "max_body_bytes": 2 << 20, "workers": 2,
         "insecure": True, "settle_s": 0.0},
        file,
    ]  # fmt: skip
    given.clear()
    gateway("serve")
    assert given == [{}, None]


def test_flags_of_serve_are_settings(monkeypatch) -> None:
    from gateway import config
    from gateway.cli.serve import serve

    flags = {p.name for p in serve.params} - {"config_file"}
    assert flags <= set(config.Settings.__dataclass_fields__)


def test_a_replica_that_is_ejected_shows_it_and_why(api, gateway):
    api.models = {"resnet": model("resnet")}
    why = "it fails"
    api.replicas = [replica(standing="ejected", standing_reason=why), replica("resnet-fghij")]
    for command in (("get", "replicas"), ("describe", "model", "resnet")):
        ran = gateway(*command)
        assert ran.code == 0
        (shown,) = [line for line in ran.out.splitlines() if line.startswith("resnet-abcde")]
        assert shown.split()[1] == "ejected"
        assert why in " ".join(ran.out.split())
    (first, second) = json.loads(gateway("get", "replicas", "-o", "json").out)
    assert (first["state"], first["standing"], second["standing"]) == ("ready", "ejected", "good")


def scaled(**more: object) -> dict:
    spec = {"source": "file:///models/resnet", "min_replicas": 0, "max_replicas": 4}
    spec |= {"replicas": None, "target_in_flight": 8.0, "idle_s": 300.0}
    given = {"min_replicas": 0, "max_replicas": 4, "in_flight": 24.61, "spec": spec}
    return model(**(given | more))


def test_describe_says_how_many_replicas_there_may_be_and_why_there_are_so_many(
    gateway, api
) -> None:
    why = "12.3 in flight per replica over 60 s, target 8"
    api.models = {
        "resnet": scaled(replicas=3, scale_reason=why, scaled_at="2026-11-29T18:00:00.000Z")
    }
    out = " ".join(gateway("describe", "model", "resnet").out.split())
    assert "2 of 3 ready" in out
    assert "0 to 4 replicas, 8 in flight each; 24.6 in flight on average" in out
    assert f"3 since 2026-11-29T18:00:00.000Z: {why}" in out
    assert "idle_s=300" in out
    api.models = {"resnet": model()}
    assert "Scaling" not in gateway("describe", "model", "resnet").out


def test_a_model_that_is_idle_is_as_it_was_asked_for(gateway, api) -> None:
    idle = scaled(state="idle", replicas=0, ready_replicas=0)

    def becomes_idle(api, look: int) -> None:
        api.models["resnet"] = idle

    api.on_look = becomes_idle
    ran = gateway(
        *("deploy", "model", "resnet", "--source", "/models/resnet", "--timeout", "20"),
        *("--min-replicas", "0", "--max-replicas", "4"),
        *("--idle-s", "60", "--target-in-flight", "2.5"),
    )
    assert ran.code == 0
    assert "It has no replica while nobody asks" in ran.out
    (asked,) = [body for method, _, body in api.asked if method == "PUT"]
    assert (asked["min_replicas"], asked["max_replicas"]) == (0, 4)
    assert (asked["idle_s"], asked["target_in_flight"]) == (60.0, 2.5)
    assert "0/0" in gateway("get", "models").out
