"""How many bytes captured logits take, and whether the disk has them."""

import json
import shutil
from pathlib import Path

from distill_dagster.errors import LogitsError
from distill_dagster.lineage.capture_identity import CaptureIdentity

ID_BYTES, VALUE_BYTES, TAIL_BYTES, LOG_Z_BYTES = 2, 2, 2, 4
# Mass beyond the k most likely tokens, on average; of SmolLM2-135M's answers 8 % lie beyond the first 20.
LARGE_TAIL = 0.15
WIDE_VOCABULARY = 65_536
# Training decodes what it needs into flat files beside the shards, which are about as large again.
COPIES = 2
RESERVE = 0.02


def bytes_per_token(identity: CaptureIdentity, vocabulary: int | None = None) -> float:
    """Most bytes of a captured token, before compression.

    Args:
        vocabulary: the teacher's token ids; unknown counts as a large one.
    """
    id_bytes = ID_BYTES if vocabulary is not None and vocabulary <= WIDE_VOCABULARY else 2 * ID_BYTES
    if identity.method == "sample":
        # of the draws at most half are distinct ids, in all measured language models far fewer
        distinct = (identity.draws or 0) / 2
        return (identity.draw_sets or 1) * (ID_BYTES + distinct * (id_bytes + VALUE_BYTES))
    drawn = (identity.draws or 0) * LARGE_TAIL
    kept = (identity.k or 0) * (id_bytes + VALUE_BYTES) + drawn * id_bytes
    return kept + len(identity.temperatures) * (TAIL_BYTES + LOG_Z_BYTES)


def hidden_bytes(folder: Path) -> int:
    """Bytes of one token's last hidden state, from a model's config; 0 where it does not say."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config", config)
    wide = str(config.get("dtype") or config.get("torch_dtype") or "float32") == "float32"
    return int(config.get("hidden_size") or 0) * (4 if wide else 2)


def vocabulary_of(folder: Path) -> int | None:
    """Rows of a model's head, from its config."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = config.get("text_config", config).get("vocab_size")
    return None if size is None else int(size)


def require_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Refuses work that the disk has no room for.

    Args:
        folder: where it would write; it need not exist yet.
        needed_bytes: of the captures.
        what: for the message, e.g. `100,000 completions`.

    Raises:
        LogitsError: with what is needed and what is free.
    """
    place = existing_parent(folder)
    disk = shutil.disk_usage(place)
    needed = needed_bytes * COPIES
    if needed > disk.free - RESERVE * disk.total:
        raise LogitsError(
            f"capturing {what} takes about {told(needed_bytes)}, as much again while training, and {place} has "
            f"{told(disk.free)} free; free some, move DISTILL_HOME, or lower logits.k and logits.tail_draws"
        )


def existing_parent(folder: Path) -> Path:
    """The folder itself, or the first above it that exists."""
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def told(number: float) -> str:
    """`3.2 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"
        number /= 1000
    raise AssertionError
