"""A cache says what the teacher says, is whole or refused, and is not taken for another."""

import math

import pytest
import torch
from cache_tester import (
    DATASET,
    VOCAB,
    K,
    cache_writing,
    collate,
    files_of,
    keys_of,
    make_rows,
    make_teacher,
    read_all,
)
from datasets import Dataset
from transformers import AutoTokenizer
from word_tokenizers import save_word_tokenizer

from encdec_slm.distillation.cache import TeacherCache
from encdec_slm.distillation.cache_index import tokenizer_hash
from encdec_slm.distillation.chunked_divergence import IGNORE_INDEX, LazyLogits, Objective, distillation_loss
from encdec_slm.distillation.divergences import (
    Divergence,
    divergence_from_logits,
    divergence_from_top_k,
    top_k_of_logits,
)
from encdec_slm.distillation.signals import LiveSignal, TopKChoice


# what float16 takes off a log-probability, as a share of it
ROUNDING = 2**-11
NAMES = ("forward_kl", "reverse_kl", "jsd", "skewed_forward_kl", "skewed_reverse_kl")


@pytest.fixture
def teacher(tiny_tokenizer):
    return make_teacher(tiny_tokenizer)


@pytest.fixture
def write(tmp_path, tiny_tokenizer):
    return cache_writing(tmp_path, tiny_tokenizer)


def some_student(batch, vocab=VOCAB):
    hidden = torch.randn(*batch["labels"].shape, 5)
    return LazyLogits(hidden.requires_grad_(), (0.8 * torch.randn(vocab, 5)).requires_grad_())


def rounding_of_forward_kl(teacher, student_logits, divergence):
    """Returns how far the forward KL can move, in first order, if all log-probabilities are rounded to float16."""
    log_probs = torch.cat([teacher.log_probs, teacher.tail.unsqueeze(-1)], dim=-1)
    student = divergence.soften(student_logits)
    rest = student.exp().scatter(-1, teacher.ids, 0).sum(-1, keepdim=True).clamp(min=1e-30).log()
    ratio = (log_probs - torch.cat([student.gather(-1, teacher.ids), rest], dim=-1)).abs()
    entropy = -(log_probs.exp() * log_probs).sum(-1, keepdim=True)
    change = ROUNDING * (log_probs.abs() + entropy)
    return divergence.temperature**2 * (log_probs.exp() * change * (ratio + change)).sum(-1)


class TestLoss:
    """The same from the cache and from the teacher."""

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("temperature", [1.0, 2.5])
    def test_and_gradient_are_those_of_the_live_teacher(self, name, temperature, write, teacher, tmp_path):
        write(temperature=temperature)
        batch, cached = read_all(tmp_path / "cache", DATASET)
        choice = TopKChoice(k=K, temperature=temperature, shared_ids=None, chunk_size=7)
        live = LiveSignal(teacher=teacher, choice=choice)(batch)
        objective = Objective(alpha=0.7, divergence=Divergence(name=name, temperature=temperature))
        student = some_student(batch)
        results = []
        for signal in (cached, live):
            loss = distillation_loss(student, signal, batch["labels"], objective=objective).loss
            results += [(loss, *torch.autograd.grad(loss, [student.hidden_states, student.weight]))]
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4)

    def test_differs_by_no_more_than_float16_does(self, write, teacher, tmp_path):
        write()
        batch, cached = read_all(tmp_path / "cache", DATASET)
        live = top_k_of_logits(LiveSignal(teacher=teacher)(batch).logits(), K)
        student = some_student(batch).logits()
        there = batch["labels"] != IGNORE_INDEX
        difference = divergence_from_top_k(cached, student) - divergence_from_top_k(live, student)
        bound = rounding_of_forward_kl(live, student, Divergence())
        assert (difference.abs() <= bound + 1e-5)[there].all()
        assert difference[there].abs().max() > 1e-6, "nothing was rounded"

    def test_of_the_whole_vocabulary_is_the_full_divergence(self, write, teacher, tmp_path):
        write(top_k=VOCAB)
        batch, cached = read_all(tmp_path / "cache", DATASET)
        logits = LiveSignal(teacher=teacher)(batch).logits()
        student = some_student(batch).logits()
        there = batch["labels"] != IGNORE_INDEX
        bound = rounding_of_forward_kl(top_k_of_logits(logits, VOCAB), student, Divergence())
        full = divergence_from_logits(logits, student)
        assert ((divergence_from_top_k(cached, student) - full).abs() <= bound + 1e-5)[there].all()

    def test_lacks_the_divergence_inside_the_tail(self, write, teacher, tmp_path):
        """Chain rule: KL(p, q) = KL of the parts + P(tail) KL(p in the tail, q in the tail)."""
        write()
        batch, cached = read_all(tmp_path / "cache", DATASET)
        logits, student = LiveSignal(teacher=teacher)(batch).logits(), some_student(batch).logits()
        live = top_k_of_logits(logits, K)
        inside = divergence_from_logits(
            logits.scatter(-1, live.ids, -math.inf), student.scatter(-1, live.ids, -math.inf)
        )
        there = batch["labels"] != IGNORE_INDEX
        expected = divergence_from_logits(logits, student) - live.tail.exp() * inside
        bound = rounding_of_forward_kl(live, student, Divergence())
        assert ((divergence_from_top_k(cached, student) - expected).abs() <= bound + 1e-5)[there].all()

    def test_of_jsd_lacks_at_most_log_2_of_the_tail(self, write, teacher, tmp_path):
        write()
        batch, cached = read_all(tmp_path / "cache", DATASET)
        logits, student = LiveSignal(teacher=teacher)(batch).logits(), some_student(batch).logits()
        jsd = Divergence(name="jsd", beta=0.5)
        lacking = divergence_from_logits(logits, student, divergence=jsd) - divergence_from_top_k(
            cached, student, divergence=jsd
        )
        live = top_k_of_logits(logits, K)
        tail_of_student = 1 - student.softmax(-1).gather(-1, live.ids).sum(-1)
        there = batch["labels"] != IGNORE_INDEX
        assert (lacking <= math.log(2) * (live.tail.exp() + tail_of_student) / 2 + 1e-3)[there].all()
        assert (lacking >= -1e-3)[there].all()


class TestContent:
    """Each row's own, whatever its neighbours."""

    def test_does_not_depend_on_batches_shards_or_order(self, write, tmp_path):
        write("large", batch_size=23, tokens_per_shard=10**6)
        write("small", batch_size=1, tokens_per_shard=1, dataset=DATASET.shuffle(seed=1))
        (_, large), (_, small) = (read_all(tmp_path / name, DATASET) for name in ("large", "small"))
        torch.testing.assert_close(large.log_probs, small.log_probs, rtol=2 * ROUNDING, atol=1e-5)
        torch.testing.assert_close(large.tail, small.tail)
        assert torch.equal(large.ids, small.ids)

    def test_of_shuffled_rows_is_the_same_files(self, write, tmp_path):
        write("ordered")
        write("shuffled", dataset=DATASET.shuffle(seed=1))
        assert files_of(tmp_path / "ordered") == files_of(tmp_path / "shuffled")

    def test_is_the_teachers_with_roles_exchanged(self, write, tmp_path, teacher, tiny_tokenizer):
        end = 2, 40
        exchanging = make_teacher(tiny_tokenizer, exchange=end)
        write(teacher=exchanging, top_k=VOCAB)
        _, cached = read_all(tmp_path / "cache", DATASET)

        def swapped(ids):
            return [{2: 40, 40: 2}.get(i, i) for i in ids]

        there = [{**row, "labels": swapped(row["labels"])} for row in DATASET]
        logits = LiveSignal(teacher=teacher)(collate(there)).logits()[..., swapped(range(VOCAB))]
        expected = logits.log_softmax(-1).gather(-1, cached.ids)
        mask = collate(list(DATASET))["labels"] != IGNORE_INDEX
        torch.testing.assert_close(cached.log_probs[mask], expected[mask], rtol=ROUNDING, atol=1e-4)

    def test_of_what_only_the_teacher_knows_is_in_the_tail(self, write, tmp_path, teacher):
        write(shared_ids=40)
        batch, cached = read_all(tmp_path / "cache", DATASET)
        live = top_k_of_logits(LiveSignal(teacher=teacher)(batch).logits(), K, shared_ids=40)
        there = batch["labels"] != IGNORE_INDEX
        assert cached.ids.max() < 40
        torch.testing.assert_close(cached.tail[there], live.tail[there], rtol=1e-4, atol=1e-5)

    def test_is_kept_of_ids_beyond_16_bits(self, write, tmp_path, tiny_tokenizer):
        large, few = make_teacher(tiny_tokenizer, vocab=70_000), DATASET.select(range(3))
        write(teacher=large, dataset=few)
        batch, cached = read_all(tmp_path / "cache", few)
        live = top_k_of_logits(LiveSignal(teacher=large)(batch).logits(), K)
        there = batch["labels"] != IGNORE_INDEX
        assert torch.equal(cached.ids[there], live.ids[there])
        assert cached.ids.max() >= 1 << 16

    def test_takes_as_many_bytes_as_stated(self, write, tiny_tokenizer):
        rows = make_rows(20, target=(30, 34))
        report = write(
            teacher=make_teacher(tiny_tokenizer, vocab=200), dataset=Dataset.from_list(rows), top_k=64, batch_size=20
        )
        assert report.target_tokens == sum(len(row["labels"]) for row in rows)
        assert 260 <= report.bytes_per_token <= 280

    def test_tells_what_is_left_in_the_tail(self, write, teacher):
        report = write()
        batch = collate(list(DATASET))
        tail = top_k_of_logits(LiveSignal(teacher=teacher)(batch).logits(), K).tail.exp()
        expected = tail[batch["labels"] != IGNORE_INDEX].mean().item()
        assert report.tail_probability == pytest.approx(expected, rel=1e-4)


def test_padding_is_a_distribution_like_others(write, tmp_path):
    write()
    cache = TeacherCache.open(tmp_path / "cache")
    padded = cache.read(range(len(cache)), 20)
    assert padded.ids.sort(dim=-1).values.diff(dim=-1).min() > 0
    assert padded.log_probs.isfinite().all()
    total = padded.log_probs.exp().sum(-1) + padded.tail.exp()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=4e-3, atol=0)
    longest = max(map(len, DATASET["labels"]))
    short = cache.read(range(len(cache)), longest)
    torch.testing.assert_close(padded.log_probs[:, :longest], short.log_probs)


class TestRefused:
    """What does not fit the training."""

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("temperature", 3.0),
            ("shared_ids", 50),
            ("exchange", (2, 40)),
            ("adapters", ("first",)),
            ("teacher_fingerprint", "0123"),
            ("teacher_name", "another"),
        ],
    )
    def test_a_training_with_other_settings(self, name, value, write, tmp_path, tiny_tokenizer):
        write(teacher_name="this one")
        settings = {
            "teacher_tokenizer": tiny_tokenizer,
            "student_tokenizer": tiny_tokenizer,
            "temperature": 1.0,
            "shared_ids": None,
            "exchange": None,
        }
        cache = TeacherCache.open(tmp_path / "cache")
        cache.check(**settings)
        cache.check(**settings, teacher_name="this one", adapters=())
        with pytest.raises(ValueError, match=f"{name} is .+ in the cache, and .+ here") as error:
            cache.check(**(settings | {name: value}))
        assert repr(value) in str(error.value)

    @pytest.mark.parametrize("side", ["teacher_tokenizer", "student_tokenizer"])
    def test_a_training_with_another_tokenizer(self, side, write, tmp_path, tiny_tokenizer):
        write()
        other = AutoTokenizer.from_pretrained(save_word_tokenizer(tmp_path / "other", ["<unk>", "word"]))
        tokenizers = {"teacher_tokenizer": tiny_tokenizer, "student_tokenizer": tiny_tokenizer, side: other}
        with pytest.raises(ValueError, match=f"{side} is '{tokenizer_hash(tiny_tokenizer)}' in the cache, and"):
            TeacherCache.open(tmp_path / "cache").check(**tokenizers, temperature=1.0, shared_ids=None, exchange=None)

    def test_a_row_that_was_not_asked(self, write, tmp_path):
        write()
        more = Dataset.from_list([*DATASET, *make_rows(3, seed=1)])
        with pytest.raises(ValueError, match="lacks 3 of 26 rows, first row 23: write the cache with this dataset"):
            TeacherCache.open(tmp_path / "cache").rows_of(keys_of(more))

    def test_labels_longer_than_the_batch(self, write, tmp_path):
        write()
        cache = TeacherCache.open(tmp_path / "cache")
        longest = max(map(len, DATASET["labels"]))
        with pytest.raises(ValueError, match=f"{longest} target tokens, but the batch has {longest - 1}"):
            cache.read(range(len(cache)), longest - 1)
        with pytest.raises(ValueError, match=r"there is no row 23 .*, which has 23"):
            cache.read([len(cache)], longest)
