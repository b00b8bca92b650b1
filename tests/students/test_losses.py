"""Losses on what a capture keeps of a teacher: the most likely ids with their tail, or drawn ids."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GraniteConfig, LlamaConfig

from distill_dagster.errors import StudentError
from distill_dagster.logits.projection import project
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
    CHUNKS,
    Case,
    assert_as_plain,
    cases,
    draws,
    gradients,
    in_double,
    logits_of,
    make_head,
    make_hidden,
    make_labels,
    small_chunks,
    teacher_log_probs,
    top_k,
)


@settings(deadline=None, max_examples=150)
@given(case=cases(), k=st.integers(1, 60), chunk=CHUNKS)
def test_top_k_loss_is_the_plain_one(case, k, chunk):
    hidden, head = make_hidden(case, case.seed), make_head(case, case.seed)
    targets = top_k(teacher_log_probs(case), k)

    with small_chunks(*chunk):
        assert_as_plain(hidden, head, targets, make_labels(case), case.settings)


@settings(deadline=None, max_examples=100)
@given(case=cases(divergence=Divergence.FORWARD_KL), m=st.integers(1, 20), chunk=CHUNKS)
def test_drawn_loss_is_the_plain_one(case, m, chunk):
    hidden, head = make_hidden(case, case.seed), make_head(case, case.seed)
    targets = draws(teacher_log_probs(case), m, case.seed)

    with small_chunks(*chunk):
        assert_as_plain(hidden, head, targets, make_labels(case), case.settings)


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
    log_p = logits_of(teacher.hidden.double(), in_double(teacher.head), case.vocabulary).log_softmax(1).detach()

    sparse = sparse_kl(hidden, head, top_k(log_p, k))
    full, *_ = full_kl(hidden, head, teacher, make_labels(case))

    assert sparse.shape == full.shape == (case.tokens,)
    assert (sparse >= -1e-5).all()
    assert (sparse <= full + 1e-5 * (1 + full)).all()


@settings(deadline=None)
@given(case=cases(ce_weight=0.0), k=st.integers(1, 60))
def test_a_student_equal_to_the_teacher_loses_nothing_and_is_left_alone(case, k):
    hidden, head = make_hidden(case, case.seed), make_head(case, case.seed)
    logits = logits_of(hidden.double(), in_double(head), case.vocabulary).detach()
    targets = top_k((logits / case.settings.temperature).log_softmax(1), k)

    loss = divergence_loss(hidden, head, targets, make_labels(case), case.settings)
    for_hidden, for_weight = gradients(hidden, head, targets, make_labels(case), case.settings)

    assert abs(loss.item()) <= 1e-5 * case.settings.temperature**2 * max(1, case.tokens)
    torch.testing.assert_close(for_hidden, torch.zeros_like(for_hidden), rtol=0, atol=1e-4)
    torch.testing.assert_close(for_weight, torch.zeros_like(for_weight), rtol=0, atol=1e-4)


def test_drawn_gradients_average_to_the_dense_one_as_draws_grow():
    case = Case(tokens=4, vocabulary=30)
    hidden, head, labels = make_hidden(case, 1), make_head(case, 2), make_labels(case)
    log_p = teacher_log_probs(case)
    exact, _ = gradients(hidden, head, top_k(log_p, case.vocabulary), labels, case.settings)

    def error(repeats):
        samples = [gradients(hidden, head, draws(log_p, 8, seed), labels, case.settings)[0] for seed in range(repeats)]
        return (torch.stack(samples).mean(0) - exact).norm().item()

    few, many = error(25), error(2500)

    assert many < 0.03 * exact.norm().item()
    assert many == pytest.approx(few / 10, rel=0.6)


@pytest.mark.parametrize("divergence", [Divergence.REVERSE_KL, Divergence.JSD])
def test_drawn_ids_train_the_forward_kl_alone(divergence):
    case = Case()
    targets = draws(teacher_log_probs(case), 4, 0)

    with pytest.raises(StudentError, match="forward_kl"):
        divergence_loss(make_hidden(case, 1), make_head(case, 2), targets, make_labels(case), LossSettings(divergence))


@pytest.mark.parametrize("divergence", Divergence)
def test_a_teacher_sure_of_one_token_gives_finite_losses_and_gradients(divergence):
    case = Case(tokens=6, vocabulary=12, settings=LossSettings(divergence))
    hidden, head = make_hidden(case, 1), make_head(case, 2)
    logits = torch.zeros(6, 12, dtype=torch.float64)
    logits[range(6), range(6)] = 60.0
    kept = top_k(logits.log_softmax(1), 3)
    emptied = TopKTargets(kept.ids, kept.log_probs, torch.full((6,), -math.inf))
    zeros = TopKTargets(kept.ids, torch.tensor([[0.0, -math.inf, -60_000.0]] * 6), torch.full((6,), -math.inf))

    for targets in (kept, emptied, zeros):
        assert_as_plain(hidden, head, targets, make_labels(case), case.settings)
        found = gradients(hidden, head, targets, make_labels(case), case.settings)
        assert all(gradient.isfinite().all() for gradient in found)


@pytest.mark.parametrize("divergence", Divergence)
@pytest.mark.parametrize("size", [60.0, 120.0, 400.0])
def test_a_student_sure_of_kept_tokens_still_feels_the_tail(divergence, size):
    """Its tail mass beside the head's is e^-size, which float32 cannot hold next to 1."""
    case = Case(tokens=2, vocabulary=8, hidden=8, settings=LossSettings(divergence))
    hidden = torch.zeros(2, 8)
    hidden[range(2), range(2)] = size
    hidden.requires_grad_()
    head = Head(torch.eye(8).requires_grad_(), None, 1.0, None, 8)
    log_p = torch.full((2, 8), 1 / 8, dtype=torch.float64).log()
    targets = TopKTargets(torch.tensor([[0, 1]] * 2), log_p[:, :2].float(), log_p[:, 2:].logsumexp(1).float())

    assert_as_plain(hidden, head, targets, torch.tensor([0, 5]), case.settings)


def test_rounded_masses_count_as_if_they_added_up():
    case = Case(tokens=3)
    hidden, head, labels = make_hidden(case, 1), make_head(case, 2), make_labels(case)
    exact = top_k(teacher_log_probs(case), 5)
    off = TopKTargets(exact.ids, exact.log_probs + 0.01, exact.log_tail + 0.01)

    normal = off.normalised()

    torch.testing.assert_close(torch.cat([normal.log_probs, normal.log_tail[:, None]], 1).exp().sum(1), torch.ones(3))
    torch.testing.assert_close(
        divergence_loss(hidden, head, off, labels, case.settings),
        divergence_loss(hidden, head, exact, labels, case.settings),
    )


def test_a_frozen_head_gets_no_gradient_and_the_hidden_states_the_same_one():
    case = Case(bias=True)
    hidden, head, labels = make_hidden(case, 1), make_head(case, 2), make_labels(case)
    targets = top_k(teacher_log_probs(case), 4)
    expected, _ = gradients(hidden, head, targets, labels, case.settings)
    frozen = replace(head, weight=head.weight.detach(), bias=head.bias.detach())

    divergence_loss(hidden, frozen, targets, labels, case.settings).backward()

    assert frozen.weight.grad is None
    assert frozen.bias.grad is None
    torch.testing.assert_close(hidden.grad, expected)


def test_a_head_alone_can_be_trained():
    case = Case()
    hidden, head, labels = make_hidden(case, 1), make_head(case, 2), make_labels(case)
    targets = top_k(teacher_log_probs(case), 4)
    _, expected = gradients(hidden, head, targets, labels, case.settings)

    divergence_loss(hidden.detach(), head, targets, labels, case.settings).backward()

    torch.testing.assert_close(head.weight.grad, expected)


def test_without_autograd_only_the_loss_is_formed():
    case = Case()
    hidden, head, labels = make_hidden(case, 1), make_head(case, 2), make_labels(case)
    targets = top_k(teacher_log_probs(case), 4)

    with torch.no_grad():
        loss = divergence_loss(hidden, head, targets, labels, case.settings)

    assert not loss.requires_grad
    torch.testing.assert_close(loss, divergence_loss(hidden, head, targets, labels, case.settings).detach())


def test_padding_rows_of_the_head_get_a_zero_gradient():
    case = Case(vocabulary=9, padding=3, bias=True)
    hidden, head, labels = make_hidden(case, 1), make_head(case, 2), make_labels(case)

    divergence_loss(hidden, head, top_k(teacher_log_probs(case), 4), labels, case.settings).backward()

    assert head.weight.grad[9:].abs().max() == 0
    assert head.bias.grad[9:].abs().max() == 0
    assert head.weight.grad[:9].abs().min() > 0


def test_no_tokens_cost_nothing():
    case = Case(tokens=0, bias=True)
    hidden, head = make_hidden(case, 1), make_head(case, 2)

    loss = divergence_loss(hidden, head, top_k(teacher_log_probs(case), 4), make_labels(case), case.settings)
    loss.backward()

    assert loss.item() == 0
    assert hidden.grad.shape == (0, case.hidden)
    assert head.weight.grad.abs().max() == 0
    assert head.bias.grad.abs().max() == 0


def test_the_loss_is_multiplied_by_temperature_squared_inside_the_gradient():
    case = Case()
    hidden, head, labels = make_hidden(case, 1), make_head(case, 2), make_labels(case)
    targets = top_k(teacher_log_probs(case), 4)
    hot = LossSettings(temperature=3.0)
    bare = replace(hot, t_squared=False)

    squared, plain = gradients(hidden, head, targets, labels, hot), gradients(hidden, head, targets, labels, bare)

    for with_it, without in zip(squared, plain, strict=True):
        torch.testing.assert_close(with_it, 9 * without)


def test_a_factor_outside_and_the_scale_inside_are_the_same():
    case = Case()
    hidden, head, labels = make_hidden(case, 1), make_head(case, 2), make_labels(case)
    targets = top_k(teacher_log_probs(case), 4)
    chosen = LossSettings(temperature=2.0, ce_weight=0.5)

    inside = gradients(hidden, head, targets, labels, chosen, scale=0.2)
    outside = torch.autograd.grad(divergence_loss(hidden, head, targets, labels, chosen) * 0.2, [hidden, head.weight])

    torch.testing.assert_close(inside, list(outside))


def test_gradients_of_two_losses_add_up():
    case = Case()
    hidden, head, labels = make_hidden(case, 1), make_head(case, 2), make_labels(case)
    targets = top_k(teacher_log_probs(case), 4)
    _, once = gradients(hidden, head, targets, labels, case.settings)

    for _ in range(3):
        divergence_loss(hidden, head, targets, labels, case.settings).backward()

    torch.testing.assert_close(head.weight.grad, 3 * once)


def test_autocast_rounds_the_products_and_nothing_else():
    case = Case(tokens=12, hidden=16, vocabulary=50, bias=True)
    hidden, head, labels = make_hidden(case, 1), make_head(case, 2), make_labels(case)
    targets = top_k(teacher_log_probs(case), 8)
    precise = divergence_loss(hidden, head, targets, labels, case.settings)
    expected = gradients(hidden, head, targets, labels, case.settings)

    with torch.autocast("cpu", torch.bfloat16):
        loss = divergence_loss(hidden, head, targets, labels, case.settings)
        found = gradients(hidden, head, targets, labels, case.settings)

    assert loss.dtype == torch.float32
    assert loss.item() != precise.item()
    assert loss.item() == pytest.approx(precise.item(), rel=0.01)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.02 * other.norm()


def test_a_head_kept_in_bfloat16_gets_its_gradients_in_bfloat16():
    case = Case(tokens=12, hidden=16, vocabulary=50)
    hidden, head = make_hidden(case, 1), make_head(case, 2)
    labels, targets = make_labels(case), top_k(teacher_log_probs(case), 8)
    expected = gradients(hidden, head, targets, labels, case.settings)
    half = replace(head, weight=head.weight.detach().bfloat16().requires_grad_())

    with small_chunks(4, 200):
        found = gradients(hidden.detach().bfloat16().requires_grad_(), half, targets, labels, case.settings)

    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one.float() - other).norm() < 0.02 * other.norm()


def test_targets_of_other_tokens_are_refused():
    case = Case(tokens=5)
    targets = top_k(teacher_log_probs(replace(case, tokens=4)), 3)

    with pytest.raises(ValueError, match="5 hidden states, 4 targets"):
        divergence_loss(make_hidden(case, 1), make_head(case, 2), targets, make_labels(case), case.settings)


@pytest.mark.parametrize(
    "wrong",
    [
        {"divergence": Divergence.JSD, "beta": 0.0},
        {"divergence": Divergence.JSD, "beta": 1.0},
        {"temperature": 0.0},
        {"ce_weight": 1.5},
    ],
)
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(StudentError, match="write a number"):
        LossSettings(**wrong)


SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
}


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SMALL),
        CohereConfig(**SMALL, logit_scale=0.25),
        GraniteConfig(**SMALL, logits_scaling=4.0),
        Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=3.0),
    ],
    ids=["llama", "cohere", "granite", "gemma2"],
)
def test_a_models_head_gives_the_models_logits(config):
    model = AutoModelForCausalLM.from_config(config)
    hidden = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)) * 10

    head = Head.of(model, vocabulary=37)

    assert head.weight is model.get_output_embeddings().weight
    assert head.vocabulary == 37
    torch.testing.assert_close(logits_of(hidden, head, 37), project(model, hidden)[:, :37])


def test_a_tokenizer_longer_than_the_head_is_cut_to_it():
    assert Head.of(AutoModelForCausalLM.from_config(LlamaConfig(**SMALL)), vocabulary=64).vocabulary == 40


def test_an_output_layer_of_another_kind_is_refused():
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL, tie_word_embeddings=False))
    model.set_output_embeddings(torch.nn.Sequential(model.get_output_embeddings()))

    with pytest.raises(StudentError, match="Sequential"):
        Head.of(model, vocabulary=40)
