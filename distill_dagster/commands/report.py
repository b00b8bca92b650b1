"""`distill report`: where the newest report of a distillation lies."""

import json
import webbrowser

import click

from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.build import EvaluationBuild, read_evaluation
from distill_dagster.project import Distillation

FORMAT = 1


def newest_report(distillation: Distillation, student: str | None) -> EvaluationBuild:
    """The current evaluation of a student, or of the one that was evaluated last.

    Raises:
        EvaluationError: no such student is declared, there is no evaluation yet, or its page is gone.
    """
    declared = list(distillation.spec.students)
    if student is not None and student not in declared:
        known = ", ".join(declared) or "none"
        raise EvaluationError(f"{distillation.name} declares no student {student!r} (known: {known})")
    names = [student] if student else declared
    found = [evaluation for name in names if (evaluation := read_evaluation(distillation, name))]
    command = f"`distill run {distillation.name}{f' --student {student}' if student else ''}` makes"
    if not found:
        of = f" of {student!r}" if student else ""
        raise EvaluationError(f"{distillation.name}: no evaluation{of} yet; {command} one")
    pages = [evaluation for evaluation in found if evaluation.report_path.is_file()]
    if not pages:
        raise EvaluationError(f"{found[0].report_path}: the report is gone; remove its folder, and {command} it again")
    return max(pages, key=lambda evaluation: evaluation.report_path.stat().st_mtime_ns)


def show_report(evaluation: EvaluationBuild, *, open_page: bool, as_json: bool) -> None:
    """Prints the page's path, or JSON: {"format": 1, "student", "version", "report": path}; opens it where asked to."""
    path = evaluation.report_path.resolve()
    if as_json:
        content = {"format": FORMAT, "student": evaluation.student, "version": evaluation.version, "report": str(path)}
        click.echo(json.dumps(content, indent=2))
    else:
        click.echo(path)
    if open_page and not webbrowser.open(path.as_uri()):
        click.echo("no browser could be started here; open the file above", err=True)
