"""Ready-made client code, run as people would run it, against a gateway with real models."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.parts import tiny_onnx
from tests.parts.gateway_process import GatewayProcess, gateway_process
from tests.parts.need import need

pytestmark = [pytest.mark.onnx, pytest.mark.slow]
STRING, HALF = onnx.TensorProto.STRING, onnx.TensorProto.FLOAT16

PROGRAMS = {
    "python": (".py", [sys.executable]),
    "stdlib": (".py", [sys.executable]),
    "curl": (".sh", ["bash"]),
    "go": (".go", ["go", "run"]),
    "javascript": (".mjs", ["node"]),
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    models = tmp_path_factory.mktemp("models")
    tiny_onnx.affine(models / "affine" / "3", 3, width=3)
    tiny_onnx.two_in_two_out(models / "two" / "1")
    tiny_onnx.affine(models / "wide" / "1", 1, width=100_000)
    tiny_onnx.identity(models / "words" / "1", STRING)
    tiny_onnx.identity(models / "halves" / "1", HALF)
    state = tmp_path_factory.mktemp("gateway") / "state"
    with gateway_process(state, "--poll-s", "0.5", "--settle-s", "0") as running:
        for folder in sorted(models.iterdir()):
            running.cli("deploy", "model", folder.name, "--source", str(folder), "--no-wait")
        for folder in sorted(models.iterdir()):
            running.cli("deploy", "model", folder.name, "--source", str(folder))
        yield running


def snippet(gateway: GatewayProcess, model: str, language: str, *more: str) -> str:
    wanted = ["--language", language] if language != "stdlib" else ["-l", "python", "--stdlib"]
    return gateway.cli("snippet", model, *wanted, *more).stdout


def run(code: str, language: str, folder: Path) -> str:
    suffix, command = PROGRAMS[language]
    need(shutil.which(command[0]) is not None, f"install {command[0]} and put it on PATH")
    file = folder / f"predict{suffix}"
    file.write_text(code)
    done = subprocess.run(
        [*command, str(file)], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, f"{done.stderr}\n--- code\n{code[:4000]}"
    return done.stdout


def outputs(printed: str, protocol: str) -> Any:
    """What a snippet without numpy prints: the answer's `outputs`, as data by name."""
    told = json.loads(printed)
    if isinstance(told, dict) and "outputs" in told:  # curl prints the whole answer
        told = told["outputs"]
    if protocol.startswith("v2"):
        return {o["name"]: np.reshape(o["data"], o["shape"]).tolist() for o in told}
    return told


@pytest.mark.parametrize("protocol", ["tfs-rest", "v2-rest"])
@pytest.mark.parametrize("language", ["stdlib", "curl", "go", "javascript"])
def test_code_without_libraries_gets_the_right_numbers(
    gateway: GatewayProcess, tmp_path: Path, language: str, protocol: str
) -> None:
    code = snippet(gateway, "affine", language, "--protocol", protocol)
    y = outputs(run(code, language, tmp_path), protocol)
    y = y["y"] if protocol == "v2-rest" else y
    np.testing.assert_allclose(y, [[3.2, 3.4, 3.6]], rtol=1e-6)


@pytest.mark.parametrize("protocol", ["tfs-rest", "tfs-grpc", "v2-rest", "v2-grpc"])
def test_the_sdk_code_gets_the_right_numbers(
    gateway: GatewayProcess, tmp_path: Path, protocol: str
) -> None:
    code = snippet(gateway, "two", "python", "--protocol", protocol)
    printed = run(code, "python", tmp_path)
    assert "sum float32 (1, 2)\n[[0.2 0.4]]" in printed
    assert "difference float32 (1, 2)\n[[0. 0.]]" in printed


@pytest.mark.parametrize("protocol", ["tfs-rest", "v2-rest"])
@pytest.mark.parametrize("language", ["stdlib", "curl", "go", "javascript"])
def test_tensors_too_large_to_write_out_are_filled(
    gateway: GatewayProcess, tmp_path: Path, language: str, protocol: str
) -> None:
    code = snippet(gateway, "wide", language, "--protocol", protocol)
    assert len(code) < 4000
    y = outputs(run(code, language, tmp_path), protocol)
    y = y["y"] if protocol == "v2-rest" else y
    np.testing.assert_array_equal(y, np.full((1, 100_000), 2.0))
    if language == "python":
        assert "np.full((1, 100000), 0.5, dtype=np.float32)" in code


@pytest.mark.parametrize("protocol", ["tfs-rest", "v2-rest"])
@pytest.mark.parametrize("language", ["stdlib", "curl", "go", "javascript", "python"])
def test_strings_go_as_strings(
    gateway: GatewayProcess, tmp_path: Path, language: str, protocol: str
) -> None:
    printed = run(snippet(gateway, "words", language, "--protocol", protocol), language, tmp_path)
    if language == "python":
        assert "[[b'text' b'text']]" in printed
        return
    told = outputs(printed, protocol)
    told = next(iter(told.values())) if protocol == "v2-rest" else told
    assert told == [["text", "text"]]


def test_what_json_cannot_say_is_refused_with_the_way_that_can(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    done = gateway.cli("snippet", "halves", "--language", "go", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "half" in done.stderr
    assert "--language python" in done.stderr
    for protocol in ("tfs-grpc", "v2-grpc", "v2-rest"):
        code = snippet(gateway, "halves", "python", "--protocol", protocol)
        assert "float16 (1, 2)\n[[0.1 0.2]]" in run(code, "python", tmp_path)


def test_a_version_is_named_and_go_is_formatted(gateway: GatewayProcess, tmp_path: Path) -> None:
    code = snippet(gateway, "affine", "go", "--version", "3")
    assert "/v1/models/affine/versions/3:predict" in code
    for model in ("affine", "two", "wide", "words"):
        for protocol in ("tfs-rest", "v2-rest"):
            code = snippet(gateway, model, "go", "--protocol", protocol)
            need(shutil.which("gofmt") is not None, "install Go")
            done = subprocess.run(["gofmt", "-d"], input=code, capture_output=True, text=True)
            assert (done.stdout, done.stderr) == ("", "")
    done = gateway.cli("snippet", "nobody", "--language", "go", check=False)
    assert (done.returncode, done.stdout) == (1, "")
