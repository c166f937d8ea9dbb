"""The small translator from end to end: what is saved is an ordinary checkpoint."""

import json
import os
import subprocess
import sys

import pytest
import small_translator
from datasets import Dataset
from scoring import bleu
from tasks import Task
from timed_training import TRAINING
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline


ROWS = Dataset.from_dict(
    {"source": ["int a() {}", "int b() {}"] * 16, "target": ["int A(){}", "int B(){}"] * 16, "line": [0] * 32}
)
OPTIONS = ["--minutes", "0.05", "--threads", "1", "--use_cpu", "true", "--disable_tqdm", "true"]
SIZE = ["--hidden_size", "32", "--encoder_layers", "1", "--decoder_layers", "1", "--vocab_size", "300"]


@pytest.mark.parametrize(("bf16", "dtype"), [("false", "float32"), ("true", "bfloat16")])
def test_what_is_saved_answers_by_the_pipeline(tmp_path, monkeypatch, bf16, dtype):
    monkeypatch.setattr(small_translator, "load_task", lambda *_: Task(ROWS, ROWS, "BLEU", bleu))
    options = [*OPTIONS, *SIZE, "--dropout", "0.2", "--bf16", bf16, "--output_dir", str(tmp_path)]
    small_translator.main(["--data_dir", "none", *options])
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert model.config.encoder.dropout == model.config.decoder.dropout == 0.2
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokens = model.generate(**tokenizer("int a() {}", return_tensors="pt"), max_new_tokens=8)
    answer = pipeline("text2text-generation", model=str(tmp_path))("int a() {}", max_new_tokens=8)
    assert answer == [{"generated_text": tokenizer.decode(tokens[0], skip_special_tokens=True)}]
    record = json.loads((tmp_path / TRAINING).read_text())
    assert record["parameters"] == model.num_parameters()
    assert record["label"] == "from random weights"
    assert record["dtype"] == dtype
    assert record["pairs"] > 0
    assert record["minutes"] >= 0.05


def test_what_is_other_than_by_default_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(small_translator, "load_task", lambda *_: Task(ROWS, ROWS, "BLEU", bleu))
    other = ["--copy_share", "0", "--cross_attention_rope", "false", "--joined_share", "0"]
    small_translator.main(["--data_dir", "none", *OPTIONS, *SIZE, *other, "--output_dir", str(tmp_path)])
    assert not AutoModelForSeq2SeqLM.from_pretrained(tmp_path).config.decoder.cross_attention_rope
    record = json.loads((tmp_path / TRAINING).read_text())
    label = "from random weights, nothing copied first, no places in cross-attention, one pair in a row"
    assert record["label"] == label
    assert record["pairs"] % 8 == 0 < record["pairs"]


@pytest.mark.slow
def test_two_processes_end_at_one_time(tmp_path):
    # were the end not agreed upon, one would wait for the other until the time is out
    for kind in ("train", "valid"):
        for language, target in (("java", "int a() {}"), ("cs", "int A(){}")):
            (tmp_path / f"{kind}.{language}").write_text(f"{target}\n" * 600)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    options = [*OPTIONS, *SIZE, "--joined_share", "0", "--output_dir", str(tmp_path)]
    script = [small_translator.__file__, "--data_dir", str(tmp_path), *options]
    subprocess.run([*command, *script], env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=120, check=True)
    record = json.loads((tmp_path / TRAINING).read_text())
    # rows of two processes
    assert record["pairs"] % 16 == 0 < record["pairs"]
    assert "2 thread(s)" in record["machine"]
