"""The prediction client over all four protocols, against a small server of the same wires."""

from __future__ import annotations

import http.server
import json
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest

from gateway.client import AsyncClient, Client
from gateway.client.calls import (
    Call,
    Dialect,
    Reply,
    SignatureBook,
    Target,
    describing,
    predicting,
)
from gateway.client.predictions import pause_s
from gateway.client.transports import split_address
from gateway.client.wires import WIRES
from gateway.codecs import oip_admin, oip_json, oip_proto, tfs_json, tfs_metadata, tfs_tensors
from gateway.codecs.oip_headers import HEADER_LENGTH
from gateway.codecs.oip_infer import OipInfer
from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.domain import errors
from gateway.domain.tensors import DType, Signature, TensorSpec


def signature(dtype: DType = DType.FLOAT) -> Signature:
    return Signature(
        {"x": TensorSpec("x", dtype, (-1, 2))},
        {"y": TensorSpec("y", dtype, (-1, 2)), "n": TensorSpec("n", DType.INT64, (-1,))},
    )


class Model:
    """Answers y = x and n = the row's number; fails as told."""

    def __init__(self) -> None:
        self.signatures = {"serving_default": signature()}
        self.failures: list[tuple[int, grpc.StatusCode, str]] = []
        """Taken one by one: HTTP status, gRPC code, reason."""
        self.calls: list[str] = []
        self.timeouts: list[float] = []

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if set(inputs) != set(self.signatures["serving_default"].inputs):
            raise errors.InvalidRequest("input size does not match signature", reason="bad_inputs")
        x = next(iter(inputs.values()))
        return {"y": x, "n": np.arange(len(x), dtype=np.int64)}

    # gRPC
    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(
            lambda body, context: self.grpc(details.method, body, context)
        )

    def grpc(self, method: str, body: bytes, context: grpc.ServicerContext) -> bytes:
        self.calls.append(method)
        self.timeouts.append(context.time_remaining())
        if self.failures:
            _, code, reason = self.failures.pop(0)
            context.set_trailing_metadata((("x-gateway-reason", reason),))
            context.abort(code, "told to fail")
        if method == Method.GET_MODEL_METADATA.path:
            return tfs_metadata.metadata_proto("m", 3, self.signatures).SerializeToString()
        if method == OipMethod.MODEL_METADATA.path:
            signature = self.signatures["serving_default"]
            return oip_admin.model_metadata_proto("m", [3], "p", signature).SerializeToString()
        if method == OipMethod.MODEL_INFER.path:
            return self.infer_grpc(body, context)
        request = tfs_pb2.PredictRequest.FromString(body)
        arrays = {k: tfs_tensors.to_array(v) for k, v in request.inputs.items()}
        try:
            found = self.run(arrays)
        except errors.InvalidRequest as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        answer = tfs_pb2.PredictResponse(model_spec=request.model_spec)
        for name, array in found.items():
            if not request.output_filter or name in request.output_filter:
                answer.outputs[name].CopyFrom(tfs_tensors.to_proto(array, None))
        return answer.SerializeToString()

    def infer_grpc(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        asked = oip_proto.decode_infer_bytes(body)
        try:
            found = self.infer(asked)
        except errors.InvalidRequest as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        return oip_proto.encode_infer_bytes("m", 3, asked.id, found)

    def infer(self, asked: OipInfer) -> dict[str, Any]:
        wanted = [o.name for o in asked.outputs]
        return {k: v for k, v in self.run(asked.inputs).items() if not wanted or k in wanted}

    # HTTP
    def v2(self, body: bytes | None, length: str | None) -> tuple[int, bytes, str, int | None]:
        signature = self.signatures["serving_default"]
        if body is None:
            return 200, oip_admin.model_metadata_json("m", [3], "p", signature), "", None
        try:
            asked = oip_json.decode_infer(body, None if length is None else int(length))
            size, text = oip_json.encode_infer("m", 3, asked.id, self.infer(asked), asked)
        except errors.InvalidRequest as error:
            return 400, json.dumps({"error": error.message}).encode(), error.reason, None
        return 200, text, "", size

    def http(self, path: str, body: bytes | None, timeout: str) -> tuple[int, bytes, str]:
        self.calls.append(path)
        self.timeouts.append(float(timeout) / 1000)
        if self.failures:
            status, _, reason = self.failures.pop(0)
            return status, b'{ "error": "told to fail" }', reason
        if body is None:
            return 200, tfs_metadata.metadata_json("m", 3, self.signatures), ""
        try:
            call = tfs_json.decode_predict(body, self.signatures)
            return 200, tfs_json.encode_predict(self.run(call.inputs), call.row_form), ""
        except errors.InvalidRequest as error:
            return 400, json.dumps({"error": error.message}).encode(), error.reason
        except errors.Unimplemented as error:
            return 501, json.dumps({"error": error.message}).encode(), error.reason


class _Grpc(grpc.GenericRpcHandler):
    def __init__(self, model: Model) -> None:
        self.model = model

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return self.model.service(details)


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture(params=list(Dialect), ids=str)
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def address(protocol: str, model: Model) -> Iterator[str]:
    if Dialect(protocol).is_grpc:
        server = grpc.server(ThreadPoolExecutor(4))
        server.add_generic_rpc_handlers((_Grpc(model),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(0).wait()
        return

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.answer(self.rfile.read(int(self.headers["Content-Length"])))

        def do_GET(self) -> None:
            self.answer(None)

        def answer(self, body: bytes | None) -> None:
            timeout = self.headers["x-request-timeout-ms"]
            size = None
            if self.path.startswith("/v2") and not model.failures:
                model.calls.append(self.path)
                model.timeouts.append(float(timeout) / 1000)
                status, text, reason, size = model.v2(body, self.headers[HEADER_LENGTH])
            else:
                status, text, reason = model.http(self.path, body, timeout)
            self.send_response(status)
            if size is not None:
                self.send_header(HEADER_LENGTH, str(size))
            self.send_header("Content-Length", str(len(text)))
            if reason:
                self.send_header("x-gateway-reason", reason)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        web.daemon_threads = True
        thread = threading.Thread(target=web.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()


X = np.array([[1.5, -2.0], [0.2, 3e37]], dtype=np.float32)


async def test_arrays_go_in_and_come_out(address: str, protocol: str) -> None:
    async with AsyncClient(address, protocol=protocol) as client:
        for inputs in ({"x": X}, X, X.tolist(), {"x": X.tolist()}):
            found = await client.predict("m", inputs)
            assert sorted(found) == ["n", "y"]
            assert found["y"].dtype == np.float32
            assert found["n"].dtype == np.int64
            np.testing.assert_array_equal(found["y"], X)


def test_the_blocking_client_does_the_same(address: str, protocol: str) -> None:
    with Client(address, protocol=protocol) as client:
        np.testing.assert_array_equal(client.predict("m", X)["y"], X)
        assert list(client.predict("m", X, outputs=["n"])) == ["n"]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda n: client.predict("m", X * n)["y"], range(8)))
        for n, y in enumerate(found):
            np.testing.assert_array_equal(y, X * np.float32(n))


def test_nan_and_infinity_survive(address: str, protocol: str) -> None:
    odd = np.array([[np.nan, np.inf], [-np.inf, 0.1]], dtype=np.float32)
    with Client(address, protocol=protocol) as client:
        np.testing.assert_array_equal(client.predict("m", odd)["y"], odd)


def test_strings_are_bytes(model: Model, address: str, protocol: str) -> None:
    model.signatures = {"serving_default": signature(DType.STRING)}
    with Client(address, protocol=protocol) as client:
        found = client.predict("m", {"x": [["é", "b"]]})
        assert found["y"].tolist() == [["é".encode(), b"b"]]
        found = client.predict("m", {"x": np.array([["é", "b"]])})
        assert found["y"].tolist() == [["é".encode(), b"b"]]


def test_the_signature_is_the_models_own(model: Model, address: str, protocol: str) -> None:
    with Client(address, protocol=protocol) as client:
        found = client.signature("m")
        assert found.inputs["x"].dtype is DType.FLOAT
        assert found.inputs["x"].shape == (-1, 2)
        with pytest.raises(errors.NotFound, match='"other" not found'):
            client.signature("m", "other")


def test_version_and_label_are_named_as_the_protocol_does(
    model: Model, address: str, protocol: str
) -> None:
    with Client(address, protocol=protocol) as client:
        client.predict("m", {"x": X}, version=7)
        if protocol.startswith("v2"):
            with pytest.raises(errors.InvalidRequest, match="no labels"):
                client.predict("m", {"x": X}, label="canary")
        else:
            client.predict("m", {"x": X}, label="canary")
        with pytest.raises(errors.InvalidRequest, match="not both"):
            client.predict("m", {"x": X}, version=7, label="canary")
    if protocol == "v2-rest":
        assert "/v2/models/m/versions/7/infer" in model.calls
    if protocol == "tfs-rest":
        assert "/v1/models/m/versions/7:predict" in model.calls
        assert "/v1/models/m/labels/canary:predict" in model.calls


BITS = {
    np.float16: [1.5, -0.0, np.nan, 6e-8],
    np.float32: [0.1, -0.0, np.inf, 1e-45],
    np.float64: [0.1, -np.inf, 5e-324, 1e308],
    ml_dtypes.bfloat16: [1.5, -0.0, np.nan, 3e38],
    np.int8: [-128, 127, 0, 1],
    np.int64: [-(2**63), 2**63 - 1, 0, 1],
    np.uint64: [0, 2**64 - 1, 1, 2],
    np.bool_: [True, False, True, True],
}


@pytest.mark.parametrize("dtype", BITS, ids=lambda d: d.__name__)
def test_every_type_goes_bit_by_bit(model: Model, address: str, protocol: str, dtype: Any) -> None:
    x = np.array(BITS[dtype], dtype=dtype).reshape(2, 2)
    model.signatures = {"serving_default": signature(tfs_tensors.dtype_of(x))}
    with Client(address, protocol=protocol) as client:
        if protocol == "tfs-rest" and x.dtype.itemsize == 2:
            with pytest.raises(errors.Unimplemented):
                client.predict("m", {"x": x})
            return
        y = client.predict("m", {"x": x})["y"]
    assert y.dtype == x.dtype
    assert y.tobytes() == x.tobytes()


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1, 1, 1)])
def test_every_shape_goes(model: Model, address: str, protocol: str, shape: tuple) -> None:
    wide = TensorSpec("x", DType.FLOAT, None)
    model.signatures = {"serving_default": Signature({"x": wide}, {"y": wide})}
    model.run = lambda inputs: {"y": inputs["x"]}  # type: ignore[method-assign]
    x = np.ones(shape, dtype=np.float32)
    with Client(address, protocol=protocol) as client:
        y = client.predict("m", {"x": x})["y"]
    # JSON's lists lose what stands behind a dimension without elements.
    kept = shape[: shape.index(0) + 1] if protocol == "tfs-rest" and 0 in shape else shape
    np.testing.assert_array_equal(y, x.reshape(kept))


async def test_what_is_unavailable_is_tried_again(
    model: Model, address: str, protocol: str
) -> None:
    async with AsyncClient(address, protocol=protocol) as client:
        await client.predict("m", {"x": X})
        model.failures = [(503, grpc.StatusCode.UNAVAILABLE, "no_selectable_replica")] * 2
        np.testing.assert_array_equal((await client.predict("m", {"x": X}))["y"], X)
        model.failures = [(503, grpc.StatusCode.UNAVAILABLE, "no_selectable_replica")] * 3
        with pytest.raises(errors.Unavailable) as caught:
            await client.predict("m", {"x": X})
    assert caught.value.reason == "no_selectable_replica"
    assert caught.value.message == "told to fail"


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidRequest),
        (404, grpc.StatusCode.NOT_FOUND, errors.NotFound),
        (429, grpc.StatusCode.RESOURCE_EXHAUSTED, errors.Overloaded),
        (500, grpc.StatusCode.INTERNAL, errors.Internal),
        (504, grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
    ],
)
def test_what_would_not_help_is_not_tried_again(
    model: Model, address: str, protocol: str, status: int, code: grpc.StatusCode, kind: type
) -> None:
    with Client(address, protocol=protocol) as client:
        model.failures = [(status, code, "why")]
        with pytest.raises(kind, match="told to fail") as caught:
            client.signatures("m")
    assert caught.value.reason == "why"
    assert len(model.calls) == 1


def test_a_new_version_with_other_inputs_is_learnt(
    model: Model, address: str, protocol: str
) -> None:
    with Client(address, protocol=protocol) as client:
        client.predict("m", X)
        wider = TensorSpec("z", DType.FLOAT, (-1, 2))
        model.signatures = {"serving_default": Signature({"z": wider}, signature().outputs)}
        np.testing.assert_array_equal(client.predict("m", X)["y"], X)


def test_the_deadline_is_sent_along(model: Model, address: str, protocol: str) -> None:
    with Client(address, protocol=protocol) as client:
        client.predict("m", {"x": X}, timeout_s=7.0)
    assert all(5 < t <= 7.1 for t in model.timeouts)


def test_a_deadline_that_has_passed_is_told(address: str, protocol: str) -> None:
    with Client(address, protocol=protocol) as client, pytest.raises(errors.DeadlineExceeded):
        client.predict("m", {"x": X}, timeout_s=0.0)


@pytest.mark.parametrize("address_", ["127.0.0.1:1", "http://127.0.0.1:1"])
async def test_no_gateway_is_unavailable(address_: str) -> None:
    with Client(address_) as client, pytest.raises(errors.Unavailable, match="No answer at"):
        client.predict("m", {"x": X})
    async with AsyncClient(address_) as other:
        with pytest.raises(errors.Unavailable, match="No answer at"):
            await other.predict("m", {"x": X})


def test_values_that_make_no_array_are_refused(address: str, protocol: str) -> None:
    with Client(address, protocol=protocol) as client:
        for wrong in ([[1.0], [1.0, 2.0]], [["a", "b"]], {"x": np.array([{}, {}])}):
            with pytest.raises(errors.InvalidRequest):
                client.predict("m", wrong)


@pytest.mark.parametrize(
    ("given", "protocol", "meant"),
    [
        ("localhost:8500", None, (Dialect.TFS_GRPC, "localhost:8500", False)),
        ("grpc://h", None, (Dialect.TFS_GRPC, "h:8500", False)),
        ("http://h", None, (Dialect.TFS_REST, "h:8501", False)),
        ("https://h/", None, (Dialect.TFS_REST, "h:443", True)),
        ("http://[::1]:9", None, (Dialect.TFS_REST, "[::1]:9", False)),
        ("h", "v2-grpc", (Dialect.V2_GRPC, "h:8500", False)),
        ("h", "v2-rest", (Dialect.V2_REST, "h:8501", False)),
        ("https://h", "v2-rest", (Dialect.V2_REST, "h:443", True)),
    ],
)
def test_addresses(given: str, protocol: str | None, meant: tuple) -> None:
    assert split_address(given, protocol) == meant


@pytest.mark.parametrize("wrong", ["", "ftp://h", "http://h/v1/models", "h:port"])
def test_no_address_says_how_to_write_one(wrong: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="localhost:8500"):
        split_address(wrong)


@pytest.mark.parametrize(
    ("address", "protocol"), [("http://h", "v2-grpc"), ("grpc://h", "tfs-rest"), ("h", "v3")]
)
def test_a_protocol_that_the_address_cannot_carry_is_refused(address: str, protocol: str) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        Client(address, protocol=protocol)
    assert caught.value.reason == "bad_protocol"


def test_a_pause_never_outlives_the_deadline_and_respects_the_server() -> None:
    rng = random.Random(1)
    slow = errors.Unavailable("x", reason="version_loading", retry_after_s=1.0)
    assert pause_s(slow, 1, 0.5, rng) is None
    assert 1.0 <= pause_s(slow, 1, 60.0, rng) <= 1.2
    assert pause_s(slow, 3, 60.0, rng) is None
    assert pause_s(errors.Unavailable("x", reason="version_failed"), 1, 60.0, rng) is None
    assert pause_s(errors.Overloaded("x", reason="queue_full"), 1, 60.0, rng) is None


def test_the_book_of_signatures_is_bounded() -> None:
    book = SignatureBook()
    for n in range(SignatureBook.MAX + 10):
        book.put(Target(f"m{n}"), {})
    assert book.get(Target("m0")) is None
    assert book.get(Target(f"m{SignatureBook.MAX + 9}")) == {}


def known_book() -> SignatureBook:
    book = SignatureBook()
    book.put(Target("m"), {"serving_default": signature()})
    return book


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize("answer", [b"\xff", b"{", b"[]", b'{"metadata": 3}'])
def test_an_answer_that_is_none_is_an_error_of_the_gateways_side(
    dialect: Dialect, answer: bytes
) -> None:
    steps = describing(WIRES[dialect], Target("m"), SignatureBook())
    assert isinstance(next(steps), Call)
    with pytest.raises(errors.UpstreamFailed):
        steps.send(Reply(answer))
    steps = predicting(WIRES[dialect], Target("m"), {"x": X}, "", None, known_book())
    assert isinstance(next(steps), Call)
    with pytest.raises(errors.UpstreamFailed):
        steps.send(Reply(answer))


def test_a_typed_mapping_over_grpc_needs_one_call_only() -> None:
    steps = predicting(WIRES[Dialect.TFS_GRPC], Target("m"), {"x": X}, "s", ["y"], SignatureBook())
    call = next(steps)
    request = tfs_pb2.PredictRequest.FromString(call.body or b"")
    assert (call.target, request.model_spec.name) == (Method.PREDICT.path, "m")
    assert (request.model_spec.signature_name, list(request.output_filter)) == ("s", ["y"])
    answer = tfs_pb2.PredictResponse()
    answer.outputs["y"].CopyFrom(tfs_tensors.to_proto(X, None))
    with pytest.raises(StopIteration) as done:
        steps.send(Reply(answer.SerializeToString()))
    np.testing.assert_array_equal(done.value.value["y"], X)


def test_another_signature_over_v2_needs_typed_arrays() -> None:
    wire, book = WIRES[Dialect.V2_GRPC], SignatureBook()
    with pytest.raises(errors.InvalidRequest, match="pass numpy arrays"):
        next(predicting(wire, Target("m"), {"x": [[1.0]]}, "other", None, book))
    call = next(predicting(wire, Target("m"), {"x": X}, "other", None, book))
    asked = oip_proto.decode_infer_bytes(call.body or b"")
    assert asked.parameters == {"signature_name": "other"}
