"""What is released, and what is not: the verdict of exactly the version that is published, under the declared rule."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from distill_dagster.errors import EvaluationError, ReleaseWithheldError, StorageError
from distill_dagster.evaluation.gate import Status
from distill_dagster.golden.build import build_golden_set
from distill_dagster.lineage.hashing import digest
from distill_dagster.project import Distillation
from distill_dagster.releases.build import build_release, read_release, release_due, release_path
from distill_dagster.releases.model import Reason
from tests.releases.shelf import STUDENT, declared, judge, train

Declare = Callable[..., Distillation]
OTHER = "  other: {base: base, objective: sft}\n"


@pytest.fixture
def released(declare: Declare) -> Distillation:
    """A distillation whose student passed and is released."""
    distillation = declared(declare)
    train(distillation)
    judge(distillation, Status.PASS)
    build_release(distillation, STUDENT)
    return distillation


def refused(distillation: Distillation, reason: Reason) -> str:
    """Asserts that a release is withheld and the pointer stays; returns what was said."""
    path = release_path(distillation, STUDENT)
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(ReleaseWithheldError) as caught:
        build_release(distillation, STUDENT)
    assert caught.value.reason == reason
    assert (path.read_bytes() if path.exists() else None) == before
    assert not release_due(distillation, STUDENT)
    return str(caught.value)


def test_a_student_that_passed_is_released_with_its_origin(declare: Declare) -> None:
    distillation = declared(declare)
    student = train(distillation)
    evaluation = judge(distillation, Status.PASS)
    assert release_due(distillation, STUDENT)

    build = build_release(distillation, STUDENT)

    said = json.loads((distillation.files.root / "releases" / "small.json").read_text(encoding="utf-8"))
    folder = distillation.files.root / said["folder"]
    assert folder.name == said["student_version"] == student
    assert (folder / "model.safetensors").read_text(encoding="utf-8") == "weights"
    assert set(said["files"]) == {"config.json", "model.safetensors", "README.md"}
    assert (distillation.files.root / said["report"]).is_file()
    assert (said["evaluation_version"], said["verdict"]["status"], said["override"]) == (evaluation, "pass", None)
    assert said["verdict"]["statement"] == "Pass on ROUGE-L. The golden rows say so."
    assert said["golden_set_version"] == build_golden_set(distillation).version
    assert said["dataset_version"] == "da" * 16
    assert said["teacher"] == {"model": "claude-haiku-4-5", "version": None, "authorization": "agreement 12"}
    assert (build.changed, build.folder) == (True, folder)
    assert not release_due(distillation, STUDENT)


def test_the_version_is_that_of_the_content_and_not_of_the_time(released: Distillation) -> None:
    first = read_release(released, STUDENT)
    assert first is not None
    untimed = first.model_dump(mode="json", exclude={"version", "released_at"})
    assert first.version == digest(untimed)[:32]

    again = build_release(released, STUDENT)
    assert (again.changed, again.release) == (False, first)

    release_path(released, STUDENT).unlink()
    anew = build_release(released, STUDENT)
    assert anew.release.version == first.version
    assert anew.release.released_at > first.released_at


@pytest.mark.parametrize("status", [Status.FAIL, Status.INCONCLUSIVE])
def test_only_a_pass_releases(declare: Declare, status: Status) -> None:
    distillation = declared(declare)
    train(distillation)
    judge(distillation, status)

    said = refused(distillation, Reason(status.value))

    assert f"the release of demo/small is withheld: {status.value.capitalize()} on ROUGE-L." in said
    assert 'distill release demo small --override "why"' in said
    assert not (distillation.files.root / "releases").exists()


def test_a_failed_successor_leaves_the_earlier_release(released: Distillation) -> None:
    before = read_release(released, STUDENT)
    train(released, "others")
    judge(released, Status.FAIL)

    refused(released, Reason.FAIL)

    assert read_release(released, STUDENT) == before


def test_a_changed_student_waits_for_its_own_verdict(released: Distillation) -> None:
    version = train(released, "others")

    said = refused(released, Reason.STALE_EVALUATION)
    assert f"version {version[:12]} was never put to the gate" in said

    judge(released, Status.PASS)
    assert build_release(released, STUDENT).release.student_version == version


def test_an_older_version_that_is_current_again_needs_its_own_evaluation(released: Distillation) -> None:
    first = read_release(released, STUDENT)
    train(released, "others")
    judge(released, Status.PASS)
    build_release(released, STUDENT)
    train(released, "weights")

    refused(released, Reason.STALE_EVALUATION)

    judge(released, Status.PASS)
    again = build_release(released, STUDENT).release
    assert first is not None
    assert again.version == first.version


def test_other_golden_rows_need_another_verdict(declare: Declare, released: Distillation) -> None:
    distillation = declared(declare, golden=4)

    assert "other golden rows" in refused(distillation, Reason.STALE_EVALUATION)

    judge(distillation, Status.PASS, golden_set="0" * 32)
    refused(distillation, Reason.STALE_EVALUATION)
    judge(distillation, Status.PASS)
    assert build_release(distillation, STUDENT).changed


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({"metric": "chrf"}, "metric rouge_l; declared now: chrf"),
        ({"max_degradation": 0.1}, "max_degradation 0.05; declared now: 0.1"),
        ({"min_score": 0.5}, "min_score None; declared now: 0.5"),
        ({"alpha": 0.01}, "alpha 0.05; declared now: 0.01"),
    ],
)
def test_a_changed_rule_needs_another_verdict(
    declare: Declare, released: Distillation, gate: dict[str, object], said: str
) -> None:
    distillation = declared(declare, **gate)

    assert said in refused(distillation, Reason.OTHER_RULE)

    judge(distillation, Status.PASS)
    assert build_release(distillation, STUDENT).changed


def test_a_verdict_on_all_rows_together_is_none_on_slices(declare: Declare, released: Distillation) -> None:
    evaluation = released.spec.evaluation
    assert evaluation.gate is not None
    asked = evaluation.model_copy(update={"gate": evaluation.gate.model_copy(update={"slices": True})})
    spec = released.spec.model_copy(update={"evaluation": asked})
    distillation = Distillation(released.project, released.name, released.folder, spec)

    assert "slices False; declared now: True" in refused(distillation, Reason.OTHER_RULE)


def test_one_more_candidate_takes_its_share_of_alpha(declare: Declare, released: Distillation) -> None:
    distillation = declared(declare, more=OTHER)
    assert "among 1 candidates, and 2 are declared now" in refused(distillation, Reason.OTHER_RULE)

    judge(distillation, Status.PASS, candidates=3)  # one that is no longer declared was looked at as well
    assert build_release(distillation, STUDENT).release.verdict.candidates == 3


def test_without_student_evaluation_or_verdict_nothing_is_released(declare: Declare) -> None:
    distillation = declared(declare)
    assert "it is not trained yet; `distill run demo`" in refused(distillation, Reason.NO_STUDENT)
    train(distillation)
    assert "it is not evaluated yet" in refused(distillation, Reason.NO_EVALUATION)
    judge(distillation, None)
    assert "has no verdict" in refused(distillation, Reason.NO_VERDICT)


def test_what_has_no_gate_has_no_release(declare: Declare) -> None:
    distillation = declared(declare, more=OTHER, candidates=[STUDENT])

    with pytest.raises(EvaluationError, match=r"'other' is no candidate for release \(known: small\)"):
        build_release(distillation, "other")
    ungated = distillation.spec.model_copy(
        update={"evaluation": distillation.spec.evaluation.model_copy(update={"gate": None})}
    )
    with pytest.raises(EvaluationError, match="nothing guards a release"):
        build_release(Distillation(distillation.project, "demo", distillation.folder, ungated), STUDENT)


def tamper_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_text("poison!", encoding="utf-8")


def tamper_weights_and_manifest(folder: Path) -> None:
    """Other weights, and a manifest that vouches for them."""
    donor = folder.parent / train_elsewhere(folder)
    for name in ("model.safetensors", "manifest.json"):
        (folder / name).write_bytes((donor / name).read_bytes())


def train_elsewhere(folder: Path) -> str:
    return next(other.name for other in folder.parent.iterdir() if other.is_dir() and other != folder)


def lose_a_file(folder: Path) -> None:
    (folder / "README.md").unlink()


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (tamper_weights, "model.safetensors"),
        (tamper_weights_and_manifest, "its weights"),
        (lose_a_file, "README.md"),
    ],
)
def test_a_checkpoint_that_is_not_as_it_was_published_is_refused(
    declare: Declare, harm: Callable[[Path], None], named: str
) -> None:
    distillation = declared(declare)
    train(distillation, "others")
    version = train(distillation)
    judge(distillation, Status.PASS)
    folder = distillation.files.asset("students/small") / version

    harm(folder)

    with pytest.raises(StorageError, match=rf"not as it was published \({named}\)"):
        build_release(distillation, STUDENT)
    assert read_release(distillation, STUDENT) is None


def test_a_forged_verdict_does_not_count(declare: Declare) -> None:
    distillation = declared(declare)
    train(distillation)
    version = judge(distillation, Status.FAIL)
    report = distillation.files.asset("evaluations/small") / version / "report.json"

    report.write_text(report.read_text(encoding="utf-8").replace('"fail"', '"pass"'), encoding="utf-8")

    with pytest.raises(StorageError, match="its verdict does not count"):
        build_release(distillation, STUDENT)


def test_a_torn_pointer_is_named(released: Distillation) -> None:
    release_path(released, STUDENT).write_text("{}", encoding="utf-8")

    with pytest.raises(StorageError, match=r"small\.json: not a release; remove it"):
        build_release(released, STUDENT)
