"""The TensorFlow runtime against tiny SavedModels, and against TensorFlow called directly."""

from __future__ import annotations

import gc
import itertools
import shutil
import threading
import weakref

import ml_dtypes
import numpy as np
import pytest

from gateway.domain.errors import InvalidRequest
from gateway.domain.tensors import CLASSIFY_METHOD, REGRESS_METHOD, DType
from tests.parts import tiny_tf

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


@pytest.fixture(scope="module")
def runtime():
    tiny_tf.tensorflow()
    from servers.tensorflow.runtime import TensorFlowRuntime

    return TensorFlowRuntime()


@pytest.fixture(scope="module")
def half_dir(tmp_path_factory):
    return tiny_tf.half_plus_two(tmp_path_factory.mktemp("half") / "1")


@pytest.fixture(scope="module")
def half(runtime, half_dir):
    model = runtime.load(half_dir)
    yield model
    model.close()


@pytest.fixture(scope="module")
def mixed(runtime, tmp_path_factory):
    model = runtime.load(tiny_tf.mixed(tmp_path_factory.mktemp("mixed") / "1"))
    yield model
    model.close()


def test_all_signatures_are_kept_with_their_method_names(half):
    assert set(half.signatures) == {"serving_default", "regress_x_to_y", "classify_x_to_y"}
    assert half.signatures["regress_x_to_y"].method_name == REGRESS_METHOD
    assert half.signatures["classify_x_to_y"].method_name == CLASSIFY_METHOD
    x = half.signatures["serving_default"].inputs["x"]
    assert (x.dtype, x.shape, x.graph_name) == (DType.FLOAT, (-1,), "x:0")


def test_rows_may_be_joined_where_every_first_dimension_is_free(half, mixed):
    assert half.batchable
    assert half.fixed_batch is None
    assert not mixed.batchable  # an unknown rank and a fixed shape are among them


def test_predict(half):
    x = np.array([1, 2, 5], np.float32)
    answer = half.run("serving_default", {"x": x}, ["y"])
    assert answer["y"].dtype == np.float32
    np.testing.assert_array_equal(answer["y"], x / 2 + 2)


def test_an_empty_batch_is_answered_with_one(half):
    assert half.run("serving_default", {"x": np.zeros(0, np.float32)}, ["y"])["y"].shape == (0,)


def test_classify_and_regress_take_serialized_examples(half):
    tf = tiny_tf.tensorflow()
    feature = tf.train.Feature(float_list=tf.train.FloatList(value=[4.0]))
    example = tf.train.Example(features=tf.train.Features(feature={"x": feature}))
    given = np.array([example.SerializeToString()] * 2, dtype=object)
    found = half.run("classify_x_to_y", {"inputs": given}, ["scores", "classes"])
    np.testing.assert_array_equal(found["scores"], [[4.0], [4.0]])
    assert found["classes"].tolist() == [[b"half"], [b"half"]]
    outputs = half.run("regress_x_to_y", {"inputs": given}, ["outputs"])["outputs"]
    np.testing.assert_array_equal(outputs, [[4.0], [4.0]])


def test_strings_are_arrays_of_bytes(mixed):
    words = np.array([[b"a", b"b\0"], ["ü".encode(), b""]], dtype=object)
    answer = mixed.run("join", {"words": words}, ["joined"])["joined"]
    assert answer.dtype == object
    assert answer.tolist() == [b"a-b\0", "ü-".encode()]


def test_an_unknown_rank_takes_any(mixed):
    assert mixed.signatures["twice"].inputs["n"].shape is None
    for value in (np.int64(4), np.array([4]), np.array([[4]])):
        given = np.asarray(value, np.int64)
        answer = mixed.run("twice", {"n": given}, ["n2"])["n2"]
        assert answer.shape == given.shape
        assert answer.item() == 8


def test_bfloat16_goes_in_and_out(mixed):
    given = np.array([1.5, 2], dtype=ml_dtypes.bfloat16)
    answer = mixed.run("brain", {"b": given}, ["b2"])["b2"]
    assert answer.dtype == ml_dtypes.bfloat16
    assert answer.tolist() == [3.0, 4.0]


def test_a_declared_default_is_a_serialized_tensor(mixed):
    from gateway.codecs.pb import tfs_pb2

    default = mixed.signatures["scale"].inputs["factor"].default
    assert tfs_pb2.TensorProto.FromString(default).float_val == [3.0]


def test_what_the_graph_refuses_is_the_callers_to_change(mixed):
    given = {"r": np.ones((2, 3), np.float32)}
    with pytest.raises(InvalidRequest, match="Matrix size-incompatible") as caught:
        mixed.run("self_product", given, ["rr"])
    assert "most recent call" not in caught.value.message


def test_broken_examples_are_the_callers_to_change(half):
    with pytest.raises(InvalidRequest, match="Could not parse example"):
        half.run("regress_x_to_y", {"inputs": np.array([b"\xff"], object)}, ["outputs"])


def test_threads_run_side_by_side(half):
    wrong = []

    def ask(number):
        x = np.full(16, number, np.float32)
        for _ in range(50):
            if (half.run("serving_default", {"x": x}, ["y"])["y"] != number / 2 + 2).any():
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_asking_for_many_sets_of_outputs_prepares_a_bounded_number(runtime, tmp_path):
    def build(tf):
        v1 = tf.compat.v1
        x = v1.placeholder(tf.float32, [None], name="x")
        outputs = {f"y{n}": x * n for n in range(6)}
        return {"serving_default": v1.saved_model.predict_signature_def({"x": x}, outputs)}

    from servers.tensorflow.runtime import MAX_CALLABLES

    model = runtime.load(tiny_tf.save(tmp_path / "1", build))
    names = [f"y{n}" for n in range(6)]
    x = np.ones(1, np.float32)
    subsets = [s for size in (1, 2, 3) for s in itertools.combinations(names, size)]
    assert len(subsets) > MAX_CALLABLES
    for subset in subsets:
        answer = model.run("serving_default", {"x": x}, subset)
        assert {name: float(value[0]) for name, value in answer.items()} == {
            name: float(name[1:]) for name in subset
        }
    assert len(model._calls) <= MAX_CALLABLES
    model.close()


def test_closing_frees_the_graph(runtime, half_dir):
    model = runtime.load(half_dir)
    graph = weakref.ref(model._session.graph)
    model.run("serving_default", {"x": np.ones(1, np.float32)}, ["y"])
    model.close()
    del model
    gc.collect()
    assert graph() is None


def _cut(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: (d / "saved_model.pb").unlink(), "has none"),
        (lambda d: (d / "saved_model.pb").write_bytes(b""), "saved_model.pb cannot be served"),
        (lambda d: (d / "saved_model.pb").write_bytes(b"junk" * 99), "Cannot parse file"),
        (lambda d: _cut(d / "saved_model.pb"), "Cannot parse file"),
        (lambda d: shutil.rmtree(d / "variables"), "variables"),
        (lambda d: (d / "variables" / "variables.index").unlink(), "variables"),
        (lambda d: _cut(d / "variables" / "variables.data-00000-of-00001"), "saved_model.pb"),
        (lambda d: _cut(d / "variables" / "variables.index"), "saved_model.pb"),
    ],
)
def test_a_broken_folder_is_named_with_what_is_wrong(runtime, half_dir, tmp_path, spoil, words):
    broken = shutil.copytree(half_dir, tmp_path / "1")
    spoil(broken)
    with pytest.raises(InvalidRequest, match=words) as caught:
        runtime.load(broken)
    assert caught.value.reason == "bad_model"


def test_signatures_that_no_protocol_carries_are_left_out(runtime, tmp_path):
    def build(tf):
        v1 = tf.compat.v1
        x = v1.placeholder(tf.float32, [None], name="x")
        q = v1.placeholder(tf.qint8, [None], name="q")
        make = v1.saved_model.predict_signature_def
        return {"fine": make({"x": x}, {"y": x + 1}), "odd": make({"q": q}, {"q2": tf.identity(q)})}

    model = runtime.load(tiny_tf.save(tmp_path / "1", build))
    assert set(model.signatures) == {"fine"}
    model.close()


def test_a_model_without_a_signature_is_refused(runtime, tmp_path):
    def build(tf):
        tf.compat.v1.Variable(1.0)
        return {}

    with pytest.raises(InvalidRequest, match="no signature that can be served"):
        runtime.load(tiny_tf.save(tmp_path / "1", build))
