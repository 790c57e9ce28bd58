"""The contract as JSON Schemas (2020-12), made from the models. ``python -m countersign_deployer.schemas`` writes them
to ``schemas/`` beside the package.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from countersign_deployer.contract import (
    CallAnswer,
    DeploymentRequested,
    DeploymentStatus,
    Desired,
    ProblemDetails,
    StatusReported,
)
from countersign_deployer.phases import PHASES, REASONS, Reason

FOLDER = Path(__file__).parents[1] / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

SCHEMAS: Mapping[str, type[BaseModel]] = {
    "call": DeploymentRequested,
    "answer": CallAnswer,
    "problem": ProblemDetails,
    "report": StatusReported,
    "status": DeploymentStatus,
    "desired": Desired,
}
"""By the name of the file."""

_MEANINGS: Mapping[str, Mapping[str, str]] = {
    "Phase": {phase.value: meaning for phase, meaning in PHASES.items()},
    "Reason": {
        Reason.NONE.value: "Nothing is wrong.",
        **{reason.value: f"{kind.meaning} Ends in {kind.ends_in}." for reason, kind in REASONS.items()},
    },
}


def schema_of(name: str) -> str:
    """The schema as it is in its file."""
    schema = SCHEMAS[name].model_json_schema()
    for definition, meanings in _MEANINGS.items():
        if found := schema.get("$defs", {}).get(definition):
            del found["enum"]
            found["oneOf"] = [{"const": value, "description": meaning} for value, meaning in meanings.items()]
    for part in (schema, *schema.get("$defs", {}).values()):
        _tidy(part)
    return json.dumps({"$schema": DIALECT, **schema}, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Write all of them."""
    FOLDER.mkdir(exist_ok=True)
    for name in SCHEMAS:
        (FOLDER / f"{name}.json").write_text(schema_of(name), encoding="utf-8")
    return 0


def _tidy(part: dict[str, Any]) -> None:
    """Descriptions in one line; no titles that only repeat a name."""
    if "description" in part:
        part["description"] = re.sub(r"\s+", " ", part["description"]).replace("``", "`")
    for member in part.get("properties", {}).values():
        member.pop("title", None)


if __name__ == "__main__":
    sys.exit(main())
