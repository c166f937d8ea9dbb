"""The published loss is what its code says, and where it differs from ours it is by what is claimed."""

import math

import pytest
import torch
import torch.nn.functional as F

from encdec_slm.distillation.divergences import divergence_from_logits, masked_mean
from encdec_slm.distillation.original_loss import original_divergence, original_loss


BATCH, TARGET = 3, 5


def logits(teacher=11, student=11):
    return 2 * torch.randn(BATCH, TARGET, teacher), 2 * torch.randn(BATCH, TARGET, student)


@pytest.mark.parametrize(("teacher", "student"), [(11, 11), (9, 11), (11, 9)])
def test_it_is_the_published_expression(teacher, student):
    p, q = logits(teacher, student)
    smaller = min(teacher, student)
    p_rows, q_rows = p[:, :, :smaller].reshape(-1, smaller), q[:, :, :smaller].reshape(-1, smaller)
    expected = F.kl_div(F.log_softmax(q_rows, dim=-1), F.softmax(p_rows, dim=-1), reduction="batchmean")
    torch.testing.assert_close(original_divergence(p, q), expected)
    loss = original_loss(p, q, torch.tensor(2.5))
    torch.testing.assert_close(loss, 0.9 * expected + 0.1 * 2.5)


def test_without_padding_and_other_ids_it_is_ours():
    p, q = logits()
    q.requires_grad_()
    ours = masked_mean(divergence_from_logits(p, q), torch.ones(BATCH, TARGET, dtype=torch.bool))
    theirs = original_divergence(p, q)
    torch.testing.assert_close(theirs, ours)
    torch.testing.assert_close(torch.autograd.grad(theirs, q)[0], torch.autograd.grad(ours, q)[0])


def test_padding_is_in_the_sum_and_in_the_number():
    p, q = logits()
    real = torch.arange(TARGET) < torch.tensor([[5], [2], [3]])
    values = divergence_from_logits(p, q)
    ours, padding = masked_mean(values, real), masked_mean(values, ~real)
    n, total = int(real.sum()), real.numel()
    torch.testing.assert_close(original_divergence(p, q), ours * n / total + padding * (total - n) / total)
    # where both say the same about the padding, it is ours but for the factor: all the less, the more padding
    q = torch.where(real.unsqueeze(-1), q, p)
    torch.testing.assert_close(original_divergence(p, q), ours * n / total)
    longer = [F.pad(x, (0, 0, 0, TARGET)) for x in (p, q)]
    torch.testing.assert_close(original_divergence(*longer), ours * n / total / 2)


def test_it_does_not_see_what_the_student_puts_on_other_ids():
    p, q = logits(9, 9)
    wasteful = [torch.cat([q, torch.full((BATCH, TARGET, 2), extra)], dim=-1) for extra in (-30.0, 3.0, 30.0)]
    theirs = [original_divergence(p, x) for x in wasteful]
    ours = [divergence_from_logits(p, x).mean() for x in wasteful]
    assert theirs[0] == theirs[1] == theirs[2] == original_divergence(p, q)
    torch.testing.assert_close(ours[0], theirs[0])
    assert ours[0] + 0.1 < ours[1] < ours[2] - 10
    # what it does not see has no gradient
    trained = wasteful[1].requires_grad_()
    (gradient,) = torch.autograd.grad(original_divergence(p, trained), trained)
    assert not gradient[..., 9:].any()
    (gradient,) = torch.autograd.grad(divergence_from_logits(p, trained).mean(), trained)
    assert (gradient[..., 9:] > 0).all()


def test_alpha_mixes():
    p, q = logits()
    cross_entropy = torch.tensor(2.5)
    assert original_loss(p, q, cross_entropy, alpha=0.0) == cross_entropy
    assert original_loss(p, q, cross_entropy, alpha=1.0) == original_divergence(p, q)


def test_the_dtype_is_that_of_the_logits_or_as_asked():
    # as many ids as it takes for rounding to show
    p, q = (x.bfloat16() for x in logits(4000, 4000))
    exact = original_divergence(p.double(), q.double()).item()
    assert original_divergence(p, q).dtype == torch.bfloat16
    wide = original_divergence(p, q, dtype=torch.float32)
    assert wide.dtype == torch.float32
    assert math.isclose(wide.item(), exact, rel_tol=1e-5)
    assert not math.isclose(original_divergence(p, q).item(), exact, rel_tol=1e-5)


def test_what_does_not_fit():
    p, q = logits()
    with pytest.raises(ValueError, match="align the positions"):
        original_divergence(p[:, 1:], q)
    with pytest.raises(ValueError, match=r"alpha is 1\.5"):
        original_loss(p, q, torch.tensor(0.0), alpha=1.5)
