"""Embedding similarity in the worker, against a plain reference in float64."""

import shutil
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, T5Config, T5Model

from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation import embed
from distill_dagster.evaluation.embed import run_embed
from distill_dagster.jobs import EmbedJob, ModelRef
from distill_dagster.progress_file import ProgressWriter

PAIRS = [
    ("The capital of France is Paris.", "It is Paris."),
    ("The capital of France is Paris.", "Open the settings and press reset."),
    ("Is it?", "Is it?"),
    ("word " * 40, "It is on its way."),
    (" ", "It is Paris."),
    ("", " "),
]


@pytest.fixture(scope="module")
def bert(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder that looks both ways and reads at most 24 tokens."""
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        initializer_range=0.5,
    )
    torch.manual_seed(3)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measured(model: Path, folder: Path) -> list[float]:
    pl.DataFrame(PAIRS, schema=["left", "right"], orient="row").write_parquet(folder / "pairs.parquet")
    job = EmbedJob(model=ModelRef(source=str(model)), pairs=folder / "pairs.parquet", out=folder)

    assert run_embed(job, ProgressWriter(folder / "progress.jsonl")) == {"texts": 8, "pairs": 6}

    scored = pl.read_parquet(folder / "similarities.parquet")
    assert scored.select("left", "right").rows() == PAIRS
    return scored["similarity"].to_list()


@torch.no_grad()
def plain(folder: Path, text: str, longest: int) -> torch.Tensor:
    """The mean of a text's last hidden states, read alone."""
    ids = AutoTokenizer.from_pretrained(folder).encode(text)[:longest]
    model = AutoModel.from_pretrained(folder).double()
    return model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0)


@pytest.mark.parametrize(("kind", "longest"), [("tiny_model", 1024), ("bert", 24)])
def test_it_is_the_cosine_of_the_mean_hidden_states(
    kind: str, longest: int, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "BATCH_TOKENS", 60)  # several batches, with padding in them
    model: Path = request.getfixturevalue(kind)

    found = measured(model, tmp_path)

    for (left, right), score in zip(PAIRS[:4], found, strict=False):
        cosine = torch.cosine_similarity(plain(model, left, longest), plain(model, right, longest), dim=0)
        assert score == pytest.approx(max(0.0, float(cosine)), abs=2e-5)
    assert found[2] == found[5] == 1.0
    assert found[4] == 0.0
    assert len(set(found[:4])) == 4


def test_a_folder_that_is_no_embedding_model_is_told(tmp_path: Path, bert: Path) -> None:
    (tmp_path / "broken").mkdir()
    for file in bert.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / "broken" / file.name).write_bytes(file.read_bytes())

    with pytest.raises(EvaluationError, match="broken cannot be loaded as an embedding model"):
        measured(tmp_path / "broken", tmp_path)


@pytest.mark.parametrize("lost", ["pooler.dense.weight", "encoder.layer.1.output.dense.weight"])
def test_weights_that_are_needed_have_to_be_there(tmp_path: Path, bert: Path, lost: str) -> None:
    shutil.copytree(bert, tmp_path / "partial")
    weights = load_file(bert / "model.safetensors")
    del weights[lost]
    save_file(weights, tmp_path / "partial" / "model.safetensors", metadata={"format": "pt"})

    if lost.startswith("pooler"):
        assert measured(tmp_path / "partial", tmp_path) == measured(bert, tmp_path)
    else:
        with pytest.raises(EvaluationError, match=f"lacks weights of its BertModel, the first '{lost}'"):
            measured(tmp_path / "partial", tmp_path)


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path, bert: Path) -> None:
    config = T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=384)
    T5Model(config).save_pretrained(tmp_path / "t5")
    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path / "t5")

    with pytest.raises(EvaluationError, match="is an encoder with a decoder"):
        measured(tmp_path / "t5", tmp_path)
