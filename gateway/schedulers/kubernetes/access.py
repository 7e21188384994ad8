"""Who we are to which API server: the official client reads it, from a kubeconfig (certificates,
tokens, exec plugins, OpenID) or from the pod's service account, and renews what expires.

Only that part of the client is used. Requests go over one aiohttp session, as JSON in and out: as
the client's model classes 2000 pods would take several times the memory, of which nearly all is
thrown away, and its watch asks again with the version that the server has just called gone.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakSet

import aiohttp

from gateway.domain.errors import InvalidRequest, Unauthorized, Unavailable
from gateway.schedulers.kubernetes.settings import KubernetesSettings

_IN_CLUSTER_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_IN_CLUSTER_VARIABLE = "KUBERNETES_SERVICE_HOST"

# A pod of many containers with its managed fields stays below; etcd takes no object above 1.5 MiB.
_READ_BYTES = 2 * 1024 * 1024

_CLOSED_S = 1.0
"""How long cut connections may take to be gone. It takes some turns of the loop."""


class Sockets:
    """Makes the sockets of a session and sees to it that they end with it.

    aiohttp waits for the connections that are in its pool. Those of watches that we broke off, or
    that a cancelled call was opening, would still be saying goodbye to the server.
    """

    def __init__(self) -> None:
        self._made: WeakSet[socket.socket] = WeakSet()

    def __call__(self, address: tuple[Any, ...]) -> socket.socket:
        """A socket for an address as getaddrinfo tells it."""
        made = socket.socket(*address[:3])
        self._made.add(made)
        return made

    async def end(self) -> None:
        """Cut what is still open, and return when the loop has noticed, within a second. To be
        called when the session is closed."""
        for sock in self._made:
            with suppress(OSError):  # closed, or never connected
                sock.shutdown(socket.SHUT_RDWR)
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSED_S):
                while any(s.fileno() >= 0 for s in self._made):  # noqa: ASYNC110 - they do not tell
                    await asyncio.sleep(0.001)


@dataclass(slots=True)
class Access:
    """A way to one API server. Mutable only in that credentials are renewed."""

    host: str
    namespace: str
    configuration: Any
    kubeconfig: Path | None

    async def headers(self) -> dict[str, str]:
        """What proves who we are, beyond a client certificate. Raises Unavailable where the pod's
        token cannot be read at the moment."""
        try:
            token = await self.configuration.get_api_key_with_prefix("BearerToken")
        except OSError as error:
            raise Unavailable(
                f"The token of the service account cannot be read: {error}",
                reason="kubernetes_unreachable",
            ) from error
        return {"authorization": token} if token else {}

    async def renew(self) -> None:
        """Read the credentials anew: a token has expired, or the file has changed."""
        if self.kubeconfig is None:
            return  # the client reads the service account's token again by itself
        await _from_kubeconfig(self.configuration, self.kubeconfig)

    def session(self, connections: int, sockets: Sockets) -> aiohttp.ClientSession:
        """A session that trusts the server's authority, with our certificate if there is one. It
        makes its connections with `sockets`."""
        known = self.configuration
        context = ssl.create_default_context(cafile=known.ssl_ca_cert)
        if known.cert_file:
            context.load_cert_chain(known.cert_file, keyfile=known.key_file)
        if not known.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        # Authorities of clusters made by hand lack extensions that Python 3.13 insists on.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        connector = aiohttp.TCPConnector(
            ssl=context, limit=connections, keepalive_timeout=60.0, socket_factory=sockets
        )
        return aiohttp.ClientSession(
            self.host, connector=connector, read_bufsize=_READ_BYTES, trust_env=True
        )


async def open_access(settings: KubernetesSettings) -> Access:
    """Find the API server and the credentials for it.

    Raises:
        InvalidRequest: there is no kubeconfig, it cannot be used, or the client library is missing
            (`bad_kubeconfig`); the words say what was tried.
        Unauthorized: its credentials cannot be had (`kubeconfig_expired`).
    """
    try:
        from kubernetes.aio.client import Configuration
        from kubernetes.aio.config import ConfigException, load_incluster_config
    except ImportError as error:
        raise InvalidRequest(
            "--scheduler kubernetes needs the Kubernetes client. "
            "Install it with: pip install 'model-gateway[kubernetes]'",
            reason="bad_kubeconfig",
        ) from error
    configuration = Configuration()
    if not settings.kubeconfig and os.environ.get(_IN_CLUSTER_VARIABLE):
        try:
            load_incluster_config(client_configuration=configuration)
        except (ConfigException, OSError) as error:
            raise InvalidRequest(
                f"The service account of this pod cannot be used: {error}. Does its spec set "
                "automountServiceAccountToken to false?",
                reason="bad_kubeconfig",
            ) from error
        namespace = settings.namespace or _own_namespace()
        return Access(configuration.host, namespace, configuration, None)
    path = _kubeconfig(settings)
    context = await _from_kubeconfig(configuration, path)
    namespace = settings.namespace or context.get("namespace") or "default"
    return Access(configuration.host, namespace, configuration, path)


def _own_namespace() -> str:
    return _IN_CLUSTER_NAMESPACE.read_text().strip()


def _kubeconfig(settings: KubernetesSettings) -> Path:
    said = settings.kubeconfig or os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
    path = Path(said).expanduser() if said else Path.home() / ".kube" / "config"
    if not path.is_file():
        where = {
            bool(settings.kubeconfig): "--kubeconfig",
            not settings.kubeconfig and bool(said): "$KUBECONFIG",
        }.get(True, "neither --kubeconfig nor $KUBECONFIG is given, and this is no pod")
        raise InvalidRequest(
            f"There is no kubeconfig at {path} ({where}). Give one with --kubeconfig FILE.",
            reason="bad_kubeconfig",
        )
    return path


async def _from_kubeconfig(configuration: Any, path: Path) -> dict[str, Any]:
    """Fill in the configuration; returns the context."""
    import yaml
    from kubernetes.aio.config import ConfigException, load_kube_config

    try:
        loader = await load_kube_config(
            config_file=str(path), client_configuration=configuration, persist_config=False
        )
        return dict(loader.current_context.get("context") or {})
    except (ConfigException, OSError, ValueError, TypeError, yaml.YAMLError) as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, ConfigException) and "refresh" in words:
            raise Unauthorized(
                f"The credentials in {path} have expired and cannot be renewed: {words}",
                reason="kubeconfig_expired",
            ) from error
        raise InvalidRequest(
            f"The kubeconfig {path} cannot be used: {words}", reason="bad_kubeconfig"
        ) from error
