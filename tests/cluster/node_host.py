"""What a real node takes of this machine: two namespaces, a link, cgroups. And whether it may."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.cluster.commands import SERVICE_ADDRESS
from tests.cluster.part import Part
from tests.cluster.slots import Slot
from tests.cluster.sweeper import CGROUPS
from tests.cluster.waiting import until

PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
}
"""Program → Debian's package."""

PLUGINS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))

PACKAGES = "apt-get install containerd runc containernetworking-plugins iproute2 (Linux, as root)"

SETTINGS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}
"""What a kubelet wants of /proc/sys (setupKernelTunables) and would set for the whole machine.
It is shown files that say so already."""


BRIDGE = "0a:58:0a:f4:00:01"
"""Of the pods' bridge. It may be the same on all nodes, which share no link."""


def plugins() -> Path | None:
    """The folder of the CNI plugins."""
    return next((p for p in PLUGINS if (p / "bridge").exists()), None)


def why_not() -> str | None:
    """Why no real node can run here; None if one can."""
    if sys.platform != "linux":
        return "a real node needs Linux"
    if os.geteuid() != 0:
        return "a real node needs root (namespaces, mounts, cgroups)"
    if lacking := sorted({p for name, p in PROGRAMS.items() if shutil.which(name) is None}):
        return f"missing: {', '.join(lacking)}"
    if plugins() is None:
        return "missing: containernetworking-plugins"
    tried = subprocess.run(
        ["unshare", "--mount", "--net", "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        return f"namespaces are not allowed here: {tried.stderr.strip()}"
    if not any(os.access(root, os.W_OK) for root in hierarchies()):
        return "no cgroup hierarchy is mounted and writable under /sys/fs/cgroup"
    return None


def hierarchies() -> list[Path]:
    """The root of each cgroup hierarchy with controllers: many in v1, one in v2."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [p for p in CGROUPS.iterdir() if p.is_dir() and p.name != "unified"]


def make_cgroups(slot: Slot) -> None:
    """The kubelet's root; it makes the rest inside, but not this."""
    for root in hierarchies():
        group = root / slot.cgroup
        group.mkdir(exist_ok=True)
        if root == CGROUPS:
            wanted = (root / "cgroup.controllers").read_text().split()
            for level in (root, group):
                (level / "cgroup.subtree_control").write_text(" ".join(f"+{c}" for c in wanted))
        elif (group / "cpuset.cpus").exists():
            # Version 1 begins with none, and a process in it could run nowhere.
            for name in ("cpuset.cpus", "cpuset.mems"):
                (group / name).write_text((root / name).read_text())


class Namespaces:
    """A network and a mount namespace, kept by a process that only sleeps."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        hold = ["unshare", "--mount", "--net", "--propagation", "private", "sleep", "infinity"]
        self.holder = Part("node-namespaces", slot, hold, mark="node")

    def enter(self, *command: str) -> list[str]:
        """The command that runs `command` inside. `ip netns exec` would hide /sys/fs/cgroup."""
        spaces = [
            f"--{n}=/proc/{self.holder.pid}/ns/{f}" for n, f in (("net", "net"), ("mount", "mnt"))
        ]
        return ["nsenter", *spaces, "--", *command]

    def make(self) -> None:
        """Both, with the link to this machine."""
        self.holder.start()
        home = os.readlink("/proc/self/ns/net")
        until(lambda: os.readlink(f"/proc/{self.holder.pid}/ns/net") != home)
        until(lambda: _comm(self.holder.pid) == "sleep")
        self._mounts()
        self._links()

    def _mounts(self) -> None:
        settings = self._slot.folder / "settings"
        lines = ["mount --make-rshared /"]  # as a kubelet needs it, inside this namespace
        lines += [f"mount -t tmpfs -o mode=755 tmpfs {p}" for p in ("/run", "/var/lib", "/var/log")]
        for name, value in SETTINGS.items():
            file = settings / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n")
            lines.append(f"mount --bind {file} /proc/sys/{name}")
        self._inside("; ".join(lines))

    def _links(self) -> None:
        slot, pods, node = self._slot, self._slot.pod_subnet, self._slot.node_subnet
        _run("ip", "link", "add", slot.link, "type", "veth", "peer", "name", "node", "netns",
             str(self.holder.pid))  # fmt: skip
        _run("ip", "addr", "add", f"{node}.1/30", "dev", slot.link)
        _run("ip", "link", "set", slot.link, "up")
        self._inside(
            "ip link set lo up;"
            f"ip addr add {node}.2/30 dev node; ip link set node up;"
            f"ip addr add {SERVICE_ADDRESS}/32 dev lo;"
            # By itself a bridge takes the lowest address of its ports, another one when a pod comes
            # or goes: all others then send to the old one for up to 40 s.
            f"ip link add pods address {BRIDGE} type bridge;"
            f"ip addr add {pods}.1/24 dev pods; ip link set pods up;"
            "echo 1 > /proc/sys/net/ipv4/ip_forward"
        )
        _run("ip", "route", "add", f"{pods}.0/24", "via", f"{node}.2", "dev", slot.link)
        # Whatever happens to the link: never by the machine's default route.
        _run("ip", "route", "replace", "blackhole", f"{pods}.0/24", "metric", "9999")

    def _inside(self, script: str) -> None:
        _run(*self.enter("sh", "-ec", script))


def _comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
