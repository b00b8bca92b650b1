"""The same rows in every design, asked once, paid from the distillation's budget, and never asked again."""

from collections.abc import Callable

import polars as pl
import pytest

from distill_dagster.errors import BudgetError, DistillError, EvaluationError, SpecError
from distill_dagster.project import Distillation
from distill_dagster.prompts.build import build_prompts
from distill_dagster.prompts.store import write_prompts
from distill_dagster.teachers.money.estimate import estimate
from distill_dagster.teachers.outputs import build_outputs, make_teacher, read_outputs
from distill_dagster.variants.ask import Inquiry, ask, of_texts, prepare
from distill_dagster.worker_process import no_launch
from tests.fakes.anthropic_server import AnthropicServer
from tests.variants.conftest import Compared
from tests.variants.designs import SPEC, rows

Declare = Callable[..., Distillation]
Run = Callable[..., Compared]


def ids(inquiry: Inquiry) -> set[str]:
    return set(inquiry.rows["prompt_id"])


def test_metrics_that_take_a_model_are_left_out(declare: Declare) -> None:
    meaning = "{embedding_similarity: some/model, revision: 1a2b}"
    both = declare(SPEC.replace("[rouge_l, chrf]", f"[{meaning}, chrf]"), rows__jsonl=rows(10))
    assert of_texts(both.spec).evaluation.metric_names == ["chrf"]
    assert of_texts(both.spec).evaluation.primary_metric == "chrf"

    alone = declare(SPEC.replace("[rouge_l, chrf]", f"[{meaning}, macro_f1]"), rows__jsonl=rows(10))
    with pytest.raises(EvaluationError, match="not compared by embedding_similarity; add one of the other metrics"):
        prepare(alone, 5, no_launch)


def test_every_design_gets_the_same_validation_rows(declare: Declare) -> None:
    distillation = declare(SPEC, rows__jsonl=rows(150))

    inquiry = prepare(distillation, 20, no_launch)

    prompts = build_prompts(distillation).partitions["all"].frame
    validation = set(prompts.filter(pl.col("split") == "validation")["prompt_id"])
    assert len(ids(inquiry)) == 20
    assert ids(inquiry) < validation
    assert len(validation) == inquiry.available
    assert [set(question.requests["prompt_id"]) for question in inquiry.questions] == [ids(inquiry)] * 3
    assert [question.found.missing for question in inquiry.questions] == [20, 20, 20]
    assert "Kindly: " in inquiry.questions[2].requests["messages"][0]


def test_more_rows_hold_the_fewer_ones_and_all_is_the_most(declare: Declare) -> None:
    distillation = declare(SPEC, rows__jsonl=rows(60))

    few, more, most = (prepare(distillation, count, no_launch) for count in (5, 10, 1_000))

    assert ids(few) < ids(more) < ids(most)
    assert len(most.rows) == most.available


def test_rows_stay_the_same_ones_whatever_columns_a_template_reads(declare: Declare) -> None:
    """Without a group column, another template makes other groups, and so other splits; rows go by their ids."""
    spec = SPEC.replace("  group: customer\n", "").replace("Kindly: {{ question }}", "{{ customer }}: {{ question }}")

    inquiry = prepare(declare(spec, rows__jsonl=rows(80)), 10, no_launch)

    assert set(inquiry.questions[2].requests["prompt_id"]) == ids(inquiry)


def test_an_empty_validation_split_is_said(declare: Declare) -> None:
    with pytest.raises(EvaluationError, match=r"validation split is empty.*raise prompts\.split\.validation \(now 0\)"):
        prepare(declare(SPEC.replace("validation: 0.5", "validation: 0"), rows__jsonl=rows(20)), 5, no_launch)


def test_a_template_that_fails_is_the_variants_fault(declare: Declare) -> None:
    unknown = SPEC.replace("Kindly: {{ question }}", "{{ nothing }}")
    failing = SPEC.replace("Kindly: {{ question }}", "{{ question if question != 'question 3?' }}")

    with pytest.raises(DistillError, match=r"teacher\.variants\.opus: .*no column 'nothing'"):
        prepare(declare(unknown, rows__jsonl=rows(20)), 5, no_launch)
    with pytest.raises(SpecError, match=r"teacher\.variants\.opus: partition 'all' has no prompts: .*empty prompt"):
        prepare(declare(failing, rows__jsonl=rows(20)), 5, no_launch)


def test_skipped_rows_are_counted(declare: Declare) -> None:
    skipping = SPEC.replace("  id: key", "  id: key\n  on_bad_row: skip").replace(
        "Kindly: {{ question }}", "{{ question if customer < 'c5' }}"
    )

    inquiry = prepare(declare(skipping, rows__jsonl=rows(60)), 20, no_launch)

    assert [question.unrendered == 0 for question in inquiry.questions] == [True, True, False]
    assert len(inquiry.questions[2].requests) == 20 - inquiry.questions[2].unrendered


def test_nothing_is_paid_twice(declare: Declare, claude: AnthropicServer, run: Run) -> None:
    """Neither when the comparison is made again, nor when the chosen design is declared and all of it is asked."""
    run(declare(SPEC, rows__jsonl=rows(60)), 15)
    asked = len(claude.accepted)
    run(declare(SPEC, rows__jsonl=rows(60)), 15)
    assert len(claude.accepted) == asked == 45

    chosen = declare(
        SPEC.replace("Be thorough.", "Be brief.").replace("transport: batches", "transport: messages"),
        rows__jsonl=rows(60),
    )
    for partition, made in build_prompts(chosen).partitions.items():
        write_prompts(chosen, partition, made)
    build = build_outputs(chosen, ["all"], make_teacher(chosen, no_launch))

    assert (build.asked.stored, build.asked.answered) == (15, 45)
    assert len(claude.accepted) == asked + 45
    assert len(read_outputs(chosen, "all")) == 60


def test_declared_batches_are_not_used(declare: Declare, claude: AnthropicServer, run: Run) -> None:
    run(declare(SPEC, rows__jsonl=rows(60)), 10)

    assert claude.batches == []


def test_the_distillations_budget_pays_and_stops(declare: Declare, claude: AnthropicServer, run: Run) -> None:
    distillation = declare(SPEC, rows__jsonl=rows(60))
    _, scored, _ = run(distillation, 10)
    tight = declare(SPEC.replace("budget_usd: 1", "budget_usd: 0.01"), name="tight", rows__jsonl=rows(60))

    budget = estimate(distillation, how="offline").budget
    assert budget is not None
    assert budget.spent_microusd == scored["cost_microusd"].sum()
    with pytest.raises(BudgetError, match=r"design \w+: tight: .* teacher\.budget_usd"):
        ask(prepare(tight, 50, no_launch))
