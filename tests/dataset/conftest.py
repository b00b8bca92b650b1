"""A declared distillation without sources."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from distill_dagster.project import Distillation, Project
from distill_dagster.spec.distillation import DistillationSpec


@pytest.fixture
def declare(tmp_path: Path) -> Callable[..., Distillation]:
    """Declares a distillation: `declare(drop=[…], held_out=[…], …)` takes the keys of the `curation` block."""

    def declare_it(held_out: Sequence[str] = (), **curation: Any) -> Distillation:
        partition = {"partition": {"by": "topic"}} if held_out else {}
        spec = DistillationSpec.model_validate(
            {
                "prompts": {"source": {"jsonl": "*.jsonl"}, "prompt": "{{ q }}", **partition},
                "teacher": {"provider": "transformers", "model": "tiny"},
                "curation": curation,
                "evaluation": {"held_out_partitions": list(held_out)},
            }
        )
        return Distillation(Project(tmp_path, tmp_path / ".distill"), "faq", tmp_path / "assets" / "faq", spec)

    return declare_it
