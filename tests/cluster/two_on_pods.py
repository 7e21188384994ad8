"""Two real gateways on one PostgreSQL and one namespace. Each has a service account of its own: the
audit log tells which of them did what, their own logs which of them led."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.cluster.audit import Call
from tests.cluster.control_plane import ControlPlane
from tests.cluster.gateway_on_pods import OnPods, prepared
from tests.cluster.waiting import until


@dataclass
class Pair:
    """Both of them, and the time from which on all that they do is looked at."""

    one: OnPods
    two: OnPods
    mark: int

    def by_role(self) -> tuple[OnPods, OnPods]:
        """The leader and the follower, at this moment."""
        until(lambda: leads(self.one) != leads(self.two))
        return (self.one, self.two) if leads(self.one) else (self.two, self.one)

    def writes(self, mark: int | None = None, **wanted: str) -> list[Call]:
        """What either of them has written since."""
        users = {self.one.user, self.two.user}
        calls = self.one.cluster.audit.since(self.mark if mark is None else mark, **wanted)
        return [c for c in calls if c.is_write and c.user in users]

    def check_who_wrote(self) -> None:
        """Each write arrived after its author began to lead, and before the other one did."""
        begun = sorted((at, g.user) for g in (self.one, self.two) for at in _led_from(g))
        for call in self.writes():
            at = datetime.fromisoformat(call.at)
            leaders = [user for since, user in begun if since <= at]
            assert leaders, f"written before anybody led: {call}"
            assert call.user == leaders[-1], f"not by the leader, {leaders[-1]}: {call}"


@contextlib.contextmanager
def two_on_pods(
    cluster: ControlPlane, namespace: str, folder: Path, database: str, lease_s: float
) -> Iterator[Pair]:
    """Both run until the end of the block."""
    env = {"GATEWAY_DATABASE_URL": database}
    one, two = (
        prepared(cluster, namespace, folder, "--lease-s", str(lease_s), account=account, env=env)
        for account in ("gateway-one", "gateway-two")
    )
    mark = cluster.audit.mark()
    with contextlib.ExitStack() as stack:
        for each in (one, two):
            stack.callback(each.gateway.stop)
            each.gateway.start(timeout_s=120.0)
        yield Pair(one, two, mark)


def role(of: OnPods) -> dict[str, Any]:
    """What it says of who leads."""
    return of.gateway.role()


def leads(of: OnPods) -> bool:
    return bool(role(of)["role"] == "leader")


def _led_from(of: OnPods) -> list[datetime]:
    """When each of its terms began. Cut to milliseconds, so never later than it was."""
    lines = of.gateway.log_file.read_text().splitlines()
    return [datetime.fromisoformat(x.split()[0]) for x in lines if " gateway.leading " in x]
