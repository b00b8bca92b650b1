"""Judges a partition's answers as declared: valid or not, which label, how good, and which sample stays."""

import hashlib
from pathlib import Path
from typing import Any

import polars as pl
from polars.datatypes import DataType, DataTypeClass

from distill_dagster.errors import TeacherError
from distill_dagster.lineage.hashing import sha256_text
from distill_dagster.prompts.source_python import UserFunction
from distill_dagster.spec.answers import BestOf, BestSpec
from distill_dagster.spec.teacher import TeacherSpec
from distill_dagster.teachers.answers.judge import INSTRUCTIONS, judge_prompts, judge_scores, judge_teacher
from distill_dagster.teachers.answers.selection import PYTHON_KEY, metric_scores, python_scores, select
from distill_dagster.teachers.answers.validity import check_answers, check_labels, label_shares, load_schema

ASSESSED_SCHEMA: dict[str, DataType | DataTypeClass] = {
    "problem": pl.String,
    "label": pl.String,
    "label_shares": pl.String,
    "score": pl.Float64,
    "selected": pl.Boolean,
}


class Assessor:
    """The declared demands on answers: `labels`, `json_schema` and `select` of a `teacher:` block.

    Args:
        spec: the `teacher:` block.
        folder: the YAML file's folder, where schema files and modules lie.
        project_root: files outside it are refused.

    Raises:
        SpecError: a schema that is missing or not valid, labels that cannot be told apart, or a judge's keys that do
            not go together.

    Attributes:
        schema: the loaded JSON Schema, if one is declared.
        judge: the judge whose verdicts `assess` needs, if one is declared.
        judge_teacher: that judge as a teacher.
    """

    def __init__(self, spec: TeacherSpec, folder: Path, project_root: Path) -> None:
        self._spec = spec
        self._folder = folder
        self._best = spec.select.best if isinstance(spec.select, BestOf) else None
        name = self._best.python if self._best is not None else None
        self._python = UserFunction(PYTHON_KEY, name, folder, TeacherError) if name is not None else None
        self.schema = load_schema(spec.json_schema, folder, project_root) if spec.json_schema is not None else None
        if spec.labels is not None:
            check_labels(spec.labels)
        self.judge = self._best.judge if self._best is not None else None
        self.judge_teacher = judge_teacher(self.judge) if self.judge is not None else None

    def settings(self) -> dict[str, Any]:
        """What decides the result, as JSON values, for a build key; empty where nothing is declared.

        A judge's URL and prices are left out, as they are for teachers. Of `best: {python: …}` the module's own file
        counts, not what it imports.

        Raises:
            TeacherError: no such module.
        """
        settings: dict[str, Any] = {}
        if self._spec.labels is not None:
            settings["labels"] = list(self._spec.labels)
        if self.schema is not None:
            settings["json_schema"] = self.schema
        if self._spec.select == "first_valid":
            settings["select"] = "first_valid"
        elif self._best is not None:
            settings["select"] = {"best": self._best_settings(self._best)}
        return settings

    def _best_settings(self, best: BestSpec) -> dict[str, Any]:
        if best.judge is not None:
            judge = best.judge.model_dump(mode="json", exclude={"base_url", "prices"})
            return {"judge": judge, "instructions": sha256_text(INSTRUCTIONS)}
        if self._python is not None:
            return {"python": best.python, "sha256": hashlib.sha256(self._python.path.read_bytes()).hexdigest()}
        return {"metric": best.metric}

    def judge_prompts(self, rows: pl.DataFrame) -> pl.DataFrame:
        """What to ask the declared judge: prompt_id, sample, messages of each usable answer.

        Args:
            rows: as for `assess`.

        Raises:
            ValueError: no judge is declared.
        """
        if self.judge is None:
            raise ValueError("no judge is declared")
        return judge_prompts(check_answers(rows, self._spec.labels, self.schema), self.judge)

    def assess(self, rows: pl.DataFrame, judged: pl.DataFrame | None = None) -> pl.DataFrame:
        """The rows as they are, and the ASSESSED columns.

        Args:
            rows: prompt_id, sample, status, completion, text (the user turns), reference; all samples of each prompt.
            judged: the judge's answers to `judge_prompts` (prompt_id, sample, completion, status); needed exactly
                where `judge` is declared.

        Raises:
            TeacherError: the user's scoring function failed.
            ValueError: `judged` is missing, or given though no judge is declared.
        """
        if (judged is None) != (self.judge is None):
            raise ValueError("give the judge's answers where a judge is declared, and only there")
        checked = check_answers(rows, self._spec.labels, self.schema)
        shares = label_shares(checked) if self._spec.labels is not None else pl.lit(None, dtype=pl.String)
        checked = checked.with_columns(label_shares=shares)
        return select(checked.with_columns(score=self._scores(checked, judged)), self._spec.select)

    def _scores(self, rows: pl.DataFrame, judged: pl.DataFrame | None) -> pl.Series | pl.Expr:
        if judged is not None:
            return judge_scores(rows, judged)
        if self._python is not None:
            return python_scores(rows, self._python.value, self._folder)
        if self._best is not None and self._best.metric is not None:
            return metric_scores(rows, self._best.metric)
        return pl.lit(None, dtype=pl.Float64)
