"""A change redoes what hangs on it and nothing else, as its plan said: every file of a project is looked at.

The worker's jobs run in this process, which spares loading torch for each of them.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import polars as pl
import pytest

from distill_dagster.graph.instance_home import open_instance
from distill_dagster.graph.run import Outcome, Runner
from distill_dagster.logits.shards import SHARDS_FOLDER, read_keys
from distill_dagster.plan import Request
from distill_dagster.planning.make import make_plan
from distill_dagster.planning.model import Plan
from distill_dagster.project import Distillation, find_project
from distill_dagster.prompts.build import build_prompts
from distill_dagster.prompts.store import PROFILE_FILE
from distill_dagster.storage import read_json
from distill_dagster.teachers.store.responses import ResponseStore
from tests.worker_in_process import worker_in_process

PARTITIONS = 21
EDITED, TOPIC = 7, "topic 7"  # a prompt of the training split
SPEC = """type: distill_dagster.Distillation
attributes:
  prompts:
    source: {{jsonl: rows.jsonl}}
    prompt: "{{{{ question }}}}"
    id: number
    group: customer
    partition: {partition}
    split: {{validation: 0.1, test: 0.2}}
  teacher: {{provider: transformers, model: {teacher}, dtype: float32, max_tokens: 8, batch_size: 64}}
  curation: {{drop: [duplicate]}}
  students:
    small: {{base: {{prune: teacher, layers: 2}}, objective: logit, epochs: 1, precision: fp32}}
  evaluation: {{metrics: [chrf]}}
"""
BY_TOPIC, BY_HASH = "{by: topic}", "{shards: 3}"
# What a run may change without any change of content: Dagster's instance with its runs and logs, the database of
# answers and leases, scratch of the stages, and digests of model folders that are remembered.
WORKING_FILES = ("dagster/*", "responses.sqlite*", "exact/.work/*", "digests/*")
POINTER = "*/current.json"

Row = dict[str, str | int]
Files = Mapping[str, tuple[int, str]]


def rows(count: int = 3 * PARTITIONS, edited: str | None = None, copied: int = 5) -> list[Row]:
    """Numbered questions, dealt to the topics in turn, and one that another partition has too.

    Args:
        edited: another question in place of one.
        copied: the number whose question comes twice; both are of the training split.
    """
    found: list[Row] = [
        {"number": f"{n:03}", "topic": f"topic {n % PARTITIONS}", "customer": n, "question": f"What is {n}?"}
        for n in range(count)
    ]
    found.append({"number": "999", "topic": TOPIC, "customer": EDITED, "question": f"What is {copied}?"})
    if edited is not None:
        found[EDITED]["question"] = edited
    return found


@dataclass(frozen=True)
class Tree:
    """A project's folder."""

    root: Path
    teacher: Path
    jobs: list[str]

    def declare(self, content: list[Row], partition: str = BY_TOPIC) -> Distillation:
        folder = self.root / "assets" / "exact"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        (folder / "defs.yaml").write_text(SPEC.format(teacher=self.teacher, partition=partition), encoding="utf-8")
        return self.distillation

    @property
    def distillation(self) -> Distillation:
        return find_project(str(self.root)).distillation("exact")

    def copied(self, root: Path) -> "Tree":
        """With all modification times."""
        shutil.copytree(self.root, root)
        return Tree(root, self.teacher, self.jobs)

    def plan_and_run(self) -> tuple[Plan, Outcome]:
        """What `distill plan --json` says, and then what `distill run` does."""
        distillation = self.distillation
        plan = Plan.model_validate_json(make_plan(distillation).model_dump_json())
        self.jobs.clear()
        with open_instance(distillation.project) as instance:
            outcome = Runner(distillation, instance, lambda said: None).run(Request())
        assert outcome.failure is None
        return plan, outcome

    @property
    def answers(self) -> int:
        return ResponseStore(self.distillation.project.store_url).count()

    def files(self) -> Files:
        """Modification time and SHA-256 of every file that is no working file."""
        home = self.root / ".distill"
        found = {str(path.relative_to(home)): path for path in home.rglob("*") if path.is_file()}
        return {
            name: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
            for name, path in found.items()
            if not any(fnmatch(name, pattern) for pattern in WORKING_FILES)
        }

    def current(self) -> dict[str, object]:
        """What every pointer says."""
        home = self.root / ".distill"
        return {str(path.relative_to(home)): read_json(path) for path in home.rglob("current.json")}

    def version(self, asset: str) -> str:
        return str(read_json(self.root / ".distill" / "exact" / asset / "current.json")["version"])


@dataclass(frozen=True)
class Edit:
    """A project after the run that followed one edit."""

    tree: Tree
    before: Tree
    plan: Plan
    outcome: Outcome
    jobs: list[str]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    with worker_in_process() as kinds, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(tmp_path_factory.mktemp("dagster_home")))
        yield kinds


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, jobs: list[str]) -> Tree:
    """A project that has run once; tests that change it copy it first."""
    tree = Tree(tmp_path_factory.mktemp("exact") / "project", tiny_model, jobs)
    tree.declare(rows())
    tree.plan_and_run()
    assert jobs == ["generate", "capture", "train", "predict"]
    return tree


@pytest.fixture(scope="module")
def edit(made: Tree, tmp_path_factory: pytest.TempPathFactory) -> Edit:
    tree = made.copied(tmp_path_factory.mktemp("edited") / "project")
    tree.declare(rows(edited="What is edited?"))
    plan, outcome = tree.plan_and_run()
    return Edit(tree, made, plan, outcome, list(tree.jobs))


@pytest.fixture
def copied(made: Tree, tmp_path: Path) -> Tree:
    return made.copied(tmp_path / "project")


def new_files(before: Files, after: Files, pattern: str) -> list[str]:
    return [name for name in after if name not in before and fnmatch(name, pattern)]


def due(plan: Plan) -> list[str]:
    """The assets that are not to stay, as `Outcome.done` names them."""
    return [
        f"{row.asset}[{row.partition}]" if row.partition else f"{row.asset} {row.name}" if row.name else row.asset
        for row in plan.assets
        if row.action != "none"
    ]


def test_one_edited_prompt_is_one_call_one_capture_and_what_hangs_on_it(edit: Edit) -> None:
    assert edit.jobs == ["generate", "capture", "train", "predict"]
    assert edit.tree.answers == edit.before.answers + 1
    before, after = edit.before.files(), edit.tree.files()
    (shard,) = new_files(before, after, f"exact/{SHARDS_FOLDER}/*")
    assert len(read_keys(edit.tree.root / ".distill" / shard)) == 1
    for asset in ("prompts", "teacher_outputs", "teacher_logits"):
        assert len(new_files(before, after, f"exact/{asset}/*.parquet")) == 1
        assert len(new_files(before, after, f"exact/{asset}/{TOPIC}/*.parquet")) == 1
    for asset in ("dataset", "students/small", "evaluations/small"):
        assert edit.tree.version(asset) != edit.before.version(asset)


def test_all_other_files_are_the_same_bytes_of_the_same_time(edit: Edit) -> None:
    before, after = edit.before.files(), edit.tree.files()

    changed = {name for name in before if after.get(name) != before[name]}

    partitioned = {f"exact/{asset}/{TOPIC}" for asset in ("prompts", "teacher_outputs", "teacher_logits")}
    downstream = {f"exact/{asset}" for asset in ("dataset", "students/small", "evaluations/small")}
    pointers = {f"{folder}/current.json" for folder in partitioned | downstream}
    assert changed == {*pointers, f"exact/prompts/{TOPIC}/{PROFILE_FILE}"}
    assert len(before) > 4 * PARTITIONS


def test_the_plan_had_said_exactly_this(edit: Edit) -> None:
    plan, calls = edit.plan, edit.tree.answers - edit.before.answers

    assert due(plan) == edit.outcome.done
    assert Counter(row.action for row in plan.assets if row.action != "none") == {"will": 6}
    assert (plan.rows.changed, plan.rows.new, plan.rows.removed) == (1, 0, 0)
    assert (plan.calls.needed, plan.sequences) == (calls, 1)
    assert plan.evaluation_calls == ()


def test_removing_the_edit_brings_every_version_back_and_makes_nothing(edit: Edit, tmp_path: Path) -> None:
    tree = edit.tree.copied(tmp_path / "project")
    tree.declare(rows())
    edited = tree.files()

    plan, outcome = tree.plan_and_run()

    assert tree.current() == edit.before.current()
    assert (tree.jobs, tree.answers) == ([], edit.tree.answers)
    undone = tree.files()
    changed = {name for name in undone if undone[name] != edited.get(name)}
    assert {name for name in changed if not fnmatch(name, POINTER)} == {f"exact/prompts/{TOPIC}/{PROFILE_FILE}"}
    assert undone.keys() == edited.keys()
    assert due(plan) == outcome.done
    assert (plan.calls.needed, plan.sequences) == (0, 0)
    adopted = {row.asset: row.adopts for row in plan.assets if row.adopts}
    assert adopted == {
        "dataset": edit.before.version("dataset"),
        "student": edit.before.version("students/small"),
        "evaluation": edit.before.version("evaluations/small"),
    }


@pytest.mark.parametrize(
    ("content", "partition"), [(rows(count=70), BY_TOPIC), (rows(), BY_HASH)], ids=["ten percent more", "other shards"]
)
def test_no_prompt_moves_between_splits(copied: Tree, content: list[Row], partition: str) -> None:
    before = splits(copied.distillation)

    after = splits(copied.declare(content, partition))

    assert len(set(before.values())) == 3
    assert {prompt: after[prompt] for prompt in before} == before


def splits(distillation: Distillation) -> dict[str, str]:
    """The split of each prompt."""
    prompts = pl.concat(made.frame for made in build_prompts(distillation).partitions.values())
    return dict(prompts.select("prompt_id", "split").iter_rows())


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.declare(rows(), BY_HASH),
        lambda tree: tree.declare(rows(copied=6)),
    ],
    ids=["other shards", "an edited duplicate"],
)
def test_what_leaves_the_dataset_as_it_was_trains_nothing(copied: Tree, change: Callable[[Tree], object]) -> None:
    before, answers = copied.files(), copied.answers
    change(copied)

    plan, _ = copied.plan_and_run()

    assert (copied.jobs, copied.answers, plan.calls.needed) == ([], answers, 0)
    assert plan.of("dataset")[0].action == plan.of("student")[0].action == "may"
    after = copied.files()
    below = ("exact/dataset/*/*", "exact/students/*", "exact/evaluations/*", f"exact/{SHARDS_FOLDER}/*")
    kept = {name for name in before if any(fnmatch(name, pattern) for pattern in below)}
    assert all(after.get(name) == before[name] for name in kept)
    assert new_files(before, after, "exact/students/*") == new_files(before, after, "exact/evaluations/*") == []
