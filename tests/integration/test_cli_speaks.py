"""`gateway deploy model --backend custom --speaks …`: programs that know one protocol only answer
callers of all four."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts import tiny_onnx
from tests.parts.gateway_process import GatewayProcess, gateway_process

pytestmark = [pytest.mark.onnx, pytest.mark.slow]
PROTOCOLS = ("tfs-rest", "tfs-grpc", "v2-rest", "v2-grpc")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    state = tmp_path_factory.mktemp("gateway") / "state"
    with gateway_process(
        state, "--poll-s", "0.5", "--settle-s", "0", "--v2-flavour", "kserve"
    ) as running:
        yield running


def deploy(gateway: GatewayProcess, name: str, folder: Path, *more: str) -> None:
    command = (
        f"{sys.executable} -m servers.onnx --model {name}={{model_dir}} "
        "--http 127.0.0.1:{http_port} --grpc 127.0.0.1:{grpc_port}"
    )
    source = str(folder / name)
    gateway.cli(
        "deploy", "model", name, "--source", source, "--backend", "custom", "--command", command,
        "--timeout", "90", *more,
    )  # fmt: skip


@pytest.mark.parametrize("spoken", [*PROTOCOLS, ""], ids=lambda p: p or "unsaid")
def test_one_protocol_is_enough(gateway: GatewayProcess, tmp_path: Path, spoken: str) -> None:
    name = f"only-{spoken or 'unsaid'}"
    tiny_onnx.affine(tmp_path / name / "3", 3, width=3)
    deploy(gateway, name, tmp_path, *(("--speaks", spoken) if spoken else ()))
    for protocol in PROTOCOLS:
        ran = gateway.cli("predict", name, f"--protocol={protocol}", "--data", "[[0.5, 1, 2]]")
        assert json.loads(ran.stdout) == {"predictions": [[4.0, 5.0, 7.0]]}
    model = json.loads(gateway.cli("describe", "model", name, "-o", "json").stdout)["model"]
    assert model["spec"]["speaks"] == ([spoken] if spoken else ["tfs-rest", "tfs-grpc"])
    with urllib.request.urlopen(f"{gateway.url}/api/v1/models/{name}/openapi.json") as answer:
        assert json.load(answer)["info"]["version"] == "3"
    code = gateway.cli("snippet", name, "--language", "curl").stdout
    assert "0.1, 0.2, 0.3" in code
    gateway.cli("delete", "model", name)


def test_the_flavour_reaches_gateway_and_replicas(gateway: GatewayProcess, tmp_path: Path) -> None:
    tiny_onnx.affine(tmp_path / "flavoured" / "3", 3, width=3)
    source = str(tmp_path / "flavoured")
    gateway.cli("deploy", "model", "flavoured", "--source", source)
    [replica] = gateway.get("replicas", "flavoured")
    for where in (gateway.http, replica["endpoint"]):
        with urllib.request.urlopen(f"http://{where}/v2/health/live", timeout=10) as answer:
            assert json.load(answer) == {"live": True}
        with urllib.request.urlopen(f"http://{where}/v2/models/flavoured/ready") as answer:
            assert json.load(answer) == {"name": "flavoured", "ready": True}
