"""What kubelet, containerd and the network plugins of the real node are told."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.api import Json
from tests.cluster.slots import Slot

PAUSE = "localhost/tests/pause:1"
"""The sandbox of each pod: a program of our own (binaries/tiny), as there is no registry."""


def kubelet_config(slot: Slot, runtime: Path) -> Json:
    """KubeletConfiguration."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{runtime}",
        "address": f"{slot.node_subnet}.2",
        "healthzBindAddress": "127.0.0.1",
        # Only this machine reaches it, over the link; who may use the link is root here.
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "registerNode": True,
        # Quick: seconds where Kubernetes has tens of them.
        "nodeStatusUpdateFrequency": "2s",
        "nodeStatusReportFrequency": "10s",
        "syncFrequency": "1s",
        "crashLoopBackOff": {"maxContainerRestartPeriod": "5s"},
        "serializeImagePulls": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{slot.cgroup}",
        "cgroupsPerQOS": True,
        "enforceNodeAllocatable": ["pods"],
        # Version 1 works up to this release at least, though no longer by default.
        "failCgroupV1": False,
        "failSwapOn": False,
        "memorySwap": {},
        # No kube-proxy and no iptables here.
        "makeIPTablesUtilChains": False,
        # A machine may lack CAP_SYS_RESOURCE; nobody's score is lowered then.
        "oomScoreAdj": 0,
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "100Mi"},
        "localStorageCapacityIsolation": False,
        "resolvConf": str(slot.folder / "node" / "resolv.conf"),
        "clusterDNS": [],
        "rotateCertificates": False,
        "volumePluginDir": str(slot.folder / "node" / "plugins"),
        "logging": {"verbosity": 2},
    }


def containerd_config(slot: Slot, socket: Path, plugins: Path, networks: Path) -> str:
    """config.toml, for containerd 1.6 and 1.7 (version 2 of the format; 2.x reads it, too)."""
    at = slot.folder / "node" / "containerd"
    return f"""version = 2
root = "{at}/root"
state = "{at}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.internal.v1.opt"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{networks}"
"""


def cni_config(slot: Slot) -> Json:
    """One bridge, the slot's pod addresses, a default route that ends at the bridge."""
    ranges = [[{"subnet": f"{slot.pod_subnet}.0/24", "gateway": f"{slot.pod_subnet}.1"}]]
    bridge = {
        "type": "bridge",
        "bridge": "pods",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(slot.folder / "node" / "addresses"),
            "ranges": ranges,
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}
