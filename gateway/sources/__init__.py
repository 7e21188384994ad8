"""Object storage as the gateway sees it: what versions there are, and how one is published."""

from gateway.sources.object_source import ObjectSource, SourceSettings
from gateway.sources.publish import PublishSettings, publish

__all__ = ["ObjectSource", "PublishSettings", "SourceSettings", "publish"]
