"""Divergences are what their formulas say, and their gradients too; nothing is NaN that has a value."""

import math

import pytest
import torch

from encdec_slm.distillation.divergences import (
    Divergence,
    TopK,
    divergence_from_logits,
    divergence_from_top_k,
    masked_mean,
    top_k_of_logits,
)


NAMES = ("forward_kl", "reverse_kl", "jsd", "skewed_forward_kl", "skewed_reverse_kl")
# two positions, two tokens each
P = torch.tensor([[[1 / 2, 1 / 2], [1.0, 0.0]]]).log()
Q = torch.tensor([[[1 / 4, 3 / 4], [1 / 2, 1 / 2]]]).log()


def values(name, teacher, student, **options):
    return divergence_from_logits(teacher, student, divergence=Divergence(name=name, **options))


@pytest.mark.parametrize(
    ("name", "options", "first", "second"),
    [
        # 1/2 log 2 + 1/2 log 2/3;  1 log 2 + 0 log 0
        ("forward_kl", {}, math.log(4 / 3) / 2, math.log(2)),
        # 1/4 log 1/2 + 3/4 log 3/2;  1/2 log 1/2 + 1/2 log (1/2 / 0)
        ("reverse_kl", {}, math.log(1 / 2) / 4 + 3 * math.log(3 / 2) / 4, math.inf),
        # m = (3/8, 5/8): half of 1/2 log 4/3 + 1/2 log 4/5, and half of 1/4 log 2/3 + 3/4 log 6/5;
        # m = (3/4, 1/4): half of log 4/3, and half of 1/2 log 2/3 + 1/2 log 2
        ("jsd", {}, math.log(16 / 15) / 4 + math.log(2 / 3) / 8 + 3 * math.log(6 / 5) / 8, math.log(64 / 27) / 4),
        # m = (5/16, 11/16): 1/4 (1/2 log 8/5 + 1/2 log 8/11) + 3/4 (1/4 log 4/5 + 3/4 log 12/11);
        # m = (5/8, 3/8): 1/4 log 8/5 + 3/4 (1/2 log 4/5 + 1/2 log 4/3)
        (
            "jsd",
            {"beta": 1 / 4},
            math.log(64 / 55) / 8 + 3 * math.log(4 / 5) / 16 + 9 * math.log(12 / 11) / 16,
            math.log(8 / 5) / 4 + 3 * math.log(16 / 15) / 8,
        ),
        # m = 1/5 p + 4/5 q = (3/10, 7/10): 1/2 log 5/3 + 1/2 log 5/7;  m = (3/5, 2/5): log 5/3
        ("skewed_forward_kl", {"skew": 1 / 5}, math.log(25 / 21) / 2, math.log(5 / 3)),
        # m = 4/5 p + 1/5 q = (9/20, 11/20): 1/4 log 5/9 + 3/4 log 15/11;  m = (9/10, 1/10): 1/2 log 5/9 + 1/2 log 5
        (
            "skewed_reverse_kl",
            {"skew": 1 / 5},
            math.log(5 / 9) / 4 + 3 * math.log(15 / 11) / 4,
            math.log(25 / 9) / 2,
        ),
    ],
)
def test_worked_examples(name, options, first, second):
    torch.testing.assert_close(values(name, P, Q, **options), torch.tensor([[first, second]]))


def test_a_worked_temperature():
    # at T = 2 the teacher's (16, 1) becomes (4, 1), the student's (1, 1) stays: 4 (4/5 log 8/5 + 1/5 log 2/5)
    found = values("forward_kl", torch.tensor([[[16.0, 1.0]]]).log(), torch.zeros(1, 1, 2), temperature=2.0)
    torch.testing.assert_close(found, torch.tensor([[4 * (0.8 * math.log(1.6) + 0.2 * math.log(0.4))]]))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("name", NAMES)
def test_zero_for_equals_and_positive_otherwise(name, temperature):
    teacher, student = 3 * torch.randn(2, 4, 5, 11)
    assert (values(name, teacher, student, temperature=temperature) > 1e-3).all()
    # logits that differ by a constant are the same distribution
    equal = values(name, teacher, teacher + torch.randn(4, 5, 1), temperature=temperature)
    torch.testing.assert_close(equal, torch.zeros(4, 5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_relations_between_divergences(temperature):
    p, q = 2 * torch.randn(2, 4, 5, 11, dtype=torch.float64)
    t = {"temperature": temperature}
    same = torch.testing.assert_close
    same(values("forward_kl", p, q, **t), values("reverse_kl", q, p, **t))
    same(values("jsd", p, q, beta=0.3, **t), values("jsd", q, p, beta=0.7, **t))
    same(values("skewed_forward_kl", p, q, **t), values("skewed_reverse_kl", q, p, **t))
    same(values("skewed_forward_kl", p, q, skew=0.0, **t), values("forward_kl", p, q, **t))
    same(values("skewed_reverse_kl", p, q, skew=0.0, **t), values("reverse_kl", p, q, **t))
    # JSD(b) = b SKL(b) + (1 - b) SRKL(1 - b)
    skewed = (values("skewed_forward_kl", p, q, skew=0.3, **t), values("skewed_reverse_kl", p, q, skew=0.7, **t))
    same(values("jsd", p, q, beta=0.3, **t), 0.3 * skewed[0] + 0.7 * skewed[1])
    # the limits of the generalised Jensen-Shannon divergence
    close = {"atol": 1e-3, "rtol": 1e-3}
    same(values("jsd", p, q, beta=1e-6, **t) / 1e-6, values("forward_kl", p, q, **t), **close)
    same(values("jsd", p, q, beta=1 - 1e-6, **t) / 1e-6, values("reverse_kl", p, q, **t), **close)


def test_bounds_are_reached_by_distributions_that_share_nothing():
    # p = (1, 0) and q = (0, 1)
    p, q = torch.tensor([[[0.0, -math.inf]]]), torch.tensor([[[-math.inf, 0.0]]])
    bounds = {"jsd": math.log(2), "skewed_forward_kl": -math.log(0.1), "skewed_reverse_kl": -math.log(0.1)}
    for name, bound in bounds.items():
        torch.testing.assert_close(values(name, p, q), torch.tensor([[bound]]))
        assert (values(name, *(20 * torch.randn(2, 8, 8, 5))) <= bound + 1e-6).all()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize(
    ("name", "excluded"),
    # the reverse KL is infinite where the teacher excludes a token
    [(name, excluded) for name in NAMES for excluded in (False, True) if not (excluded and name == "reverse_kl")],
)
def test_gradients(name, temperature, excluded):
    teacher, student = torch.randn(2, 2, 2, 5, dtype=torch.float64)
    if excluded:
        teacher[..., 1] = -math.inf
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: values(name, teacher, logits, temperature=temperature), student)


def test_the_gradient_of_the_forward_kl_is_the_difference():
    teacher, student = torch.randn(2, 3, 4, 7)
    student.requires_grad_()
    values("forward_kl", teacher, student).sum().backward()
    torch.testing.assert_close(student.grad, student.softmax(-1) - teacher.softmax(-1))
    # T² D has the gradient T (q - p)
    student.grad = None
    values("forward_kl", teacher, student, temperature=3.0).sum().backward()
    torch.testing.assert_close(student.grad, 3 * ((student / 3).softmax(-1) - (teacher / 3).softmax(-1)))


def test_the_gradient_of_the_reverse_kl():
    # d KL(q || p) / d logits = q (log q/p - KL(q || p))
    teacher, student = torch.randn(2, 3, 4, 7)
    student.requires_grad_()
    value = values("reverse_kl", teacher, student)
    value.sum().backward()
    gap = student.log_softmax(-1) - teacher.log_softmax(-1)
    torch.testing.assert_close(student.grad, student.softmax(-1) * (gap - value.unsqueeze(-1)))


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_is_as_strong_at_every_temperature(name):
    teacher, student = torch.randn(2, 8, 8, 50, dtype=torch.float64) / 2
    student.requires_grad_()
    norms = []
    for temperature in (1.0, 4.0):
        loss = values(name, teacher, student, temperature=temperature).sum()
        norms.append(torch.autograd.grad(loss, student)[0].norm())
    assert 2 / 3 < norms[0] / norms[1] < 3 / 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name, dtype):
    teacher, student = (4 * torch.randn(2, 3, 4, 4000)).to(dtype)
    found = values(name, teacher, student)
    assert found.dtype == torch.float32
    assert torch.equal(found, values(name, teacher.float(), student.float()))
    torch.testing.assert_close(found.double(), values(name, teacher.double(), student.double()), atol=1e-5, rtol=1e-4)
    # in the dtype of the logits, a divergence of nearly equal distributions is lost
    near = student + (torch.randn(student.shape) / 20).to(dtype)
    assert (values(name, student, near) > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_tokens_that_both_exclude_change_nothing(name):
    teacher, student = torch.randn(2, 2, 3, 5)
    student.requires_grad_()
    gone = torch.full((2, 3, 2), -math.inf)
    excluded = gone.clone().requires_grad_()
    found = values(name, torch.cat([teacher, gone], -1), torch.cat([student, excluded], -1), temperature=2.0)
    torch.testing.assert_close(found, values(name, teacher, student, temperature=2.0))
    found.sum().backward()
    assert student.grad.isfinite().all()
    assert torch.equal(excluded.grad, torch.zeros(2, 3, 2))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("name", NAMES)
def test_top_k_is_a_lower_bound_that_grows_to_the_divergence(name, temperature):
    divergence = Divergence(name=name, temperature=temperature)
    teacher, student = 3 * torch.randn(2, 3, 4, 12)
    whole = divergence_from_logits(teacher, student, divergence=divergence)
    below = torch.zeros(3, 4)
    for k in range(1, 13):
        known = top_k_of_logits(teacher, k, temperature=temperature)
        found = divergence_from_top_k(known, student, divergence=divergence)
        assert (below - 1e-5 <= found).all()
        assert (found <= whole + 1e-5).all()
        below = found
    torch.testing.assert_close(found, whole)


def test_a_worked_top_1():
    # p = (1/2, then 1/2 in the tail), q = (1/4, then 3/4): as in the worked examples
    teacher, student = torch.tensor([[[2.0, 1.0, 1.0]]]).log(), torch.tensor([[[1.0, 1.0, 2.0]]]).log()
    known = top_k_of_logits(teacher, 1)
    torch.testing.assert_close(known.tail, torch.tensor([[0.5]]).log())
    torch.testing.assert_close(divergence_from_top_k(known, student), torch.tensor([[math.log(4 / 3) / 2]]))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_top_k(name):
    known = top_k_of_logits(torch.randn(2, 2, 6, dtype=torch.float64), 3, temperature=2.0)
    divergence = Divergence(name=name, temperature=2.0)
    student = torch.randn(2, 2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda logits: divergence_from_top_k(known, logits, divergence=divergence), student
    )


def test_a_small_tail_is_not_lost_to_rounding():
    # 1 - 1e-9 is 1 in float32
    known = top_k_of_logits(torch.tensor([[[0.0, math.log(1e-9)]]]), 1)
    torch.testing.assert_close(known.tail, torch.tensor([[math.log(1e-9)]]), atol=1e-5, rtol=0)


def test_a_cache_may_round_and_may_have_an_empty_tail():
    known = top_k_of_logits(3 * torch.randn(4, 4, 10), 4)
    rounded = TopK(known.log_probs.half(), known.ids, known.tail.half())
    student = torch.randn(4, 4, 10)
    exact, near = divergence_from_top_k(known, student), divergence_from_top_k(rounded, student)
    torch.testing.assert_close(near, exact, atol=5e-3, rtol=5e-3)
    empty = TopK(torch.zeros(4, 4, 1), known.ids[..., :1], torch.full((4, 4), -math.inf))
    for name in NAMES:
        assert divergence_from_top_k(empty, student, divergence=Divergence(name=name)).isfinite().all()


def test_ids_that_the_student_lacks_are_in_the_tail():
    teacher, student = torch.randn(2, 3, 9), torch.randn(2, 3, 6)
    teacher[..., 8] = 10
    known = top_k_of_logits(teacher, 6, shared_ids=6)
    torch.testing.assert_close(divergence_from_top_k(known, student), divergence_from_logits(teacher, student))
    with pytest.raises(ValueError, match="has id 8, but the student's vocabulary has 6"):
        divergence_from_top_k(top_k_of_logits(teacher, 2), student)


def test_a_mean_counts_what_it_is_told():
    numbers, mask = torch.tensor([[1.0, math.nan], [4.0, math.inf]]), torch.tensor([[True, False], [True, False]])
    assert masked_mean(numbers, mask) == 5 / 2
    assert masked_mean(numbers, mask, num_items=10) == masked_mean(numbers, mask, num_items=torch.tensor(10)) == 1 / 2
    assert masked_mean(numbers, ~mask & mask) == masked_mean(numbers, ~mask & mask, num_items=0) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "kl"}, "divergence is 'kl', but it is one of forward_kl, reverse_kl"),
        ({"beta": 0.0}, "beta is 0.0, .* take forward_kl"),
        ({"beta": 1.0}, "beta is 1.0"),
        ({"skew": 1.0}, "skew is 1.0"),
        ({"skew": -0.1}, "skew is -0.1"),
        ({"temperature": 0.0}, "temperature is 0.0"),
    ],
)
def test_numbers_that_make_no_divergence_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Divergence(**options)


def test_what_does_not_fit_is_refused():
    logits = torch.randn(1, 2, 5)
    known = top_k_of_logits(logits, 2)
    with pytest.raises(ValueError, match=r"have temperature 1\.0, but the divergence has 2\.0"):
        divergence_from_top_k(known, logits, divergence=Divergence(temperature=2.0))
    with pytest.raises(ValueError, match=r"shapes \(1, 2, 2\), \(1, 2, 2\) and \(1, 1\)"):
        TopK(known.log_probs, known.ids, known.tail[:, :1])
    with pytest.raises(ValueError, match="k is 6, but there are 1 to 5"):
        top_k_of_logits(logits, 6)
    with pytest.raises(ValueError, match=r"\(1, 2, 5\) and \(1, 1, 5\): align"):
        divergence_from_logits(logits, logits[:, :1])
