"""Distil language models as Dagster assets declared in YAML.

`Distillation` is loaded on first use, so that the plain parts of the package (and the worker)
never import Dagster.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill_dagster.component import Distillation

__all__ = ["Distillation"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "Distillation":
        from distill_dagster.component import Distillation

        return Distillation
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
