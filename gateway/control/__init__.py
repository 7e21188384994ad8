"""The control API: what people and programs want of models, and what they are told of them."""

from gateway.control.api import ControlApi, ControlSettings
from gateway.control.deploy import DeployLimits
from gateway.control.events import EventLog, EventSettings
from gateway.control.looking import LookSettings
from gateway.control.service import ModelsService
from gateway.control.stream import StreamSettings

__all__ = [
    "ControlApi",
    "ControlSettings",
    "DeployLimits",
    "EventLog",
    "EventSettings",
    "LookSettings",
    "ModelsService",
    "StreamSettings",
]
