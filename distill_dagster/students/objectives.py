"""What a student minimises: one small class an objective, all with the same three methods."""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill_dagster.logits.head_file import SavedHead
from distill_dagster.logits.packing import draws_tail
from distill_dagster.logits.projection import negative_log_likelihood
from distill_dagster.logits.targets_file import TargetsFile
from distill_dagster.students.losses import (
    DenseTargets,
    Divergence,
    DrawnTargets,
    Head,
    LossSettings,
    TopKTargets,
    divergence_loss,
    full_kl,
    sparse_kl,
)

Measure = Literal["nll", "full_kl", "sparse_kl", "cross_entropy"]


class Objective(Protocol):
    """A loss with what it needs.

    Attributes:
        measure: what `validate` measures.
    """

    measure: Measure

    def targets(self, positions: Sequence[int], epoch: int) -> dict[str, Tensor]:
        """Tensors beside the tokens, for training rows at these positions."""
        ...

    def loss(self, model: PreTrainedModel, hidden: Tensor, inputs: dict[str, Tensor], scale: float) -> Tensor:
        """Summed loss of a batch, times `scale`; `hidden` is [targets, hidden]."""
        ...

    def validate(self, model: PreTrainedModel, hidden: Tensor, labels: Tensor, positions: Sequence[int]) -> Tensor:
        """Summed measure of validation rows at these positions, without gradient."""
        ...


class CompletionObjective:
    """Cross-entropy on completion tokens."""

    measure: Measure = "nll"

    def targets(self, positions: Sequence[int], epoch: int) -> dict[str, Tensor]:
        """None: the labels are all it needs."""
        return {}

    def loss(self, model: PreTrainedModel, hidden: Tensor, inputs: dict[str, Tensor], scale: float) -> Tensor:
        """Summed negative log-likelihood."""
        return negative_log_likelihood(model, hidden, inputs["labels"]) * scale

    def validate(self, model: PreTrainedModel, hidden: Tensor, labels: Tensor, positions: Sequence[int]) -> Tensor:
        """Summed negative log-likelihood."""
        return negative_log_likelihood(model, hidden, labels)


class LogitObjective:
    """Divergence from a teacher's captured distributions, mixed with cross-entropy where that is declared."""

    def __init__(
        self,
        settings: LossSettings,
        train: TargetsFile,
        validation: TargetsFile,
        kept: SavedHead | None,
        vocabulary: int,
    ) -> None:
        """Args:
        train, validation: the captured targets, in the order of the rows.
        kept: the teacher's head; with it, validation rows with kept hidden states are measured over the whole
            vocabulary.
        vocabulary: ids below it are tokens.
        """
        self._settings = settings
        self._train = train
        self._validation = validation
        self._kept = kept
        self._vocabulary = vocabulary
        sparse: Measure = "sparse_kl" if validation.identity.method == "topk" else "cross_entropy"
        self.measure: Measure = sparse if kept is None else "full_kl"

    def targets(self, positions: Sequence[int], epoch: int) -> dict[str, Tensor]:
        """`ids` [targets, k] with `log_probs` and `log_tail`; or `ids`, `weights` and `counts` of drawn targets."""
        if self._train.identity.method == "topk":
            return _topk_and_tail(self._train, positions) if self._draws_tail() else _topk(self._train, positions)
        return _draws(self._train, positions, epoch % (self._train.identity.draw_sets or 1))

    def _draws_tail(self) -> bool:
        """Whether the tail's draws estimate this loss: the forward KL at the temperature that they were drawn at."""
        forward = self._settings.divergence is Divergence.FORWARD_KL and self._settings.temperature == 1.0
        return forward and draws_tail(self._train.identity, self._train.vocabulary)

    def loss(self, model: PreTrainedModel, hidden: Tensor, inputs: dict[str, Tensor], scale: float) -> Tensor:
        """Summed divergence."""
        head = Head.of(model, self._vocabulary)
        targets: TopKTargets | DrawnTargets
        if "weights" in inputs:
            targets = DrawnTargets(inputs["ids"], inputs["weights"], inputs["counts"])
        else:
            targets = TopKTargets(inputs["ids"], inputs["log_probs"], inputs["log_tail"])
        return divergence_loss(hidden, head, targets, inputs["labels"], self._settings, scale=scale)

    def validate(self, model: PreTrainedModel, hidden: Tensor, labels: Tensor, positions: Sequence[int]) -> Tensor:
        """Summed forward KL: of the full distributions, or what sparse ones allow.

        That is a lower bound with the k most likely tokens, the cross-entropy with drawn ones.
        """
        head = Head.of(model, self._vocabulary)
        if self._kept is not None:
            return full_kl(hidden, head, self._full(positions, hidden.device), labels)[0].sum()
        if self._validation.identity.method == "sample":
            drawn = {name: tensor.to(hidden.device) for name, tensor in _draws(self._validation, positions, 0).items()}
            return divergence_loss(hidden, head, DrawnTargets(**drawn), labels, self._settings)
        sparse = {name: tensor.to(hidden.device) for name, tensor in _topk(self._validation, positions).items()}
        return sparse_kl(hidden, head, TopKTargets(sparse["ids"], sparse["log_probs"], sparse["log_tail"])).sum()

    def _full(self, positions: Sequence[int], device: torch.device) -> DenseTargets:
        """The teacher's whole distributions, from its kept hidden states and its head."""
        assert self._kept is not None
        parts = [self._kept.hidden(self._validation.hidden(position) or b"") for position in positions]
        kept = self._kept
        bias = None if kept.bias is None else kept.bias.to(device)
        head = Head(kept.weight.to(device), bias, kept.scale, kept.softcap, kept.vocabulary)
        return DenseTargets(torch.cat(parts).to(device), head)


def _topk(file: TargetsFile, positions: Sequence[int]) -> dict[str, Tensor]:
    parts = [file.topk(position) for position in positions]
    ids, log_probs, log_tail = (np.concatenate(column) for column in zip(*parts, strict=True))
    return {
        "ids": torch.from_numpy(ids.astype(np.int64)),
        "log_probs": torch.from_numpy(log_probs.astype(np.float32)),
        "log_tail": torch.from_numpy(log_tail.astype(np.float32)),
    }


def _topk_and_tail(file: TargetsFile, positions: Sequence[int]) -> dict[str, Tensor]:
    """Each kept id with its probability, each drawn one with an equal share of the tail's mass; weights sum to 1."""
    kept = _topk(file, positions)
    ids, counts = (np.concatenate(part) for part in zip(*(file.tail(position) for position in positions), strict=True))
    whole = TopKTargets(**kept).normalised()
    drawn = torch.from_numpy(counts)
    k = whole.ids.shape[1]
    both = drawn + k
    likely = (both.cumsum(0) - both).unsqueeze(1) + torch.arange(k)
    from_tail = torch.ones(int(both.sum()), dtype=torch.bool)
    from_tail[likely] = False
    merged = {"ids": torch.empty(len(from_tail), dtype=torch.int32), "weights": torch.empty(len(from_tail))}
    share = (whole.log_tail.exp() / drawn).repeat_interleave(drawn)
    for name, head, tail in (("ids", whole.ids, torch.from_numpy(ids)), ("weights", whole.log_probs.exp(), share)):
        merged[name][likely] = head.to(merged[name].dtype)
        merged[name][from_tail] = tail.to(merged[name].dtype)
    return {**merged, "counts": both}


def _draws(file: TargetsFile, positions: Sequence[int], draw_set: int) -> dict[str, Tensor]:
    parts = [file.draws(position, draw_set) for position in positions]
    ids, weights, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    return {
        "ids": torch.from_numpy(ids.astype(np.int32)),
        "weights": torch.from_numpy(weights),
        "counts": torch.from_numpy(counts),
    }
