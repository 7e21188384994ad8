"""Which protocol a replica is spoken to in, when it does not speak its caller's.

The caller's own passes through. Else the nearest one is chosen by what would be lost on the way:
the other transport of the same protocol comes first, because there a request means the same
(signatures and labels, or parameters and ids) and errors keep their words; then whatever carries
tensors as binary; TensorFlow Serving's REST comes last, since its JSON cannot say every dtype and
costs far more than copying. After the same protocol the same transport wins.

Pure: a table and a look at it.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum


class Dialect(StrEnum):
    """A protocol on a transport; the values are those of domain.models.PROTOCOLS."""

    TFS_REST = "tfs-rest"
    TFS_GRPC = "tfs-grpc"
    V2_REST = "v2-rest"
    V2_GRPC = "v2-grpc"

    @property
    def is_v2(self) -> bool:
        """Open Inference Protocol V2, as opposed to TensorFlow Serving's."""
        return self in (Dialect.V2_REST, Dialect.V2_GRPC)

    @property
    def is_grpc(self) -> bool:
        """gRPC, as opposed to HTTP/1.1."""
        return self in (Dialect.TFS_GRPC, Dialect.V2_GRPC)


NEAREST: dict[Dialect, tuple[Dialect, ...]] = {
    Dialect.TFS_REST: (Dialect.TFS_REST, Dialect.TFS_GRPC, Dialect.V2_REST, Dialect.V2_GRPC),
    Dialect.TFS_GRPC: (Dialect.TFS_GRPC, Dialect.V2_GRPC, Dialect.V2_REST, Dialect.TFS_REST),
    Dialect.V2_REST: (Dialect.V2_REST, Dialect.V2_GRPC, Dialect.TFS_GRPC, Dialect.TFS_REST),
    Dialect.V2_GRPC: (Dialect.V2_GRPC, Dialect.V2_REST, Dialect.TFS_GRPC, Dialect.TFS_REST),
}
"""For each caller all dialects, the nearest first. gRPC callers of TensorFlow Serving's prefer V2
to their own protocol in JSON: what JSON would lose are tensors."""


def choose_dialect(caller: Dialect, speaks: Collection[str]) -> Dialect | None:
    """The dialect to ask a replica in that `speaks` these; None when it speaks none we know."""
    return next((dialect for dialect in NEAREST[caller] if dialect in speaks), None)
