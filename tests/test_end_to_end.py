"""The whole pipeline through the `distill` command, on a tiny real model: run, nothing to do, edit, undo, kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import psutil
import pytest

from distill_dagster.project import Distillation, find_project
from distill_dagster.students.build import read_student
from distill_dagster.teachers.store.responses import ResponseStore

pytestmark = pytest.mark.timeout(600)

TOPICS = ("birds", "fish", "trees")
SPEC = """type: distill_dagster.Distillation
attributes:
  description: A tiny distillation.
  prompts:
    source: {jsonl: rows.jsonl}
    prompt: "{{ question }}"
    system: Be brief.
    reference: answer
    partition: {by: topic}
    split: {validation: 0.1, test: 0.2}
  teacher: {provider: transformers, model: tiny, dtype: float32, max_tokens: 24, batch_size: 8}
  curation: {drop: [empty, duplicate]}
  students:
    small:
      base: {prune: teacher, layers: 2}
      epochs: 1
      batch_size: 4
      learning_rate: 1.0e-3
      precision: fp32
      checkpoint_steps: 2
"""


def rows(count: int) -> list[dict[str, str]]:
    return [
        {"topic": topic, "question": f"What about {topic} number {number}?", "answer": f"{topic} {number}"}
        for topic in TOPICS
        for number in range(count)
    ]


class TinyProject:
    """A project folder and the `distill` command run in it, as a user would."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root = root
        self.folder = root / "assets" / "tiny"
        self.folder.mkdir(parents=True)
        shutil.copytree(model, root / ".models" / "tiny")
        (self.folder / "defs.yaml").write_text(SPEC, encoding="utf-8")
        self.write_rows(rows(12))

    def write_rows(self, content: list[dict[str, str]]) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in content)
        (self.folder / "rows.jsonl").write_text(lines, encoding="utf-8")

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DISTILL", "DAGSTER"))}
        return kept | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "distill_dagster.cli", "--project", str(self.root), *arguments]

    def distill(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=280, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def distillation(self) -> Distillation:
        return find_project(str(self.root)).distillation("tiny")

    def stored(self) -> int:
        return ResponseStore(self.distillation().project.store_url).count()

    def current(self, asset: str) -> str:
        path = self.root / ".distill" / "tiny" / asset / "current.json"
        return str(json.loads(path.read_text(encoding="utf-8"))["version"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> TinyProject:
    """A project that has run once; tests that change it copy it first."""
    project = TinyProject(tmp_path_factory.mktemp("finished") / "project", tiny_model)
    project.distill("run", "tiny")
    return project


@pytest.fixture
def copied(finished: TinyProject, tmp_path: Path) -> TinyProject:
    copy = object.__new__(TinyProject)
    copy.root = tmp_path / "project"
    shutil.copytree(finished.root, copy.root)
    copy.folder = copy.root / "assets" / "tiny"
    return copy


def test_a_run_leaves_a_student_that_plain_transformers_loads(finished: TinyProject) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    student = read_student(finished.distillation(), "small")
    model = AutoModelForCausalLM.from_pretrained(student.folder)
    tokenizer = AutoTokenizer.from_pretrained(student.folder)

    assert model.config.num_hidden_layers == 2
    assert tokenizer.chat_template
    assert "not stated" in (student.folder / "README.md").read_text(encoding="utf-8")
    assert not [path for path in student.folder.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]


def test_the_dataset_accounts_for_every_prompt(finished: TinyProject) -> None:
    home = finished.root / ".distill" / "tiny" / "dataset"
    manifest = json.loads((home / finished.current("dataset") / "manifest.json").read_text(encoding="utf-8"))

    assert sum(manifest["counts"].values()) == 36
    assert len(manifest["inputs"]) == 6
    first = (
        (home / finished.current("dataset") / "distillation_train.jsonl").read_text(encoding="utf-8").splitlines()[0]
    )
    line = json.loads(first)
    assert [turn["role"] for turn in line["prompt"]] == ["system", "user"]
    assert line["completion"][0]["role"] == "assistant"


def test_the_report_and_its_numbers(finished: TinyProject) -> None:
    path = Path(finished.distill("report", "tiny").stdout.strip())
    numbers = json.loads((path.parent / "report.json").read_text(encoding="utf-8"))

    assert path.name == "report.html"
    assert any("forward KL" in sentence for sentence in numbers["headlines"])
    assert {"student", "base", "most_frequent", "bigram"} <= set(
        pl.read_parquet(path.parent / "predictions.parquet")["model"]
    )


def test_a_second_run_does_nothing_and_says_so(finished: TinyProject) -> None:
    assert "nothing to do" in finished.distill("run", "tiny").stderr


def test_status_as_json_is_a_contract(finished: TinyProject) -> None:
    content = json.loads(finished.distill("status", "tiny", "--json").stdout)

    assert content["format"] == 1
    assert {row["state"] for row in content["assets"]} == {"current"}
    assert set(content["assets"][0]) == {"asset", "name", "partition", "state", "version", "why"}
    assert [row["asset"] for row in content["assets"][-3:]] == ["dataset", "student", "evaluation"]


def test_try_answers_with_all_three(finished: TinyProject) -> None:
    answers = json.loads(finished.distill("try", "tiny", "Who are you?", "--json").stdout)["answers"]

    assert set(answers) == {"student", "base", "teacher"}


def test_a_bad_column_is_reported_by_the_run(copied: TinyProject) -> None:
    path = copied.folder / "defs.yaml"
    path.write_text(SPEC.replace("{{ question }}", "{{ qestion }}"), encoding="utf-8")

    said = copied.distill("run", "tiny", code=1).stderr

    assert "error: prompts.prompt: the source has no column 'qestion'" in said
    assert "did you mean 'question'" in said
    assert "Traceback" not in said


def test_dagster_launches_the_same_work(copied: TinyProject) -> None:
    """`dg launch` on an up-to-date asset adopts what is there: same version, nothing trained."""
    from distill_dagster.graph.scaffold import write_dg_settings

    write_dg_settings(copied.root)
    before = copied.current("students/small")
    environment = copied.environment | {"DAGSTER_HOME": str(copied.root / ".distill" / "dagster")}
    dg = Path(sys.executable).parent / "dg"
    assets = 'key:"tiny/dataset" or key:"tiny/student/small"'
    done = subprocess.run(
        [dg, "launch", "--assets", assets],
        cwd=copied.root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "RUN_SUCCESS" in done.stderr
    assert copied.current("students/small") == before


def test_a_new_distillation_starts_a_project(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "distill_dagster.cli", "new", "helpdesk"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    assert "distill run helpdesk" in done.stdout
    assert (tmp_path / "dg.toml").exists()
    assert find_project(str(tmp_path)).distillation("helpdesk").spec.teacher.provider == "anthropic"


def test_conversations_in_several_languages_reach_the_student(tmp_path: Path, tiny_model: Path) -> None:
    project = TinyProject(tmp_path / "project", tiny_model)
    words = {"fr": "Où est mon colis ?", "ja": "荷物はどこですか。", "ar": "أين طردي؟", "en": "Where is it? 🙂"}
    content = [
        {
            "topic": language,
            "chat": [
                {"role": "user", "content": f"{number}"},
                {"role": "assistant", "content": "ok"},
                {"role": "user", "content": text},
            ],
        }
        for language, text in words.items()
        for number in range(8)
    ]
    (project.folder / "rows.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), encoding="utf-8"
    )
    spec = SPEC.replace('prompt: "{{ question }}"', "messages: chat").replace("    reference: answer\n", "")
    (project.folder / "defs.yaml").write_text(spec, encoding="utf-8")

    project.distill("run", "tiny", "--until", "student")

    home = project.root / ".distill" / "tiny" / "dataset" / project.current("dataset")
    train = pl.read_parquet(home / "train.parquet")
    assert set(train["partition"]) == set(words)
    assert [turn["role"] for turn in json.loads(train["messages"][0])] == ["system", "user", "assistant", "user"]
    assert read_student(project.distillation(), "small").result.rows_trained == len(train)


def test_two_runs_at_once_end_right_and_do_nothing_twice(tmp_path: Path, tiny_model: Path) -> None:
    project = TinyProject(tmp_path / "project", tiny_model)
    both = [
        subprocess.Popen(project.command("run", "tiny"), env=project.environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=280)[1] for process in both]

    assert [process.returncode for process in both] == [0, 0], said
    assert project.stored() == 36
    assert sum("training: 0/" in text for text in said) == 1
    assert len(list((project.root / ".distill/tiny/students/small").glob("*/model.safetensors"))) == 1
    assert "nothing to do" in project.distill("run", "tiny").stderr


def test_what_the_worker_complains_of_is_said_by_the_run(copied: TinyProject) -> None:
    path = copied.folder / "defs.yaml"
    path.write_text(SPEC.replace("layers: 2", "layers: 40"), encoding="utf-8")

    said = copied.distill("run", "tiny", code=1).stderr

    assert "error: " in said
    assert "40" in said
    assert "Traceback" not in said


def test_an_interrupted_run_says_so_and_resumes(copied: TinyProject) -> None:
    """Ctrl-C reaches the run and its worker; training has a checkpoint and goes on from it."""
    path = copied.folder / "defs.yaml"
    path.write_text(SPEC.replace("epochs: 1", "epochs: 400\n      patience: null"), encoding="utf-8")
    process = subprocess.Popen(
        copied.command("run", "tiny"),
        env=copied.environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    checkpoints = copied.root / ".distill" / "tiny" / ".work" / "train"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("*/checkpoints/*/checkpoint-*/trainer_state.json")):
        assert time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.02)

    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=100)[1]

    assert process.returncode == 1
    assert "error: interrupted" in said
    assert "distill_dagster/graph" not in said  # no traceback of ours
    assert not [worker for worker in workers() if str(copied.root) in " ".join(worker.cmdline())]


def workers() -> list[psutil.Process]:
    return [
        p for p in psutil.process_iter(["cmdline"]) if "distill_dagster.worker" in " ".join(p.info["cmdline"] or [])
    ]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], what: str) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, f"the run ended before {what}"
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.02)


def killed(project: TinyProject, moment: Callable[[], bool], what: str) -> None:
    """Starts a run and kills it, without warning, once `moment` has come."""
    process = subprocess.Popen(project.command("run", "tiny"), env=project.environment, stderr=subprocess.DEVNULL)
    wait_for(moment, process, what)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_run_killed_at_any_moment_completes_when_started_again(tmp_path: Path, tiny_model: Path) -> None:
    """Killed while answering, while training and while evaluating: nothing is lost, nothing is asked again."""
    project = TinyProject(tmp_path / "project", tiny_model)
    project.write_rows(rows(40))
    work = project.root / ".distill" / "tiny" / ".work"
    mine = lambda: [w for w in workers() if str(project.root) in " ".join(w.cmdline())]  # noqa: E731

    home = project.root / ".distill"
    killed(project, lambda: bool(list(home.glob("tiny/prompts/*/current.json"))), "prompts")
    killed(project, lambda: (home / "responses.sqlite").exists() and project.stored() > 0, "answers")
    answered = project.stored()
    gone = time.monotonic() + 30
    while mine():
        assert time.monotonic() < gone, "the worker outlived its parent"
        time.sleep(0.1)

    killed(
        project, lambda: bool(list(work.glob("train/*/checkpoints/*/checkpoint-*/trainer_state.json"))), "a checkpoint"
    )
    after_answers = project.stored()
    killed(project, lambda: bool(list(home.glob("tiny/.work/train/*/student/model.safetensors"))), "a trained student")
    killed(project, lambda: bool(list(work.glob("predict/*/job.json"))), "an evaluation")
    said = project.distill("run", "tiny").stderr

    assert 0 < answered <= after_answers == project.stored() == 120
    assert "was killed earlier; it is now marked failed" in said
    assert "training" not in said
    assert "nothing to do" in project.distill("run", "tiny").stderr
    published = list((project.root / ".distill").rglob("*.tmp"))
    assert [path for path in published if "evaluations" in path.parts and path.parent.name == "small"] == []
