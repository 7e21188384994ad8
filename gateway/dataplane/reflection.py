"""gRPC reflection, so that grpcurl and its like need no .proto of the Open Inference Protocol.

TensorFlow Serving's services are not described: the original has no reflection, and its protos pull
half of TensorFlow with them. Both versions of the reflection protocol have the same messages.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from gateway.codecs.oip_descriptors import service_file
from gateway.codecs.oip_methods import SERVICE

_PACKAGES = ("grpc.reflection.v1", "grpc.reflection.v1alpha")


def handlers() -> dict[str, Any]:
    """The reflection service, by method path."""
    pool = DescriptorPool()
    pool.Add(service_file())
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        described = FileDescriptorProto()
        file.CopyToProto(described)
        pool.Add(described)
    services = (SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")
    servicer = ReflectionServicer(services, pool=pool)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return {f"/{package}.ServerReflection/ServerReflectionInfo": handler for package in _PACKAGES}
