"""Which task files count, what decides them, and what is refused."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.harness import harness_sources
from distill_dagster.evaluation.harness_tasks import find_tasks
from distill_dagster.project import Distillation
from distill_dagster.spec.harness import HarnessSpec

ATTRIBUTES = """
prompts: {{source: {{jsonl: "*.jsonl"}}, prompt: "{{{{ q }}}}"}}
teacher: {{provider: transformers, model: tiny}}
evaluation:
  harness: {{tasks: {tasks}}}
"""
DATA = "dataset_path: json\ndataset_kwargs: {data_files: {test: data/test.jsonl}}\n"
ROWS = '{"question": "1 + 1"}\n'

Declare = Callable[[str, Mapping[str, str]], Distillation]


@pytest.fixture
def write(declare: Callable[..., Distillation]) -> Declare:
    """Declares harness tasks and writes files below the distillation's folder, data/test.jsonl among them."""

    def make(tasks: str, files: Mapping[str, str]) -> Distillation:
        distillation = declare(ATTRIBUTES.format(tasks=tasks))
        for name, content in {"data/test.jsonl": ROWS, **files}.items():
            path = distillation.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        return distillation

    return make


def names(distillation: Distillation) -> list[str]:
    spec = distillation.spec.evaluation.harness
    assert spec is not None
    return [task.name for task in find_tasks(spec, distillation.folder, distillation.project.root)]


def test_every_file_that_decides_a_task_is_a_source(write: Declare) -> None:
    distillation = write(
        "tasks",
        {
            "tasks/a.yaml": "task: a\ninclude: shared/base.yaml\n",
            "tasks/shared/base.yaml": f"{DATA}doc_to_text: !function text.ask\nprocess_docs: !function math.prod\n",
            "tasks/shared/text.py": "def ask(doc): return doc['question']\n",
            "tasks/unused.py": "",
            "data/unused.jsonl": ROWS,
        },
    )

    sources = harness_sources(distillation)

    assert list(sources) == ["data/test.jsonl", "tasks/a.yaml", "tasks/shared/base.yaml", "tasks/shared/text.py"]
    assert sources["data/test.jsonl"] == hashlib.sha256(ROWS.encode()).hexdigest()


@pytest.mark.parametrize(
    "data",
    [
        "dataset_path: json\ndataset_kwargs: {data_files: data/*.jsonl}\n",
        "dataset_path: json\ndataset_kwargs: {data_files: [data/more.jsonl, data/test.jsonl]}\n",
        "dataset_path: json\ndataset_kwargs: {data_files: {test: [data/test.jsonl], train: data/more.jsonl}}\n",
        "dataset_path: json\ndataset_kwargs: {data_dir: data, data_files: {test: test.jsonl, train: more.jsonl}}\n",
        "dataset_path: json\ndataset_kwargs: {data_dir: data}\n",
        "dataset_path: data\n",
    ],
)
def test_data_are_found_in_every_form_that_names_them(data: str, write: Declare) -> None:
    distillation = write("a.yaml", {"a.yaml": f"task: a\n{data}", "data/more.jsonl": ROWS})

    assert list(harness_sources(distillation)) == ["a.yaml", "data/more.jsonl", "data/test.jsonl"]


def test_a_folder_a_glob_and_a_list_name_the_same_tasks(write: Declare) -> None:
    files = {f"tasks/{name}.yaml": f"task: {name}\n{DATA}" for name in ("b", "a")} | {"tasks/base.yaml": DATA}

    for tasks in ("tasks", "tasks/", "tasks/*.yaml", "[tasks/b.yaml, tasks/a.yaml, tasks/a.yaml]"):
        assert names(write(tasks, files)) == ["a", "b"], tasks


def test_without_tasks_there_are_no_sources(declare: Callable[..., Distillation]) -> None:
    plain = ATTRIBUTES.format(tasks="tasks").partition("evaluation:")[0]
    assert harness_sources(declare(plain)) == {}


@pytest.mark.parametrize(
    ("tasks", "files", "told"),
    [
        ("nothing/*.yaml", {}, r"no file matches 'nothing/\*\.yaml'"),
        ("[a.yaml]", {"a.yaml": DATA}, "declares a task"),
        ("a.yaml", {"a.yaml": "task: [b, c]\ngroup: a\n"}, "a group of tasks"),
        ("a.yaml", {"a.yaml": "task: a\ndataset_path: allenai/ai2_arc\n"}, r"dataset_path: allenai/ai2_arc.*offline"),
        ("a.yaml", {"a.yaml": "task: a\ndataset_path: json\n"}, "its data are not in the project"),
        (
            "a.yaml",
            {"a.yaml": DATA.replace("test.", "no.") + "task: a\n"},
            r"a\.yaml: no file matches 'data/no\.",
        ),
        ("a.yaml", {"a.yaml": DATA.replace("data/", "/data/") + "task: a\n"}, "not a pattern relative to"),
        ("a.yaml", {"a.yaml": "task: a\ninclude: b.yaml\n"}, r"b\.yaml: cannot be read"),
        ("a.yaml", {"a.yaml": "task: a\ninclude: a.yaml\n"}, "includes itself"),
        ("a.yaml", {"a.yaml": "task: a: b\n"}, r"a\.yaml: not valid YAML"),
        ("a.yaml", {"a.yaml": "- task\n"}, "not a mapping"),
        ("'*.yaml'", {"a.yaml": f"task: a\n{DATA}", "b.yaml": f"task: a\n{DATA}"}, "both called 'a'"),
    ],
)
def test_what_cannot_be_run_here_is_refused(tasks: str, files: dict[str, str], told: str, write: Declare) -> None:
    with pytest.raises(EvaluationError, match=rf"evaluation\.harness\.tasks: .*{told}"):
        harness_sources(write(tasks, files))


@pytest.mark.parametrize(
    "task", ["task: a\ninclude: {}\n", "task: a\ndataset_path: json\ndataset_kwargs: {{data_files: {}}}\n"]
)
def test_no_path_leaves_the_project(task: str, write: Declare, tmp_path: Path) -> None:
    (tmp_path / "outside.yaml").write_text(DATA, encoding="utf-8")
    distillation = write("a.yaml", {"a.yaml": f"task: a\n{task}".format("../../../outside.yaml")})

    with pytest.raises(EvaluationError, match="outside"):
        harness_sources(distillation)


@pytest.mark.parametrize("tasks", ["", [], [""]])
def test_tasks_are_named(tasks: object) -> None:
    with pytest.raises(ValidationError, match="at least 1"):
        HarnessSpec.model_validate({"tasks": tasks})
