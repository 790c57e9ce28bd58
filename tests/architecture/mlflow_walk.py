"""Prints, as JSON, what the installed MLflow serves and how it reads it. Run by ``mlflow_versions`` in a process of its
own: importing MLflow's server changes the environment, and its auth app changes the server.

Both of its web frameworks are walked through their public interfaces: FastAPI by its OpenAPI document (looping over
``app.routes`` finds nothing on the FastAPI that MLflow 3.17 uses), Flask by its URL map.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import mlflow
import uvicorn  # noqa: F401 - MLflow looks whether it is loaded to know that it is a server
from graphql import GraphQLObjectType
from mlflow.protos import databricks_pb2
from mlflow.server import app as flask_app
from mlflow.server import handlers
from mlflow.server.auth import create_app
from mlflow.server.fastapi_app import create_fastapi_app
from mlflow.server.graphql.graphql_schema_extensions import schema
from mlflow.server.handlers import validate_path_is_safe

Routes = dict[tuple[str, str], str]


def native_routes() -> Routes:
    """What FastAPI answers by itself, and the function that does."""
    paths = create_fastapi_app(flask_app).openapi()["paths"]
    return {
        (method.upper(), path.replace("{", "<").replace("}", ">")): f"fastapi {operation['summary']}"
        for path, each in paths.items()
        for method, operation in each.items()
    }


def flask_routes() -> Routes:
    """What Flask answers, mounted behind it. HEAD and OPTIONS are Flask's own additions to every rule."""
    return {
        (method, re.sub(r"<path:", "<", rule.rule)): f"flask {rule.endpoint}"
        for rule in flask_app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in {"HEAD", "OPTIONS"}
    }


def implied_pairs() -> set[tuple[str, str]]:
    """The HEAD and OPTIONS that Flask answers besides."""
    return {
        (method, rule.rule)
        for rule in flask_app.url_map.iter_rules()
        for method in {"HEAD", "OPTIONS"} & (rule.methods or set())
    }


def described(message: Any, depth: int = 2) -> dict[str, object]:
    """A protobuf message as field name to ``string``, ``boolean`` or, for a message in it, its name and fields."""
    names = {8: "boolean", 9: "string"}
    fields: dict[str, object] = {}
    for field in message.fields:
        if field.message_type and depth:
            inner = described(field.message_type, depth - 1)
            fields[field.name] = {"name": field.message_type.name, "fields": inner}
        else:
            fields[field.name] = names.get(field.type, f"type {field.type}")
    return fields


def messages() -> dict[str, dict[str, object]]:
    """The request message of each method and path (``/api/2.0`` spelling)."""
    found = {}
    for service in (handlers.MlflowService, handlers.ModelRegistryService):
        for method in service.DESCRIPTOR.methods:
            for endpoint in method.GetOptions().Extensions[databricks_pb2.rpc].endpoints:
                path = f"/api/{endpoint.since.major}.0{endpoint.path}".replace("{", "<").replace("}", ">")
                found[f"{endpoint.method} {path}"] = {
                    "name": method.input_type.name,
                    "fields": described(method.input_type),
                }
    return found


def graphql_fields() -> dict[str, list[str]]:
    """The root fields of the GraphQL schema, and the fields below them that fetch something by themselves."""
    found: dict[str, list[str]] = {"fetching": []}
    for name, kind in schema.graphql_schema.type_map.items():
        if kind in {schema.graphql_schema.query_type, schema.graphql_schema.mutation_type}:
            found[name.lower()] = sorted(kind.fields)
        elif isinstance(kind, GraphQLObjectType) and not name.startswith("__"):
            methods = dir(kind.graphene_type)
            found["fetching"] += [f"{name}.{field}" for field in kind.fields if f"resolve_{snake(field)}" in methods]
    return found


def snake(name: str) -> str:
    """``modelVersions`` as ``model_versions``."""
    return re.sub("[A-Z]", lambda letter: "_" + letter.group().lower(), name)


def normalised(paths: list[str]) -> dict[str, str]:
    """What MLflow makes of artifact paths."""
    return {path: str(validate_path_is_safe(path)) for path in paths}


native, plain = native_routes(), flask_routes()
create_app(flask_app)
walked = {
    "version": mlflow.__version__,
    "native": sorted(native),
    "flask": sorted(plain),
    "implied": sorted(implied_pairs()),
    "auth": sorted({*native_routes(), *flask_routes()} - {*native, *plain}),
    "handlers": {f"{method} {path}": handler for (method, path), handler in {**plain, **native}.items()},
    "messages": messages(),
    "graphql": graphql_fields(),
    "normalised": normalised(json.loads(sys.argv[1])),
}
json.dump(walked, sys.stdout)
