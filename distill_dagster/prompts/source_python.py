"""Calls a row source written in Python beside the YAML file, under a module name of its own."""

import hashlib
import re
import sys
import traceback
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from distill_dagster.errors import SourceError

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def call_source(value: str, folder: Path) -> Any:
    """Imports `module.function` from `folder` and calls it without arguments.

    The module is read anew on every call, so an edit counts at once, and two folders may both have a `corpus.py`.
    It may import modules beside it at its top. A result that is an iterator is wrapped, so that an error on a later
    row names its line as well.

    Raises:
        SourceError: no such module or function, or its code raised; with the file and line.
    """
    if not _NAME.fullmatch(value):
        raise SourceError(
            f"prompts.source.python: write module.function, a callable beside the YAML file (seen: {value!r})"
        )
    module_name, function_name = value.rsplit(".", 1)
    path = folder.joinpath(*module_name.split(".")).with_suffix(".py")
    if not path.is_file():
        raise SourceError(f"prompts.source.python: {value}: no file {path}; write it or correct the name")
    with _errors_with_lines(value, folder), _siblings_importable(folder):
        module = _load(path)
        function = getattr(module, function_name, None)
        if not callable(function):
            raise SourceError(f"prompts.source.python: {path} has no function {function_name!r}")
        result = function()
    is_plain = isinstance(result, Iterable) and not isinstance(result, (str, bytes, Mapping))
    return _guarded(value, folder, result) if is_plain and not hasattr(result, "__arrow_c_stream__") else result


def _load(path: Path) -> ModuleType:
    name = f"_distill_source_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    module = ModuleType(name)
    module.__file__ = str(path)
    # Compiled from the text, not through the import system: its bytecode cache misses two edits within one second.
    code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
    sys.modules[name] = module  # dataclasses and pickling look their module up there
    exec(code, module.__dict__)
    return module


@contextmanager
def _siblings_importable(folder: Path) -> Generator[None, None, None]:
    """Lets the module import its neighbours, and forgets them afterwards so that another folder's are not mistaken."""
    before = set(sys.modules)
    wrote_bytecode = sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = wrote_bytecode
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).is_relative_to(folder) and not name.startswith("_distill_source_"):
                del sys.modules[name]


@contextmanager
def _errors_with_lines(value: str, folder: Path) -> Generator[None, None, None]:
    try:
        yield
    except SourceError:
        raise
    except Exception as error:
        # The user's own code may raise anything; whatever it is, they need its line.
        _explain(value, folder, error)


def _guarded(value: str, folder: Path, rows: Iterable[Any]) -> Iterator[Any]:
    with _errors_with_lines(value, folder):
        yield from rows


def _explain(value: str, folder: Path, error: Exception) -> NoReturn:
    place = value
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}:{error.lineno}"
    else:
        for frame in traceback.extract_tb(error.__traceback__):
            if Path(frame.filename).is_relative_to(folder):
                place = f"{frame.filename}:{frame.lineno}"
    raise SourceError(f"prompts.source.python: {place}: {type(error).__name__}: {error}") from error
