"""Metadata, configuration and statistics in another dialect than the replica's."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from gateway.codecs import oip_admin, tfs_metadata
from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2, tfs_pb2
from gateway.core.dialect import Dialect
from gateway.dataplane.signatures import Signatures, default_signature
from gateway.dataplane.translated_calls import Asked, Kind, answered
from gateway.ports import UpstreamAnswer, UpstreamRequest

_METHODS = {
    Kind.METADATA: OipMethod.MODEL_METADATA,
    Kind.CONFIG: OipMethod.MODEL_CONFIG,
    Kind.STATS: OipMethod.MODEL_STATISTICS,
}
_SUFFIXES = {Kind.METADATA: "", Kind.CONFIG: "/config", Kind.STATS: "/stats"}
_UNKNOWN_PLATFORM = ""


# ---- between the two transports of V2 --------------------


def retold(replica: Dialect, ask: Asked, headers: tuple[tuple[str, Any], ...]) -> UpstreamRequest:
    """The same question on V2's other transport: metadata, configuration or statistics."""
    if replica.is_grpc:
        method = _METHODS[ask.kind]
        version = "" if ask.pinned is None else str(ask.pinned)
        request = getattr(oip_pb2, method.request_name)(name=ask.model, version=version)
        return UpstreamRequest(method.path, request.SerializeToString(), headers)
    version = "" if ask.pinned is None else f"/versions/{ask.pinned}"
    path = f"/v2/models/{quote(ask.model, safe='')}{version}{_SUFFIXES[ask.kind]}"
    return UpstreamRequest(f"GET {path}", b"", headers)


def rendered(caller: Dialect, kind: Kind, answer: UpstreamAnswer) -> UpstreamAnswer:
    """The answer of V2's other transport. Raises ValueError where it is none."""
    message = getattr(oip_pb2, _METHODS[kind].response_name)()
    try:
        if not caller.is_grpc:
            message.ParseFromString(answer.body)
        # Over REST a configuration stands alone, over gRPC in a field of its answer. (Taken after
        # parsing, which lets go of the sub-messages that were there.)
        content = message.config if kind is Kind.CONFIG else message
        if caller.is_grpc:
            json_format.ParseDict(json.loads(answer.body), content, ignore_unknown_fields=True)
            return answered(caller, message.SerializeToString(), {})
    except (DecodeError, json_format.ParseError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return answered(caller, json.dumps(_plain(content), separators=(",", ":")).encode(), {})


def _plain(message: Message) -> dict[str, Any]:
    """A message as JSON values, every field printed under its proto name. Protobuf's own JSON
    writes int64 as strings, where Triton's has numbers."""
    return {
        field.name: _field(message, field)
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        is_message = kind.fields_by_name["value"].message_type is not None
        return {k: _plain(value[k]) if is_message else value[k] for k in value}
    return [_one(v, field) for v in value] if field.is_repeated else _one(value, field)


def _one(value: Any, field: Any) -> Any:
    if field.message_type is not None:
        return _plain(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


# ---- from signatures --------------------


def check(caller: Dialect, ask: Asked, request: UpstreamRequest) -> None:
    """Refuse what a replica that speaks `caller` would, before one of another protocol is asked.

    Raises:
        InvalidRequest: GetModelMetadata without a field, or for one that there is not.
    """
    if caller is Dialect.TFS_GRPC and ask.kind is Kind.METADATA:
        message = tfs_pb2.GetModelMetadataRequest.FromString(request.body)
        tfs_metadata.check_metadata_request(message)


def from_signatures(caller: Dialect, ask: Asked, signatures: Signatures) -> UpstreamAnswer:
    """Metadata or configuration for a caller of the other protocol than the replica's."""
    if not caller.is_v2:
        if caller.is_grpc:
            told = tfs_metadata.metadata_proto(ask.model, ask.version, signatures)
            return answered(caller, told.SerializeToString(), {})
        return answered(caller, tfs_metadata.metadata_json(ask.model, ask.version, signatures), {})
    signature = default_signature(signatures, ask.model)
    versions = (ask.version,)
    if ask.kind is Kind.CONFIG:
        config = oip_admin.OipConfig(ask.model, versions=versions)
        if caller.is_grpc:
            made = oip_admin.config_proto(config, signature).SerializeToString()
            return answered(caller, made, {})
        return answered(caller, oip_admin.config_json(config, signature), {})
    if caller.is_grpc:
        proto = oip_admin.model_metadata_proto(ask.model, versions, _UNKNOWN_PLATFORM, signature)
        return answered(caller, proto.SerializeToString(), {})
    return answered(
        caller,
        oip_admin.model_metadata_json(ask.model, versions, _UNKNOWN_PLATFORM, signature),
        {},
    )
