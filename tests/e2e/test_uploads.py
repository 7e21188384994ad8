"""A version that arrives file by file never answers before it is whole, whoever uploads it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.parts.gateway_process import GatewayProcess

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

WIDTH = 256


def _two_file_model(directory: Path, addend: float) -> None:
    """`y = x + addend` with its weights in a file beside `model.onnx`."""
    weights = np.full(WIDTH, addend, dtype=np.float32)
    initializer = numpy_helper.from_array(weights, "addend")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "addend"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", WIDTH])],
        [initializer],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save_model(
        model,
        directory / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )


def _answer(gateway: GatewayProcess, model: str, width: int) -> float:
    body = json.dumps({"instances": [[0.0] * width]}).encode()
    url = f"http://{gateway.http}/v1/models/{model}:predict"
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=10) as answer:
        return float(json.loads(answer.read())["predictions"][0][0])


def _never_answers(gateway: GatewayProcess, model: str, old: float, seconds: float) -> None:
    """Look again and again for a while: only the old version may answer."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        assert _answer(gateway, model, WIDTH) == old
        time.sleep(0.05)


def _until_answers(gateway: GatewayProcess, model: str, value: float, timeout_s: float) -> None:
    end = time.perf_counter() + timeout_s
    seen = None
    while time.perf_counter() < end:
        seen = _answer(gateway, model, WIDTH)
        if seen == value:
            return
        time.sleep(0.1)
    pytest.fail(f"still answers {seen}: {gateway.cli('describe', 'model', model).stdout}")


def _missing(path: Path, whole: bytes) -> None:
    path.unlink(missing_ok=True)


def _truncated(path: Path, whole: bytes) -> None:
    path.write_bytes(whole[: len(whole) // 2])


def _corrupted(path: Path, whole: bytes) -> None:
    path.write_bytes(bytes(b ^ 0xFF for b in whole))


@pytest.mark.parametrize("harm", [_missing, _truncated, _corrupted])
@pytest.mark.parametrize("victim", ["model.onnx", "weights.bin"])
def test_an_upload_with_a_bad_file_never_answers_and_goes_live_when_mended(
    gateway: GatewayProcess,
    models: Path,
    tmp_path: Path,
    victim: str,
    harm: Callable[[Path, bytes], None],
) -> None:
    name = f"up{harm.__name__}-{victim.split('.')[0]}"
    source, whole = models / name, tmp_path / "whole"
    _two_file_model(source / "1", 1.0)
    _two_file_model(whole, 2.0)
    gateway.cli("deploy", "model", name, "--source", str(source))
    assert _answer(gateway, name, WIDTH) == 1.0
    (source / "2").mkdir()
    for file in sorted(whole.iterdir()):
        target = source / "2" / file.name
        if file.name == victim:
            harm(target, file.read_bytes())
        else:
            # Slowly, in pieces: every look at the source sees another size.
            data = file.read_bytes()
            with target.open("wb") as out:
                for start in range(0, len(data), max(1, len(data) // 4)):
                    out.write(data[start : start + max(1, len(data) // 4)])
                    out.flush()
                    _never_answers(gateway, name, 1.0, 0.2)
    if victim == "weights.bin" and harm is _corrupted:
        # Flipped weights load like any others; only a manifest can tell. That is the next test.
        (source / "2" / victim).unlink()
    _never_answers(gateway, name, 1.0, 4.0)
    for file in sorted(whole.iterdir()):
        (source / "2" / file.name).write_bytes(file.read_bytes())
    _until_answers(gateway, name, 2.0, 60)


@pytest.mark.parametrize("harm", [_missing, _truncated, _corrupted])
@pytest.mark.parametrize("victim", ["model.onnx", "weights.bin"])
def test_a_published_version_that_was_harmed_never_answers(
    gateway: GatewayProcess,
    models: Path,
    tmp_path: Path,
    victim: str,
    harm: Callable[[Path, bytes], None],
) -> None:
    name = f"pub{harm.__name__}-{victim.split('.')[0]}"
    source = models / name
    for version in (1, 2):
        _two_file_model(tmp_path / str(version), float(version))
    gateway.cli("publish", str(tmp_path / "1"), str(source), "--version", "1")
    # Published elsewhere, harmed there, and only then shown: as storage that lost a write.
    gateway.cli("deploy", "model", name, "--source", str(source))
    elsewhere = models / f"{name}-elsewhere"
    gateway.cli("publish", str(tmp_path / "1"), str(elsewhere), "--version", "1")
    gateway.cli("publish", str(tmp_path / "2"), str(elsewhere), "--version", "2")
    harm(elsewhere / "2" / victim, (elsewhere / "2" / victim).read_bytes())
    (elsewhere / "2").rename(source / "2")
    (elsewhere / "_VERSIONS.json").rename(source / "_VERSIONS.json")
    _never_answers(gateway, name, 1.0, 4.0)
    reason = next(v for v in gateway.get("versions", name) if v["version"] == 2)
    assert reason["state"] != "ready"
    assert victim in reason["reason"] or reason["state"] in ("fetching", "new"), reason
    (source / "2" / victim).write_bytes((tmp_path / "2" / victim).read_bytes())
    _until_answers(gateway, name, 2.0, 90)


def test_a_bad_version_says_why_and_the_good_one_stays(
    gateway: GatewayProcess, models: Path
) -> None:
    source = models / "bad"
    _two_file_model(source / "1", 1.0)
    gateway.cli("deploy", "model", "bad", "--source", str(source))
    (source / "2").mkdir()
    (source / "2" / "model.onnx").write_bytes(b"this is no model")
    end = time.perf_counter() + 30
    while time.perf_counter() < end:
        second = [v for v in gateway.get("versions", "bad") if v["version"] == 2]
        if second and second[0]["state"] == "failed":
            break
        time.sleep(0.1)
    assert second[0]["state"] == "failed"
    assert "model.onnx" in second[0]["reason"]
    assert "model.onnx" in gateway.cli("describe", "model", "bad").stdout
    assert _answer(gateway, "bad", WIDTH) == 1.0


def test_a_first_version_that_cannot_load_fails_the_deploy(
    gateway: GatewayProcess, models: Path
) -> None:
    (models / "broken" / "1").mkdir(parents=True)
    (models / "broken" / "1" / "model.onnx").write_bytes(b"this is no model")
    done = gateway.cli("deploy", "model", "broken", "--source", str(models / "broken"), check=False)
    assert done.returncode == 1
    assert "model.onnx" in done.stderr
    with pytest.raises(urllib.error.HTTPError) as refused:
        _answer(gateway, "broken", 1)
    with refused.value as answer:
        assert answer.code == 503
    gateway.cli("delete", "model", "broken", "--yes")
