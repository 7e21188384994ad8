"""Wait until a model has become what was asked for, and say meanwhile where it stands.

`judge` and `describe` are pure: one look at the API's objects in, a verdict or a line of text out.
The loop around them looks again whenever an event of the model arrives, and at least every second,
because bytes fetched are no events.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from gateway.cli.output import bytes_text, console, say
from gateway.domain.errors import GatewayError, NotFound, Unavailable, UpstreamFailed

if TYPE_CHECKING:
    from rich.progress import Progress

    from gateway.client.control import ControlClient

Object = dict[str, Any]
LOOK_S = 1.0
FAILED_FOR_S = 2.0
"""A failure must stand this long to end the wait: a replica that crashed once is restarted."""
PATIENCE_S = 60.0
"""Seconds that the gateway may be away (a restart) before waiting ends."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the API says of one model now."""

    model: Object
    versions: Sequence[Object]
    replicas: Sequence[Object]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Waiting is over."""

    good: bool
    words: str


class WaitingFailed(GatewayError):
    """The model will not become what was asked for by itself; `message` says why and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="deploy_failed")


def judge(look: Look, generation: int) -> Verdict | None:
    """Whether the wait for `generation` is over.

    A model that answers with an older version while its newest is kept out has failed too: what was
    asked for is not there, and only a person can change that.
    """
    model, name = look.model, look.model["name"]
    if model["generation"] < generation:
        return None
    state, reason = model["state"], model["reason"] or ""
    if state in ("ready", "idle"):
        return Verdict(True, "")
    kept_out = [v for v in look.versions if v["state"] == "failed" and v["in_source"]]
    advice = f"Look closer with: gateway describe model {name} · gateway logs {name}"
    if state == "failed":
        why = reason or (kept_out[0]["reason"] if kept_out else "") or "no reason is known"
        return Verdict(False, f"{name} cannot answer: {_sentence(why)} {advice}")
    newest = max((v["version"] for v in look.versions if v["in_source"]), default=None)
    if state == "degraded" and any(v["version"] == newest for v in kept_out):
        bad = next(v for v in kept_out if v["version"] == newest)
        return Verdict(
            False,
            f"Version {newest} of {name} is kept out: "
            f"{_sentence(bad['reason'] or reason or 'no reason is known')} "
            f"Version {model['live_version']} still answers. {advice}",
        )
    if state == "deleting":
        return Verdict(False, f"{name} is being deleted by somebody else.")
    return None


def describe(look: Look) -> str:
    """`fetching 312/480 MB · ready 0/3`."""
    model = look.model
    parts = []
    working = _working(look)
    if working is not None:
        waits = working["reason"] or "starting"
        phase = working["phase"] or (waits if working["state"] == "new" else working["state"])
        total, done = working["total_bytes"], working["fetched_bytes"]
        if phase == "fetching" and total:
            parts.append(f"fetching {_of(done or 0, total)}")
        else:
            parts.append(str(phase))
    elif model["state"] == "deploying":
        parts.append(str(model["reason"] or "deploying"))
    elif model["state"] not in ("ready", "idle"):
        parts.append(": ".join(filter(None, (model["state"], model["reason"]))))
    parts.append(f"ready {model['ready_replicas']}/{model['replicas']}")
    held_up = next((r["reason"] for r in look.replicas if r["state"] == "starting"), None)
    if held_up and held_up not in parts[0]:
        parts.append(held_up)
    return " · ".join(parts)


def _working(look: Look) -> Object | None:
    """The newest version that is on its way."""
    busy = [v for v in look.versions if v["state"] in ("new", "fetching", "loading") or v["phase"]]
    busy = [v for v in busy if v["state"] not in ("ready", "failed", "gone", "draining")]
    return max(busy, key=lambda v: int(v["version"]), default=None)


def _of(done: int, total: int) -> str:
    """`312/480 MB`, in the unit of the total."""
    text = bytes_text(total)
    units = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "kB": 10**3, "B": 1}
    value = done / units[text.split()[1]]
    return f"{value:.1f}/{text}" if "." in text else f"{value:.0f}/{text}"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


# ---- showing --------------------


class Display(Protocol):
    """Shows where a deployment stands."""

    def show(self, look: Look) -> None: ...

    def close(self) -> None: ...


class PlainDisplay:
    """A line on stderr whenever something changed; of fetched bytes only every tenth part."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: tuple[Any, ...] = ()

    def show(self, look: Look) -> None:
        """Print unless it says what the last line said."""
        working = _working(look)
        total = working["total_bytes"] if working else None
        key: tuple[Any, ...]
        if working and total:
            done = 10 * (working["fetched_bytes"] or 0) // total
            key = (working["version"], done, working["phase"], look.model["ready_replicas"])
        else:
            key = (describe(look),)
        if key != self._last:
            self._last = key
            say(f"{self._name}: {describe(look)}")

    def close(self) -> None:
        """Nothing is left open."""


class LiveDisplay:
    """One line on the terminal that is drawn anew."""

    def __init__(self, name: str) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._progress: Progress = Progress(
            SpinnerColumn(),
            TextColumn(name, style="bold", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("asking", total=None)
        self._progress.start()

    def show(self, look: Look) -> None:
        """Draw."""
        working = _working(look)
        total = working["total_bytes"] if working else None
        done = working["fetched_bytes"] if working else None
        if not total:
            total, done = look.model["replicas"], look.model["ready_replicas"]
        self._progress.update(
            self._task, description=describe(look), total=total or None, completed=done or 0
        )

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()


def display_for(name: str) -> Display:
    """Live on a terminal, lines elsewhere."""
    return LiveDisplay(name) if sys.stderr.isatty() else PlainDisplay(name)


# ---- waiting --------------------


async def look_at(control: ControlClient, name: str) -> Look:
    """One look."""
    model = await control.model(name)
    return Look(model, await control.versions(name), await control.replicas(name))


async def wait_ready(
    control: ControlClient, name: str, generation: int, timeout_s: float, display: Display
) -> Look:
    """Return once the model is ready at `generation`.

    Raises:
        WaitingFailed: it cannot become ready, was deleted, or `timeout_s` passed.
        Unavailable: the gateway was away for PATIENCE_S.
    """
    happened = asyncio.Event()
    newest = await control.events(limit=1)
    after = newest[-1]["seq"] if newest else 0
    try:
        async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
            listener = group.create_task(_listen(control, name, after, happened))
            # Kept and raised below: a group would wrap it.
            outcome = await _outcome(_look_until(control, name, generation, happened, display))
            listener.cancel()
    except TimeoutError as error:
        raise WaitingFailed(
            f"{name} is not ready after {timeout_s:g} s. The deployment goes on; watch it with: "
            f"gateway get models {name} --watch · why: gateway describe model {name}"
        ) from error
    if isinstance(outcome, GatewayError):
        raise outcome
    return outcome


async def _outcome(looking: Coroutine[Any, Any, Look]) -> Look | GatewayError:
    try:
        return await looking
    except GatewayError as error:
        return error


async def _look_until(
    control: ControlClient, name: str, generation: int, happened: asyncio.Event, display: Display
) -> Look:
    loop = asyncio.get_running_loop()
    seen_at = loop.time()
    failed_at: float | None = None
    while True:
        happened.clear()
        try:
            look = await look_at(control, name)
        except NotFound as error:
            raise WaitingFailed(f"{name} was deleted while it was being deployed.") from error
        except (Unavailable, UpstreamFailed) as error:
            if loop.time() - seen_at > PATIENCE_S:
                raise Unavailable(
                    f"{error.message} The deployment was accepted and goes on when the gateway is "
                    "back.",
                    reason=error.reason,
                ) from error
        else:
            seen_at = loop.time()
            display.show(look)
            verdict = judge(look, generation)
            if verdict is None:
                failed_at = None
            elif verdict.good:
                return look
            elif failed_at is None:
                failed_at = seen_at
            elif seen_at - failed_at >= FAILED_FOR_S:
                raise WaitingFailed(verdict.words)
        try:
            async with asyncio.timeout(LOOK_S):
                await happened.wait()
        except TimeoutError:
            continue


async def _listen(control: ControlClient, name: str, after: int, happened: asyncio.Event) -> None:
    """Ring whenever something happens to the model. Without events, the looks go on."""
    try:
        async with aclosing(control.watch(after=after, model=name)) as events:
            async for _ in events:
                happened.set()
    except GatewayError:
        # The looks meet the same trouble and tell it better.
        return
