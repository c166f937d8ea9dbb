"""Pitfalls of the loss, each a test by its name: what a trainer computes is what both models say, row by row."""

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from distillation_tester import (
    STUDENTS,
    VOCAB_SIZE,
    WORDS,
    batch,
    by_hand,
    gradients,
    logits_alone,
    parts,
    rows,
    student,
    teacher,
    trainer,
)
from foreign_models import gpt2, llama, phi3
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from encdec_slm.distillation.step_loss import decode, encode
from encdec_slm.distillation.vocabularies import LOG_TINY


families = pytest.mark.parametrize("family", STUDENTS)


def assert_close(value, expected, rtol=1e-5):
    torch.testing.assert_close(value.double(), expected.double(), rtol=rtol, atol=1e-6)


def mean_divergence(trainer, divergence):
    """The mean over all labels of a function of the log-probabilities of teacher and student, in float64."""
    pairs = [logits_alone(trainer, row) for row in trainer.train_dataset]
    values = [divergence(said.log_softmax(dim=-1), own.log_softmax(dim=-1)) for own, said in pairs]
    return torch.cat(values).mean()


@families
class TestPitfall01OffByOne:
    def test_pitfall_01_off_by_one(self, family, tmp_path):
        tested = trainer(tmp_path, student(family))
        cross_entropies, divergences = by_hand(tested)

        loss = parts(tested, batch(tested))

        assert_close(loss.cross_entropy, cross_entropies.mean())
        assert_close(loss.divergence, divergences.mean())
        assert_close(loss.loss, (cross_entropies.mean() + divergences.mean()) / 2)

    @pytest.mark.parametrize("shift", [-1, 1])
    def test_pitfall_01_a_shift_would_be_seen(self, family, shift, tmp_path):
        tested = trainer(tmp_path, student(family))
        right, wrong = by_hand(tested)[1].mean(), by_hand(tested, shift)[1].mean()

        assert abs(wrong - right) > 1e-3 * right


# in a batch with the others, rows that are at home in the short factors of longrope take more columns than these have
LENGTHS = [(20, 2), (3, 8), (6, 4), (2, 1)]


@pytest.mark.parametrize("make", [llama, gpt2, phi3])
def test_pitfall_02_left_padding(make, tmp_path):
    texts = [{"source": " ".join(WORDS[4 : 4 + s]), "target": " ".join(WORDS[30 : 30 + t])} for s, t in LENGTHS]
    torch.manual_seed(0)
    tested = trainer(tmp_path, teacher_model=make().eval(), data=Dataset.from_list(texts))
    together = batch(tested)
    alone = [parts(tested, batch(tested, [i])).divergence for i in range(len(LENGTHS))]
    numbers = together["labels"].ne(-100).sum(dim=1)

    assert together["teacher_prompt_ids"].shape[1] + together["labels"].shape[1] > 28
    assert_close(parts(tested, together).divergence, (torch.stack(alone) * numbers).sum() / numbers.sum())


def lengthened(tensor, value, *, left=False):
    return F.pad(tensor, (7, 0) if left else (0, 7), value=value)


# "w40": what stands in the padding must not matter
SIDES = {
    "source right": lambda x: {
        "input_ids": lengthened(x["input_ids"], 40),
        "attention_mask": lengthened(x["attention_mask"], 0),
    },
    "target right": lambda x: {"labels": lengthened(x["labels"], -100)},
    "teacher prompt left": lambda x: {
        "teacher_prompt_ids": lengthened(x["teacher_prompt_ids"], 40, left=True),
        "teacher_prompt_mask": lengthened(x["teacher_prompt_mask"], 0, left=True),
    },
    "teacher target right": lambda x: {"teacher_labels": lengthened(x["teacher_labels"], -100)},
}


@families
class TestPitfall04PadsInTheMean:
    @pytest.mark.parametrize("side", SIDES)
    def test_pitfall_04_pads_in_the_mean(self, family, side, tmp_path):
        # a teacher has targets of its own if it has a tokenizer of its own
        divergence = "universal" if side == "teacher target right" else "forward_kl"
        tested = trainer(tmp_path, student(family), divergence=divergence, label_smoothing_factor=0.1)
        inputs = batch(tested)

        loss, padded = parts(tested, inputs), parts(tested, {**inputs, **SIDES[side](inputs)})

        assert_close(padded.cross_entropy, loss.cross_entropy)
        assert_close(padded.divergence, loss.divergence)
        assert_close(padded.loss, loss.loss)

    @pytest.mark.parametrize("divergence", ["forward_kl", "universal"])
    def test_pitfall_04_order_of_the_batch(self, family, divergence, tmp_path):
        tested = trainer(tmp_path, student(family), divergence=divergence)
        inputs = batch(tested)

        loss, turned = parts(tested, inputs), parts(tested, {name: value.flip(0) for name, value in inputs.items()})

        assert_close(turned.cross_entropy, loss.cross_entropy)
        assert_close(turned.divergence, loss.divergence)


@families
class TestPitfall05VocabularySizes:
    def test_pitfall_05_student_pays_for_ids_that_the_teacher_lacks(self, family, tmp_path):
        tested = trainer(tmp_path, student(family, vocab_size=VOCAB_SIZE + 8))

        def of_what_both_have(p, q):
            cut = q[:, :VOCAB_SIZE].log_softmax(dim=-1)
            return (p.exp() * (p - cut)).sum(dim=-1)

        cut = mean_divergence(tested, of_what_both_have)
        wasted = mean_divergence(tested, lambda p, q: -q[:, :VOCAB_SIZE].logsumexp(dim=-1))
        assert wasted > 0.01
        assert_close(parts(tested, batch(tested)).divergence, cut + wasted)

    def test_pitfall_05_teacher_with_more_ids(self, family, tmp_path):
        tested = trainer(tmp_path, student(family), teacher_model=teacher(VOCAB_SIZE + 8))

        def with_tail(p, q):
            shared, tail = p[:, :VOCAB_SIZE], p[:, VOCAB_SIZE:].logsumexp(dim=-1)
            # the student has no ids for the tail
            return (shared.exp() * (shared - q)).sum(dim=-1) + tail.exp() * (tail - LOG_TINY)

        assert_close(parts(tested, batch(tested)).divergence, mean_divergence(tested, with_tail))


@families
class TestPitfall07Temperature:
    @pytest.mark.parametrize("temperature", [0.5, 4.0])
    def test_pitfall_07_divergence_is_multiplied_by_the_temperature_squared(self, family, temperature, tmp_path):
        tested = trainer(tmp_path, student(family), temperature=temperature)

        softened = by_hand(tested, temperature=temperature)[1].mean()

        assert_close(parts(tested, batch(tested)).divergence, temperature**2 * softened)

    def test_pitfall_07_gradient_does_not_fade_with_temperature(self, family, tmp_path):
        norms = [gradients(trainer(tmp_path, student(family), alpha=1.0, temperature=t)).norm() for t in (50.0, 100.0)]

        assert 0.9 < norms[1] / norms[0] < 1.1


@families
def test_pitfall_09_loss_type(family, tmp_path):
    # in one batch, all models compute the right mean themselves: over labels that nobody shifts a second time
    tested = trainer(tmp_path, student(family), alpha=0.0)
    inputs = batch(tested)
    read = {name: inputs[name] for name in ("input_ids", "attention_mask", "labels")}

    with torch.no_grad():
        own = tested.model.eval()(**read).loss

    assert_close(parts(tested, inputs).loss, own)


@families
class TestPitfall11HalfPrecision:
    def test_pitfall_11_divergence_adds_no_rounding_to_that_of_the_logits(self, family, tmp_path):
        tested = trainer(tmp_path, student(family).bfloat16(), teacher_model=teacher().bfloat16())
        inputs = batch(tested)
        places = inputs["labels"] != -100
        with torch.no_grad():
            model = tested.model.eval()
            own = decode(model, encode(model, inputs), inputs["labels"])[places].logits()
            said = tested._prepared.signal(inputs)[places].logits()
        p, q = (logits.double().log_softmax(dim=-1) for logits in (said, own))

        divergence = parts(tested, inputs).divergence

        assert divergence.dtype == torch.float32
        assert_close(divergence, (p.exp() * (p - q)).sum(dim=-1).mean())

    def test_pitfall_11_autocast_stays_near_float32(self, family, tmp_path):
        exact, half = (
            parts(tested, batch(tested))
            for tested in (trainer(tmp_path, student(family), bf16=bf16) for bf16 in (False, True))
        )

        assert half.loss != exact.loss
        assert_close(half.cross_entropy, exact.cross_entropy, rtol=0.02)
        assert_close(half.divergence, exact.divergence, rtol=0.02)


class LargestLogits(TorchDispatchMode):
    """Notes of how many positions there are logits at once, in any tensor of the forward and the backward pass."""

    positions = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.ndim > 1 and tensor.shape[-1] == VOCAB_SIZE:
                self.positions = max(self.positions, tensor.numel() // VOCAB_SIZE)
        return result


@families
@pytest.mark.parametrize("divergence", ["forward_kl", "universal"])
def test_pitfall_12_memory(family, divergence, tmp_path):
    tested = trainer(tmp_path, student(family), divergence=divergence, chunk_size=3)
    inputs = batch(tested)
    # the head's weight has a side of that length too, but not as its last one, in a transposed view
    hidden_size = 32
    # the teacher's logits are compared with those of its head once, on the first row
    parts(tested, batch(tested, [0]))

    with LargestLogits() as largest:
        tested.training_step(tested.model, inputs)

    assert inputs["labels"].ne(-100).sum() > hidden_size
    assert largest.positions <= hidden_size


@families
def test_pitfall_16_label_smoothing(family, tmp_path):
    share = 0.2
    tested = trainer(tmp_path, student(family), label_smoothing_factor=share)
    smoothed = []
    for row in tested.train_dataset:
        log_probs = logits_alone(tested, row)[0].log_softmax(dim=-1)
        of_label = log_probs.gather(-1, torch.tensor(row["labels"])[:, None]).squeeze(-1)
        smoothed.append(-(1 - share) * of_label - share * log_probs.mean(dim=-1))

    loss = parts(tested, batch(tested))

    assert_close(loss.cross_entropy, torch.cat(smoothed).mean())
    assert_close(loss.loss, (torch.cat(smoothed).mean() + by_hand(tested)[1].mean()) / 2)


def says_nan(model):
    model.get_input_embeddings().weight.data[WORDS.index("w59")] = torch.nan
    return model


def overflows(model):
    model.get_output_embeddings().weight.data[WORDS.index("w59")] = torch.inf
    return model


@families
class TestPitfall22NotANumber:
    @pytest.mark.parametrize(("broken", "sampled"), [(says_nan, 0.0), (overflows, 0.5)])
    def test_pitfall_22_training_stops_and_keeps_the_batch(self, family, broken, sampled, tmp_path):
        data = rows()
        data = data.map(lambda row: {"target": row["target"] + " w59 a"})
        tested = trainer(
            tmp_path,
            student(family),
            teacher_model=broken(teacher()),
            data=data,
            check_teacher=False,
            on_policy_fraction=sampled,
        )

        with pytest.raises(FloatingPointError, match=r"kd_loss nan.*failed_batch_0_0\.safetensors"):
            tested.train()

        kept = load_file(tmp_path / "failed_batch_0_0.safetensors")
        assert {"input_ids", "attention_mask", "labels", "teacher_prompt_ids", "teacher_prompt_mask"} <= set(kept)
        labels = sorted(row[row != -100].tolist() for row in kept["labels"])
        assert labels == sorted(tested.train_dataset["labels"])

    def test_pitfall_22_what_the_teacher_rules_out_costs_nothing(self, family, tmp_path):
        tested = trainer(tmp_path, student(family), teacher_model=ruling_out("w30"))

        def divergence(p, q):
            return (p.exp() * (p - q)).nan_to_num(0.0).sum(dim=-1)

        assert_close(parts(tested, batch(tested)).divergence, mean_divergence(tested, divergence))

    def test_pitfall_22_where_a_divergence_is_infinite_others_are_not(self, family, tmp_path):
        with pytest.raises(FloatingPointError, match="jsd and the skewed divergences are finite"):
            trainer(tmp_path, student(family), teacher_model=ruling_out("w30"), divergence="reverse_kl").train()
        finite = trainer(tmp_path, student(family), teacher_model=ruling_out("w30"), divergence="jsd")
        assert finite.train().training_loss > 0


def ruling_out(word):
    """A teacher that gives a word the probability 0."""
    ruled_out = torch.zeros(VOCAB_SIZE).index_fill(0, torch.tensor(WORDS.index(word)), -torch.inf)
    model = teacher()
    model.get_output_embeddings().register_forward_hook(lambda head, inputs, logits: logits + ruled_out)
    return model
