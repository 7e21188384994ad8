"""gRPC reflection: what grpcurl, Postman and the like ask to call a service without its protos.

Describes V2's service and the health service. TensorFlow Serving's are left out: the original has
no reflection, and its protos pull half of TensorFlow with them. Both revisions of the protocol have
the same messages under other names, so one function answers both. Pure: bytes in, bytes out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from gateway.codecs.oip_descriptors import renamed, service_file
from gateway.codecs.oip_methods import SERVICE
from gateway.domain.errors import InvalidRequest

_PACKAGES = ("grpc.reflection.v1", "grpc.reflection.v1alpha")

PATHS = tuple(f"/{package}.ServerReflection/ServerReflectionInfo" for package in _PACKAGES)
"""The method, a stream in and out, in both revisions."""

SERVICES = (
    "grpc.health.v1.Health",
    *(f"{package}.ServerReflection" for package in _PACKAGES),
    SERVICE,
)
"""What is listed."""

_INVALID_ARGUMENT, _NOT_FOUND = 3, 5


class Reflection:
    """Answers requests from descriptors of its own, apart from protobuf's global pool."""

    def __init__(self) -> None:
        pool = self._pool = DescriptorPool()
        pool.Add(service_file())
        pool.Add(
            renamed(reflection_pb2.DESCRIPTOR, "grpc/reflection/v1/reflection.proto", _PACKAGES[0])
        )
        for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
            described = FileDescriptorProto()
            file.CopyToProto(described)
            pool.Add(described)

    def answer(self, request: bytes) -> bytes:
        """One serialized ServerReflectionResponse for one serialized ServerReflectionRequest. What
        is not known is answered in it.

        Raises:
            InvalidRequest: the request is no such message (`bad_message`).
        """
        try:
            asked = reflection_pb2.ServerReflectionRequest.FromString(request)
        except DecodeError as error:
            raise InvalidRequest(
                "The message is no ServerReflectionRequest", reason="bad_message"
            ) from error
        answer = reflection_pb2.ServerReflectionResponse(
            valid_host=asked.host, original_request=asked
        )
        kind = asked.WhichOneof("message_request")
        ways: dict[str | None, Callable[[Any, Any], None]] = {
            "list_services": self._services,
            "file_by_filename": self._file,
            "file_containing_symbol": self._file_of_symbol,
            "file_containing_extension": self._file_of_extension,
            "all_extension_numbers_of_type": self._extensions,
        }
        try:
            ways.get(kind, _refused)(asked, answer)
        except KeyError:
            answer.error_response.error_code = _NOT_FOUND
            answer.error_response.error_message = "not found"
        return bytes(answer.SerializeToString())

    def _services(self, asked: Any, answer: Any) -> None:
        del asked
        for name in SERVICES:
            answer.list_services_response.service.add(name=name)

    def _file(self, asked: Any, answer: Any) -> None:
        _describe(self._pool.FindFileByName(asked.file_by_filename), answer)

    def _file_of_symbol(self, asked: Any, answer: Any) -> None:
        symbol = asked.file_containing_symbol
        try:
            file = self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            # Methods are symbols as well, which this look-up does not know.
            file = self._pool.FindMethodByName(symbol).containing_service.file
        _describe(file, answer)

    def _file_of_extension(self, asked: Any, answer: Any) -> None:
        wanted = asked.file_containing_extension
        message = self._pool.FindMessageTypeByName(wanted.containing_type)
        extension: Any = self._pool.FindExtensionByNumber(message, wanted.extension_number)
        _describe(extension.file, answer)

    def _extensions(self, asked: Any, answer: Any) -> None:
        message = self._pool.FindMessageTypeByName(asked.all_extension_numbers_of_type)
        numbers = sorted(one.number for one in self._pool.FindAllExtensions(message))
        said = answer.all_extension_numbers_response
        said.base_type_name = message.full_name
        said.extension_number.extend(numbers)


def _describe(file: Any, answer: Any) -> None:
    """A file and all that it imports, each once."""
    waiting, seen = [file], set()
    while waiting:
        one = waiting.pop()
        if one.name not in seen:
            seen.add(one.name)
            answer.file_descriptor_response.file_descriptor_proto.append(one.serialized_pb)
            waiting.extend(one.dependencies)


def _refused(asked: Any, answer: Any) -> None:
    del asked
    answer.error_response.error_code = _INVALID_ARGUMENT
    answer.error_response.error_message = "invalid argument"
