"""The knobs of the reconcile loops."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.core.analysis import AnalysisSettings
from gateway.core.autoscale import AutoscaleSettings


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

    often_asked: int = 500
    """Replicas up to which they report as often as that. Each of a larger fleet does so more
    seldom, all together as often: a report costs 0.1 ms of the loop that serves requests. What a
    replica is told reaches it at once however many there are."""

    missed_reports: int = 3
    """Reports missed in a row before a replica counts as holding nothing. One is missed by a
    replica whose machine is busy loading; requests find out for themselves within milliseconds."""

    retell_s: float = 5.0
    """A replica that shows no trace of what it was told for this long is told again: it may have
    been restarted behind its address."""

    resync_s: float = 5.0
    """Everything is decided anew this often, whatever was or was not heard."""

    rollout_look_s: float = 0.25
    """The same while a rollout is under way: so much longer a canary that is worse answers."""

    analysis: AnalysisSettings = field(default_factory=AnalysisSettings)
    autoscale: AutoscaleSettings = field(default_factory=AutoscaleSettings)

    error_retry_s: float = 1.0
    """Wait after a tick that ended in an error."""

    drain_s: float = 60.0
    """Longest wait for the data planes to let go of a replica or version that left the table.
    Twice the default deadline of a request."""

    shown_versions: int = 50
    """Versions shown of each model beyond those that are loaded or wanted; a source may have
    thousands."""


@dataclass(frozen=True, slots=True)
class MemberSettings:
    """How gateways that share a store keep in touch."""

    beat_s: float = 1.0
    """Each says what is true of it so often, if nothing happens."""

    busy_beat_s: float = 0.25
    """The same while others wait for its word: a rollout is under way, or it uses what has left the
    table."""

    least_s: float = 0.02
    """Between two, however much happens."""

    gone_s: float = 15.0
    """Silent for so long, a gateway is waited for no longer: as long as a leader's lease."""

    view_s: float = 0.2
    """What people see of a model (progress) is made known to the others so much later at most;
    what they answer by is at once."""

    retry_s: float = 1.0
    """After the store did not answer."""

    order_s: float = 8.0
    """How long a follower waits for the leader to do what it was asked for. The leader hears of it
    at once; if it has just died, the next one takes longer, and the caller tries again."""

    order_look_s: float = 0.05
