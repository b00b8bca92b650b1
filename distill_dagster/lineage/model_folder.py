"""Finds the folder of a model that the YAML names: a path, a name under `.models/`, or a hub id."""

import json
from pathlib import Path
from typing import cast, get_args

from distill_dagster.errors import TeacherError
from distill_dagster.project import Distillation
from distill_dagster.spec.teacher import Dtype
from distill_dagster.storage import is_reading_only

MODELS_FOLDER = ".models"


def find_model(distillation: Distillation, name: str, revision: str | None = None) -> Path:
    """The folder that holds `name`'s weights; a hub id is downloaded into the Hugging Face cache once.

    Looked up below the YAML file's folder, the project and the project's `.models/`, then on the hub.

    Raises:
        TeacherError: found nowhere.
    """
    root = distillation.project.root
    if (found := local_model(distillation.folder, root, name)) is not None:
        return found
    if name.count("/") != 1:
        raise TeacherError(
            f"no model {name!r}: write a folder with config.json (relative to {distillation.folder} or {root}), "
            f"a folder's name under {root / MODELS_FOLDER}, or a hub id `owner/name`"
        )
    return _from_hub(name, revision)


def local_model(folder: Path, root: Path, name: str) -> Path | None:
    """The folder of a model that is on this machine under its name; None where it is not.

    Args:
        folder: the YAML file's.
        root: the project's.
    """
    places = (folder / name, root / name, root / MODELS_FOLDER / name, Path(name))
    return next((place.resolve() for place in places if (place / "config.json").is_file()), None)


def saved_dtype(folder: Path) -> Dtype:
    """The precision a checkpoint is saved in, by its config.json; float32 where that says nothing."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    named = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return cast(Dtype, named) if named in get_args(Dtype) else "float32"


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=True))
    except LocalEntryNotFoundError:
        if is_reading_only():
            raise TeacherError(
                f"model {name!r} is not downloaded yet, and nothing is downloaded to look ahead; `distill run` does it"
            ) from None
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (RepositoryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise TeacherError(
            f"no model {name!r}: not a folder here, and the hub did not give it ({type(error).__name__}); "
            "check the name, the network and HF_TOKEN"
        ) from error
