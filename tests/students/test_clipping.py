"""Clipping inside the optimizer's step moves weights exactly as clipping before it."""

import pytest
import torch
from torch import nn

from distill_dagster.students.clipping import can_clip_in_step, clip_before_step, clip_in_step, gradient_norm


def make_model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
    model[1].bias.requires_grad_(False)
    return model


def fill_gradients(model: nn.Module, scale: float) -> None:
    generator = torch.Generator().manual_seed(8)
    for one in model.parameters():
        if one.requires_grad:
            one.grad = torch.randn(one.shape, generator=generator) * scale


@pytest.mark.parametrize("scale", [10.0, 0.001])
def test_it_is_clipping_before_the_step(scale):
    found, expected = make_model(3), make_model(3)
    ours = torch.optim.AdamW(found.parameters(), lr=0.1, fused=True)
    plain = torch.optim.AdamW(expected.parameters(), lr=0.1, fused=True)
    for step in (1.0, 0.3, 4.0):
        fill_gradients(found, scale * step)
        fill_gradients(expected, scale * step)

        norm = clip_in_step(ours, found.parameters(), 0.5)
        ours.step()
        before = torch.nn.utils.clip_grad_norm_(expected.parameters(), 0.5)
        plain.step()

        torch.testing.assert_close(norm, before)
        for one, other in zip(found.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(one, other)


def test_a_step_that_others_clip_for_is_not_clipped_again():
    found, expected = make_model(3), make_model(3)
    ours = torch.optim.AdamW(found.parameters(), lr=0.1, fused=True)
    plain = torch.optim.AdamW(expected.parameters(), lr=0.1, fused=True)
    for model in (found, expected):
        fill_gradients(model, 1.0)
    clip_in_step(ours, found.parameters(), 0.01)

    clip_before_step(ours)
    ours.step()
    plain.step()

    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_the_norm_is_over_all_gradients():
    model = make_model(1)
    assert gradient_norm(model.parameters()) == 0
    fill_gradients(model, 1.0)
    whole = torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])

    torch.testing.assert_close(gradient_norm(model.parameters()), whole.double().norm().float())


def test_only_the_fused_optimizer_with_dense_gradients_clips_so():
    model = make_model(2)
    fill_gradients(model, 1.0)
    parameters = list(model.parameters())

    assert can_clip_in_step(torch.optim.AdamW(parameters, fused=True), parameters)
    assert not can_clip_in_step(torch.optim.AdamW(parameters), parameters)
    assert not can_clip_in_step(torch.optim.SGD(parameters, fused=True), parameters)
    embedding = nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    assert not can_clip_in_step(torch.optim.AdamW(embedding.parameters(), fused=True), list(embedding.parameters()))
