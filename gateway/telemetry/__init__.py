"""What the gateway says about itself: every metric and the form of every log line, declared
once."""

from gateway.telemetry.lag import watch_loop_lag
from gateway.telemetry.log import LogFormat, configure_logging, log
from gateway.telemetry.metrics import Metrics

__all__ = ["LogFormat", "Metrics", "configure_logging", "log", "watch_loop_lag"]
