"""The story in its order, told and checked: from two trained versions to a verified record of how they took turns."""

from __future__ import annotations

from pathlib import Path

from demo import audit
from demo.failure import require
from demo.platform import Connection
from demo.prober import Prober
from demo.screen import Screen
from demo.steps import ALIAS, ALPHAS, REQUESTS_AFTERWARDS, Served, Steps, Trained, alike


def tell(connection: Connection, folder: Path, screen: Screen) -> None:
    """Steps 2 to 6.

    Raises:
        StoryFailed: something did not really happen.
    """
    steps = Steps(connection, screen)
    began_after = audit.last_sequence(steps.control)

    screen.heading(2, "A data scientist trains two versions, with MLflow's unmodified client and an access token")
    first, second = (steps.train(alpha) for alpha in ALPHAS)

    screen.heading(3, f"The scientist moves the alias '{ALIAS}' to version {first.version}, as always")
    promotion = steps.ask_natively(first.version)
    steps.go_past_the_gateway(first.version)

    screen.heading(4, "The second signature: not by who asked, but by somebody else")
    steps.try_to_approve(promotion)
    promotion = steps.approve(promotion, "metrics look right")

    screen.heading(5, "One physical address, and a hand that deploys it")
    uri = steps.resolve(promotion)
    with steps.following() as side_car:
        steps.pull(side_car, promotion, folder)
        steps.roll_out(promotion)
        served = steps.serve(first, uri)

        screen.heading(6, f"Version {second.version} takes over and gives way again, while a client never stops asking")
        update, rollback = replace_and_return(steps, served, second)
        steps.seen(side_car, first, second, first)

    screen.say("The audit log of all this:")
    entries = audit.entries_after(steps.control, began_after)
    audit.tell(entries, screen)
    audit.require_history(entries, [promotion["id"], update, rollback])
    audit.verify(steps.control, entries, folder, screen)


def replace_and_return(steps: Steps, served: Served, successor: Trained) -> tuple[str, str]:
    """Step 6: to the next version and back, without one failed request; returns the ids of the two promotions."""
    screen = steps.screen
    screen.say(f"From here on a client sends POST {steps.served_at} again and again.")
    with Prober(steps.served_at, successor.example) as prober:
        update = steps.ask_natively(successor.version)
        update = steps.approve(update, "smaller error on held-out rows")
        uri = steps.resolve(update)
        steps.roll_out(update)
        replaced = steps.serve(successor, uri)
        prober.keep_asking(REQUESTS_AFTERWARDS)
    steps.probed(prober, served, replaced)

    screen.line()
    screen.say(
        f"Back to version {served.version}: a rollback is a promotion too, on a lane that asks for no second signature."
    )
    with Prober(steps.served_at, successor.example) as prober:
        prober.keep_asking(REQUESTS_AFTERWARDS)
        rollback = steps.applied(steps.roll_back(served))
        uri = steps.resolve(rollback)
        require(uri == served.uri, f"the rollback resolves to other bytes than before: {uri}")
        steps.roll_out(rollback)
        predictions = steps.answered_by(served.version, successor.example)
        require(alike(predictions, served.predictions), f"version {served.version} predicts other numbers than before")
        prober.keep_asking(REQUESTS_AFTERWARDS)
    steps.probed(prober, replaced, served)
    screen.line()
    return str(update["id"]), str(rollback["id"])
