"""The loss at completion positions against the plain one over the whole logits."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    PreTrainedModel,
)

from distill_dagster.logits import projection
from distill_dagster.logits.projection import (
    can_share_prefix,
    collate,
    hidden_before,
    negative_log_likelihood,
    project,
)
from distill_dagster.students.cpu_speed import plain_again, quicken

SIZES = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
COMMON = [7, 8, 9, 10, 11, 12, 13, 14, 15]


def rows() -> tuple[list[list[int]], list[list[int]]]:
    """Prompts that begin alike, and completions, all of different lengths."""
    generator = torch.Generator().manual_seed(1)
    draw = [torch.randint(3, 300, (length,), generator=generator).tolist() for length in (3, 5, 1, 4, 2, 7)]
    return [COMMON + own for own in draw[:3]], draw[3:]


def dense_logits(model: PreTrainedModel, prompts: list[list[int]], completions: list[list[int]]) -> torch.Tensor:
    """[targets, vocabulary], each row read alone."""
    parts = [
        model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    return torch.cat(parts)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("chunk", [4, 1024])
def test_loss_and_gradients_equal_the_dense_ones(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, share: bool
):
    monkeypatch.setattr(projection, "CHUNK_TOKENS", chunk)
    monkeypatch.setattr(projection.chunks, "__defaults__", (chunk,))
    prompts, completions = rows()
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    labels = torch.tensor([token for completion in completions for token in completion])

    expected = F.cross_entropy(dense_logits(model, prompts, completions), labels, reduction="sum")
    expected.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    batch = collate(prompts, completions, share=share)
    loss = negative_log_likelihood(model, hidden_before(model, batch), batch.labels)
    loss.backward()

    assert len(batch.prefix) == (len(COMMON) if share else 0)
    assert torch.equal(batch.labels, labels)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close([parameter.grad for parameter in model.parameters()], gradients)


def test_a_prefix_is_shared_only_where_every_layer_sees_all_of_it(tiny_model: Path):
    assert can_share_prefix(AutoModelForCausalLM.from_pretrained(tiny_model))
    assert not can_share_prefix(Gemma2ForCausalLM(Gemma2Config(**SIZES, sliding_window=4)))


def test_a_prompt_always_keeps_its_last_token():
    batch = collate([COMMON, COMMON], [[20], [21, 22]])

    assert batch.prefix.tolist() == COMMON[:-1]
    assert batch.input_ids.tolist() == [[15, 20, 0], [15, 21, 22]]
    assert batch.target.tolist() == [[False, True, False], [False, True, True]]


def test_one_row_alone_shares_nothing():
    assert len(collate([COMMON], [[20]]).prefix) == 0


def test_what_makes_a_cpu_faster_changes_no_gradient(tiny_model: Path):
    prompts, completions = rows()
    batch = collate(prompts, completions)
    gradients = []
    for quick in (False, True):
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        if quick:
            quicken(model, bf16=True, alone=True)
        negative_log_likelihood(model, hidden_before(model, batch), batch.labels).backward()
        assert not model.get_input_embeddings().weight.grad.is_sparse
        gradients.append([parameter.grad for parameter in model.parameters()])
        plain_again(model)
        assert model.config._attn_implementation == "sdpa"

    torch.testing.assert_close(gradients[0], gradients[1])


def test_logits_are_scaled_and_capped_as_the_model_itself_does():
    prompts, completions = rows()
    torch.manual_seed(0)
    models = [
        Gemma2ForCausalLM(Gemma2Config(**SIZES, final_logit_softcapping=0.1)),
        GraniteForCausalLM(
            GraniteConfig(**{key: size for key, size in SIZES.items() if key != "head_dim"}, logits_scaling=8.0)
        ),
    ]
    for model in models:
        with torch.no_grad():
            dense = dense_logits(model.eval(), prompts, completions)
            batch = collate(prompts, completions, share=can_share_prefix(model))
            torch.testing.assert_close(project(model, hidden_before(model, batch)), dense)
