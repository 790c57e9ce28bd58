"""A person reads first what went wrong: Ray's texts begin with its own frames, and name the error at their end."""

from __future__ import annotations

import pytest
from countersign_deployer.masking import LONGEST_TAIL
from countersign_deployer.phases import Reason
from countersign_ray_serve.diagnosis import LONGEST_ERROR, diagnose, error_first, reason_for_delay

SITE = "/home/ray/anaconda3/lib/python3.11/site-packages"


def of_constructor(error: str, frames: str = "") -> str:
    """As Serve says it of a replica whose constructor raised: coloured, one traceback inside another."""
    return (
        "The deployment failed to start 3 times in a row. This may be due to a problem with its constructor or initial"
        " health check failing. See controller logs for details. Error:\n"
        "\x1b[36mray::ServeReplica:diabetes--v5-0a1b2c3d:Backend.initialize_and_get_metadata()\x1b[39m (pid=4711,"
        " ip=10.0.0.7, actor_id=0e1f, repr=<ray.serve._private.replica.ServeReplica:diabetes--v5-0a1b2c3d:Backend"
        " object at 0x7f3c>)\n"
        f'  File "{SITE}/ray/serve/_private/replica.py", line 1252, in initialize_and_get_metadata\n'
        "    await self._replica_impl.initialize(deployment_config, rank)\n"
        f'  File "{SITE}/ray/serve/_private/replica.py", line 1928, in initialize\n'
        "    raise RuntimeError(traceback.format_exc()) from None\n"
        "RuntimeError: Traceback (most recent call last):\n"
        f'  File "{SITE}/ray/serve/_private/replica.py", line 1867, in initialize\n'
        "    await self._user_callable_wrapper.initialize_callable()\n"
        "          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
        f'  File "{SITE}/ray/serve/_private/replica.py", line 4090, in initialize_callable\n'
        "    await self._call_func_or_gen(\n"
        f'  File "{SITE}/countersign_ray_serve/serving/backend.py", line 32, in __init__\n'
        "    self._predictor = Predictor(load(fetch(uri, digest), any_python=any_python))\n"
        f'{frames}  File "{SITE}/mlflow/pyfunc/model.py", line 1185, in _load_context_model_and_signature\n'
        "    python_model.load_context(context=context)\n"
        f"{error}\n"
    )


CHAINED = (
    f'  File "{SITE}/torch/serialization.py", line 1521, in load\n'
    "    with _open_zipfile_reader(opened_file) as opened_zipfile:\n"
    "RuntimeError: PytorchStreamReader failed reading zip archive\n"
    "\n"
    "The above exception was the direct cause of the following exception:\n"
    "\n"
    "Traceback (most recent call last):\n"
)
OF_BUILDING = (
    "Deploying app 'diabetes--v5-0a1b2c3d' failed with exception:\n"
    "Traceback (most recent call last):\n"
    f'  File "{SITE}/ray/serve/_private/application_state.py", line 921, in _reconcile_build_app_task\n'
    "    args, err = ray.get(self._build_app_task_info.obj_ref)\n"
    f'  File "{SITE}/ray/_private/worker.py", line 1014, in get_objects\n'
    "    raise value.as_instanceof_cause()\n"
    "ray.exceptions.RayTaskError(OSError): \x1b[36mray::build_serve_application()\x1b[39m (pid=9, ip=10.0.0.7)\n"
    "OSError: the disk is full\n"
)
OF_PIP = (
    "Exception when allocating Replica(id='x1', deployment='Backend', app='diabetes--v5-0a1b2c3d'): Failed to set up"
    " runtime environment.\n"
    "Traceback (most recent call last):\n"
    f'  File "{SITE}/ray/_private/runtime_env/utils.py", line 105, in check_output_cmd\n'
    "    raise SubprocessCalledProcessError(\n"
    "ray._private.runtime_env.utils.SubprocessCalledProcessError: Run cmd[9] failed with the following details.\n"
    "Command '['/tmp/ray/x/virtualenv/bin/python', '-m', 'pip', 'install', '-r', 'requirements.txt']' returned"
    " non-zero exit status 1.\n"
    "Last 50 lines of stdout:\n"
    "    Looking in indexes: https://robot:hunter2@pypi.test/simple\n"
    "    ERROR: Could not find a version that satisfies the requirement humanise==9 (from versions: none)\n"
    "    ERROR: No matching distribution found for humanise==9\n"
)
OF_UV = (
    "Runtime env setup for app 'diabetes--v5-0a1b2c3d' failed:\n"
    "Traceback (most recent call last):\n"
    f'  File "{SITE}/ray/_private/worker.py", line 1014, in get_objects\n'
    "    raise value\n"
    "ray.exceptions.RuntimeEnvSetupError: Failed to set up runtime environment.\n"
    "Last 50 lines of stdout:\n"
    "      × No solution found when resolving dependencies:\n"
    "      ╰─▶ Because humanise was not found in the package registry and you require humanise==9\n"
)
OUR = "countersign_ray_serve.serving.failures."


@pytest.mark.parametrize(
    ("message", "reason", "begins"),
    [
        (
            of_constructor("OSError: weights.bin is truncated"),
            Reason.MODEL_LOAD_FAILED,
            "OSError: weights.bin is truncated\n",
        ),
        (of_constructor("KeyError: 'column'", CHAINED), Reason.MODEL_LOAD_FAILED, "KeyError: 'column'\n"),
        (of_constructor("MemoryError"), Reason.MODEL_LOAD_FAILED, "MemoryError\n"),
        (
            of_constructor("ValidationError: 1 error\nname\n  Field required"),
            Reason.MODEL_LOAD_FAILED,
            "ValidationError: 1 error name Field required\n",
        ),
        (
            of_constructor("ImportError: cannot import name 'Ridge' from 'sklearn'"),
            Reason.MODEL_LOAD_FAILED,
            "ImportError: cannot import name 'Ridge'",
        ),
        (
            of_constructor("ModuleNotFoundError: No module named 'lightgbm'"),
            Reason.DEPENDENCY_MISSING,
            "The package 'lightgbm' is not installed where the replicas run",
        ),
        (OF_BUILDING, Reason.MODEL_LOAD_FAILED, "OSError: the disk is full\n"),
        (OF_PIP, Reason.RUNTIME_ENV_FAILED, "No matching distribution found for humanise==9\n"),
        (OF_UV, Reason.RUNTIME_ENV_FAILED, "Because humanise was not found in the package registry"),
        (
            of_constructor(f"{OUR}ArtifactNotFound: s3://m/x: FileNotFoundError: no such key"),
            Reason.ARTIFACT_NOT_FOUND,
            "s3://m/x: FileNotFoundError: no such key",
        ),
        (
            of_constructor(f"{OUR}StorageDenied: s3://m/x: ClientError: An error occurred (403): Forbidden"),
            Reason.STORAGE_DENIED,
            "s3://m/x: ClientError: An error occurred (403)",
        ),
        (
            of_constructor(f"{OUR}PythonVersionMismatch: The model was saved with Python 3.9.7"),
            Reason.PYTHON_VERSION_MISMATCH,
            "The model was saved with Python 3.9.7",
        ),
        (
            of_constructor(f"{OUR}DigestMismatch: The files have the digest sha256:1"),
            Reason.DIGEST_MISMATCH,
            "The files have the digest sha256:1",
        ),
    ],
)
def test_a_failure_is_told_with_its_error_first(message: str, reason: Reason, begins: str) -> None:
    found, told = diagnose(message)
    assert (found, told[: len(begins)]) == (reason, begins)
    assert "\x1b" not in told
    assert "hunter2" not in told
    assert len(told) <= LONGEST_TAIL


def test_after_the_error_comes_the_end_of_the_message_in_whole_lines() -> None:
    message = of_constructor("OSError: weights.bin is truncated", CHAINED * 5)
    assert len(message) > LONGEST_TAIL
    error, _, heading, *end = diagnose(message)[1].splitlines()
    assert (error, heading) == ("OSError: weights.bin is truncated", "Ray's message ends with:")
    assert end == message.splitlines()[-len(end) :]


def test_a_message_whose_frames_are_forged_is_still_bounded() -> None:
    assert len(diagnose(of_constructor('  File "' * 20_000))[1]) <= LONGEST_TAIL


def test_no_capacity_is_told_as_ray_tells_it() -> None:
    message = (
        "Deployment 'Backend' in application 'diabetes--v5-0a1b2c3d' has 1 replicas that have taken more than 30s to be"
        ' scheduled. Resources required for each replica: {"CPU": 64.0}, total resources available: {}.'
    )
    assert reason_for_delay(message) is Reason.NO_CAPACITY
    assert error_first(message) == message


@pytest.mark.parametrize(
    "error",
    [
        "ValueError: " + "x" * 100_000,
        f"ValueError: {'y' * (LONGEST_ERROR - 40)} https://robot:hunter2{'z' * 300}@store.test/x",
        "ValueError: password=hunter2",
        "ValueError: " + "\n" * 100_000,
    ],
    ids=["long", "a secret across the cut", "a secret", "many lines"],
)
def test_an_error_is_short_and_without_secrets_whatever_the_model_says(error: str) -> None:
    _, told = diagnose(of_constructor(error))
    assert len(told) <= LONGEST_TAIL
    assert len(told.splitlines()[0]) <= LONGEST_ERROR
    assert "hunter2" not in told


@pytest.mark.parametrize("message", ["", "boom", "ValueError: no", "Traceback (most recent call last):"])
def test_what_has_no_frames_is_told_once_as_it_is(message: str) -> None:
    assert error_first(message) == message
