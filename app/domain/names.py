"""Names of models, versions and aliases, and ``models:/`` URIs, in the one spelling that is accepted.

MLflow takes several spellings for one version (``"02"``, ``" 2 "``, ``"٢"``) and alias names in any script, with a
trailing newline even (measured on 3.17). What is promoted is compared and recorded, so each name has one spelling here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from app.domain.errors import InvalidInput, NotFound
from app.domain.grants import DEFAULT_WORKSPACE

_ALIAS = re.compile(r"[A-Za-z0-9_-]{1,255}")
_WORKSPACE = re.compile(r"[a-z0-9][a-z0-9-]{0,61}[a-z0-9]")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_RESERVED_ALIAS = re.compile(r"latest|v[0-9]+", re.IGNORECASE)
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,255}")
_EXPERIMENT = re.compile(r"0|[1-9][0-9]{0,18}")
_MODEL_MAX = 256
_LOGGED_MODEL = re.compile(r"m-[A-Za-z0-9_-]{1,254}")
STAGES = frozenset({"none", "staging", "production", "archived"})
LATEST = "latest"


def check_alias(value: str, *, field: str = "alias") -> str:
    """The alias, if it is one.

    Raises:
        InvalidInput: unless it is 1 to 255 of ``A-Z a-z 0-9 _ -`` and not reserved by MLflow (``latest``, ``v7``).
    """
    if not _ALIAS.fullmatch(value):
        raise InvalidInput(field, "expected 1 to 255 letters, digits, `_` or `-` (ASCII)")
    if _RESERVED_ALIAS.fullmatch(value):
        raise InvalidInput(field, f"{value} is reserved by MLflow")
    return value


def check_workspace(value: str, *, field: str = "workspace") -> str:
    """The workspace's name, if MLflow could have given it.

    Raises:
        InvalidInput: unless it is 2 to 63 of ``a-z 0-9 -``, a letter or digit at both ends.
    """
    if not _WORKSPACE.fullmatch(value):
        raise InvalidInput(field, "expected 2 to 63 of `a-z 0-9 -`, a letter or digit at both ends")
    return value


def check_version(value: str, *, field: str = "version") -> str:
    """The version, if it is a whole number from 1 without leading zeros.

    Raises:
        InvalidInput: otherwise.
    """
    if not _VERSION.fullmatch(value) or not value.isascii():
        raise InvalidInput(field, 'expected a whole number from 1, as in "7"')
    return value


def check_model(value: str, *, field: str = "model") -> str:
    """The model's name, if MLflow could have given it.

    Raises:
        InvalidInput: when it is empty, longer than 256 characters, or holds ``/``, ``:`` or a control character.
    """
    if not value.strip() or len(value) > _MODEL_MAX:
        raise InvalidInput(field, f"expected a name of 1 to {_MODEL_MAX} characters")
    if any(character in "/:" or not character.isprintable() for character in value):
        raise InvalidInput(field, "expected a name without `/`, `:` and control characters")
    return value


def check_identifier(value: str, *, field: str) -> str:
    """The id of a run or a logged model, if it is one.

    Raises:
        InvalidInput: unless it is 1 to 256 of ``A-Z a-z 0-9 _ -``, the first a letter or digit.
    """
    if not _IDENTIFIER.fullmatch(value):
        raise InvalidInput(field, "expected 1 to 256 letters, digits, `_` or `-` (ASCII)")
    return value


def check_experiment(value: str, *, field: str = "experiment_id") -> str:
    """The id of an experiment, if it is a whole number without leading zeros (MLflow takes ``" 01 "`` for 1).

    Raises:
        InvalidInput: otherwise.
    """
    if not _EXPERIMENT.fullmatch(value):
        raise InvalidInput(field, 'expected a whole number, as in "7"')
    return value


@dataclass(frozen=True, slots=True)
class ModelReference:
    """What a ``models:/`` URI names; exactly one of the members after ``model`` is set.

    ``models:/name@alias``, ``models:/name/7``; ``models:/name/Staging``, ``models:/name/latest`` and
    ``models:/name@latest``, of which each registration changes the meaning (``stage``, in lower case); and
    ``models:/m-…``, the logged model of this id, whose ``model`` is empty.
    """

    model: str
    alias: str | None = None
    version: str | None = None
    stage: str | None = None
    model_id: str | None = None

    def __str__(self) -> str:
        if self.model_id is not None:
            return f"models:/{self.model_id}"
        name = quote(self.model, safe=" @")
        return f"models:/{name}@{self.alias}" if self.alias else f"models:/{name}/{self.version or self.stage}"


def parse_models_uri(uri: str) -> ModelReference:
    """Read a ``models:/`` URI as MLflow does (``_parse_model_uri``); the name may be percent-encoded.

    What has a slash names a version or a stage, what has an ``@`` an alias, and what has neither is the id of a logged
    model: ``models:/m-1@production`` is the alias of a model of that name.

    Raises:
        InvalidInput: it is not such a URI.
    """
    expected = "expected models:/<name>@<alias>, models:/<name>/<version> or models:/m-<id>"
    if uri.startswith("runs:/"):
        raise InvalidInput("uri", f"{expected}; what a run logged is registered first (mlflow.register_model)")
    if not uri.startswith("models:/") or uri.startswith("models://"):
        raise InvalidInput("uri", expected)
    rest = uri.removeprefix("models:/")
    name, slash, suffix = rest.rpartition("/")
    if slash:
        model = check_model(unquote(name), field="uri")
        stage = suffix.casefold()
        if stage in STAGES or stage == LATEST:
            return ModelReference(model, stage=stage)
        return ModelReference(model, version=check_version(suffix, field="uri"))
    name, at, alias = rest.rpartition("@")
    if at:
        model = check_model(unquote(name), field="uri")
        if alias.casefold() == LATEST:
            return ModelReference(model, stage=LATEST)
        return ModelReference(model, alias=check_alias(alias, field="uri"))
    if not _LOGGED_MODEL.fullmatch(rest):
        raise InvalidInput("uri", expected)
    return ModelReference("", model_id=rest)


def no_model(name: str, workspace: str = DEFAULT_WORKSPACE) -> NotFound:
    """The one answer for a model or workspace that does not exist, and for a model that one may not know of."""
    return NotFound(f"There is no model {name}{_in(workspace)}.", name=name)


def no_version(name: str, version: str, workspace: str = DEFAULT_WORKSPACE) -> NotFound:
    """The one answer for a version that does not exist and for one that one may not know of."""
    return NotFound(f"There is no version {version} of model {name}{_in(workspace)}.", name=name, version=version)


def no_logged_model(model_id: str, workspace: str = DEFAULT_WORKSPACE) -> NotFound:
    """The one answer for a logged model that does not exist and for one that one may not know of."""
    return NotFound(f"There is no logged model {model_id}{_in(workspace)}.", model_id=model_id)


def no_run(run_id: str, workspace: str = DEFAULT_WORKSPACE) -> NotFound:
    return NotFound(f"There is no run {run_id}{_in(workspace)}.", run_id=run_id)


def no_experiment(experiment_id: str, workspace: str = DEFAULT_WORKSPACE) -> NotFound:
    return NotFound(f"There is no experiment {experiment_id}{_in(workspace)}.", experiment_id=experiment_id)


def _in(workspace: str) -> str:
    return "" if workspace == DEFAULT_WORKSPACE else f" in workspace {workspace}"
