"""Who may talk to the API server: certificates, tokens, kubeconfigs.

Each part has an identity of its own, so that the audit log tells who did what.
"""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MASTERS = "system:masters"

USERS = {
    "tests": MASTERS,  # what a test does itself
    "made-nodes": MASTERS,  # made_nodes.py
    "system:kube-scheduler": "",  # its rights come with its name
    # With a service account per controller it would have least rights; that takes seconds to start.
    "system:kube-controller-manager": MASTERS,
    "nobody": "",  # known, without any right
    "system:node:real-node": "system:nodes",
}


@dataclass(frozen=True, slots=True)
class Identities:
    """Files for the API server, and a token for each of USERS."""

    folder: Path
    tokens: Mapping[str, str]

    @property
    def ca(self) -> Path:
        """What clients trust."""
        return self.folder / "ca.crt"

    @property
    def cert(self) -> Path:
        """What the API server shows; its key is beside it."""
        return self.folder / "server.crt"

    @property
    def key(self) -> Path:
        return self.folder / "server.key"

    @property
    def service_account_key(self) -> Path:
        """Signs the tokens of service accounts."""
        return self.folder / "sa.key"

    @property
    def token_file(self) -> Path:
        return self.folder / "tokens.csv"


def make_identities(folder: Path, addresses: list[str]) -> Identities:
    """Certificates for `addresses` and tokens, all new."""
    folder.mkdir(mode=0o700)
    names = ["DNS:localhost", "DNS:kubernetes", "DNS:kubernetes.default.svc"]
    alt = ",".join([*names, *(f"IP:{a}" for a in addresses)])
    ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    _openssl(folder, "req", "-x509", *ec, "-subj", "/CN=gateway-tests-ca", "-keyout", "ca.key",
             "-out", "ca.crt", "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
    _openssl(folder, "req", "-x509", *ec, "-subj", "/CN=kube-apiserver", "-keyout", "server.key",
             "-out", "server.crt", "-CA", "ca.crt", "-CAkey", "ca.key",
             "-addext", "basicConstraints=critical,CA:FALSE",
             "-addext", f"subjectAltName={alt}")  # fmt: skip
    _openssl(folder, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "sa.key")
    tokens = {user: secrets.token_hex(16) for user in USERS}
    lines = [f'{tokens[u]},{u},{u},"{groups}"\n' for u, groups in USERS.items()]
    made = Identities(folder, tokens)
    made.token_file.write_text("".join(lines))
    return made


def _openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        ["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"openssl {arguments[0]} failed: {done.stderr[-500:]}")


def write_kubeconfig(
    path: Path, server: str, ca: Path, token: str, namespace: str = "default"
) -> Path:
    """A kubeconfig that any client of Kubernetes reads. (JSON is YAML.)"""
    cluster = {"server": server, "certificate-authority": str(ca)}
    context = {"cluster": "tests", "user": "tests", "namespace": namespace}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": cluster}],
        "users": [{"name": "tests", "user": {"token": token}}],
        "contexts": [{"name": "tests", "context": context}],
        "current-context": "tests",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=1))
    return path
