"""The whole of one `defs.yaml`, with the checks that look across its blocks."""

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from distill_dagster.spec.automation import AutomationSpec
from distill_dagster.spec.base import SpecModel
from distill_dagster.spec.curation import CurationSpec, StudentPromptSpec
from distill_dagster.spec.evaluation import EvaluationSpec, GateSpec
from distill_dagster.spec.golden import GoldenSetSpec
from distill_dagster.spec.logits import LogitsSpec
from distill_dagster.spec.metrics import MACRO_F1
from distill_dagster.spec.prompts import PromptsSpec
from distill_dagster.spec.students import StudentSpec
from distill_dagster.spec.teacher import TeacherSpec

# As Dagster wants them.
Owner = Annotated[
    str,
    StringConstraints(pattern=r"^(team:\S.*|[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7})$", strip_whitespace=True),
]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


class DistillationSpec(SpecModel):
    """One declared pipeline: prompts → teacher → students → evaluation."""

    description: str | None = Field(
        None, description="What the student is for; shown in Dagster, report and model card."
    )
    owners: list[Owner] = Field(
        [], description="Who answers for it: e-mail addresses, or `team:<name>`; shown on every asset in Dagster."
    )
    prompts: PromptsSpec
    golden_set: GoldenSetSpec | None = None
    teacher: TeacherSpec
    student_prompt: StudentPromptSpec = StudentPromptSpec()
    curation: CurationSpec = CurationSpec()
    logits: LogitsSpec = LogitsSpec()
    students: dict[Name, StudentSpec] = {}
    evaluation: EvaluationSpec = EvaluationSpec()
    automation: AutomationSpec = AutomationSpec()
    ui_samples: bool = Field(
        False, description="Show sample prompts and answers in the Dagster UI; they are then stored in its event log."
    )

    @model_validator(mode="after")
    def _blocks_agree(self) -> Self:
        gate = self.evaluation.gate
        measured = ", ".join(name for name in self.evaluation.metric_names if name != MACRO_F1)
        if gate is not None and gate.metric == MACRO_F1:
            raise ValueError(f"evaluation.gate.metric: {MACRO_F1} has no score per row; write one of {measured}")
        if gate is not None and gate.metric not in self.evaluation.metric_names:
            raise ValueError(
                f"evaluation.gate.metric: {gate.metric!r} is not measured; "
                f"write one of {measured}, or add it to evaluation.metrics"
            )
        if gate is not None:
            self._check_gate(gate)
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

    @model_validator(mode="after")
    def _the_comparison_can_be_made(self) -> Self:
        evaluation, teacher = self.evaluation, self.teacher
        if evaluation.held_out_partitions and self.prompts.partition is None:
            raise ValueError(
                "evaluation.held_out_partitions: there are no partitions; write `prompts.partition: {by: <column>}`"
            )
        if evaluation.teacher_resample and (teacher.is_local or teacher.temperature == 0):
            who = "a local teacher answers greedily" if teacher.is_local else "teacher.temperature is 0"
            raise ValueError(
                f"evaluation.teacher_resample: {who}, so a second answer repeats the first and says nothing; remove it"
            )
        return self

    @model_validator(mode="after")
    def _students_can_be_taught(self) -> Self:
        for name, student in self.students.items():
            where = f"students.{name}"
            if student.targets == "reference" and self.prompts.reference is None:
                raise ValueError(f"{where}.targets: no references; name their column in prompts.reference")
            if student.objective == "on_policy" and not self.teacher.is_local:
                raise ValueError(f"{where}.objective: on_policy needs a local teacher, which it holds in memory")
            if student.objective == "logit":
                self._check_logit_student(where, student)
        return self

    def _check_gate(self, gate: GateSpec) -> None:
        if self.golden_set is None:
            raise ValueError(
                "evaluation.gate: is decided on a golden set; write e.g. `golden_set: {jsonl: golden.jsonl}`"
            )
        if gate.slices and self.golden_set.slice is None:
            raise ValueError("evaluation.gate.slices: the golden set has none; name their column in golden_set.slice")
        strangers = sorted(set(gate.candidates or ()).difference(self.students))
        if strangers:
            known = ", ".join(self.students) or "none"
            raise ValueError(f"evaluation.gate.candidates: no student {', '.join(strangers)} (known: {known})")

    @model_validator(mode="after")
    def _judge_has_what_it_needs(self) -> Self:
        judge = self.evaluation.judge
        if judge is not None and "reference" in judge.against and self.prompts.reference is None:
            raise ValueError("evaluation.judge.against: no references; name their column in prompts.reference")
        if self.teacher.budget_usd is not None and self.teacher.is_local and (judge is None or judge.is_local):
            raise ValueError(
                f"teacher.budget_usd: only for a hosted teacher or evaluation.judge (provider is "
                f"{self.teacher.provider}, whose answers cost no money); remove it"
            )
        return self

    @model_validator(mode="after")
    def _automation_has_what_it_needs(self) -> Self:
        automation, teacher = self.automation, self.teacher
        if automation.watermark is not None and self.prompts.source.sql is None:
            raise ValueError("automation.watermark: only for `prompts.source: {sql: …}`; remove it")
        if automation.budget_usd_per_day is not None and teacher.is_local:
            raise ValueError("automation.budget_usd_per_day: answers of a local teacher cost no money; remove it")
        limits = (automation.budget_usd_per_day, teacher.budget_usd)
        if automation.retrain == "on_change" and not teacher.is_local and limits == (None, None):
            raise ValueError(
                "automation.retrain: a hosted teacher costs money; write automation.budget_usd_per_day or "
                "teacher.budget_usd beside it"
            )
        return self

    def _check_logit_student(self, where: str, student: StudentSpec) -> None:
        if self.teacher.provider == "anthropic":
            raise ValueError(
                f"{where}.objective: Anthropic's API gives no log-probabilities; write `sft`, or use a local teacher"
            )
        if self.teacher.provider == "openai" and (self.logits.tokenizer is None or self.logits.method != "topk"):
            raise ValueError(
                f"{where}.objective: log-probabilities of a vLLM server need logits.tokenizer, the served model's, "
                "and `method: topk`"
            )
        if student.temperature not in self.logits.temperatures:
            captured = ", ".join(f"{temperature:g}" for temperature in self.logits.temperatures)
            raise ValueError(
                f"{where}.temperature: {student.temperature:g} is not captured (logits.temperatures: {captured}); "
                "add it there"
            )
        if self.logits.method == "sample" and student.divergence != "forward_kl":
            raise ValueError(
                f"{where}.divergence: drawn tokens give unbiased gradients of the forward KL only; "
                "write forward_kl, or `logits: {method: topk}`"
            )
