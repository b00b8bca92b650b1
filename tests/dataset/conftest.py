"""A declared distillation without sources."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill_dagster.project import Distillation, Project
from distill_dagster.spec.distillation import DistillationSpec


@pytest.fixture
def declare(tmp_path: Path) -> Callable[..., Distillation]:
    """Declares a distillation: `declare(drop=[…], …)` takes the keys of the `curation` block."""

    def declare_it(**curation: Any) -> Distillation:
        spec = DistillationSpec.model_validate(
            {
                "prompts": {"source": {"jsonl": "*.jsonl"}, "prompt": "{{ q }}"},
                "teacher": {"provider": "transformers", "model": "tiny"},
                "curation": curation,
            }
        )
        return Distillation(Project(tmp_path, tmp_path / ".distill"), "faq", tmp_path / "assets" / "faq", spec)

    return declare_it
