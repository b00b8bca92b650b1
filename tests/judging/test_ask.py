"""A judge asked over HTTP: both orders, once, out of the budget, with unusable verdicts kept in sight."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from distill_dagster.errors import BudgetError, TeacherError
from distill_dagster.jobs import GenerateJob
from distill_dagster.judging.ask import judge_pairs, judge_settings, plan_judgements
from distill_dagster.judging.pairs import JUDGED
from distill_dagster.project import Distillation
from distill_dagster.teachers.local.shards import SHARD_SCHEMA
from distill_dagster.teachers.store.budget import Budget
from distill_dagster.teachers.store.database import open_database, reading
from distill_dagster.worker_process import no_launch
from tests.fakes import openai_server as openai
from tests.fakes.anthropic_server import AnthropicServer, Reply, prompt_of, refusal, truncated
from tests.judging.declared import pairs, spec
from tests.judging.frames import read
from tests.judging.judges import always_first, longer, script

Declare = Callable[..., Distillation]
UNEVEN = (("A long answer.", "Short."), ("Brief.", "A longer answer."), ("Same size", "Size same"))


def verdicts(judged: pl.DataFrame) -> list[tuple[str, str, str | None]]:
    return judged.select("prompt_id", "order", "verdict").rows()


def spent_microusd(distillation: Distillation) -> int:
    with reading(open_database(distillation.project.store_url)) as connection:
        return Budget.of(distillation.name, None).spent_in(connection)


def test_every_pair_is_judged_in_both_orders(declare: Declare, claude: AnthropicServer) -> None:
    claude.script = script(longer)

    judged = judge_pairs(declare(spec()), pairs(*UNEVEN), no_launch)

    assert judged.schema == JUDGED
    assert verdicts(judged) == [
        ("p0", "student_first", "student"),
        ("p0", "other_first", "student"),
        ("p1", "student_first", "other"),
        ("p1", "other_first", "other"),
        ("p2", "student_first", "tie"),
        ("p2", "other_first", "tie"),
    ]
    assert judged["problem"].null_count() == 6
    assert judged["request_key"].n_unique() == 6
    sent = {(asked.first, asked.second) for asked in map(read, claude.accepted)}
    assert sent == {*UNEVEN, *((other, student) for student, other in UNEVEN)}


def test_the_judge_is_asked_as_declared(declare: Declare, claude: AnthropicServer) -> None:
    claude.script = script(longer)

    judge_pairs(declare(spec("max_tokens: 99", "effort: low")), pairs(UNEVEN[0]), no_launch)

    for body in claude.bodies:
        assert (body["model"], body["max_tokens"]) == ("claude-opus-5-5", 99)
        assert body["output_config"].keys() == {"effort", "format"}
        assert "\nKind and true.\n" in body["system"]
        assert len(body["messages"]) == 1


def test_few_shot_examples_of_the_teacher_are_no_part_of_it(declare: Declare, claude: AnthropicServer) -> None:
    claude.script = script(longer)
    examples = spec().replace("  reference: answer", "  reference: answer\n  few_shot: [{prompt: Q, completion: A}]")

    judge_pairs(declare(examples), pairs(("long " * 2_000, "short")), no_launch)

    assert all(isinstance(body["messages"][0]["content"], str) for body in claude.bodies)


def test_judging_again_pays_nothing(declare: Declare, claude: AnthropicServer) -> None:
    claude.script = script(longer)
    distillation = declare(spec())
    first = judge_pairs(distillation, pairs(*UNEVEN), no_launch)
    asked, spent = len(claude.accepted), spent_microusd(distillation)
    claude.script = script(always_first)

    again = judge_pairs(declare(spec("concurrency: 1")), pairs(*UNEVEN), no_launch)

    assert again.equals(first)
    assert (len(claude.accepted), spent_microusd(distillation)) == (asked, spent)
    assert spent > 0


def test_another_answer_rubric_or_model_is_asked_anew(declare: Declare, claude: AnthropicServer) -> None:
    claude.script = script(longer)

    def asked(text: str, *answers: tuple[str, str]) -> int:
        before = len(claude.accepted)
        judge_pairs(declare(text), pairs(*answers), no_launch)
        return len(claude.accepted) - before

    assert asked(spec(), UNEVEN[0], UNEVEN[1]) == 4
    assert asked(spec(), UNEVEN[0], ("Brief!", UNEVEN[1][1])) == 2
    assert asked(spec().replace("Kind and true.", "Kind."), UNEVEN[0]) == 2
    assert asked(spec(model="claude-haiku-4-5"), UNEVEN[0]) == 2
    assert asked(spec(), *UNEVEN[:2]) == 0


def test_equal_and_missing_answers_need_no_call(declare: Declare, claude: AnthropicServer) -> None:
    given = pairs(("Same.", " Same.\n"), (None, "Theirs."), ("Mine.", None), (None, None))

    judged = judge_pairs(declare(spec()), given, no_launch)

    assert verdicts(judged) == [
        (f"p{number}", order, verdict)
        for number, verdict in enumerate(("tie", "other", "student", "tie"))
        for order in ("student_first", "other_first")
    ]
    assert judged["request_key"].null_count() == len(judged)
    assert claude.accepted == []


def test_one_answer_of_two_opponents_is_one_call(declare: Declare, claude: AnthropicServer) -> None:
    claude.script = script(longer)
    both = pl.concat([pairs(UNEVEN[0]), pairs(UNEVEN[0], opponent="base")])

    judged = judge_pairs(declare(spec("against: [teacher, base]")), both, no_launch)

    assert len(claude.accepted) == 2
    assert judged["opponent"].to_list() == ["base"] * 2 + ["teacher"] * 2
    assert judged["verdict"].to_list() == ["student"] * 4


def test_a_pair_given_twice_is_a_mistake(declare: Declare) -> None:
    with pytest.raises(ValueError, match="some are given twice"):
        judge_pairs(declare(spec()), pl.concat([pairs(UNEVEN[0])] * 2), no_launch)


def test_what_is_no_verdict_is_kept_with_its_reason(declare: Declare, claude: AnthropicServer) -> None:
    replies = {
        "one": Reply(text="The first one is better."),
        "two": refusal(),
        "three": truncated('{"verdict": "first"}'),
        "four": Reply(status=400, error_message="messages: this prompt is not acceptable"),
    }
    claude.script = lambda body, seen: next(
        (reply for word, reply in replies.items() if word in read(prompt_of(body)).first),
        Reply(text='{"verdict": "second"}'),
    )

    judged = judge_pairs(declare(spec()), pairs(*((word, "other") for word in replies)), no_launch)

    mine, theirs = (judged.filter(order=order) for order in ("student_first", "other_first"))
    assert mine["verdict"].to_list() == [None] * 4
    assert mine["problem"].to_list() == ["unreadable", "refused", "truncated", "error"]
    assert theirs["verdict"].to_list() == ["student"] * 4
    assert theirs["problem"].null_count() == 4


def test_the_plan_says_what_is_missing_and_asks_nobody(declare: Declare, claude: AnthropicServer) -> None:
    claude.script = script(longer)
    distillation = declare(spec())
    judge_pairs(distillation, pairs(UNEVEN[0]), no_launch)
    asked, spent = len(claude.accepted), spent_microusd(distillation)

    plan = plan_judgements(distillation, pairs(*UNEVEN, ("Same.", "Same.")), no_launch)

    assert plan.judge == "claude-opus-5-5 (anthropic)"
    assert (plan.pairs, plan.without_call) == (4, 1)
    assert (plan.calls.needed, plan.calls.stored, plan.calls.missing) == (6, 2, 4)
    assert (len(claude.accepted), spent_microusd(distillation)) == (asked, spent)
    judge_pairs(distillation, pairs(*UNEVEN), no_launch)
    assert 0 < spent_microusd(distillation) - spent <= plan.calls.most_microusd


def test_the_distillations_budget_stops_the_judge(declare: Declare, claude: AnthropicServer) -> None:
    """A call costs less than the most it can cost, so several fit before the next one might not."""
    claude.script = script(longer)
    tight = declare(spec("concurrency: 1", budget=0.02))
    many = pairs(*((f"Answer {'x' * number}", "Other") for number in range(1, 11)))

    with pytest.raises(BudgetError, match=r"evaluation\.judge: demo: .* teacher\.budget_usd: 0\.02"):
        judge_pairs(tight, many, no_launch)

    asked = len(claude.accepted)
    assert 0 < asked < 20
    assert spent_microusd(tight) <= 20_000
    judge_pairs(declare(spec()), many, no_launch)
    assert len(claude.accepted) == 20


def test_verdicts_travel_in_batches_where_that_is_declared(declare: Declare, claude: AnthropicServer) -> None:
    claude.script = script(longer)

    judged = judge_pairs(declare(spec("transport: batches")), pairs(*UNEVEN), no_launch)

    assert [len(batch.requests) for batch in claude.batches] == [5]  # one went ahead, to see that it is accepted
    assert len(claude.accepted) == 6
    assert judged["verdict"].to_list() == ["student"] * 2 + ["other"] * 2 + ["tie"] * 2


def test_a_judge_without_price_or_key_is_named(
    declare: Declare, claude: AnthropicServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TeacherError, match=r"evaluation\.judge: no price for anthropic model 'claude-next'"):
        judge_pairs(declare(spec(model="claude-next")), pairs(UNEVEN[0]), no_launch)
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(TeacherError, match=r"evaluation\.judge: .*claude-opus-5-5 needs an API key"):
        judge_pairs(declare(spec()), pairs(UNEVEN[0]), no_launch)


def test_a_distillation_without_judge_is_the_callers_mistake(declare: Declare) -> None:
    without = spec().split("evaluation:")[0]

    with pytest.raises(ValueError, match=r"demo: no evaluation\.judge is declared"):
        plan_judgements(declare(without), pairs(UNEVEN[0]), no_launch)


def test_a_compatible_server_judges_a_local_teachers_student(
    declare: Declare, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher costs nothing; its budget is the judge's."""
    monkeypatch.setenv("OPENAI_API_KEY", openai.KEY)
    with openai.openai_server() as server:
        server.script = lambda body, seen: openai.Reply(text=json.dumps({"verdict": longer(openai.prompt_of(body))}))
        server.models = ("judge-32b",)
        attributes = f"""
prompts: {{source: {{jsonl: rows.jsonl}}, prompt: "{{{{ question }}}}"}}
teacher: {{provider: transformers, model: {tiny_model}, budget_usd: 1}}
evaluation:
  judge:
    {{provider: openai, model: judge-32b, base_url: "{server.url}", temperature: 0, prices: {{input: 1, output: 2}}}}
"""
        distillation = declare(attributes)
        judged = judge_pairs(distillation, pairs(*UNEVEN[:2]), no_launch)

        assert judged["verdict"].to_list() == ["student"] * 2 + ["other"] * 2
        assert len(server.bodies) == 4
        for body in server.bodies:
            assert body["temperature"] == 0
            assert body["response_format"]["json_schema"]["schema"]["required"] == ["verdict"]
        assert spent_microusd(distillation) > 0


def test_a_local_judge_says_one_word(declare: Declare, tiny_model: Path) -> None:
    jobs: list[GenerateJob] = []

    def worker(job_file: Path) -> None:
        job = GenerateJob.model_validate_json(job_file.read_bytes())
        jobs.append(job)
        rows = []
        for key, messages in pl.read_parquet(job.requests).select("request_key", "messages").iter_rows():
            system, user = json.loads(messages)
            assert "one word alone" in system["content"]
            word = "I cannot say" if "riddle" in user["content"] else longer(user["content"]).capitalize() + "."
            rows.append((key, word, [5, 2], "end_turn", 90, 2))
        pl.DataFrame(rows, schema=SHARD_SCHEMA, orient="row").write_parquet(job.out / "shard-00000.parquet")

    attributes = spec().replace(
        "provider: anthropic\n    model: claude-opus-5-5", f"provider: transformers\n    model: {tiny_model}"
    )
    distillation = declare(attributes)
    given = pairs(UNEVEN[0], ("riddle", "no"))

    judged = judge_pairs(distillation, given, worker)

    assert judged["verdict"].to_list() == ["student", "student", None, None]
    assert judged["problem"].to_list() == [None, None, "unreadable", "unreadable"]
    assert [job.max_tokens for job in jobs] == [256]
    assert plan_judgements(distillation, given, no_launch).calls.most_microusd == 0
    assert judge_pairs(distillation, given, no_launch).equals(judged)


def test_settings_follow_what_decides_a_verdict(declare: Declare) -> None:
    def settings(*more: str, **changed: str) -> dict[str, object]:
        return judge_settings(declare(spec(*more, **changed)))

    declared = settings()
    assert settings("concurrency: 2", 'base_url: "http://elsewhere"', "transport: batches") == declared
    assert settings("prices: {input: 1, output: 1}") == declared
    others = [
        settings("rows: 10"),
        settings("against: [base]"),
        settings("effort: high"),
        settings("max_tokens: 64"),
        settings(model="claude-haiku-4-5"),
        judge_settings(declare(spec().replace("Kind and true.", "Kind."))),
    ]
    assert all(other != declared for other in others)
