"""The record of builds: one build key has one adopted version, whoever built it first.

A build key hashes an artifact's input versions, the fields of the declaration that matter to it and a
stage number, so undoing an edit finds the old version again instead of making it anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill_dagster.lineage.hashing import digest
from distill_dagster.storage import read_json, write_json

KEY_LENGTH = 32


@dataclass(frozen=True)
class BuildRecord:
    """What one build key came to."""

    build_key: str
    asset: str
    version: str
    inputs: Mapping[str, str]
    summary: Mapping[str, Any] = field(default_factory=dict)


def build_key(asset: str, stage_number: int, inputs: Mapping[str, str], settings: Any) -> str:
    """Hash of what decides an artifact's content.

    Args:
        asset: kind of artifact, e.g. `dataset`; the distillation's name is no part of it.
        stage_number: bumped by hand when the stage's code changes meaning.
        inputs: version of each input by name.
        settings: the fields of the declaration that matter, as plain JSON values.
    """
    content = {"asset": asset, "stage": stage_number, "inputs": dict(inputs), "settings": settings}
    return digest(content)[:KEY_LENGTH]


class Builds:
    """`DISTILL_HOME/builds`: one small JSON file a build key."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "builds"

    def find(self, key: str) -> BuildRecord | None:
        """The adopted build of a key, or None."""
        path = self._path(key)
        if not path.exists():
            return None
        content = read_json(path)
        return BuildRecord(
            build_key=key,
            asset=content["asset"],
            version=content["version"],
            inputs=content["inputs"],
            summary=content["summary"],
        )

    def adopt(self, record: BuildRecord, *, rebuild: bool = False) -> BuildRecord:
        """Records a build; where the key has one already, that one stands and is returned.

        Callers hold the key's lease, so two processes never adopt at the same time.
        """
        known = self.find(record.build_key)
        if known is not None and not rebuild:
            return known
        content = {
            "asset": record.asset,
            "version": record.version,
            "inputs": dict(record.inputs),
            "summary": dict(record.summary),
        }
        write_json(self._path(record.build_key), content)
        return record

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"
