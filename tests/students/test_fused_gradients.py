"""Weights whose gradient is added where it is formed have the gradient that autograd gives them."""

import pytest
import torch
from torch import nn

from distill_dagster.students.fused_gradients import fuse_gradients, is_fused, part_gradients
from distill_dagster.students.losses import Head, LossSettings, TopKTargets, divergence_loss

VOCABULARY = 12


class Reader(nn.Module):
    """Reads a shared beginning and then rows with the same layers; one layer is frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.frozen = nn.Linear(6, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, VOCABULARY, bias=False)
        self.frozen.weight.requires_grad_(False)

    def forward(self, beginning: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """[rows, time, hidden]."""
        return self._layers(rows) + self._layers(beginning)

    def _layers(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.frozen(torch.tanh(self.first(tokens)))


def gradients(model: Reader, *, pieces: int) -> dict[str, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(3)
    for _ in range(pieces):
        beginning, rows = (torch.randn(*shape, generator=generator) for shape in ((1, 1, 6), (3, 4, 6)))
        hidden = model(beginning, rows).flatten(0, 1)
        log_p = torch.randn(len(hidden), 3, generator=generator).sub(4)
        ids = torch.rand(len(hidden), VOCABULARY, generator=generator).topk(3).indices
        tail = torch.log1p(-log_p.exp().sum(1))
        head = Head(model.head.weight, None, 1.0, None, VOCABULARY, is_fused(model.head.weight))
        loss = divergence_loss(hidden, head, TopKTargets(ids, log_p, tail), ids[:, 0], LossSettings(ce_weight=0.3))
        loss.backward()
    return {name: one.grad for name, one in model.named_parameters()}


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("products", [True, False])
def test_they_are_those_of_autograd(pieces, products):
    fused = Reader()
    fuse_gradients(fused, fused.head, products=products)

    found, expected = gradients(fused, pieces=pieces), gradients(Reader(), pieces=pieces)

    assert found.keys() == expected.keys()
    assert found["frozen.weight"] is None
    for name in found.keys() - {"frozen.weight"}:
        torch.testing.assert_close(found[name], expected[name])


def test_a_fused_loss_may_not_be_scaled_afterwards():
    head = nn.Linear(4, VOCABULARY, bias=False)
    fuse_gradients(head, head, products=False)
    hidden, ids = torch.randn(2, 4, requires_grad=True), torch.tensor([[1], [2]])
    targets = TopKTargets(ids, torch.full((2, 1), -1.0), torch.full((2,), -0.5))
    loss = divergence_loss(
        hidden, Head(head.weight, None, 1.0, None, VOCABULARY, True), targets, ids[:, 0], LossSettings()
    )

    with pytest.raises(RuntimeError, match="scale"):
        (2 * loss).backward()


def test_what_was_changed_is_taken_back():
    model = Reader()
    fuse_gradients(model, model.head, products=True)
    assert is_fused(model.head.weight)
    assert "forward" in vars(model.first)
    assert "forward" not in vars(model.frozen)

    part_gradients(model)

    assert not is_fused(model.head.weight)
    assert not any("forward" in vars(layer) for layer in model.modules())
