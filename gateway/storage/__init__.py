"""Object storage by URI, read as a model repository. Shared by the gateway and the model
servers."""

from gateway.storage.folder import Blob, Entry, Folder
from gateway.storage.opening import Location, StorageSettings, locate, open_store

__all__ = ["Blob", "Entry", "Folder", "Location", "StorageSettings", "locate", "open_store"]
