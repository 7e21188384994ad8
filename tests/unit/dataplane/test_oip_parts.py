"""The small parts of V2 at the gateway: bounds, codes, the index, what goes along."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest

from gateway.codecs.oip_errors import Flavour
from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2
from gateway.core.dialect import Dialect
from gateway.core.route import ModelRoute, RoutingTable, Target
from gateway.dataplane import v2_own
from gateway.dataplane.compressed import decompressed
from gateway.dataplane.signatures import default_signature
from gateway.dataplane.translated_admin import from_signatures
from gateway.dataplane.translated_calls import Asked, Kind, asked, carried, infer_target, refused
from gateway.dataplane.unversioned import UnversionedUpstream
from gateway.domain.errors import InvalidRequest, TooLarge, Unavailable
from gateway.domain.models import VersionState, VersionStatus
from gateway.domain.replicas import Endpoint
from gateway.domain.tensors import DType, Signature, TensorSpec
from gateway.ports import UpstreamAnswer, UpstreamRequest

BODY = b"abc" * 1000


def raw_deflate(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (None, BODY),
        ("identity", BODY),
        ("gzip", gzip.compress(BODY, mtime=0)),
        (" GZIP ", gzip.compress(BODY, mtime=0)),
        ("gzip", gzip.compress(BODY[:999], mtime=0) + gzip.compress(BODY[999:], mtime=0)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", raw_deflate(BODY)),
    ],
)
def test_bodies_are_decompressed(encoding, body):
    assert decompressed(body, encoding, len(BODY)) == BODY
    if encoding not in (None, "identity"):
        with pytest.raises(TooLarge):
            decompressed(body, encoding, len(BODY) - 1)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("br", b"x"),
        ("gzip, gzip", gzip.compress(BODY, mtime=0)),
        ("gzip", b"x"),
        ("gzip", gzip.compress(BODY, mtime=0)[:-1]),
        ("deflate", zlib.compress(BODY)[:-1]),
        ("gzip", gzip.compress(b"", mtime=0) * 2000),
    ],
)
def test_what_is_not_what_it_says_is_refused(encoding, body):
    with pytest.raises(InvalidRequest) as caught:
        decompressed(body, encoding, 10**6)
    assert caught.value.reason == "bad_encoding"


@pytest.mark.parametrize(
    ("caller", "replica", "answer", "status", "message"),
    [
        ("tfs-rest", "v2-grpc", UpstreamAnswer(3, b"", (), "wrong"), 400, "wrong"),
        ("tfs-rest", "v2-rest", UpstreamAnswer(404, b'{"error":"gone"}'), 404, "gone"),
        ("v2-rest", "tfs-grpc", UpstreamAnswer(14, b"", (), "later"), 503, "later"),
        ("v2-rest", "tfs-grpc", UpstreamAnswer(5, b"", (), "no"), 404, "no"),
        ("v2-rest", "tfs-grpc", UpstreamAnswer(12, b"", (), "no"), 501, "no"),
        ("tfs-grpc", "v2-rest", UpstreamAnswer(503, b'{"detail":"later"}'), 14, "later"),
        ("v2-grpc", "tfs-rest", UpstreamAnswer(400, b'{ "error": "bad" }'), 3, "bad"),
        ("v2-grpc", "tfs-rest", UpstreamAnswer(500, b"plain words"), 13, "plain words"),
        (
            "v2-grpc",
            "tfs-rest",
            UpstreamAnswer(418, b""),
            13,
            "the replica answered HTTP status 418",
        ),
    ],
)
def test_a_refusal_keeps_its_words_and_gets_the_nearest_code(
    caller, replica, answer, status, message
):
    said = refused(Dialect(caller), Dialect(replica), answer)
    assert said.status == status
    if Dialect(caller).is_grpc:
        assert (said.message, said.body) == (message, b"")
    else:
        assert json.loads(said.body) == {"error": message}


def test_what_is_asked_is_the_same_in_every_dialect():
    for dialect in Dialect:
        target = infer_target(dialect, "a/b", 7)
        if dialect is Dialect.V2_GRPC:
            body = oip_pb2.ModelInferRequest(model_name="a/b", model_version="7")
            request = UpstreamRequest(target, body.SerializeToString())
        elif dialect is Dialect.TFS_GRPC:
            request = UpstreamRequest(target, b"\x0a\x09\x0a\x03a/b\x12\x02\x08\x07")
        else:
            request = UpstreamRequest(target, b"")
        ask = asked(dialect, request)
        assert (ask.kind, ask.model, ask.version) == (Kind.INFER, "a/b", 7)


def test_statistics_may_be_about_all_versions():
    ask = asked(Dialect.V2_REST, UpstreamRequest("GET /v2/models/m/stats", b""))
    assert (ask.kind, ask.pinned) == (Kind.STATS, None)
    with pytest.raises(ValueError, match="no version"):
        _ = ask.version


def test_headers_about_the_body_stay_behind():
    headers = (
        ("traceparent", "00"),
        ("content-encoding", "gzip"),
        ("inference-header-content-length", "3"),
        ("accept-encoding", "gzip"),
        ("x-bytes-bin", b"\x00"),
        ("x-odd", "\x7f"),
        ("x-request-timeout-ms", "5"),
    )
    request = UpstreamRequest("POST /v2/models/m/infer", b"", headers)
    assert carried(request, Dialect.TFS_GRPC) == (("traceparent", "00"),)
    assert carried(request, Dialect.TFS_REST) == (headers[0], headers[-1])


SIGNATURE = Signature(
    {"x": TensorSpec("x", DType.FLOAT, (-1, 2))}, {"y": TensorSpec("y", DType.STRING, None)}
)


def test_v2_shows_the_default_signature_or_the_only_one():
    other = Signature()
    assert default_signature({"serving_default": SIGNATURE, "b": other}, "m") is SIGNATURE
    assert default_signature({"b": other}, "m") is other
    with pytest.raises(InvalidRequest, match="several signatures"):
        default_signature({"a": SIGNATURE, "b": other}, "m")


def test_metadata_are_made_from_signatures_for_every_caller():
    ask = Asked(Kind.METADATA, "m", "metadata", 3)
    for caller in Dialect:
        said = from_signatures(caller, ask, {"serving_default": SIGNATURE})
        assert said.status == (0 if caller.is_grpc else 200)
        assert b"x" in said.body


def index_table() -> RoutingTable:
    statuses = (
        VersionStatus(4, VersionState.GONE),
        VersionStatus(3, VersionState.FAILED, "no good", 3),
        VersionStatus(2, VersionState.READY),
        VersionStatus(1, VersionState.READY),
    )
    one = Target("a", Endpoint("", "", ""))
    return RoutingTable(
        1,
        {
            "n": ModelRoute("n"),
            "m": ModelRoute("m", live=1, targets={1: (one,)}, statuses=statuses),
        },
    )


def test_a_version_without_a_replica_is_not_ready_in_the_index():
    found = v2_own.index(index_table(), only_ready=False)
    assert [(e.name, e.version, e.state) for e in found] == [
        ("m", 1, "READY"),
        ("m", 2, "LOADING"),
        ("m", 3, "UNAVAILABLE"),
        ("m", 4, "UNAVAILABLE"),
        ("n", None, "UNAVAILABLE"),
    ]
    assert [e.version for e in v2_own.index(index_table(), only_ready=True)] == [1]


def test_loading_is_true_of_what_answers_and_nothing_else():
    v2_own.check_load(index_table(), "m", (), Flavour.TRITON)
    for name, parameters, kind in [
        ("x", (), InvalidRequest),
        ("m", ("file:1/model.onnx",), InvalidRequest),
        ("n", (), Unavailable),
    ]:
        with pytest.raises(kind):
            v2_own.check_load(index_table(), name, parameters, Flavour.TRITON)


async def test_an_unversioned_server_gets_no_version():
    sent = []

    class Wire:
        async def call(self, endpoint, request, deadline_at):
            sent.append(request)
            return UpstreamAnswer(0, b"")

    upstream = UnversionedUpstream(Wire())
    at = Endpoint("", "", "")
    path = "POST /v2/models/versions/versions/12/infer"
    await upstream.call(at, UpstreamRequest(path, b"body"), 1.0)
    assert sent[0] == UpstreamRequest("POST /v2/models/versions/infer", b"body")
    message = oip_pb2.ModelInferRequest(model_name="m", model_version="12", id="7")
    request = UpstreamRequest(OipMethod.MODEL_INFER.path, message.SerializeToString())
    await upstream.call(at, request, 1.0)
    said = oip_pb2.ModelInferRequest.FromString(sent[1].body)
    assert (said.model_name, said.model_version, said.id) == ("m", "", "7")
