"""What a check of a policy can look at: a typed table of facts, and the answer of a check that looked at them.

``FACTS`` is the specification: an expression can name what stands here and nothing else, the reference page is written
from it, and ``app/services/evidence.py`` fills it in. Every fact may be absent, as nobody need log an accuracy: a check
that needs it does then not hold. What MLflow says (who registered a version, whose run it is) are claims of its
callers; who really asked, decided and wrote is known by the promotion itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Scalar(StrEnum):
    """A value without parts. In the facts a timestamp is a text of RFC 3339, and a double may be ``"NaN"``."""

    BOOL = "bool"
    INT = "int"
    DOUBLE = "double"
    STRING = "string"
    TIMESTAMP = "timestamp"
    DURATION = "duration"

    @property
    def label(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list; of ``None`` only the empty one, which fits every other."""

    of: Type | None

    @property
    def label(self) -> str:
        return f"list of {self.of.label}" if self.of else "list"


@dataclass(frozen=True, slots=True)
class MapOf:
    """From names, which are anybody's choice, to values of one type."""

    of: Type

    @property
    def label(self) -> str:
        return f"map of {self.of.label}"


@dataclass(frozen=True, slots=True)
class Record:
    """Parts that have names of their own. ``fields`` is not compared: the name says which record it is."""

    name: str
    fields: Mapping[str, Fact] = field(hash=False, compare=False, repr=False)

    @property
    def label(self) -> str:
        return self.name


Type = Scalar | ListOf | MapOf | Record


@dataclass(frozen=True, slots=True)
class Fact:
    """One row. ``source`` says where it comes from."""

    name: str
    type: Type
    meaning: str
    source: str = ""
    example: str = ""


def _record(name: str, *facts: Fact) -> Record:
    return Record(name, {fact.name: fact for fact in facts})


_BOOL, _INT, _DOUBLE, _STRING, _TIME = Scalar.BOOL, Scalar.INT, Scalar.DOUBLE, Scalar.STRING, Scalar.TIMESTAMP
_VERSION_SOURCE = "the version in MLflow"
_RUN_SOURCE = "the run in MLflow"
_MLMODEL = "the file `MLmodel`"
_STORE = "the artifact store"
_COMPUTED = "compared by Countersign"

FILE = _record(
    "file",
    Fact("path", _STRING, "relative to the root, with `/`", _STORE, '"model.pkl"'),
    Fact("size", _INT, "bytes", _STORE, "1311"),
    Fact("format", _STRING, "one of the formats below", _STORE, '"pickle"'),
)
DATASET = _record(
    "dataset",
    Fact("name", _STRING, "as it was logged", _RUN_SOURCE, '"churn-2026-10"'),
    Fact("digest", _STRING, "MLflow's fingerprint of the data", _RUN_SOURCE, '"8c1f2a9e"'),
    Fact("context", _STRING, "the tag `mlflow.data.context`", _RUN_SOURCE, '"training"'),
    Fact("source_type", _STRING, "what kind of place it is from", _RUN_SOURCE, '"s3"'),
    Fact("source", _STRING, "where it is from, as MLflow keeps it (JSON)", _RUN_SOURCE),
)
COLUMN = _record(
    "column",
    Fact("name", _STRING, "absent for a column without a name", _MLMODEL, '"age"'),
    Fact("type", _STRING, "as MLflow writes it", _MLMODEL, '"double"'),
    Fact("required", _BOOL, "whether a value must be given", _MLMODEL, "true"),
)
_SIGNATURE = _record(
    "signature",
    Fact("has_inputs", _BOOL, "", _MLMODEL, "true"),
    Fact("has_outputs", _BOOL, "", _MLMODEL, "true"),
    Fact("inputs", ListOf(COLUMN), "columns, or tensors", _MLMODEL),
    Fact("outputs", ListOf(COLUMN), "columns, or tensors", _MLMODEL),
)
_ENVIRONMENT = _record(
    "environment",
    Fact("python", _STRING, "Python's version", "`python_env.yaml`, else `MLmodel`", '"3.11.7"'),
    Fact(
        "requirements", ListOf(_STRING), "its lines, without comments", "`requirements.txt`", '["scikit-learn==1.7.2"]'
    ),
    Fact("mlflow_version", _STRING, "of the MLflow that saved the model", _MLMODEL, '"3.17.2"'),
)
_RUN = _record(
    "run",
    Fact("id", _STRING, "", _RUN_SOURCE, '"52a92c0fc4294f46826c5a164300dcef"'),
    Fact("name", _STRING, "", _RUN_SOURCE, '"gifted-fox-12"'),
    Fact("user", _STRING, "who ran it, as the client said", _RUN_SOURCE, '"ada"'),
    Fact("status", _STRING, "`RUNNING`, `SCHEDULED`, `FINISHED`, `FAILED` or `KILLED`", _RUN_SOURCE, '"FINISHED"'),
    Fact("started_at", _TIME, "", _RUN_SOURCE),
    Fact("ended_at", _TIME, "absent while it runs", _RUN_SOURCE),
    Fact("is_deleted", _BOOL, "in MLflow's bin", _RUN_SOURCE, "false"),
    Fact("experiment", _STRING, "the experiment's name", _RUN_SOURCE, '"churn"'),
    Fact("experiment_id", _STRING, "", _RUN_SOURCE, '"3"'),
    Fact("tags", MapOf(_STRING), "", _RUN_SOURCE),
)

_VERSION: tuple[Fact, ...] = (
    Fact(
        "exists",
        _BOOL,
        "false if the alias points to nothing; every other fact is absent then",
        _VERSION_SOURCE,
        "true",
    ),
    Fact("version", _STRING, "", _VERSION_SOURCE, '"7"'),
    Fact("created_at", _TIME, "when it was registered", _VERSION_SOURCE),
    Fact("registered_by", _STRING, "as MLflow says; absent on a server without users", _VERSION_SOURCE, '"ada"'),
    Fact("description", _STRING, "", _VERSION_SOURCE),
    Fact("tags", MapOf(_STRING), "", _VERSION_SOURCE, '{"validation": "passed"}'),
    Fact("aliases", ListOf(_STRING), "that point to it now", _VERSION_SOURCE, '["staging"]'),
    Fact("uri", _STRING, "where its files are, as MLflow says", _VERSION_SOURCE),
    Fact("has_run", _BOOL, "it names a run, and there is one", _RUN_SOURCE, "true"),
    Fact("run", _RUN, "the run that it comes from", _RUN_SOURCE),
    Fact(
        "metrics",
        MapOf(_DOUBLE),
        "the latest value of each in its run; and in other runs that measured the logged model (`model_id=…`), under "
        "names that its own run does not have. Infinity is 1.8e308, as MLflow keeps it",
        "runs in MLflow",
        '{"accuracy": 0.93}',
    ),
    Fact(
        "params",
        MapOf(_STRING),
        "texts, as MLflow keeps them: compare `double(…)` of one; those of the run win over those of the logged model",
        "the run and the logged model in MLflow",
        '{"lr": "0.01"}',
    ),
    Fact("datasets", ListOf(DATASET), "inputs that the run logged", _RUN_SOURCE),
    Fact(
        "dvc_hash",
        _STRING,
        "of the tag or parameter that is named like `dvc.hash`, `dvc_data_md5` or `dvc.dataset_version` (`dvc` first; "
        "`hash`, `md5`, `rev` or `version` last); neither DVC nor MLflow has one name for it. Tags of the version win "
        "over those of the run, those over parameters; else the first by name",
        "tags and parameters",
        '"3863d0e317dee0a55c4e59d2ec0eef33"',
    ),
    Fact("git_commit", _STRING, "the tag `mlflow.source.git.commit`", _RUN_SOURCE, '"9c1e…"'),
    Fact("flavors", ListOf(_STRING), "in order of their names", _MLMODEL, '["python_function", "sklearn"]'),
    Fact("has_signature", _BOOL, "", _MLMODEL, "true"),
    Fact("signature", _SIGNATURE, "what goes in and what comes out", _MLMODEL),
    Fact("has_input_example", _BOOL, "it is named, and the file is there", _MLMODEL, "true"),
    Fact("has_code", _BOOL, "`code_paths` were packaged, and the folder is there", _MLMODEL, "true"),
    Fact("environment", _ENVIRONMENT, "what it was saved with", _MLMODEL),
    Fact(
        "digest",
        _STRING,
        "the tree digest: the one that the promotion pins; of the holder, the one that it was promoted with, if it was",
        _STORE,
        '"sha256:…"',
    ),
    Fact("files", ListOf(FILE), "all of them", _STORE),
    Fact("file_count", _INT, "", _STORE, "8"),
    Fact("size", _INT, "bytes of all files together", _STORE, "1387"),
    Fact("formats", ListOf(_STRING), "of the files, in order of their names", _STORE, '["pickle", "yaml"]'),
    Fact(
        "has_pickle",
        _BOOL,
        "a file is a `pickle`, `joblib` or `torch`, by its name or by its first bytes",
        _STORE,
        "true",
    ),
)
_DIFFERENCE = _record(
    "difference",
    Fact(
        "metrics",
        MapOf(_DOUBLE),
        "candidate minus holder, of the metrics that both have",
        _COMPUTED,
        '{"accuracy": 0.02}',
    ),
    Fact(
        "same_bytes",
        _BOOL,
        "the digests are equal; absent if that of the holder is not known",
        _COMPUTED,
        "false",
    ),
    Fact("added_files", ListOf(_STRING), "paths that the holder does not have", _COMPUTED),
    Fact("removed_files", ListOf(_STRING), "paths that only the holder has", _COMPUTED),
    Fact("size", _INT, "bytes more than the holder", _COMPUTED, "120"),
    Fact("flavors_changed", _BOOL, "", _COMPUTED, "false"),
    Fact("signature_changed", _BOOL, "", _COMPUTED, "false"),
    Fact("params_changed", ListOf(_STRING), "parameters that are new, gone or different", _COMPUTED, '["lr"]'),
    Fact("requirements_added", ListOf(_STRING), "lines", _COMPUTED),
    Fact("requirements_removed", ListOf(_STRING), "lines", _COMPUTED),
)
_PROMOTION = _record(
    "promotion",
    Fact("model", _STRING, "", "the promotion", '"churn"'),
    Fact("alias", _STRING, "", "the promotion", '"production"'),
    Fact("workspace", _STRING, "MLflow's workspace", "the promotion", '"default"'),
    Fact("reason", _STRING, "what the requester wrote", "the promotion"),
    Fact("requested_by", _STRING, "the principal's id", "the promotion"),
    Fact("requested_at", _TIME, "CEL has no `now()`: ages are counted to this", "the promotion"),
)

FACTS = _record(
    "facts",
    Fact("candidate", _record("version", *_VERSION), "the version that shall hold the alias"),
    Fact("holder", _record("version", *_VERSION), "the version that holds it now"),
    Fact("difference", _DIFFERENCE, "between the two; everything is absent without a holder"),
    Fact("promotion", _PROMOTION, "what was asked"),
)
"""The four names that an expression begins with."""


def rows(fact: Fact, prefix: str = "") -> Iterator[tuple[str, Fact]]:
    """Every part of a fact with its path, records before their parts; of a list's items as ``files[].path``."""
    of, mark = (fact.type.of, f"{prefix}[]") if isinstance(fact.type, ListOf) else (fact.type, prefix)
    if isinstance(of, Record):
        for part in of.fields.values():
            path = f"{mark}.{part.name}" if mark else part.name
            yield path, part
            yield from rows(part, path)


@dataclass(frozen=True, slots=True)
class Clause:
    """One part of an expression, of those that ``&&`` joins.

    ``values`` maps each path that it looks at to its value, as shortened JSON. ``message`` says why it does not hold:
    ``candidate.metrics["accuracy"] >= 0.9: it is 0.84``; empty if it does.
    """

    text: str
    holds: bool
    values: Mapping[str, str]
    message: str


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The answer of one expression.

    ``reads`` maps every path that it looks at to its value as canonical JSON, to a digest of that when it is long, or
    to ``ABSENT``: what was approved has changed when one of them has.
    """

    holds: bool
    clauses: tuple[Clause, ...]
    reads: Mapping[str, str]

    @property
    def message(self) -> str:
        """Why it does not hold, a line for each clause."""
        return "\n".join(clause.message for clause in self.clauses if not clause.holds)


ABSENT = "absent"
"""In ``Evaluated.reads``; no JSON is written so."""
