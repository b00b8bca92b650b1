"""The code location: every distillation of the project, found the same way as the `distill` command finds it."""

import importlib
import sys

import dagster as dg

from distill_dagster.project import find_project


@dg.definitions
def defs() -> dg.Definitions:
    """All definitions below the project's `assets/`; unlike `dg`, this needs no dg.toml."""
    root = find_project().root
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return dg.ComponentTree.from_module(importlib.import_module("assets"), project_root=root).build_defs()
