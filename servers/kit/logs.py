"""Log lines: an event's name and its fields, as text for people or JSON for machines."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

_logger = logging.getLogger("servers")


def event(name: str, level: int = logging.INFO, **fields: object) -> None:
    """Log `name` (past tense, `version.loaded`) with its fields."""
    if _logger.isEnabledFor(level):
        _logger.log(level, name, extra={"fields": fields})


def is_talkative() -> bool:
    """Whether there is a line for each request."""
    return _logger.isEnabledFor(logging.DEBUG)


def warn(name: str, **fields: object) -> None:
    """Log something that a person may have to look at."""
    event(name, logging.WARNING, **fields)


def bug(name: str, error: BaseException, **fields: object) -> None:
    """Log an error that nobody foresaw, with its traceback."""
    _logger.error(name, exc_info=error, extra={"fields": fields})


class _Format(logging.Formatter):
    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = getattr(record, "fields", {})
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self._as_json:
            line = {"at": at, "level": record.levelname.lower(), "event": record.getMessage()}
            extra = {"trace": trace} if trace else {}
            return json.dumps({**line, **fields, **extra}, default=str)
        shown = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())
        tail = f"\n{trace}" if trace else ""
        return f"{at} {record.levelname} {record.getMessage()} {shown}".rstrip() + tail


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text) if not text or any(c.isspace() or c == '"' for c in text) else text


def set_up(log_format: str) -> None:
    """Send every logger's lines to standard error in `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Format(log_format == "json"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
