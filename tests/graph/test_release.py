"""`release/<student>` in Dagster and in `distill run`: guarded by a blocking check, and by its own second reading."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from distill_dagster.cli import main
from distill_dagster.evaluation.gate import Status
from distill_dagster.graph.definitions import build_definitions
from distill_dagster.graph.instance_home import open_instance
from distill_dagster.graph.keys import asset_key
from distill_dagster.graph.release import GATE
from distill_dagster.graph.run import Runner
from distill_dagster.plan import Asset, Request
from distill_dagster.project import Distillation
from distill_dagster.releases.build import build_release, read_release, release_path
from distill_dagster.storage import read_current
from tests.fakes.anthropic_server import AnthropicServer
from tests.graph.hosted import Declare
from tests.releases.shelf import STUDENT, declared, judge, train

EVALUATION, RELEASE = asset_key("demo", "evaluation", STUDENT), asset_key("demo", "release", STUDENT)
OTHER = "  other: {base: base, objective: sft}\n"


@pytest.fixture
def instance(declare: Declare) -> Iterator[dg.DagsterInstance]:
    with open_instance(declared(declare).project) as made:
        yield made


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test's answers and dataset are kept for the others."""
    return tmp_path_factory.mktemp("kept") / "home"


@pytest.fixture
def trained(declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance, kept: Path) -> Distillation:
    """A distillation with everything up to a trained student."""
    distillation = declared(declare)
    if kept.exists():
        shutil.copytree(kept, distillation.project.home, dirs_exist_ok=True)
    else:
        outcome = Runner(distillation, instance, lambda text: None).run(Request(until=Asset.DATASET))
        assert outcome.failure is None
        shutil.copytree(distillation.project.home, kept)
    train(distillation)
    return distillation


def materialise(
    distillation: Distillation, instance: dg.DagsterInstance, *keys: dg.AssetKey
) -> dg.ExecuteInProcessResult:
    """As the Dagster UI does."""
    job = build_definitions(distillation).resolve_implicit_global_asset_job_def()
    return job.execute_in_process(instance=instance, asset_selection=list(keys), raise_on_error=False)


def made(result: dg.ExecuteInProcessResult) -> list[dg.AssetKey]:
    return [key for event in result.get_asset_materialization_events() if (key := event.asset_key) is not None]


def distill(distillation: Distillation, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--project", str(distillation.project.root), *arguments])


def events(instance: dg.DagsterInstance, key: dg.AssetKey) -> int:
    return len(instance.fetch_materializations(key, limit=20).records)


def test_a_pass_is_released_in_the_run_that_evaluates(trained: Distillation, instance: dg.DagsterInstance) -> None:
    evaluation = judge(trained, Status.PASS, current=False)

    result = materialise(trained, instance, EVALUATION, RELEASE)

    assert result.success
    assert made(result) == [EVALUATION, RELEASE]
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed, check.asset_key) == (GATE, True, EVALUATION)
    assert check.metadata["verdict"].value == "pass"
    release = read_release(trained, STUDENT)
    assert release is not None
    assert release.evaluation_version == evaluation
    (event,) = [e for e in result.get_asset_materialization_events() if e.asset_key == RELEASE]
    said = event.materialization
    assert (said.tags or {})["dagster/data_version"] == release.version
    assert said.metadata["student version"].value == release.student_version
    assert said.metadata["pointer"].value == str(release_path(trained, STUDENT))
    assert said.metadata["verdict"].value == "pass"
    assert "OVERRIDDEN" not in said.metadata


@pytest.mark.parametrize("status", [Status.FAIL, Status.INCONCLUSIVE])
def test_another_verdict_skips_the_release_in_its_run(
    trained: Distillation, instance: dg.DagsterInstance, status: Status
) -> None:
    judge(trained, status, current=False)

    result = materialise(trained, instance, EVALUATION, RELEASE)

    assert made(result) == [EVALUATION]
    (check,) = result.get_asset_check_evaluations()
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert f"{status.value.capitalize()} on ROUGE-L." in str(check.description)
    assert events(instance, RELEASE) == 0
    assert read_release(trained, STUDENT) is None


def test_a_release_alone_after_a_failed_gate_releases_nothing(
    trained: Distillation, instance: dg.DagsterInstance
) -> None:
    judge(trained, Status.PASS)
    assert made(materialise(trained, instance, RELEASE)) == [RELEASE]
    pointer = release_path(trained, STUDENT).read_bytes()
    train(trained, "others")
    judge(trained, Status.FAIL, current=False)
    materialise(trained, instance, EVALUATION)

    alone = materialise(trained, instance, RELEASE)

    assert not alone.success
    assert made(alone) == []
    (failure,) = alone.get_step_failure_events()
    told = failure.step_failure_data.user_failure_data
    assert told is not None
    assert "the release of demo/small is withheld: Fail on ROUGE-L." in str(told.description)
    assert release_path(trained, STUDENT).read_bytes() == pointer
    assert events(instance, RELEASE) == 1


def test_only_candidates_of_a_gate_have_a_release(declare: Declare) -> None:
    definitions = build_definitions(declared(declare, more=OTHER, candidates=["other"]))
    keys = {key.to_user_string() for key in definitions.resolve_all_asset_keys()}

    assert {key for key in keys if "release" in key} == {"demo/release/other"}
    deps = definitions.resolve_asset_graph().get(asset_key("demo", "release", "other")).parent_keys
    assert {key.to_user_string() for key in deps} == {"demo/student/other", "demo/evaluation/other", "demo/golden_set"}


def test_a_run_whose_release_is_withheld_exits_3_and_has_done_the_rest(
    trained: Distillation, instance: dg.DagsterInstance
) -> None:
    evaluation = judge(trained, Status.INCONCLUSIVE, current=False)

    first = distill(trained, "run", "demo")

    assert first.exit_code == 3, first.output
    assert "demo: 1 assets made" in first.stderr
    assert "the release of demo/small is withheld: Inconclusive on ROUGE-L." in first.stderr
    assert "Add golden rows" in first.stderr
    assert "error" not in first.stderr
    current = read_current(trained.files.asset("evaluations/small"))
    assert current is not None
    assert current.version == evaluation

    runs = len(instance.get_runs())
    second = distill(trained, "run", "demo")

    assert second.exit_code == 3
    assert second.stderr.splitlines()[0].startswith("demo: nothing to do")
    assert "the release of demo/small is withheld" in second.stderr
    assert len(instance.get_runs()) == runs
    assert distill(trained, "run", "demo", "--until", "evaluation").exit_code == 0


def test_a_run_releases_what_passed_and_then_has_nothing_to_do(
    trained: Distillation, instance: dg.DagsterInstance
) -> None:
    judge(trained, Status.PASS)

    first = distill(trained, "run", "demo")

    assert (first.exit_code, events(instance, RELEASE)) == (0, 1), first.output
    assert "release small: its verdict allows it" in first.stderr
    assert read_release(trained, STUDENT) is not None
    second = distill(trained, "run", "demo", "--until", "release")
    assert (second.exit_code, events(instance, RELEASE)) == (0, 1)
    assert "nothing to do" in second.stderr


def test_a_damaged_checkpoint_is_a_failure_and_no_verdict(trained: Distillation) -> None:
    judge(trained, Status.PASS)
    current = read_current(trained.files.asset("students/small"))
    assert current is not None
    weights = trained.files.asset("students/small") / current.version / "model.safetensors"
    weights.write_text("poison", encoding="utf-8")

    done = distill(trained, "run", "demo")

    assert done.exit_code == 1
    assert "not as it was published (model.safetensors)" in done.stderr
    assert read_release(trained, STUDENT) is None


def test_an_override_is_loud_in_the_command_dagster_and_later_runs(
    trained: Distillation, instance: dg.DagsterInstance
) -> None:
    judge(trained, Status.FAIL)
    materialise(trained, instance, EVALUATION)
    withheld = distill(trained, "release", "demo", STUDENT)
    assert (withheld.exit_code, read_release(trained, STUDENT)) == (3, None)

    done = distill(trained, "release", "demo", STUDENT, "--override", "Legal needs it today.")

    assert done.exit_code == 0, done.output
    assert "OVERRIDDEN by" in done.stderr
    release = read_release(trained, STUDENT)
    assert release is not None
    assert release.override is not None
    said = instance.fetch_materializations(RELEASE, limit=1).records[0].asset_materialization
    assert said is not None
    sentence = f"OVERRIDDEN by {release.override.by}, against the verdict fail: Legal needs it today."
    assert " ".join(str(said.metadata["OVERRIDDEN"].value).split()) == sentence
    history = instance.event_log_storage.get_asset_check_execution_history(dg.AssetCheckKey(EVALUATION, GATE), limit=2)
    checks = [record.evaluation for record in history if isinstance(record.evaluation, dg.AssetCheckEvaluation)]
    assert [check.passed for check in checks] == [True, False]
    assert sentence in str(checks[0].description)
    assert distill(trained, "run", "demo").exit_code == 0
    assert materialise(trained, instance, RELEASE).success


def test_an_override_is_for_what_was_refused(trained: Distillation) -> None:
    judge(trained, Status.PASS)
    build_release(trained, STUDENT)

    done = distill(trained, "release", "demo", STUDENT, "--override", "To be sure.")

    assert done.exit_code == 1
    assert "passed its gate: nothing to override" in done.stderr
    assert not (trained.files.root / "releases" / "overrides").exists()
