"""The load that a server reports on its answers, in ORCA's format.

`endpoint-load-metrics: TEXT named_metrics.in_flight=3`, a header over HTTP and a trailer over gRPC
(open request cost aggregation, xds/data/orca/v3; its native and JSON forms as Envoy reads them).
`in_flight` is what the server has taken and not answered, waiting or running, the request that is
being answered not counted.

Few values are written: receivers remember heads by their bytes, so each new one costs a parse.
"""

from __future__ import annotations

import json
import math
import re

LOAD = "endpoint-load-metrics"

LOAD_FORMAT = "endpoint-load-metrics-format"
"""Of requests over HTTP, as in Triton: `json` asks for that form, `text` for the other."""

NO_REPORT = -1

_IN_FLIGHT = re.compile(r"(?:^|[ ,])named_metrics\.in_flight=([0-9]{1,9})(?:\.[0-9]+)?(?=,|$)")
_EXACT = 16
_MAX_VALUE_BYTES = 4096


def load_text(in_flight: int, *, as_json: bool = False) -> str:
    """The value that says it. Exact up to 16, then in steps of an eighth: 81 values up to 4096."""
    said = in_flight
    if in_flight > _EXACT:
        step = 2 ** (int(math.log2(in_flight)) - 3)
        said = in_flight // step * step
    if as_json:
        return f'JSON {{"named_metrics":{{"in_flight":{said}}}}}'
    return f"TEXT named_metrics.in_flight={said}"


def in_flight_of(value: str | None) -> int:
    """What a report says is in flight; NO_REPORT where it does not say, or makes no sense."""
    if not value or len(value) > _MAX_VALUE_BYTES:
        return NO_REPORT
    if value.startswith("JSON "):
        return _of_json(value[5:])
    found = _IN_FLIGHT.search(value.removeprefix("TEXT "))
    return int(found[1]) if found else NO_REPORT


def _of_json(text: str) -> int:
    try:
        said = json.loads(text)["named_metrics"]["in_flight"]
        return int(said) if 0 <= said < 1e9 else NO_REPORT
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return NO_REPORT
