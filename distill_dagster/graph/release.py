"""The `release/<name>` assets and the check that guards them: a student is released by its verdict, re-read each time.

A check blocks only within its run. So the release reads the verdict again and fails, without an event, where it is no
pass.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from distill_dagster.errors import ReleaseWithheldError
from distill_dagster.evaluation.write import REPORT_HTML_FILE
from distill_dagster.golden.build import ASSET as GOLDEN_SET
from distill_dagster.golden.rows import OVERALL
from distill_dagster.graph.face import face
from distill_dagster.graph.failures import as_failure
from distill_dagster.graph.finding import Finding
from distill_dagster.graph.keys import asset_key
from distill_dagster.graph.metadata import Metadata, link, sentence
from distill_dagster.project import Distillation
from distill_dagster.releases.admission import refusal
from distill_dagster.releases.build import ReleaseBuild, build_release
from distill_dagster.releases.candidate import Candidate, gated_students, read_candidate
from distill_dagster.releases.model import Override
from distill_dagster.releases.overrides import find_override

GATE = "gate"
WITHHELD = "withheld"
CHECK_FAILED = "DagsterAssetCheckFailedError"


def release_asset(distillation: Distillation, student: str) -> dg.AssetsDefinition:
    """The release of one student."""
    name = distillation.name

    @dg.asset(
        key=asset_key(name, "release", student),
        deps=[
            asset_key(name, "student", student),
            asset_key(name, "evaluation", student),
            asset_key(name, GOLDEN_SET),
        ],
        **face(distillation, "release", student),
    )
    def release(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        with as_failure(), _as_withheld():
            build = build_release(distillation, student)
        if build.release.override is not None:
            context.log.warning(f"{name}/{student}: {build.release.override.sentence}")
        return dg.MaterializeResult(
            metadata=release_metadata(distillation, build), data_version=dg.DataVersion(build.release.version)
        )

    return release


def gate_checks(distillation: Distillation) -> list[dg.AssetChecksDefinition]:
    """The gate of each student that has a release, as a blocking check on its evaluation."""
    return [_gate_check(distillation, student) for student in gated_students(distillation)]


def gate_key(distillation: Distillation, student: str) -> dg.AssetCheckKey:
    """The check that guards a student's release."""
    return dg.AssetCheckKey(asset_key(distillation.name, "evaluation", student), GATE)


def gate_finding(distillation: Distillation, student: str) -> Finding:
    """What the gate says of the current version of a student."""
    try:
        candidate = read_candidate(distillation, student)
    except ReleaseWithheldError as error:
        return Finding(False, str(error))
    override = None if candidate.passed else find_override(distillation, candidate)
    metadata = _verdict_metadata(distillation, candidate, override)
    if override is not None:
        return Finding(True, f"{override.sentence}. {candidate.verdict.statement}", metadata)
    said = candidate.verdict.statement if candidate.passed else refusal(distillation, candidate)
    return Finding(candidate.passed, said, metadata)


def is_verdict(event: dg.DagsterEvent) -> bool:
    """Whether a step failed because a student may not be released: a verdict, and no failure of the machinery."""
    failure = event.step_failure_data
    if failure.user_failure_data is not None and WITHHELD in failure.user_failure_data.metadata:
        return True
    return failure.error is not None and failure.error.cls_name == CHECK_FAILED


def release_metadata(distillation: Distillation, build: ReleaseBuild) -> Metadata:
    """Which version is released, by what verdict, and where everything lies."""
    release = build.release
    metadata: Metadata = {
        "verdict": dg.MetadataValue.text(str(release.verdict.status)),
        "statement": sentence(release.verdict.statement),
        "checkpoint": dg.MetadataValue.path(build.folder),
        "pointer": dg.MetadataValue.path(build.path),
        "report": dg.MetadataValue.path(build.report_path),
        "student version": dg.MetadataValue.text(release.student_version),
        "evaluation version": dg.MetadataValue.text(release.evaluation_version),
        "golden set version": dg.MetadataValue.text(release.golden_set_version),
        "dataset version": dg.MetadataValue.text(release.dataset_version),
        "released at": dg.MetadataValue.timestamp(release.released_at),
    }
    return metadata | link(distillation, build.report_path) | _override_metadata(release.override)


def _gate_check(distillation: Distillation, student: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset_key(distillation.name, "evaluation", student),
        name=GATE,
        blocking=True,
        description="Whether the student may be released: pass, fail or inconclusive against the declared margin.",
    )
    def gate() -> dg.AssetCheckResult:
        with as_failure():
            finding = gate_finding(distillation, student)
        return dg.AssetCheckResult(
            passed=finding.passed,
            severity=dg.AssetCheckSeverity.ERROR,
            description=finding.description,
            metadata=dict(finding.metadata),
        )

    return gate


def _verdict_metadata(distillation: Distillation, candidate: Candidate, override: Override | None) -> Metadata:
    verdict, page = candidate.verdict, candidate.report_folder / REPORT_HTML_FILE
    metadata: Metadata = {
        "verdict": dg.MetadataValue.text(candidate.status.value),
        "statement": dg.MetadataValue.text(verdict.statement),
        "margin": dg.MetadataValue.float(verdict.max_degradation),
        "report": dg.MetadataValue.path(page),
        "student version": dg.MetadataValue.text(candidate.version),
        "golden set version": dg.MetadataValue.text(verdict.golden_set),
    }
    decision = verdict.decisions.get(OVERALL)
    if decision is not None:  # plotted over time
        bounds = {
            "student minus teacher": decision.difference,
            "lower bound": decision.low,
            "upper bound": decision.high,
        }
        metadata |= {
            name: dg.MetadataValue.float(round(value, 4)) for name, value in bounds.items() if value is not None
        }
    return metadata | link(distillation, page) | _override_metadata(override)


def _override_metadata(override: Override | None) -> Metadata:
    if override is None:
        return {}
    return {
        "OVERRIDDEN": sentence(override.sentence),
        "overridden at": dg.MetadataValue.timestamp(override.at),
    }


@contextmanager
def _as_withheld() -> Iterator[None]:
    """Marks the failure of a release that its verdict withholds, so that it is told from others."""
    try:
        yield
    except ReleaseWithheldError as error:
        raise dg.Failure(str(error), metadata={WITHHELD: str(error.reason)}, allow_retries=False) from None
