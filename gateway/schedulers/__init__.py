"""Keep replicas running: processes on this machine. See README.md."""

from gateway.schedulers.local import LocalScheduler
from gateway.schedulers.records import StateLock
from gateway.schedulers.settings import LocalSettings

__all__ = ["LocalScheduler", "LocalSettings", "StateLock"]
