"""The policies and targets that `countersign up` applies at each start, as a file that people can read."""

from __future__ import annotations

import yaml

from app.embedded.environment import DataFolder
from app.embedded.ray_cluster import TARGET, RayAddresses, target_document

_HEADER = (
    "# Written by `countersign up` at each start. Keep your own policies in another file, and `countersign apply` it.\n"
)


def write_manifest(folder: DataFolder, ray: RayAddresses | None) -> None:
    """One policy for the alias ``production`` of every model, and the Ray target when there is one."""
    targets = [target_document(folder, ray)] if ray is not None else []
    policy: dict[str, object] = {
        "kind": "Policy",
        "name": "production",
        "models": "*",
        "alias": "production",
        "approvals": [{"name": "a second person", "count": 1, "roles": ["approver"]}],
        "rollback": {"approvals": []},
        "targets": [TARGET] if ray is not None else [],
    }
    folder.manifest_file.write_text(_HEADER + yaml.safe_dump_all([*targets, policy], sort_keys=False))
