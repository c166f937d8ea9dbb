"""The translator from end to end on a tiny source: what is saved is an ordinary checkpoint."""

import json
from dataclasses import replace

import java_to_csharp
import pytest
import torch
from datasets import Dataset
from scoring import bleu
from start_students import Student
from tasks import Task
from timed_training import TRAINING
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

from encdec_slm.distillation.rows import RowEncoder


ROWS = Dataset.from_dict({"source": ["abc", "bca", "cab"] * 8, "target": ["cba", "acb", "bac"] * 8})
OPTIONS = ["--data_dir", "none", "--minutes", "0.02", "--threads", "1", "--use_cpu", "true", "--disable_tqdm", "true"]


def translate(source, folder, monkeypatch, *options):
    student = Student(name="started", label="started", layers="0-2/0,3", learning_rate=1e-3)
    monkeypatch.setitem(java_to_csharp.TRANSLATORS, "whole", student)
    monkeypatch.setitem(java_to_csharp.TRANSLATORS, "whole-random", replace(student, label="random", is_random=True))
    monkeypatch.setattr(java_to_csharp, "load_task", lambda *_: Task(ROWS, ROWS, "BLEU", bleu))
    java_to_csharp.main([*OPTIONS, "--source", str(source), "--output_dir", str(folder), *options])


def test_what_is_saved_answers_by_the_pipeline(source, tmp_path, monkeypatch):
    translate(source, tmp_path, monkeypatch)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    framed = [bos, *tokenizer("abc", add_special_tokens=False).input_ids, eos]
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert model.generation_config.max_new_tokens == java_to_csharp.RECIPE["max_target_length"]
    # a user of the folder asks as the training did, without knowing how
    tokens = model.generate(torch.tensor([framed]), max_new_tokens=4)
    answer = pipeline("text2text-generation", model=str(tmp_path))("abc", max_new_tokens=4)
    assert answer == [{"generated_text": tokenizer.decode(tokens[0], skip_special_tokens=True)}]
    record = json.loads((tmp_path / TRAINING).read_text())
    assert record["parameters"] == model.num_parameters()
    assert record["pairs"] % 8 == 0 < record["pairs"]
    assert record["label"] == "started"


def test_the_same_architecture_learns_from_random_weights_too(source, tmp_path, monkeypatch):
    translate(source, tmp_path, monkeypatch, "--student", "whole-random")
    record = json.loads((tmp_path / TRAINING).read_text())
    assert record["label"] == "random"
    learnt = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    started = AutoModelForCausalLM.from_pretrained(source)
    assert learnt.config.decoder.num_hidden_layers == 2
    # a few steps do not bring random weights to those of the source
    one, other = (model.get_input_embeddings().weight for model in (learnt, started))
    assert torch.cosine_similarity(one[: len(other)].flatten(), other.flatten(), dim=0) < 0.5


def test_the_training_reads_what_a_user_of_the_folder_asks(source):
    tokenizer = java_to_csharp.load_tokenizer(source)
    encoder = RowEncoder(tokenizer=tokenizer, teacher_tokenizer=tokenizer, asks_teacher=False)
    assert encoder({"source": ["abc"], "target": ["cba"]})["input_ids"] == [tokenizer("abc").input_ids]


def test_a_cache_that_would_not_be_used_is_refused(source, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="--teacher_cache has no effect with --alpha 0"):
        translate(source, tmp_path, monkeypatch, "--teacher_cache", "somewhere")
