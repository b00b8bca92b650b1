"""Training one student: it learns, it resumes, and it leaves a plain model folder."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from trl.trainer.sft_trainer import SFTTrainer

from distill_dagster.errors import StudentError
from distill_dagster.jobs import ModelRef, PrunedBase, TrainJob, TrainResult
from distill_dagster.lifeline import TERMINATED, Termination
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.students import trainer as trainer_module
from distill_dagster.students.bases import load_base
from distill_dagster.students.checkpoints import newest_complete_checkpoint
from distill_dagster.students.learning import Learning, prepare_learning
from distill_dagster.students.train import run_train
from distill_dagster.students.trainers import make_trainer
from distill_dagster.teachers.local.chat_model import load_tokenizer
from tests.students.gradients import gradients_of_one_step
from tests.worker_jobs import dataset_rows, train_job, write_dataset


def train(job: TrainJob) -> TrainResult:
    return run_train(job, ProgressWriter(job.out / "progress.jsonl"), Termination())


def start_worker(job: TrainJob) -> subprocess.Popen[str]:
    job.out.mkdir(parents=True, exist_ok=True)
    (job.out / "job.json").write_text(job.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "distill_dagster.worker", str(job.out / "job.json")]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for_step(worker: subprocess.Popen[str], out: Path, step: int) -> None:
    """Returns once the worker has reported `step` and has saved a checkpoint."""
    path = out / "progress.jsonl"
    while worker.poll() is None:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        steps = [json.loads(line)["done"] for line in lines[:-1]]
        if max(steps, default=0) >= step:
            return
    raise AssertionError(f"the worker ended before step {step}: {worker.stderr and worker.stderr.read()}")


def learning(job: TrainJob) -> Learning:
    ref = job.base.model if isinstance(job.base, PrunedBase) else job.base
    job.out.mkdir(parents=True, exist_ok=True)
    progress = ProgressWriter(job.out / "progress.jsonl")
    return prepare_learning(job, load_tokenizer(ref, StudentError), progress)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "dataset", train=dataset_rows(20), validation=dataset_rows(4, first=30))


def test_training_learns_and_exports_a_plain_model(tiny_model: Path, dataset: Path, tmp_path: Path):
    job = train_job(tiny_model, dataset, tmp_path / "out", epochs=4, learning_rate=1e-2)

    result = train(job)

    assert result.steps == 20
    assert result.rows_trained == 20
    assert [step for step, _ in result.validation_curve] == [5, 10, 15, 20]
    assert result.validation_curve[-1][1] < result.validation_curve[0][1]
    assert result.train_loss < result.loss_curve[0][1] / 2
    student = AutoModelForCausalLM.from_pretrained(job.out / "student")
    tokenizer = AutoTokenizer.from_pretrained(job.out / "student")
    assert student.num_parameters() == result.parameters
    settings = GenerationConfig.from_pretrained(job.out / "student")
    assert settings.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert not (job.out / "base").exists()


def test_every_completion_token_of_every_epoch_is_counted(tiny_model: Path, dataset: Path, tmp_path: Path):
    job = train_job(tiny_model, dataset, tmp_path / "out", epochs=2)
    rows = learning(job).train

    assert train(job).tokens_trained == 2 * rows.completion_tokens


def test_the_loss_is_trls_own(tiny_model: Path, dataset: Path, tmp_path: Path):
    job = train_job(tiny_model, dataset, tmp_path / "out")
    tokenizer = load_tokenizer(ModelRef(source=str(tiny_model)), StudentError)
    model = load_base(job.base, []).model
    trainer = make_trainer(job, 17, model, tokenizer, learning(job), tmp_path / "work")
    (inputs,) = next(iter(trainer.get_train_dataloader()))["pieces"]
    prefix = inputs["prefix"].expand(len(inputs["input_ids"]), -1)
    target = torch.cat([torch.zeros_like(prefix, dtype=torch.bool), inputs["target"]], dim=1)
    input_ids = torch.cat([prefix, inputs["input_ids"]], dim=1)
    labels = input_ids.masked_fill(~target, -100)

    count = inputs["labels"].numel()

    ours = trainer.compute_loss(trainer.model, dict(inputs), num_items_in_batch=count)
    theirs = SFTTrainer.compute_loss(trainer, trainer.model, {"input_ids": input_ids, "labels": labels})

    torch.testing.assert_close(ours, theirs)


def test_accumulated_small_batches_train_like_one_large_batch(tiny_model: Path, dataset: Path, tmp_path: Path):
    whole = train_job(tiny_model, dataset, tmp_path / "whole", batch_size=4, max_steps=5)
    parts = train_job(tiny_model, dataset, tmp_path / "parts", batch_size=1, gradient_accumulation=4, max_steps=5)

    losses = [[loss for _, loss in train(job).loss_curve] for job in (whole, parts)]

    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_pruned_base_is_exported_beside_the_student_unrounded(tiny_model: Path, dataset: Path, tmp_path: Path):
    bf16 = tmp_path / "bf16"
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).save_pretrained(bf16)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(bf16)
    source = PrunedBase(model=ModelRef(source=str(bf16)), layers=2)
    job = train_job(bf16, dataset, tmp_path / "out", base=source, max_steps=2)

    result = train(job)

    assert result.kept_layers is not None
    assert result.block_influence is not None
    assert len(result.kept_layers) == 2
    base, original = load_file(job.out / "base" / "model.safetensors"), load_file(bf16 / "model.safetensors")
    for index, kept in enumerate(result.kept_layers):
        name = "model.layers.{}.mlp.up_proj.weight"
        assert torch.equal(base[name.format(index)], original[name.format(kept)])
    for folder in ("base", "student"):
        assert AutoConfig.from_pretrained(job.out / folder).dtype is torch.bfloat16
        assert AutoModelForCausalLM.from_pretrained(job.out / folder).config.num_hidden_layers == 2


def test_adapters_are_merged_into_the_student(tiny_model: Path, dataset: Path, tmp_path: Path):
    lora = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": None}
    job = train_job(tiny_model, dataset, tmp_path / "out", lora=lora, learning_rate=2e-2)

    result = train(job)

    assert result.train_loss < result.loss_curve[0][1]
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_model, job.out / "student"))
    assert before.keys() == after.keys()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(before[name], after[name])
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])


def test_training_that_is_killed_resumes_and_ends_with_the_same_weights(
    tiny_model: Path, dataset: Path, tmp_path: Path
):
    killed = train_job(tiny_model, dataset, tmp_path / "killed", max_steps=60)
    whole = killed.model_copy(update={"out": tmp_path / "whole"})
    worker = start_worker(killed)
    wait_for_step(worker, killed.out, 7)
    os.kill(worker.pid, signal.SIGKILL)
    worker.communicate()
    assert worker.returncode == -signal.SIGKILL
    assert not (killed.out / "student").exists()

    checkpoint = newest_complete_checkpoint(killed.out / "checkpoints" / "seed-17")
    resumed, uninterrupted = train(killed), train(whole)

    assert checkpoint is not None
    assert resumed.steps == uninterrupted.steps == 60
    assert resumed.tokens_trained == uninterrupted.tokens_trained
    ours, theirs = (load_file(job.out / "student" / "model.safetensors") for job in (killed, whole))
    torch.testing.assert_close(ours, theirs)


def test_sigterm_saves_a_checkpoint_first(tiny_model: Path, dataset: Path, tmp_path: Path):
    job = train_job(tiny_model, dataset, tmp_path / "out", max_steps=5000, checkpoint_steps=100_000)
    worker = start_worker(job)
    wait_for_step(worker, job.out, 3)

    worker.terminate()
    _, errors = worker.communicate()

    assert worker.returncode == TERMINATED, errors
    assert newest_complete_checkpoint(job.out / "checkpoints" / "seed-17") is not None
    assert not (job.out / "result.json").exists()


def test_a_start_after_all_is_trained_says_the_same_again(tiny_model: Path, dataset: Path, tmp_path: Path):
    job = train_job(tiny_model, dataset, tmp_path / "out", max_steps=2, seeds=[1, 2])

    first, second = train(job), train(job)

    assert second.model_copy(update={"measurements": {}}) == first.model_copy(update={"measurements": {}})
    assert (job.out / "student" / "model.safetensors").is_file()


@pytest.mark.parametrize("torn", ["trainer_state.json", "model.safetensors", "optimizer.pt"])
def test_a_torn_checkpoint_is_passed_over(tiny_model: Path, dataset: Path, tmp_path: Path, torn: str):
    job = train_job(tiny_model, dataset, tmp_path / "out", max_steps=4)
    train(job)
    newest = job.out / "checkpoints" / "seed-17" / "checkpoint-4"
    content = (newest / torn).read_bytes()
    (newest / torn).write_bytes(content[: len(content) // 2])

    assert newest_complete_checkpoint(newest.parent) == newest.with_name("checkpoint-2")
    assert not newest.exists()


def test_nothing_to_train_on_is_an_error_that_says_why(tiny_model: Path, dataset: Path, tmp_path: Path):
    job = train_job(tiny_model, dataset, tmp_path / "out", max_length=8)
    with pytest.raises(StudentError, match="20 are longer than max_length, 8 tokens"):
        train(job)


def test_a_batch_read_in_pieces_has_the_gradients_of_the_whole(
    tiny_model: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    gradients = []
    for tokens in (100_000, 1):
        monkeypatch.setattr(trainer_module, "PIECE_TOKENS", tokens)
        gradients.append(gradients_of_one_step(train_job(tiny_model, dataset, tmp_path / str(tokens), batch_size=6)))

    for name, whole in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], whole, rtol=1e-5, atol=1e-5 * float(whole.norm()))
