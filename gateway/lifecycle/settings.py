"""The knobs of the reconcile loops."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LifecycleSettings:
    """How often the loops look, and how long they wait."""

    poll_s: float = 5.0
    """Between two looks at a source. A published one answers with 304 to nearly all of them."""

    poll_jitter_ratio: float = 0.1
    """Looks are spread by this share, so that a thousand models do not look in step."""

    first_retry_s: float = 1.0
    last_retry_s: float = 60.0
    """Waits after a look that failed: doubling from the first to the last, jittered, for ever."""

    busy_report_s: float = 0.2
    """Between two reports of a replica that has something on its way: a fifth of a second is what
    a version's going live waits for on average."""

    steady_report_s: float = 1.0
    """The same when nothing is on its way."""

    missed_reports: int = 3
    """Reports missed in a row before a replica counts as holding nothing. One is missed by a
    replica whose machine is busy loading; requests find out for themselves within milliseconds."""

    retell_s: float = 5.0
    """A replica that shows no trace of what it was told for this long is told again: it may have
    been restarted behind its address."""

    resync_s: float = 5.0
    """Everything is decided anew this often, whatever was or was not heard."""

    error_retry_s: float = 1.0
    """Wait after a tick that ended in an error."""

    drain_s: float = 60.0
    """Longest wait for the data planes to let go of a replica or version that left the table.
    Twice the default deadline of a request."""

    shown_versions: int = 50
    """Versions shown of each model beyond those that are loaded or wanted; a source may have
    thousands."""
