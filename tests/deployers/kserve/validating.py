"""Whether a manifest is one that Kubernetes and KServe would read as it was meant, by their own models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.deployers.kserve.serving import kserve_schema
from tests.deployers.kserve.simulator.fields import META
from tests.deployers.kserve.simulator.schemas import mistyped, unknown

_GROUPS = {
    "serving.kserve.io/v1beta1": "V1beta1",
    "serving.kserve.io/v1alpha1": "V1alpha1",
    **dict.fromkeys(("v1", "apps/v1", "networking.k8s.io/v1", "rbac.authorization.k8s.io/v1"), "V1"),
}


def problems_of(manifest: Mapping[str, Any]) -> list[str]:
    """Fields that there are not, and values of another type; their limits are not known here.

    Raises:
        KeyError: the manifest is of no kind that is known here.
    """
    model = _GROUPS[manifest["apiVersion"]] + manifest["kind"]
    schema = kserve_schema(model)
    schema = {**schema, "properties": {**schema["properties"], "metadata": META}}
    return [
        *(f"{path.lstrip('.')}: there is no such field" for path in unknown(manifest, schema)),
        *(wrong.message for wrong in mistyped(manifest, schema)),
    ]
