"""What our OpenAPI document promises, tried by Schemathesis, which makes up requests for every operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from app.main import describe
from tests.conftest import database_of
from tests.issuer import Issuer
from tests.platform import Countersign, MlflowServer, new_countersign

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
    ignored_auth,
]
WALKS_THE_WHOLE_LOG = ["/control/v1/audit/export", "/control/v1/audit/verify"]
NEVER_ENDS = ["/control/v1/events/stream", "/control/v1/resolve/stream"]


schema = schemathesis.openapi.from_dict(describe().openapi()).exclude(path=WALKS_THE_WHOLE_LOG + NEVER_ENDS)


@pytest.fixture(scope="module")
def fuzzed(
    postgres: Callable[[str], str],
    template_database: str,
    mlflow_server: MlflowServer,
    issuer: Issuer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Countersign]:
    """A gateway that no other test uses: grants and policies are made up here, too."""
    with (
        database_of(postgres, template_database) as url,
        new_countersign(url, mlflow_server, issuer, tmp_path_factory.mktemp("fuzzed")) as service,
    ):
        service.start("gateway")
        yield service


@pytest.fixture(params=["administrator", "scientist-and-approver"])
def token(request: pytest.FixtureRequest, fuzzed: Countersign) -> str:
    return fuzzed.token(request.param)


@schema.parametrize()
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_operation_answers_as_it_says(case: schemathesis.Case, fuzzed: Countersign, token: str) -> None:
    if case.query and "wait" in case.query:
        case.query["wait"] = 0  # a long poll would be waited out: nothing happens here
    case.call_and_validate(base_url=fuzzed.url, headers={"Authorization": f"Bearer {token}"}, checks=CHECKS, timeout=30)
