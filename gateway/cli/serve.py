"""`gateway serve`: start a gateway on this machine. Only flags are read here; what they default to,
and what gateway.toml and the environment say, is for gateway/config.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gateway.cli.session import size


def _address(_: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """`host:port`, `[v6]:port`, or `:port` (every address)."""
    if value is None:
        return None
    host, colon, port = value.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise click.BadParameter(f"{value!r}: write HOST:PORT, like 127.0.0.1:8501", param=param)
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise click.BadParameter(f"{value!r}: write IPv6 as [::1]:{port}", param=param)
    return value


@click.command(short_help="Run a gateway on this machine.")
@click.option("--http", metavar="H:P", callback=_address, help="HTTP predictions. [127.0.0.1:8501]")
@click.option("--grpc", metavar="H:P", callback=_address, help="gRPC predictions. [127.0.0.1:8500]")
@click.option(
    "--control", metavar="H:P", callback=_address, help="Control API, /metrics. [127.0.0.1:8080]"
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where state, logs and fetched models are kept. [~/.local/state/gateway]",
)
@click.option(
    "--database-url",
    metavar="URL",
    help="PostgreSQL (postgresql://…) that several gateways share, not SQLite under --state.",
)
@click.option(
    "--lease-s",
    type=click.FloatRange(1, 600),
    help="Seconds until another of them leads when the one that does has died. [15]",
)
@click.option(
    "--scheduler",
    type=click.Choice(["local", "kubernetes"]),
    help="Where replicas run: processes here, or pods. [local]",
)
@click.option(
    "--kubeconfig",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="With kubernetes: which cluster. [the pod's own; else $KUBECONFIG, ~/.kube/config]",
)
@click.option("--namespace", metavar="NAME", help="With kubernetes: where models live. [context's]")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes that share the ports. [1]")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="GATEWAY.TOML",
    help="Settings of the gateway; flags win.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), help="[text]")
@click.option(
    "--v2-flavour",
    type=click.Choice(["triton", "kserve"]),
    help="Whose way to take where V2 servers differ. [triton]",
)
@click.option(
    "--insecure",
    is_flag=True,
    default=None,
    help="Allow listening beyond this machine without keys.",
)
@click.option(
    "--tls-cert",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Certificate chain, PEM: the prediction ports speak TLS. Read again when it changes.",
)
@click.option(
    "--tls-key", type=click.Path(dir_okay=False), metavar="FILE", help="Its key, PEM, unencrypted."
)
@click.option(
    "--tls-client-ca",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Authorities, PEM: callers must show a certificate that one of them signed.",
)
@click.option(
    "--max-body", "max_body_bytes", type=size, metavar="SIZE", help="Largest request, e.g. 64MiB."
)
@click.option(
    "--adaptive-limit/--no-adaptive-limit",
    default=None,
    help="Learn how many requests of a model its replicas can take at once. [on]",
)
@click.option(
    "--queue-limit",
    type=click.IntRange(0),
    help="Requests of one model that may wait beyond that, in each process. [8192]",
)
@click.option(
    "--poll-s",
    type=click.FloatRange(0, min_open=True),
    help="Seconds between looks at each source. [5]",
)
@click.option(
    "--settle-s",
    type=click.FloatRange(0),
    help="Seconds that a version without manifest must stand still before it counts. [10]",
)
@click.option(
    "--orphan-grace-s",
    type=click.FloatRange(0),
    help="Seconds that replicas outlive a gateway that died, to be adopted by the next. [30]",
)
def serve(config_file: Path | None, **given: Any) -> int:
    """Run a gateway: data plane, control API, and the replicas of its models.

    Stops on Ctrl-C or SIGTERM after finishing what it has begun. On SIGHUP it reads the TLS files
    again and, with --workers 2 or more, replaces the workers one after the other by new processes,
    without losing a request.
    """
    flags = {name: value for name, value in given.items() if value is not None}
    if "state" in flags:
        flags["state"] = str(flags["state"])
    if flags.get("scheduler") == "local" and (flags.keys() & {"kubeconfig", "namespace"}):
        raise click.UsageError("--kubeconfig and --namespace go with --scheduler kubernetes")
    from gateway import app

    return app.main(flags, config_file)
