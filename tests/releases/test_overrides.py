"""An override is somebody's word for one version and one evaluation of it, and for nothing else."""

import getpass
import json
from collections.abc import Callable

import pytest

from distill_dagster.errors import EvaluationError, ReleaseWithheldError, StorageError
from distill_dagster.evaluation.gate import Status
from distill_dagster.project import Distillation
from distill_dagster.releases.build import build_release, read_release, release_due
from distill_dagster.releases.candidate import read_candidate
from distill_dagster.releases.overrides import find_override, record_override
from tests.releases.shelf import STUDENT, declared, judge, train

Declare = Callable[..., Distillation]


@pytest.fixture
def failed(declare: Declare) -> Distillation:
    distillation = declared(declare)
    train(distillation)
    judge(distillation, Status.FAIL)
    return distillation


def override(distillation: Distillation, reason: str = "Legal needs it today.") -> None:
    record_override(distillation, read_candidate(distillation, STUDENT), reason)


def test_an_override_releases_and_is_recorded(failed: Distillation) -> None:
    override(failed, " Legal needs it today. ")
    assert release_due(failed, STUDENT)

    release = build_release(failed, STUDENT).release

    assert release.override is not None
    assert release.override.reason == "Legal needs it today."
    assert release.override.by == getpass.getuser()
    assert (release.override.verdict, release.verdict.status) == (Status.FAIL, Status.FAIL)
    said = json.loads((failed.files.root / "releases" / "small.json").read_text(encoding="utf-8"))
    assert said["override"]["reason"] == "Legal needs it today."
    assert build_release(failed, STUDENT).changed is False, "the next materialisation keeps it"


def test_it_is_void_for_another_version_of_the_student(failed: Distillation) -> None:
    override(failed)
    build_release(failed, STUDENT)
    before = read_release(failed, STUDENT)
    train(failed, "others")
    judge(failed, Status.FAIL)

    with pytest.raises(ReleaseWithheldError):
        build_release(failed, STUDENT)
    assert read_release(failed, STUDENT) == before


def test_it_is_void_for_another_evaluation_of_the_same_version(failed: Distillation) -> None:
    override(failed)
    judge(failed, Status.FAIL, look=2)

    with pytest.raises(ReleaseWithheldError):
        build_release(failed, STUDENT)


def test_it_is_void_under_another_rule(declare: Declare, failed: Distillation) -> None:
    override(failed)

    with pytest.raises(ReleaseWithheldError, match="another rule"):
        build_release(declared(declare, max_degradation=0.01), STUDENT)


def test_a_file_that_was_renamed_overrides_nothing(failed: Distillation) -> None:
    override(failed)
    (written,) = (failed.files.root / "releases" / "overrides").iterdir()
    judge(failed, Status.FAIL, look=2)
    candidate = read_candidate(failed, STUDENT)
    written.rename(written.with_name(f"{candidate.version}-{candidate.evaluation_version}.json"))

    assert find_override(failed, candidate) is None


def test_a_pass_after_an_override_is_released_by_its_verdict(failed: Distillation) -> None:
    override(failed)
    build_release(failed, STUDENT)
    judge(failed, Status.PASS, look=2)

    release = build_release(failed, STUDENT).release

    assert (release.verdict.status, release.override) == (Status.PASS, None)


def test_an_override_says_why_and_overrides_something(failed: Distillation) -> None:
    with pytest.raises(EvaluationError, match="write why"):
        override(failed, "  ")
    judge(failed, Status.PASS)
    with pytest.raises(EvaluationError, match="nothing to override"):
        override(failed)


def test_a_torn_override_is_named(failed: Distillation) -> None:
    override(failed)
    (written,) = (failed.files.root / "releases" / "overrides").iterdir()
    written.write_text("{}", encoding="utf-8")

    with pytest.raises(StorageError, match="not an override; remove it and override again"):
        build_release(failed, STUDENT)
