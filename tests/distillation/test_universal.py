"""What is compared is how sure teacher and student are, in order, at the positions that meet, and nothing else."""

import math
import weakref
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from encdec_slm.distillation.chunked_divergence import LazyLogits
from encdec_slm.distillation.heads import GivenLogits
from encdec_slm.distillation.universal import universal_divergence, universal_loss


STUDENT_VOCAB, TEACHER_VOCAB = 11, 14
# rows with 3, 2, 0 and 1 pairs
ALIGNED = torch.tensor(
    [
        [[0, 0], [1, 2], [3, 3]],
        [[0, 0], [4, 5], [-1, -1]],
        [[-1, -1], [-1, -1], [-1, -1]],
        [[2, 1], [-1, -1], [-1, -1]],
    ]
)
BATCH, STUDENT_LENGTH, TEACHER_LENGTH, PAIRS = 4, 5, 6, 6


def lazy(target, vocab, *, hidden=4, dtype=torch.float32, softcap=None, exchange=None, batch=BATCH):
    """Hidden states and a head that are leaves."""
    parts = [torch.randn(*shape, dtype=dtype) for shape in ((batch, target, hidden), (vocab, hidden), (vocab,))]
    return LazyLogits(*(part.requires_grad_() for part in parts), softcap=softcap, exchange=exchange)


def both(**options):
    return lazy(STUDENT_LENGTH, STUDENT_VOCAB, **options), lazy(TEACHER_LENGTH, TEACHER_VOCAB, hidden=3, **options)


def gradients(loss, student):
    return torch.autograd.grad(loss, (student.hidden_states, student.weight, student.bias))


def naive(student, teacher, aligned, *, temperature=1.0, num_items=None):
    """The paper's sum, pair by pair and token by token."""
    differences = []
    for row, pairs in enumerate(aligned.tolist()):
        for i, j in pairs:
            if (i, j) == (-1, -1):
                continue
            p = (teacher.logits()[row, j].detach() / temperature).softmax(dim=-1)
            q = (student.logits()[row, i] / temperature).softmax(dim=-1)
            p, q = sorted(p, reverse=True), sorted(q, reverse=True)
            p += [p[0] * 0] * (len(q) - len(p))
            q += [q[0] * 0] * (len(p) - len(q))
            differences += [abs(a - b) for a, b in zip(p, q, strict=True)]
    count = (aligned[..., 0] >= 0).sum()
    return temperature * sum(differences) / (count if num_items is None else num_items)


class Storages(TorchDispatchMode):
    """Notes the memory of all that any operation returns."""

    def __init__(self):
        super().__init__()
        self.largest, self.references = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in (leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)):
            self.largest = max(self.largest, tensor.numel())
            self.references.append((tensor.numel(), weakref.ref(tensor.untyped_storage())))
        return result

    def largest_alive(self):
        return max(numel for numel, storage in self.references if storage() is not None)


def test_by_hand():
    teacher = torch.tensor([[0.8, 0.2], [0.5, 0.5]]).log()
    student = torch.tensor([[0.3, 0.7], [1.0, 0.0]]).log()
    torch.testing.assert_close(universal_divergence(teacher, student), torch.tensor([0.2, 1.0]))
    # probabilities at T = 1/2 are squares: 0.64 / 0.68 and 0.49 / 0.58
    squared = universal_divergence(teacher, student, temperature=0.5)
    torch.testing.assert_close(squared, 0.5 * torch.tensor([2 * (0.64 / 0.68 - 0.49 / 0.58), 1.0]))
    # a third token, which the student lacks
    teacher = torch.tensor([[0.1, 0.6, 0.3]]).log()
    torch.testing.assert_close(universal_divergence(teacher, student[:1]), torch.tensor([0.1 + 0.0 + 0.1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_which_token_does_not_matter(temperature, dtype):
    teacher = torch.randn(BATCH, 5, TEACHER_VOCAB, dtype=dtype)
    order = torch.argsort(torch.rand(BATCH, 5, TEACHER_VOCAB), dim=-1)
    copy = teacher.gather(-1, order)
    found = universal_divergence(teacher, copy, temperature=temperature)
    torch.testing.assert_close(found, torch.zeros(BATCH, 5, dtype=dtype))
    # nor do tokens that only one side has and that it never says
    padded = torch.cat([copy, copy.new_full((BATCH, 5, 3), -math.inf)], dim=-1)
    torch.testing.assert_close(universal_divergence(teacher, padded, temperature=temperature), found)


@pytest.mark.parametrize("vocabularies", [(7, 7), (7, 12), (12, 7)])
def test_it_is_a_distance(vocabularies):
    first, second = (5 * torch.randn(50, vocab) for vocab in vocabularies)
    third = 5 * torch.randn(50, 9)
    found = universal_divergence(first, second)
    torch.testing.assert_close(found, universal_divergence(second, first))
    assert ((found > 0) & (found <= 2)).all()
    assert (found <= universal_divergence(first, third) + universal_divergence(third, second) + 1e-6).all()


def test_the_gradient_is_as_strong_at_every_temperature():
    teacher, student = torch.randn(64, 20), torch.randn(64, 20).requires_grad_()
    norms = [
        torch.autograd.grad(universal_divergence(teacher, student, temperature=t).sum(), student)[0].norm()
        for t in (10.0, 100.0)
    ]
    torch.testing.assert_close(*norms, rtol=0.1, atol=0)


def test_half_precision_is_computed_in_float32():
    teacher, student = torch.randn(8, 5000).bfloat16(), torch.randn(8, 5000).bfloat16()
    found = universal_divergence(teacher, student)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, universal_divergence(teacher.float(), student.float()))


@pytest.mark.parametrize("chunk_size", [1, 4, 100])
@pytest.mark.parametrize("options", [{}, {"softcap": 2.0}, {"exchange": (2, 5)}], ids=str)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_chunks_are_the_whole(temperature, options, chunk_size):
    student, teacher = both(**options)
    found = universal_loss(student, teacher, ALIGNED, temperature=temperature, chunk_size=chunk_size)
    expected = naive(student, teacher, ALIGNED, temperature=temperature)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, student), gradients(expected, student))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_gradients(temperature):
    student, teacher = both(dtype=torch.float64)

    def loss(*parts):
        return universal_loss(LazyLogits(*parts), teacher, ALIGNED, temperature=temperature, chunk_size=2)

    assert torch.autograd.gradcheck(loss, (student.hidden_states, student.weight, student.bias))


def test_the_teacher_and_what_is_not_paired_learn_nothing():
    student, teacher = both()
    universal_loss(student, teacher, ALIGNED).backward()
    assert teacher.hidden_states.grad is teacher.weight.grad is teacher.bias.grad is None
    paired = {(row, i) for row, pairs in enumerate(ALIGNED.tolist()) for i, _ in pairs if i >= 0}
    assert {tuple(place) for place in student.hidden_states.grad.norm(dim=-1).nonzero().tolist()} == paired


def test_padding_order_and_what_is_not_paired_change_nothing():
    student, teacher = both()
    found = universal_loss(student, teacher, ALIGNED)
    padding = ALIGNED.new_full((BATCH, 2, 2), -1)
    torch.testing.assert_close(universal_loss(student, teacher, torch.cat([ALIGNED, padding], dim=1)), found)
    torch.testing.assert_close(universal_loss(student, teacher, torch.cat([padding, ALIGNED], dim=1)), found)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(universal_loss(student[order], teacher[order], ALIGNED[order]), found)
    with torch.no_grad():
        student.hidden_states[2], teacher.hidden_states[0, 1] = math.nan, math.inf
    torch.testing.assert_close(universal_loss(student, teacher, ALIGNED), found)


def test_batches_that_are_accumulated_are_one_batch():
    student, teacher = both()
    found = universal_loss(student, teacher, ALIGNED)
    parts = [
        universal_loss(student[rows], teacher[rows], ALIGNED[rows], num_items=PAIRS)
        for rows in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(parts), found)
    torch.testing.assert_close(gradients(sum(parts), student), gradients(found, student))
    torch.testing.assert_close(universal_loss(student, teacher, ALIGNED, num_items=torch.tensor(12)), found / 2)


def test_no_pairs_are_a_loss_of_zero():
    student, teacher = both()
    for aligned in (ALIGNED[2:3].expand(BATCH, -1, -1), ALIGNED[:, :0]):
        loss = universal_loss(student, teacher, aligned)
        assert loss == 0
        assert all((gradient == 0).all() for gradient in gradients(loss, student))


def test_without_gradients():
    student, teacher = both()
    with torch.no_grad():
        found = universal_loss(student, teacher, ALIGNED)
    torch.testing.assert_close(found, universal_loss(student, teacher, ALIGNED).detach())
    assert not found.requires_grad


def test_a_teacher_whose_logits_are_given():
    student, teacher = both(exchange=(2, 5))
    given = GivenLogits(replace(teacher, exchange=None).logits().detach(), exchange=(2, 5))
    torch.testing.assert_close(
        universal_loss(student, given, ALIGNED, chunk_size=2), universal_loss(student, teacher, ALIGNED)
    )


def test_logits_exist_for_a_chunk_only_and_are_not_kept():
    vocab, pairs, chunk_size = 500, 64, 8
    student, teacher = (lazy(pairs, vocab, hidden=2, batch=1) for _ in range(2))
    aligned = torch.arange(pairs).view(1, -1, 1).expand(1, pairs, 2)
    with Storages() as storages:
        loss = universal_loss(student, teacher, aligned, chunk_size=chunk_size)
        # views of the head at most
        assert storages.largest_alive() <= 2 * vocab
        loss.backward()
    assert storages.largest == chunk_size * vocab


def test_what_does_not_fit_is_refused():
    student, teacher = both()
    with pytest.raises(ValueError, match=r"shapes \(2, 3\) and \(3, 3\)"):
        universal_divergence(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="temperature is 0"):
        universal_loss(student, teacher, ALIGNED, temperature=0)
    with pytest.raises(ValueError, match="chunk_size is 0"):
        universal_loss(student, teacher, ALIGNED, chunk_size=0)
    with pytest.raises(ValueError, match=r"\(4, 3\), but it is \(batch, pairs, 2\)"):
        universal_loss(student, teacher, ALIGNED[..., 0])
    with pytest.raises(ValueError, match="3 rows of the student and 4 of the teacher"):
        universal_loss(student[:3], teacher, ALIGNED)
    for place, number in (((0, 2, 0), 5), ((0, 2, 1), 6), ((0, 2, 1), -1), ((0, 2, 0), -2)):
        aligned = ALIGNED.clone()
        aligned[place] = number
        with pytest.raises(ValueError, match="there are 5 of the student and 6 of the teacher"):
            universal_loss(student, teacher, aligned)
    for place, number in (((0, 1, 0), 0), ((0, 1, 1), 5)):
        aligned = ALIGNED.clone()
        aligned[place] = number
        with pytest.raises(ValueError, match="both numbers increase"):
            universal_loss(student, teacher, aligned)
