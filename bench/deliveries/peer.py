"""MLflow's own sender of webhooks, as its server calls it, with one webhook: prints when the first was handed over."""

from __future__ import annotations

import argparse
import time
from types import SimpleNamespace
from typing import Any

from mlflow.entities.webhook import Webhook, WebhookAction, WebhookEntity, WebhookEvent, WebhookStatus
from mlflow.store.entities.paged_list import PagedList
from mlflow.webhooks.delivery import deliver_webhook


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.deliveries.peer")
    parser.add_argument("url")
    parser.add_argument("count", type=int)
    options = parser.parse_args()
    event = WebhookEvent(WebhookEntity.MODEL_VERSION_ALIAS, WebhookAction.CREATED)
    webhook = Webhook(
        webhook_id="1",
        name="bench",
        url=options.url,
        events=[event],
        creation_timestamp=0,
        last_updated_timestamp=0,
        status=WebhookStatus.ACTIVE,
        secret="a secret of thirty-two characters",  # noqa: S106  # of this process alone
    )
    # In the server it is read from the database once a minute: that it costs nothing here is in MLflow's favour.
    store: Any = SimpleNamespace(list_webhooks_by_event=lambda *_, **__: PagedList([webhook], token=None))
    print(time.time(), flush=True)
    for number in range(options.count):
        payload: Any = {"name": f"model-{number:05}", "alias": "production", "version": "1"}
        deliver_webhook(event=event, payload=payload, store=store)


if __name__ == "__main__":
    main()
