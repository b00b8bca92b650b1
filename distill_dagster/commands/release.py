"""`distill release`: releases a student by its verdict, or against it with a reason that is recorded."""

import logging
import warnings

from rich.console import Console

from distill_dagster.commands.run import WITHHELD
from distill_dagster.errors import ReleaseWithheldError
from distill_dagster.project import Distillation
from distill_dagster.releases.admission import admit
from distill_dagster.releases.build import read_release
from distill_dagster.releases.candidate import read_candidate
from distill_dagster.releases.overrides import record_override


def release_student(distillation: Distillation, student: str, override: str | None) -> int:
    """Releases the current version of a student; returns the exit code: 0 released, 1 failed, 3 withheld.

    Args:
        override: why it is released against its verdict; None to go by the verdict.

    Raises:
        EvaluationError: nothing guards a release of this student, or a pass is to be overridden.
        StorageError: pointer, evaluation or override is damaged.
    """
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    try:
        if override is not None:
            record_override(distillation, read_candidate(distillation, student), override)
        admission = admit(distillation, student)
    except ReleaseWithheldError as error:
        console.print(str(error), style="yellow")
        return WITHHELD
    if admission.override is not None:
        console.print(f"{distillation.name}/{student}: {admission.override.sentence}", style="bold red")
    failure = _release(distillation, student)
    if failure is not None:
        console.print(f"error: {failure}", style="red")
        return 1
    released = read_release(distillation, student)
    if released is not None:
        console.print(f"{distillation.name}/{student}: released is {distillation.files.root / released.folder}")
    return 0


def _release(distillation: Distillation, student: str) -> str | None:
    """Makes the release as a Dagster run; returns what failed, or None."""
    from distill_dagster.graph.instance_home import open_instance
    from distill_dagster.graph.run import Runner

    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message=".*in preview", module="dagster")
    with open_instance(distillation.project) as instance:
        return Runner(distillation, instance, lambda text: None).release(student)
