"""The manifest beside every artifact: its inputs by version, the declaration's hash, counts and file digests."""

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill_dagster.lineage.hashing import digest
from distill_dagster.spec.distillation import DistillationSpec
from distill_dagster.storage import read_json, write_json

MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What an artifact is and what it was made from.

    Attributes:
        asset: e.g. `dataset` or `students/sft`.
        inputs: version of each input by name; following them leads to the exact prompts and responses.
        counts: rows by kind.
        details: further facts about the artifact, as plain JSON values.
    """

    distillation: str
    asset: str
    version: str
    build_key: str
    inputs: Mapping[str, str]
    spec_hash: str
    counts: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


def spec_hash(spec: DistillationSpec) -> str:
    """SHA-256 (hex) of a declaration's values but its owners, whatever their order or layout in the file."""
    return digest(spec.model_dump(mode="json", exclude={"owners"}))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes `manifest.json` into a folder that is about to be published, with the digests of its files."""
    files = {
        str(path.relative_to(folder)): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }
    content = {
        "distillation": manifest.distillation,
        "asset": manifest.asset,
        "version": manifest.version,
        "build_key": manifest.build_key,
        "inputs": dict(manifest.inputs),
        "spec_hash": manifest.spec_hash,
        "code_version": importlib.metadata.version("distill-dagster"),
        "counts": dict(manifest.counts),
        "details": dict(manifest.details),
        "files": files,
    }
    write_json(folder / MANIFEST_FILE, content)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a published artifact.

    Raises:
        StorageError: there is none, or it is torn.
    """
    content: dict[str, Any] = read_json(folder / MANIFEST_FILE)
    return content


def altered_files(folder: Path, names: Sequence[str] | None = None) -> list[str]:
    """Files of a published artifact that are missing, or whose bytes are not those that its manifest names.

    Args:
        names: look at these only; default: all that the manifest names.

    Raises:
        StorageError: there is no manifest, or it is torn.
    """
    published: dict[str, str] = read_manifest(folder)["files"]
    return [
        name
        for name in (published if names is None else names)
        if not (folder / name).is_file() or _sha256(folder / name) != published.get(name)
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
