"""What runs a local teacher, `teacher.engine`: which release is installed, and what to do where none is."""

from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from distill_dagster.errors import TeacherError

EngineName = Literal["transformers", "vllm"]


def installed_engine(engine: EngineName) -> str:
    """Library and version, e.g. `transformers 5.24.0`; the name alone where it is not installed."""
    try:
        return f"{engine} {version(engine)}"
    except PackageNotFoundError:
        return engine


def require_engine(engine: EngineName) -> None:
    """Makes sure that an engine is installed.

    Raises:
        TeacherError: it is not.
    """
    if installed_engine(engine) == engine:
        raise engine_missing(engine)


def engine_missing(engine: EngineName) -> TeacherError:
    """The one error for an engine that is not installed."""
    return TeacherError(
        f"teacher.engine: {engine} needs the package {engine}; pip install {engine} on a machine with a GPU, "
        "or leave engine out"
    )
