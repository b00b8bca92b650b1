"""A plausible evaluation in memory: 71 test rows in 65 groups, answered by a good student and a poor base."""

import dataclasses
import json
import random

import polars as pl
import pytest

from distill_dagster.evaluation.inputs import CaptureCost, EvaluationInputs, TrainedStudent
from distill_dagster.evaluation.model import ModelNames, Versions
from distill_dagster.jobs import ModelResult, TrainResult
from distill_dagster.spec.distillation import DistillationSpec

TOPICS = {
    "astronomy": "moon planet orbit star light gravity sun distance rock surface",
    "cooking": "onion butter pan heat salt dough oven minutes water flour",
    "travel": "train ticket station border passport luggage morning coast hotel map",
}
ROWS, REPEATED_GROUPS = 71, 6
HOSTILE = "\x00<script>alert(1)</script></style><style>body{display:none}</style>{{ 7*7 }} & \"quotes\" 'single'"


def make_spec(**evaluation: object) -> DistillationSpec:
    return DistillationSpec.model_validate(
        {
            "description": "Answers everyday questions in one or two sentences.",
            "prompts": {"source": {"jsonl": "*.jsonl"}, "prompt": "{{ question }}", "reference": "answer"},
            "teacher": {"provider": "transformers", "model": "smollm2-135m-instruct", "max_tokens": 96},
            "students": {"sft": {"base": {"prune": "teacher", "layers": 16}}},
            "evaluation": evaluation,
        }
    )


def _sentence(rng: random.Random, topic: str, length: int) -> str:
    common = ["the", "a", "of", "and", "is", "in", "to", "with", "for", "from"]
    own = TOPICS[topic].split()
    return " ".join(rng.choice(own if index % 2 else common) for index in range(length)).capitalize() + "."


def spoil(rng: random.Random, text: str, share: float) -> str:
    return " ".join(
        w if rng.random() > share else rng.choice(["stone", "river", "window", "paper", "cloud"]) for w in text.split()
    )


def make_test_split() -> pl.DataFrame:
    rng = random.Random(5)
    rows = []
    for index in range(ROWS):
        topic = list(TOPICS)[index % len(TOPICS)]
        question = f"What should I know about the {TOPICS[topic].split()[index % 10]} in {topic} (question {index})?"
        completion = _sentence(rng, topic, rng.randint(8, 30))
        group = index if index < ROWS - REPEATED_GROUPS else index - 20
        rows.append(
            {
                "prompt_id": f"{index:04d}{'ab12' * 3}",
                "sample": 0,
                "partition": topic,
                "group_id": f"{group:08x}",
                "request_key": f"{index:064x}",
                "messages": json.dumps([{"role": "user", "content": question}]),
                "text": question,
                "completion": completion,
                "completion_ids": list(range(len(completion.split()) + 1)),
                "reference": spoil(rng, completion, 0.45),
            }
        )
    return pl.DataFrame(rows).with_columns(
        pl.col("sample").cast(pl.Int32), pl.col("completion_ids").cast(pl.List(pl.Int32))
    )


def make_generated(test: pl.DataFrame) -> pl.DataFrame:
    rng = random.Random(7)
    rows = []
    for prompt_id, sample, completion in test.select("prompt_id", "sample", "completion").iter_rows():
        stopped = rng.random() > 0.1
        student = spoil(rng, completion, rng.choice([0.1, 0.25, 0.5]))
        loop = "the same words again and again " * 8
        for model, text, ended in (
            ("student", student if stopped else f"{student} {loop}", stopped),
            ("base", spoil(rng, completion, 0.8) + " " + loop, rng.random() > 0.7),
        ):
            rows.append((prompt_id, sample, model, text, len(text.split()), ended))
    schema = {
        "prompt_id": pl.String,
        "sample": pl.Int32,
        "model": pl.String,
        "prediction": pl.String,
        "tokens": pl.Int32,
        "stopped": pl.Boolean,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def make_fidelity(test: pl.DataFrame) -> pl.DataFrame:
    rng = random.Random(11)
    rows = []
    for prompt_id, sample, ids in test.select("prompt_id", "sample", "completion_ids").iter_rows():
        tokens = len(ids)
        for model, divergence, agreement in (
            ("student", 0.97, 0.72),
            ("base", 2.87, 0.38),
            ("most_frequent", None, 0.05),
            ("bigram", None, 0.29),
        ):
            kl = None if divergence is None else divergence * tokens * rng.uniform(0.5, 1.5)
            nll = None if kl is None else kl + tokens * rng.uniform(0.1, 0.3)
            rows.append((prompt_id, sample, model, tokens, nll, kl, sum(rng.random() < agreement for _ in ids)))
    schema = {
        "prompt_id": pl.String,
        "sample": pl.Int32,
        "model": pl.String,
        "tokens": pl.Int32,
        "nll_sum": pl.Float64,
        "kl_sum": pl.Float64,
        "top1_hits": pl.Int32,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def make_training() -> TrainResult:
    return TrainResult(
        rows_trained=600,
        rows_over_length=2,
        over_length_ids=["long-1", "long-2"],
        steps=225,
        tokens_trained=41_344,
        train_loss=1.184,
        validation_loss=1.402,
        kept_layers=[*range(10), *range(24, 30)],
        block_influence=[0.1] * 30,
        parameters=84_961_728,
        loss_curve=[(step, 1.1 + 2.6 * 0.97**step) for step in range(5, 226, 5)],
        validation_curve=[(75, 1.72), (150, 1.45), (225, 1.402)],
        measurements={"seconds": 312.4, "tokens_per_second": 132.3, "peak_memory_bytes": 2.4e9},
    )


def make_result(parameters: int, checkpoint_bytes: int, tokens_per_second: float) -> ModelResult:
    return ModelResult(
        parameters=parameters,
        checkpoint_bytes=checkpoint_bytes,
        batch_size=32,
        rows_over_length=0,
        measurements={
            "answers": 71.0,
            "seconds": 2000 / tokens_per_second,
            "generated_tokens": 2000.0,
            "tokens_per_second": tokens_per_second,
            "peak_memory_bytes": 1.9e9,
        },
    )


def make_inputs() -> EvaluationInputs:
    test = make_test_split()
    dropped = [("validation", "truncated")] * 3 + [("train", "truncated")] * 31 + [("train", "test_leakage")] * 9
    dropped += [("train", "near_duplicate")] * 14 + [("test", "truncated")] * 4
    return EvaluationInputs(
        distillation="faq",
        student=TrainedStudent("sft", "57" * 32, "sft", "teacher", "teacher cut to 16 of 30 layers", make_training()),
        companions=(),
        spec=make_spec(),
        spec_hash="5e" * 32,
        versions=Versions(dataset="da" * 32, student="57" * 32, teacher="7e" * 32),
        models=ModelNames(teacher="smollm2-135m-instruct", student="faq/sft", base="smollm2-135m-instruct"),
        rows_per_split={"train": 602, "validation": 68, "test": ROWS},
        test=test,
        dropped=pl.DataFrame(
            [(f"d{i}", 0, "cooking", split, reason, None) for i, (split, reason) in enumerate(dropped)],
            schema=["prompt_id", "sample", "partition", "split", "reason", "detail"],
            orient="row",
        ),
        generated=make_generated(test),
        fidelity=make_fidelity(test),
        results={
            "teacher": make_result(134_515_008, 269_060_552, 251.3),
            "student": make_result(84_961_728, 339_880_312, 412.5),
            "base": make_result(84_961_728, 169_950_312, 408.1),
        },
    )


@pytest.fixture
def inputs() -> EvaluationInputs:
    """A distillation with a local teacher, human references and everything measured."""
    return make_inputs()


@pytest.fixture
def side_by_side(inputs: EvaluationInputs) -> EvaluationInputs:
    """The same with two more students: `soft`, which is as good, and `on_references`, which is as poor as the base."""
    return make_side_by_side(inputs)


def make_side_by_side(inputs: EvaluationInputs) -> EvaluationInputs:
    soft = TrainedStudent(
        name="soft",
        version="50" * 32,
        objective="logit",
        targets="teacher",
        origin="teacher cut to 16 of 30 layers",
        training=make_training(),
        capture=CaptureCost(bytes_per_token=101.5, seconds=40.0),
    )
    hard = dataclasses.replace(soft, name="on_references", objective="sft", targets="reference", capture=None)
    named = {"student/soft": "student", "student/on_references": "base"}
    assert inputs.fidelity is not None
    results = {name: make_result(84_961_728, 169_950_312, 400.0) for name in named}
    return dataclasses.replace(
        inputs,
        companions=(soft, hard),
        generated=pl.concat([inputs.generated, *(as_model(inputs.generated, *pair) for pair in named.items())]),
        fidelity=pl.concat([inputs.fidelity, *(as_model(inputs.fidelity, *pair) for pair in named.items())]),
        results={**inputs.results, **results},
    )


def without_distributions(fidelity: pl.DataFrame) -> pl.DataFrame:
    """What a hosted teacher leaves of it: the likelihood of its answers."""
    unknown = (pl.lit(None, dtype=fidelity.schema[name]).alias(name) for name in ("kl_sum", "top1_hits"))
    return fidelity.drop_nulls("nll_sum").with_columns(*unknown)


def as_model(frame: pl.DataFrame, name: str, source: str) -> pl.DataFrame:
    """The rows of a model `source` as those of another model."""
    return frame.filter(pl.col("model") == source).with_columns(model=pl.lit(name))


@pytest.fixture
def hosted(inputs: EvaluationInputs) -> EvaluationInputs:
    """The same with a hosted teacher and no human references: of its tokens nothing, no quality, no teacher's size."""
    results = {"student": make_result(84_961_728, 339_880_312, 412.5), "base": make_result(84_961_728, 169_950_312, 1)}
    assert inputs.fidelity is not None
    return dataclasses.replace(
        inputs,
        versions=Versions(dataset="da" * 32, student="57" * 32),
        test=inputs.test.with_columns(
            reference=pl.lit(None, dtype=pl.String), completion_ids=pl.lit(None, dtype=pl.List(pl.Int32))
        ),
        fidelity=without_distributions(inputs.fidelity),
        results=results,
    )


@pytest.fixture
def hostile(inputs: EvaluationInputs) -> EvaluationInputs:
    """The same with markup, template syntax and control characters wherever a model or a user writes text."""
    text = pl.lit(HOSTILE)
    return dataclasses.replace(
        inputs,
        test=inputs.test.with_columns(text=text, completion=text, reference=text, partition=text),
        generated=inputs.generated.with_columns(prediction=text),
        models=ModelNames(teacher=HOSTILE, student=HOSTILE, base=HOSTILE),
        spec=make_spec().model_copy(update={"description": HOSTILE}),
        student=dataclasses.replace(
            inputs.student,
            origin=HOSTILE,
            training=inputs.student.training.model_copy(update={"over_length_ids": [HOSTILE]}),
        ),
    )
