"""Probability is never lost: what one side has and the other has not is in the tail, and it is paid for."""

import math

import pytest
import torch
from distillation_tester import word_tokenizer
from transformers import PreTrainedTokenizerFast
from word_tokenizers import save_word_tokenizer

from encdec_slm.distillation.divergences import Divergence, divergence_from_logits
from encdec_slm.distillation.vocabularies import LOG_TINY, count_shared_ids, log_tail, to_shared_ids


NAMES = ("forward_kl", "reverse_kl", "jsd", "skewed_forward_kl", "skewed_reverse_kl")


def tokenizer(folder, words):
    return PreTrainedTokenizerFast.from_pretrained(save_word_tokenizer(folder, words))


@pytest.mark.parametrize(
    ("teacher", "student", "shared"), [(9, 7, None), (7, 9, None), (9, 9, 6), (8, 9, 6), (9, 7, 7)]
)
def test_both_sides_keep_all_their_probability(teacher, student, shared):
    log_probs = [torch.randn(2, 3, size).log_softmax(-1) for size in (teacher, student)]
    number = shared or min(teacher, student)
    for before, after in zip(log_probs, to_shared_ids(*log_probs, shared_ids=shared), strict=True):
        assert after.shape == (2, 3, number + 1)
        assert torch.equal(after[..., :-1], before[..., :number])
        torch.testing.assert_close(after.exp().sum(-1), torch.ones(2, 3))


def test_equal_vocabularies_have_no_tail():
    teacher, student = torch.randn(2, 2, 3, 5).log_softmax(-1)
    assert all(
        after is before for before, after in zip((teacher, student), to_shared_ids(teacher, student), strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_student_pays_for_probability_on_ids_that_the_teacher_lacks(name):
    teacher = torch.tensor([[[0.25, 0.75]]]).log()
    losses = [
        divergence_from_logits(
            teacher,
            torch.tensor([[[0.25 * (1 - extra), 0.75 * (1 - extra), extra]]]).log(),
            divergence=Divergence(name=name),
        ).item()
        for extra in (0.0, 0.1, 0.9)
    ]
    assert losses[0] == pytest.approx(0, abs=1e-6)
    assert losses[0] < losses[1] < losses[2] < math.inf
    # cut before the softmax, the student would look perfect
    assert losses[2] > 0.3


def test_the_price_of_an_id_that_the_teacher_lacks():
    # p = (1/4, 3/4, 0) and q = (1/40, 3/40, 9/10): KL(p || q) = 1/4 log 10 + 3/4 log 10
    teacher, student = torch.tensor([[[1.0, 3.0]]]).log(), torch.tensor([[[1.0, 3.0, 36.0]]]).log()
    torch.testing.assert_close(divergence_from_logits(teacher, student), torch.tensor([[math.log(10)]]))
    # and KL(q || p) = 1/10 log 1/10 + 9/10 (log 9/10 - log tiny)
    price = 0.1 * math.log(0.1) + 0.9 * (math.log(0.9) - LOG_TINY)
    found = divergence_from_logits(teacher, student, divergence=Divergence(name="reverse_kl"))
    torch.testing.assert_close(found, torch.tensor([[price]]))


@pytest.mark.parametrize("name", NAMES)
def test_a_larger_vocabulary_changes_nothing_where_it_has_no_probability(name):
    divergence = Divergence(name=name)
    teacher, student = torch.randn(2, 2, 3, 5)
    alike = divergence_from_logits(teacher, student, divergence=divergence)
    unused = torch.full((2, 3, 4), -math.inf)
    more_teacher, more_student = torch.cat([teacher, unused], -1), torch.cat([student, unused[..., :2]], -1)
    for one, other in ((more_teacher, student), (teacher, more_student), (more_teacher, more_student)):
        torch.testing.assert_close(divergence_from_logits(one, other, divergence=divergence), alike)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("teacher_size", "student_size"), [(5, 8), (8, 5)])
def test_unequal_vocabularies_have_finite_losses_and_gradients(name, teacher_size, student_size):
    teacher, student = torch.randn(2, 3, teacher_size), torch.randn(2, 3, student_size, requires_grad=True)
    loss = divergence_from_logits(teacher, student, divergence=Divergence(name=name, temperature=2.0))
    loss.sum().backward()
    assert (loss > 0).all()
    assert student.grad.isfinite().all()
    # the student is taken off ids of its own; a softmax does not change by a constant
    torch.testing.assert_close(student.grad.sum(-1), torch.zeros(2, 3), atol=1e-4, rtol=0)
    if student_size > teacher_size:
        assert (student.grad[..., teacher_size:] > 0).all()


def test_the_tail_is_the_sum_and_never_nothing():
    # 1/8 + 3/8 = 1/2
    torch.testing.assert_close(log_tail(torch.tensor([0.125, 0.375]).log()), torch.tensor(0.5).log())
    nothing = torch.full((2, 3), -math.inf, requires_grad=True)
    torch.testing.assert_close(log_tail(nothing), torch.full((2,), LOG_TINY))
    torch.testing.assert_close(log_tail(torch.empty(2, 0)), torch.full((2,), LOG_TINY))
    log_tail(nothing).sum().backward()
    assert torch.equal(nothing.grad, torch.zeros(2, 3))


@pytest.mark.parametrize("shared", [0, 6])
def test_more_ids_than_there_are_cannot_be_shared(shared):
    with pytest.raises(ValueError, match=f"share {shared} ids, but their vocabularies have 5 and 8"):
        to_shared_ids(torch.randn(5), torch.randn(8), shared_ids=shared)


def test_tokenizers_share_the_ids_of_the_smaller_one(tmp_path):
    words = ["<unk>", "a", "b", "c"]
    short, long = tokenizer(tmp_path / "short", words), tokenizer(tmp_path / "long", [*words, "<extra_id_0>"])
    assert count_shared_ids(short, short) == count_shared_ids(short, long) == count_shared_ids(long, short) == 4


def test_special_tokens_behind_the_words_need_not_be_the_same():
    words = ["<unk>", "a", "b", "</s>"]

    def with_special(*special, more=()):
        roles = {"pad_token": "</s>", "bos_token": "</s>", "extra_special_tokens": list(special)}
        return word_tokenizer([*words, *special, *more], end=None, **roles)

    first, second = with_special("<image>", "<row>"), with_special("<row>", "<image>", "<end>")
    assert count_shared_ids(first, second) == count_shared_ids(second, first) == 4
    assert count_shared_ids(first, with_special("<image>", "<tile>")) == 5
    # a word behind them has a right place and a wrong one
    with pytest.raises(ValueError, match="2 of 7 ids mean different tokens"):
        count_shared_ids(with_special("<image>", "<row>", more="c"), with_special("<row>", "<image>", more="c"))


def test_tokenizers_with_other_strings_are_refused(tmp_path):
    teacher = tokenizer(tmp_path / "teacher", ["<unk>", "a", "b", "c", "d", "e"])
    student = tokenizer(tmp_path / "student", ["<unk>", "b", "a", "c", "e"])
    with pytest.raises(
        ValueError, match=r"3 of 5 ids .*\(1 is 'a' and 'b', 2 is 'b' and 'a', 4 is 'd' and 'e'\).*universal"
    ):
        count_shared_ids(teacher, student)
