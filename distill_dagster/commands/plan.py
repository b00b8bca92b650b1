"""`distill plan`: what a run would do, why, and what it would cost, before anything is paid."""

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill_dagster.planning.make import make_plan
from distill_dagster.planning.model import AssetPlan, CallEstimate, EvaluationCalls, Plan
from distill_dagster.teachers.money.dollars import dollars

__all__ = ["make_plan", "print_plan"]

COLOURS = {"will": "yellow", "may": "cyan", "none": "green"}
ASKINGS = {
    "judge": "judge's calls on answers",
    "second_answers": "second answers of the teacher",
    "golden_answers": "teacher's answers to golden rows",
}
# A table for people stays readable; `--json` has every partition.
MOST_PARTITIONS = 20


def print_plan(plan: Plan, *, as_json: bool) -> None:
    """Prints a table and closing sentences, or JSON: the fields of `planning.model.Plan`, `format` 1."""
    console = Console(highlight=False)
    if as_json:
        console.out(plan.model_dump_json(indent=2))
        return
    if plan.is_empty:
        console.print(f"{plan.distillation}: nothing to do; everything is up to date ({_rows_told(plan)})")
        for row in plan.of("release"):
            if row.why:
                console.print(Text(f"release {row.name}: {', '.join(row.why)}", style="yellow"), soft_wrap=True)
        return
    table = Table("asset", "partition", "plan", "rows", "teacher calls", "why", box=None, header_style="bold")
    for row in _shown(plan):
        table.add_row(
            f"{row.asset}/{row.name}" if row.name else row.asset,
            Text(row.partition or ""),
            Text(row.action, style=COLOURS[row.action]),
            _rows(row),
            _calls(row),
            Text(", ".join(row.why).split("\n")[0]),
        )
    console.print(table)
    for line in _hidden(plan):
        console.print(Text(line, style="dim"))
    console.print()
    for line in _closing(plan):
        console.print(Text(line), soft_wrap=True)
    for note in plan.notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)


def _shown(plan: Plan) -> Iterator[AssetPlan]:
    """All rows with something to do, but of a kind of asset at most MOST_PARTITIONS partitions."""
    counts: Counter[str] = Counter()
    for row in plan.assets:
        if row.partition is not None:
            if row.action == "none" and row.partition not in plan.failed:
                continue
            counts[row.asset] += 1
            if counts[row.asset] > MOST_PARTITIONS:
                continue
        yield row


def _hidden(plan: Plan) -> Iterator[str]:
    partitioned = [row for row in plan.assets if row.partition is not None]
    for asset in dict.fromkeys(row.asset for row in partitioned):
        rows = [row for row in partitioned if row.asset == asset]
        due = sum(row.action != "none" or row.partition in plan.failed for row in rows)
        still = len(rows) - due
        parts = [f"{due - MOST_PARTITIONS:,} more partitions to make"] if due > MOST_PARTITIONS else []
        parts += [f"{still:,} partitions unchanged"] if still else []
        if parts:
            yield f"{asset}: {', '.join(parts)}"


def _rows(row: AssetPlan) -> str:
    if row.rows is None:
        return f"{row.sequences:,} sequences at most" if row.sequences else ""
    counts = row.rows.model_dump()
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def _calls(row: AssetPlan) -> str:
    if row.calls is None:
        return ""
    parts = [f"{row.calls.needed:,} needed", f"{row.calls.stored:,} stored"]
    return ", ".join([*parts, *([f"{row.calls.in_batches:,} in batches"] if row.calls.in_batches else [])])


def _closing(plan: Plan) -> Iterator[str]:
    yield f"prompts: {_rows_told(plan)}"
    calls = plan.calls
    travelling = f", {calls.in_batches:,} in batches" if calls.in_batches else ""
    needed = f"teacher calls: {calls.needed:,} needed, {calls.stored:,} stored{travelling}"
    yield f"{needed}; {_money(plan.estimate)}" if plan.estimate is not None else needed
    if plan.sequences:
        yield f"captures: {plan.sequences:,} sequences at most"
    students = plan.of("student")
    if students:
        yield f"students: {_students(students)}"
    yield from map(_evaluation_calls, plan.evaluation_calls)
    for partition, reason in plan.failed.items():
        yield f"partition {partition} has rows to mend: {reason}"


def _rows_told(plan: Plan) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in plan.rows.model_dump().items())


def _money(estimate: CallEstimate) -> str:
    tokens = f"about {estimate.input_tokens:,} input and {estimate.output_tokens:,} output tokens"
    if estimate.expected_microusd is None or estimate.most_microusd is None:
        return f"{tokens}, which cost no money"
    cost = f"about {dollars(estimate.expected_microusd)}, at most {dollars(estimate.most_microusd)}"
    left = estimate.budget_left_microusd
    return f"{tokens}, {cost}" + ("" if left is None else f"; {dollars(left)} of the budget left")


def _evaluation_calls(row: EvaluationCalls) -> str:
    subject = f"{ASKINGS[row.asking]} of {row.student}" if row.student else ASKINGS[row.asking]
    needed = f"{row.calls.needed:,} needed" if row.exact else f"{row.calls.needed:,} needed at most"
    travelling = f", {row.calls.in_batches:,} in batches" if row.calls.in_batches else ""
    money = f"; at most {dollars(row.most_microusd)}" if row.most_microusd else ""
    return f"{subject}: {needed}, {row.calls.stored:,} stored{travelling}{money} ({row.basis})"


def _students(students: Sequence[AssetPlan]) -> str:
    words = {"will": "will be trained", "may": "may be trained again", "none": "stay"}
    by_words: dict[str, list[str]] = {}
    for row in students:
        told = "of an earlier run taken over" if row.adopts else words[row.action]
        by_words.setdefault(told, []).append(str(row.name))
    return "; ".join(f"{', '.join(names)} {told}" for told, names in by_words.items())
