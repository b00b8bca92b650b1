"""Reading a batch as one sequence gives the hidden states and the gradients of reading its rows side by side."""

from functools import partial

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from distill_dagster.logits.projection import CompletionBatch, collate, hidden_before
from distill_dagster.students.cpu_speed import plain_again, quicken
from distill_dagster.students.packed_reading import Packing, can_pack, packed_attention, packed_hidden_before

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
}
BEGINNING = list(range(10, 20))


def make_model(name: str) -> PreTrainedModel:
    torch.manual_seed(4)
    return LlamaForCausalLM(LlamaConfig(**SIZES)) if name == "llama" else Qwen3ForCausalLM(Qwen3Config(**SIZES))


def make_batch(*, share: bool) -> CompletionBatch:
    prompts = [[*BEGINNING, 30], [*BEGINNING, 31, 32, 33], [*BEGINNING, 34]]
    return collate(prompts, [[40, 41, 42, 43, 44], [45], [46, 47]], share=share)


def read(model: PreTrainedModel, batch: CompletionBatch, how) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    hidden = how(model, batch)
    (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
    gradients = {name: one.grad for name, one in model.base_model.named_parameters()}
    return hidden.detach(), {name: one.to_dense() if one.is_sparse else one for name, one in gradients.items()}


@pytest.mark.parametrize("multiple", [1, 7, 64])
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_it_is_the_same_reading(name, share, multiple):
    batch = make_batch(share=share)
    assert bool(len(batch.prefix)) is share
    hidden, gradients = read(make_model(name), batch, hidden_before)
    model = make_model(name)
    assert quicken(model, bf16=False, alone=True)

    packed, packed_gradients = read(model, batch, partial(packed_hidden_before, multiple=multiple))

    assert packed.shape == (8, 16)
    torch.testing.assert_close(packed, hidden)
    torch.testing.assert_close(packed_gradients, gradients)


def test_a_row_sees_neither_its_neighbours_nor_what_comes_later():
    model, batch = make_model("llama"), make_batch(share=True)
    quicken(model, bf16=False, alone=True)
    changed = CompletionBatch(batch.prefix, batch.input_ids.clone(), batch.target)
    changed.input_ids[0, 3:] = 50

    before, after = (packed_hidden_before(model, one).detach() for one in (batch, changed))

    unmoved = torch.tensor([True, True, True, False, False, True, True, True])
    torch.testing.assert_close(before[unmoved], after[unmoved])
    assert not torch.isclose(before[~unmoved], after[~unmoved]).all(1).any()


def test_rows_may_be_read_side_by_side_before_and_after():
    model, batch = make_model("llama"), make_batch(share=True)
    expected = hidden_before(model, batch)
    quicken(model, bf16=False, alone=True)
    torch.testing.assert_close(hidden_before(model, batch), expected)

    plain_again(model)

    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(hidden_before(model, batch), expected)


def test_models_that_it_does_not_suit_are_read_row_by_row():
    sliding = Gemma2ForCausalLM(Gemma2Config(**SIZES, sliding_window=4))
    eager = make_model("llama")
    eager.set_attn_implementation("eager")

    capped = make_model("llama")
    capped.config.attn_logit_softcapping = 50.0

    assert can_pack(make_model("llama"))
    assert not any(map(can_pack, [sliding, eager, capped]))


@pytest.mark.parametrize("share", [True, False])
def test_values_may_be_of_another_width_than_keys(share):
    torch.manual_seed(5)
    batch = make_batch(share=share)
    packing = Packing.of(batch, 8)
    length = packing.positions().shape[1]
    query, key, value = (torch.randn(1, heads, length, size) for heads, size in ((4, 6), (2, 6), (2, 3)))

    found = packed_attention(query, key, value, packing, scale=None, dropout=0.0)

    assert found.shape == (1, length, 4, 3)
    for row, count in zip(packing.places, packing.filled.sum(1) + packing.shared, strict=True):
        seen = row[:count]
        keys, values = (one[:, :, seen].repeat_interleave(2, dim=1) for one in (key, value))
        expected = torch.nn.functional.scaled_dot_product_attention(query[:, :, seen], keys, values, is_causal=True)
        torch.testing.assert_close(found[:, seen].transpose(1, 2), expected)


@pytest.mark.parametrize(("multiple", "filling"), [(1, 0), (8, 4), (20, 0), (64, 44)])
def test_the_sequence_is_filled_up_to_a_round_length(multiple, filling):
    batch = make_batch(share=True)
    packing = Packing.of(batch, multiple)

    ids, positions = packing.sequence(batch.prefix, batch.input_ids[:, :-1]), packing.positions()

    end = [0] * filling
    assert ids[0].tolist() == [*BEGINNING, 30, 40, 41, 42, 43, 31, 32, 33, 34, 46, *end]
    assert positions[0].tolist() == [*range(10), 10, 11, 12, 13, 14, 10, 11, 12, 10, 11, *end]


def test_attention_keeps_its_dropout_and_its_scale():
    model, batch = make_model("llama"), make_batch(share=True)
    quicken(model, bf16=False, alone=True)
    plain = packed_hidden_before(model, batch).detach()
    for layer in model.model.layers:
        layer.self_attn.scaling *= 3
    assert not torch.allclose(packed_hidden_before(model, batch), plain)
    for layer in model.model.layers:
        layer.self_attn.scaling /= 3
        layer.self_attn.attention_dropout = 0.5
    model.train()
    assert not torch.allclose(packed_hidden_before(model, batch), plain)
    model.eval()
    torch.testing.assert_close(packed_hidden_before(model, batch).detach(), plain)
