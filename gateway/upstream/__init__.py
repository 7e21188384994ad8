"""Carries requests to replicas: one adapter for each protocol, both of the port `Upstream`."""

from gateway.upstream.grpc import GrpcUpstream
from gateway.upstream.http import HttpUpstream
from gateway.upstream.settings import UpstreamSettings

__all__ = ["GrpcUpstream", "HttpUpstream", "UpstreamSettings"]
