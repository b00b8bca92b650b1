"""The code location: every distillation of the project, found the same way as the `distill` command finds it."""

import sys

import dagster as dg

from distill_dagster.project import find_project


@dg.definitions
def defs() -> dg.Definitions:
    """All definitions below the project's `assets/`."""
    root = find_project().root
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return dg.load_from_defs_folder(path_within_project=root)
