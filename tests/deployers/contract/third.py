"""The deployers that the guide shows, and what is needed to examine them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from countersign_deployer.conformance import Bounds, PlayedGateway, Subject

GUIDE = Path(__file__).parents[3] / "docs/guides/deployers.md"
WITH_PACKAGE, BARE = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
TARGET = "third"
CALLS, REPORTS = "whsec_" + "Y2Fs" * 11, "whsec_" + "cmVw" * 11
QUICK = Bounds(start_s=10, answer_s=5, end_s=10, retry_s=10, pull_s=10)


@dataclass(frozen=True)
class Third:
    """A deployer of the guide that runs, and the gateway that is played for it."""

    subject: Subject
    gateway: PlayedGateway
