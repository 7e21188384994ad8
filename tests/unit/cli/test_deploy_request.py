"""Flags and model.toml become one DeployRequest; what cannot be meant is refused unsent."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from gateway.cli.deploy_request import build, source_uri


def test_what_nobody_said_is_left_out() -> None:
    flags = {"source": "s3://m/r", "replicas": None, "label": (), "gpus": 0}
    assert build("resnet", flags, None) == ("resnet", {"source": "s3://m/r", "gpus": 0})


def test_a_path_becomes_an_absolute_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert source_uri("./my model") == (tmp_path / "my model").as_uri()
    assert source_uri("s3://b/x") == "s3://b/x"


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "model.toml"
    file.write_text(
        'name = "resnet"\nsource = "s3://m/r"\nreplicas = 2\nversions = [3, 4]\n'
        "command = \"a 'b c'\"\n[labels]\ngolden = 3\nold = 1\n"
    )
    name, request = build(None, {"replicas": 5, "label": ("golden=4",)}, file)
    assert name == "resnet"
    assert request == {
        "source": "s3://m/r",
        "replicas": 5,
        "versions": "3,4",
        "command": ["a", "b c"],
        "labels": {"golden": 4, "old": 1},
    }


def test_one_model_table_is_the_same(tmp_path: Path) -> None:
    file = tmp_path / "model.toml"
    for head in ("[model]", "[[model]]"):
        file.write_text(f'{head}\nsource = "s3://m/r"\n')
        assert build("a", {}, file)[1] == {"source": "s3://m/r"}


def test_a_relative_source_is_relative_to_its_file(tmp_path: Path) -> None:
    file = tmp_path / "model.toml"
    file.write_text('source = "resnet"\n')
    assert build("a", {}, file)[1]["source"] == (tmp_path / "resnet").as_uri()


def test_a_flag_replaces_the_range_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "model.toml"
    file.write_text("min_replicas = 1\nmax_replicas = 4\n")
    assert build("a", {"replicas": 2}, file)[1] == {"replicas": 2}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sauce = 1", "unknown key 'sauce'"),
        ("replicas = '2'", "wrong type"),
        ("replicas = true", "wrong type"),
        ("not toml", "cannot be read"),
        ("[[model]]\n[[model]]", "one \\[model\\] table"),
        ("name = 'a'\n[model]\nsource = 's3://x'", "one \\[model\\] table"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "model.toml"
    file.write_text(text)
    with pytest.raises(click.UsageError, match=words):
        build("a", {}, file)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"versions": "newest"}, "latest:2, all, or versions"),
        ({"versions": "latest:0"}, "latest:2"),
        ({"versions": "3,-4"}, "as 3,4"),
        ({"label": ("golden",)}, "NAME=VERSION"),
        ({"label": ("golden=x",)}, "NAME=VERSION"),
        ({"label": ("go/lden=1",)}, "cannot be a version label"),
        ({"memory": "8 cows"}, "no size"),
        ({"replicas": 1, "min_replicas": 1}, "not both"),
        ({"min_replicas": 3, "max_replicas": 2}, "is more than"),
        ({"replicas": 1, "idle_s": 5.0}, "--idle-s goes with --max-replicas"),
        ({"replicas": 1, "target_in_flight": 5.0}, "--target-in-flight goes with"),
        ({"backend": "onnx", "command": "./x"}, "--backend custom"),
        ({"command": "'unclosed"}, "No closing quotation"),
    ],
)
def test_contradictions_are_refused(flags: dict, words: str) -> None:
    with pytest.raises(click.UsageError, match=words):
        build("a", flags, None)


@pytest.mark.parametrize("name", ["", "a/b", ".a", "é", "x" * 129])
def test_a_name_that_urls_mangle_is_refused(name: str) -> None:
    with pytest.raises(click.UsageError):
        build(name, {}, None)


def test_protocols_are_named_with_commas_or_as_a_list(tmp_path: Path) -> None:
    _, request = build("m", {"speaks": "v2-grpc, tfs-rest"}, None)
    assert request == {"speaks": ["v2-grpc", "tfs-rest"]}
    file = tmp_path / "model.toml"
    file.write_text('speaks = ["v2-rest"]')
    assert build("m", {}, file)[1] == {"speaks": ["v2-rest"]}
    for wrong in ("", "v2", "v2-rest,"):
        with pytest.raises(click.UsageError, match="v2-grpc"):
            build("m", {"speaks": wrong}, None)


def test_hedge_is_passed_on_as_it_is_said(tmp_path: Path) -> None:
    assert build("m", {"hedge": "p95"}, None)[1] == {"hedge": "p95"}
    file = tmp_path / "model.toml"
    file.write_text('hedge = "p99"')
    assert build("m", {}, file)[1] == {"hedge": "p99"}
