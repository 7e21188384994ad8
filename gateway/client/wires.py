"""All protocols that a client speaks, by name."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.client import tfs_wires, v2_wires
from gateway.client.calls import Dialect, Wire

WIRES: Mapping[Dialect, Wire] = {
    Dialect.TFS_REST: tfs_wires.REST,
    Dialect.TFS_GRPC: tfs_wires.GRPC,
    Dialect.V2_REST: v2_wires.REST,
    Dialect.V2_GRPC: v2_wires.GRPC,
}
