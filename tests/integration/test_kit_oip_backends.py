"""V2 of the TensorFlow and Caffe servers: tritonclient's answers are TensorFlow Serving's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from gateway.client import Client
from tests.parts import tiny_caffe, tiny_tf
from tests.parts.server_process import process, until
from tests.parts.triton_clients import inference_error, triton_client

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # gevent's and tritonclient's own
]
InferenceServerException = inference_error()


@pytest.fixture(scope="module")
def tensorflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("oip_tensorflow")
    tiny_tf.half_plus_two(folder / "half" / "123")
    tiny_tf.mixed(folder / "mixed" / "1")
    flags = [f for m in ("half", "mixed") for f in ("--model", f"{m}={folder / m}")]
    with process("servers.tensorflow", *flags, ready=folder / "ready.json") as (_, said):
        with triton_client("grpc", said["http"], said["grpc"]) as client:
            until(lambda: client.call("is_server_ready"), 60)
        yield said


@pytest.fixture(scope="module")
def caffe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    tiny_caffe.opencv()
    folder = tmp_path_factory.mktemp("oip_caffe")
    tiny_caffe.scale_model(folder / "scale" / "1")
    flags = ["--engine", "opencv", "--model", f"scale={folder / 'scale'}"]
    with process("servers.caffe", *flags, ready=folder / "ready.json") as (_, said):
        with triton_client("grpc", said["http"], said["grpc"]) as client:
            until(lambda: client.call("is_server_ready"), 60)
        yield said


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_tensorflow(tensorflow: dict[str, str], kind: str) -> None:
    x = np.float32([1.0, 2.5])
    with triton_client(kind, tensorflow["http"], tensorflow["grpc"]) as triton:
        told = triton.told("get_model_metadata", "half")
        assert (told["platform"], told["versions"]) == ("tensorflow_savedmodel", ["123"])
        got = triton.infer("half", {told["inputs"][0]["name"]: x})
        with Client(tensorflow["grpc"]) as stock:
            wanted = stock.predict("half", {"x": x})
        for name, array in wanted.items():
            np.testing.assert_array_equal(got.as_numpy(name), array)
        config = triton.told("get_model_config", "half")
        config = config.get("config", config)
        assert "regress_x_to_y" in config["parameters"]["signatures"]["string_value"]


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_other_signatures_strings_and_defaults(tensorflow: dict[str, str], kind: str) -> None:
    words = np.array([[b"\x00\xff", b"b"]], dtype=object)
    with triton_client(kind, tensorflow["http"], tensorflow["grpc"]) as triton:
        with pytest.raises(InferenceServerException, match="signature_name"):
            triton.infer("mixed", {"words": words}, parameters={"signature_name": "nothing"})
        got = triton.infer("mixed", {"words": words}, parameters={"signature_name": "join"})
        with Client(tensorflow["grpc"]) as stock:
            wanted = stock.predict("mixed", {"words": words}, signature="join")
        for name, array in wanted.items():
            assert got.as_numpy(name).tolist() == array.tolist()


@pytest.mark.caffe
@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_caffe(caffe: dict[str, str], kind: str) -> None:
    with triton_client(kind, caffe["http"], caffe["grpc"]) as triton:
        told = triton.told("get_model_metadata", "scale")
        assert (told["platform"], told["versions"]) == ("caffe", ["1"])
        (given,) = told["inputs"]
        shape = [3, *map(int, given["shape"][1:])]
        x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        got = triton.infer("scale", {given["name"]: x})
        with Client(caffe["grpc"]) as stock:
            wanted = stock.predict("scale", {given["name"]: x})
        for name, array in wanted.items():
            np.testing.assert_array_equal(got.as_numpy(name), array)
