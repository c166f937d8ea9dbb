"""The teacher learns just what it is asked in the distillation; the recipes are understood by their commands."""

import json
from pathlib import Path

import finetune_teacher
import pytest
import torch
from datasets import Dataset
from finetune_teacher import TeacherArguments, encode, main
from peft import PeftModel
from tasks import Task, write_files
from transformers import AutoModelForCausalLM

from encdec_slm.distillation.__main__ import build_parser, parse
from encdec_slm.distillation.rows import RowEncoder, encode_rows


CONFIGS = Path(__file__).parents[2] / "examples" / "configs"
PAIRS = {"source": ["abc", "bca", "cab", "b"] * 4, "target": ["cba", "acb", "bac", "cabcab"] * 4}


@pytest.fixture
def train_file(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    Dataset.from_dict(PAIRS).to_json(tmp_path / "train.jsonl")
    return tmp_path / "train.jsonl"


def test_the_teacher_learns_the_ids_that_it_reads_in_a_distillation(tiny_tokenizer, train_file):
    rows = Dataset.from_dict(PAIRS)
    lengths = {"max_source_length": 2, "max_target_length": 5, "teacher_template": "read {source}."}
    arguments = TeacherArguments(train_file=str(train_file), **lengths)
    end = tiny_tokenizer.bos_token_id
    learnt = encode(rows, tiny_tokenizer, end, arguments)
    asked = encode_rows(rows, RowEncoder(tokenizer=tiny_tokenizer, teacher_tokenizer=tiny_tokenizer, **lengths))
    for row, question in zip(learnt, asked, strict=True):
        prompt, labels = question["teacher_prompt_ids"], question["labels"]
        assert row["input_ids"][: len(prompt)] == prompt
        answer = row["input_ids"][len(prompt) :]
        assert row["completion_mask"] == [0] * len(prompt) + [1] * len(answer)
        # a target that is cut has no end
        assert answer == [end if i == tiny_tokenizer.eos_token_id else i for i in labels]
    assert learnt.column_names == ["input_ids", "completion_mask"]


def test_an_adapter_is_trained_and_saved(source, train_file, tmp_path, capsys, tiny_tokenizer):
    quiet = "--use_cpu true --bf16 false --report_to none --disable_tqdm true --save_strategy no --lora_dropout 0"
    options = f"--learning_rate 1e-2 --lora_target_modules all-linear --train_file {train_file} {quiet}"
    command = ["--model_name_or_path", str(source), *options.split()]
    before = main([*command, "--max_steps", "1", "--learning_rate", "0", "--output_dir", str(tmp_path / "before")])
    after = main([*command, "--max_steps", "20", "--output_dir", str(tmp_path / "after")])
    assert after["eval_loss"] < before["eval_loss"]
    assert f"eval_loss {after['eval_loss']:.4f}" in capsys.readouterr().out
    assert json.loads((tmp_path / "after/adapter_config.json").read_text())["r"] == 16
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(source), tmp_path / "after")
    held_out = encode(
        Dataset.from_dict(PAIRS).take(1), tiny_tokenizer, tiny_tokenizer.eos_token_id,
        TeacherArguments(train_file=str(train_file)),
    )[0]  # fmt: skip
    ids = torch.tensor([held_out["input_ids"]])
    labels = ids.masked_fill(torch.tensor([held_out["completion_mask"]]) == 0, -100)
    # the loss of the trainer is that of the completion alone
    assert model(input_ids=ids, labels=labels).loss.item() == pytest.approx(after["eval_loss"], rel=1e-4)
    with pytest.raises(ValueError, match="already holds something"):
        main([*command, "--output_dir", str(tmp_path / "after")])


RECIPES = sorted(path for kind in ("distill", "teacher") for path in CONFIGS.glob(f"{kind}_*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_understood_by_its_command(path):
    command = ["--config", str(path), "--use_cpu", "true"]
    if path.stem.startswith("teacher"):
        rows, training, model = finetune_teacher.parse(command)
        assert (model.lora_r, model.lora_alpha, training.completion_only_loss) == (16, 32, True)
    else:
        rows, model, training = parse(build_parser(), command)
        assert training.has_samples == (training.teacher_cache is None)
    assert (len(rows.train_file), len(rows.validation_file)) == (1, 1)
    # all that it says of the recipe beside where things are
    assert training.output_dir.startswith("outputs/")


def test_teacher_and_student_of_a_recipe_read_alike():
    for teacher, student in (
        ("teacher_phi35", "distill_330m_phi35"),
        ("teacher_smollm2_codexglue", "distill_smollm2_codexglue"),
    ):
        taught, training, base = finetune_teacher.parse(
            ["--config", str(CONFIGS / f"{teacher}.yaml"), "--use_cpu", "true"]
        )
        script, _, distillation = parse(
            build_parser(), ["--config", str(CONFIGS / f"{student}.yaml"), "--use_cpu", "true"]
        )
        for name in ("max_source_length", "max_target_length", "source_truncation", "teacher_template"):
            assert getattr(taught, name) == getattr(distillation, name)
        assert taught.train_file == script.train_file
        assert distillation.teacher_adapters == training.output_dir
        assert script.teacher_name_or_path == base.model_name_or_path


def test_the_files_of_a_task_begin_targets_with_a_line_break(tmp_path):
    rows = Dataset.from_dict(PAIRS)
    files = write_files(Task(rows, rows.take(2), "BLEU", lambda *_: 0.0), tmp_path)
    lines = [json.loads(line) for line in files["validation"].read_text().splitlines()]
    assert lines == [{"source": "abc", "target": "\ncba"}, {"source": "bca", "target": "\nacb"}]
    assert len(files["train"].read_text().splitlines()) == len(rows)
