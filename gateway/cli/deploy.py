"""`gateway deploy model`: say what is wanted, and wait until it answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.output import dump, output_option, say
from gateway.cli.session import NounGroup, Session, url_option

if TYPE_CHECKING:
    from gateway.client.control import ControlClient

_EXAMPLES = """\b
Examples
  gateway deploy model resnet --source s3://models/resnet
  gateway deploy model resnet --source ./resnet --replicas 2
  gateway deploy model resnet --replicas 4            changes only that
  gateway deploy model resnet --min-replicas 0 --max-replicas 4
  gateway deploy model resnet --source s3://models/resnet \\
      --versions latest:2 --gpus 1 --memory 8Gi --batch-delay-ms 2
  gateway deploy model mine --source s3://models/mine --backend custom \\
      --command './serve --rest {http_port} --dir {model_dir}'
  gateway deploy model theirs --source ./theirs --backend custom \\
      --speaks v2-rest,v2-grpc \\
      --command './infer --http {http_port} --grpc {grpc_port}'
  gateway deploy model resnet --canary 5,25,50    later versions go in steps
  gateway deploy model resnet --canary 5,25,50 --shadow 10% \\
      --shadow-max-flips 1%    back if it says another class too often
  gateway deploy model -f model.toml
"""


@click.group(cls=NounGroup)
def deploy() -> None:
    """Create or update a model."""


@deploy.command("model", epilog=_EXAMPLES)
@click.argument("name", required=False)
@click.option(
    "--source",
    metavar="URI",
    help="Folder whose children are versions (<source>/<version>/files): s3://, gs://, az://, "
    "file://, or a path on this machine. May be left out when updating.",
)
@click.option(
    "--backend",
    type=click.Choice(["onnx", "tensorflow", "caffe", "custom"]),
    help="Framework. Left out, it is seen from the files: model.onnx, saved_model.pb, or "
    "*.prototxt with *.caffemodel.",
)
@click.option("--replicas", type=click.IntRange(1, 1000), help="Servers that answer for it. [1]")
@click.option(
    "--min-replicas",
    type=click.IntRange(0, 1000),
    help="Fewest, with --max-replicas. 0: none while nobody asks; the next request starts one and "
    "waits for it, by its deadline. [1]",
)
@click.option(
    "--max-replicas",
    type=click.IntRange(1, 1000),
    help="Most, instead of --replicas: replicas are started and stopped by how many requests are "
    "in flight.",
)
@click.option(
    "--target-in-flight",
    type=click.FloatRange(0.01),
    help="Requests in flight that each replica is to have, with --max-replicas. [8, or twice "
    "--batch-size where that is less]",
)
@click.option(
    "--idle-s",
    type=click.FloatRange(1),
    help="Seconds without a request until its last replica stops, with --min-replicas 0. [300]",
)
@click.option(
    "--versions",
    metavar="POLICY",
    help="Versions to hold: latest, latest:N, all, or listed ones as 3,4. [latest]",
)
@click.option(
    "--label",
    multiple=True,
    metavar="NAME=VERSION",
    help="Alias that callers may use for a version; repeatable.",
)
@click.option("--gpus", type=click.IntRange(0, 64), help="GPUs of each replica. [0]")
@click.option("--gpu-type", metavar="NAME", help="GPU product, e.g. NVIDIA-A100-SXM4-80GB.")
@click.option(
    "--cpu", type=click.FloatRange(0, min_open=True), help="Cores of each replica. [no bound]"
)
@click.option("--memory", metavar="SIZE", help="Memory of each replica: 512MB, 8Gi. [no bound]")
@click.option("--image", metavar="IMAGE", help="Container image, where replicas are containers.")
@click.option(
    "--command",
    metavar="CMD",
    help="With --backend custom: program and arguments in one string; {http_port}, {grpc_port} and "
    "{model_dir} are replaced.",
)
@click.option("--before", metavar="CMD", help="Shell command before a replica starts.")
@click.option("--after", metavar="CMD", help="Shell command after a replica has stopped.")
@click.option(
    "--batch-size", type=click.IntRange(1, 65536), help="Rows of requests joined into one run. [32]"
)
@click.option(
    "--batch-delay-ms",
    type=click.FloatRange(0, 60000),
    help="How long the first row waits for company. [0: joins only what is queued already]",
)
@click.option(
    "--timeout-s",
    type=click.FloatRange(0, min_open=True),
    help="Deadline of a request that brings none. [30]",
)
@click.option(
    "--in-flight-limit", type=click.IntRange(1), help="Requests at once; more get 429. [8192]"
)
@click.option(
    "--hedge",
    metavar="pNN",
    help="Send a request that takes longer than so many percent of them do to a second replica, "
    "too; the first answer wins: p95, or off. [off]",
)
@click.option(
    "--require-manifest/--no-require-manifest",
    default=None,
    help="Hold only versions that `gateway publish` completed.",
)
@click.option(
    "--speaks",
    metavar="PROTOCOLS",
    help="What its replicas answer in: one or more of tfs-rest, tfs-grpc, v2-rest, v2-grpc, with "
    "commas. Callers of the others are translated for. [all; with --backend custom: "
    "tfs-rest,tfs-grpc]",
)
@click.option(
    "--canary",
    metavar="PERCENTS",
    help="Give each later version these shares of the traffic in turn, as 5,25,50, and all of it "
    "if it is no worse; else roll it back. `none`: all at once. [none]",
)
@click.option(
    "--canary-samples",
    type=click.IntRange(1),
    help="Answers of either version that a step needs. [500]",
)
@click.option(
    "--canary-step-s", type=click.FloatRange(0), help="Seconds that a step takes at least. [60]"
)
@click.option(
    "--canary-key",
    metavar="HEADER",
    help="Header or gRPC metadata by whose value callers keep their side. [x-gateway-key]",
)
@click.option(
    "--shadow",
    metavar="PERCENT",
    help="With --canary: copy this share of what the stable version answers to the new one, too, "
    "and compare the answers output by output; callers never get the new one's, nor wait for it. "
    "Shown in `gateway rollout status`, judged by the two bounds below. `none`: no copies. [none]",
)
@click.option(
    "--shadow-max-differing",
    metavar="PERCENT",
    help="Roll back if more of the predictions differ, as 1%: for a version that should predict "
    "the same (another export, runtime, precision). `none`: not judged. [none]",
)
@click.option(
    "--shadow-tolerance",
    type=click.FloatRange(0),
    metavar="RATIO",
    help="How far off an element must be to differ, relative to its size. [0.01]",
)
@click.option(
    "--shadow-max-flips",
    metavar="PERCENT",
    help="Roll back if the top-1 class of more of the predictions is another, as 2%: for a "
    "retrained classifier, whose scores may move. `none`: not judged. [none]",
)
@click.option(
    "--canary-replicas",
    type=click.IntRange(0, 1000),
    help="Start so many replicas for each later version, which hold it alone until it is promoted; "
    "enough for its last step. A later image, command, batching or resources goes the same way. "
    "0: the model's own hold both versions, and such a change replaces them one by one. [0]",
)
@click.option("--tenant", metavar="T", help="Who owns the model. [default]")
@click.option(
    "-f",
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="MODEL.TOML",
    help="Read these options from a file (keys are the long names with _); flags win.",
)
@click.option("--no-wait", is_flag=True, help="Return at once, before the model answers.")
@click.option(
    "--timeout",
    "wait_s",
    type=click.FloatRange(0, min_open=True),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the model to answer.",
)
@output_option
@url_option
@click.pass_obj
def model(
    session: Session,
    /,
    name: str | None,
    file: Path | None,
    no_wait: bool,
    wait_s: float,
    output: str,
    **flags: Any,
) -> None:
    """Have NAME answer predictions from the versions in a source.

    Waits until it answers, or tells why it cannot. Deploying a name again updates it: options
    that are left out stay as they were.
    """
    from gateway.cli.deploy_request import build

    named, request = build(name, flags, file)
    accepted: list[dict[str, Any]] = []
    try:
        result = session.call(
            lambda control: _deploy(control, named, request, None if no_wait else wait_s, accepted)
        )
    except KeyboardInterrupt:
        if not accepted:
            raise
        say(
            f"\nThe deployment of {named} goes on. "
            f"Watch it with: gateway get models {named} --watch"
            f"\nStop it with: gateway delete model {named}"
        )
        raise click.exceptions.Exit(130) from None
    if output != "table":
        dump(result, output)
    elif no_wait:
        click.echo(f"{named} is being deployed. Watch it with: gateway get models {named} --watch")
    else:
        _tell(session, result)


async def _deploy(
    control: ControlClient,
    name: str,
    request: dict[str, Any],
    wait_s: float | None,
    accepted: list[dict[str, Any]],
) -> dict[str, Any]:
    from gateway.cli.waiting import display_for, wait_ready

    told = await control.deploy(name, request)
    accepted.append(told)
    if wait_s is None:
        return told
    display = display_for(name)
    try:
        look = await wait_ready(control, name, told["generation"], wait_s, display)
    finally:
        display.close()
    return look.model


def _tell(session: Session, model: dict[str, Any]) -> None:
    """The line that says it answers, and one to try it with."""
    name, ready = model["name"], model["ready_replicas"]
    if model["live_version"] is None:
        click.echo(f"{name} is as asked, with {ready} replicas and no version that answers.")
        return
    if model["state"] == "idle":
        click.echo(
            f"{name} answers with version {model['live_version']}. It has no replica while nobody "
            "asks; the next request starts one and waits for it."
        )
        return
    click.echo(
        f"{name} answers with version {model['live_version']} "
        f"on {ready} replica{'' if ready == 1 else 's'}."
    )
    _tell_template(model)
    example, address = session.call(lambda control: _example(control, name))
    click.echo("\nTry it:")
    click.echo(f"  gateway predict {name} --data {example}")
    click.echo(f"  gateway snippet {name} --language python")
    if address and example.startswith("'"):
        click.echo(f"  curl -d {example} \\\n      http://{address}/v1/models/{name}:predict")


def _tell_template(model: dict[str, Any]) -> None:
    """What answers is not run as was deployed: say so, as nothing else here would."""
    from gateway.cli.describe import template_words

    template = model["template"]
    if template is None or template["running"] == template["deployed"]:
        return
    click.echo(f"Template {template_words(model)}.")
    if not template["rejected"]:
        click.echo(f"Watch it with: gateway rollout status {model['name']} --watch")


async def _example(control: ControlClient, name: str) -> tuple[str, str | None]:
    """A request that the model takes, by its signature; a hint where that is too long to type."""
    from gateway.cli.example import example_body
    from gateway.client.control import fetch_json
    from gateway.domain.errors import GatewayError

    try:
        address = (await control.health())["addresses"]["http"]
        metadata = await fetch_json(f"http://{address}/v1/models/{name}/metadata", timeout_s=5.0)
    except (GatewayError, KeyError):
        # The model answers, which is what was asked; an example is a courtesy.
        return "@request.json", None
    body = example_body(metadata)
    return ("@request.json" if body is None else f"'{body}'"), address
