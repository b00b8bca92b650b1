"""Several samples of each prompt through the whole stage: what is asked, judged, chosen, and never asked again."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from distill_dagster.errors import SpecError
from distill_dagster.project import Distillation
from distill_dagster.teachers.outputs import outputs_current, read_outputs
from distill_dagster.teachers.providers import make_teacher
from distill_dagster.worker_process import no_launch
from tests.fakes.anthropic_server import AnthropicServer, Reply, prompt_of, refusal
from tests.teachers.hosted import answer, rows, spec

Declare = Callable[..., Distillation]
Body = dict[str, object]


def numbered(body: Body, seen: int) -> Reply:
    return Reply(text=f"{prompt_of(body)}, answer {seen}")


def test_every_sample_is_a_request_of_its_own_and_a_further_one_is_the_only_new_one(
    declare: Declare, claude: AnthropicServer
) -> None:
    claude.script = numbered
    answer(declare(spec("samples: 3"), rows__jsonl=rows(4)))
    assert len(claude.accepted) == 12

    distillation = declare(spec("samples: 4"), rows__jsonl=rows(4))
    answer(distillation)

    assert len(claude.accepted) == 16
    outputs = read_outputs(distillation, "all")
    assert outputs["sample"].to_list() == [0, 1, 2, 3] * 4
    assert outputs["completion"].n_unique() == 16
    assert outputs["selected"].all()


def test_a_refused_prompt_is_never_sent_again(declare: Declare, claude: AnthropicServer) -> None:
    claude.script = lambda body, seen: refusal("bio") if prompt_of(body) == "question 1" else numbered(body, seen)
    distillation = declare(spec("samples: 3"), rows__jsonl=rows(3))

    answer(distillation)
    answer(declare(spec("samples: 4"), rows__jsonl=rows(3)))

    assert claude.seen["question 1"] == 1
    outputs = read_outputs(distillation, "all")
    refused = outputs.filter(pl.col("status") == "refused")
    assert len(refused) == 4
    assert refused["cost_microusd"].to_list()[1:] == [0, 0, 0]
    assert refused["detail"].to_list()[1:] == ["first_sample_refused"] * 3


def test_labels_are_checked_and_their_shares_kept(declare: Declare, claude: AnthropicServer) -> None:
    said = ["Yes.", "**yes**", "no", "perhaps"]
    claude.script = lambda body, seen: Reply(text=said[seen])
    distillation = declare(spec("samples: 4", "labels: ['yes', 'no']"), rows__jsonl=rows(1))

    build = answer(distillation)

    outputs = read_outputs(distillation, "all").sort("completion")
    assert outputs["problem"].drop_nulls().to_list() == ["invalid_label"]
    assert json.loads(outputs["label_shares"][0]) == {"yes": 0.666667, "no": 0.333333}
    assert build.partitions["all"].counts["invalid_label"] == 1


def test_a_schema_is_sent_and_every_answer_validated(declare: Declare, claude: AnthropicServer) -> None:
    properties = {"n": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "required": ["n"], "additionalProperties": False}
    claude.script = lambda body, seen: Reply(text='{"n": 1}' if prompt_of(body) == "question 0" else '{"n": "one"}')
    distillation = declare(spec("json_schema: answer.json"), rows__jsonl=rows(2), answer__json=json.dumps(schema))

    answer(distillation)

    assert claude.bodies[0]["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    assert sorted(read_outputs(distillation, "all")["problem"].to_list(), key=str) == [None, "invalid_json"]


def test_the_best_sample_by_metric_stays(declare: Declare, claude: AnthropicServer) -> None:
    said = ["wrong altogether", "exactly this answer", "this answer"]
    claude.script = lambda body, seen: Reply(text=said[seen])
    best = "select: {best: {metric: rouge_l}}"
    attributes = spec("samples: 3", best).replace("system: Be brief.", "system: Be brief.\n  reference: answer")
    distillation = declare(attributes, rows__jsonl=rows(1, answer="exactly this answer"))

    answer(distillation)

    chosen = read_outputs(distillation, "all").filter("selected")
    assert chosen["completion"].to_list() == ["exactly this answer"]
    assert chosen["score"].to_list() == [1.0]


def test_a_judge_scores_each_different_answer_once_out_of_the_same_budget(
    declare: Declare, claude: AnthropicServer
) -> None:
    said = ["good", "bad", "good"]

    def script(body: Body, seen: int) -> Reply:
        if body["model"] == "claude-opus-5-5":
            return Reply(text=json.dumps({"score": 9 if '"answer":"good"' in prompt_of(body) else 2}))
        return Reply(text=said[seen])

    claude.script = script
    judged = spec("samples: 3", "budget_usd: 1", "select: {best: {judge: {model: claude-opus-5-5, rubric: Be kind.}}}")
    distillation = declare(judged, rows__jsonl=rows(2))

    build = answer(distillation)

    outputs = read_outputs(distillation, "all")
    verdicts = [body for body in claude.bodies if body["model"] == "claude-opus-5-5"]
    assert len(verdicts) == 4  # two prompts, two different answers each
    assert "Be kind." in str(verdicts[0]["system"])
    assert outputs["score"].to_list() == [9.0, 2.0, 9.0] * 2
    assert outputs.filter("selected")["sample"].to_list() == [0, 0]
    assert build.asked.answered == 10


def test_another_selection_asks_nothing_and_is_another_version(declare: Declare, claude: AnthropicServer) -> None:
    claude.script = numbered
    first = declare(spec("samples: 2"), rows__jsonl=rows(3))
    before = answer(first).partitions["all"].version
    second = declare(spec("samples: 2", "select: first_valid"), rows__jsonl=rows(3))
    assert not outputs_current(second, "all", make_teacher(second, no_launch).identity)

    after = answer(second).partitions["all"].version

    assert after != before
    assert len(claude.accepted) == 6
    assert answer(declare(spec("samples: 2"), rows__jsonl=rows(3))).partitions["all"].version == before


def test_inline_examples_are_read_before_each_prompt_and_a_long_prefix_is_marked_for_the_cache(
    declare: Declare, claude: AnthropicServer
) -> None:
    example = "{prompt: two and two, completion: " + "four " * 1_000 + "}"
    attributes = spec("budget_usd: 1").replace("system: Be brief.", f"system: Be brief.\n  few_shot: [{example}]")
    distillation = declare(attributes, rows__jsonl=rows(3))

    answer(distillation)

    turns = claude.bodies[0]["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert turns[1]["content"][0]["cache_control"] == {"type": "ephemeral"}
    outputs = read_outputs(distillation, "all")
    assert outputs["cache_write_tokens"].drop_nulls().len() == 1
    assert outputs["cache_read_tokens"].drop_nulls().len() == 2
    read = outputs.filter(pl.col("cache_read_tokens").is_not_null()).row(0, named=True)
    plain = read["input_tokens"] - read["cache_read_tokens"]
    tenths = 10 * plain + read["cache_read_tokens"] + 50 * read["output_tokens"]
    assert read["cost_microusd"] == -(-tenths // 10)


def test_a_short_prefix_is_not_marked(declare: Declare, claude: AnthropicServer) -> None:
    answer(declare(spec(), rows__jsonl=rows(1)))

    assert claude.bodies[0]["system"] == "Be brief."


@pytest.mark.parametrize("where", ["prices.yaml", "defs.yaml"])
def test_prices_come_from_the_project_or_the_declaration(declare: Declare, claude: AnthropicServer, where: str) -> None:
    bands = "bands: [{input: 1, output: 2}, {above_input_tokens: 5, input: 100, output: 200}]"
    own = spec(f"prices: {{{bands}}}")
    distillation = declare((own if where == "defs.yaml" else spec()).replace("claude-haiku-4-5", "claude-next"))
    if where == "prices.yaml":
        table = f"anthropic: {{claude-next: {{{bands}}}}}"
        Path(distillation.project.root, "prices.yaml").write_text(table, encoding="utf-8")
    Path(distillation.folder, "rows.jsonl").write_text(rows(1), encoding="utf-8")

    answer(distillation)

    row = read_outputs(distillation, "all").row(0, named=True)
    assert row["input_tokens"] > 5
    assert row["cost_microusd"] == 100 * row["input_tokens"] + 200 * row["output_tokens"]


def test_labels_that_yaml_reads_as_booleans_are_explained(declare: Declare) -> None:
    with pytest.raises(SpecError, match="write such labels in quotes"):
        declare(spec("labels: [yes, no]"), rows__jsonl=rows(1))


def test_a_wrong_price_table_says_where(declare: Declare, claude: AnthropicServer) -> None:
    distillation = declare(spec().replace("claude-haiku-4-5", "claude-next"), rows__jsonl=rows(1))
    Path(distillation.project.root, "prices.yaml").write_text("anthropic: {claude-next: {input: -1, output: 2}}")

    build = answer(distillation)

    assert "prices.yaml: anthropic.claude-next.input" in build.failed["all"]
