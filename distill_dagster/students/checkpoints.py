"""Finds the newest training checkpoint that was written to its end, after a crash or a kill."""

import json
import shutil
import zipfile
from pathlib import Path

STATE_FILE = "trainer_state.json"
WEIGHTS_FILES = ("model.safetensors", "adapter_model.safetensors")
TORCH_FILES = ("optimizer.pt", "scheduler.pt")


def newest_complete_checkpoint(folder: Path) -> Path | None:
    """The complete `checkpoint-<step>` of the highest step, or None; torn ones are removed.

    The trainer writes its state last, so a state that can be read says that all else was written before it; weights
    and optimiser files are checked all the same, for disks that ran full.
    """
    found = sorted(folder.glob("checkpoint-*"), key=_step, reverse=True)
    for checkpoint in found:
        if is_complete(checkpoint):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def is_complete(checkpoint: Path) -> bool:
    """Whether every file training resumes from is there and whole."""
    try:
        json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    weights = [checkpoint / name for name in WEIGHTS_FILES if (checkpoint / name).exists()]
    weights += sorted(checkpoint.glob("model-*-of-*.safetensors"))
    whole_weights = bool(weights) and all(is_whole_safetensors(path) for path in weights)
    return whole_weights and all(zipfile.is_zipfile(checkpoint / name) for name in TORCH_FILES)


def is_whole_safetensors(path: Path) -> bool:
    """Whether a safetensors file has the length its header promises (https://github.com/huggingface/safetensors)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes + 8 > size:
            return False
        try:
            header = json.loads(file.read(header_bytes))
        except ValueError:
            return False
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return size == 8 + header_bytes + max(ends, default=0)


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isdigit() else -1
