"""Log events: a name in the past tense and fields, never sentences put together.

`log.event("replica.ejected", model="resnet", cause="connect_refused")` is one line, in text
(`replica.ejected model=resnet cause=connect_refused`) or JSON. Log flips, not repeats, and once,
where something is handled.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import IO, Any, Literal

LogFormat = Literal["text", "json"]

_LOGGER = logging.getLogger("gateway")
_FIELD_CHARS = 2048
"""A field is cut here; an upstream's error text may be as long as it likes."""


class EventLog:
    """Writes events to the standard logger `gateway`, so that tests and hosts can capture them."""

    __slots__ = ()

    def event(self, name: str, /, *, level: int = logging.INFO, **fields: object) -> None:
        """Something happened."""
        if _LOGGER.isEnabledFor(level):
            _LOGGER.log(level, name, extra={"event_fields": fields})

    def warning(self, name: str, /, **fields: object) -> None:
        """Something happened that an operator should look at."""
        self.event(name, level=logging.WARNING, **fields)

    def bug(self, name: str, error: BaseException, /, **fields: object) -> None:
        """A bug of ours, with its traceback."""
        info = (type(error), error, error.__traceback__)
        _LOGGER.error(name, exc_info=info, extra={"event_fields": fields})


log = EventLog()


def configure_logging(
    form: LogFormat = "text", level: int = logging.INFO, stream: IO[str] | None = None
) -> None:
    """Send every event (and the libraries' warnings) to `stream`, standard error by default.

    Called once by the process; calling again replaces what was set.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _LOGGER.setLevel(level)


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    found = getattr(record, "event_fields", None)
    return found if isinstance(found, Mapping) else {}


def _at(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        parts = [_at(record), record.levelname.lower(), record.getMessage()]
        parts += [f"{name}={_shown(value)}" for name, value in _fields(record).items()]
        line = " ".join(parts)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": _at(record),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line.update({k: v for k, v in _fields(record).items() if k not in line})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def _shown(value: object) -> str:
    text = str(value)
    if len(text) > _FIELD_CHARS:
        text = text[:_FIELD_CHARS] + "…"
    # Quoted where a reader, or a line break in foreign text, could mistake the end of the field.
    if not text or any(c.isspace() or c in '"=' or not c.isprintable() for c in text):
        return json.dumps(text, ensure_ascii=False)
    return text
