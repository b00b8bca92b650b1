"""The whole of one `defs.yaml`, with the checks that look across its blocks."""

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from distill_dagster.spec.base import SpecModel
from distill_dagster.spec.curation import CurationSpec, StudentPromptSpec
from distill_dagster.spec.evaluation import EvaluationSpec
from distill_dagster.spec.prompts import PromptsSpec
from distill_dagster.spec.students import StudentSpec
from distill_dagster.spec.teacher import TeacherSpec

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


class DistillationSpec(SpecModel):
    """One declared pipeline: prompts → teacher → students → evaluation."""

    description: str | None = Field(
        None, description="What the student is for; shown in Dagster, report and model card."
    )
    prompts: PromptsSpec
    teacher: TeacherSpec
    student_prompt: StudentPromptSpec = StudentPromptSpec()
    curation: CurationSpec = CurationSpec()
    students: dict[Name, StudentSpec] = {}
    evaluation: EvaluationSpec = EvaluationSpec()
    ui_samples: bool = Field(
        False, description="Show sample prompts and answers in the Dagster UI; they are then stored in its event log."
    )

    @model_validator(mode="after")
    def _blocks_agree(self) -> Self:
        gate = self.evaluation.gate
        if gate is not None and gate.metric not in self.evaluation.metrics:
            measured = ", ".join(self.evaluation.metrics)
            raise ValueError(
                f"evaluation.gate.metric: {gate.metric!r} is not measured; "
                f"write one of {measured}, or add it to evaluation.metrics"
            )
        if self.curation.thinking == "include" and not self.teacher.is_local:
            raise ValueError(
                f"curation.thinking: {self.teacher.provider} returns a summary of the thinking, not all of it, "
                "so it cannot be a training target; write `exclude`, or use a local teacher"
            )
        for name, student in self.students.items():
            if student.base.prune == "teacher" and not self.teacher.is_local:
                raise ValueError(
                    f"students.{name}.base.prune: a hosted teacher ({self.teacher.provider}) has no layers here; "
                    "name a local model instead"
                )
        return self
