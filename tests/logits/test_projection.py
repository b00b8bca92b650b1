"""The loss at completion positions against the plain one over the whole logits."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

from distill_dagster.logits import projection
from distill_dagster.logits.projection import hidden_before, negative_log_likelihood, project


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(3, 300, (3, 12), generator=generator)
    mask = torch.ones_like(input_ids)
    mask[1, 9:] = 0
    target = mask.bool().clone()
    target[:, :5] = False
    return input_ids, mask, target


@pytest.mark.parametrize("chunk", [4, 1024])
def test_loss_and_gradients_equal_the_dense_ones(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, chunk: int):
    monkeypatch.setattr(projection, "CHUNK_TOKENS", chunk)
    monkeypatch.setattr(projection.chunks, "__defaults__", (chunk,))
    input_ids, mask, target = batch()
    model = AutoModelForCausalLM.from_pretrained(tiny_model)

    dense = model(input_ids, attention_mask=mask).logits[:, :-1]
    expected = F.cross_entropy(dense[target[:, 1:]], input_ids[target], reduction="sum")
    expected.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    loss = negative_log_likelihood(model, hidden_before(model, input_ids, mask, target), input_ids[target])
    loss.backward()

    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close([parameter.grad for parameter in model.parameters()], gradients)


def test_logits_are_scaled_and_capped_as_the_model_itself_does():
    sizes = {
        "vocab_size": 300,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "pad_token_id": 0,
    }
    input_ids, mask, target = batch()
    torch.manual_seed(0)
    models = [
        Gemma2ForCausalLM(Gemma2Config(**sizes, final_logit_softcapping=0.1)),
        GraniteForCausalLM(
            GraniteConfig(**{key: size for key, size in sizes.items() if key != "head_dim"}, logits_scaling=8.0)
        ),
    ]
    for model in models:
        with torch.no_grad():
            dense = model.eval()(input_ids, attention_mask=mask).logits[:, :-1][target[:, 1:]]
            torch.testing.assert_close(project(model, hidden_before(model, input_ids, mask, target)), dense)
