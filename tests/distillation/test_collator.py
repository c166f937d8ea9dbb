"""A batch is its rows one by one; padding is told by lengths, whatever id it has and whatever side."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from encdec_slm.distillation.alignment import read_after_prompt
from encdec_slm.distillation.collator import DataCollatorForDistillation


# unknown words, here of the id of the padding, at every place
ROWS = [
    {"input_ids": [0, 9, 0, 2], "labels": [0, 2], "teacher_prompt_ids": [1, 0, 5]},
    {"input_ids": [8, 2], "labels": [7, 0, 0, 6, 2], "teacher_prompt_ids": [0]},
    {"input_ids": [6, 7, 8, 9, 0], "labels": [5, 2, 0], "teacher_prompt_ids": [1, 2, 3, 4, 0, 0]},
]
PADDED = {"input_ids": "attention_mask", "labels": None, "teacher_prompt_ids": "teacher_prompt_mask"}


@pytest.fixture(params=["left", "right"])
def tokenizer(request, tiny_tokenizer):
    tokenizer = deepcopy(tiny_tokenizer)
    tokenizer.padding_side = request.param
    return tokenizer


@pytest.mark.parametrize("multiple", [None, 8])
@pytest.mark.parametrize("pad", ["<pad>", "</s>"])
def test_rows_are_padded_where_they_have_no_token(tokenizer, pad, multiple):
    tokenizer.pad_token = pad
    batch = DataCollatorForDistillation(tokenizer, teacher_pad_token_id=3, pad_to_multiple_of=multiple)(ROWS)
    assert set(batch) == {*PADDED, *filter(None, PADDED.values())}
    paddings = {"input_ids": tokenizer.pad_token_id, "labels": -100, "teacher_prompt_ids": 3}
    for name, mask in PADDED.items():
        longest = max(len(row[name]) for row in ROWS)
        assert batch[name].shape == (3, longest if multiple is None else -(-longest // multiple) * multiple)
        assert batch[name].dtype == torch.int64
        real = batch["labels"] != -100 if mask is None else batch[mask].bool()
        for row, tokens, is_real in zip(ROWS, batch[name], real, strict=True):
            assert tokens[is_real].tolist() == row[name]
            assert set(tokens[~is_real].tolist()) <= {paddings[name]}
            # prompts end, and all others begin, in the same column
            edge = is_real[-len(row[name]) :] if name == "teacher_prompt_ids" else is_real[: len(row[name])]
            assert edge.all()


def test_the_teacher_reads_the_rows_of_a_batch(tokenizer):
    batch = DataCollatorForDistillation(tokenizer, teacher_pad_token_id=3, pad_to_multiple_of=4)(ROWS)
    inputs = read_after_prompt(
        batch["teacher_prompt_ids"], batch["teacher_prompt_mask"], batch["labels"], batch["labels"] != -100,
        pad_token_id=3,
    )  # fmt: skip
    for row, tokens, mask in zip(ROWS, inputs.input_ids, inputs.attention_mask.bool(), strict=True):
        assert tokens[mask].tolist() == row["teacher_prompt_ids"] + row["labels"]


def test_a_batch_of_several_is_those_of_one(tokenizer):
    collator = DataCollatorForDistillation(tokenizer)
    together = collator(ROWS)
    for index, row in enumerate(ROWS):
        alone = collator([row])
        for name, mask in PADDED.items():
            real = together["labels"][index] != -100 if mask is None else together[mask][index].bool()
            assert together[name][index][real].tolist() == alone[name][0].tolist()


def test_what_only_some_trainings_have_is_there_if_rows_have_it(tokenizer):
    extra = [
        {"teacher_labels": [4, 0], "aligned": [[0, 0], [1, 2]], "teacher_index": 1, "cache_row": 70_000},
        {"teacher_labels": [5], "aligned": [], "teacher_index": 0, "cache_row": 0},
        {"teacher_labels": [6, 7, 8], "aligned": [[2, 1]], "teacher_index": 1, "cache_row": 5},
    ]
    features = [row | more | {"text": "left out"} for row, more in zip(ROWS, extra, strict=True)]
    batch = DataCollatorForDistillation(tokenizer, pad_to_multiple_of=4)(features)
    assert set(batch) == {*PADDED, *filter(None, PADDED.values()), *extra[0]}
    assert batch["teacher_labels"].tolist() == [[4, 0, -100, -100], [5, *[-100] * 3], [6, 7, 8, -100]]
    assert batch["aligned"].tolist() == [[[0, 0], [1, 2]], [[-1, -1]] * 2, [[2, 1], [-1, -1]]]
    assert batch["teacher_index"].tolist() == [1, 0, 1]
    assert batch["cache_row"].tolist() == [70_000, 0, 5]
    # no row of the batch has a pair
    assert DataCollatorForDistillation(tokenizer)(features[1:2])["aligned"].shape == (1, 0, 2)


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_rows_may_be_tensors_and_arrays(tokenizer, kind):
    collator = DataCollatorForDistillation(tokenizer, label_pad_token_id=-1)
    batch = collator([{name: kind(value) for name, value in row.items()} for row in ROWS])
    expected = collator(ROWS, return_tensors="np")
    for name, values in batch.items():
        assert isinstance(expected[name], np.ndarray)
        assert values.tolist() == expected[name].tolist()
    assert batch["labels"][0].tolist() == [0, 2, -1, -1, -1]


def test_a_trainer_takes_it_for_training_and_evaluation(tokenizer, tiny_model, tmp_path):
    arguments = Seq2SeqTrainingArguments(
        tmp_path,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=3,
        remove_unused_columns=False,
        use_cpu=True,
    )
    rows = Dataset.from_list([row | {"text": "left out"} for row in ROWS])
    trainer = Seq2SeqTrainer(
        tiny_model, arguments, data_collator=DataCollatorForDistillation(tokenizer), train_dataset=rows,
        eval_dataset=rows,
    )  # fmt: skip
    assert [len(batch["labels"]) for batch in trainer.get_train_dataloader()] == [2, 1]
    (batch,) = trainer.get_eval_dataloader()
    expected = DataCollatorForDistillation(tokenizer)(ROWS)
    assert {name: values.tolist() for name, values in batch.items()} == {
        name: values.tolist() for name, values in expected.items()
    }


def test_what_cannot_be_a_batch_is_refused(tokenizer):
    collator = DataCollatorForDistillation(tokenizer)
    with pytest.raises(ValueError, match=r"a row has no teacher_prompt_ids, only input_ids, labels: .*unused_columns"):
        collator([ROWS[0], {"input_ids": [1], "labels": [2]}])
    with pytest.raises(ValueError, match="a row has no cache_row"):
        collator([ROWS[0] | {"cache_row": 1}, ROWS[1]])
    with pytest.raises(ValueError, match="return_tensors is 'tf'"):
        collator(ROWS, return_tensors="tf")
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match=r"no pad_token to pad sources with: set tokenizer\.pad_token"):
        DataCollatorForDistillation(tokenizer)
