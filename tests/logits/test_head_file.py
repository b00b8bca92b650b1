"""The teacher's output head on disk: with kept hidden states it gives the model's own logits again."""

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)

from distill_dagster.errors import LogitsError
from distill_dagster.logits.head_file import SavedHead, kept_bytes, load_head, save_head
from distill_dagster.logits.projection import project

SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
}
MODELS = {
    "multiplied": (CohereForCausalLM, CohereConfig(**SMALL, logit_scale=0.25)),
    "divided": (GraniteForCausalLM, GraniteConfig(**SMALL, logits_scaling=8.0)),
    "capped": (Gemma2ForCausalLM, Gemma2Config(**SMALL, final_logit_softcapping=0.5)),
    "plain": (GPTNeoXForCausalLM, GPTNeoXConfig(**SMALL)),
}


def logits(head: SavedHead, hidden: torch.Tensor) -> torch.Tensor:
    values = torch.nn.functional.linear(hidden, head.weight, head.bias).float() * head.scale
    return values if head.softcap is None else torch.tanh(values / head.softcap) * head.softcap


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_a_saved_head_makes_the_models_logits_of_kept_hidden_states(tmp_path, name, dtype):
    make, config = MODELS[name]
    torch.manual_seed(0)
    model = make(config).to(dtype)
    hidden = torch.randn(5, 16).to(dtype)

    save_head(tmp_path, model, vocabulary=37)  # three rows are padding
    head = load_head(tmp_path)

    assert head.vocabulary == 37
    assert torch.equal(head.hidden(kept_bytes(hidden)), hidden)
    with torch.no_grad():
        torch.testing.assert_close(logits(head, hidden), project(model, hidden)[:, :37])


def test_a_bias_is_kept(tmp_path):
    make, config = MODELS["plain"]
    model, biased = make(config), torch.nn.Linear(16, 40)
    model.set_output_embeddings(biased)

    save_head(tmp_path, model, vocabulary=37)

    assert torch.equal(load_head(tmp_path).bias, biased.bias[:37])


def test_a_torn_head_is_named(tmp_path):
    make, config = MODELS["plain"]
    save_head(tmp_path, make(config), vocabulary=40)
    weights = tmp_path / "head.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(LogitsError, match=r"head\.safetensors: .* missing or damaged"):
        load_head(tmp_path)


def test_bytes_that_are_no_hidden_states_are_refused():
    head = SavedHead(torch.zeros(4, 3), None, 1.0, None, 4)
    assert head.hidden(b"").shape == (0, 3)
    with pytest.raises(LogitsError, match="13 bytes are no multiple of 3 numbers"):
        head.hidden(b"1234567890123")
