"""The fields of MLflow's GraphQL schema that can be asked for, and the permission that each needs.

What is not listed is refused, ``__schema`` and ``__type`` too; a test compares the list with the installed MLflow. Of
MLflow's "mutations" two only read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.domain.access import Permission
from app.domain.routes.resources import Named

_TRACKING, _REGISTRY = Permission.TRACKING_READ, Permission.REGISTRY_READ

ROOT_FIELDS: Mapping[tuple[str, str], Permission | None] = {
    ("query", "mlflowGetExperiment"): _TRACKING,
    ("query", "mlflowGetMetricHistoryBulkInterval"): _TRACKING,
    ("query", "mlflowGetRun"): _TRACKING,
    ("query", "mlflowListArtifacts"): _TRACKING,
    ("query", "mlflowSearchModelVersions"): _REGISTRY,
    ("query", "mlflowSearchRuns"): _TRACKING,
    ("query", "test"): _TRACKING,
    ("query", "__typename"): _TRACKING,
    ("mutation", "mlflowSearchDatasets"): _TRACKING,
    ("mutation", "mlflowSearchRuns"): _TRACKING,
    ("mutation", "testMutation"): None,
    ("mutation", "__typename"): _TRACKING,
}
"""By operation and name. None: MLflow has it, and it is refused."""

INNER_FIELDS: Mapping[str, Permission] = {
    "experiment": _TRACKING,
    "modelVersions": _REGISTRY,
    "value": _TRACKING,
}
"""Fields below the root that MLflow fetches something for (``modelVersions`` of a run crosses to the registry), by
name alone: a field of that name needs the permission wherever it stands."""

PERMISSIONS = frozenset({_TRACKING, _REGISTRY})
"""Who holds these on everything may ask for whatever is listed."""


@dataclass(frozen=True, slots=True)
class Argument:
    """A member of a root field's ``input`` that names something."""

    name: str
    kind: Named
    is_list: bool = False


ARGUMENTS: Mapping[str, tuple[Argument, ...] | None] = {
    "mlflowGetExperiment": (Argument("experimentId", Named.EXPERIMENT),),
    "mlflowGetMetricHistoryBulkInterval": (Argument("runIds", Named.RUN, is_list=True),),
    "mlflowGetRun": (Argument("runId", Named.RUN), Argument("runUuid", Named.RUN)),
    "mlflowListArtifacts": (Argument("runId", Named.RUN), Argument("runUuid", Named.RUN)),
    "mlflowSearchDatasets": (Argument("experimentIds", Named.EXPERIMENT, is_list=True),),
    "mlflowSearchModelVersions": None,
    "mlflowSearchRuns": (Argument("experimentIds", Named.EXPERIMENT, is_list=True),),
    "test": (),
    "__typename": (),
}
"""What a field names, for principals who may see some only. None: they are refused, because MLflow's pages cannot be
made out of what is left of them."""

FILTERED = "modelVersions"
"""The field, wherever it stands, that lists versions of models; each is shown to who may see its model."""
