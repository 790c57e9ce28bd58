"""A version's files on the replica: what is loaded is what was approved, and no copy of it outlives its replica."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from countersign_ray_serve.serving.artifacts import fetched, tree_digest
from countersign_ray_serve.serving.failures import ArtifactNotFound, DigestMismatch

from tests.s3 import running_s3

SavedModel = Any

# MLflow warns about itself while it saves and loads.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

OTHER = "sha256:" + "0" * 64


@pytest.fixture(autouse=True)
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds the copies: the machine's temporary one, of this test alone."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """What was approved: two files."""
    folder = tmp_path / "store"
    (folder / "code").mkdir(parents=True)
    (folder / "MLmodel").write_text("approved")
    (folder / "code" / "helper.py").write_text("approved")
    return folder


def test_what_was_approved_is_copied(store: Path) -> None:
    with fetched(f"{store.as_uri()}/", tree_digest(store)) as folder:
        assert tree_digest(folder) == tree_digest(store)


def test_changed_artifacts_are_not_loaded(store: Path, copies: Path) -> None:
    with pytest.raises(DigestMismatch), fetched(store.as_uri(), OTHER):
        pass
    assert not [*copies.iterdir()], "nothing is left of what is not served"


def test_missing_artifacts_are_named(tmp_path: Path) -> None:
    empty, file = tmp_path / "empty", tmp_path / "file"
    empty.mkdir()
    file.touch()
    for nowhere in (tmp_path / "gone", empty, file):
        with pytest.raises(ArtifactNotFound, match=nowhere.name), fetched(f"{nowhere.as_uri()}/", OTHER):
            pass


def test_what_is_swapped_after_the_check_is_not_loaded(store: Path) -> None:
    with fetched(store.as_uri(), tree_digest(store)) as folder:
        (store / "code" / "helper.py").write_text("swapped")
        assert (folder / "code" / "helper.py").read_text() == "approved"


def link_to_a_folder(store: Path, elsewhere: Path) -> str:
    (store / "code" / "helper").symlink_to(elsewhere, target_is_directory=True)
    return "code/helper' is a symbolic link"


def link_to_a_file(store: Path, elsewhere: Path) -> str:
    (store / "code" / "helper.py").rename(elsewhere / "helper.py")
    (store / "code" / "helper.py").symlink_to(elsewhere / "helper.py")
    return "code/helper.py' is a symbolic link"


def pipe(store: Path, _: Path) -> str:
    os.mkfifo(store / "pipe")
    return "pipe' is no regular file"


def two_files_in_one(store: Path, _: Path) -> str:
    """A file that has the lines of both: its own content, and in its name the rest."""
    import hashlib

    rest = hashlib.sha256((store / "code" / "helper.py").read_bytes()).hexdigest()
    shutil.rmtree(store / "code")
    (store / f"MLmodel\n{rest}  code").mkdir()
    (store / "MLmodel").rename(store / f"MLmodel\n{rest}  code" / "helper.py")
    return "is a path of two lines"


@pytest.mark.parametrize("change", [link_to_a_folder, link_to_a_file, pipe, two_files_in_one])
def test_what_no_digest_can_vouch_for_is_refused_by_name(
    store: Path, copies: Path, tmp_path: Path, change: Callable[[Path, Path], str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "__init__.py").write_text("evil")
    digest = tree_digest(store)
    message = change(store, elsewhere)
    with pytest.raises(DigestMismatch, match=message), fetched(store.as_uri(), digest):
        pass
    assert not [*copies.iterdir()]


def test_of_what_came_from_a_bucket_nothing_is_left_either(
    store: Path, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    with running_s3() as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        bucket = boto3.client("s3")
        bucket.create_bucket(Bucket="replicas")
        for path in ("MLmodel", "code/helper.py"):
            bucket.upload_file(str(store / path), "replicas", f"iris/artifacts/{path}")
        with fetched("s3://replicas/iris/artifacts/", tree_digest(store)) as folder:
            assert (folder / "code" / "helper.py").read_text() == "approved"
            assert folder.is_relative_to(copies)
        with pytest.raises(DigestMismatch), fetched("s3://replicas/iris/artifacts/", OTHER):
            pass
    assert not [*copies.iterdir()]


def test_a_replica_keeps_its_copy_until_its_end(save_model: Callable[..., SavedModel], copies: Path) -> None:
    from countersign_ray_serve.serving.backend import Backend

    model = save_model()
    replica = Backend(model.uri, "7", model.digest, False)
    assert len([*copies.iterdir()]) == 1
    assert asyncio.run(replica.predict(b'{"inputs": [[1, 2]]}'))[0] == 200
    replica.__del__()  # as Serve does
    assert not [*copies.iterdir()]


def test_nothing_is_left_of_a_model_that_cannot_be_loaded_nor_of_the_reading_of_its_packages(
    store: Path, copies: Path
) -> None:
    from countersign_ray_serve.serving.backend import Backend, build_backend
    from mlflow.exceptions import MlflowException

    (store / "MLmodel").unlink()
    bad = SimpleNamespace(uri=store.as_uri(), digest=tree_digest(store))
    with pytest.raises(MlflowException, match="MLmodel"):
        Backend(bad.uri, "8", bad.digest, False)
    assert not [*copies.iterdir()]
    said: dict[str, Any] = {"packages": ["model"], "installer": "pip", "actor": {}}
    build_backend({"uri": bad.uri, "version": "8", "digest": bad.digest, **said})
    assert not [*copies.iterdir()]


HOLD = """
import sys
from countersign_ray_serve.serving.artifacts import fetched
with fetched(*sys.argv[1:]):
    print("there", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_has_left_is_removed_by_the_next_and_what_a_living_one_needs_is_not(
    store: Path, copies: Path
) -> None:
    digest = tree_digest(store)
    arguments = [sys.executable, "-c", HOLD, store.as_uri(), digest]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        (held,) = copies.iterdir()
        with fetched(store.as_uri(), digest):
            assert held in copies.iterdir()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert [*copies.iterdir()] == [held]
        with fetched(store.as_uri(), digest):
            assert held not in copies.iterdir()
