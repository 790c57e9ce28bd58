"""``countersign bootstrap``: from MLflow projects to models that Ray Serve answers with, in one go."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from countersign_client.cli.login import AsJson, GatewayOption, chosen
from countersign_client.cli.options import Reason, seconds
from countersign_client.cli.printing import print_json, print_table
from countersign_client.errors import InvalidAddress

if TYPE_CHECKING:
    from countersign_client.bootstrapping.course import Served


_DIGEST = len("sha256:") + 12
"""Of a digest, what people compare."""


class Manager(StrEnum):
    AUTO = "auto"
    LOCAL = "local"
    VIRTUALENV = "virtualenv"
    UV = "uv"
    CONDA = "conda"


def bootstrap(
    names: Annotated[
        str, typer.Option("--names", envvar="MODEL_NAMES", help="The models, as iris,wine.", show_default=False)
    ] = "",
    paths: Annotated[
        str, typer.Option("--paths", envvar="MODEL_PATHS", help="Their MLflow projects.", show_default=False)
    ] = "",
    ports: Annotated[
        str, typer.Option("--ports", envvar="MODEL_PORTS", help="A port for each of them.", show_default=False)
    ] = "",
    parameters: Annotated[
        str,
        typer.Option(
            "--params", envvar="MODEL_PARAMS", help="For each, as alpha=0.1;seed=7,depth=3.", show_default=False
        ),
    ] = "",
    alias: Annotated[
        str, typer.Option("--alias", envvar="MODEL_ALIAS", help="The alias to promote to.")
    ] = "production",
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            envvar="DEPLOY_TARGET",
            help="The target that serves from this Ray.",
            show_default="the policy's",
        ),
    ] = None,
    experiment: Annotated[
        str | None, typer.Option("--experiment", help="Where runs are logged.", show_default="the model's name")
    ] = None,
    env_manager: Annotated[
        Manager, typer.Option("--env-manager", envvar="MLFLOW_ENV_MANAGER", help="As of `mlflow run`.")
    ] = Manager.AUTO,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="This model alone; may be repeated.", show_default=False)
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", envvar="MODELS_TO_SERVE", help="What was done is written there.")
    ] = Path("models_to_serve.json"),
    timeout: Annotated[
        str,
        typer.Option(
            "--timeout", envvar="SERVE_WAIT_TIMEOUT", help="For the gateway, Ray and each rollout: 600, 90s, 10m."
        ),
    ] = "10m",
    approval_timeout: Annotated[
        str, typer.Option("--approval-timeout", envvar="APPROVAL_TIMEOUT", help="For people who must approve.")
    ] = "24h",
    host: Annotated[
        str, typer.Option("--host", envvar="MODEL_HOST", help="With --serve: the address to listen at.")
    ] = "127.0.0.1",
    reason: Reason = "countersign bootstrap",
    gateway: GatewayOption = None,
    *,
    retrain: Annotated[bool, typer.Option("--retrain", help="Train again what has not changed, too.")] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Then answer at each model's port, until stopped: a container's entrypoint.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train MLflow projects, register, promote and deploy what they made, and wait until Ray Serve answers.

    The lists are comma-separated and aligned, and RAY_ADDRESS says where Ray's dashboard is. Everything is examined
    first: what is wrong is said at once, and nothing is begun then. Run again, it goes on where it was.

    \b
    export RAY_ADDRESS=http://ray-head:8265
    export MODEL_NAMES=iris,wine MODEL_PATHS=/projects/iris,/projects/wine MODEL_PORTS=8081,8082
    countersign bootstrap --serve

    Exit status: that of `countersign promote`; 7 if a training failed.
    """
    from countersign_client.bootstrapping.course import Order, carry_out, examine
    from countersign_client.bootstrapping.problems import Problem
    from countersign_client.cli.promoting import stopped_as_by_ctrl_c
    from countersign_client.following import Exit

    address, already = "", []
    try:
        address = chosen(gateway)
    except InvalidAddress as error:
        already.append(Problem("gateway", str(error)))
    order = Order(
        names=names,
        paths=paths,
        ports=ports,
        parameters=parameters,
        gateway=address,
        alias=alias,
        target=target,
        experiment=experiment,
        manager=env_manager.value,
        only=tuple(only or ()),
        output=output,
        timeout_s=_seconds(timeout, "--timeout"),
        approval_timeout_s=_seconds(approval_timeout, "--approval-timeout"),
        reason=reason,
        retrain=retrain,
        serve_at=host if serve else None,
    )
    try:
        with stopped_as_by_ctrl_c():
            examined = examine(order, _say, already=already)
            served = carry_out(examined, _say)
    except KeyboardInterrupt:
        _say("Interrupted. What was done is kept: run it again to go on.")
        raise typer.Exit(Exit.INTERRUPTED) from None
    if as_json:
        print_json({"models": [_row(each) for each in served]})
    else:
        _print(served)
    if serve:
        import asyncio

        from countersign_client.bootstrapping.forwarding import forward

        urls = {each.entry.name: each.entry.url for each in served}
        asyncio.run(forward([(each, urls[each.name]) for each in examined.listeners], _say))


def _seconds(text: str, option: str) -> int:
    """As other durations, or a plain number of seconds."""
    return int(text) if text.isascii() and text.isdigit() and 0 < len(text) < 8 else seconds(text, option)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _row(served: Served) -> dict[str, object]:
    entry = served.entry
    return {
        "name": entry.name,
        "version": served.version,
        "digest": served.digest,
        "promotion": entry.promotion,
        "url": entry.url,
        "port": entry.port,
    }


def _print(served: list[Served]) -> None:
    from rich.table import Table

    table = Table("model", "version", "digest", "promotion", "answers at", "port")
    for each in served:
        row = _row(each) | {"digest": each.digest[:_DIGEST]}
        table.add_row(*(str(value) for value in row.values()))
    print_table(table)
