"""A simulated cluster to try things in; ``python -m tests.deployers.kserve.simulator FOLDER`` writes a kubeconfig."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import yaml

from tests.deployers.kserve.simulator.api import running
from tests.deployers.kserve.simulator.kserve import RESOURCES, KServe


async def _serve(folder: Path) -> None:
    async with running(*RESOURCES) as cluster, KServe(cluster).following(lag_s=0.2):
        cluster.namespace("models")
        to = folder / "kubeconfig"
        to.write_text(yaml.safe_dump(cluster.kubeconfig(cluster.account("you"), "models")))
        print(f"export KUBECONFIG={to}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    asyncio.run(_serve(parser.parse_args().folder))
