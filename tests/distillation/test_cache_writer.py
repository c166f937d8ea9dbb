"""Nothing is asked twice, nothing is left half-written, and nothing is written where it does not belong."""

import math

import pytest
import torch
from cache_tester import (
    DATASET,
    VOCAB,
    StoppedTeacher,
    cache_writing,
    collate,
    files_of,
    keys_of,
    make_rows,
    make_teacher,
    read_all,
)
from datasets import Dataset
from filelock import FileLock
from transformers import AutoTokenizer
from word_tokenizers import save_word_tokenizer

from encdec_slm.distillation.cache import TeacherCache
from encdec_slm.distillation.chunked_divergence import IGNORE_INDEX
from encdec_slm.distillation.signals import LiveSignal
from encdec_slm.distillation.teachers import Teacher


@pytest.fixture
def teacher(tiny_tokenizer):
    return make_teacher(tiny_tokenizer)


@pytest.fixture
def write(tmp_path, tiny_tokenizer):
    return cache_writing(tmp_path, tiny_tokenizer)


class TestDuplicates:
    """Are stored once, and are no duplicates where another adapter reads them."""

    def test_are_asked_once(self, write, teacher, tmp_path):
        counting = StoppedTeacher(teacher)
        report = write(teacher=counting, dataset=Dataset.from_list([*DATASET, *DATASET]))
        assert (counting.asked, report.asked_rows, report.rows, report.dataset_rows) == (23, 23, 23, 46)
        keys = keys_of(DATASET)
        rows = TeacherCache.open(tmp_path / "cache").rows_of([*keys, *keys])
        assert rows[:23] == rows[23:]
        assert sorted(rows[:23]) == list(range(23))

    def test_of_another_adapter_are_rows_of_their_own(self, write, tmp_path, tiny_tokenizer):
        peft = pytest.importorskip("peft")
        model = make_teacher(tiny_tokenizer).model
        config = peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, target_modules=["q_proj", "v_proj"])
        model = peft.get_peft_model(model, config, adapter_name="first")
        model.add_adapter("second", config)
        several = Teacher(model, tiny_tokenizer, adapters=("first", "second"))
        rows = make_rows(5)
        both = Dataset.from_list([{**row, "teacher_index": index} for row in rows for index in (0, 1)])
        assert write(teacher=several, dataset=both, top_k=VOCAB).rows == 10
        batch, found = read_all(tmp_path / "cache", both)
        expected = LiveSignal(teacher=several)(batch).logits().log_softmax(-1).gather(-1, found.ids)
        there = batch["labels"] != IGNORE_INDEX
        torch.testing.assert_close(found.log_probs[there], expected[there], rtol=1e-3, atol=1e-4)
        assert not torch.allclose(expected[0::2][there[0::2]], expected[1::2][there[1::2]], atol=1e-2)


class TestStoppedRun:
    """Goes on where it was, and ends as if it had not been stopped."""

    @pytest.mark.parametrize("batches", [0, 1, 3, 5])
    def test_ends_with_the_same_files(self, batches, write, teacher, tmp_path):
        write("whole")
        with pytest.raises(KeyboardInterrupt):
            write("stopped", teacher=StoppedTeacher(teacher, batches))
        write("stopped")
        assert files_of(tmp_path / "whole") == files_of(tmp_path / "stopped")

    def test_asks_only_for_what_is_missing(self, write, teacher, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            write(teacher=StoppedTeacher(teacher, 5))
        stored = len(TeacherCache.open(tmp_path / "cache"))
        counting = StoppedTeacher(teacher)
        report = write(teacher=counting)
        assert 0 < stored < 20
        assert counting.asked == report.asked_rows == 23 - stored
        assert write(teacher=counting).asked_rows == 0
        assert counting.asked == 23 - stored

    def test_that_was_killed_while_it_wrote_leaves_nothing_behind(self, write, teacher, tmp_path):
        """Between a file and the index, or in the middle of either."""
        write("whole")
        with pytest.raises(KeyboardInterrupt):
            write("killed", teacher=StoppedTeacher(teacher, 3))
        folder = tmp_path / "killed"
        number = len([name for name in files_of(folder) if name.startswith("teacher-")])
        assert number >= 1
        (folder / f"teacher-{number:05}.safetensors").write_bytes(b"not in the index")
        (folder / f".teacher-{number:05}.safetensors.partial").write_bytes(b"half")
        (folder / ".index.json.partial").write_bytes(b"half")
        write("killed")
        assert files_of(tmp_path / "whole") == files_of(folder)
        assert not list(folder.glob(".*.partial"))

    def test_whose_disk_is_full_leaves_no_half_file(self, write, monkeypatch, tmp_path):
        def half(tensors, file):
            file.write_bytes(b"half")
            raise OSError("no space left on device")

        monkeypatch.setattr("encdec_slm.distillation.cache_writer.save_file", half)
        with pytest.raises(OSError, match="no space"):
            write()
        assert list(files_of(tmp_path / "cache")) == ["index.json"]
        assert not list((tmp_path / "cache").glob(".*.partial"))

    def test_may_change_its_mind_before_anything_is_stored(self, write, teacher, tmp_path):
        with pytest.raises(ValueError, match="k is 61"):
            write(top_k=VOCAB + 1)
        write()
        assert len(TeacherCache.open(tmp_path / "cache")) == len(DATASET)

    def test_adds_the_rows_of_another_dataset(self, write, tmp_path):
        write()
        before = files_of(tmp_path / "cache")
        others = Dataset.from_list(make_rows(5, seed=1))
        report = write(dataset=others)
        assert (report.asked_rows, report.rows) == (5, 28)
        after = files_of(tmp_path / "cache")
        assert {name: after[name] for name in before if name != "index.json"}.items() <= before.items()
        for rows in (DATASET, others):
            read_all(tmp_path / "cache", rows)


class TestRefused:
    """What does not fit the folder, before it can do harm."""

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"top_k": 4}, ["top_k", "8", "4"]),
            ({"temperature": 2.0}, ["temperature", "1.0", "2.0"]),
            ({"shared_ids": 50}, ["shared_ids", "None", "50"]),
        ],
    )
    def test_another_question_in_the_same_folder(self, changes, named, write, tmp_path):
        write()
        before = files_of(tmp_path / "cache")
        with pytest.raises(ValueError, match="{} is {} in the cache, and {} here".format(*named)):
            write(**changes)
        assert files_of(tmp_path / "cache") == before

    def test_another_teacher_in_the_same_folder(self, write, tiny_tokenizer):
        write()
        with pytest.raises(ValueError, match=r"teacher_fingerprint is '.+' in the cache, and '.+' here"):
            write(teacher=make_teacher(tiny_tokenizer, seed=1))
        with pytest.raises(ValueError, match=r"exchange is None in the cache, and \(2, 40\) here"):
            write(teacher=make_teacher(tiny_tokenizer, exchange=(2, 40)))

    def test_another_tokenizer_in_the_same_folder(self, write, tmp_path):
        write()
        other = AutoTokenizer.from_pretrained(save_word_tokenizer(tmp_path / "other", ["<unk>", "word"]))
        with pytest.raises(ValueError, match=r"student_tokenizer is '.+' in the cache, and '.+' here"):
            write(student_tokenizer=other)

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([{"source": "a"}], "the dataset has no labels and no teacher_prompt_ids"),
            ([{"labels": [1]}], "the dataset has no teacher_prompt_ids"),
            ([{"teacher_prompt_ids": [1], "labels": []}], "the labels of row 0"),
            ([{"teacher_prompt_ids": [1], "labels": [IGNORE_INDEX, 3]}], "the labels of row 0"),
            ([{"teacher_prompt_ids": [1], "labels": [1], "teacher_labels": [1]}], "has another tokenizer"),
        ],
    )
    def test_rows_that_cannot_be_asked(self, rows, message, write):
        with pytest.raises(ValueError, match=message):
            write(dataset=Dataset.from_list(rows))

    def test_no_rows(self, write):
        with pytest.raises(ValueError, match="the dataset has no rows"):
            write(dataset=DATASET.select([]))

    @pytest.mark.parametrize("name", ["batch_size", "tokens_per_shard", "chunk_size"])
    def test_sizes_of_nothing(self, name, write):
        with pytest.raises(ValueError, match=f"{name} is 0, but it is at least 1"):
            write(**{name: 0})

    def test_a_collator_that_cuts(self, write):
        def cutting(features):
            batch = collate(features)
            return batch | {"labels": batch["labels"][:, :3]}

        with pytest.raises(ValueError, match=r"the collator gives .* labels for rows that have"):
            write(collator=cutting)

    def test_a_teacher_of_nan(self, write, teacher, tmp_path):
        teacher.model.lm_head.weight.data.fill_(math.nan)
        with pytest.raises(ValueError, match="NaN in one of the rows"):
            write(teacher=teacher)
        assert list(files_of(tmp_path / "cache")) == ["index.json"]

    def test_a_folder_of_something_else(self, write, tmp_path):
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "model.safetensors").write_bytes(b"precious")
        with pytest.raises(ValueError, match=r"holds something that is no teacher cache \(model.safetensors\)"):
            write()
        (tmp_path / "file").write_text("precious")
        with pytest.raises(ValueError, match="is a file"):
            write("file")

    def test_two_writers_at_once(self, write, tmp_path):
        write()
        with FileLock(tmp_path / "cache" / ".lock"), pytest.raises(ValueError, match="another process is writing"):
            write()
