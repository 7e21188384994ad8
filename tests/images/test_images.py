"""Every target of the Dockerfile: built, started as a cluster would, asked, told to stop."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gateway
from tests.parts import tiny_caffe, tiny_onnx, tiny_tf
from tests.parts.containers import ROOT, Container, answer, built, podman, running

pytestmark = [pytest.mark.images, pytest.mark.long, pytest.mark.timeout(1500)]

TARGETS = ("gateway", "agent", "server-onnx", "server-caffe", "server-tensorflow")
PROTOCOLS = ("tfs-rest", "tfs-grpc", "v2-rest", "v2-grpc")


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def readable(folder: Path) -> Path:
    """For a user who is not us."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


@pytest.fixture
def onnx_models(tmp_path: Path) -> Path:
    tiny_onnx.affine(tmp_path / "models" / "tiny" / "7", 7)
    return readable(tmp_path / "models")


def ready(container: Container, model: str) -> None:
    page = f"http://127.0.0.1:8501/v1/models/{model}"
    container.until(lambda: "AVAILABLE" in container.get(page))


def stops(container: Container) -> str:
    """SIGTERM is taken, and its end is a good one; what it had written."""
    container.terminate()
    assert container.exit_code() == 0, container.logs()
    return container.logs()


def healthy(container: Container) -> None:
    """By the image's own health check."""
    podman("healthcheck", "run", container.id)


def test_the_image_says_what_it_is_and_runs_as_a_numbered_user(target: str) -> None:
    [image] = json.loads(podman("image", "inspect", built(target)).stdout)
    config = image["Config"]
    assert re.fullmatch(r"[1-9]\d*:0", config["User"])
    assert config["Labels"]["org.opencontainers.image.title"] == target
    assert config["Labels"]["org.opencontainers.image.version"] == gateway.__version__
    assert image["Healthcheck"]["Test"][:2] == ["CMD", "healthy"]
    assert "ORT_DISABLE_TELEMETRY=1" in config["Env"]
    assert not [e for e in config["Env"] if e.startswith("PIP_")]


def test_nothing_of_the_build_is_left_in_the_image(target: str) -> None:
    image = built(target)
    history = podman("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout
    assert "/wheels" not in history
    with running(image, "600", options=["--entrypoint=sleep"]) as container:
        found = container.exec(
            "python", "-c",
            "import importlib.util as u, os, glob;"
            "print([n for n in ('pip', 'mypy', 'pytest') if u.find_spec(n)],"
            " glob.glob('/src/*') + glob.glob('/wheels/*'), os.getuid())",
        )  # fmt: skip
    assert found.strip() == "[] [] 10001"


def test_the_gateway_serves_a_model_by_itself_and_drains(onnx_models: Path) -> None:
    args = ("serve", "--insecure", "--log-format", "json", "--poll-s", "0.5", "--settle-s", "0.5")
    with running(built("gateway"), *args, volumes=[(onnx_models, "/models")]) as container:
        container.until(lambda: container.get("http://127.0.0.1:8080/healthz") == "ok\n")
        healthy(container)
        container.exec(
            "gateway", "deploy", "model", "tiny", "--source", "/models/tiny",
            "--batch-delay-ms", "3000",
        )  # fmt: skip
        for protocol in PROTOCOLS:
            got = container.predict("tiny", protocol, {"instances": [[1.0, 2.0, 3.0]]})
            assert got["predictions"] == [[9.0, 11.0, 13.0]]
        late = container.predicting("tiny", "tfs-rest", {"instances": [[1.0, 2.0, 3.0]]})
        flight = 'gateway_requests_in_flight{model="tiny"} 1.0'
        container.until(lambda: flight in container.get("http://127.0.0.1:8080/metrics"))
        logs = stops(container)
        assert answer(late)["predictions"] == [[9.0, 11.0, 13.0]]
        assert "gateway.stopped" in logs


def test_the_gateway_runs_as_whatever_user_the_cluster_picks(onnx_models: Path) -> None:
    """OpenShift's way: a random user, whose group is root's."""
    args = ("serve", "--insecure")
    picked = ["--user=1000680000:0"]
    with running(built("gateway"), *args, options=picked) as container:
        container.until(lambda: container.get("http://127.0.0.1:8080/healthz") == "ok\n")
        assert stops(container)


def test_the_gateway_refuses_an_open_network_unless_told_that_it_is_trusted() -> None:
    with running(built("gateway")) as container:
        assert container.exit_code() == 1
        assert "--insecure" in container.logs()


def test_the_onnx_server_answers_and_drains(onnx_models: Path) -> None:
    args = server_args("tiny=/models/tiny")
    with running(built("server-onnx"), *args, volumes=[(onnx_models, "/models")]) as container:
        ready(container, "tiny")
        healthy(container)
        for protocol in PROTOCOLS:
            got = container.predict("tiny", protocol, {"instances": [[1.0, 2.0, 3.0]]})
            assert got["predictions"] == [[9.0, 11.0, 13.0]]
        assert container.exec("find", "/var/lib/gateway", "-name", "*onnxruntime*") == ""
        assert "server.stopped" in stops(container)


def test_the_caffe_server_answers_and_drains(tmp_path: Path) -> None:
    tiny_caffe.scale_model(tmp_path / "models" / "tiny" / "1", bias=1.0)
    models = readable(tmp_path / "models")
    args = server_args("tiny=/models/tiny")
    with running(built("server-caffe"), *args, volumes=[(models, "/models")]) as container:
        ready(container, "tiny")
        healthy(container)
        for protocol in PROTOCOLS:
            got = container.predict("tiny", protocol, {"instances": [[1.0, 2.0, 3.0, 4.0]]})
            assert got["predictions"] == [[11.0, 21.0]]
        assert "server.stopped" in stops(container)


def test_the_tensorflow_server_answers_and_drains(tmp_path: Path) -> None:
    tiny_tf.half_plus_two(tmp_path / "models" / "half" / "1")
    models = readable(tmp_path / "models")
    args = server_args("half=/models/half")
    with running(built("server-tensorflow"), *args, volumes=[(models, "/models")]) as container:
        ready(container, "half")
        healthy(container)
        for protocol in PROTOCOLS:
            got = container.predict("half", protocol, {"instances": [2.0, 4.0]})
            assert got["predictions"] == [3.0, 4.0]
        assert "server.stopped" in stops(container)


def test_the_agent_fetches_for_the_server_beside_it_and_stops(
    onnx_models: Path, tmp_path: Path
) -> None:
    """The ONNX server stands where tensorflow/serving would: it speaks the same ModelService and
    reads the same folder, in the network of the agent."""
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o777)
    shared.chmod(0o777)
    volumes = [(onnx_models, "/src"), (shared, "/models:rw")]
    with running(built("agent"), volumes=volumes) as agent:
        args = ("--http", "127.0.0.1:8501", "--grpc", "127.0.0.1:8500")
        network = f"container:{agent.id}"
        beside = [(shared, "/models")]
        with running(built("server-onnx"), *args, volumes=beside, network=network) as server:
            server.until(lambda: server.get("http://127.0.0.1:8501/v2/health/live"))
            agent.until(lambda: agent.get("http://127.0.0.1:8511/replica/status"))
            healthy(agent)
            reload = agent.beside(sys.executable, "-c", RELOAD)
            subprocess.run(reload, cwd=ROOT, check=True, timeout=320)
            ready(server, "tiny")
            got = server.predict("tiny", "tfs-grpc", {"instances": [[1.0, 2.0, 3.0]]})
            assert got["predictions"] == [[9.0, 11.0, 13.0]]
            assert (shared / "tiny" / "7" / "model.onnx").exists()
            assert "agent.stopped" in stops(agent)


RELOAD = """
import grpc
from gateway.codecs.tfs_methods import Method
from tests.parts.kit_server import reload_request
call = grpc.insecure_channel("127.0.0.1:8510").unary_unary(Method.HANDLE_RELOAD_CONFIG.path)
call(reload_request(tiny=("/src/tiny", (7,))).SerializeToString(), timeout=300, wait_for_ready=True)
"""


def server_args(model: str) -> tuple[str, ...]:
    """As in a pod: what is given replaces what the image says."""
    cache = ("--cache-dir", "/var/lib/gateway/cache")
    return ("--http", "0.0.0.0:8501", "--grpc", "0.0.0.0:8500", *cache, "--model", model)
