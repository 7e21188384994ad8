"""The command line of every model server."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from gateway.codecs.oip_errors import Flavour
from servers.kit.settings import MIB, BatchSettings, LoadSettings, ServerSettings

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_FACTORS = {"": 1, "k": 1024, "m": MIB, "g": 1024 * MIB, "t": 1024 * 1024 * MIB}


def size(text: str) -> int:
    """Bytes of `512`, `128MiB`, `10G`; units are powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 128MiB or 10GiB")
    return int(float(match[1]) * _FACTORS[match[2].lower()])


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def _address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no address; write 127.0.0.1:8501, or :0")
    return text


def _model(text: str) -> tuple[str, str]:
    name, equals, uri = text.partition("=")
    if not equals or not name or not uri:
        raise argparse.ArgumentTypeError(
            f"{text!r}: write NAME=URI, e.g. resnet=s3://models/resnet"
        )
    return name, uri


def parser(name: str) -> argparse.ArgumentParser:
    """All flags of `python -m servers.<name>`; a server adds its own."""
    made = argparse.ArgumentParser(
        prog=f"python -m servers.{name}",
        description=f"Serves {name} models over TensorFlow Serving's REST and gRPC, and over V2's.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = made.add_argument
    server, batch = ServerSettings(), BatchSettings()
    add("--http", type=_address, default=server.http, metavar="H:P", help="REST; port 0 takes any")
    add("--grpc", type=_address, default=server.grpc, metavar="H:P", help="gRPC; port 0 takes any")
    add("--model", type=_model, action="append", default=[], metavar="NAME=URI",
        help="serve the latest version in this folder or bucket; repeatable")  # fmt: skip
    add("--ready-file", type=Path, metavar="PATH",
        help="JSON written once both ports listen: pid and addresses")  # fmt: skip
    add("--cache-dir", type=Path, metavar="DIR",
        help="where versions are fetched to; without it folders are served in place")  # fmt: skip
    add("--cache-bytes", type=size, default=server.cache_bytes, metavar="SIZE",
        help="bound of the cache; versions in use are kept")  # fmt: skip
    add("--batch-size", type=_positive, default=batch.max_rows, metavar="N",
        help="rows per run at most; 1 joins no requests")  # fmt: skip
    add("--batch-delay-ms", type=_seconds, default=batch.delay_s * 1000, metavar="N",
        help="how long a row waits for company; 0 joins only what waits already")  # fmt: skip
    add("--queue-rows", type=_positive, default=batch.queue_rows, metavar="N",
        help="rows that may wait per version; more get RESOURCE_EXHAUSTED")  # fmt: skip
    add("--here-us", type=_seconds, default=batch.here_s * 1e6, metavar="N",
        help="runs quicker than N µs are made on the event loop; 0: none")  # fmt: skip
    add("--threads", type=_positive, default=server.threads, metavar="N", help="runs at once")
    add("--leash", type=Path, metavar="PATH",
        help="file that the gateway locks while it lives; without it this server ends")  # fmt: skip
    add("--leash-grace-s", type=_seconds, default=server.leash_grace_s, metavar="N",
        help="how long the leash may be loose")  # fmt: skip
    if name != "agent":  # which answers no predictions, so it cannot know whether anybody asks
        add("--leave-s", type=_seconds, default=server.leave_s, metavar="N",
            help="go on answering so long after SIGTERM, until nobody asks any more")  # fmt: skip
    add("--drain-s", type=_seconds, default=server.drain_s, metavar="N",
        help="longest wait for requests in flight after SIGTERM")  # fmt: skip
    add("--max-body", type=size, default=server.max_body, metavar="SIZE",
        help="bound of a request, also after decompression")  # fmt: skip
    add("--v2-flavour", type=Flavour, choices=tuple(Flavour), default=server.v2_flavour,
        help="whose habits V2 answers have where Triton and KServe differ")  # fmt: skip
    add("--log-format", choices=("text", "json"), default=server.log_format)
    return made


def settings(args: argparse.Namespace) -> ServerSettings:
    """Settings from parsed flags."""
    return ServerSettings(
        http=args.http,
        grpc=args.grpc,
        ready_file=args.ready_file,
        cache_dir=args.cache_dir,
        cache_bytes=args.cache_bytes,
        batch=BatchSettings(
            args.batch_size, args.batch_delay_ms / 1000, args.queue_rows, args.here_us / 1e6
        ),
        load=LoadSettings(drain_s=args.drain_s),
        threads=args.threads,
        models=tuple(args.model),
        leash=args.leash,
        leash_grace_s=args.leash_grace_s,
        leave_s=getattr(args, "leave_s", 0.0),
        drain_s=args.drain_s,
        max_body=args.max_body,
        v2_flavour=args.v2_flavour,
        log_format=args.log_format,
    )
