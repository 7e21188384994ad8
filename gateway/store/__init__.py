"""What survives a crash: models and events, in SQLite (or PostgreSQL), or in memory for tests."""

from gateway.store.memory import MemoryStore
from gateway.store.opening import open_store
from gateway.store.sql import SqlStore, StoreSettings

__all__ = ["MemoryStore", "SqlStore", "StoreSettings", "open_store"]
