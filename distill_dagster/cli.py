"""The `distill` command: what `dg` and the Dagster UI do not give."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click

from distill_dagster.errors import DistillError
from distill_dagster.project import Distillation, Project, find_project, project_root


class _Group(click.Group):
    """Shows the package's errors as one message, not as a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except DistillError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)


@click.group(cls=_Group)
@click.option("--project", metavar="FOLDER", help="The project: a folder with `assets/` in it.")
@click.version_option(package_name="distill-dagster")
@click.pass_context
def main(ctx: click.Context, project: str | None) -> None:
    """Distil language models as Dagster assets declared in YAML.

    The project is FOLDER, else DISTILL_PROJECT, else the nearest folder upward with `assets/` in it.
    """
    ctx.obj = project


def _project(ctx: click.Context) -> Project:
    return find_project(ctx.obj)


def _distillation(ctx: click.Context, name: str) -> Distillation:
    return _project(ctx).distillation(name)


@main.command()
@click.argument("name")
@click.pass_context
def new(ctx: click.Context, name: str) -> None:
    """Scaffold assets/NAME with a commented defs.yaml; makes a project of a folder that is none yet."""
    from distill_dagster.graph.scaffold import write_dg_settings, write_scaffold

    root = project_root(ctx.obj)
    for path in (*write_scaffold(root / "assets" / name), *write_dg_settings(root)):
        click.echo(f"wrote {path}")
    click.echo(f"edit it, then: distill run {name}")


@main.command()
@click.argument("name")
@click.option(
    "--partition", "partitions", multiple=True, metavar="P", help="Only this partition, up to its teacher outputs."
)
@click.option("--student", "students", multiple=True, metavar="S", help="Only this student.")
@click.option(
    "--until",
    type=click.Choice(["prompts", "teacher_outputs", "golden_set", "dataset", "student", "evaluation"]),
    default="evaluation",
    help="The last kind of asset to make.",
)
@click.option(
    "--no-wait", is_flag=True, help="Send provider batches and end; the sensor or the next run collects them."
)
@click.pass_context
def run(
    ctx: click.Context, name: str, partitions: Sequence[str], students: Sequence[str], until: str, no_wait: bool
) -> None:
    """Make what changed, and nothing else, in this process."""
    from distill_dagster.commands.run import run_distillation
    from distill_dagster.plan import Asset, Request

    request = Request(partitions or None, students or None, Asset(until))
    sys.exit(run_distillation(_distillation(ctx, name), request, wait=not no_wait))


@main.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def status(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show where each asset stands."""
    from distill_dagster.commands.status import print_status, status_of

    print_status(status_of(_distillation(ctx, name)), as_json=as_json)


@main.command()
@click.argument("name")
@click.option("--partition", "partitions", multiple=True, metavar="P", help="Only this partition.")
@click.option(
    "--tokens",
    "how",
    type=click.Choice(["offline", "sampled", "exact"]),
    help="Where input tokens come from: bytes or stored answers; 100 requests or all of them counted by the provider, "
    "which is free. Default: sampled where a key is set, else offline.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def estimate(
    ctx: click.Context,
    name: str,
    partitions: Sequence[str],
    how: Literal["offline", "sampled", "exact"] | None,
    as_json: bool,
) -> None:
    """Estimate what the missing teacher answers would cost, and captured logits take; pays nothing."""
    from distill_dagster.commands.estimate import estimate_cost, print_estimate
    from distill_dagster.logits.estimate import estimate_capture

    distillation = _distillation(ctx, name)
    found = estimate_cost(distillation, partitions or None, how)
    print_estimate(found, estimate_capture(distillation, found.partitions), as_json=as_json)


@main.command()
@click.argument("name")
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="How many rows of the validation split, at most.",
)
@click.option("--yes", is_flag=True, help="Ask without confirmation.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def variants(ctx: click.Context, name: str, rows: int, yes: bool, as_json: bool) -> None:
    """Compare the declared prompt design with `teacher.variants` on the same few rows; asks the teacher."""
    from distill_dagster.commands.variants import compare_designs, print_comparison

    comparison = compare_designs(_distillation(ctx, name), rows, yes=yes)
    if comparison is None:
        sys.exit(1)
    print_comparison(comparison, as_json=as_json)


@main.command()
@click.argument("name")
@click.option("--student", metavar="S", help="The student; default: the one that was evaluated last.")
@click.option("--open", "open_page", is_flag=True, help="Open the page in the browser.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def report(ctx: click.Context, name: str, student: str | None, open_page: bool, as_json: bool) -> None:
    """Print the path of the newest report."""
    from distill_dagster.commands.report import newest_report, show_report

    show_report(newest_report(_distillation(ctx, name), student), open_page=open_page, as_json=as_json)


@main.command()
@click.argument("name")
@click.argument("a", required=False)
@click.argument("b", required=False)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.html", help="Write a page with the texts."
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def compare(ctx: click.Context, name: str, a: str | None, b: str | None, out: Path | None, as_json: bool) -> None:
    """Compare two stored evaluations, A and B, or list them all.

    A and B are STUDENT for its current evaluation, or STUDENT@VERSION; a version is that of an evaluation or of the
    student, and may be cut short.
    """
    from distill_dagster.commands.compare import compare_pair, print_comparison, print_timeline
    from distill_dagster.evaluation.across.compare import timeline

    if (a is None) != (b is None):
        raise click.UsageError("name both A and B, or neither to list what is stored")
    if out is not None and a is None:
        raise click.UsageError("--out is for a comparison; name A and B")
    distillation = _distillation(ctx, name)
    if a is None or b is None:
        print_timeline(timeline(distillation), as_json=as_json)
    else:
        print_comparison(compare_pair(distillation, a, b, out), out, as_json=as_json)


@main.command(name="try")
@click.argument("name")
@click.argument("text")
@click.option("--student", metavar="S", help="The student; default: the only or first one.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def try_(ctx: click.Context, name: str, text: str, student: str | None, as_json: bool) -> None:
    """Answer TEXT with student, undistilled base and teacher."""
    from distill_dagster.commands.trying import print_answers, try_prompt

    print_answers(try_prompt(_distillation(ctx, name), text, student), as_json=as_json)


@main.command()
@click.argument("name")
@click.option("--cancel", metavar="BATCH", help="Ask the provider to stop this one.")
@click.option("--give-up", metavar="BATCH", help="Forget this one, whose results cannot be had; it counts as paid.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def batches(ctx: click.Context, name: str, cancel: str | None, give_up: str | None, as_json: bool) -> None:
    """List the provider batches of a distillation, or end one."""
    from distill_dagster.commands.batches import cancel_batch, give_up_batch, print_batches

    distillation = _distillation(ctx, name)
    if cancel:
        click.echo(cancel_batch(distillation, cancel))
    if give_up:
        click.echo(give_up_batch(distillation, give_up))
    if not (cancel or give_up):
        print_batches(distillation, as_json=as_json)


@main.command()
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Say what would go, with its size, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def gc(ctx: click.Context, name: str, dry_run: bool, as_json: bool) -> None:
    """Remove versions that nothing refers to and what killed runs left, and compact captured logits.

    Kept are current and released versions, those of a build record, and all that their manifests lead to. Responses
    are never removed. Run it while nothing else runs.
    """
    from distill_dagster.commands.gc import collect_garbage, print_collected

    print_collected(collect_garbage(_distillation(ctx, name), dry_run=dry_run), as_json=as_json)


@main.command()
@click.argument("name", required=False)
@click.option("--student", metavar="S[@VERSION]", help="What a student comes from, and what came of it.")
@click.option("--prompt", metavar="ID", help="Everything that has a prompt.")
@click.option("--response", metavar="KEY", help="A stored answer, by its request key or the beginning of it.")
@click.option("--teacher-model", metavar="M", help="Which students learned from a teacher's model.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def lineage(
    ctx: click.Context,
    name: str | None,
    student: str | None,
    prompt: str | None,
    response: str | None,
    teacher_model: str | None,
    as_json: bool,
) -> None:
    """Show what a student, a prompt, an answer or a teacher's model is connected with.

    NAME is a distillation; without it, all that are stored are searched. A version may be cut short.
    """
    from distill_dagster.catalog.catalog import Catalog
    from distill_dagster.commands.lineage import print_lineage

    asked = {"student": student, "prompt": prompt, "response": response, "teacher_model": teacher_model}
    given = {kind: value for kind, value in asked.items() if value is not None}
    if len(given) != 1:
        raise click.UsageError("name one of --student, --prompt, --response and --teacher-model")
    [(kind, value)] = given.items()
    with Catalog(_project(ctx), [name] if name else None) as catalog:
        print_lineage(catalog, kind, value, as_json=as_json)


@main.command()
@click.argument("name")
@click.argument("a")
@click.argument("b")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="All rows of two datasets (.parquet, .csv), or the page of two evaluations (.html).",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def diff(ctx: click.Context, name: str, a: str, b: str, out: Path | None, as_json: bool) -> None:
    """Show what differs between two versions of a dataset, or between two evaluations.

    A and B are a dataset (`dataset` for the current one, `dataset@VERSION` or a VERSION), or both an evaluation
    (STUDENT or STUDENT@VERSION, as `distill compare` takes them). A version may be cut short.
    """
    from distill_dagster.commands.diff import print_diff

    print_diff(_project(ctx), name, a, b, out, as_json=as_json)


@main.command()
@click.argument("query")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="All rows: .parquet or .csv."
)
@click.option("--json", "as_json", is_flag=True, help="All rows, for programs.")
@click.pass_context
def sql(ctx: click.Context, query: str, out: Path | None, as_json: bool) -> None:
    """Run one SELECT over all that is stored, e.g. "select split, count(*) from dataset group by split".

    `show tables` lists the views, `describe prompts` the columns of one; docs/lineage.md says what they are.
    """
    from distill_dagster.catalog.catalog import Catalog
    from distill_dagster.commands.sql import print_result, write_result

    with Catalog(_project(ctx)) as catalog:
        if out is None:
            print_result(catalog, query, as_json=as_json)
        else:
            click.echo(f"{out}: {write_result(catalog, query, out):,} rows")


@main.command()
@click.argument("name", required=False)
@click.option("--prompt", required=True, metavar="ID", help="The prompt's id.")
@click.option("--yes", is_flag=True, help="Do it; without this, only say what would go.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def forget(ctx: click.Context, name: str | None, prompt: str, yes: bool, as_json: bool) -> None:
    """Remove a prompt and its responses everywhere, and keep it from coming back.

    NAME is the distillation whose prompt it is; default: any. What has the same text or source row goes with it, in
    all distillations. Students that learned from it are listed as stale. Run it while nothing else runs.
    """
    from distill_dagster.commands.forget import forget_prompt, print_forgotten

    print_forgotten(*forget_prompt(_project(ctx), name, prompt, yes=yes), as_json=as_json)


@main.command()
@click.option("--port", default=3000, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.pass_context
def ui(ctx: click.Context, port: int, host: str) -> None:
    """Open the Dagster UI and daemon on the instance that `distill run` writes to."""
    from distill_dagster.graph.instance_home import serve

    serve(_project(ctx), host, port)


if __name__ == "__main__":
    main()
