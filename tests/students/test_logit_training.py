"""Training on captured distributions: it learns, normalises rightly, resumes, and refuses what does not fit."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill_dagster.errors import LogitsError, StudentError
from distill_dagster.jobs import ModelRef, TrainJob, TrainResult
from distill_dagster.lifeline import Termination
from distill_dagster.lineage.capture_identity import CaptureIdentity
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.students.train import run_train
from tests.students.gradients import gradients_of_one_step
from tests.students.logit_jobs import TOP_K, logit_job
from tests.tiny import make_tiny_model

SAMPLE = CaptureIdentity(
    method="sample", draws=50, draw_sets=2, model="m", tokenizer="t", template="c", dtype="float32"
)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model with the teacher's tokenizer."""
    return make_tiny_model(tmp_path_factory.mktemp("student") / "model", layers=2, seed=4, steps=40)


def train(job: TrainJob) -> TrainResult:
    job.out.mkdir(parents=True, exist_ok=True)
    return run_train(job, ProgressWriter(job.out / "progress.jsonl"), Termination())


@torch.no_grad()
def full_kl(teacher: Path, student: Path, dataset: Path) -> float:
    """Forward KL per completion token of the validation rows, both models read plainly and in full."""
    p_model, q_model = (AutoModelForCausalLM.from_pretrained(folder).double() for folder in (teacher, student))
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    total, count = 0.0, 0
    for messages, ids in pl.read_parquet(dataset / "validation.parquet").select("messages", "completion_ids").rows():
        prompt = tokenizer.apply_chat_template(json.loads(messages), add_generation_prompt=True)["input_ids"]
        sequence = torch.tensor([prompt + ids])
        p, q = (model(sequence).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for model in (p_model, q_model))
        total += float((p.exp() * (p - q)).sum())
        count += len(ids)
    return total / count


def test_a_student_comes_closer_to_its_teacher_and_knows_by_how_much(tiny_model: Path, student: Path, tmp_path: Path):
    job = logit_job(tiny_model, tmp_path, student=student, epochs=4, learning_rate=1e-2)

    result = train(job)

    before, after = (full_kl(tiny_model, folder, job.dataset) for folder in (student, job.out / "student"))
    assert after < before / 2
    assert result.validation_measure == "full_kl"
    assert result.validation_loss == pytest.approx(after, rel=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"divergence": "reverse_kl"},
        {"divergence": "jsd", "beta": 0.3},
        {"temperature": 2.0},
        {"temperature": 2.0, "t_squared": False},
        {"batch_tokens": 300},
        {"identity": SAMPLE},
        {"identity": TOP_K.model_copy(update={"draws": 60})},
        {"lora": {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": None}, "learning_rate": 3e-2},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_every_way_of_training_brings_them_closer(
    tiny_model: Path, student: Path, tmp_path: Path, changes: dict[str, object]
):
    job = logit_job(tiny_model, tmp_path, student=student, **{"epochs": 3, "learning_rate": 1e-2} | changes)

    train(job)

    before, after = (full_kl(tiny_model, folder, job.dataset) for folder in (student, job.out / "student"))
    assert after < 0.8 * before


def test_cross_entropy_is_mixed_in_by_its_weight(tiny_model: Path, student: Path, tmp_path: Path):
    job = logit_job(tiny_model, tmp_path, student=student, max_steps=1)
    losses = [
        train(job.model_copy(update={"ce_weight": weight, "out": tmp_path / str(weight)})).train_loss
        for weight in (0.0, 0.4, 0.8)
    ]

    assert losses[2] > 2 * losses[0], "the made-up answers are not what the teacher would have said"
    assert losses[1] == pytest.approx((losses[0] + losses[2]) / 2, rel=1e-4)


def test_without_kept_hidden_states_validation_is_a_lower_bound(tiny_model: Path, student: Path, tmp_path: Path):
    result = train(job := logit_job(tiny_model, tmp_path, student=student, keep_hidden=False, epochs=1))

    assert result.validation_measure == "sparse_kl"
    assert result.validation_loss is not None
    full = full_kl(tiny_model, job.out / "student", job.dataset)
    assert 0 < result.validation_loss < full


def test_the_best_weights_are_kept_and_training_stops_when_it_gets_no_better(
    tiny_model: Path, student: Path, tmp_path: Path
):
    job = logit_job(
        tiny_model, tmp_path, student=student, epochs=30, learning_rate=0.3, patience=2, lr_scheduler="constant"
    )

    result = train(job)

    steps = [step for step, _ in result.validation_curve]
    losses = dict(result.validation_curve)
    assert result.steps < 30 * 3
    assert result.best_step == min(losses, key=lambda step: (losses[step], step))
    assert steps.index(result.steps) - steps.index(result.best_step) == 2
    assert result.validation_loss == losses[result.best_step]
    assert full_kl(tiny_model, job.out / "student", job.dataset) == pytest.approx(result.validation_loss, rel=1e-3)


def test_of_several_seeds_the_best_on_validation_is_kept(tiny_model: Path, tmp_path: Path):
    job = logit_job(tiny_model, tmp_path, student=tiny_model, seeds=[1, 2, 3], epochs=1, learning_rate=3e-2)

    result = train(job)

    losses = {one.seed: one.validation_loss for one in result.seeds}
    assert len(set(losses.values())) == 3, "each seed sees its rows in another order"
    assert result.validation_loss == min(losses.values())
    assert losses[result.seed] == result.validation_loss
    assert full_kl(tiny_model, job.out / "student", job.dataset) == pytest.approx(result.validation_loss, rel=1e-3)


def test_one_batch_of_eight_equals_eight_batches_of_one(tiny_model: Path, student: Path, tmp_path: Path):
    job = logit_job(tiny_model, tmp_path, student=student, train=8, validation=0, max_grad_norm=0)
    together = job.model_copy(update={"batch_size": 8, "out": tmp_path / "together"})
    one_by_one = job.model_copy(update={"batch_size": 1, "gradient_accumulation": 8, "out": tmp_path / "apart"})

    left, right = gradients_of_one_step(together), gradients_of_one_step(one_by_one)

    assert_alike(left, right)


def test_one_process_equals_two(tiny_model: Path, student: Path, tmp_path: Path):
    job = logit_job(tiny_model, tmp_path, student=student, train=8, validation=0, max_grad_norm=0, batch_size=4)
    alone = job.model_copy(update={"gradient_accumulation": 2, "out": tmp_path / "alone"})
    (tmp_path / "job.json").write_text(job.model_dump_json(), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, "-m", "tests.students.gradients", str(tmp_path / "job.json"), str(tmp_path)]
    processes = [
        subprocess.Popen(
            command, env=environment | {"RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True
        )
        for rank in ("0", "1")
    ]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors

    expected = gradients_of_one_step(alone)

    for rank in (0, 1):
        assert_alike(load_file(tmp_path / f"rank-{rank}.safetensors"), expected)


def assert_alike(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    """Equal within 1e-5 of each gradient's norm."""
    assert left.keys() == right.keys()
    for name, gradient in left.items():
        assert torch.linalg.norm(gradient - right[name]) <= 1e-5 * torch.linalg.norm(right[name]), name
        assert torch.linalg.norm(right[name]) > 0, name


def test_logits_of_another_teacher_are_refused(tiny_model: Path, student: Path, tmp_path: Path):
    job = logit_job(tiny_model, tmp_path, student=student)
    assert job.logits is not None
    for name, words in (("tokenizer", "tokenizer"), ("template", "template"), ("model", "model")):
        other = job.logits.identity.model_copy(update={name: "0" * 64})
        wanted = job.model_copy(update={"logits": job.logits.model_copy(update={"identity": other})})
        with pytest.raises(LogitsError, match=words):
            train(wanted)


def test_another_tokenizer_is_refused_with_the_tokens_that_differ(tiny_model: Path, tmp_path: Path):
    other = make_tiny_model(tmp_path / "other", layers=2, steps=0)
    path = other / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    first, second = (token for token, number in vocabulary.items() if number in (100, 101))
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(content), encoding="utf-8")
    job = logit_job(tiny_model, tmp_path / "job", base=ModelRef(source=str(other)))

    with pytest.raises(StudentError, match=r"id 100 is .* in one, .* in the other; id 101"):
        train(job)


def test_a_truncated_shard_is_detected(tiny_model: Path, student: Path, tmp_path: Path):
    job = logit_job(tiny_model, tmp_path, student=student)
    assert job.logits is not None
    [shard] = job.logits.shards.glob("logits-*.parquet")
    shard.write_bytes(shard.read_bytes()[:-100])

    with pytest.raises(LogitsError, match=r"logits-0+\.parquet.*captured again"):
        train(job)


def test_a_row_that_was_never_captured_stops_the_training(tiny_model: Path, student: Path, tmp_path: Path):
    job = logit_job(tiny_model, tmp_path, student=student)
    assert job.logits is not None
    pl.read_parquet(job.logits.rows).filter(pl.col("prompt_id") != "p003").write_parquet(job.logits.rows)

    with pytest.raises(LogitsError, match=r"1 of 12 rows have no captured logits, prompt 'p003'"):
        train(job)


def test_an_edited_answer_is_left_out_and_listed(tiny_model: Path, student: Path, tmp_path: Path):
    job = logit_job(tiny_model, tmp_path, student=student, epochs=1)
    rows = pl.read_parquet(job.dataset / "train.parquet")
    edited = pl.when(pl.col("prompt_id") == "p003").then(pl.lit("Something else.")).otherwise("completion")
    rows.with_columns(completion=edited).write_parquet(job.dataset / "train.parquet")

    result = train(job)

    assert (result.rows_trained, result.without_target_ids) == (11, ["p003"])


def test_a_vocabulary_padded_to_another_width_trains_alike(tiny_model: Path, student: Path, tmp_path: Path):
    padded = tmp_path / "padded"
    model = AutoModelForCausalLM.from_pretrained(student)
    model.resize_token_embeddings(model.config.vocab_size + 64, mean_resizing=False)
    model.save_pretrained(padded)
    AutoTokenizer.from_pretrained(student).save_pretrained(padded)
    job = logit_job(tiny_model, tmp_path, student=student, epochs=1)
    wide = job.model_copy(update={"base": ModelRef(source=str(padded)), "out": tmp_path / "wide"})

    narrow_loss, wide_loss = (train(one).loss_curve for one in (job, wide))

    assert [loss for _, loss in wide_loss] == pytest.approx([loss for _, loss in narrow_loss], rel=1e-4)


def test_a_frozen_head_stays_as_it_is(tiny_model: Path, tmp_path: Path):
    frozen = tmp_path / "untied"
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.config.tie_word_embeddings = False
    model.config.save_pretrained(frozen)
    save_file(weights, frozen / "model.safetensors", metadata={"format": "pt"})
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(frozen)
    lora = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}
    job = logit_job(tiny_model, tmp_path, student=frozen, lora=lora, epochs=1, learning_rate=3e-2)

    train(job)

    before, after = load_file(frozen / "model.safetensors"), load_file(job.out / "student" / "model.safetensors")
    assert torch.equal(before["lm_head.weight"], after["lm_head.weight"])
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(before[name], after[name])
