"""`distill status`: where each asset stands, from disk hashes, and what was spent."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from distill_dagster.commands.terminal import duration
from distill_dagster.errors import ReleaseWithheldError
from distill_dagster.evaluation.build import asset_of as evaluation_asset
from distill_dagster.lineage.manifests import MANIFEST_FILE, read_manifest
from distill_dagster.lineage.tombstones import stale_students
from distill_dagster.plan import Asset, partitioned_kinds, plan_partitioned, plan_rest
from distill_dagster.project import Distillation
from distill_dagster.releases.admission import admit
from distill_dagster.releases.build import read_release
from distill_dagster.releases.candidate import gated_students
from distill_dagster.releases.model import Release
from distill_dagster.storage import read_current
from distill_dagster.students.build import asset_of as student_asset
from distill_dagster.teachers.outputs import make_teacher, outputs_summary
from distill_dagster.teachers.store.budget import MICRO
from distill_dagster.teachers.store.spending import OpenBatch, Spending, spending_of
from distill_dagster.worker_process import no_launch

FORMAT = 1


@dataclass(frozen=True)
class AssetStatus:
    """Where one asset stands.

    Attributes:
        state: `current`, `due` (it would run now), `withheld` (a release that the gate keeps back) or `failed` (its
            rows have to be mended first).
        version: the version readers see, if any.
        why: why it is due, withheld or failed, or how a release came about against its verdict.
        cost_microusd: what the teacher's answers in it did cost: those of a partition, or those that a student learned.
        released: of a release, what its pointer says, whatever the state.
    """

    asset: str
    name: str | None
    partition: str | None
    state: str
    version: str | None
    why: str | None
    cost_microusd: int | None = None
    released: Release | None = None


@dataclass(frozen=True)
class StaleStudent:
    """A student version that saw a prompt before it was forgotten."""

    student: str
    version: str
    current: bool


@dataclass(frozen=True)
class Status:
    """Where a distillation stands.

    Attributes:
        assets: all of them, partition by partition.
        spending: the account of a hosted teacher's distillation.
        stale: student versions that saw a prompt before it was forgotten, those in sight first.
    """

    assets: Sequence[AssetStatus]
    spending: Spending | None
    stale: Sequence[StaleStudent] = ()


def status_of(distillation: Distillation) -> Status:
    """Where a distillation stands, and what it has spent.

    Raises:
        SourceError, TemplateError, TeacherError: what is declared cannot be read.
        StorageError: the response store cannot be opened, or a release or its evaluation is damaged.
    """
    spending = None if distillation.spec.teacher.is_local else spending_of(distillation)
    return Status(_assets(distillation), spending, _stale(distillation))


def _stale(distillation: Distillation) -> list[StaleStudent]:
    """Those that are still stored; a student that was removed is in the tombstone alone."""
    found = []
    for name, student, version in sorted(stale_students(distillation.project.home)):
        folder = distillation.files.asset(student_asset(student))
        if name == distillation.name and (folder / version).is_dir():
            current = read_current(folder)
            found.append(StaleStudent(student, version, current is not None and current.version == version))
    return sorted(found, key=lambda one: not one.current)


def _assets(distillation: Distillation) -> list[AssetStatus]:
    """All assets of a distillation, partition by partition.

    Raises:
        SourceError, TemplateError, TeacherError: what is declared cannot be read.
    """
    identity = make_teacher(distillation, no_launch).identity
    plan = plan_partitioned(distillation, identity)
    files = distillation.files
    rows = []
    reasons = {Asset.PROMPTS: plan.prompts, Asset.TEACHER_OUTPUTS: plan.outputs, Asset.TEACHER_LOGITS: plan.logits}
    for asset in partitioned_kinds(distillation):
        due = reasons[asset]
        for partition in plan.found:
            current = read_current(files.asset(asset, partition))
            failed = plan.failed.get(partition)
            why = failed or due.get(partition)
            state = "failed" if failed else "due" if why else "current"
            cost = _answers_cost(distillation, partition) if asset is Asset.TEACHER_OUTPUTS else None
            rows.append(AssetStatus(asset, None, partition, state, current.version if current else None, why, cost))
    upstream = "the partitions above come first" if any(reasons.values()) or plan.removed else None
    steps = {
        (step.asset, step.name): step.why
        for step in plan_rest(distillation, identity, list(distillation.spec.students))
    }
    if distillation.spec.golden_set is not None:
        rows.append(_single(distillation, Asset.GOLDEN_SET, None, "golden_set", steps, None))
    rows.append(_single(distillation, Asset.DATASET, None, "dataset", steps, upstream))
    for student in distillation.spec.students:
        rows.append(_single(distillation, Asset.STUDENT, student, student_asset(student), steps, upstream))
        rows.append(_single(distillation, Asset.EVALUATION, student, evaluation_asset(student), steps, upstream))
    for student in gated_students(distillation):
        rows.append(_release(distillation, student, steps.get((Asset.RELEASE, student)) or upstream))
    return rows


def print_status(status: Status, *, as_json: bool) -> None:
    """Prints a table and the account, or JSON.

    The JSON is {"format": 1, "assets": [{asset, name, partition, state, version, why}], "spending": …, "stale":
    [{student, version, current}]}; `stale` are students that saw a prompt before it was forgotten. A row has
    `cost_microusd` too where a hosted teacher was paid for it, and that of a release that was made `released`:
    {student_version, evaluation_version, folder, verdict, override, released_at}, where `override` is null or {reason,
    by, at}, `folder` is relative to the distillation's under DISTILL_HOME and times are UTC. The state `withheld` is
    that of a release whose gate keeps the student's current version back; `released` is then an earlier one.

    `spending` is null for a local teacher, else {spent_microusd, reserved_microusd, budget_microusd, runs: [{run,
    requests, cost_microusd}], batches: [{id, provider_id, state, requests, age_s}]}: the last runs that spent anything,
    newest first, and the provider batches under way.
    """
    console = Console(highlight=False)
    if as_json:
        rows = [_json_row(row) for row in status.assets]
        spending = asdict(status.spending) if status.spending else None
        stale = [asdict(one) for one in status.stale]
        console.out(json.dumps({"format": FORMAT, "assets": rows, "spending": spending, "stale": stale}, indent=2))
        return
    is_paid = status.spending is not None
    headings = ["asset", "partition", "state", "version", *(["cost"] if is_paid else []), "why"]
    table = Table(*headings, box=None, header_style="bold")
    for row in status.assets:
        colour = {"current": "green", "due": "yellow", "withheld": "magenta", "failed": "red"}[row.state]
        asset = f"{row.asset}/{row.name}" if row.name else row.asset
        cost = [""] if row.cost_microusd is None else [_usd(row.cost_microusd)]
        table.add_row(
            asset,
            row.partition or "",
            f"[{colour}]{row.state}[/]",
            (row.version or "–")[:12],
            *(cost if is_paid else []),
            (row.why or "").split("\n")[0],
        )
    console.print(table)
    for one in status.stale:
        named = f"{one.student}@{one.version[:8]}{' (current)' if one.current else ''}"
        console.print(f"[yellow]stale[/]: student {named} saw a prompt that was forgotten since", soft_wrap=True)
    if status.spending is not None:
        _print_spending(console, status.spending)


def _print_spending(console: Console, spending: Spending) -> None:
    console.print()
    for batch in spending.batches:
        console.print(_batch_line(batch), soft_wrap=True)
    for run in spending.runs:
        name = f"run {run.run[:8]}" if run.run else "outside of runs"
        console.print(f"{name}: {_usd(run.cost_microusd)} for {run.requests:,} requests", soft_wrap=True)
    budget = "" if spending.budget_microusd is None else f" of budget {_usd(spending.budget_microusd)}"
    console.print(
        f"spent {_usd(spending.spent_microusd)}{budget} (reserved {_usd(spending.reserved_microusd)})", soft_wrap=True
    )


def _batch_line(batch: OpenBatch) -> str:
    known_as = batch.provider_id or "no provider id yet"
    return f"batch {known_as}: {batch.state}, {batch.requests:,} requests, for {duration(batch.age_s)}"


def _json_row(row: AssetStatus) -> dict[str, object]:
    fields = {name: value for name, value in asdict(row).items() if name != "released"}
    if row.cost_microusd is None:
        del fields["cost_microusd"]
    if row.released is not None:
        fields["released"] = _json_release(row.released)
    return fields


def _json_release(release: Release) -> dict[str, object]:
    said = release.model_dump(mode="json")
    override = said["override"] and {name: said["override"][name] for name in ("reason", "by", "at")}
    names = ("student_version", "evaluation_version", "folder", "released_at")
    return {name: said[name] for name in names} | {"verdict": said["verdict"]["status"], "override": override}


def _usd(microusd: int) -> str:
    """Dollars; cents where there are enough of them to matter, else four digits."""
    return f"${microusd / MICRO:,.2f}" if microusd >= MICRO or not microusd else f"${microusd / MICRO:.4f}"


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
    version = current.version if current else None
    published = distillation.files.asset(folder) / (version or "")
    cost = None
    if asset is Asset.STUDENT and (published / MANIFEST_FILE).exists():
        cost = read_manifest(published)["details"].get("teacher_cost_microusd")
    return AssetStatus(asset, name, None, "due" if why else "current", version, why, cost)


def _release(distillation: Distillation, student: str, due: str | None) -> AssetStatus:
    """Where a release stands.

    Args:
        due: why it would be made or decided anew by a run.
    """
    released = read_release(distillation, student)
    state, why = "due", due
    if due is None:
        try:
            override = admit(distillation, student).override
            state, why = "current", override.sentence if override else None
        except ReleaseWithheldError as error:
            state, why = "withheld", str(error)
    version = released.version if released else None
    return AssetStatus(Asset.RELEASE, student, None, state, version, why, released=released)


def _answers_cost(distillation: Distillation, partition: str) -> int | None:
    """What a partition's current answers did cost; None for a local teacher, or where there are none."""
    if distillation.spec.teacher.is_local:
        return None
    return outputs_summary(distillation, partition).get("cost_microusd")
