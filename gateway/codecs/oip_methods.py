"""The gRPC methods of the Open Inference Protocol V2, by the paths that its clients call.

The first six are the protocol itself; the rest are Triton's. Our own protos live under our own
package, so no generated service knows these paths; they are served and called by name.
Source: grpc_service.proto of triton-inference-server/common.
"""

from __future__ import annotations

from enum import Enum

SERVICE = "inference.GRPCInferenceService"

_PREFIX = f"/{SERVICE}/"


class OipMethod(Enum):
    """One gRPC method; `path` is what goes into `:path`."""

    SERVER_LIVE = _PREFIX + "ServerLive"
    SERVER_READY = _PREFIX + "ServerReady"
    MODEL_READY = _PREFIX + "ModelReady"
    SERVER_METADATA = _PREFIX + "ServerMetadata"
    MODEL_METADATA = _PREFIX + "ModelMetadata"
    MODEL_INFER = _PREFIX + "ModelInfer"
    MODEL_STREAM_INFER = _PREFIX + "ModelStreamInfer"
    MODEL_CONFIG = _PREFIX + "ModelConfig"
    MODEL_STATISTICS = _PREFIX + "ModelStatistics"
    REPOSITORY_INDEX = _PREFIX + "RepositoryIndex"
    REPOSITORY_MODEL_LOAD = _PREFIX + "RepositoryModelLoad"
    REPOSITORY_MODEL_UNLOAD = _PREFIX + "RepositoryModelUnload"
    SYSTEM_SHARED_MEMORY_STATUS = _PREFIX + "SystemSharedMemoryStatus"
    SYSTEM_SHARED_MEMORY_REGISTER = _PREFIX + "SystemSharedMemoryRegister"
    SYSTEM_SHARED_MEMORY_UNREGISTER = _PREFIX + "SystemSharedMemoryUnregister"
    CUDA_SHARED_MEMORY_STATUS = _PREFIX + "CudaSharedMemoryStatus"
    CUDA_SHARED_MEMORY_REGISTER = _PREFIX + "CudaSharedMemoryRegister"
    CUDA_SHARED_MEMORY_UNREGISTER = _PREFIX + "CudaSharedMemoryUnregister"
    TRACE_SETTING = _PREFIX + "TraceSetting"
    LOG_SETTINGS = _PREFIX + "LogSettings"

    @property
    def path(self) -> str:
        """`/inference.GRPCInferenceService/ModelInfer`."""
        return str(self.value)

    @property
    def is_streaming(self) -> bool:
        """Whether requests and answers are streams."""
        return self is OipMethod.MODEL_STREAM_INFER

    @property
    def is_shared_memory(self) -> bool:
        """Whether it is about memory shared with the caller, which another host cannot be."""
        return "SharedMemory" in self.path

    @property
    def request_name(self) -> str:
        """The message that goes in, as oip_pb2 names it."""
        if self is OipMethod.MODEL_STREAM_INFER:
            return "ModelInferRequest"
        return self.path.removeprefix(_PREFIX) + "Request"

    @property
    def response_name(self) -> str:
        """The message that comes out, as oip_pb2 names it."""
        return self.path.removeprefix(_PREFIX) + "Response"


METHOD_OF_PATH: dict[str, OipMethod] = {m.value: m for m in OipMethod}
"""Every method by its path."""
