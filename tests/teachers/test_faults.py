"""Every kind of fault at once: each prompt ends, as it should, and the counts add up."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from distill_dagster.project import Distillation
from distill_dagster.prompts.build import build_prompts
from distill_dagster.prompts.store import read_prompts, write_prompts
from distill_dagster.teachers.outputs import build_outputs, make_teacher, outputs_summary, read_outputs
from distill_dagster.teachers.store.budget import Budget
from distill_dagster.teachers.store.responses import ResponseStore
from distill_dagster.worker_process import no_launch
from tests.fakes.anthropic_server import KEY, AnthropicServer, FaultMix, Reply, serve_process
from tests.teachers.hosted import answer, rows, spec

Declare = Callable[..., Distillation]
PROMPTS, RATE, SEED = 10_000, 0.05, 7


@pytest.mark.timeout(600)
def test_ten_thousand_prompts_all_end_under_every_fault_at_once(
    declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "accepted.jsonl"
    distillation = declare(
        spec("budget_usd: 50").replace("concurrency: 4", "concurrency: 64"), rows__jsonl=rows(PROMPTS)
    )
    with serve_process(fault_rate=RATE, seed=SEED, log=log) as url:
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
        build = answer(distillation)

    assert build.failed == {}
    outputs = read_outputs(distillation, "all")
    texts = read_prompts(distillation, "all").select("prompt_id", "text")
    ended = outputs.join(texts, on="prompt_id").select("text", "status")
    mix = FaultMix(RATE, SEED)
    expected = {text: mix.expected({"messages": [{"role": "user", "content": text}]}) for text in ended["text"]}
    assert dict(ended.iter_rows()) == expected

    summary = outputs_summary(distillation, "all")
    counted = Counter(expected.values())
    assert {status: summary[status] for status in counted} == counted
    assert sum(counted.values()) == summary["rows"] == PROMPTS
    refusals = sum(count for name, count in summary.items() if name.startswith("refused: "))
    assert refusals == summary["refused"]
    assert outputs.filter(pl.col("status") == "error")["detail"].str.contains("400|413").all()

    store = ResponseStore(distillation.project.store_url)
    with store.writing() as connection:
        spent = Budget.of(distillation.name, None).spent_in(connection)
    # Answers that were billed and lost count in full, so what was spent is more than what arrived cost.
    lost = len(log.read_text(encoding="utf-8").splitlines()) - sum(1 for end in expected.values() if end != "error")
    assert lost > 0
    assert spent > summary["cost_microusd"]


def test_a_reset_after_acceptance_counts_as_paid_and_one_before_it_too(
    declare: Declare, claude: AnthropicServer
) -> None:
    """Nobody can tell the two apart, so both keep their reservation."""
    faults = {"question 0": "reset_before", "question 1": "reset_after", "question 2": "garbage"}

    def script(body: dict[str, object], seen: int) -> Reply:
        text = str(body["messages"][-1]["content"])  # type: ignore[index]
        return Reply(fault=faults[text]) if text in faults and seen == 0 else Reply()  # type: ignore[arg-type]

    claude.script = script
    distillation = declare(spec("budget_usd: 1"), rows__jsonl=rows(3))

    build = answer(distillation)

    assert build.failed == {}
    store = ResponseStore(distillation.project.store_url)
    with store.writing() as connection:
        spent = Budget.of(distillation.name, None).spent_in(connection)
    teacher = make_teacher(distillation, no_launch)
    bounds = teacher.most_microusd(read_prompts(distillation, "all"))
    assert spent == read_outputs(distillation, "all")["cost_microusd"].sum() + bounds.sum()


def test_a_lost_answer_is_not_asked_again_beyond_the_budget(declare: Declare, claude: AnthropicServer) -> None:
    claude.script = lambda body, seen: Reply(fault="reset_after")
    distillation = declare(spec("budget_usd: 0.001"), rows__jsonl=rows(1))

    build = answer(distillation)

    assert "connection lost" in build.failed["all"] or "budget_usd" in build.failed["all"]
    store = ResponseStore(distillation.project.store_url)
    with store.writing() as connection:
        assert Budget.of(distillation.name, None).spent_in(connection) <= 1_000
    assert 1 < len(claude.accepted) < 12


def test_no_server_costs_nothing_and_says_so(declare: Declare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("distill_dagster.teachers.asking.conversation.FIRST_BACKOFF_S", 0.001)
    distillation = declare(spec("budget_usd: 1"), rows__jsonl=rows(5))

    build = answer(distillation)

    assert "no connection to http://127.0.0.1:9" in build.failed["all"]
    store = ResponseStore(distillation.project.store_url)
    with store.writing() as connection:
        assert Budget.of(distillation.name, None).spent_in(connection) == 0


def test_the_key_appears_in_no_file_message_or_traceback(
    declare: Declare, claude: AnthropicServer, capfd: pytest.CaptureFixture[str]
) -> None:
    claude.script = FaultMix(0.1, 1)
    distillation = declare(spec(), rows__jsonl=rows(60))

    build = answer(distillation)
    claude.script = lambda body, seen: Reply(status=401, error_message=f"invalid key {KEY}")
    more = answer(declare(spec(), rows__jsonl=rows(80)))

    said = json.dumps([build.failed, more.failed]) + "".join(capfd.readouterr())
    assert more.failed
    assert KEY not in said
    files = [path for path in Path(distillation.project.home).rglob("*") if path.is_file()]
    assert files
    assert all(KEY.encode() not in path.read_bytes() for path in files)


def test_adding_one_percent_sends_exactly_the_new_ones(declare: Declare, claude: AnthropicServer) -> None:
    answer(declare(spec(), rows__jsonl=rows(300)))
    write = declare(spec(), rows__jsonl=rows(303))
    for partition, made in build_prompts(write).partitions.items():
        write_prompts(write, partition, made)
    build_outputs(write, ["all"], make_teacher(write, no_launch))

    assert sorted(claude.accepted[300:]) == ["question 300", "question 301", "question 302"]
