"""Trace and logging settings of V2: read, checked, applied, told again in full.

Logging acts on this server's own log: the most talkative line that is on decides its level. Traced
requests are log lines too (`request.traced`), one in `trace_rate`, `trace_count` in all: TIMESTAMPS
tells how long each stage took, TENSORS what names, datatypes and shapes went in and out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.domain.errors import InvalidRequest, Unimplemented

Value = bool | int | str
Traces = dict[str, str | list[str]]

_LOGGERS = ("servers", "gateway")
_INT32_MAX = 2**31 - 1
_UINT32_MAX = 2**32 - 1
_RANGES = {
    "trace_rate": (0, _UINT32_MAX),
    "trace_count": (-1, _INT32_MAX),
    "log_frequency": (0, _UINT32_MAX),
}
_LEVELS = ("OFF", "TIMESTAMPS", "TENSORS")
_MAX_MODELS = 1024
"""Models with trace settings of their own; they must be models that are served."""


def _refuse(message: str) -> InvalidRequest:
    return InvalidRequest(message, reason="bad_setting")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What `/v2/logging` shows."""

    log_file: str = ""
    log_info: bool = True
    log_warning: bool = True
    log_error: bool = True
    log_verbose_level: int = 0
    log_format: str = "ISO8601"
    """Echoed only: this server's lines have ISO 8601 times whatever it says."""

    def shown(self) -> dict[str, Value]:
        """In Triton's order."""
        return {
            "log_file": self.log_file,
            "log_info": self.log_info,
            "log_warning": self.log_warning,
            "log_error": self.log_error,
            "log_verbose_level": self.log_verbose_level,
            "log_format": self.log_format,
        }

    @property
    def level(self) -> int:
        """The level of our own logger that does this."""
        if self.log_verbose_level > 0:
            return logging.DEBUG
        if self.log_info:
            return logging.INFO
        if self.log_warning:
            return logging.WARNING
        return logging.ERROR if self.log_error else logging.CRITICAL + 1


class Settings:
    """Settings of one server. Used on the event loop only."""

    def __init__(self) -> None:
        self.log = LogSettings()
        self._trace: Traces = dict(_TRACE)
        self._own: dict[str, Traces] = {}
        self._drawn: dict[str, _Drawn] = {}
        self._is_tracing = False

    def set_log(self, given: Mapping[str, object]) -> dict[str, Value]:
        """Change what is given (null leaves as is) and tell all.

        Raises:
            InvalidRequest: an unknown setting, or a value it cannot have; nothing was changed.
            Unimplemented: `log_file`.
        """
        changed: dict[str, Value] = {}
        for name, value in given.items():
            if value is not None:
                changed[name] = _log_value(name, value)
        self.log = replace(self.log, **changed)  # type: ignore[arg-type]
        if changed:
            for name in _LOGGERS:
                logging.getLogger(name).setLevel(self.log.level)
        return self.log.shown()

    def set_trace(self, model: str, given: Mapping[str, Sequence[str] | None]) -> Traces:
        """Change what is given for one model, or for all ("" as its name), and tell all of it.

        An empty value, or null, clears: back to the settings for all, or to the defaults.

        Raises:
            InvalidRequest: an unknown setting, or a value it cannot have; nothing was changed.
            Unimplemented: `trace_file` and `trace_mode`.
        """
        base = self._trace if model else _TRACE
        own = dict(self._own.get(model, {}) if model else self._trace)
        for name, values in given.items():
            if name not in _TRACE:
                raise _refuse(f"unknown trace setting '{name[:64]}'; there are {', '.join(_TRACE)}")
            if not values:
                own.pop(name, None)
                if not model:
                    own[name] = base[name]
                continue
            own[name] = _trace_value(name, values)
        if not model:
            self._trace = own
        elif own:
            if model not in self._own and len(self._own) >= _MAX_MODELS:
                raise _refuse(f"more than {_MAX_MODELS} models have trace settings of their own")
            self._own[model] = own
        else:
            self._own.pop(model, None)
        for name in [model] if model else list(self._drawn):
            self._drawn.pop(name, None)  # new settings, new count
        self._is_tracing = any(
            said.get("trace_level", ["OFF"]) != ["OFF"]
            for said in (self._trace, *self._own.values())
        )
        return {**self._trace, **own}

    def traced(self, model: str) -> Sequence[str]:
        """The levels at which to trace this request of a model that is served; mostly none."""
        if not self._is_tracing:
            return ()
        said = {**self._trace, **self._own.get(model, {})}
        levels = said["trace_level"]
        if levels == ["OFF"]:
            return ()
        drawn = self._drawn.setdefault(model, _Drawn())
        drawn.seen += 1
        rate, count = int(str(said["trace_rate"])), int(str(said["trace_count"]))
        if rate == 0 or drawn.seen % rate or 0 <= count <= drawn.traced:
            return ()
        drawn.traced += 1
        return levels


@dataclass(slots=True)
class _Drawn:
    seen: int = 0
    traced: int = 0


_TRACE: Traces = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
"""Triton's defaults."""


def _log_value(name: str, value: object) -> Value:
    if name == "log_file":
        raise Unimplemented(
            "log file location can not be updated through network protocol", reason="bad_setting"
        )
    if name in ("log_info", "log_warning", "log_error"):
        if not isinstance(value, bool):
            raise _refuse(f"'{name}' must be true or false")
        return value
    if name == "log_verbose_level":
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _INT32_MAX:
            raise _refuse("'log_verbose_level' must be a whole number of at least 0")
        return value
    if name == "log_format":
        if value not in ("default", "ISO8601"):
            raise _refuse(f"invalid argument for log_format, got: {str(value)[:64]}")
        return str(value)
    raise _refuse(
        f"unknown log setting '{name[:64]}'; there are {', '.join(LogSettings().shown())}"
    )


def _trace_value(name: str, values: Sequence[str]) -> str | list[str]:
    if name == "trace_level":
        if unknown := [v for v in values if v not in _LEVELS]:
            raise _refuse(
                f"unknown trace level '{unknown[0][:64]}'; there are {', '.join(_LEVELS)}"
            )
        if "OFF" in values and len(values) > 1:
            raise _refuse("Expect only one trace level 'OFF' is specified")
        return list(values)
    if len(values) != 1:
        raise _refuse(f"'{name}' takes one value, got {len(values)}")
    value = values[0]
    if name == "trace_file":
        raise Unimplemented(
            "trace file location can not be updated through network protocol", reason="bad_setting"
        )
    if name == "trace_mode":
        raise Unimplemented(
            "trace mode can not be updated through network protocol", reason="bad_setting"
        )
    low, high = _RANGES[name]
    try:
        number = int(value) if len(value) < 12 else high + 1
    except ValueError:
        raise _refuse(f"Unable to parse '{name}', got: {value[:64]}") from None
    if not low <= number <= high:
        raise _refuse(
            f"Unable to parse '{name}', value is out of range [ {low}, {high} ], got: {value[:64]}"
        )
    return str(number)
