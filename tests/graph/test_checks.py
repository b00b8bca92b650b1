"""The checks on teacher_outputs: what they say, and that every run refreshes them."""

import dagster as dg
import pytest

from distill_dagster.graph.checks import AUTHORISED, USABLE, answers_usable, output_checks
from distill_dagster.graph.definitions import build_definitions
from distill_dagster.graph.finding import SCHEMA
from distill_dagster.graph.keys import asset_key
from distill_dagster.graph.run import Runner
from distill_dagster.plan import Asset, Request
from distill_dagster.project import Distillation
from tests.fakes.anthropic_server import AnthropicServer, Body, Reply, prompt_of, refusal, truncated
from tests.graph.hosted import Declare, rows, spec

OUTPUTS = asset_key("demo", "teacher_outputs")
LOCAL = "prompts: {source: {jsonl: r}, prompt: x}\nteacher: {provider: transformers, model: m}\n"


def run(distillation: Distillation, instance: dg.DagsterInstance) -> None:
    outcome = Runner(distillation, instance, lambda text: None).run(Request(until=Asset.TEACHER_OUTPUTS))
    assert outcome.failure is None


def recorded(instance: dg.DagsterInstance, check: str) -> list[dg.AssetCheckEvaluation]:
    """What Dagster has on record of a check, newest first."""
    key = dg.AssetCheckKey(OUTPUTS, check)
    records = instance.event_log_storage.get_asset_check_execution_history(key, limit=10)
    return [record.evaluation for record in records if isinstance(record.evaluation, dg.AssetCheckEvaluation)]


def table(value: object) -> list[dict[str, object]]:
    assert isinstance(value, dg.TableMetadataValue)
    return [dict(record.data) for record in value.records]


def badly(body: Body, seen: int) -> Reply:
    """Refuses one question in ten and runs out of tokens at one in twenty."""
    number = int(prompt_of(body).split()[-1])
    return refusal() if number % 10 == 0 else truncated("so lon") if number % 20 == 1 else Reply(text="Good.")


def test_a_run_records_the_shares_and_the_counts(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    claude.script = badly
    run(declare(spec(), rows__jsonl=rows(birds=20, fish=20)), instance)

    (usable,) = recorded(instance, USABLE)

    assert not usable.passed
    assert usable.severity == dg.AssetCheckSeverity.WARN
    assert usable.description == "40 answers: refused 10.0% (at most 5.0%)"
    assert (usable.metadata["answers"].value, usable.metadata["partitions"].value) == (40, 2)
    shares = {row["ending"]: (row["share"], row["at most"]) for row in table(usable.metadata["shares"])}
    assert shares == {
        "refused": ("10.00%", "5.00%"),
        "truncated": ("5.00%", "5.00%"),
        "error": ("0.00%", "1.00%"),
        "invalid": ("0.00%", "5.00%"),
    }
    endings = {row["ending"]: row["answers"] for row in table(usable.metadata["endings"])}
    categories = {name: count for name, count in endings.items() if str(name).startswith("refused: ")}
    assert {name: count for name, count in endings.items() if name not in categories} == {
        "answered": "34",
        "refused": "4",
        "truncated": "2",
    }
    assert list(categories.values()) == ["4"]


def test_the_check_is_about_all_current_answers_and_each_run_refreshes_it(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    claude.script = badly
    run(declare(spec(thresholds={"refused": 0.1}), rows__jsonl=rows(birds=20)), instance)
    claude.script = lambda body, seen: refusal()
    run(declare(spec(thresholds={"refused": 0.1}), rows__jsonl=rows(birds=20, fish=20)), instance)

    assert [(one.passed, one.description) for one in recorded(instance, USABLE)] == [
        (False, "40 answers: refused 55.0% (at most 10.0%)"),
        (True, "20 answers: every share within its threshold"),
    ]


def test_answers_that_break_the_schema_count_as_invalid(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    claude.script = lambda body, seen: Reply(text="yes" if "fish" in prompt_of(body) else "certainly")
    run(declare(spec(labels=["yes", "no"]), rows__jsonl=rows(birds=5, fish=15)), instance)

    (usable,) = recorded(instance, USABLE)

    assert usable.description == "20 answers: invalid 25.0% (at most 5.0%)"


@pytest.mark.parametrize(("teacher", "passed"), [({}, False), ({"authorization": "agreement 12"}, True)])
def test_permission_to_train_is_asked_for(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance, teacher: dict[str, str], passed: bool
) -> None:
    run(declare(spec(**teacher), rows__jsonl=rows(birds=5)), instance)

    (stated,) = recorded(instance, AUTHORISED)

    assert (stated.passed, stated.severity) == (passed, dg.AssetCheckSeverity.WARN)
    assert ("agreement 12" if passed else "`authorization: ") in str(stated.description)


def test_a_local_teacher_needs_no_permission(declare: Declare) -> None:
    assert [check.name for check in output_checks(declare(LOCAL))] == [SCHEMA, USABLE]


def test_nothing_is_wrong_before_there_are_answers(declare: Declare) -> None:
    assert (answers_usable(declare(spec())).passed, answers_usable(declare(spec())).description) == (
        True,
        "no answers yet",
    )


def test_a_check_can_be_run_alone(declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance) -> None:
    distillation = declare(spec(), rows__jsonl=rows(birds=20))
    run(distillation, instance)
    job = build_definitions(distillation).resolve_implicit_global_asset_job_def()
    both = {dg.AssetCheckKey(OUTPUTS, name) for name in (USABLE, AUTHORISED)}

    done = job.get_subset(asset_selection=set(), asset_check_selection=both).execute_in_process(instance=instance)

    assert done.success
    assert [one.passed for one in recorded(instance, USABLE)] == [True, True]
    assert [one.passed for one in recorded(instance, AUTHORISED)] == [False, False]


def test_a_failed_run_refreshes_the_checks_too(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    broken = rows(birds=20) + '{"topic": "fish", "question": ""}\n'
    outcome = Runner(declare(spec(), rows__jsonl=broken), instance, lambda text: None).run(Request())

    assert outcome.failure is not None
    assert [one.description for one in recorded(instance, USABLE)] == ["20 answers: every share within its threshold"]
