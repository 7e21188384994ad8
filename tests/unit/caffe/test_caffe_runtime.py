"""The Caffe runtime against tiny networks, on each engine that is here."""

from __future__ import annotations

import importlib.util
import threading

import numpy as np
import pytest

from gateway.domain.errors import InvalidRequest
from gateway.domain.tensors import DType
from tests.parts import tiny_caffe

pytestmark = pytest.mark.caffe

PAIR = """
input: "a" input_shape { dim: 1 dim: 4 }
input: "b" input_shape { dim: 1 dim: 4 }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "s" }
layer { name: "cut" type: "Slice" bottom: "s" top: "left" top: "right"
        slice_param { axis: 1 slice_point: 1 } }
layer { name: "relu" type: "ReLU" bottom: "left" top: "left" }
"""
FIXED = """
input: "data" input_shape { dim: 2 dim: 4 }
layer { name: "r" type: "Reshape" bottom: "data" top: "out"
        reshape_param { shape { dim: 2 dim: 2 dim: 2 } } }
"""


# Caffe itself is in no package index, so it is tried where somebody has built it: with
# PYTHONPATH=…/caffe/python the same tests run on both engines.
ENGINES = ["opencv", *(["caffe"] if importlib.util.find_spec("caffe") else [])]


@pytest.fixture(scope="module", params=ENGINES)
def runtime(request):
    from servers.caffe.runtime import CaffeRuntime, engine_named

    if request.param == "opencv":
        tiny_caffe.opencv()
    return CaffeRuntime(engine_named(request.param))


@pytest.fixture
def scale(runtime, tmp_path):
    model = runtime.load(tiny_caffe.scale_model(tmp_path / "1"))
    yield model
    model.close()


def test_the_signature_has_a_free_batch(scale):
    signature = scale.signatures["serving_default"]
    assert {n: s.shape for n, s in signature.inputs.items()} == {"data": (-1, 4)}
    assert {n: s.shape for n, s in signature.outputs.items()} == {"out": (-1, 2)}
    assert signature.outputs["out"].dtype is DType.FLOAT
    assert scale.batchable
    assert scale.fixed_batch is None


@pytest.mark.parametrize("rows", [1, 3, 2, 0, 7])
def test_any_number_of_rows(scale, rows):
    data = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
    out = scale.run("serving_default", {"data": data}, ["out"])["out"]
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, np.stack([data.sum(1), 2 * data.sum(1)], axis=1))


def test_answers_are_not_overwritten_by_the_next_run(scale):
    first = scale.run("serving_default", {"data": np.ones((1, 4), np.float32)}, ["out"])["out"]
    scale.run("serving_default", {"data": np.zeros((1, 4), np.float32)}, ["out"])
    np.testing.assert_array_equal(first, [[4, 8]])


def test_threads_do_not_mix_answers(scale):
    wrong = []

    def ask(number):
        data = np.full((number, 4), number, np.float32)
        for _ in range(30):
            out = scale.run("serving_default", {"data": data}, ["out"])["out"]
            if out.shape != (number, 2) or (out[:, 0] != 4 * number).any():
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(n,)) for n in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_several_inputs_and_outputs(runtime, tmp_path):
    model = runtime.load(tiny_caffe.write_version(tmp_path / "1", PAIR, {}))
    a = np.array([[-1, 2, 3, 4], [5, 6, 7, 8]], np.float32)
    given = {"a": a, "b": np.zeros_like(a)}
    found = model.run("serving_default", given, ["right", "left"])
    np.testing.assert_array_equal(found["left"], [[0], [5]])
    np.testing.assert_array_equal(found["right"], a[:, 1:])
    assert list(model.run("serving_default", given, ["left"])) == ["left"]
    model.close()


def test_a_batch_that_is_written_into_the_net_is_fixed(runtime, tmp_path):
    model = runtime.load(tiny_caffe.write_version(tmp_path / "1", FIXED, {}))
    assert not model.batchable
    assert model.fixed_batch == 2
    assert model.signatures["serving_default"].inputs["data"].shape == (2, 4)
    model.close()


@pytest.mark.parametrize("shape", [(1, 3), (4,), (1, 4, 1), (1, 5)])
def test_another_shape_is_refused_and_changes_nothing(scale, shape):
    with pytest.raises(InvalidRequest, match="the network takes"):
        scale.run("serving_default", {"data": np.zeros(shape, np.float32)}, ["out"])
    out = scale.run("serving_default", {"data": np.ones((1, 4), np.float32)}, ["out"])["out"]
    np.testing.assert_array_equal(out, [[4, 8]])


def _spoil(name, data):
    return lambda folder: (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_spoil("net.caffemodel", b""), "net.caffemodel"),
        (_spoil("net.caffemodel", b"junk" * 50), "net.caffemodel"),
        (_spoil("net.caffemodel", tiny_caffe.caffemodel({})), "net.caffemodel"),
        (_spoil("deploy.prototxt", b"layer {"), "deploy.prototxt cannot be served: line 1"),
        (_spoil("deploy.prototxt", b""), "describes no layers"),
        (lambda d: (d / "net.caffemodel").unlink(), "has none"),
        (lambda d: (d / "deploy.prototxt").unlink(), "has none"),
        (lambda d: (d / "other.caffemodel").touch(), "net.caffemodel, other.caffemodel"),
    ],
)
def test_a_broken_folder_is_named_with_what_is_wrong(runtime, tmp_path, spoil, words):
    folder = tiny_caffe.scale_model(tmp_path / "1")
    spoil(folder)
    with pytest.raises(InvalidRequest, match=words) as caught:
        runtime.load(folder)
    assert caught.value.reason == "bad_model"


def test_deploy_is_taken_among_several_descriptions(runtime, tmp_path):
    folder = tiny_caffe.scale_model(tmp_path / "1")
    (folder / "train_val.prototxt").write_text("not this one")
    runtime.load(folder).close()


def test_an_unknown_engine_is_refused():
    from servers.caffe.runtime import engine_named

    with pytest.raises(ValueError, match="auto, opencv or caffe"):
        engine_named("torch")
