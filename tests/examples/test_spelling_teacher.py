"""The teacher of the demo: what it learns of a row, and that it goes on from a word to its sounds."""

import pytest
import spelling_teacher
from datasets import Dataset
from spelling_scores import pronounce
from spelling_teacher import TEACHER_RECIPE, TEACHER_TEMPLATE, continuations, teacher_trainer
from spelling_tokenizer import build_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments


WORDS = {"a": "AH", "bat": "B AE T", "tab": "T AE B", "tattoo": "T AE T UW"}


@pytest.fixture
def rows():
    return Dataset.from_dict({"source": list(WORDS), "target": list(WORDS.values())})


@pytest.fixture
def tokenizer():
    return build_tokenizer(set("".join(WORDS)), set(" ".join(WORDS.values()).split()))


@pytest.fixture
def trainer(monkeypatch, tmp_path, rows, tokenizer):
    """A trainer of a teacher so small that it knows four words in a second."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    monkeypatch.setattr(spelling_teacher, "TEACHER_SHAPE", spelling_teacher.TEACHER_SHAPE | shape)
    changes = {"max_steps": 60, "warmup_steps": 5, "learning_rate": 1e-2, "output_dir": str(tmp_path)}
    training = TrainingArguments(**TEACHER_RECIPE | changes, use_cpu=True, disable_tqdm=True)
    return teacher_trainer(rows, tokenizer, training)


def test_the_sounds_and_their_end_are_learned_and_nothing_else(rows, tokenizer):
    for row, encoded in zip(rows, continuations(rows, tokenizer), strict=True):
        assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == [
            *row["source"],
            "<s>",
            *row["target"].split(),
            "</s>",
        ]
        prompt_length = len(row["source"]) + 1
        assert encoded["labels"] == [-100] * prompt_length + encoded["input_ids"][prompt_length:]


def test_a_batch_hides_what_fills_up_its_rows(trainer):
    (batch,) = trainer.get_train_dataloader()
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    assert sorted(lengths) == sorted(len(word) + len(sounds.split()) + 2 for word, sounds in WORDS.items())
    for row, length in enumerate(lengths):
        assert batch["attention_mask"][row, :length].all()
        assert (batch["labels"][row, length:] == -100).all()


def test_a_trained_teacher_says_what_it_was_taught_alone_or_in_company(trainer, tokenizer, tmp_path):
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert pronounce(model, loaded, list(WORDS), TEACHER_TEMPLATE) == list(WORDS.values())
    for word, sounds in WORDS.items():
        assert pronounce(model, loaded, [word], TEACHER_TEMPLATE) == [sounds]
