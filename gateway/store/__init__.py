"""What survives a crash: models and events, in SQLite (or PostgreSQL), or in memory for tests."""

from gateway.store.memory import MemoryStore
from gateway.store.opening import open_store
from gateway.store.sharing import SqlSharing
from gateway.store.sql import SqlStore, StoreSettings

__all__ = ["MemoryStore", "SqlSharing", "SqlStore", "StoreSettings", "open_store"]
