"""Descriptors of the V2 service under its own name, for gRPC reflection.

Our messages live in a package of our own (gateway.oip), so that they can share a process with
tritonclient's or KServe's. On the wire packages do not exist, but reflection names them: so the
file is described anew in package `inference`, and the service added, which our proto cannot
declare without carrying our package into its paths.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

from gateway.codecs.oip_methods import SERVICE, OipMethod
from gateway.codecs.pb import oip_pb2

FILE = "grpc_service.proto"
"""The file's name at Triton, whose clients' protos have it too."""


def service_file() -> FileDescriptorProto:
    """`inference.GRPCInferenceService` and every message of it."""
    package, _, name = SERVICE.rpartition(".")
    made = renamed(oip_pb2.DESCRIPTOR, FILE, package)
    service = made.service.add(name=name)
    for method in OipMethod:
        service.method.add(
            name=method.path.rpartition("/")[2],
            input_type=f".{package}.{method.request_name}",
            output_type=f".{package}.{method.response_name}",
            client_streaming=method.is_streaming,
            server_streaming=method.is_streaming,
        )
    return made


def renamed(file: FileDescriptor, name: str, package: str) -> FileDescriptorProto:
    """A copy of a file, which must stand alone, under another name and package."""
    made = FileDescriptorProto()
    file.CopyToProto(made)
    old, new = f".{made.package}.", f".{package}."
    made.name, made.package = name, package
    _rename(made.message_type, old, new)
    for service in made.service:
        for method in service.method:
            method.input_type = method.input_type.replace(old, new, 1)
            method.output_type = method.output_type.replace(old, new, 1)
    return made


def _rename(messages: Iterable[DescriptorProto], old: str, new: str) -> None:
    for message in messages:
        for field in message.field:
            if field.type_name.startswith(old):
                field.type_name = new + field.type_name.removeprefix(old)
        _rename(message.nested_type, old, new)
