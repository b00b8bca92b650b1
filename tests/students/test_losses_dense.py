"""Losses on a teacher in memory, and how far a student still is from it over the whole vocabulary."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_dagster.students.losses import (
    DenseTargets,
    Divergence,
    Head,
    LossSettings,
    divergence_loss,
    full_kl,
    token_nll,
)
from tests.students.plain_losses import (
    CHUNKS,
    Case,
    assert_as_plain,
    cases,
    gradients,
    in_double,
    logits_of,
    make_head,
    make_hidden,
    make_labels,
    small_chunks,
    top_k,
)


def make_teacher(case: Case, *, extra: int = 0, hidden: int = 5) -> DenseTargets:
    """A teacher of another width, whose vocabulary is longer by `extra`."""
    longer = replace(case, vocabulary=case.vocabulary + extra)
    return DenseTargets(make_hidden(case, case.seed + 3, hidden), make_head(longer, case.seed + 4, hidden))


@settings(deadline=None, max_examples=150)
@given(case=cases(), extra=st.integers(0, 3), chunk=CHUNKS)
def test_dense_loss_is_the_plain_one(case, extra, chunk):
    hidden, head = make_hidden(case, case.seed), make_head(case, case.seed)

    with small_chunks(*chunk):
        assert_as_plain(hidden, head, make_teacher(case, extra=extra), make_labels(case), case.settings)


@pytest.mark.parametrize("divergence", Divergence)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_gradients_are_those_of_finite_differences(divergence, temperature):
    chosen = LossSettings(divergence, beta=0.7, temperature=temperature, ce_weight=0.25)
    case = Case(tokens=3, hidden=3, vocabulary=7, padding=1, bias=True, scale=0.7, softcap=4.0, settings=chosen)
    hidden, head = make_hidden(case, 1, dtype=torch.float64), make_head(case, 2, dtype=torch.float64)
    targets, labels = make_teacher(case), make_labels(case)

    def loss(hidden, weight, bias):
        return divergence_loss(hidden, replace(head, weight=weight, bias=bias), targets, labels, chosen)

    assert torch.autograd.gradcheck(loss, (hidden, head.weight, head.bias))


@pytest.mark.parametrize("divergence", Divergence)
@pytest.mark.parametrize("size", [60.0, 400.0])
def test_two_models_sure_of_different_tokens_have_finite_losses_and_gradients(divergence, size):
    case = Case(tokens=3, hidden=8, vocabulary=8, settings=LossSettings(divergence))
    identity = torch.eye(8)
    hidden = (size * identity[:3]).requires_grad_()
    head = Head(identity.clone().requires_grad_(), None, 1.0, None, 8)
    teacher = DenseTargets(size * identity[3:6], Head(identity, None, 1.0, None, 8))

    assert_as_plain(hidden, head, teacher, make_labels(case), case.settings)


@settings(deadline=None)
@given(case=cases(ce_weight=0.0))
def test_a_student_equal_to_the_teacher_loses_nothing_and_is_left_alone(case):
    hidden, head = make_hidden(case, case.seed), make_head(case, case.seed)
    targets = DenseTargets(hidden.detach(), head)

    loss = divergence_loss(hidden, head, targets, make_labels(case), case.settings)

    assert abs(loss.item()) <= 1e-5 * case.settings.temperature**2 * max(1, case.tokens)
    for gradient in gradients(hidden, head, targets, make_labels(case), case.settings):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-4)


def test_all_ids_kept_are_a_dense_teacher():
    case = Case(vocabulary=12)
    hidden, head, labels = make_hidden(case, 1), make_head(case, 2), make_labels(case)
    teacher = make_teacher(case)
    log_p = logits_of(teacher.hidden.double(), in_double(teacher.head), 12).log_softmax(1).detach()

    for divergence in Divergence:
        chosen = LossSettings(divergence)
        kept = gradients(hidden, head, top_k(log_p, 12), labels, chosen)
        torch.testing.assert_close(gradients(hidden, head, teacher, labels, chosen), kept, rtol=1e-4, atol=1e-5)


def test_the_teacher_gets_no_gradient():
    case = Case(bias=True)
    teacher = make_teacher(case)

    divergence_loss(make_hidden(case, 1), make_head(case, 2), teacher, make_labels(case), case.settings).backward()

    assert teacher.hidden.grad is None
    assert teacher.head.weight.grad is None
    assert teacher.head.bias.grad is None


def test_kept_hidden_states_in_bfloat16_serve_a_student_in_float32():
    case = Case(tokens=8, vocabulary=30)
    teacher = make_teacher(case)
    kept = DenseTargets(
        teacher.hidden.detach().bfloat16(), replace(teacher.head, weight=teacher.head.weight.detach().bfloat16())
    )
    hidden, head, labels = make_hidden(case, 1), make_head(case, 2), make_labels(case)

    loss = divergence_loss(hidden, head, kept, labels, case.settings)

    exact = divergence_loss(hidden, head, teacher, labels, case.settings).item()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=0.03)


@settings(deadline=None)
@given(case=cases(), extra=st.integers(0, 3), chunk=CHUNKS)
def test_full_kl_and_agreement_are_those_of_the_whole_distributions(case, extra, chunk):
    hidden, head = make_hidden(case, case.seed), make_head(case, case.seed)
    teacher = make_teacher(case, extra=extra)
    student = logits_of(hidden.double(), in_double(head), case.vocabulary)
    taught = logits_of(teacher.hidden.double(), in_double(teacher.head), case.vocabulary)
    log_p, log_q = taught.log_softmax(1), student.log_softmax(1)
    labels = make_labels(case)

    with small_chunks(*chunk):
        divergence, surprise, agreement = full_kl(hidden, head, teacher, labels)
        alone = token_nll(hidden, head, labels)

    assert divergence.dtype == torch.float32
    assert not divergence.requires_grad
    expected = (log_p.exp() * (log_p - log_q)).sum(1)
    torch.testing.assert_close(divergence.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    assert agreement.tolist() == (log_p.argmax(1) == log_q.argmax(1)).tolist()
    said = -log_q.detach().gather(1, labels.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(surprise.double(), said, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone.double(), said, rtol=1e-5, atol=1e-5)
    assert not alone.requires_grad


def test_a_student_agrees_with_itself():
    case = Case(tokens=9)
    hidden, head = make_hidden(case, 1), make_head(case, 2)

    divergence, _, agreement = full_kl(hidden, head, DenseTargets(hidden, head), make_labels(case))

    assert agreement.all()
    torch.testing.assert_close(divergence, torch.zeros(9), rtol=0, atol=1e-6)
