"""What the missing answers would cost: counted for free, or estimated without asking, and never written anywhere."""

import json
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from distill_dagster.errors import DistillError, TeacherError
from distill_dagster.progress import Progress, listening
from distill_dagster.project import Distillation
from distill_dagster.prompts.build import build_prompts
from distill_dagster.prompts.store import write_prompts
from distill_dagster.teachers.money.dollars import dollars
from distill_dagster.teachers.money.estimate import estimate
from distill_dagster.teachers.outputs import build_outputs, make_teacher
from distill_dagster.worker_process import no_launch
from tests.fakes.anthropic_messages import InputTokens
from tests.fakes.anthropic_server import KEY, AnthropicServer, Reply, refusal

Declare = Callable[..., Distillation]
SPEC = """
prompts:
  source: {{jsonl: rows.jsonl}}
  prompt: "{{{{ question }}}}"
  system: Be brief.
  {prompts}
teacher:
  provider: anthropic
  model: claude-haiku-4-5
  max_tokens: 50
  concurrency: 8
  {more}
"""


def spec(*more: str, prompts: str = "") -> str:
    return SPEC.format(more="\n  ".join(more), prompts=prompts)


def rows(count: int, longest: int = 1, **columns: str) -> str:
    """Questions of different lengths."""
    rng = random.Random(3)
    words = (" ".join(["word"] * rng.randint(1, longest)) for _ in range(count))
    return "".join(json.dumps({"question": f"question {n} {text}"} | columns) + "\n" for n, text in enumerate(words))


def answer(distillation: Distillation) -> None:
    for partition, made in build_prompts(distillation).partitions.items():
        write_prompts(distillation, partition, made)
    teacher = make_teacher(distillation, no_launch)
    assert not build_outputs(distillation, distillation.files.partitions("prompts"), teacher).failed


def counted_by_hand(distillation: Distillation) -> int:
    """Input tokens of all prompts as the server counts them."""
    requests = make_teacher(distillation, no_launch).requests  # type: ignore[attr-defined]
    messages = build_prompts(distillation).partitions["all"].frame["messages"]
    return sum(InputTokens.of(requests.body(text)).total for text in messages)


def test_without_a_key_bytes_decide_and_nothing_is_written(declare: Declare) -> None:
    distillation = declare(spec(), rows__jsonl=rows(10))

    found = estimate(distillation)

    size = build_prompts(distillation).partitions["all"].frame["messages"].str.len_bytes().sum()
    assert (found.requests.needed, found.requests.stored, found.requests.missing) == (10, 0, 10)
    assert found.input_tokens is not None
    assert found.input_tokens.method == "bytes"
    assert found.input_tokens.expected == round(size / 4)
    assert found.output_tokens is not None
    assert found.output_tokens.expected == 10 * 50
    assert "an upper bound" in found.output_tokens.basis
    assert not distillation.project.home.exists()


def test_every_request_is_counted_for_free(declare: Declare, claude: AnthropicServer) -> None:
    distillation = declare(spec("stop_sequences: [END]"), rows__jsonl=rows(150, longest=40))
    heard: list[Progress] = []

    with listening(heard.append):
        found = estimate(distillation, how="exact")

    assert found.input_tokens is not None
    assert found.input_tokens.expected == counted_by_hand(distillation)
    assert claude.counted == 150
    assert claude.accepted == []
    assert (heard[-1].stage, heard[-1].done, heard[-1].total) == ("count_tokens", 150, 150)
    assert not distillation.project.home.exists()


def test_a_sample_says_how_sure_it_is(declare: Declare, claude: AnthropicServer) -> None:
    distillation = declare(spec(), rows__jsonl=rows(600, longest=60))

    found, again = estimate(distillation), estimate(distillation)

    tokens = found.input_tokens
    assert tokens is not None
    assert tokens == again.input_tokens
    assert (tokens.method, tokens.rows, claude.counted) == ("sampled", 100, 200)
    assert tokens.low is not None
    assert tokens.high is not None
    assert tokens.low <= counted_by_hand(distillation) <= tokens.high
    assert 0 < tokens.high - tokens.low < 0.05 * tokens.expected


def test_a_sample_of_all_is_exact(declare: Declare, claude: AnthropicServer) -> None:
    distillation = declare(spec(), rows__jsonl=rows(30, longest=20))

    tokens = estimate(distillation, how="sampled").input_tokens

    assert tokens is not None
    assert (tokens.method, tokens.expected) == ("exact", counted_by_hand(distillation))


def test_an_exact_estimate_is_what_answers_then_cost(declare: Declare, claude: AnthropicServer) -> None:
    """Every answer has the length that the stored ones have, so that expectation and bill agree to the micro-dollar."""
    claude.script = lambda body, seen: Reply(text="x" * 80)
    answer(declare(spec(), rows__jsonl=rows(25)))
    distillation = declare(spec(), rows__jsonl=rows(60))

    before = estimate(distillation, how="exact")
    answer(distillation)
    after = estimate(distillation, how="exact")

    assert before.messages is not None
    assert after.budget is not None
    assert before.budget is not None
    assert before.output_tokens is not None
    assert (before.output_tokens.method, before.output_tokens.rows) == ("usage", 25)
    paid = after.budget.spent_microusd - before.budget.spent_microusd
    assert paid == before.messages.expected_microusd < before.messages.most_microusd
    assert (after.requests.stored, after.requests.missing) == (60, 0)
    assert after.messages is not None
    assert after.messages.most_microusd == 0


def test_offline_goes_by_stored_answers_where_there_are_enough(declare: Declare, claude: AnthropicServer) -> None:
    answer(declare(spec(), rows__jsonl=rows(20)))

    found = estimate(declare(spec(), rows__jsonl=rows(40)), how="offline")

    assert found.input_tokens is not None
    assert (found.input_tokens.method, found.input_tokens.rows) == ("usage", 20)
    assert "20 stored answers to these prompts" in found.input_tokens.basis
    assert claude.counted == 0


def test_answers_to_other_prompts_are_the_second_choice(declare: Declare, claude: AnthropicServer) -> None:
    answer(declare(spec(), rows__jsonl=rows(20)))

    found = estimate(declare(spec().replace("Be brief", "Be kind"), rows__jsonl=rows(5)), how="offline")

    assert found.output_tokens is not None
    assert (found.requests.stored, found.output_tokens.rows) == (0, 20)
    assert "of this teacher, whatever their prompts" in found.output_tokens.basis


def test_batches_cost_half_and_auto_says_when(declare: Declare) -> None:
    few = estimate(declare(spec("transport: auto"), rows__jsonl=rows(10)))
    many = estimate(declare(spec("transport: auto"), name="many", rows__jsonl=rows(2_000)))

    assert few.messages is not None
    assert few.batches is not None
    assert few.batches.expected_microusd == pytest.approx(few.messages.expected_microusd / 2, abs=10)
    assert few.batches.most_microusd == pytest.approx(few.messages.most_microusd / 2, abs=10)
    assert (few.transport.chosen, many.transport.chosen) == ("messages", "batches")
    assert "at half price" in many.transport.why
    assert many.cost == many.batches


def test_samples_and_equal_prompts_count_as_requests(declare: Declare) -> None:
    doubled = rows(5) + rows(5, topic="other")

    found = estimate(declare(spec("samples: 3"), rows__jsonl=doubled))

    assert found.requests.needed == 15
    assert "10 prompts, 3 samples of each; an upper bound" in found.basis["requests"]


def test_the_budget_is_compared_with_both_sums(declare: Declare) -> None:
    cost = estimate(declare(spec(), rows__jsonl=rows(10))).messages
    assert cost is not None
    between = (cost.expected_microusd + cost.most_microusd) // 2

    def fits(microusd: int) -> tuple[bool, bool]:
        budget = estimate(declare(spec(f"budget_usd: {microusd / 1e6:.6f}"), rows__jsonl=rows(10))).budget
        assert budget is not None
        assert budget.left_microusd == budget.limit_microusd == microusd
        return budget.expected_fits, budget.most_fits

    assert fits(cost.expected_microusd - 1) == (False, False)
    assert fits(between) == (True, False)
    assert fits(cost.most_microusd) == (True, True)


def test_requests_in_batches_are_reserved_and_not_missing(declare: Declare, claude: AnthropicServer) -> None:
    claude.hold_batches = True
    distillation = declare(spec("transport: batches", "budget_usd: 1"), rows__jsonl=rows(6))
    for partition, made in build_prompts(distillation).partitions.items():
        write_prompts(distillation, partition, made)
    build_outputs(distillation, ["all"], make_teacher(distillation, no_launch), wait=False)

    found = estimate(distillation)

    # one request goes ahead of a batch, to see that it is well-formed
    assert (found.requests.stored, found.requests.in_batches, found.requests.missing) == (1, 5, 0)
    assert found.budget is not None
    assert found.budget.spent_microusd > 0
    assert any("the budget has reserved it" in note for note in found.notes)


def test_only_the_named_partitions(declare: Declare) -> None:
    both = rows(4, topic="a") + rows(3, topic="b").replace("question", "matter")
    distillation = declare(spec(prompts="partition: {by: topic}"), rows__jsonl=both.replace('matter":', 'question":'))

    found = estimate(distillation, ["b"])

    assert (found.partitions, found.requests.needed) == (("b",), 3)
    with pytest.raises(DistillError, match=r"no partition c in the source \(known: a, b\)"):
        estimate(distillation, ["c"])


def test_partitions_without_prompts_are_named(declare: Declare) -> None:
    bad = rows(4, topic="a") + json.dumps({"question": "", "topic": "b"}) + "\n"

    found = estimate(declare(spec(prompts="partition: {by: topic}"), rows__jsonl=bad))

    assert found.partitions == ("a",)
    assert list(found.failed) == ["b"]


def test_longer_prompts_fall_into_a_dearer_band(declare: Declare) -> None:
    bands = "prices: {bands: [{input: 1, output: 0}, {above_input_tokens: 100, input: 100, output: 0}]}"
    short = estimate(declare(spec(bands), rows__jsonl=json.dumps({"question": "x" * 100}) + "\n"))
    long = estimate(declare(spec(bands), name="long", rows__jsonl=json.dumps({"question": "x" * 1000}) + "\n"))

    assert short.messages is not None
    assert long.messages is not None
    assert long.messages.expected_microusd > 100 * short.messages.expected_microusd


def test_what_the_provider_refuses_to_count_costs_nothing(
    declare: Declare, claude: AnthropicServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.fakes.anthropic_messages.MOST_MESSAGE_BYTES", 2_000)
    source = rows(3) + json.dumps({"question": "x" * 3_000}) + "\n"

    found = estimate(declare(spec(), rows__jsonl=source), how="exact")

    assert found.input_tokens is not None
    assert found.input_tokens.rows == 3
    assert found.notes == ("the provider refuses 1 of the requests it was asked to count; those cost nothing",)


def test_counting_needs_a_key_and_anthropic(declare: Declare) -> None:
    distillation = declare(spec(), rows__jsonl=rows(3))
    openai = declare(OPENAI, name="other", rows__jsonl=rows(3))

    for how in ("exact", "sampled"):
        with pytest.raises(TeacherError, match=rf"--tokens {how} counts with Anthropic's API .* ANTHROPIC_API_KEY"):
            estimate(distillation, how=how)  # type: ignore[arg-type]
    with pytest.raises(TeacherError, match="use --tokens offline"):
        estimate(openai, how="exact")


def test_a_wrong_key_and_a_dead_server_are_said_at_once(
    declare: Declare, claude: AnthropicServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    distillation = declare(spec(), rows__jsonl=rows(40))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-wrong")
    with pytest.raises(TeacherError, match="set a valid ANTHROPIC_API_KEY"):
        estimate(distillation)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://127.0.0.1:{port}")
    with pytest.raises(TeacherError, match=r"cannot be reached .* --tokens offline"):
        estimate(distillation)


OPENAI = """
prompts:
  source: {jsonl: rows.jsonl}
  prompt: "{{ question }}"
teacher:
  provider: openai
  model: some-model
  base_url: http://localhost:9
  max_tokens: 50
  prices: {input: 1, output: 4}
"""


def test_an_openai_server_has_no_batches(declare: Declare) -> None:
    found = estimate(declare(OPENAI, rows__jsonl=rows(3)))

    assert found.batches is None
    assert found.messages is not None
    assert found.messages.expected_microusd > 3 * 50 * 4
    assert found.transport.chosen == "chat_completions"


def test_a_local_teacher_costs_no_money(declare: Declare, tiny_model: Path) -> None:
    local = f"""
prompts:
  source: {{jsonl: rows.jsonl}}
  prompt: "{{{{ question }}}}"
teacher: {{provider: transformers, model: {tiny_model}}}
"""

    found = estimate(declare(local, rows__jsonl=rows(3)))

    assert (found.requests.missing, found.cost, found.budget) == (3, None, None)
    assert "no money" in found.transport.why


def test_refused_first_samples_leave_the_bound_above_the_truth(declare: Declare, claude: AnthropicServer) -> None:
    claude.script = lambda body, seen: refusal()
    distillation = declare(spec("samples: 2"), rows__jsonl=rows(3))
    answer(distillation)

    found = estimate(distillation, how="offline")

    assert (found.requests.stored, found.requests.missing) == (3, 3)
    assert "further samples of refused prompts are not asked" in found.basis["requests"]


@pytest.mark.parametrize(
    ("microusd", "said"),
    [(0, "$0.00"), (12, "$0.000012"), (42_100, "$0.0421"), (3_104_000, "$3.10"), (-2_000_000, "−$2.00")],
)
def test_amounts_leave_something_to_see(microusd: int, said: str) -> None:
    assert dollars(microusd) == said
