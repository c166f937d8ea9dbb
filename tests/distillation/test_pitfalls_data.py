"""Pitfalls of the data, each a test by its name: what teacher and student read, and which tokens count."""

import pytest
import torch
from datasets import Dataset
from distillation_tester import (
    BOS,
    EOS,
    PAD,
    STUDENTS,
    VOCAB_SIZE,
    WORDS,
    batch,
    by_hand,
    logits_alone,
    parts,
    rows,
    student,
    teacher,
    trainer,
    word_tokenizer,
)

from encdec_slm.distillation.universal import universal_divergence


families = pytest.mark.parametrize("family", STUDENTS)


def assert_close(value, expected, rtol=1e-5):
    torch.testing.assert_close(value.double(), expected.double(), rtol=rtol, atol=1e-6)


@families
@pytest.mark.parametrize("padding", ["<pad>", "<unk>", "</s>"])
def test_pitfall_03_pad_by_id(family, padding, tmp_path):
    # words that no tokenizer knows, so that a source and a target have the padding token in them
    data = Dataset.from_dict({"source": ["a été b", "c d", "e f g h"], "target": ["é w30", "w31 w32 w33", "w34"]})
    tested = trainer(tmp_path, student(family), tokenizer=word_tokenizer(pad_token=padding), data=data)
    inputs = batch(tested)
    cross_entropies, divergences = by_hand(tested)

    loss = parts(tested, inputs)

    assert inputs["attention_mask"].sum(dim=1).tolist() == [4, 3, 5]
    assert [row[row != -100].tolist()[-1] for row in inputs["labels"]] == [EOS] * 3
    assert len(cross_entropies) == 3 + 4 + 2
    assert_close(loss.cross_entropy, cross_entropies.mean())
    assert_close(loss.divergence, divergences.mean())


class TestPitfall06Tokenizers:
    def test_pitfall_06_tokenizers_whose_ids_differ_are_refused(self, tmp_path):
        others = word_tokenizer([*WORDS[:4], *reversed(WORDS[4:])], end=None)

        with pytest.raises(ValueError, match=r"56 of 60 ids mean different tokens.*universal logit distillation"):
            trainer(tmp_path, teacher_tokenizer=others)

    @pytest.mark.parametrize("family", STUDENTS)
    @pytest.mark.parametrize("temperature", [1.0, 2.0])
    def test_pitfall_06_universal_divergence_compares_the_same_places(self, family, temperature, tmp_path):
        tested = trainer(
            tmp_path,
            student(family),
            teacher_tokenizer=word_tokenizer([*WORDS[:4], *reversed(WORDS[4:])], end=None),
            divergence="universal",
            temperature=temperature,
        )

        # words are tokens to both: the n-th of one is the n-th of the other
        def mean(shift):
            pairs = [logits_alone(tested, row, shift) for row in tested.train_dataset]
            return torch.cat([universal_divergence(t, s, temperature=temperature) for s, t in pairs]).mean()

        divergence = parts(tested, batch(tested)).divergence
        assert_close(divergence, mean(0))
        assert abs(mean(-1) - divergence) > 1e-3 * divergence


SPECIALS = ("<|user|>", "<|assistant|>", "<|end|>")
CHAT = (
    "{{ bos_token }}{% for message in messages %} <|{{ message.role }}|> {{ message.content }} <|end|>{% endfor %}"
    "{% if add_generation_prompt %} <|assistant|>{% endif %}"
)


def chat_tokenizer():
    """Has the student's words, and three more tokens of which one ends an answer."""
    tokenizer = word_tokenizer([*WORDS, *SPECIALS], end=None, additional_special_tokens=list(SPECIALS))
    tokenizer.chat_template = CHAT
    return tokenizer


class TestPitfall14ChatTemplates:
    def test_pitfall_14_target_is_the_same_ids_behind_the_templated_prompt(self, tmp_path):
        tokenizer = chat_tokenizer()
        tested = trainer(tmp_path, teacher_model=teacher(len(tokenizer)), teacher_tokenizer=tokenizer)
        read = []
        original = tested.teacher.predict
        tested.teacher.predict = lambda inputs, index=None: read.append(inputs) or original(inputs, index)
        user, assistant, end = tokenizer.convert_tokens_to_ids(list(SPECIALS))

        parts(tested, batch(tested))

        (inputs,) = read
        for ids, mask, row, text in zip(
            inputs.input_ids, inputs.attention_mask, tested.train_dataset, rows()["source"], strict=True
        ):
            words = [WORDS.index(word) for word in text.split()]
            # the student's `</s>` is the teacher's `<|end|>` in what it is to answer, not in the prompt
            assert row["labels"][-1] == EOS
            assert ids[mask.bool()].tolist() == [BOS, user, *words, end, assistant, *row["labels"][:-1], end]

    @pytest.mark.parametrize("family", STUDENTS)
    def test_pitfall_14_ends_of_an_answer_are_one(self, family, tmp_path):
        tokenizer = chat_tokenizer()
        tested = trainer(tmp_path, student(family), teacher_model=teacher(len(tokenizer)), teacher_tokenizer=tokenizer)
        end = len(tokenizer) - 1
        expected = []
        for row in tested.train_dataset:
            read = {**row, "teacher_labels": [*row["labels"][:-1], end]}
            own, said = logits_alone(tested, read)
            p, q = said.log_softmax(dim=-1), own.log_softmax(dim=-1)
            # column 2 is the student's end, and what the teacher has there nobody else knows
            ended = [end if i == EOS else i for i in range(VOCAB_SIZE)]
            p, tail = p[:, ended], p[:, [EOS, *range(VOCAB_SIZE, end)]].logsumexp(dim=-1)
            tiny = torch.finfo(torch.float32).tiny
            missing = tail.exp() * (tail - torch.tensor(tiny).double().log())
            expected.append((p.exp() * (p - q)).sum(dim=-1) + missing)

        assert_close(parts(tested, batch(tested)).divergence, torch.cat(expected).mean())


@pytest.mark.parametrize(
    ("truncation", "left"), [("end", ["a", "b", "c", "d"]), ("start", ["g", "h", "i", "j"]), ("middle", list("abij"))]
)
def test_pitfall_15_truncation(truncation, left, tmp_path):
    target = "w30 w31 w32 w33"
    tested = trainer(
        tmp_path,
        data=Dataset.from_dict({"source": ["a b c d e f g h i j"], "target": [target]}),
        max_source_length=7,
        max_target_length=3,
        source_truncation=truncation,
        source_template="x {source} y",
        teacher_template="u v {source} w",
    )

    row = tested.train_dataset[0]

    # the instruction is whole, and both read the same of the source
    words = tested.processing_class.convert_ids_to_tokens
    assert words(row["input_ids"]) == ["x", *left, "y", "</s>"]
    assert words(row["teacher_prompt_ids"]) == ["u", "v", *left, "w"]
    # what is cut has not ended
    assert words(row["labels"]) == target.split()[:3]
    assert PAD not in row["labels"]
