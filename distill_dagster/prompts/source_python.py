"""Calls functions written in Python beside the YAML file, each module under a name of its own."""

import hashlib
import re
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from distill_dagster.errors import DistillError, SourceError

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


@dataclass(frozen=True)
class UserFunction:
    """A `module.function` beside the YAML file.

    Attributes:
        key: the YAML key it is written under, e.g. `prompts.source.python`.
        value: `module.function`, as written.
        folder: the YAML file's folder.
        error: what a mistake in it is raised as.
    """

    key: str
    value: str
    folder: Path
    error: type[DistillError]

    @property
    def path(self) -> Path:
        """The module's file.

        Raises:
            DistillError: (as `error`) the name is none, or there is no such file.
        """
        if not _NAME.fullmatch(self.value):
            raise self.error(
                f"{self.key}: write module.function, a callable beside the YAML file (seen: {self.value!r})"
            )
        path = self.folder.joinpath(*self.value.split(".")[:-1]).with_suffix(".py")
        if not path.is_file():
            raise self.error(f"{self.key}: {self.value}: no file {path}; write it or correct the name")
        return path

    @contextmanager
    def loaded(self) -> Generator[Callable[..., Any], None, None]:
        """The function; while the block runs it may import its neighbours.

        The module is read anew each time, so an edit counts at once, and two folders may both have a `corpus.py`.

        Raises:
            DistillError: (as `error`) no such module or function, or the module's own code raised.
        """
        path = self.path
        with _siblings_importable(self.folder):
            with self.explained():
                function = getattr(_load(path), self.value.rsplit(".", 1)[1], None)
            if not callable(function):
                raise self.error(f"{self.key}: {path} has no function {self.value.rsplit('.', 1)[1]!r}")
            yield function

    @contextmanager
    def explained(self) -> Generator[None, None, None]:
        """Turns whatever the user's code raises in the block into `error`, with its file and line."""
        try:
            yield
        except self.error:
            raise
        except Exception as error:
            # The user's own code may raise anything; whatever it is, they need its line.
            raise self.error(f"{self.key}: {self.place(error)}: {type(error).__name__}: {error}") from error

    def place(self, error: Exception) -> str:
        """The innermost file:line of the user's own code that an exception passed through."""
        if isinstance(error, SyntaxError) and error.filename:
            return f"{error.filename}:{error.lineno}"
        own = [
            f"{frame.filename}:{frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).is_relative_to(self.folder)
        ]
        return own[-1] if own else self.value


def call_source(value: str, folder: Path) -> Any:
    """Calls the row source `module.function` in `folder` without arguments.

    It may import modules beside it at its top. A result that is an iterator is wrapped, so that an error on a later
    row names its line as well.

    Raises:
        SourceError: no such module or function, or its code raised; with the file and line.
    """
    source = UserFunction("prompts.source.python", value, folder, SourceError)
    with source.loaded() as function, source.explained():
        result = function()
    is_plain = isinstance(result, Iterable) and not isinstance(result, (str, bytes, Mapping))
    return _guarded(source, result) if is_plain and not hasattr(result, "__arrow_c_stream__") else result


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


def _guarded(source: UserFunction, rows: Iterable[Any]) -> Iterator[Any]:
    with source.explained():
        yield from rows
