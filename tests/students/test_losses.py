"""Losses on what a capture keeps of a teacher: the most likely ids with their tail, or drawn ids."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_dagster.errors import StudentError
from distill_dagster.students import heads
from distill_dagster.students.losses import (
    DenseTargets,
    Divergence,
    Head,
    LossSettings,
    TopKTargets,
    divergence_loss,
    full_kl,
    sparse_kl,
)
from tests.students.plain_losses import (
    Case,
    assert_as_plain,
    cases,
    draws,
    gradients,
    logits_of,
    make_head,
    make_hidden,
    make_labels,
    plain_loss,
    teacher_log_probs,
    top_k,
)

CHUNKS = st.sampled_from([(1, 1), (3, 40), (256, 1 << 19)])


def with_chunks(tokens: int, block_logits: int) -> pytest.MonkeyPatch:
    """Small chunks and blocks, so that a dozen tokens are several of each."""
    patch = pytest.MonkeyPatch()
    patch.setattr(heads, "CHUNK_TOKENS", tokens)
    patch.setattr(heads, "BLOCK_LOGITS_CPU", block_logits)
    return patch


@settings(deadline=None, max_examples=300)
@given(case=cases(), k=st.integers(1, 60), chunk=CHUNKS)
def test_top_k_loss_is_the_plain_one(case, k, chunk):
    targets = top_k(teacher_log_probs(case), k)
    patch = with_chunks(*chunk)
    try:
        assert_as_plain(
            make_hidden(case, case.seed), make_head(case, case.seed), targets, make_labels(case), case.settings
        )
    finally:
        patch.undo()


@settings(deadline=None, max_examples=200)
@given(case=cases(divergence=Divergence.FORWARD_KL), m=st.integers(1, 20), chunk=CHUNKS)
def test_drawn_loss_is_the_plain_one(case, m, chunk):
    targets = draws(teacher_log_probs(case), m, case.seed)
    patch = with_chunks(*chunk)
    try:
        assert_as_plain(
            make_hidden(case, case.seed), make_head(case, case.seed), targets, make_labels(case), case.settings
        )
    finally:
        patch.undo()


@pytest.mark.parametrize("divergence", Divergence)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_gradients_are_those_of_finite_differences(divergence, temperature):
    chosen = LossSettings(divergence, beta=0.3, temperature=temperature, ce_weight=0.25)
    case = Case(tokens=3, hidden=3, vocabulary=7, padding=1, bias=True, scale=0.7, softcap=4.0, settings=chosen)
    hidden, head = make_hidden(case, 1, dtype=torch.float64), make_head(case, 2, dtype=torch.float64)
    targets, labels = top_k(teacher_log_probs(case), 3), make_labels(case)

    def loss(hidden, weight, bias):
        return divergence_loss(hidden, replace(head, weight=weight, bias=bias), targets, labels, chosen)

    assert torch.autograd.gradcheck(loss, (hidden, head.weight, head.bias))


def test_gradients_of_drawn_targets_are_those_of_finite_differences():
    case = Case(tokens=3, hidden=3, vocabulary=7, settings=LossSettings(temperature=2.0))
    hidden, head = make_hidden(case, 1, dtype=torch.float64), make_head(case, 2, dtype=torch.float64)
    targets, labels = draws(teacher_log_probs(case), 4, 0), make_labels(case)

    def loss(hidden, weight):
        return divergence_loss(hidden, replace(head, weight=weight), targets, labels, case.settings)

    assert torch.autograd.gradcheck(loss, (hidden, head.weight))


@settings(deadline=None)
@given(case=cases(divergence=Divergence.FORWARD_KL), k=st.integers(1, 60))
def test_the_tail_bucket_bounds_the_full_divergence_from_below(case, k):
    hidden, head = make_hidden(case, case.seed), make_head(case, case.seed)
    teacher = DenseTargets(make_hidden(case, case.seed + 3), make_head(case, case.seed + 3))
    taught = logits_of(teacher.hidden.double(), teacher.head, case.vocabulary) if case.tokens else None
    log_p = (
        torch.empty(0, case.vocabulary) if taught is None else taught.log_softmax(1)
    )

    sparse = sparse_kl(hidden, head, top_k(log_p.detach(), k))
    full, _ = full_kl(hidden, head, teacher)

    assert sparse.shape == full.shape == (case.tokens,)
    assert (sparse >= -1e-5).all()
    assert (sparse <= full + 1e-5 * (1 + full)).all()
