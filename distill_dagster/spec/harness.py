"""The `evaluation.harness:` block: tasks of lm-evaluation-harness that every local model is measured on."""

from typing import Annotated

from pydantic import Field, StringConstraints

from distill_dagster.spec.base import SpecModel

TaskPath = Annotated[str, StringConstraints(min_length=1)]


class HarnessSpec(SpecModel):
    """Local tasks of lm-evaluation-harness (extra `harness`), run offline on student, base and a local teacher."""

    tasks: TaskPath | list[TaskPath] = Field(
        min_length=1,
        description="Task YAML files: a folder, a glob or a list of them, relative to the YAML file's folder, as the "
        "data files are that they name.",
    )
    limit: int | None = Field(None, ge=1, description="Only the first rows of each task.")
    num_fewshot: int | None = Field(
        None,
        ge=0,
        description="Examples before each row, but where a task fixes 0. Default: as each task says, else 0.",
    )
    apply_chat_template: bool = Field(
        True, description="Write each row as a conversation in the model's own format, as students are trained."
    )
    batch_size: int = Field(8, ge=1, description="Rows per forward pass.")
