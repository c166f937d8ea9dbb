"""Chunks give what the whole would, gradients included, and never make a tensor of its size."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from encdec_slm.distillation.chunked_divergence import IGNORE_INDEX, LazyLogits, Objective, distillation_loss
from encdec_slm.distillation.divergences import (
    Divergence,
    divergence_from_logits,
    divergence_from_top_k,
    masked_mean,
    top_k_of_logits,
)


NAMES = ("forward_kl", "reverse_kl", "jsd", "skewed_forward_kl", "skewed_reverse_kl")
BATCH, TARGET, VOCAB = 3, 5, 11


def lazy(
    hidden=4, vocab=VOCAB, *, bias=True, softcap=None, batch=BATCH, target=TARGET, dtype=torch.float32, trained=True
):
    """Hidden states and a head that are leaves."""
    parts = (torch.randn(batch, target, hidden), torch.randn(vocab, hidden), torch.randn(vocab) if bias else None)
    parts = [None if part is None else part.to(dtype).requires_grad_(trained) for part in parts]
    return LazyLogits(*parts, softcap)


def leaves(student):
    return [part for part in (student.hidden_states, student.weight, student.bias) if part is not None]


def some_labels(batch=BATCH, target=TARGET, vocab=VOCAB):
    """Rows of unequal lengths; the ids 0 and 1 are tokens like others."""
    labels = torch.randint(vocab, (batch, target))
    for row in range(batch):
        labels[row, target - row % target :] = IGNORE_INDEX
    return labels


def naive(student, teacher, labels, *, objective, mask=None, num_items=None, shared_ids=None):
    """Returns the loss and its parts from all logits at once."""
    logits = student.logits()
    learned = labels != IGNORE_INDEX
    mask = learned if mask is None else mask
    cross_entropy = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=objective.label_smoothing
    ).view_as(labels)
    values = divergence_from_logits(
        teacher.logits().detach(), logits, divergence=objective.divergence, shared_ids=shared_ids
    )
    parts = masked_mean(cross_entropy, learned, num_items=num_items), masked_mean(values, mask, num_items=num_items)
    return (1 - objective.alpha) * parts[0] + objective.alpha * parts[1], *parts


def gradients(loss, student):
    return torch.autograd.grad(loss, [part for part in leaves(student) if part.requires_grad])


class Allocations(TorchDispatchMode):
    """Notes the shape of all that any operation returns."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.shapes += [leaf.shape for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        return result

    @property
    def largest(self):
        return max(shape.numel() for shape in self.shapes)


@pytest.mark.parametrize("chunk_size", [1, 4, 100])
@pytest.mark.parametrize(
    ("options", "teacher_vocab", "shared_ids"),
    [
        ({}, VOCAB, None),
        ({"bias": False}, VOCAB, None),
        ({"softcap": 2.0}, VOCAB, None),
        ({}, 7, None),
        ({}, 14, None),
        ({}, 14, 9),
    ],
    ids=str,
)
def test_chunks_are_the_whole(options, teacher_vocab, shared_ids, chunk_size):
    student, teacher = lazy(**options), lazy(6, teacher_vocab, softcap=3.0)
    labels, objective = some_labels(), Objective(alpha=0.7, label_smoothing=0.1)
    found = distillation_loss(
        student, teacher, labels, objective=objective, shared_ids=shared_ids, chunk_size=chunk_size
    )
    whole, *parts = naive(student, teacher, labels, objective=objective, shared_ids=shared_ids)
    torch.testing.assert_close((found.loss, found.cross_entropy, found.divergence), (whole, *parts))
    torch.testing.assert_close(gradients(found.loss, student), gradients(whole, student))
    assert not found.cross_entropy.requires_grad
    assert not found.divergence.requires_grad
    torch.testing.assert_close(found.loss.detach(), 0.7 * found.divergence + 0.3 * found.cross_entropy)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("name", NAMES)
def test_gradients(name, temperature):
    student = lazy(3, 6, batch=2, target=3, dtype=torch.float64)
    teacher, labels = lazy(2, 6, batch=2, target=3, dtype=torch.float64), some_labels(2, 3, 6)
    objective = Objective(alpha=0.6, divergence=Divergence(name=name, temperature=temperature), label_smoothing=0.2)

    def loss(*parts):
        return distillation_loss(LazyLogits(*parts), teacher, labels, objective=objective, chunk_size=2).loss

    assert torch.autograd.gradcheck(loss, leaves(student))
    assert teacher.weight.grad is None


def test_top_k_teachers():
    student, labels = lazy(), some_labels()
    teacher = top_k_of_logits(lazy(6).logits().detach(), 3, temperature=2.0)
    objective = Objective(alpha=1.0, divergence=Divergence(name="jsd", temperature=2.0))
    found = distillation_loss(student, teacher, labels, objective=objective, chunk_size=4)
    values = divergence_from_top_k(teacher, student.logits(), divergence=objective.divergence)
    whole = masked_mean(values, labels != IGNORE_INDEX)
    torch.testing.assert_close(found.loss, whole)
    torch.testing.assert_close(gradients(found.loss, student), gradients(whole, student))


def test_one_term_alone():
    student, teacher, labels = lazy(), lazy(6), some_labels()
    both = distillation_loss(student, teacher, labels, objective=Objective(alpha=0.5))
    only_labels = distillation_loss(student, None, labels, objective=Objective(alpha=0.0))
    mask = labels != IGNORE_INDEX
    only_teacher = distillation_loss(student, teacher, None, mask=mask, objective=Objective(alpha=1.0))
    torch.testing.assert_close(only_labels.loss.detach(), both.cross_entropy)
    torch.testing.assert_close(only_teacher.loss.detach(), both.divergence)
    assert only_labels.divergence is only_teacher.cross_entropy is None
    # the parts are told whatever their weights
    told = distillation_loss(student, teacher, labels, objective=Objective(alpha=1.0))
    torch.testing.assert_close((told.cross_entropy, told.divergence), (both.cross_entropy, both.divergence))
    halves = (only_labels.loss + only_teacher.loss) / 2
    torch.testing.assert_close(gradients(both.loss, student), gradients(halves, student))


def test_an_infinite_part_without_weight_harms_nothing():
    student, labels = lazy(), some_labels()
    teacher = lazy(6)
    teacher.bias.data[3] = -math.inf
    divergence = Divergence(name="reverse_kl")
    found = distillation_loss(student, teacher, labels, objective=Objective(alpha=0.0, divergence=divergence))
    assert found.divergence == math.inf
    torch.testing.assert_close(found.loss.detach(), found.cross_entropy)
    assert all(gradient.isfinite().all() for gradient in gradients(found.loss, student))


def test_perfect_logits_cost_nothing():
    student, labels = lazy(), some_labels()
    for name in NAMES:
        objective = Objective(alpha=1.0, divergence=Divergence(name=name))
        found = distillation_loss(student, student, labels, objective=objective)
        torch.testing.assert_close(found.loss, torch.tensor(0.0), atol=1e-6, rtol=0)
        assert all(gradient.abs().max() < 1e-6 for gradient in gradients(found.loss, student))
    # and the cross-entropy of a student that is sure of the labels
    sure = LazyLogits(100 * F.one_hot(labels.clamp(min=0), VOCAB).float(), torch.eye(VOCAB))
    assert distillation_loss(sure, None, labels, objective=Objective(alpha=0.0)).loss == 0


def test_tied_and_frozen_heads():
    labels, objective, teacher = some_labels(), Objective(), lazy(6)
    weight, ids = torch.randn(VOCAB, 4, requires_grad=True), torch.randint(VOCAB, (BATCH, TARGET))
    tied = LazyLogits(F.embedding(ids, weight).tanh(), weight)
    found = distillation_loss(tied, teacher, labels, objective=objective, chunk_size=4).loss
    whole, *_ = naive(tied, teacher, labels, objective=objective)
    wanted = torch.autograd.grad(whole, weight, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(found, weight), wanted)

    frozen = LazyLogits(torch.randn(BATCH, TARGET, 4, requires_grad=True), weight.detach())
    with Allocations() as made:
        (of_states,) = gradients(distillation_loss(frozen, teacher, labels, objective=objective).loss, frozen)
    torch.testing.assert_close(of_states, *gradients(naive(frozen, teacher, labels, objective=objective)[0], frozen))
    assert weight.shape not in made.shapes


def test_evaluation_makes_no_gradient():
    student, teacher, labels, objective = lazy(), lazy(6), some_labels(), Objective()
    with Allocations() as made, torch.no_grad():
        found = distillation_loss(student, teacher, labels, objective=objective)
    assert not found.loss.requires_grad
    assert student.weight.shape not in made.shapes
    with Allocations() as made:
        trained = distillation_loss(student, teacher, labels, objective=objective)
    assert student.weight.shape in made.shapes
    assert torch.equal(found.loss, trained.loss.detach())


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_the_order_of_the_batch_change_nothing(side):
    student, teacher, labels, objective = lazy(), lazy(6), some_labels(), Objective()
    before = distillation_loss(student, teacher, labels, objective=objective)

    def padded(values, fill):
        more = torch.full((BATCH, 8, *values.shape[2:]), fill, dtype=values.dtype)
        return torch.cat([more, values] if side == "left" else [values, more], dim=1)

    # whatever a model says at a position that does not count, it is not asked
    wide_student = LazyLogits(padded(student.hidden_states, math.nan), student.weight, student.bias)
    wide_teacher = LazyLogits(padded(teacher.hidden_states, math.nan), teacher.weight, teacher.bias)
    after = distillation_loss(wide_student, wide_teacher, padded(labels, IGNORE_INDEX), objective=objective)
    torch.testing.assert_close(after.loss, before.loss)
    torch.testing.assert_close(gradients(after.loss, student), gradients(before.loss, student))

    order = torch.tensor([2, 0, 1])
    turned = distillation_loss(student[order], teacher[order], labels[order], objective=objective)
    torch.testing.assert_close(turned.loss, before.loss)


@pytest.mark.parametrize("rows", [[0, 2], [0, 1, 2]])
def test_no_position_costs_nothing(rows):
    student, teacher, labels = lazy(), lazy(6), some_labels()
    labels[rows] = IGNORE_INDEX
    found = distillation_loss(student, teacher, labels, objective=Objective())
    of_states, of_weight, of_bias = gradients(found.loss, student)
    assert not of_states[rows].any()
    assert found.loss.isfinite()
    if len(rows) == BATCH:
        assert found.loss == found.cross_entropy == found.divergence == 0
        assert distillation_loss(student, teacher, labels, objective=Objective(), num_items=0).loss == 0
        assert not of_weight.any()
        assert not of_bias.any()


def test_ids_do_not_mask():
    # all labels are 0, which is the padding and the unknown token of many a tokenizer
    student, teacher, labels = lazy(), lazy(6), torch.zeros(BATCH, TARGET, dtype=torch.long)
    found = distillation_loss(student, teacher, labels, objective=Objective())
    torch.testing.assert_close(found.loss, naive(student, teacher, labels, objective=Objective())[0])


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 2), (3, 1)])
def test_accumulated_batches_are_one_batch(sizes):
    student, teacher, labels = lazy(batch=4), lazy(6, batch=4), some_labels(batch=4)

    def losses(sizes, num_items):
        return [
            distillation_loss(
                student[rows], teacher[rows], labels[rows], objective=Objective(alpha=0.8), num_items=num_items
            ).loss
            for rows in torch.arange(4).split(sizes)
        ]

    (whole,) = losses((4,), None)
    accumulated = sum(losses(sizes, (labels != IGNORE_INDEX).sum()))
    torch.testing.assert_close(accumulated, whole)
    torch.testing.assert_close(gradients(accumulated, student), gradients(whole, student), rtol=1e-5, atol=1e-7)
    # a mean of means is another loss, since the rows have unequal lengths
    assert not torch.isclose(sum(losses(sizes, None)) / len(sizes), whole, rtol=1e-3)


def test_each_term_may_count_its_own_positions():
    # the first row has a label, the others are samples of the student: only the teacher judges them
    student, teacher, labels = lazy(), lazy(6), some_labels()
    mask = labels != IGNORE_INDEX
    gold = labels.where(torch.tensor([[True], [False], [False]]), IGNORE_INDEX)
    found = distillation_loss(student, teacher, gold, mask=mask, objective=Objective(alpha=0.5))
    _, cross_entropy, divergence = naive(student, teacher, gold, mask=mask, objective=Objective())
    torch.testing.assert_close((found.cross_entropy, found.divergence), (cross_entropy, divergence))
    torch.testing.assert_close(found.loss, (cross_entropy + divergence) / 2)
    wanted = gradients((cross_entropy + divergence) / 2, student)
    torch.testing.assert_close(gradients(found.loss, student), wanted)
    told = distillation_loss(
        student, teacher, gold, mask=mask, objective=Objective(alpha=0.5), num_items=10, num_divergence_items=24
    )
    torch.testing.assert_close(told.cross_entropy, cross_entropy * TARGET / 10)
    torch.testing.assert_close(told.divergence, divergence * int(mask.sum()) / 24)
    torch.testing.assert_close(told.loss.detach(), (told.cross_entropy + told.divergence) / 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype):
    student, teacher, labels = lazy(dtype=dtype), lazy(6, dtype=dtype), some_labels()
    found = distillation_loss(student, teacher, labels, objective=Objective(), chunk_size=2)
    whole, *_ = naive(student, teacher, labels, objective=Objective())
    assert found.loss.dtype == torch.float32
    torch.testing.assert_close(found.loss, whole)
    for one, other in zip(gradients(found.loss, student), gradients(whole, student), strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one, other, atol=2e-3, rtol=3e-2)


def test_the_gradient_of_a_mean_over_many_tokens_fits_into_float16():
    # divided by a million before it is float16, all of it would be 0
    student, teacher, labels = lazy(dtype=torch.float16), lazy(6, dtype=torch.float16), some_labels()
    for num_items, scale in ((None, 1), (1_000_000, 1_000_000 / int((labels != IGNORE_INDEX).sum()))):
        loss = distillation_loss(student, teacher, labels, objective=Objective(), num_items=num_items).loss * scale
        found = gradients(loss, student)
        if num_items is None:
            wanted = found
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def test_autocast_does_not_round_the_loss():
    student, teacher, labels = lazy(), lazy(6), some_labels()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = distillation_loss(student, teacher, labels, objective=Objective(), chunk_size=4)
        whole, *_ = naive(student, teacher, labels, objective=Objective())
    assert found.loss.dtype == torch.float32
    torch.testing.assert_close(found.loss, whole)
    for one, other in zip(gradients(found.loss, student), gradients(whole, student), strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=3e-2)


def test_nothing_of_the_size_of_all_logits_is_made():
    batch, target, vocab, hidden = 4, 32, 512, 8
    student = lazy(hidden, vocab, batch=batch, target=target)
    teacher, labels = lazy(hidden, vocab, batch=batch, target=target), some_labels(batch, target, vocab)
    for objective in (Objective(divergence=Divergence(name=name, temperature=2.0)) for name in NAMES):
        with Allocations() as made:
            distillation_loss(student, teacher, labels, objective=objective, chunk_size=16).loss.backward()
        assert made.largest == 16 * vocab
        with Allocations() as made:
            naive(student, teacher, labels, objective=objective)[0].backward()
        assert made.largest == batch * target * vocab


def peak_bytes(run, file):
    """Returns by how much memory grows at most while `run` runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    profile.export_chrome_trace(str(file))
    events = [event for event in json.loads(file.read_text())["traceEvents"] if event["name"] == "[memory]"]
    grown, peak = 0, 0
    for event in sorted(events, key=lambda event: event["ts"]):
        grown += event["args"]["Bytes"]
        peak = max(peak, grown)
    return peak


@pytest.mark.parametrize(
    ("batch", "target", "vocab", "hidden", "chunk_size"),
    [(4, 64, 1024, 16, 32), pytest.param(8, 256, 32_000, 512, 256, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("name", NAMES)
def test_the_peak_of_memory_is_at_most_a_third(name, batch, target, vocab, hidden, chunk_size, tmp_path):
    student = lazy(hidden, vocab, batch=batch, target=target, bias=False)
    teacher = lazy(hidden, vocab, batch=batch, target=target, bias=False, trained=False)
    labels = torch.randint(vocab, (batch, target))
    objective = Objective(divergence=Divergence(name=name, temperature=2.0))

    def chunked():
        distillation_loss(student, teacher, labels, objective=objective, chunk_size=chunk_size).loss.backward()

    def whole():
        naive(student, teacher, labels, objective=objective)[0].backward()

    peaks = []
    for run in (chunked, whole):
        for part in leaves(student):
            part.grad = None
        peaks.append(peak_bytes(run, tmp_path / "trace.json"))
    # at least the logits of both, and both softened, in float32
    assert peaks[1] > 4 * 4 * batch * target * vocab
    assert peaks[0] <= peaks[1] / 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": None}, r"alpha is 0\.5, but there is no teacher"),
        ({"labels": None, "mask": torch.ones(BATCH, TARGET)}, r"alpha is 0\.5, but there are no labels"),
        ({"labels": None}, "neither labels nor a mask"),
        ({"teacher": lazy(target=4)}, r"student \(3, 5\), mask \(3, 5\), labels \(3, 5\), teacher \(3, 4\)"),
        ({"labels": torch.zeros(BATCH, 4, dtype=torch.long)}, r"labels \(3, 4\)"),
        ({"labels": torch.full((BATCH, TARGET), VOCAB)}, "a label is 11, but the student's vocabulary has 11"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"chunk_size": -1}, "chunk_size is -1"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    arguments = {"student": lazy(), "teacher": lazy(6), "labels": some_labels(), "objective": Objective()} | change
    with pytest.raises(ValueError, match=message):
        distillation_loss(**arguments)


def test_heads_and_weights_that_make_no_sense_are_refused():
    states = torch.randn(1, 2, 4)
    with pytest.raises(ValueError, match=r"\(5, 3\) cannot read hidden states of shape \(1, 2, 4\)"):
        LazyLogits(states, torch.randn(5, 3))
    with pytest.raises(ValueError, match=r"bias of shape \(1, 5\) for a vocabulary of 5: flatten"):
        LazyLogits(states, torch.randn(5, 4), torch.randn(1, 5))
    with pytest.raises(ValueError, match=r"alpha is 1\.5"):
        Objective(alpha=1.5)
    with pytest.raises(ValueError, match=r"label_smoothing is 1\.0"):
        Objective(label_smoothing=1.0)
