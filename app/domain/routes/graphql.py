"""The fields of MLflow's GraphQL schema that can be asked for, and the permission that each needs.

What is not listed is refused, ``__schema`` and ``__type`` too; a test compares the list with the installed MLflow. Of
MLflow's "mutations" two only read.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.access import Permission

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
