"""Pruning in depth: which layers go, and that the rest is a sound model."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from transformers import AutoModelForCausalLM

from distill_dagster.errors import StudentError
from distill_dagster.jobs import ModelRef, PrunedBase
from distill_dagster.students.bases import block_influence, decoder_layers, load_base, most_influential

CALIBRATION = [[5, 6, 7, 8, 9, 10], [40, 41, 42], [100, 101, 102, 103]]


def pruned(model: Path, layers: int) -> PrunedBase:
    return PrunedBase(model=ModelRef(source=str(model)), layers=layers)


def test_a_pruned_model_generates_the_same_with_and_without_cache(tiny_model: Path):
    base = load_base(pruned(tiny_model, 2), CALIBRATION)
    prompt = torch.tensor([[1, 70, 80, 90]])

    texts = [
        base.model.eval().generate(prompt, max_new_tokens=20, do_sample=False, use_cache=cache, eos_token_id=None)
        for cache in (True, False)
    ]

    assert torch.equal(*texts)
    assert [layer.self_attn.layer_idx for layer in base.model.model.layers] == [0, 1]
    assert base.model.config.num_hidden_layers == 2


def test_block_influence_is_one_minus_the_mean_cosine_of_input_and_output(tiny_model: Path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    _, layers = decoder_layers(model, "tiny")

    cosines: list[list[torch.Tensor]] = [[] for _ in layers]
    for row in CALIBRATION:
        states = model.model(torch.tensor([row]), output_hidden_states=True).hidden_states
        for index in range(len(layers) - 1):  # the last one's output is seen only through the final norm
            cosines[index].append(F.cosine_similarity(states[index][0], states[index + 1][0], dim=-1))
    expected = [1 - torch.cat(cosine).mean().item() for cosine in cosines[:-1]]

    assert block_influence(model, layers, CALIBRATION)[:-1] == pytest.approx(expected, abs=1e-5)


def test_the_least_influential_layers_go_and_their_weights_with_them(tiny_model: Path):
    whole = AutoModelForCausalLM.from_pretrained(tiny_model)
    base = load_base(pruned(tiny_model, 3), CALIBRATION)

    assert base.block_influence is not None
    assert base.kept_layers == most_influential(base.block_influence, 3)
    for index, kept in enumerate(base.kept_layers):
        ours, theirs = base.model.model.layers[index], whole.model.layers[kept]
        assert torch.equal(ours.mlp.up_proj.weight, theirs.mlp.up_proj.weight)
    assert base.model.get_input_embeddings().weight is base.model.get_output_embeddings().weight


def test_of_equal_layers_the_earlier_stays():
    assert most_influential([0.2, 0.1, 0.2, 0.2], 2) == [0, 2]


def test_more_layers_than_there_are_cannot_be_kept(tiny_model: Path):
    with pytest.raises(StudentError, match="has 4 layers, so 5 cannot be kept"):
        load_base(pruned(tiny_model, 5), CALIBRATION)


def test_a_base_that_is_nowhere_is_named(tmp_path: Path):
    with pytest.raises(StudentError, match=r"nothing.*cannot be loaded.*safetensors"):
        load_base(ModelRef(source=str(tmp_path / "nothing")), [])
