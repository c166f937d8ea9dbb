"""The small translator from end to end: what is saved is an ordinary checkpoint."""

import json

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


def test_what_is_saved_answers_by_the_pipeline(tmp_path, monkeypatch):
    monkeypatch.setattr(small_translator, "load_task", lambda *_: Task(ROWS, ROWS, "BLEU", bleu))
    small_translator.main(["--data_dir", "none", *OPTIONS, *SIZE, "--output_dir", str(tmp_path)])
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokens = model.generate(**tokenizer("int a() {}", return_tensors="pt"), max_new_tokens=8)
    answer = pipeline("text2text-generation", model=str(tmp_path))("int a() {}", max_new_tokens=8)
    assert answer == [{"generated_text": tokenizer.decode(tokens[0], skip_special_tokens=True)}]
    record = json.loads((tmp_path / TRAINING).read_text())
    assert record["parameters"] == model.num_parameters()
    assert record["label"] == "from random weights"
    assert record["pairs"] % 8 == 0 < record["pairs"]
    assert record["minutes"] >= 0.05
