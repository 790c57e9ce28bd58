"""Gathers the facts that checks look at (``app/domain/facts.py``): from MLflow, and from the artifacts themselves."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from app.domain.digests import FileDigest, StoredFile
from app.domain.errors import NotFound, TooLarge, Unresolvable
from app.domain.formats import PICKLES, START, format_of
from app.domain.mlmodel import LONGEST_TEXT, facts_of, python_of, requirements_of
from app.domain.promotions import AliasKey
from app.domain.storage import Storage
from app.ports import LoggedModelDetails, ModelRegistry, ObjectStore, RunDetails, VersionDetails

LooseReader = Callable[[bytes], object]
"""The document in a YAML file, none if there is none (``app.adapters.lenient_yaml``)."""

Facts = dict[str, object]
Value = TypeVar("Value")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SMALL_FILES = ("MLmodel", "python_env.yaml", "requirements.txt")
_LARGEST_TEXT_FILE = 256 * 1024
"""Bytes of one of these; what is larger is not read."""
_MOST_LOOKED_INTO = 2_000
"""Files of which the first bytes are read, the largest first: on S3 each is a request."""
_MOST_ENTRIES = 5_000
"""Tags, parameters or metrics. Where there are more, none are known: else some could be hidden behind others."""
_MOST_MEASURING_RUNS = 10
_EVERYTHING = ""
_OF_RUN = frozenset({"run", "has_run", "metrics", "params", "datasets", "dvc_hash", "git_commit"})
_OF_FORMATS = frozenset({"files", "formats", "has_pickle"})
_OF_FILES = _OF_FORMATS | {"flavors", "has_signature", "signature", "has_input_example", "has_code", "environment"}
_OF_FILES |= {"file_count", "size"}
_NO_NUMBERS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_DVC = re.compile(r"dvc(?:[._-][a-z0-9._-]+)?[._-](?:hash|md5|rev|version)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a version's bytes already.

    ``digest`` is that of the version made at ``version_created_at`` (none: of whichever there is): numbers are given
    anew. ``files`` says, where it is at hand, what the files must be that are looked into; it adds no fact, so that the
    facts are the same without it.
    """

    digest: str | None = None
    version_created_at: int | None = None
    files: Sequence[FileDigest] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """What a promotion asks for, or would. ``holder`` is the version that holds the alias now."""

    key: AliasKey
    version: str
    holder: str | None
    requested_at: datetime
    requested_by: str = ""
    reason: str = ""
    candidate_known: Known = field(default_factory=Known)
    holder_known: Known = field(default_factory=Known)


@dataclass(frozen=True, slots=True)
class _Needs:
    """What has to be asked for one of the two versions."""

    version: bool = True
    run: bool = True
    files: bool = True
    formats: bool = True


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two versions: what is found of it; and its files, if they were looked at and can be."""

    facts: Facts
    files: Sequence[StoredFile] | None = None


class Evidence:
    """Args: read_yaml: reads a file that anybody may have written."""

    def __init__(
        self, registry: ModelRegistry, store: ObjectStore, read_yaml: LooseReader, *, storage: Storage
    ) -> None:
        self._registry = registry
        self._store = store
        self._read_yaml = read_yaml
        self._storage = storage

    async def of(self, asked: Asked, *, wanted: Collection[str] | None = None) -> Mapping[str, object]:
        """The facts, as JSON. What is not known is left out.

        Args:
            asked: the candidate, the holder, and who asked.
            wanted: the paths that will be looked at (``Expressions.check``); none stands for all. What no path needs
                is not asked for: to look into a thousand files on S3 takes seconds.

        Raises:
            NotFound: there is no such candidate.
            Unavailable: MLflow or the artifact store does not answer.
        """
        candidate, holder = await asyncio.gather(
            self._version(asked.key, asked.version, asked.candidate_known, _needs(wanted, "candidate")),
            self._holder(asked, _needs(wanted, "holder")),
        )
        return {
            "candidate": candidate.facts,
            "holder": holder.facts,
            "difference": _difference(candidate, holder) if holder.facts["exists"] else {},
            "promotion": {
                "model": asked.key.model,
                "alias": asked.key.alias,
                "workspace": asked.key.workspace,
                "reason": _clean(asked.reason),
                "requested_by": asked.requested_by,
                "requested_at": _written(asked.requested_at),
            },
        }

    async def _holder(self, asked: Asked, needs: _Needs) -> _Side:
        if asked.holder is not None and needs.version:
            with suppress(NotFound):  # the alias points to a version that was deleted: nobody serves it
                return await self._version(asked.key, asked.holder, asked.holder_known, needs)
            return _Side({"exists": False})
        return _Side({"exists": asked.holder is not None})

    async def _version(self, key: AliasKey, version: str, known: Known, needs: _Needs) -> _Side:
        details = await self._registry.describe_version(key.model, version, workspace=key.workspace)
        of_run, of_files = await asyncio.gather(
            self._run(key, details, needs), self._artifacts(key, details.version.source_uri, known, needs)
        )
        is_known = known.version_created_at in {None, details.version.created_at}
        digest = {"digest": known.digest if is_known else None}
        return _Side(_present({**_said(details), **digest, **of_run, **of_files.facts}), of_files.files)

    async def _run(self, key: AliasKey, details: VersionDetails, needs: _Needs) -> Facts:
        run_id, model_id = details.version.run_id, details.model_id
        if not needs.run:
            return {}
        run = await self._registry.describe_run(run_id, workspace=key.workspace) if run_id else None
        model = await self._registry.describe_logged_model(model_id, workspace=key.workspace) if model_id else None
        return {**_said_of_run(details, run, model), "metrics": await self._metrics(key, run, model)}

    async def _metrics(self, key: AliasKey, run: RunDetails | None, model: LoggedModelDetails | None) -> Facts | None:
        """Those of its run; and those by which other runs measured the model, under names that its own run has not."""
        found = dict(run.metrics) if run else {}
        others = {name: each for name, each in model.measured_by.items() if name not in found} if model else {}
        for run_id in sorted(set(others.values()))[:_MOST_MEASURING_RUNS]:
            measuring = await self._registry.describe_run(run_id, workspace=key.workspace)
            for name, value in measuring.metrics.items() if measuring and not measuring.is_deleted else ():
                if others.get(name) == run_id:
                    found[name] = value
        return _metrics(found)

    async def _artifacts(self, key: AliasKey, source_uri: str, known: Known, needs: _Needs) -> _Side:
        if not needs.files:
            return _Side({})
        try:
            uri = self._storage.physical_uri(source_uri, workspace=key.workspace)
            files = await self._store.stored(uri)
            starts = await self._starts(uri, files) if needs.formats else {}
            facts = await self._mlmodel(uri, {file.path for file in files}, known)
        except Unresolvable:
            return _Side({})  # nothing is known of them, and no check that looks at them holds
        facts |= {"file_count": len(files), "size": sum(file.size for file in files)}
        if needs.formats:
            facts |= _formats(files, starts)
        return _Side(facts, files)

    async def _starts(self, uri: str, files: Sequence[StoredFile]) -> Mapping[str, bytes]:
        largest = sorted(files, key=lambda file: file.size, reverse=True)[:_MOST_LOOKED_INTO]
        return await self._store.starts(uri, largest, length=START)

    async def _mlmodel(self, uri: str, paths: Collection[str], known: Known) -> Facts:
        small = {path: await self._text(uri, path, known) for path in _SMALL_FILES if path in paths}
        facts = facts_of(await self._document(small.get("MLmodel")), paths)
        environment = facts.get("environment")
        if not isinstance(environment, dict):
            return facts
        python = python_of(await self._document(small.get("python_env.yaml")))
        requirements = small.get("requirements.txt")
        if requirements is not None:
            environment["requirements"] = [
                _clean(line) for line in requirements_of(requirements.decode(errors="replace"))
            ]
        facts["environment"] = environment | ({"python": python} if python else {})
        return cleaned(facts)

    async def _document(self, text: bytes | None) -> object:
        return None if text is None else await asyncio.to_thread(self._read_yaml, text)

    async def _text(self, uri: str, path: str, known: Known) -> bytes | None:
        try:
            content = await self._store.read(uri, path, limit=_LARGEST_TEXT_FILE)
        except TooLarge:
            return None
        digest = next((file.sha256 for file in known.files if file.path == path), None)
        if digest is not None and digest != hashlib.sha256(content).hexdigest():
            raise Unresolvable(f"{path} is not the file that was digested.")
        return content


def _needs(wanted: Collection[str] | None, side: str) -> _Needs:
    if wanted is None:
        return _Needs()
    split = [re.split(r"[.\[]", path)[:2] for path in wanted]
    names = {name for first, *rest in split if first == side for name in rest or [_EVERYTHING]}
    compared = any(first == "difference" for first, *_ in split)
    everything = _EVERYTHING in names
    return _Needs(
        version=compared or bool(names),
        run=compared or everything or not names.isdisjoint(_OF_RUN),
        files=compared or everything or not names.isdisjoint(_OF_FILES),
        formats=everything or not names.isdisjoint(_OF_FORMATS),
    )


def _formats(files: Sequence[StoredFile], starts: Mapping[str, bytes]) -> Facts:
    described = [
        {"path": file.path, "size": file.size, "format": format_of(file.path, file.size, starts.get(file.path))}
        for file in sorted(files, key=lambda file: file.path)
    ]
    formats = {str(file["format"]) for file in described}
    has_pickle = not formats.isdisjoint(PICKLES)
    is_known = has_pickle or all(file.path in starts or not file.size for file in files)
    return {"files": described, "formats": sorted(formats), **({"has_pickle": has_pickle} if is_known else {})}


def _said(details: VersionDetails) -> Facts:
    """What MLflow says of a version."""
    version = details.version
    return {
        "exists": True,
        "version": version.version,
        "created_at": _time(version.created_at),
        "registered_by": _clean(version.claimed_author) or None,
        "description": _clean(details.description) or None,
        "tags": _entries(details.tags),
        "aliases": sorted(details.aliases),
        "uri": _clean(version.source_uri),
    }


def _said_of_run(details: VersionDetails, run: RunDetails | None, model: LoggedModelDetails | None) -> Facts:
    params = {**(model.params if model else {}), **(run.params if run else {})}
    return {
        "has_run": run is not None,
        "run": _run(run) if run else None,
        "params": _entries(params),
        "datasets": _datasets(run) if run else None,
        "dvc_hash": _dvc_hash((details.tags, run.tags if run else {}, params)),
        "git_commit": _clean(run.tags.get("mlflow.source.git.commit", "")) or None if run else None,
    }


def _run(run: RunDetails) -> Facts:
    return _present(
        {
            "id": run.id,
            "name": _clean(run.name) or None,
            "user": _clean(run.user) or None,
            "status": run.status,
            "started_at": _time(run.started_at),
            "ended_at": _time(run.ended_at),
            "is_deleted": run.is_deleted,
            "experiment": _clean(run.experiment) or None,
            "experiment_id": run.experiment_id,
            "tags": _entries(run.tags),
        }
    )


def _datasets(run: RunDetails) -> list[Facts] | None:
    if len(run.datasets) > _MOST_ENTRIES:
        return None
    return [
        _present(
            {
                "name": _clean(each.name) or None,
                "digest": _clean(each.digest) or None,
                "context": _clean(each.tags.get("mlflow.data.context", "")) or None,
                "source_type": _clean(each.source_type) or None,
                "source": _clean(each.source) or None,
            }
        )
        for each in run.datasets
    ]


def _dvc_hash(places: Iterable[Mapping[str, str]]) -> str | None:
    for place in places:
        for name in sorted(place):
            if _DVC.fullmatch(name) and place[name]:
                return _clean(place[name])
    return None


def _difference(candidate_side: _Side, holder_side: _Side) -> Facts:
    """What changes when the candidate takes the holder's place; what one side does not say is left out."""
    candidate, holder = candidate_side.facts, holder_side.facts
    ours, theirs = (_lines(side, "environment", "requirements") for side in (candidate, holder))
    files = _files_changed(candidate_side.files, holder_side.files)
    return _present(
        {
            **files,
            "metrics": _metrics_changed(candidate, holder),
            "same_bytes": _compared(candidate, holder, "digest", lambda one, other: one == other),
            "size": _compared(candidate, holder, "size", _minus),
            "flavors_changed": _compared(candidate, holder, "flavors", lambda one, other: one != other),
            "signature_changed": candidate.get("signature") != holder.get("signature")
            if "has_signature" in candidate and "has_signature" in holder
            else None,
            "params_changed": _compared(candidate, holder, "params", _names_changed),
            "requirements_added": None if ours is None or theirs is None else sorted(ours - theirs),
            "requirements_removed": None if ours is None or theirs is None else sorted(theirs - ours),
        }
    )


def _compared(candidate: Facts, holder: Facts, name: str, compare: Callable[[object, object], object]) -> object:
    return compare(candidate[name], holder[name]) if name in candidate and name in holder else None


def _minus(one: object, other: object) -> int | None:
    return one - other if isinstance(one, int) and isinstance(other, int) else None


def _names_changed(one: object, other: object) -> list[str]:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return []
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _metrics_changed(candidate: Facts, holder: Facts) -> Facts | None:
    ours, theirs = candidate.get("metrics"), holder.get("metrics")
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        return {}
    numbers: Mapping[str, float] = ours
    before: Mapping[str, float] = theirs
    both = numbers.keys() & before.keys()
    return _metrics({name: float(numbers[name]) - float(before[name]) for name in both})  # float() reads "NaN" too


def _lines(side: Facts, *names: str) -> set[str] | None:
    value: object = side
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return set(value) if isinstance(value, list) else None


def _files_changed(candidate: Sequence[StoredFile] | None, holder: Sequence[StoredFile] | None) -> Facts:
    if candidate is None or holder is None:
        return {}
    ours, theirs = {file.path for file in candidate}, {file.path for file in holder}
    return {"added_files": sorted(ours - theirs), "removed_files": sorted(theirs - ours)}


def _metrics(values: Mapping[str, float | str]) -> Facts | None:
    """JSON has no NaN: it is written as MLflow does."""
    if len(values) > _MOST_ENTRIES:
        return None
    return {_clean(name): _NO_NUMBERS.get(str(value), value) for name, value in sorted(values.items())}


def _entries(values: Mapping[str, str]) -> Facts | None:
    if len(values) > _MOST_ENTRIES:
        return None
    return {_clean(name): _clean(value) for name, value in sorted(values.items())}


def _time(milliseconds: int) -> str | None:
    if milliseconds <= 0:
        return None
    try:
        return _written(_EPOCH + timedelta(milliseconds=milliseconds))
    except OverflowError:
        return None


def _written(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _clean(text: str) -> str:
    """A text that any database keeps: no NUL, nothing that is not Unicode, not too long."""
    return text[:LONGEST_TEXT].replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def cleaned(value: Value) -> Value:
    """With every text in it as any database keeps it."""
    result: object = value
    if isinstance(value, str):
        result = _clean(value)
    elif isinstance(value, dict):
        result = {_clean(str(name)): cleaned(each) for name, each in value.items()}
    elif isinstance(value, list):
        result = [cleaned(each) for each in value]
    return result  # type: ignore[return-value]  # of the same shape


def _present(values: Mapping[str, object]) -> Facts:
    return {name: value for name, value in values.items() if value is not None}
