"""A run with a judge, second answers and a gate: what was planned, what was made, and what became of the release."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import dagster as dg
import pytest

from distill_dagster.evaluation.planned_calls import Asking
from distill_dagster.graph.keys import asset_key
from distill_dagster.graph.run import PLANNED_EVALUATION_TAG, Runner
from distill_dagster.plan import Request
from distill_dagster.planning.make import make_plan
from distill_dagster.planning.model import Plan
from distill_dagster.project import Distillation
from tests.fakes.anthropic_faults import Body
from tests.fakes.anthropic_server import AnthropicServer, Reply, prompt_of
from tests.graph.hosted import spec
from tests.judging.judges import longer, script
from tests.worker_in_process import worker_in_process

Declare = Callable[..., Distillation]
BLOCKS = """
golden_set: {{jsonl: golden.jsonl}}
students:
  small: {{base: {{model: {model}}}, objective: sft, epochs: 1, precision: fp32}}
evaluation:
  metrics: [rouge_l]
  teacher_resample: 2
  judge: {{provider: anthropic, model: claude-opus-5-5}}
  gate: {{metric: rouge_l, max_degradation: 0.05}}
"""
NAMES = {
    Asking.JUDGE: "judge calls",
    Asking.SECOND_ANSWERS: "second answers",
    Asking.GOLDEN_ANSWERS: "golden answers",
}


@pytest.fixture(autouse=True)
def _worker() -> Iterator[None]:
    with worker_in_process():
        yield


def declared(declare: Declare, model: Path) -> Distillation:
    golden = [{"question": f"golden {n}", "reference": "yes", "verified": True} for n in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in golden)
    blocks = BLOCKS.format(model=model)
    names = [sha256(str(number).encode()).hexdigest() for number in range(30)]  # none resembles another
    asked = "".join(json.dumps({"topic": "birds", "question": f"{name[:8]} {name[8:16]}?"}) + "\n" for name in names)
    return declare(spec(blocks, max_tokens=8), rows__jsonl=asked, golden__jsonl=lines)


def kind_of(body: Body) -> Asking | None:
    """What a request is for, but for second answers, which are like the first."""
    if "output_config" in body:
        return Asking.JUDGE
    return Asking.GOLDEN_ANSWERS if prompt_of(body).startswith("golden") else None


def actions(plan: Plan, asset: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(row.action, row.why) for row in plan.of(asset)]


def test_a_run_keeps_to_its_plan_and_its_record_says_so(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance, tiny_model: Path
) -> None:
    verdicts = script(longer)
    claude.script = lambda body, seen: (
        verdicts(body, seen) if kind_of(body) is Asking.JUDGE else Reply(text=f"Said {seen + 1} times")
    )
    distillation = declared(declare, tiny_model)
    plan = make_plan(distillation)

    outcome = Runner(distillation, instance, lambda said: None).run(Request())

    assert outcome.failure is None
    made = Counter(kind_of(body) for body in claude.bodies)
    made[Asking.SECOND_ANSWERS] = made.pop(None) - plan.calls.needed
    planned = {one.asking: one.calls.needed for one in plan.evaluation_calls}
    assert planned.keys() == set(Asking)
    assert made[Asking.SECOND_ANSWERS] == planned[Asking.SECOND_ANSWERS] > 0
    assert made[Asking.GOLDEN_ANSWERS] == planned[Asking.GOLDEN_ANSWERS] == 3
    assert 0 < made[Asking.JUDGE] <= planned[Asking.JUDGE]
    record = instance.get_runs()[0]
    event = instance.fetch_materializations(asset_key("demo", "evaluation", "small"), limit=1).records[0]
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    for asking, name in NAMES.items():
        assert record.tags[PLANNED_EVALUATION_TAG.format(asking=asking)] == str(planned[asking])
        assert metadata[f"{name} planned"].value == planned[asking]
        assert metadata[f"{name} made"].value == made[asking]

    assert actions(plan, "release") == [("may", ("the verdict of evaluation small",))]
    assert outcome.withheld.keys() == {"small"}
    after = make_plan(distillation)
    assert after.is_empty
    assert actions(after, "release")[0][1] in [("withheld: fail",), ("withheld: inconclusive",)]
