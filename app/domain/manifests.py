"""Manifests: which files a digest is of, and what their ``MLmodel`` says. The same digest, the same manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.domain.digests import FileDigest, Measured


@dataclass(frozen=True, slots=True)
class Manifest:
    """``files`` are in the order of their paths; ``size`` is that of all, in bytes.

    ``description`` is what ``app.domain.mlmodel.facts_of`` finds in the ``MLmodel`` that was digested; nothing where
    there is none, or none that can be read.
    """

    digest: str
    files: tuple[FileDigest, ...]
    size: int
    description: Mapping[str, object] = field(default_factory=dict, hash=False)

    @property
    def file_count(self) -> int:
        return len(self.files)


def manifest_of(measured: Measured, description: Mapping[str, object]) -> Manifest:
    return Manifest(measured.digest, measured.files, measured.size, description)
