"""``countersign explain-access``: why somebody may or may not, asked of the database by the operator."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.operator import database_url, operators_roles
from app.domain.errors import CountersignError, InvalidInput
from app.domain.identity import Identity, unseen
from app.domain.roles import Permission, Role

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from app.bootstrap.operator import Operator
    from app.domain.explaining import Held
    from app.services.explaining import Answer


def explain_access(
    person: Annotated[str | None, typer.Option(help="The id (`<issuer>|<subject>`) or name of somebody known.")] = None,
    group: Annotated[list[str] | None, typer.Option(help="Somebody of this group. Repeat for several.")] = None,
    issuer: Annotated[str, typer.Option(help="Beside --claims: who issued them.")] = "",
    claims: Annotated[list[str] | None, typer.Option(help="A claim, as repository=acme/iris. Repeat.")] = None,
    permission: Annotated[Permission | None, typer.Option(help="What; without it, everything is listed.")] = None,
    role: Annotated[Role | None, typer.Option(help="A role, in the place of a permission.")] = None,
    model: Annotated[str | None, typer.Option(help="On this model.")] = None,
    alias: Annotated[str | None, typer.Option(help="On this alias of the model.")] = None,
    experiment: Annotated[str | None, typer.Option(help="On this experiment, by name.")] = None,
    workspace: Annotated[str | None, typer.Option(help="In this workspace.")] = None,
    promotion: Annotated[str | None, typer.Option(help="On the alias of this promotion.")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say why somebody may or may not, by which grant, and who could change that.

    Exit status 0 if it is allowed, 1 if not, 2 if there is no answer. Reads COUNTERSIGN_ROLES too, if it is
    set: set it as it is where the gateway runs.
    """
    from app.services.explaining import Question

    if not (person or group or claims):
        raise typer.BadParameter("say who: --person, --group or --claims")
    if permission is not None and role is not None:
        raise typer.BadParameter("ask for a permission or a role, not both")
    question = Question(permission, role, model, alias, experiment, workspace, promotion)
    url, roles = database_url(), operators_roles()
    if not roles:
        typer.echo(
            "countersign: COUNTERSIGN_ROLES is not set here: if the gateway has it, what it gives is not counted.",
            err=True,
        )

    async def run() -> tuple[Identity, Answer | Sequence[Held]]:
        from app.bootstrap.operator import open_operator

        async with open_operator(url, roles) as operator:
            identity = await _identity(operator, person, group or [], issuer, claims or [])
            if permission is None and role is None:
                return identity, await operator.explaining.everything_held_by(identity)
            return identity, await operator.explaining.explain(identity, question)

    try:
        identity, answer = asyncio.run(run())
    except CountersignError as error:
        # Not 1, which says that it is not allowed.
        typer.echo(f"countersign: {error.message}", err=True)
        raise typer.Exit(2) from None
    from app.services.explaining import Answer

    if isinstance(answer, Answer):
        _print_answer(answer, as_json=as_json)
        raise typer.Exit(0 if answer.allowed else 1)
    _print_held(identity, answer, as_json=as_json)


async def _identity(
    operator: Operator, person: str | None, groups: Sequence[str], issuer: str, claims: Sequence[str]
) -> Identity:
    """Somebody known, with more groups and claims if they are given; or somebody made up of those."""
    given = dict(_claim(each) for each in claims)
    if person is None:
        return Identity(issuer, "somebody", "somebody", groups=frozenset(groups), claims=given)
    found = await operator.explaining.identity_of(person)
    if len(found) > 1:
        ids = ", ".join(identity.id for identity in found)
        raise InvalidInput("--person", f"several are called {person}; say which by id: {ids}")
    if not found and "|" not in person:
        raise InvalidInput("--person", f"nobody of the id or name {person} is known; ids are `<issuer>|<subject>`")
    identity = found[0] if found else unseen(person)
    return Identity(
        identity.issuer,
        identity.subject,
        identity.name,
        identity.kind,
        identity.groups | frozenset(groups),
        {**identity.claims, **given},
    )


def _claim(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise InvalidInput("--claims", "expected <claim>=<value>")
    return name, value


def _print_answer(answer: Answer, *, as_json: bool) -> None:
    explanation, decision = answer.explanation, answer.decision
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "allowed": answer.allowed,
                    "principal": answer.principal.id,
                    "permission": explanation.permission.value,
                    "role": answer.role.value if answer.role else None,
                    "resource": str(explanation.resource),
                    "reason": answer.reason,
                    "granted_by": [grant.name for grant in explanation.granted_by],
                    "denied_by": [grant.name for grant in explanation.denied_by],
                    "owner": explanation.is_owner,
                    "would_be_granted_by": [each.value for each in explanation.would_be_granted_by],
                    "who_could_change": list(explanation.who_could_change),
                    "policy": None
                    if decision is None
                    else {"may_decide": decision.may_decide, "reason": decision.reason},
                },
                ensure_ascii=False,
            )
        )
        return
    rows = {
        "who": f"{answer.principal.name} ({answer.principal.id})" if answer.principal.issuer else "somebody",
        "groups": ", ".join(sorted(answer.principal.groups)) or "none",
        "what": f"role {answer.role} ({explanation.permission})" if answer.role else str(explanation.permission),
        "on": str(explanation.resource),
        "given by": "\n".join(str(grant) for grant in explanation.granted_by)
        or ("being its owner" if explanation.is_owner else "nothing"),
        "denied by": "\n".join(str(grant) for grant in explanation.denied_by) or "nothing",
        "the policy": decision.reason if decision else "",
        "would be given by": ", ".join(each.value for each in explanation.would_be_granted_by),
        "who could change it": "\n".join(explanation.who_could_change),
    }
    table = _table(f"{'Allowed' if answer.allowed else 'Not allowed'}", "", "")
    table.show_header = False
    for name, value in rows.items():
        if value:
            table.add_row(name, _shown(value))
    _print(table, style="green" if answer.allowed else "red")
    typer.echo(_shown(answer.reason))


def _print_held(identity: Identity, held: Sequence[Held], *, as_json: bool) -> None:
    if as_json:
        rows: list[Mapping[str, str]] = [
            {"permission": each.permission.value, "effect": each.grant.effect.value, "on": str(each.on)}
            | {"grant": each.grant.name, "role": each.grant.role.value}
            for each in held
        ]
        typer.echo(json.dumps({"principal": identity.id, "held": rows}, ensure_ascii=False))
        return
    if not held:
        typer.echo(f"No grant speaks of {_shown(identity.name)}: they may do nothing.")
        return
    table = _table(f"What {_shown(identity.name)} may do", "permission", "on", "by")
    last = ""
    for each in held:
        denied = " (denied)" if each.grant.is_denial else ""
        shown = "" if each.permission == last else each.permission.value
        table.add_row(shown, _shown(f"{each.on}{denied}"), f"{each.grant.role}, grant {each.grant.name}")
        last = each.permission
    _print(table)
    typer.echo("Beside this, creators own what they create, and a denial always wins.")


def _shown(text: str) -> str:
    """What others named, without what a terminal would take for an order."""
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)


def _table(title: str, *columns: str) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE, title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: Table, *, style: str | None = None) -> None:
    from rich.console import Console

    if style:
        table.title_style = f"bold {style}"
    # What people named is text: no markup, no emoji, no colours of its own.
    Console(markup=False, emoji=False, highlight=False).print(table)
