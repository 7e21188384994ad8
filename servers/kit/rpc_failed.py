"""A gRPC call's failure, on its way from what serves it to what answers it."""

from __future__ import annotations

from gateway.wire.fields import Pairs


class Failed(Exception):
    """A status: code, words, and the machine's word for it, empty where no error of ours has the
    code (UNKNOWN, FAILED_PRECONDITION)."""

    def __init__(self, code: int, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason

    @property
    def trailers(self) -> Pairs:
        """What goes out beside code and words."""
        return (("x-gateway-reason", self.reason),) if self.reason else ()
