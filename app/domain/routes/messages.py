"""The request messages of MLflow that decide authorisation, field by field.

Written down from MLflow's protobuf descriptors; a test compares them with those of the installed MLflow. Everything
that MLflow's parser would take besides (camelCase names, unknown fields, ``[a.b]`` extension keys, which make it drop
all that follows) is refused by ``app/domain/canonical.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Scalar(StrEnum):
    """A JSON type, or a string with one accepted spelling (``app/domain/names.py``)."""

    STRING = "string"
    BOOLEAN = "boolean"
    ALIAS = "alias"
    VERSION = "version"


@dataclass(frozen=True, slots=True)
class ListOf:
    """A JSON array of messages."""

    message: Message


@dataclass(frozen=True, slots=True)
class Message:
    """One protobuf message. ``required`` names the fields without which nothing can be judged."""

    name: str
    fields: Mapping[str, Scalar | ListOf]
    required: frozenset[str] = frozenset()


def _message(name: str, required: str = "", /, **fields: Scalar | ListOf) -> Message:
    return Message(name, fields, frozenset(required.split()))


STRING, BOOLEAN, ALIAS, VERSION = Scalar.STRING, Scalar.BOOLEAN, Scalar.ALIAS, Scalar.VERSION


def _tags(of: str) -> ListOf:
    return ListOf(_message(of, key=STRING, value=STRING))


MESSAGES: Mapping[str, Message] = {
    message.name: message
    for message in (
        _message("CreateExperiment", name=STRING, artifact_location=STRING, tags=_tags("ExperimentTag")),
        _message("DeleteExperiment", "experiment_id", experiment_id=STRING),
        _message("RestoreExperiment", "experiment_id", experiment_id=STRING),
        _message("DeleteRun", "run_id", run_id=STRING),
        _message("RestoreRun", "run_id", run_id=STRING),
        _message(
            "CreateLoggedModel",
            experiment_id=STRING,
            name=STRING,
            model_type=STRING,
            source_run_id=STRING,
            params=_tags("LoggedModelParameter"),
            tags=_tags("LoggedModelTag"),
        ),
        _message("DeleteLoggedModel", "model_id", model_id=STRING),
        _message(
            "CreateRegisteredModel",
            "name",
            name=STRING,
            tags=_tags("RegisteredModelTag"),
            description=STRING,
            deployment_job_id=STRING,
        ),
        _message("RenameRegisteredModel", "name new_name", name=STRING, new_name=STRING),
        _message("DeleteRegisteredModel", "name", name=STRING),
        _message("SetRegisteredModelTag", "name key", name=STRING, key=STRING, value=STRING),
        _message("DeleteRegisteredModelTag", "name key", name=STRING, key=STRING),
        _message("SetRegisteredModelAlias", "name alias version", name=STRING, alias=ALIAS, version=VERSION),
        _message("DeleteRegisteredModelAlias", "name alias", name=STRING, alias=ALIAS),
        _message(
            "CreateModelVersion",
            "name source",
            name=STRING,
            source=STRING,
            run_id=STRING,
            tags=_tags("ModelVersionTag"),
            run_link=STRING,
            description=STRING,
            model_id=STRING,
        ),
        _message("DeleteModelVersion", "name version", name=STRING, version=VERSION),
        _message("SetModelVersionTag", "name version key", name=STRING, version=VERSION, key=STRING, value=STRING),
        _message("DeleteModelVersionTag", "name version key", name=STRING, version=VERSION, key=STRING),
        _message(
            "TransitionModelVersionStage",
            "name version stage",
            name=STRING,
            version=VERSION,
            stage=STRING,
            archive_existing_versions=BOOLEAN,
        ),
    )
}
