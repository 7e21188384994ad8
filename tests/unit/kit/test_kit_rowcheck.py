"""Rows that depend on each other are found at load; rounding is not taken for dependence."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from gateway.domain.errors import InvalidRequest
from gateway.domain.tensors import DType, Signature
from servers.kit.rowcheck import why_not_rowwise
from tests.parts.fake_runtime import FakeModel, spec


class Function(FakeModel):
    """y = function(x); remembers what it was run on."""

    def __init__(self, function, dtype=DType.FLOAT, shape=(-1, 4), fixed_batch=None):
        super().__init__(fixed_batch=fixed_batch)
        if fixed_batch is not None:
            shape = (fixed_batch, *shape[1:])
        x, y = spec("x", dtype, shape), spec("y", dtype, shape)
        self.signatures = {"serving_default": Signature({"x": x}, {"y": y})}
        self.function = function
        self.seen = []

    def run(self, signature, inputs, outputs):
        self.seen.append(inputs["x"])
        return {"y": self.function(inputs["x"])}


def softmax(x, axis):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def batch_norm_in_training(x):
    return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)


def attention_across_rows(x):
    return softmax(x @ x.T, 1) @ x


def quantized_over_the_batch(x):
    step = np.abs(x).max() / 127
    return np.round(x / step) * step


def saturated_after_a_mean(x):
    """A faint dependence, at the far end of a sigmoid's slope."""
    return 1 / (1 + np.exp(-(6 + 0.1 * x.mean(axis=0) + 0 * x)))


BESIDE = "depends on the rows beside it"
DEPENDENT = {
    "batch norm in training mode": (batch_norm_in_training, BESIDE),
    "softmax over axis 0": (lambda x: softmax(x, 0), BESIDE),
    "mean over the batch": (lambda x: x - x.mean(axis=0), BESIDE),
    "median over the batch": (lambda x: x - np.median(x, axis=0), BESIDE),
    "sort over axis 0": (lambda x: np.sort(x, axis=0), BESIDE),
    "attention across rows": (attention_across_rows, BESIDE),
    "running sum": (lambda x: np.cumsum(x, axis=0), BESIDE),
    "next row": (lambda x: np.roll(x, -1, axis=0), BESIDE),
    "range of the whole batch": (quantized_over_the_batch, BESIDE),
    "faint and saturated": (saturated_after_a_mean, BESIDE),
    "row order turned round": (lambda x: x[::-1], "output"),
    "position along axis 0": (lambda x: x + np.arange(len(x), dtype=x.dtype)[:, None], "output"),
}
ALONE_ONLY = {
    "share of the rows": (lambda x: x / len(x), "differs from that of the row alone"),
    "one answer for all": (lambda x: x[:1], "has shape [1, 4] for 3 rows"),
    "a baked batch of one": (lambda x: x.reshape(1, 4), "three rows together fail"),
}


@pytest.mark.parametrize(("function", "words"), DEPENDENT.values(), ids=DEPENDENT)
@pytest.mark.parametrize("fixed_batch", [None, 2, 3, 5])
def test_dependent_rows_are_found(function, words, fixed_batch):
    assert words in why_not_rowwise(Function(function, fixed_batch=fixed_batch))


@pytest.mark.parametrize("shape", [(-1, 1), (-1, 300)])
@pytest.mark.parametrize(("function", "words"), DEPENDENT.values(), ids=DEPENDENT)
def test_dependent_rows_of_any_width_are_found(function, words, shape):
    assert words in why_not_rowwise(Function(function, shape=shape))


@pytest.mark.parametrize(("function", "words"), ALONE_ONLY.values(), ids=ALONE_ONLY)
def test_what_only_a_row_alone_shows_is_found(function, words):
    assert words in why_not_rowwise(Function(function))


def log_of_silence(x):
    """Rounding that depends on the number of rows, as another kernel's does, blown up by a
    logarithm where the input is silent."""
    energy = (x * x).sum(axis=1, keepdims=True) + np.float32(1e-12) * len(x)
    decibel = np.log10(energy)
    return np.repeat(decibel, 4, axis=1)


@pytest.mark.parametrize("fixed_batch", [None, 2, 5])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: softmax(x, 1),
        lambda x: x - x.mean(axis=1, keepdims=True),
        lambda x: np.sort(x, axis=1),
        lambda x: x * 0,
        lambda x: x * np.nan,
        lambda x: np.log(x),
        lambda x: x * np.float32(1 + 1e-3 * len(x)),
        log_of_silence,
    ],
    ids=["softmax", "mean", "sort", "zeros", "nan", "log", "coarse kernels", "log of silence"],
)
def test_independent_rows_are_joined(function, fixed_batch):
    assert why_not_rowwise(Function(function, fixed_batch=fixed_batch)) == ""


EVERY_DTYPE = [d for d in DType if d not in (DType.STRING,)]


@pytest.mark.parametrize("dtype", EVERY_DTYPE, ids=lambda d: d.name)
def test_every_dtype_is_tried(dtype):
    assert why_not_rowwise(Function(lambda x: x, dtype)) == ""
    assert BESIDE in why_not_rowwise(Function(lambda x: np.roll(x, 1, axis=0), dtype))


def test_bfloat16_may_differ_by_its_own_rounding_alone():
    def rounded(x):
        one_up = x.view(np.uint16) + np.uint16(len(x) == 1)
        return one_up.view(ml_dtypes.bfloat16)

    assert why_not_rowwise(Function(rounded, DType.BFLOAT16)) == ""


def test_a_few_labels_may_flip_in_rounding_but_not_many():
    def flips(count):
        def labels(x):
            y = x.copy()
            y[:, :count] += len(x) == 1
            return y

        return Function(labels, DType.INT64, (-1, 1000))

    assert why_not_rowwise(flips(10)) == ""
    assert "differs from that of the row alone" in why_not_rowwise(flips(11))


def test_integers_stay_within_the_smallest_vocabulary():
    table = np.array([7, 8])
    model = Function(lambda x: table[x], DType.INT32)
    assert why_not_rowwise(model) == ""
    assert {0, 1} == {int(v) for x in model.seen for v in x.ravel()}


@pytest.mark.parametrize("fixed_batch", [None, 3])
def test_where_made_up_contents_are_refused_zeros_are_tried(fixed_batch):
    def only_zero(x):
        if x.any():
            raise InvalidRequest("index 1 is out of bounds", reason="bad_input")
        return x + np.arange(len(x), dtype=x.dtype)[:, None]

    reason = why_not_rowwise(Function(only_zero, DType.INT64, fixed_batch=fixed_batch))
    assert "of a row d" in reason


def test_strings_are_words_and_then_serialized_examples():
    lengths = Function(lambda x: np.roll(x, 1, axis=0), DType.STRING, (-1,))
    assert BESIDE in why_not_rowwise(lengths)

    def parse(x):
        if any(x):
            raise InvalidRequest("Could not parse example input", reason="bad_input")
        return x

    examples = Function(parse, DType.STRING, (-1,))
    assert why_not_rowwise(examples) == ""
    assert [len(x) for x in examples.seen if not any(x)] == [1, 1, 1, 3, 3]


def test_the_trial_is_short_and_the_same_each_time():
    first, second = Function(lambda x: x), Function(lambda x: x)
    assert why_not_rowwise(first) == why_not_rowwise(second) == ""
    assert [len(x) for x in first.seen] == [1, 1, 1, 3, 3]
    for one, other in zip(first.seen, second.seen, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.onnx
@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("name", ["basic_pitch_onnx", "open_nsfw_onnx", "magika"])
def test_real_onnx_models_are_joined(name):
    assert why_not_rowwise(_onnx(name)) == ""


@pytest.mark.onnx
@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("name", ["basic_pitch_onnx", "open_nsfw_onnx", "magika"])
def test_a_dependence_inside_a_real_model_is_found(name):
    model = _onnx(name)
    run = model.run

    def leaking(signature, inputs, outputs):
        """One hundredth of the row before it in each row, as a leaky buffer would."""
        mixed = {
            n: (a + 0.01 * np.roll(a, 1, axis=0)).astype(a.dtype)
            if a.dtype.kind == "f"
            else np.maximum(a, np.roll(a, 1, axis=0))
            for n, a in inputs.items()
        }
        return run(signature, mixed, outputs)

    model.run = leaking
    assert BESIDE in why_not_rowwise(model)


def _onnx(name):
    from tests.parts.need import need
    from tests.parts.real_models import model_dir

    try:
        from servers.onnx.runtime import OnnxRuntime
    except ImportError:
        need(False, "pip install -e '.[onnx]'")
    return OnnxRuntime(device="cpu").load(model_dir(name) / "1")
