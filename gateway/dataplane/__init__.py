"""The data plane: from a request to its answer. See README.md, *Life of a request*."""

from gateway.dataplane.plane import Dataplane
from gateway.dataplane.settings import DataplaneSettings

__all__ = ["Dataplane", "DataplaneSettings"]
