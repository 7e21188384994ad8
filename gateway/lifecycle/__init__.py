"""From aspired versions to answering ones: the reconcile loops. See README.md."""

from gateway.lifecycle.reconcile import Emit, Lifecycle
from gateway.lifecycle.settings import LifecycleSettings

__all__ = ["Emit", "Lifecycle", "LifecycleSettings"]
