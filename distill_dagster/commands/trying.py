"""`distill try`: one prompt, answered by student, undistilled base and teacher, side by side."""

import json
import shutil
import uuid
from collections.abc import Mapping

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from distill_dagster.errors import StudentError
from distill_dagster.jobs import RESULT_FILE, ModelRef, PredictModel, TryJob
from distill_dagster.lineage.model_folder import find_model, saved_dtype
from distill_dagster.project import Distillation
from distill_dagster.prompts.rendering import conversations_for
from distill_dagster.students.build import read_student
from distill_dagster.teachers.outputs import ask_one
from distill_dagster.worker_process import launch_subprocess, run_job


def try_prompt(distillation: Distillation, text: str, student: str | None) -> dict[str, str]:
    """Answers by model name (student, base, teacher).

    Raises:
        StudentError: no student is declared or trained.
        RowError, TeacherError: the text is no prompt here, or the teacher cannot be asked.
    """
    names = list(distillation.spec.students)
    if not names:
        raise StudentError(f"{distillation.name} declares no students to try")
    trained = read_student(distillation, student or names[0])
    teacher_messages, student_messages = conversations_for(distillation, text)
    spec = distillation.spec.teacher
    models = [
        PredictModel(
            name="student", model=ModelRef(source=str(trained.folder)), dtype=saved_dtype(trained.folder), generate=True
        ),
        PredictModel(
            name="base",
            model=ModelRef(source=str(trained.base_folder)),
            dtype=saved_dtype(trained.base_folder),
            generate=True,
        ),
    ]
    if spec.is_local:
        teacher = ModelRef(source=str(find_model(distillation, spec.model)))
        models.append(PredictModel(name="teacher", model=teacher, dtype=spec.dtype, generate=True))
    work = distillation.files.work("try", uuid.uuid4().hex)
    job = TryJob(
        models=models,
        messages=json.loads(student_messages),
        teacher_messages=json.loads(teacher_messages),
        max_tokens=distillation.spec.evaluation.max_tokens or spec.max_tokens,
        out=work,
    )
    try:
        run_job(job, launch_subprocess)
        answers: dict[str, str] = json.loads((work / RESULT_FILE).read_text(encoding="utf-8"))["answers"]
    finally:
        shutil.rmtree(work)
    if not spec.is_local:
        answers["teacher"] = ask_one(distillation, teacher_messages)
    return answers


def print_answers(answers: Mapping[str, str], *, as_json: bool) -> None:
    """Prints a panel for each model, or JSON: {"answers": {name: text}}."""
    console = Console(highlight=False)
    if as_json:
        console.out(json.dumps({"answers": dict(answers)}, indent=2, ensure_ascii=False))
        return
    for name in ("student", "base", "teacher"):
        if name in answers:
            console.print(Panel(Text(answers[name]), title=name, title_align="left"))
