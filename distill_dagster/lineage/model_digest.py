"""What a model folder is, by content: digests of its weights, tokenizer and chat template, without loading it."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from distill_dagster.errors import StorageError
from distill_dagster.lineage.hashing import digest
from distill_dagster.storage import remember

# Files that change what a model answers; everything else in a folder (cards, logs) does not count.
CONFIG_FILES = ("config.json", "generation_config.json")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "special_tokens_map.json")
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
# Written by the library that saved the folder, not by whoever trained the model.
IGNORED_CONFIG_KEYS = frozenset({"transformers_version", "_name_or_path", "name_or_path"})


@dataclass(frozen=True)
class ModelDigest:
    """SHA-256 digests (hex) of the parts of a model folder."""

    weights: str
    tokenizer: str
    template: str

    @property
    def version(self) -> str:
        """One digest over all parts: the version of a checkpoint."""
        return digest({"weights": self.weights, "tokenizer": self.tokenizer, "template": self.template})[:32]


def digest_model(folder: Path, cache: Path | None = None) -> ModelDigest:
    """Digests of a model folder.

    Args:
        folder: a Hugging Face folder with safetensors weights.
        cache: folder for remembered digests of large files, keyed by path, size and modification time.

    Raises:
        StorageError: no config.json or no safetensors weights in the folder.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        raise StorageError(f"{folder}: not a model folder; it needs config.json and *.safetensors")
    return ModelDigest(
        weights=digest(
            [_file_digest(path, cache) for path in weights] + [_json_digest(folder / name) for name in CONFIG_FILES]
        ),
        tokenizer=digest(list(_present(folder, TOKENIZER_FILES, cache))),
        template=digest([_json_digest(folder / name) for name in TEMPLATE_FILES]),
    )


def digest_tokenizer(folder: Path, cache: Path | None = None) -> tuple[str, str]:
    """Digests of the tokenizer and of the chat template in a folder that need not have weights.

    Raises:
        StorageError: there is no tokenizer in it.
    """
    present = list(_present(folder, TOKENIZER_FILES, cache))
    if not present:
        raise StorageError(f"{folder}: no tokenizer in it; it needs tokenizer.json or the like")
    return digest(present), digest([_json_digest(folder / name) for name in TEMPLATE_FILES])


def _present(folder: Path, names: Iterable[str], cache: Path | None) -> Iterable[tuple[str, str]]:
    for name in names:
        if (folder / name).is_file():
            yield name, _file_digest(folder / name, cache)


def _json_digest(path: Path) -> str | None:
    """Digest of a file, by its values where it is JSON, so that key order and the saving library do not matter."""
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        return hashlib.sha256(text.encode()).hexdigest()
    content = json.loads(text)
    return digest({key: value for key, value in content.items() if key not in IGNORED_CONFIG_KEYS})


def _file_digest(path: Path, cache: Path | None) -> str:
    status = path.stat()
    key = digest([str(path.resolve()), status.st_size, status.st_mtime_ns])[:32]
    remembered = cache / f"{key}.json" if cache else None
    if remembered and remembered.is_file():
        return str(json.loads(remembered.read_text(encoding="utf-8"))["sha256"])
    with path.open("rb") as file:
        value = hashlib.file_digest(file, "sha256").hexdigest()
    if remembered:
        remember(remembered, {"sha256": value})
    return value
