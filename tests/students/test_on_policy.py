"""Training on the student's own answers: it moves towards the teacher, and refuses a teacher of other tokens."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill_dagster.errors import StudentError
from distill_dagster.jobs import ModelRef, PrunedBase, TrainJob, TrainResult
from distill_dagster.lifeline import Termination
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.students.on_policy import load_matching_teacher
from distill_dagster.students.train import run_train
from distill_dagster.teachers.local.chat_model import load_model, token_differences
from tests.worker_jobs import dataset_rows, train_job, write_dataset


def train(job: TrainJob) -> TrainResult:
    return run_train(job, ProgressWriter(job.out / "progress.jsonl"), Termination())


def on_policy_job(model: Path, dataset: Path, out: Path, **changes: object) -> TrainJob:
    """A pruned student of `model`, two steps on answers of at most 12 tokens."""
    settings = {
        "objective": "on_policy",
        "base": PrunedBase(model=ModelRef(source=str(model)), layers=2),
        "divergence": "reverse_kl",
        "max_completion_tokens": 12,
        "max_steps": 2,
    }
    return train_job(model, dataset, out, **(settings | changes))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())


def with_other_tokens(model: Path, folder: Path) -> Path:
    """The same model whose tokenizer has the tokens of two ids exchanged."""
    AutoModelForCausalLM.from_pretrained(model).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    path = folder / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace('"A": ', '"A?": ').replace('"B": ', '"A": ').replace('"A?": ', '"B": '), encoding="utf-8"
    )
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "dataset", train=dataset_rows(12), validation=dataset_rows(4, first=30))


def test_two_steps_change_the_student(tiny_model: Path, dataset: Path, tmp_path: Path):
    job = on_policy_job(tiny_model, dataset, tmp_path / "out")

    result = train(job)

    assert result.steps == 2
    assert 0 < result.tokens_trained <= 2 * job.batch_size * 12
    assert result.validation_loss is not None
    before, after = weights(job.out / "base"), weights(job.out / "student")
    assert before.keys() == after.keys()
    assert not torch.equal(before["model.layers.0.mlp.up_proj.weight"], after["model.layers.0.mlp.up_proj.weight"])


def test_a_training_resumed_within_an_epoch_goes_on_as_it_would_have(tiny_model: Path, dataset: Path, tmp_path: Path):
    job = on_policy_job(tiny_model, dataset, tmp_path / "out", max_steps=6, checkpoint_steps=2)
    whole = train(job)
    work = job.out / "checkpoints" / "seed-17"
    (work / "done.json").unlink()
    shutil.rmtree(work / "checkpoint-6")

    resumed = train(job)

    assert resumed.loss_curve == whole.loss_curve
    assert resumed.tokens_trained == whole.tokens_trained


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_the_student_comes_closer_to_its_teacher(tiny_model: Path, dataset: Path, tmp_path: Path, divergence: str):
    job = on_policy_job(tiny_model, dataset, tmp_path / "out", divergence=divergence, max_steps=None, epochs=10)

    curve = [loss for _, loss in train(job).validation_curve]

    assert curve[-1] < curve[0] / 2


def test_a_student_like_its_teacher_has_nothing_to_learn(tiny_model: Path, dataset: Path, tmp_path: Path):
    job = on_policy_job(tiny_model, dataset, tmp_path / "out", base=ModelRef(source=str(tiny_model)), max_steps=1)

    assert train(job).loss_curve[0][1] == pytest.approx(0, abs=1e-5)


def test_a_teacher_of_other_tokens_is_refused_and_they_are_named(tiny_model: Path, dataset: Path, tmp_path: Path):
    other = with_other_tokens(tiny_model, tmp_path / "other")
    job = on_policy_job(tiny_model, dataset, tmp_path / "out", teacher=ModelRef(source=str(other)))

    with pytest.raises(StudentError, match="is 'B' in one, 'A' in the other"):
        train(job)


def test_a_batch_that_prompts_cannot_fill_is_an_error(tiny_model: Path, dataset: Path, tmp_path: Path):
    job = on_policy_job(tiny_model, dataset, tmp_path / "out", batch_size=8, gradient_accumulation=2)

    with pytest.raises(StudentError, match="a step takes 16 prompts"):
        train(job)


def test_padding_of_a_longer_teachers_head_is_cut_off(tiny_model: Path, tmp_path: Path):
    ref = ModelRef(source=str(tiny_model))
    student = load_model(ref, torch.float32, StudentError)
    padded = load_model(ref, torch.float32, StudentError)
    padded.resize_token_embeddings(student.config.vocab_size + 7)
    padded.save_pretrained(tmp_path / "padded")

    teacher = load_matching_teacher(ModelRef(source=str(tmp_path / "padded")), student, torch.float32)

    assert torch.equal(teacher.get_output_embeddings().weight, student.get_output_embeddings().weight)
    with pytest.raises(StudentError, match="take a base with a head no longer than the teacher's"):
        load_matching_teacher(ref, padded, torch.float32)


def test_only_the_first_differences_between_tokenizers_are_named(tiny_model: Path):
    one, other = (AutoTokenizer.from_pretrained(tiny_model) for _ in range(2))
    assert token_differences(one, other) == []

    first = len(other)
    other.add_tokens([f"<extra {number}>" for number in range(5)])

    assert token_differences(one, other, most=2) == [
        f"id {first} is no token in one, '<extra 0>' in the other",
        f"id {first + 1} is no token in one, '<extra 1>' in the other",
    ]
