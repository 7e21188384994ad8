"""The real models, each through its runtime, compared with the framework called directly and with
the same network in another format."""

from __future__ import annotations

import os

import numpy as np
import pytest

from tests.parts import real_models, tiny_caffe, tiny_tf
from tests.parts.need import need
from tests.parts.real_models import model_dir

pytestmark = [pytest.mark.models, pytest.mark.slow]

NSFW_MEAN_BGR = np.array([104, 117, 123], np.float32)


def onnx_session(name):
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError:
        need(False, "pip install -e '.[onnx]'")
    path = str(model_dir(name) / "1" / "model.onnx")
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def basic_pitch():
    folder = model_dir(real_models.BASIC_PITCH_TF)
    tiny_tf.tensorflow()
    from servers.tensorflow.runtime import TensorFlowRuntime

    model = TensorFlowRuntime().load(folder / "1")
    yield model
    model.close()


@pytest.fixture(scope="module")
def open_nsfw():
    folder = model_dir(real_models.OPEN_NSFW_CAFFE)
    tiny_caffe.opencv()
    from servers.caffe.runtime import CaffeRuntime, engine_named

    model = CaffeRuntime(engine_named("opencv")).load(folder / "1")
    yield model
    model.close()


def audio(rows):
    """Chords of sines at 22 050 Hz, which the network hears as notes."""
    t = np.arange(43844, dtype=np.float64) / 22050
    waves = [sum(np.sin(2 * np.pi * f * (n + 1) * t) for f in (220, 277, 330)) for n in range(rows)]
    return np.stack(waves)[:, :, None].astype(np.float32) / 4


def images(rows):
    """Smooth coloured images, BGR minus the mean, [rows, 224, 224, 3]."""
    y, x = np.mgrid[0:224, 0:224].astype(np.float32) / 224
    made = [
        np.stack([np.sin(3 * x + n), np.cos(4 * y - n), x * y], axis=2) * 100 + 128
        for n in range(rows)
    ]
    return (np.stack(made) - NSFW_MEAN_BGR).astype(np.float32)


@pytest.mark.tensorflow
def test_basic_pitch_needs_the_v1_loader():
    tf = tiny_tf.tensorflow()
    folder = model_dir(real_models.BASIC_PITCH_TF) / "1"
    with pytest.raises(Exception, match="add_slot"):
        tf.saved_model.load(str(folder))


@pytest.mark.tensorflow
def test_basic_pitch_signature(basic_pitch):
    signature = basic_pitch.signatures["serving_default"]
    assert [spec.shape for spec in signature.inputs.values()] == [(-1, 43844, 1)]
    assert {n: s.shape for n, s in signature.outputs.items()} == {
        "contour": (-1, 172, 264),
        "note": (-1, 172, 88),
        "onset": (-1, 172, 88),
    }
    assert basic_pitch.batchable


@pytest.mark.tensorflow
def test_basic_pitch_is_what_tensorflow_itself_answers(basic_pitch):
    tf = tiny_tf.tensorflow()
    folder = str(model_dir(real_models.BASIC_PITCH_TF) / "1")
    given = audio(2)
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        saved = v1.saved_model.load(session, ["serve"], folder).signature_def["serving_default"]
        wanted = session.run(
            {name: info.name for name, info in saved.outputs.items()},
            {saved.inputs["input_2"].name: given},
        )
    found = basic_pitch.run("serving_default", {"input_2": given}, ["note", "onset", "contour"])
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, atol=1e-6)


@pytest.mark.tensorflow
@pytest.mark.onnx
def test_basic_pitch_is_the_same_network_in_onnx(basic_pitch):
    given = audio(3)
    session = onnx_session(real_models.BASIC_PITCH_ONNX)
    arrays = session.run(None, {session.get_inputs()[0].name: given})
    found = basic_pitch.run("serving_default", {"input_2": given}, ["note", "onset", "contour"])
    assert float(found["note"].max()) > 0.2, "it should hear a note"
    # The ONNX file names its outputs by number; each must be one of ours, and each of ours one.
    matched = {
        name: [i for i, a in enumerate(arrays) if _is_close(a, array, 1e-4)]
        for name, array in found.items()
    }
    assert sorted(i for indices in matched.values() for i in indices) == [0, 1, 2], matched


def _is_close(a, b, atol):
    return a.shape == b.shape and bool(np.allclose(a, b, atol=atol))


@pytest.mark.caffe
def test_open_nsfw_signature(open_nsfw):
    signature = open_nsfw.signatures["serving_default"]
    assert signature.inputs["data"].shape == (-1, 3, 224, 224)
    assert signature.outputs["prob"].shape == (-1, 2)
    assert open_nsfw.batchable


@pytest.mark.caffe
def test_open_nsfw_is_what_opencv_itself_answers(open_nsfw):
    import cv2

    folder = model_dir(real_models.OPEN_NSFW_CAFFE) / "1"
    given = images(2).transpose(0, 3, 1, 2).copy()
    net = cv2.dnn.readNetFromCaffe(
        str(folder / "deploy.prototxt"), str(next(folder.glob("*.caffemodel")))
    )
    net.setInput(given)
    found = open_nsfw.run("serving_default", {"data": given}, ["prob"])["prob"]
    np.testing.assert_allclose(found, net.forward("prob"), atol=1e-6)


@pytest.mark.caffe
@pytest.mark.onnx
def test_open_nsfw_is_the_same_network_in_onnx(open_nsfw):
    given = images(4)
    session = onnx_session(real_models.OPEN_NSFW_ONNX)
    (wanted,) = session.run(None, {session.get_inputs()[0].name: given})
    caffe = given.transpose(0, 3, 1, 2)  # NHWC to NCHW; not contiguous, as a client may send it
    found = open_nsfw.run("serving_default", {"data": caffe}, ["prob"])["prob"]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-5)


@pytest.mark.caffe
def test_open_nsfw_rows_do_not_depend_on_their_batch(open_nsfw):
    given = images(4).transpose(0, 3, 1, 2)
    together = open_nsfw.run("serving_default", {"data": given}, ["prob"])["prob"]
    for row in range(4):
        alone = open_nsfw.run("serving_default", {"data": given[row : row + 1]}, ["prob"])
        np.testing.assert_allclose(alone["prob"][0], together[row], atol=1e-5)
