from __future__ import annotations

import subprocess
import sys

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from gateway.codecs.grpc_reflection import PATHS, Reflection
from gateway.domain.errors import InvalidRequest


def ask(**what) -> ServerReflectionResponse:
    request = ServerReflectionRequest(host="h", **what)
    answer = ServerReflectionResponse.FromString(Reflection().answer(request.SerializeToString()))
    assert answer.original_request == request
    return answer


def files(answer) -> dict[str, FileDescriptorProto]:
    protos = answer.file_descriptor_response.file_descriptor_proto
    found = [FileDescriptorProto.FromString(one) for one in protos]
    return {one.name: one for one in found}


def test_services_are_listed():
    names = [s.name for s in ask(list_services="*").list_services_response.service]
    assert names == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
    ]
    assert [path.split("/")[1] for path in PATHS] == names[1:3]


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("inference.GRPCInferenceService", "grpc_service.proto"),
        ("inference.ModelInferRequest", "grpc_service.proto"),
        ("grpc.health.v1.Health.Check", "grpc_health/v1/health.proto"),
        ("grpc.reflection.v1.ServerReflection", "grpc/reflection/v1/reflection.proto"),
    ],
)
def test_a_symbol_is_described_by_its_file(symbol, file):
    assert list(files(ask(file_containing_symbol=symbol))) == [file]
    assert list(files(ask(file_by_filename=file))) == [file]


@pytest.mark.parametrize(
    "what",
    [
        {"file_by_filename": "nope.proto"},
        {"file_containing_symbol": "tensorflow.serving.PredictionService"},
        {"file_containing_extension": {"containing_type": "x", "extension_number": 1}},
        {"all_extension_numbers_of_type": "x"},
    ],
)
def test_what_is_not_known_is_not_found(what):
    assert ask(**what).error_response.error_code == 5


def test_extensions_of_a_known_message_are_none():
    said = ask(all_extension_numbers_of_type="inference.ModelInferRequest")
    assert list(said.all_extension_numbers_response.extension_number) == []


def test_no_question_is_an_invalid_argument_and_garbage_is_no_message():
    assert ask().error_response.error_code == 3
    with pytest.raises(InvalidRequest):
        Reflection().answer(b"\xff")


def test_grpc_is_not_needed_for_it():
    code = "import sys, gateway.codecs.grpc_reflection; print('grpc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
