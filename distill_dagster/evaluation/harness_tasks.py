"""Finds tasks of lm-evaluation-harness and all the files that decide them; nothing of a task is run or imported."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distill_dagster.errors import EvaluationError, SourceError, StorageError
from distill_dagster.prompts.source_files import find_files
from distill_dagster.spec.harness import HarnessSpec
from distill_dagster.storage import contained

KEY = "evaluation.harness.tasks"
FILE_FORMATS = ("arrow", "csv", "json", "parquet", "text")
_FUNCTION = "!function"


@dataclass(frozen=True)
class HarnessTask:
    """One task.

    Attributes:
        name: as the harness calls it.
        path: its YAML file.
        files: that file, the YAML it includes, the modules of its functions and its data, absolute and sorted.
    """

    name: str
    path: Path
    files: tuple[Path, ...]


def find_tasks(spec: HarnessSpec, folder: Path, project_root: Path) -> list[HarnessTask]:
    """The declared tasks, sorted by file. A file without `task:` is there to be included and is no task.

    Args:
        folder: the YAML file's folder, where relative paths start, those of data files too.

    Raises:
        EvaluationError: a file is missing, leaves the project or is no task; data that are not local; two tasks of one
            name, or none at all.
    """
    patterns = [spec.tasks] if isinstance(spec.tasks, str) else spec.tasks
    paths = {path for pattern in patterns for path in _matches(_yaml_in(pattern, folder), folder, project_root)}
    tasks: dict[str, HarnessTask] = {}
    for path in sorted(paths):
        task = _read_task(path, folder, project_root)
        if task is None:
            continue
        if task.name in tasks:
            raise EvaluationError(
                f"{KEY}: {tasks[task.name].path} and {path} are both called {task.name!r}; rename one"
            )
        tasks[task.name] = task
    if not tasks:
        raise EvaluationError(f"{KEY}: no file of {spec.tasks!r} declares a task; write `task: <name>` in one")
    return list(tasks.values())


def task_hashes(tasks: Iterable[HarnessTask], folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of every file that decides a task, by its path from `folder`.

    Of a task's functions their own modules count, not what these import or read.
    """
    files = sorted({path for task in tasks for path in task.files})
    return {Path(os.path.relpath(path, folder.resolve())).as_posix(): _sha256(path) for path in files}


def _yaml_in(pattern: str, folder: Path) -> str:
    """A folder's name as the glob of its YAML files; any other pattern as it is."""
    return f"{pattern.rstrip('/')}/**/*.yaml" if (folder / pattern).is_dir() else pattern


def _read_task(path: Path, folder: Path, project_root: Path) -> HarnessTask | None:
    """The task in a file; None where it declares none."""
    files: set[Path] = set()
    content = _load(path, project_root, files)
    if not content.keys() & {"task", "group"}:
        return None
    name = content.get("task")
    if "group" in content or not isinstance(name, str):
        raise EvaluationError(f"{KEY}: {path}: a group of tasks; name the tasks' own files, each with `task: <name>`")
    for pattern, base in _data(path, content, folder):
        files.update(_matches(pattern, base, project_root, where=f"{path}: "))
    return HarnessTask(name, path, tuple(sorted(files)))


def _load(path: Path, project_root: Path, files: set[Path]) -> dict[str, Any]:
    """The content of a file over that of the files it includes, as the harness merges them; adds all to `files`."""
    try:
        path = contained(project_root, str(path))
        text = path.read_text(encoding="utf-8")
        functions = list(_functions(text))
        content = yaml.load(text, Loader=_TaskLoader)
    except (StorageError, OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{KEY}: {path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise EvaluationError(f"{KEY}: {path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or path in files:
        problem = "includes itself" if path in files else "not a mapping of keys to values"
        raise EvaluationError(f"{KEY}: {path}: {problem}; write a task as the harness documents it")
    files.add(path)
    files.update(_modules(functions, path.parent, project_root))
    merged: dict[str, Any] = {}
    for included in _listed(content.pop("include", [])):
        merged |= _load(path.parent / included, project_root, files)
    return merged | content


def _modules(functions: Iterable[str], folder: Path, project_root: Path) -> Iterator[Path]:
    """Modules beside the YAML that functions lie in; what is not there the harness imports from a package."""
    for function in functions:
        module = folder.joinpath(*function.split(".")[:-1]).with_suffix(".py")
        if module.is_file():
            yield from _matches(module.name, module.parent, project_root)


def _data(path: Path, content: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Path]]:
    """Globs of the task's data files, each with the folder it starts in, as `datasets.load_dataset` reads them."""
    source, given = content.get("dataset_path"), content.get("dataset_kwargs")
    given = given if isinstance(given, dict) else {}
    if source is None and content.keys() & {"class", "custom_dataset"}:
        return
    if source in FILE_FORMATS:
        base = folder / str(given.get("data_dir", ""))
        patterns = list(_flat(given.get("data_files", []))) or (["**/*"] if "data_dir" in given else [])
    else:
        base = folder / str(source)
        patterns = ["**/*"] if base.is_dir() else []
    if not patterns:
        raise EvaluationError(
            f"{KEY}: {path}: its data are not in the project (dataset_path: {source}), and the harness runs offline; "
            "save the rows as a file and write `dataset_path: json` with `dataset_kwargs: {data_files: {test: <file>}}`"
        )
    yield from ((pattern, base) for pattern in patterns)


def _flat(data_files: Any) -> Iterator[str]:
    """`data_files` in any of its forms: a pattern, a list of them, or either by split."""
    if isinstance(data_files, dict):
        data_files = [pattern for value in data_files.values() for pattern in _listed(value)]
    yield from map(str, _listed(data_files))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _matches(pattern: str, folder: Path, project_root: Path, where: str = "") -> list[Path]:
    try:
        return [path for _, path in find_files(pattern, folder, project_root)]
    except SourceError as error:
        raise EvaluationError(f"{KEY}: {where}{error}") from None


def _functions(text: str) -> Iterator[str]:
    """`module.function` of every function in a YAML text."""
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.ScalarEvent) and event.tag == _FUNCTION:
            yield str(event.value)


class _TaskLoader(yaml.SafeLoader):
    """Reads a function as its name."""


_TaskLoader.add_constructor(_FUNCTION, lambda loader, node: node.value)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
