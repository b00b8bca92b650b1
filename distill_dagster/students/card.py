"""The model card that travels with a student: what it is, what it learned from, and how to load it."""

from pathlib import Path

from distill_dagster.jobs import TrainResult
from distill_dagster.lineage.manifests import Manifest
from distill_dagster.project import Distillation
from distill_dagster.spec.students import StudentSpec
from distill_dagster.teachers.store.budget import MICRO

OBJECTIVES = {
    ("sft", "teacher"): "cross-entropy on the teacher's completions, stop token included",
    ("sft", "reference"): "cross-entropy on the human references: the baseline, not a distillation",
    ("logit", "teacher"): "divergence from the teacher's captured next-token distributions",
    ("on_policy", "teacher"): "divergence from the teacher on the student's own answers",
}

MEASURES = {
    "nll": "negative log-likelihood",
    "full_kl": "forward KL over the whole vocabulary",
    "sparse_kl": "forward KL over the stored tokens and all others as one, a lower bound",
    "cross_entropy": "cross-entropy with drawn tokens",
    "on_policy": "divergence on the student's own answers",
}


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
        f"| objective | {student.objective}: {OBJECTIVES[student.objective, student.targets]}{_divergence(student)} |",
        f"| parameters | {result.parameters:,} |",
        f"| rows trained | {result.rows_trained:,} ({result.rows_over_length:,} too long, "
        f"{result.rows_without_target:,} with nothing to learn from) |",
        f"| optimiser steps | {result.steps:,}, kept after step {result.best_step:,} |",
        f"| seed | {_seeds(result)} |",
        f"| training loss | {result.train_loss:.4f} |",
        f"| validation | {_validation(result)} |",
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


def model_card_text(folder: Path) -> str:
    """A checkpoint's model card without its YAML head; empty where it has none."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return text.split("\n---\n", 1)[-1].strip()


def _divergence(student: StudentSpec) -> str:
    if student.objective == "sft":
        return ""
    named = {"forward_kl": "forward KL", "reverse_kl": "reverse KL", "jsd": f"JSD, β = {student.beta:g}"}
    mixed = f", {student.ce_weight:g} of cross-entropy" if student.ce_weight else ""
    return f" ({named[student.divergence]}, temperature {student.temperature:g}{mixed})"


def _seeds(result: TrainResult) -> str:
    losses = ", ".join(f"{one.seed}: {_number(one.validation_loss)}" for one in result.seeds)
    return f"{result.seed}" if len(result.seeds) < 2 else f"{result.seed}, best of (validation loss) {losses}"


def _validation(result: TrainResult) -> str:
    return f"{_number(result.validation_loss)} nats a token, {MEASURES[result.validation_measure]}"


def _number(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.4f}"


def _cost(manifest: Manifest) -> str:
    microusd = manifest.details["teacher_cost_microusd"]
    return "none: a local teacher" if microusd is None else f"${microusd / MICRO:,.4f}"
