"""gRPC reflection: what grpcurl, Postman and the like ask to call a service without its protos.

Describes V2's service and the health service. TensorFlow Serving's are left out: the original has
no reflection. Both revisions of the protocol are answered: v1 is v1alpha under another
name, and the published servicer knows only the latter.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio  # type: ignore[attr-defined]

from gateway.codecs.oip_descriptors import renamed, service_file
from gateway.codecs.oip_methods import SERVICE

SERVICES = (
    SERVICE,
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)
_PACKAGES = ("grpc.reflection.v1", "grpc.reflection.v1alpha")


def handlers() -> Mapping[str, grpc.RpcMethodHandler[bytes, bytes]]:
    """By full method path."""
    servicer = aio.ReflectionServicer(SERVICES, _pool())  # type: ignore[attr-defined]
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return {f"/{package}.ServerReflection/ServerReflectionInfo": handler for package in _PACKAGES}


def _pool() -> DescriptorPool:
    made = DescriptorPool()
    made.Add(service_file())
    made.Add(
        renamed(reflection_pb2.DESCRIPTOR, "grpc/reflection/v1/reflection.proto", _PACKAGES[0])
    )
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        proto = FileDescriptorProto()
        file.CopyToProto(proto)
        made.Add(proto)
    return made
