"""A container of a pod on a made node: a plain process that is told its address and folders."""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from tests.cluster.api import Api, Json
from tests.cluster.probes import Probe
from tests.cluster.programs import PROJECT
from tests.cluster.slots import MARK

KEPT = ("PATH", "LANG", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Of the tests' own environment. The rest, credentials among it, is no container's business."""

LONGEST_PAUSE_S = 5.0
"""Between restarts, doubled from 0.5 s. Kubernetes' own: from 10 s to 5 minutes."""


@dataclass
class Surroundings:
    """What all containers of one pod share."""

    api: Api
    pod: Json
    images: Mapping[str, Sequence[str]]
    address: str
    folder: Path
    mark: str
    """The slot's, by which stray processes are found."""

    def data(self, kind: str, name: str) -> dict[str, str]:
        """The entries of a `secret` or `configMap` of the pod's namespace."""
        namespace = self.pod["metadata"]["namespace"]
        found = self.api.get(f"{kind.lower()}s", namespace, name).get("data", {})
        if kind == "secret":
            return {k: base64.b64decode(v).decode() for k, v in found.items()}
        return dict(found)

    def volume(self, name: str) -> Path:
        """What stands for a volume: the host's own path, or a folder of the pod."""
        volume = next(v for v in self.pod["spec"]["volumes"] if v["name"] == name)
        if "hostPath" in volume:
            return Path(volume["hostPath"]["path"])
        folder = self.folder / "volumes" / name
        if not folder.exists():
            folder.mkdir(parents=True)
            for kind, key in (("secret", "secretName"), ("configMap", "name")):
                if kind in volume:
                    for entry, text in self.data(kind, volume[kind][key]).items():
                        (folder / entry).write_text(text)
        return folder


class MadeContainer:
    """A process that is started again after it ended, as often as it takes."""

    def __init__(self, spec: Json, around: Surroundings) -> None:
        self.spec = spec
        self.around = around
        self.name = str(spec["name"])
        self.restarts = -1
        self.last_code: int | None = None
        self.trouble = "ContainerCreating"
        """Why it does not run, in a kubelet's word."""
        self.log = around.folder / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._again_at = 0.0
        self._probes: dict[str, Probe] = {}

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def code(self) -> int | None:
        """Of the last process; None while it runs or before it ran."""
        return None if self._process is None else self._process.poll()

    @property
    def is_ready(self) -> bool:
        """Started and, where it has such probes, probed."""
        probes = (self._probes.get(kind) for kind in ("startupProbe", "readinessProbe"))
        return self.is_running and all(p is None or p.passed for p in probes)

    def status(self) -> Json:
        """As a kubelet reports it."""
        code = self.code
        startup = self._probes.get("startupProbe")
        state: Json
        if self.is_running:
            state = {"running": {}}
        elif code is not None and self._again_at == 0.0:
            state = self._terminated(code)
        else:
            state = {"waiting": {"reason": self.trouble}}
        return {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": "",
            "ready": self.is_ready,
            "started": self.is_running and (startup is None or startup.passed is True),
            "restartCount": max(0, self.restarts),
            "state": state,
            "lastState": {} if self.last_code is None else self._terminated(self.last_code),
        }

    def _terminated(self, code: int) -> Json:
        # The shell's convention, as container runtimes have it: 137 for SIGKILL.
        number = code if code >= 0 else 128 - code
        ended = {"exitCode": number, "reason": "Error" if number else "Completed"}
        if number and self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            # 2048 bytes or 80 lines, whichever is less (kubelet, fallback to logs)
            said = self.log.read_bytes()[-2048:].decode(errors="replace")
            ended["message"] = "\n".join(said.splitlines()[-80:])
        return {"terminated": ended}

    def look(self) -> None:
        """Start it if it does not run and may; ask its probes."""
        now = perf_counter()
        if not self.is_running:
            if self.code is not None and self._again_at == 0.0:
                self._ended(now)
            if now >= self._again_at:
                self._start(now)
            return
        startup = self._probes.get("startupProbe")
        if startup is not None and not startup.passed:
            if startup.look(now) is False:
                self.signal(signal.SIGKILL)
            return
        if (ready := self._probes.get("readinessProbe")) is not None:
            ready.look(now)
        live = self._probes.get("livenessProbe")
        if live is not None and live.look(now) is False:
            self.signal(signal.SIGKILL)

    def _ended(self, now: float) -> None:
        self.last_code = self.code
        self.trouble = "CrashLoopBackOff"
        self._again_at = now + min(LONGEST_PAUSE_S, 0.5 * 2 ** min(self.restarts, 10))

    def _start(self, now: float) -> None:
        command = self.command()
        if command is None:
            self.trouble = "ErrImageNeverPull"
            return
        environ = {k: os.environ[k] for k in KEPT if k in os.environ}
        # onnxruntime reports home unless told not to; our images say the same.
        environ |= {"HOME": str(self.around.folder), "ORT_DISABLE_TELEMETRY": "1"}
        environ |= {MARK: self.around.mark, **self.environ()}
        self.restarts += 1
        self._again_at = 0.0
        with self.log.open("ab") as output:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=PROJECT,
                    env=environ,
                    start_new_session=True,
                )
            except OSError as error:
                output.write(f"{error}\n".encode())
                self.trouble, self._again_at = "RunContainerError", now + LONGEST_PAUSE_S
                return
        self._probes = {
            kind: Probe(self.spec[kind], self.around.address, self.port, self.run, now)
            for kind in ("startupProbe", "readinessProbe", "livenessProbe")
            if kind in self.spec
        }

    def signal(self, number: signal.Signals) -> None:
        """To the process and all it has started."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def wait(self) -> None:
        """Until it is gone; it was killed before."""
        if self._process is not None:
            self._process.wait()

    def run(self, command: Sequence[str], longest_s: float = 10) -> bool:
        """A command in the container, as `kubectl exec`; whether it exited with 0 in time."""
        environ = {k: os.environ[k] for k in KEPT if k in os.environ} | self.environ()
        words = [self._seen(w, environ) for w in command]
        try:
            done = subprocess.run(
                words,
                cwd=PROJECT,
                env={**environ, MARK: self.around.mark},
                capture_output=True,
                check=False,
                timeout=longest_s,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0

    def port(self, port: object) -> int:
        """A port's number; it may be given by its name in `ports`."""
        named = {p.get("name"): p["containerPort"] for p in self.spec.get("ports", [])}
        return int(named.get(port, port))

    def command(self) -> list[str] | None:
        """What to run; None where the image is not among those that were given."""
        image = self.around.images.get(self.spec["image"])
        if image is None:
            return None
        program = self.spec.get("command") or list(image)
        environ = self.environ()
        words = [self._seen(w, environ) for w in [*program, *self.spec.get("args", [])]]
        # A container's `python` is the one that runs the tests.
        return [sys.executable if w in ("python", "python3") else w for w in words]

    def environ(self) -> dict[str, str]:
        """The container's own variables."""
        found: dict[str, str] = {}
        for source in self.spec.get("envFrom", []):
            kind = "secret" if "secretRef" in source else "configMap"
            entries = self.around.data(kind, source[f"{kind}Ref"]["name"])
            found |= {source.get("prefix", "") + key: text for key, text in entries.items()}
        for entry in self.spec.get("env", []):
            value = entry.get("value", "")
            if "valueFrom" in entry:
                value = self._value(entry["valueFrom"])
            if value is not None:
                found[entry["name"]] = self._seen(value, found)
        return found

    def _value(self, source: Json) -> str | None:
        if field := source.get("fieldRef"):
            return self._field(field["fieldPath"])
        for kind in ("secret", "configMap"):
            if ref := source.get(f"{kind}KeyRef"):
                return self.around.data(kind, ref["name"]).get(ref["key"])
        return ""

    def _field(self, path: str) -> str:
        if path in ("status.podIP", "status.hostIP"):
            return self.around.address
        keyed = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
        if keyed:
            return str(self.around.pod["metadata"].get(keyed[1], {}).get(keyed[2], ""))
        value: Any = self.around.pod
        for part in path.split("."):
            value = value.get(part, {})
        return str(value or "")

    def _seen(self, text: str, environ: Mapping[str, str]) -> str:
        """A word of the container in this machine's terms."""
        text = re.sub(r"\$\((\w+)\)", lambda m: environ.get(m[1], m[0]), text)
        for of_pod in ("0.0.0.0", "[::]", "127.0.0.1"):
            text = text.replace(of_pod, self.around.address)
        folders = {
            mount["mountPath"].rstrip("/"): self.around.volume(mount["name"])
            / mount.get("subPath", "")
            for mount in self.spec.get("volumeMounts", [])
        }
        if not folders:
            return text
        # A checkout may lie under /tmp, and its own programs are no files of the volume.
        ours = "".join(rf"(?!{re.escape(str(path))}\b)" for path in (PROJECT, sys.prefix))
        # In one go: the folder of one volume may lie below the mount path of another.
        mounted = "|".join(re.escape(at) for at in sorted(folders, key=len, reverse=True))
        return re.sub(
            rf"(?<![\w./-]){ours}({mounted})(?![\w.-])", lambda m: str(folders[m[1]]), text
        )
