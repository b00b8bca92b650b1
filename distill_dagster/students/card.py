"""The model card that travels with a student: what it is, what it learned from, and how to load it."""

from distill_dagster.jobs import TrainResult
from distill_dagster.lineage.manifests import Manifest
from distill_dagster.project import Distillation
from distill_dagster.teachers.store.budget import MICRO


def model_card(distillation: Distillation, name: str, manifest: Manifest, result: TrainResult) -> str:
    """README.md of a checkpoint (Hugging Face model card, Markdown with a YAML head)."""
    spec = distillation.spec
    student = spec.students[name]
    teacher = spec.teacher
    base = student.base
    origin = base.model or f"{base.prune if base.prune != 'teacher' else teacher.model}, cut to {base.layers} layers"
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [knowledge-distillation]",
        "---",
        "",
        f"# {distillation.name}/{name}",
        "",
        spec.description or "A distilled student.",
        "",
        "| | |",
        "|---|---|",
        f"| version | `{manifest.version}` |",
        f"| teacher | {teacher.provider}: {teacher.model}{f' ({teacher.dtype})' if teacher.is_local else ''} |",
        f"| base | {origin} |",
        f"| objective | {student.objective}: cross-entropy on the teacher's completions, stop token included |",
        f"| parameters | {result.parameters:,} |",
        f"| rows trained | {result.rows_trained:,} ({result.rows_over_length:,} too long) |",
        f"| optimiser steps | {result.steps:,} |",
        f"| training loss | {result.train_loss:.4f} |",
        f"| validation loss | {'–' if result.validation_loss is None else f'{result.validation_loss:.4f}'} |",
        f"| dataset | `{manifest.inputs['dataset']}` |",
        f"| base version | `{manifest.inputs['base']}` |",
        f"| declaration | `{manifest.spec_hash}` |",
        f"| cost of the teacher's answers | {_cost(manifest)} |",
        f"| permission to train on the teacher's answers | {teacher.authorization or 'not stated'} |",
        "",
        "It answers prompts like those it was trained on; it is not expected to do well elsewhere.",
        "`manifest.json` beside this card leads to the exact prompts and answers.",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")',
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")',
        "```",
        "",
    ]
    return "\n".join(lines)


def _cost(manifest: Manifest) -> str:
    microusd = manifest.details["teacher_cost_microusd"]
    return "none: a local teacher" if microusd is None else f"${microusd / MICRO:,.4f}"
