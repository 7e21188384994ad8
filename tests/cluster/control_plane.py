"""A real Kubernetes control plane: etcd, API server, scheduler and controller manager.

    with control_plane() as cluster:
        cluster.api.list("nodes")
        gateway(env={"KUBECONFIG": str(cluster.kubeconfig("tests"))})
        cluster.stop("kube-apiserver")

Importable without pytest. RBAC is on, service accounts are real, every call is in the audit log.
How it differs from a production cluster, to make tests quick, is written in commands.py.
"""

from __future__ import annotations

import contextlib
import http.client
import signal
import ssl
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from time import sleep

from tests.cluster.api import Api, path_of
from tests.cluster.audit import Audit
from tests.cluster.commands import SERVICE_ADDRESS, parts_of
from tests.cluster.identities import Identities, make_identities, write_kubeconfig
from tests.cluster.part import Part
from tests.cluster.programs import CONTROL_PLANE
from tests.cluster.slots import Slot, taken_slot
from tests.cluster.sweeper import swept
from tests.cluster.waiting import until

READY_S = 120.0
"""Usually 5 to 10 s; a machine that compiles something beside it takes far longer."""


class ControlPlane:
    """The running control plane. Parts are named as their programs."""

    def __init__(self, slot: Slot, identities: Identities) -> None:
        self.slot = slot
        self.identities = identities
        self.url = f"https://{slot.address}:6443"
        self.audit = Audit(slot.folder / "audit.log")
        self.parts = {p.name: p for p in parts_of(slot, identities)}
        self.api = self.client("tests")
        self._names = count(1)

    def client(self, user: str) -> Api:
        """The API as one of identities.USERS; the caller closes it."""
        return Api(self.url, self.identities.tokens[user], self.identities.ca, user)

    def kubeconfig(self, user: str = "tests") -> Path:
        """A kubeconfig for one of identities.USERS."""
        path = self.slot.folder / f"{user.replace(':', '-')}.kubeconfig"
        return write_kubeconfig(path, self.url, self.identities.ca, self.identities.tokens[user])

    def service_account(self, namespace: str, name: str, lasts_s: int = 3600) -> Path:
        """A kubeconfig for a service account that exists, with a token from the API server."""
        body = {"spec": {"expirationSeconds": lasts_s}}
        path = path_of("serviceaccounts", namespace, name, "token")
        token = self.api.call("POST", path, body)["status"]["token"]
        file = self.slot.folder / f"{namespace}-{name}.kubeconfig"
        return write_kubeconfig(file, self.url, self.identities.ca, token, namespace)

    def namespace(self, name: str | None = None) -> str:
        """A new namespace in which pods can be made: its default service account is there."""
        name = name or f"test-{next(self._names)}"
        self.api.create("namespaces", None, {"metadata": {"name": name}})
        until(lambda: self.api.get("serviceaccounts", name, "default"))
        return name

    def stop(self, *names: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End parts, by default without a word."""
        for name in names:
            self.parts[name].stop(how)

    def start(self, *names: str) -> None:
        """Start parts (default: all), with their data and addresses, and wait until ready."""
        wanted = [n for n in CONTROL_PLANE if n in (names or CONTROL_PLANE)]
        for name in wanted:
            self.parts[name].start()
            if name in ("etcd", "kube-apiserver"):  # the others give up if they wait long for them
                self.wait_ready(name)
        self.wait_ready(*wanted)

    def restart(self, *names: str) -> None:
        """SIGKILL, then start."""
        self.stop(*names)
        self.start(*names)

    def wait_ready(self, *names: str) -> None:
        """Wait until parts (default: all) say that they are ready.

        One that has ended by itself is started again, as on any node: the scheduler and the
        controller manager do so where a busy API server does not answer them within 10 s.

        Raises:
            RuntimeError: one is stopped, or not ready in READY_S; with the end of its log.
        """
        for name in names or CONTROL_PLANE:
            part = self.parts[name]
            try:
                until(partial(_is_ready, self, part), READY_S, partial(revived, part))
            except TimeoutError:
                state = "not ready" if part.is_wanted else "stopped"
                raise RuntimeError(f"{name} is {state}. Its log ends:\n{part.said()}") from None


@contextlib.contextmanager
def control_plane() -> Iterator[ControlPlane]:
    """Start all four on a free slot; at the end, or after this process's, nothing is left.

    Raises:
        RuntimeError: a program is missing (`need_programs` tells beforehand) or does not start.
    """
    with taken_slot() as slot, swept(slot):
        addresses = [slot.address, SERVICE_ADDRESS]
        cluster = ControlPlane(slot, make_identities(slot.folder / "identities", addresses))
        with contextlib.closing(cluster.api):
            try:
                cluster.start()
                until(lambda: cluster.api.get("serviceaccounts", "default", "default"))
                yield cluster
            finally:
                for part in cluster.parts.values():
                    part.stop()


def revived(part: Part) -> bool:
    """Start a part again that has ended by itself; whether it is still wanted."""
    if part.is_wanted and not part.is_running:
        sleep(0.5)  # one that cannot start is not started a thousand times
        part.start()
    return part.is_wanted


def _is_ready(cluster: ControlPlane, part: Part) -> bool:
    if part.name == "kube-apiserver":
        return cluster.api.text("GET", "/readyz") == "ok"
    host = cluster.slot.address
    connection: http.client.HTTPConnection
    if part.name == "etcd":
        connection, path = http.client.HTTPConnection(host, 2379, timeout=5), "/health"
    else:
        port = {"kube-scheduler": 10259, "kube-controller-manager": 10257}[part.name]
        # Their certificates are self-signed, new at each start; nothing secret is asked.
        tls = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(host, port, timeout=5, context=tls)
        path = "/healthz"
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status == 200
