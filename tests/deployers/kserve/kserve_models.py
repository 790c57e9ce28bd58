"""Print the structural schema of one of KServe's kinds, made of KServe's and Kubernetes' own Python models.

Runs in the Python of ``serving.py``. The models know names and types, as a CustomResourceDefinition does; not limits.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from types import ModuleType
from typing import Any

ANYTHING = {"x-kubernetes-preserve-unknown-fields": True}
PLAIN = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "bool": {"type": "boolean"},
    "float": {"type": "number"},
    "object": ANYTHING,
    "ResourceQuantity": {"x-kubernetes-int-or-string": True},
    "IntOrString": {"x-kubernetes-int-or-string": True},
    "V1ObjectMeta": ANYTHING,
}
TEXTS = ("KnativeURL", "KnativeVolatileTime", "V1Time", "datetime", "V1Duration")
BY_NAME = ("containers", "initContainers", "env", "volumes", "ephemeralContainers")
"""Lists that the definitions declare as maps by ``name``, of what is named here."""


def of_kserve(name: str, models: Any, above: tuple[str, ...] = ()) -> dict[str, Any]:
    if name in PLAIN:
        return dict(PLAIN[name])
    if name in TEXTS:
        return {"type": "string"}
    if found := re.fullmatch(r"list\[(.+)\]", name):
        return {"type": "array", "items": of_kserve(found[1], models, above)}
    if found := re.fullmatch(r"dict\(str, (.+)\)", name):
        return {"type": "object", "additionalProperties": of_kserve(found[1], models, above)}
    if name in above:
        return dict(ANYTHING)
    if model := getattr(models, name, None):
        types, names = model.openapi_types, model.attribute_map
        properties = {names[key]: of_kserve(kind, models, (*above, name)) for key, kind in types.items()}
        return {"type": "object", "properties": lists_by_name(properties)}
    return of_kubernetes(name.removeprefix("K8sIoApiAppsV1").replace("DeploymentStrategy", "V1DeploymentStrategy"))


def of_kubernetes(name: str) -> dict[str, Any]:
    model = getattr(models_of("kubernetes.client"), name, None)
    if model is None:
        return dict(ANYTHING)
    document = model.model_json_schema(by_alias=True)
    return structural(document, document.get("$defs", {}), ())


def structural(schema: dict[str, Any], defs: dict[str, Any], above: tuple[str, ...]) -> dict[str, Any]:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return dict(ANYTHING) if name in above else structural(defs[name], defs, (*above, name))
    if "anyOf" in schema:
        kinds = [each for each in schema["anyOf"] if each.get("type") != "null"]
        if {each.get("type") for each in kinds} == {"integer", "string"}:
            return {"x-kubernetes-int-or-string": True}
        return structural(kinds[0], defs, above) if len(kinds) == 1 else dict(ANYTHING)
    if "properties" in schema:
        properties = {name: structural(each, defs, above) for name, each in schema["properties"].items()}
        for name in ("limits", "requests", "sizeLimit", "divisor"):
            if name in properties:
                quantity = {"x-kubernetes-int-or-string": True}
                is_map = properties[name].get("type") == "object"
                properties[name] = {"type": "object", "additionalProperties": quantity} if is_map else quantity
        return {"type": "object", "properties": lists_by_name(properties)}
    if schema.get("type") == "array":
        return {"type": "array", "items": structural(schema.get("items", {}), defs, above)}
    if isinstance(more := schema.get("additionalProperties"), dict):
        return {"type": "object", "additionalProperties": structural(more, defs, above)}
    kind = schema.get("type")
    return {"type": kind} if kind in {"string", "integer", "boolean", "number"} else dict(ANYTHING)


def lists_by_name(properties: dict[str, Any]) -> dict[str, Any]:
    for name in BY_NAME:
        if properties.get(name, {}).get("type") == "array":
            properties[name] |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
    return properties


def models_of(package: str) -> Any:
    """Its models alone: the packages above them would start a server's worth of imports."""
    if package not in sys.modules:
        for name in dict.fromkeys([package.partition(".")[0], package]):
            spec = importlib.util.find_spec(name)
            assert spec, name
            assert spec.submodule_search_locations, name
            bare = ModuleType(name)
            bare.__spec__ = spec
            bare.__path__ = list(spec.submodule_search_locations)
            sys.modules[name] = bare
    return importlib.import_module(f"{package}.models")


if __name__ == "__main__":
    print(json.dumps(of_kserve(sys.argv[1], models_of("kserve"))))
