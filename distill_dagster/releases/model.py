"""What a release says: `releases/<student>.json` as data, and an override of its gate."""

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from distill_dagster.evaluation.gate import Status
from distill_dagster.evaluation.model import GateVerdict
from distill_dagster.lineage.hashing import VERSION_HEX_CHARS, digest

RELEASE_FORMAT = 1


class Reason(StrEnum):
    """Why a release is withheld."""

    NO_STUDENT = "no_student"
    NO_EVALUATION = "no_evaluation"
    NO_VERDICT = "no_verdict"
    STALE_EVALUATION = "stale_evaluation"
    OTHER_RULE = "other_rule"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class ReleaseModel(BaseModel):
    """Strict and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Override(ReleaseModel):
    """Somebody's decision to release one version of a student against the verdict of one evaluation.

    Attributes:
        verdict, statement: what is overridden.
        by: the operating system's user.
        at: in UTC.
    """

    student: str
    student_version: str
    evaluation_version: str
    verdict: Status
    statement: str
    reason: str
    by: str
    at: datetime

    @property
    def sentence(self) -> str:
        """Who overrode what, and why."""
        return f"OVERRIDDEN by {self.by}, against the verdict {self.verdict}: {self.reason}"


class Taught(ReleaseModel):
    """The teacher behind a student; `version` is a local teacher's weights, None for a hosted one."""

    model: str
    version: str | None
    authorization: str | None


class Release(ReleaseModel):
    """Which version of a student is released, and by what right.

    Attributes:
        version: content hash of all that follows but the times.
        folder, report: the checkpoint and the report it was judged by, relative to the distillation's folder under
            `DISTILL_HOME`.
        files: SHA-256 (hex) of each of the checkpoint's files, verified when it was released.
        override: None where the verdict is a pass.
        released_at: in UTC.
    """

    format: int = RELEASE_FORMAT
    distillation: str
    student: str
    version: str
    student_version: str
    folder: str
    files: dict[str, str]
    evaluation_version: str
    report: str
    golden_set_version: str
    dataset_version: str
    teacher: Taught
    verdict: GateVerdict
    override: Override | None
    released_at: datetime

    def content_version(self) -> str:
        """The hash that `version` has to be."""
        content = self.model_dump(mode="json", exclude={"version": True, "released_at": True, "override": {"at"}})
        return digest(content)[:VERSION_HEX_CHARS]
