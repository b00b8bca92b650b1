"""The losses once more, in float64, over the whole vocabulary and by autograd: what the chunked ones must equal."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from distill_dagster.students import heads
from distill_dagster.students.losses import (
    DenseTargets,
    Divergence,
    DrawnTargets,
    Head,
    LossSettings,
    TopKTargets,
    divergence_loss,
)

SMALLEST_LOG_MASS = math.log(2.0**-149)


@dataclass(frozen=True)
class Case:
    """A student, a teacher and settings; `seed` decides the numbers."""

    seed: int = 0
    tokens: int = 5
    hidden: int = 6
    vocabulary: int = 20
    padding: int = 0
    bias: bool = False
    scale: float = 1.0
    softcap: float | None = None
    spread: float = 1.0
    settings: LossSettings = field(default_factory=LossSettings)


def cases(**fixed) -> st.SearchStrategy[Case]:
    """Small cases of any shape; `fixed` are settings of the loss that do not vary."""
    settings = {
        "divergence": st.sampled_from(Divergence),
        "beta": st.floats(0.05, 0.95),
        "temperature": st.sampled_from([1.0, 0.7, 2.0, 4.0]),
        "t_squared": st.booleans(),
        "ce_weight": st.sampled_from([0.0, 0.3, 1.0]),
    }
    return st.builds(
        Case,
        seed=st.integers(0, 10_000),
        tokens=st.integers(0, 12),
        hidden=st.integers(1, 16),
        vocabulary=st.integers(2, 60),
        padding=st.integers(0, 4),
        bias=st.booleans(),
        scale=st.sampled_from([1.0, 0.25, 3.0]),
        softcap=st.sampled_from([None, 5.0, 30.0]),
        spread=st.sampled_from([0.1, 1.0, 3.0]),
        settings=st.builds(LossSettings, **{**settings, **{name: st.just(value) for name, value in fixed.items()}}),
    )


CHUNKS = st.sampled_from([(1, 1), (3, 40), (256, 1 << 19)])


@contextmanager
def small_chunks(tokens: int, block_logits: int) -> Iterator[None]:
    """So small that a dozen tokens are several chunks, and a chunk several blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "CHUNK_TOKENS", tokens)
        patch.setattr(heads, "BLOCK_LOGITS_CPU", block_logits)
        yield


def make_head(case: Case, seed: int, hidden: int | None = None, dtype: torch.dtype = torch.float32) -> Head:
    """A head whose parameters want gradients."""
    generator = torch.Generator().manual_seed(seed)
    rows, size = case.vocabulary + case.padding, hidden or case.hidden
    weight = torch.randn(rows, size, generator=generator) * case.spread / math.sqrt(size)
    bias = torch.randn(rows, generator=generator) if case.bias else None
    return Head(
        weight.to(dtype).requires_grad_(),
        None if bias is None else bias.to(dtype).requires_grad_(),
        case.scale,
        case.softcap,
        case.vocabulary,
    )


def make_hidden(case: Case, seed: int, hidden: int | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """[tokens, hidden], wanting a gradient."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(case.tokens, hidden or case.hidden, generator=generator).to(dtype).requires_grad_()


def make_labels(case: Case) -> Tensor:
    return torch.randint(case.vocabulary, (case.tokens,), generator=torch.Generator().manual_seed(case.seed + 1))


def teacher_log_probs(case: Case) -> Tensor:
    """[tokens, vocabulary] float64, at the training temperature."""
    generator = torch.Generator().manual_seed(case.seed + 2)
    logits = torch.randn(case.tokens, case.vocabulary, generator=generator, dtype=torch.float64)
    return (2 * logits / case.settings.temperature).log_softmax(1)


def top_k(log_p: Tensor, k: int) -> TopKTargets:
    """What a capture keeps of a distribution, in float32."""
    log_probs, ids = log_p.topk(min(k, log_p.shape[1]), dim=1)
    tail = log_p.scatter(1, ids, -torch.inf).logsumexp(1)
    return TopKTargets(ids, log_probs.float(), tail.float())


def draws(log_p: Tensor, m: int, seed: int) -> DrawnTargets:
    """`m` ids drawn from each distribution and one more from every other; every draw an id of its own."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.multinomial(log_p.exp(), m + 1, replacement=True, generator=generator)
    counts = m + torch.arange(len(ids)) % 2
    kept = torch.arange(m + 1) < counts[:, None]
    return DrawnTargets(ids[kept].int(), (1 / counts).repeat_interleave(counts), counts)


def logits_of(hidden: Tensor, head: Head, vocabulary: int) -> Tensor:
    logits = hidden @ head.weight.T
    if head.bias is not None:
        logits = logits + head.bias
    logits = logits[:, :vocabulary] * head.scale
    return logits if head.softcap is None else torch.tanh(logits / head.softcap) * head.softcap


def divergence_of(log_p: Tensor, log_q: Tensor, settings: LossSettings) -> Tensor:
    """Divergence of each row, from the definitions."""
    p, q, beta = log_p.exp(), log_q.exp(), settings.beta
    if settings.divergence is Divergence.FORWARD_KL:
        return (p * (log_p - log_q)).sum(1)
    if settings.divergence is Divergence.REVERSE_KL:
        return (q * (log_q - log_p)).sum(1)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log(1 - beta))
    return (beta * p * (log_p - log_m) + (1 - beta) * q * (log_q - log_m)).sum(1)


def plain_loss(hidden: Tensor, head: Head, targets, labels: Tensor, settings: LossSettings) -> Tensor:
    vocabulary = head.vocabulary
    if isinstance(targets, DenseTargets):
        vocabulary = min(vocabulary, targets.head.vocabulary)
    logits = logits_of(hidden, head, vocabulary)
    log_q = (logits / settings.temperature).log_softmax(1)
    if isinstance(targets, DrawnTargets):
        token = torch.repeat_interleave(targets.counts)
        p = torch.zeros_like(log_q).index_put((token, targets.ids.long()), targets.weights.double(), accumulate=True)
        divergence = -(p * log_q).sum(1)
    elif isinstance(targets, DenseTargets):
        taught = logits_of(targets.hidden.double(), in_double(targets.head), vocabulary)
        divergence = divergence_of((taught / settings.temperature).log_softmax(1).detach(), log_q, settings)
    else:
        log_p = torch.cat([targets.log_probs, targets.log_tail[:, None]], dim=1).double().log_softmax(1)
        log_p = log_p.clamp(min=SMALLEST_LOG_MASS)
        log_tail = log_q.scatter(1, targets.ids, -torch.inf).logsumexp(1, keepdim=True)
        buckets = torch.cat([log_q.gather(1, targets.ids), log_tail], dim=1)
        if targets.ids.shape[1] == vocabulary:
            log_p, buckets = log_p[:, :-1], buckets[:, :-1]
        divergence = divergence_of(log_p, buckets, settings)
    if settings.t_squared:
        divergence = divergence * settings.temperature**2
    cross_entropy = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    return (1 - settings.ce_weight) * divergence.sum() + settings.ce_weight * cross_entropy


def in_double(head: Head) -> Head:
    """A float64 copy with gradients of its own."""
    bias = None if head.bias is None else head.bias.detach().double().requires_grad_()
    return replace(head, weight=head.weight.detach().double().requires_grad_(), bias=bias)


def assert_as_plain(hidden: Tensor, head: Head, targets, labels: Tensor, settings: LossSettings) -> None:
    """Loss and gradients of the chunked loss are those of the plain one, in float64 to the last digits and in float32.

    In float32 a logit z is off by |z| / 10^7, and a gradient by that times how fast it changes with z.
    """
    precise_hidden, precise = hidden.detach().double().requires_grad_(), in_double(head)
    expected = plain_loss(precise_hidden, precise, targets, labels, settings)
    wanted = torch.autograd.grad(expected, _parameters(precise_hidden, precise))
    largest = logits_of(precise_hidden, precise, head.vocabulary).abs().max().item() if len(hidden) else 0.0
    rough = 1e-6 * (1 + largest) * max(1.0, head.scale) * max(1.0, settings.temperature) * max(1, len(hidden))

    dense = isinstance(targets, DenseTargets)
    precise_targets = DenseTargets(targets.hidden.double(), in_double(targets.head)) if dense else targets
    both = ((precise_hidden, precise, precise_targets, 1e-9), (hidden, head, targets, rough))
    for given_hidden, given_head, given_targets, tolerance in both:
        loss = divergence_loss(given_hidden, given_head, given_targets, labels, settings)

        assert loss.dtype == given_hidden.dtype
        assert loss.shape == ()
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=tolerance)
        found = torch.autograd.grad(loss, _parameters(given_hidden, given_head))
        for gradient, reference in zip(found, wanted, strict=True):
            torch.testing.assert_close(gradient.double(), reference, rtol=1e-5, atol=tolerance)


def _parameters(hidden: Tensor, head: Head) -> list[Tensor]:
    return [hidden, head.weight] if head.bias is None else [hidden, head.weight, head.bias]


def gradients(hidden: Tensor, head: Head, targets, labels: Tensor, settings: LossSettings, **options) -> list[Tensor]:
    """Gradients of the chunked loss in hidden states and weight."""
    loss = divergence_loss(hidden, head, targets, labels, settings, **options)
    return list(torch.autograd.grad(loss, [hidden, head.weight]))
