"""Small pure parts of the kit's V2: checks, classes, settings, counters, bodies, descriptors."""

from __future__ import annotations

import gzip
import logging
import zlib

import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

from gateway.codecs.oip_classes import top
from gateway.codecs.oip_descriptors import service_file
from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2
from gateway.codecs.tfs_tensors import to_proto
from gateway.domain.errors import InvalidRequest, TooLarge, Unimplemented
from gateway.domain.tensors import DType, Signature, TensorSpec
from servers.kit import oip_checks
from servers.kit.bodies import inflate, preferred
from servers.kit.counters import Counters, Timing
from servers.kit.flags import parser, settings
from servers.kit.oip_service import timeout_of
from servers.kit.oip_settings import Settings
from tests.parts.fake_runtime import CLASSIFY, PREDICT, spec

# ---- checks --------------------

DEFAULTED = Signature(
    {
        "x": spec("x"),
        "k": TensorSpec(
            "k", DType.INT32, (), default=to_proto(np.int32(5), DType.INT32).SerializeToString()
        ),
    },
    {"y": spec("y"), "z": spec("z")},
)
X = np.zeros((1, 2), np.float32)


def test_the_signature_is_the_default_or_the_only_one_or_the_named() -> None:
    both = {"serving_default": PREDICT, "classify": CLASSIFY}
    assert oip_checks.signature_of(both, "m") == ("serving_default", PREDICT)
    assert oip_checks.signature_of(both, "m", "classify") == ("classify", CLASSIFY)
    assert oip_checks.signature_of({"only": PREDICT}, "m") == ("only", PREDICT)
    for signatures, wanted in (
        (both, "other"),
        (both, 7),
        ({}, None),
        ({"a": PREDICT, "b": PREDICT}, None),
    ):
        with pytest.raises(InvalidRequest) as refused:
            oip_checks.signature_of(signatures, "m", wanted)
        assert refused.value.reason == "unknown_signature"


def test_inputs_come_in_the_signatures_order_with_defaults() -> None:
    made = oip_checks.inputs_of("m", DEFAULTED, {"x": X})
    assert list(made) == ["x", "k"]
    assert made["k"] == 5


@pytest.mark.parametrize(
    ("given", "reason", "words"),
    [
        ({"q": X, "x": X}, "unknown_input", "unexpected inference input 'q' for model 'm'"),
        ({"k": np.int32(1)}, "unknown_input", "missing required input(s) ['x']"),
        ({}, "unknown_input", "expected 2 inputs but got 0 inputs for model 'm'"),
        ({"x": X.astype(np.int8)}, "bad_dtype", "'x' data-type is 'INT8', but model 'm' expects"),
        ({"x": X[0]}, "bad_shape", "Expected [-1,2], got [2]"),
        ({"x": X, "k": np.int32([1])}, "bad_shape", "Expected [], got [1]"),
    ],
)
def test_wrong_inputs_are_refused_in_tritons_words(given, reason, words) -> None:
    with pytest.raises(InvalidRequest) as refused:
        oip_checks.inputs_of("m", DEFAULTED, given)
    assert refused.value.reason == reason
    assert words in refused.value.message


def test_an_error_is_never_as_large_as_the_request() -> None:
    given = {f"{n}{'x' * 10_000}": X for n in range(100)}
    with pytest.raises(InvalidRequest) as refused:
        oip_checks.inputs_of("m", DEFAULTED, given)
    assert len(refused.value.message) < 300
    many = Signature({f"{n}{'x' * 1000}": spec("x") for n in range(100)}, {})
    with pytest.raises(InvalidRequest) as refused:
        oip_checks.inputs_of("m", many, {})
    assert len(refused.value.message) < 10_000


def test_outputs_are_all_or_those_asked_for() -> None:
    assert oip_checks.outputs_of("m", DEFAULTED, []) == ("y", "z")
    assert oip_checks.outputs_of("m", DEFAULTED, ["z", "y"]) == ("z", "y")
    for wanted in (["q"], ["y", "y"]):
        with pytest.raises(InvalidRequest):
            oip_checks.outputs_of("m", DEFAULTED, wanted)


def test_the_timeout_parameter() -> None:
    assert timeout_of({}) is None
    assert timeout_of({"timeout": 0}) is None
    assert timeout_of({"timeout": 1_500_000}) == 1.5
    for wrong in (-1, 1.0, "1", True, 2**62):
        with pytest.raises(InvalidRequest):
            timeout_of({"timeout": wrong})


# ---- classification --------------------


def test_the_best_classes_first_and_equal_ones_by_index() -> None:
    scores = np.float32([[0.25, 0.5, 0.25], [3, 1, 3]])
    assert top("y", scores, 2, has_rows=True).tolist() == [
        [b"0.500000:1", b"0.250000:0"],
        [b"3.000000:0", b"3.000000:2"],
    ]
    whole = top("y", np.uint8([[1, 200], [7, 0]]), 9, has_rows=False)
    assert whole.tolist() == [b"200:1", b"7:2", b"1:0", b"0:3"]
    assert top("y", np.float32([2.0]), 1, has_rows=True).tolist() == [[b"2.000000:0"]]
    assert top("y", np.zeros((0, 3), np.float32), 2, has_rows=True).shape == (0, 0)
    lowest = top("y", np.int8([-128, 127]), 2, has_rows=False)
    assert lowest.tolist() == [b"127:1", b"-128:0"]


@pytest.mark.parametrize(
    "array",
    [
        np.array([b"a"], dtype=object),
        np.array([True]),
        np.float16([1]),
        np.zeros(1_000_001, np.float32),
    ],
    ids=["BYTES", "BOOL", "FP16", "large"],
)
def test_what_has_no_classes(array) -> None:
    with pytest.raises(InvalidRequest):
        top("y", array, 1, has_rows=False)


# ---- settings --------------------


@pytest.fixture
def levels():
    """Log levels as they were."""
    loggers = [logging.getLogger(name) for name in ("servers", "gateway")]
    before = [logger.level for logger in loggers]
    yield loggers[0]
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


def test_log_settings_set_the_level_of_this_servers_log(levels) -> None:
    made = Settings()
    assert list(made.set_log({})) == [
        "log_file",
        "log_info",
        "log_warning",
        "log_error",
        "log_verbose_level",
        "log_format",
    ]
    for given, level in (
        ({"log_verbose_level": 2}, logging.DEBUG),
        ({"log_verbose_level": 0}, logging.INFO),
        ({"log_info": False}, logging.WARNING),
        ({"log_warning": False, "log_format": None}, logging.ERROR),
        ({"log_error": False}, logging.CRITICAL + 1),
        ({"log_info": True}, logging.INFO),
    ):
        said = made.set_log(given)
        assert levels.level == level
        assert all(said[name] == value for name, value in given.items() if value is not None)


@pytest.mark.parametrize(
    "given",
    [
        {"log_info": 1},
        {"log_verbose_level": -1},
        {"log_verbose_level": True},
        {"log_format": "iso"},
        {"log_nothing": True},
        {"log_file": "x"},
        {"log_verbose_level": 1, "log_info": "no"},
    ],
)
def test_wrong_log_settings_change_nothing(levels, given) -> None:
    made = Settings()
    before = made.set_log({})
    with pytest.raises((InvalidRequest, Unimplemented)):
        made.set_log(given)
    assert made.set_log({}) == before


def test_trace_settings_of_a_model_stand_over_those_of_all() -> None:
    made = Settings()
    made.set_trace("", {"trace_rate": ["2"]})
    assert made.set_trace("m", {})["trace_rate"] == "2"
    told = made.set_trace("m", {"trace_level": ["TIMESTAMPS", "TENSORS"], "trace_count": ["3"]})
    assert told["trace_level"] == ["TIMESTAMPS", "TENSORS"]
    assert made.set_trace("", {})["trace_level"] == ["OFF"]
    drawn = [bool(made.traced("m")) for _ in range(10)]
    assert drawn == [False, True] * 3 + [False] * 4  # every second, three in all
    assert not any(made.traced("n") for _ in range(10))
    made.set_trace("m", {"trace_level": None, "trace_count": []})
    assert made.set_trace("m", {}) == made.set_trace("", {})
    made.set_trace("", {"trace_rate": None})
    assert made.set_trace("", {})["trace_rate"] == "1000"


@pytest.mark.parametrize(
    "given",
    [
        {"trace_level": ["LOUD"]},
        {"trace_level": ["OFF", "TIMESTAMPS"]},
        {"trace_rate": ["x"]},
        {"trace_rate": ["-1"]},
        {"trace_rate": ["9" * 5000]},
        {"trace_rate": ["1", "2"]},
        {"trace_count": ["-2"]},
        {"trace_file": ["/tmp/x"]},
        {"trace_mode": ["opentelemetry"]},
        {"nothing": ["1"]},
    ],
)
def test_wrong_trace_settings_change_nothing(given) -> None:
    made = Settings()
    before = made.set_trace("", {})
    with pytest.raises((InvalidRequest, Unimplemented)):
        made.set_trace("", given)
    assert made.set_trace("", {}) == before


# ---- counters --------------------


def test_each_request_is_charged_its_whole_run_and_batches_once() -> None:
    counters = Counters()
    timing = Timing(rows=5, began_ns=100, input_ns=1, infer_ns=10, output_ns=2)
    counters.ran(timing)
    counters.answered(timing, rows=2, queued_ns=40, now_ns=120)
    counters.answered(timing, rows=3, queued_ns=90, now_ns=120)
    counters.failed(7)
    assert (counters.inference_count, counters.execution_count) == (5, 1)
    assert (counters.success.count, counters.success.ns) == (2, 110)
    assert (counters.queue.count, counters.queue.ns) == (2, 70)
    assert (counters.compute.compute_infer.count, counters.compute.compute_infer.ns) == (2, 20)
    assert (counters.batches[5].compute_infer.count, counters.batches[5].compute_infer.ns) == (
        1,
        10,
    )
    assert (counters.fail.count, counters.fail.ns) == (1, 7)
    assert counters.last_inference_ms > 0


def test_callers_cannot_make_the_batch_statistics_grow() -> None:
    counters = Counters()
    for rows in range(1000):
        counters.ran(Timing(rows, 0, 0, 0, 0))
    assert len(counters.batches) == 256
    assert counters.execution_count == 1000


# ---- bodies --------------------


def test_deflate_with_and_without_zlibs_frame() -> None:
    raw = zlib.compressobj(wbits=-15)
    bare = raw.compress(b"abc" * 9) + raw.flush()
    assert inflate(zlib.compress(b"abc" * 9), 27) == b"abc" * 9
    assert inflate(bare, 27) == b"abc" * 9
    with pytest.raises(TooLarge):
        inflate(zlib.compress(b"abc" * 9), 26)
    for broken in (zlib.compress(b"abc")[:-1], zlib.compress(b"abc") + b"x", gzip.compress(b"a")):
        with pytest.raises(InvalidRequest):
            inflate(broken, 100)


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        ("gzip, deflate", "gzip"),
        ("deflate, gzip", "deflate"),
        ("deflate;q=0.2, gzip;q=0.7", "gzip"),
        ("gzip;q=0", ""),
        ("identity, gzip;q=0.5", ""),
        ("br, *", ""),
        ("gzip;q=nan", ""),
        ("gzip;q=x, DEFLATE", "deflate"),
        ("", ""),
    ],
)
def test_the_encoding_that_a_caller_prefers(accept: str, encoding: str) -> None:
    assert preferred(accept) == encoding


# ---- descriptors --------------------


def test_the_service_is_described_under_its_own_name() -> None:
    pool = DescriptorPool()
    pool.Add(service_file())
    service = pool.FindServiceByName("inference.GRPCInferenceService")
    assert [method.name for method in service.methods] == [
        method.path.rpartition("/")[2] for method in OipMethod
    ]
    assert service.methods_by_name["ModelStreamInfer"].client_streaming
    for method in OipMethod:
        name = method.path.rpartition("/")[2]
        assert service.methods_by_name[name].input_type.name == method.request_name
        assert service.methods_by_name[name].output_type.name == method.response_name
    seen = 0
    for message in service.file.message_types_by_name.values():
        ours = oip_pb2.DESCRIPTOR.message_types_by_name[message.name]
        for field, own in zip(message.fields, ours.fields, strict=True):
            assert (field.name, field.number, field.type) == (own.name, own.number, own.type)
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                assert field.message_type.full_name.startswith("inference.")
                seen += 1
    assert seen > 20


def test_the_flavour_is_a_flag() -> None:
    assert settings(parser("onnx").parse_args([])).v2_flavour == "triton"
    made = settings(parser("onnx").parse_args(["--v2-flavour", "kserve"]))
    assert made.v2_flavour == "kserve"
