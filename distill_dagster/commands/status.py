"""`distill status` and `distill report`: where each asset stands, from disk hashes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.build import asset_of as evaluation_asset
from distill_dagster.evaluation.build import read_evaluation
from distill_dagster.plan import Asset, plan_partitioned, plan_rest
from distill_dagster.project import Distillation
from distill_dagster.storage import read_current
from distill_dagster.students.build import asset_of as student_asset
from distill_dagster.teachers.outputs import make_teacher
from distill_dagster.worker_process import no_launch

FORMAT = 1


@dataclass(frozen=True)
class AssetStatus:
    """Where one asset stands.

    Attributes:
        state: `current`, `due` (it would run now) or `failed` (its rows have to be mended first).
        version: the version readers see, if any.
        why: why it is due or failed.
    """

    asset: str
    name: str | None
    partition: str | None
    state: str
    version: str | None
    why: str | None


def status_of(distillation: Distillation) -> list[AssetStatus]:
    """All assets of a distillation, partition by partition.

    Raises:
        SourceError, TemplateError, TeacherError: what is declared cannot be read.
    """
    identity = make_teacher(distillation, no_launch).identity
    plan = plan_partitioned(distillation, identity)
    files = distillation.files
    rows = []
    for asset, due in ((Asset.PROMPTS, plan.prompts), (Asset.TEACHER_OUTPUTS, plan.outputs)):
        for partition in plan.found:
            current = read_current(files.asset(asset, partition))
            failed = plan.failed.get(partition)
            why = failed or due.get(partition)
            state = "failed" if failed else "due" if why else "current"
            rows.append(AssetStatus(asset, None, partition, state, current.version if current else None, why))
    upstream = "the partitions above come first" if plan.prompts or plan.outputs or plan.removed else None
    steps = {
        (step.asset, step.name): step.why
        for step in plan_rest(distillation, identity, list(distillation.spec.students))
    }
    rows.append(_single(distillation, Asset.DATASET, None, "dataset", steps, upstream))
    for student in distillation.spec.students:
        rows.append(_single(distillation, Asset.STUDENT, student, student_asset(student), steps, upstream))
        rows.append(_single(distillation, Asset.EVALUATION, student, evaluation_asset(student), steps, upstream))
    return rows


def print_status(rows: Sequence[AssetStatus], *, as_json: bool) -> None:
    """Prints a table, or JSON: {"format": 1, "assets": [{asset, name, partition, state, version, why}]}."""
    console = Console(highlight=False)
    if as_json:
        console.out(json.dumps({"format": FORMAT, "assets": [asdict(row) for row in rows]}, indent=2))
        return
    table = Table("asset", "partition", "state", "version", "why", box=None, header_style="bold")
    for row in rows:
        colour = {"current": "green", "due": "yellow", "failed": "red"}[row.state]
        asset = f"{row.asset}/{row.name}" if row.name else row.asset
        table.add_row(
            asset,
            row.partition or "",
            f"[{colour}]{row.state}[/]",
            (row.version or "–")[:12],
            (row.why or "").split("\n")[0],
        )
    console.print(table)


def newest_report(distillation: Distillation, student: str | None) -> Path:
    """The path of a student's newest report.

    Raises:
        EvaluationError: there is none yet.
    """
    names = [student] if student else list(distillation.spec.students)
    found = [evaluation for name in names if (evaluation := read_evaluation(distillation, name))]
    if not found:
        raise EvaluationError(f"{distillation.name}: no evaluation yet; `distill run {distillation.name}` makes one")
    return max(found, key=lambda evaluation: evaluation.report_path.stat().st_mtime_ns).report_path


def _single(
    distillation: Distillation,
    asset: Asset,
    name: str | None,
    folder: str,
    steps: Mapping[tuple[Asset, str | None], str],
    upstream: str | None,
) -> AssetStatus:
    current = read_current(distillation.files.asset(folder))
    why = steps.get((asset, name)) or upstream
    return AssetStatus(asset, name, None, "due" if why else "current", current.version if current else None, why)
