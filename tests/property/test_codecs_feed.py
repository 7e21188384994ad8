"""Routing fields are read the same from a message in pieces, and by the quick ways, as from a
whole one by the walk."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.codecs import oip_scan, tfs_scan
from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2, tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.domain.errors import InvalidRequest
from tests.property.test_codecs_scan import predict_bytes, spec_bytes, unknown

pytestmark = pytest.mark.slow


@st.composite
def cuts(draw, body: bytes):
    """The same bytes in pieces."""
    at = sorted(draw(st.lists(st.integers(0, len(body)), max_size=8)))
    edges = [0, *at, len(body)]
    return [body[a:b] for a, b in itertools.pairwise(edges)]


@st.composite
def infer_bytes(draw):
    parts = []
    for _ in range(draw(st.integers(1, 5))):
        part = oip_pb2.ModelInferRequest()
        match draw(st.sampled_from(["name", "version", "id", "parameter", "input", "raw", "odd"])):
            case "name":
                part.model_name = draw(st.text(max_size=200))
            case "version":
                part.model_version = draw(st.sampled_from(["1", "23", "new", "0"]))
            case "id":
                part.id = draw(st.text(max_size=200))
            case "parameter":
                part.parameters[draw(st.sampled_from(["timeout", "x"]))].int64_param = draw(
                    st.integers(-1, 2**40)
                )
            case "input":
                part.inputs.add(name=draw(st.text(max_size=8)), datatype="FP32", shape=[1, 2])
            case "raw":
                part.raw_input_contents.append(draw(st.binary(max_size=300)))
            case _:
                parts.append(draw(unknown()))
        parts.append(part.SerializeToString())
    return b"".join(parts)


@st.composite
def damaged(draw, bodies):
    body = bytearray(draw(bodies))
    for _ in range(draw(st.integers(0, 2))):
        if body:
            body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        body = body[: draw(st.integers(0, len(body)))]
    return bytes(body)


@st.composite
def multi_bytes(draw):
    request = b""
    for payload in draw(st.lists(spec_bytes().filter(lambda b: len(b) < 100), max_size=3)):
        task = b"\x0a" + bytes([len(payload)]) + payload + b"\x12\x01m"
        request += b"\x0a" + bytes([len(task)]) + task
    return request + b"\x12\x05abcde"


def outcome(read, *given):
    try:
        return read(*given)
    except InvalidRequest as error:
        return error.reason


def by_feed(codec, method, pieces):
    feed = codec.feeding(method)
    for piece in pieces:
        feed.feed(piece)
    feed.finish()
    return codec.read_fed(method, feed)


@settings(max_examples=500, deadline=None)
@given(damaged(predict_bytes()).flatmap(lambda b: st.tuples(st.just(b), cuts(b))))
def test_a_model_spec_is_read_from_any_pieces(given_):
    body, pieces = given_
    expected = outcome(by_feed, tfs_scan, Method.PREDICT, [body])
    assert outcome(tfs_scan.scan, Method.PREDICT, body) == expected
    assert outcome(tfs_scan.scan, Method.PREDICT, b"12345" + body, 5) == expected
    assert outcome(by_feed, tfs_scan, Method.PREDICT, pieces) == expected


@settings(max_examples=300, deadline=None)
@given(damaged(multi_bytes()).flatmap(lambda b: st.tuples(st.just(b), cuts(b))))
def test_tasks_are_read_from_any_pieces(given_):
    body, pieces = given_
    expected = outcome(tfs_scan.scan, Method.MULTI_INFERENCE, body)
    assert outcome(by_feed, tfs_scan, Method.MULTI_INFERENCE, pieces) == expected


@settings(max_examples=500, deadline=None)
@given(damaged(infer_bytes()).flatmap(lambda b: st.tuples(st.just(b), cuts(b))))
def test_an_inference_is_read_from_any_pieces(given_):
    body, pieces = given_
    expected = outcome(oip_scan.scan, OipMethod.MODEL_INFER, body)
    assert outcome(by_feed, oip_scan, OipMethod.MODEL_INFER, pieces) == expected
    quick = outcome(oip_scan.route_fields, OipMethod.MODEL_INFER, b"12345" + body, 5)
    if isinstance(expected, str):
        assert quick == expected
    else:
        assert (quick.model, quick.version, quick.timeout_us) == (
            expected.model,
            expected.version,
            expected.timeout_us,
        )


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80).flatmap(lambda b: st.tuples(st.just(b), cuts(b))))
def test_random_bytes_are_read_alike(given_):
    body, pieces = given_
    for codec, method in ((tfs_scan, Method.PREDICT), (oip_scan, OipMethod.MODEL_METADATA)):
        expected = outcome(codec.scan, method, body)
        assert outcome(by_feed, codec, method, pieces) == expected


@given(st.integers(1, 40).flatmap(lambda n: st.lists(st.integers(1, 40), min_size=n, max_size=n)))
def test_what_settles_a_message_is_the_first_field_behind(sizes):
    request = tfs_pb2.PredictRequest()
    request.model_spec.name = "m"
    spec = request.SerializeToString()
    request.inputs["x"].tensor_content = bytes(500)
    body = request.SerializeToString()
    feed = tfs_scan.feeding(Method.PREDICT)
    at = 0
    for size in sizes:
        feed.feed(body[at : at + size])
        at = min(len(body), at + size)
        assert feed.fed == at
        if feed.is_settled:
            assert feed.settled_at == len(spec)
            break
        # Settled by the tag and the length of the inputs (two bytes, as they have 500).
        assert at < len(spec) + 3
