"""Versions as they are registered in MLflow: which of them are models, and what is said of where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from app.domain.promotions import AliasKey

PROMPT_MARK = "mlflow.prompt.is_prompt"


@dataclass(frozen=True, slots=True)
class Registration:
    """A version as MLflow lists it. ``created_at`` is in milliseconds since the epoch, by MLflow's clock."""

    workspace: str
    model: str
    version: str
    created_at: int
    run_id: str | None
    source: str

    @property
    def key(self) -> AliasKey:
        return AliasKey(self.workspace, self.model, "")

    @property
    def shown_source(self) -> str:
        """Where it was registered from, without what may be a secret: user information, query, fragment."""
        try:
            parts = urlsplit(self.source)
        except ValueError:
            return ""
        if not parts.username and not parts.password and not parts.query and not parts.fragment:
            return self.source
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def is_prompt(found: Mapping[str, Any]) -> bool:
    """Whether a version, as MLflow's API shows it, is of a prompt: MLflow keeps those among its models, with a tag."""
    return any(tag["key"] == PROMPT_MARK and str(tag.get("value")).lower() == "true" for tag in found.get("tags", ()))


def registration_of(found: Mapping[str, Any], workspace: str) -> Registration:
    """A version as MLflow's API shows it. Raises ``KeyError`` or ``ValueError``: it is none."""
    return Registration(
        workspace=workspace,
        model=str(found["name"]),
        version=str(found["version"]),
        created_at=int(found["creation_timestamp"]),
        run_id=str(found.get("run_id") or "") or None,
        source=str(found.get("source") or ""),
    )
