"""A model-serving gateway: predictions over HTTP and gRPC to replicated model servers."""

__version__ = "0.1.0"

__all__ = ["__version__"]
