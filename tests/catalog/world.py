"""A small hosted distillation with a dataset, and students and evaluations as their stages publish them."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
from click.testing import CliRunner, Result

from distill_dagster.cli import main
from distill_dagster.dataset.build import DatasetBuild, build_dataset
from distill_dagster.evaluation.harness_files import outcome_inputs
from distill_dagster.evaluation.predictions import BASE_COLUMNS
from distill_dagster.evaluation.write import PREDICTIONS_FILE, REPORT_HTML_FILE, REPORT_JSON_FILE
from distill_dagster.lineage.builds import BuildRecord, Builds
from distill_dagster.lineage.manifests import Manifest, write_manifest
from distill_dagster.project import Distillation, Project
from distill_dagster.prompts.build import build_prompts
from distill_dagster.prompts.store import write_prompts
from distill_dagster.storage import Current, new_folder, write_current, write_json
from distill_dagster.teachers.outputs import build_outputs, make_teacher, remove_partitions
from distill_dagster.worker_process import no_launch

SPEC = """
type: distill_dagster.Distillation
attributes:
  prompts:
    source: {{jsonl: rows.jsonl}}
    prompt: "{{{{ question }}}}"
    id: id
    reference: answer
    group: id
    partition: {{by: topic}}
    split: {{validation: 0.2, test: 0.2}}
  teacher: {{provider: anthropic, model: {model}, max_tokens: 50, authorization: by contract}}
  curation: {{drop: [empty, duplicate]}}
"""
TOPICS = ("birds", "fish")
QUESTIONS = {f"{topic}-{number}": f"{topic} question {number}" for topic in TOPICS for number in range(12)}


class World:
    """A distillation whose rows can be edited between its stages."""

    def __init__(self, root: Path, name: str = "faq") -> None:
        self.root, self.name = root, name
        self.questions = dict(QUESTIONS)
        self.model = "claude-haiku-4-5"

    @property
    def distillation(self) -> Distillation:
        rows = [
            {"id": key, "topic": key.partition("-")[0], "question": question, "answer": f"about {question}"}
            for key, question in self.questions.items()
        ]
        folder = self.root / "assets" / self.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (folder / "defs.yaml").write_text(SPEC.format(model=self.model).lstrip(), encoding="utf-8")
        return self.project.distillation(self.name)

    @property
    def project(self) -> Project:
        return Project(self.root, self.root / ".distill")

    @property
    def home(self) -> Path:
        return self.project.home

    def run(self) -> DatasetBuild:
        """Prompts, teacher outputs and the dataset, as a run makes them."""
        distillation = self.distillation
        prompts = build_prompts(distillation)
        remove_partitions(distillation, prompts.names)
        for name, made in prompts.partitions.items():
            write_prompts(distillation, name, made)
        build = build_outputs(distillation, prompts.names, make_teacher(distillation, no_launch))
        assert not build.failed
        return build_dataset(distillation)

    def student(self, dataset: DatasetBuild, version: str, *, name: str = "sft", recorded: bool = True) -> Path:
        """A student of a dataset, current; `recorded` under a build key."""
        key = f"key-{version}"
        inputs = {"dataset": dataset.version, "base": "ba" * 16}
        details = {
            "objective": "sft",
            "targets": "teacher",
            "base_version": None,
            "teacher": self.model,
            "authorization": "by contract",
        }
        rows = dict(dataset.split_counts)["train"]
        manifest = Manifest(
            self.name, f"student/{name}", version, key, inputs, "5e" * 32, {"rows_trained": rows}, details
        )
        folder = self.distillation.files.asset(f"students/{name}")
        with new_folder(folder / version) as aside:
            (aside / "model.safetensors").write_bytes(b"weights " * 1000)
            write_manifest(aside, manifest)
        write_current(folder, Current(version, key))
        if recorded:
            Builds(self.home).adopt(BuildRecord(key, "student", version, inputs))
        return folder / version

    def evaluation(
        self,
        dataset: DatasetBuild,
        student: str,
        version: str,
        *,
        name: str = "sft",
        outcomes: Mapping[str, str] | None = None,
    ) -> Path:
        """An evaluation of a student version, current; `outcomes` are keys of the harness's by system."""
        rows = pl.read_parquet(dataset.folder / "test.parquet")
        given = rows.select("prompt_id", "sample", "text", prediction="completion").with_columns(
            model=pl.lit("student"), split=pl.lit("test")
        )
        absent = [pl.lit(None, kind).alias(name) for name, kind in BASE_COLUMNS.items() if name not in given.columns]
        predictions = given.with_columns(absent).select(list(BASE_COLUMNS))
        inputs = {"student": student, "dataset": dataset.version, "base": "ba" * 16} | outcome_inputs(outcomes or {})
        key, folder = f"key-{version}", self.distillation.files.asset(f"evaluations/{name}")
        with new_folder(folder / version) as aside:
            predictions.write_parquet(aside / PREDICTIONS_FILE)
            write_json(aside / REPORT_JSON_FILE, {})
            (aside / REPORT_HTML_FILE).write_text("".join(rows["text"]), encoding="utf-8")
            manifest = Manifest(
                self.name, f"evaluation/{name}", version, key, inputs, "5e" * 32, {"test_rows": len(rows)}
            )
            write_manifest(aside, manifest)
        write_current(folder, Current(version, key))
        Builds(self.home).adopt(BuildRecord(key, "evaluation", version, inputs))
        return folder / version

    def harness_outcome(self, key: str, model: str) -> Path:
        """What the harness found out of a model."""
        folder = self.distillation.files.asset("harness") / key
        with new_folder(folder) as aside:
            write_json(aside / "result.json", {})
            write_manifest(aside, Manifest(self.name, "harness", key, key, {"model": model, "tasks": "7a"}, "5e" * 32))
        return folder

    def release(self, version: str, *, name: str = "sft") -> None:
        write_json(self.distillation.files.asset("releases") / f"{name}.json", {"student_version": version})

    def call(self, *arguments: str) -> Result:
        line = ["--project", str(self.root), *arguments]
        return CliRunner().invoke(main, line, env={"COLUMNS": "200"})

    def json(self, *arguments: str) -> dict[str, object]:
        result = self.call(*arguments, "--json")
        assert result.exit_code == 0, result.stderr
        content: dict[str, object] = json.loads(result.stdout)
        return content


OLD, NEW, LAST = "01" * 16, "02" * 16, "03" * 16
EVALUATED = "e1" * 16
EDITED = "birds-3"
"""The prompt whose text is another one from the second dataset on."""


@dataclass(frozen=True)
class History:
    """What happened in a world: three datasets, a student of each, and one that was evaluated and released.

    `faq` has an edited prompt in its second dataset and another teacher's answers in its third; `other` has the same
    rows and one student. `fish-11` asks the same as `fish-10`.
    """

    faq: World
    other: World
    datasets: tuple[DatasetBuild, DatasetBuild, DatasetBuild]

    @property
    def project(self) -> Project:
        return self.faq.project

    def prompts_in(self, split: str) -> list[str]:
        """The unedited prompts of a split, those asked twice left out."""
        rows = pl.read_parquet(self.datasets[0].folder / f"{split}.parquet")
        return [key for key in rows["prompt_id"] if key not in (EDITED, "fish-10", "fish-11")]

    def copied_to(self, root: Path) -> "History":
        """The same in another place, to be changed."""
        shutil.copytree(self.faq.root, root, dirs_exist_ok=True)
        worlds = (World(root, "faq"), World(root, "other"))
        for copy, world in zip(worlds, (self.faq, self.other), strict=True):
            copy.questions, copy.model = dict(world.questions), world.model
        moved = (replace(one, folder=root / one.folder.relative_to(self.faq.root)) for one in self.datasets)
        first, second, third = moved
        return History(*worlds, (first, second, third))


def make_history(root: Path) -> History:
    """Asks the teacher and publishes everything."""
    faq, other = World(root, "faq"), World(root, "other")
    for world in (faq, other):
        world.questions["fish-11"] = world.questions["fish-10"]
    first = faq.run()
    faq.student(first, OLD)
    faq.evaluation(first, OLD, EVALUATED)
    faq.release(OLD)
    faq.questions[EDITED] = "an edited question"
    second = faq.run()
    faq.student(second, NEW)
    faq.model = "claude-sonnet-5-5"
    third = faq.run()
    faq.student(third, LAST)
    other.student(other.run(), OLD)
    return History(faq, other, (first, second, third))
