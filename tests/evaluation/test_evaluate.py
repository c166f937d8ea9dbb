"""An evaluation scores what `generate` answers to each row alone, keeps what is done, and goes on with it."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from foreign_models import llama, t5
from image_tester import llava, picture, qwen2_vl, vision_student
from model_tester import ModelTester
from spelling_tokenizer import build_tokenizer

from encdec_slm import cli
from encdec_slm.cli import main
from encdec_slm.evaluation.evaluate import evaluate
from encdec_slm.evaluation.metrics import exact_match, rouge
from encdec_slm.hub.card_results import read_results


TOKENS = 6
SHORT = {"max_new_tokens": TOKENS, "batch_size": 3}


def predictions(folder):
    """Returns the answers in the order of the rows."""
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    records = sorted(map(json.loads, lines), key=lambda record: record["number"])
    assert [record["number"] for record in records] == list(range(len(records)))
    return [record["prediction"] for record in records]


def sources(file):
    return [json.loads(line)["source"] for line in Path(file).read_text(encoding="utf-8").splitlines()]


def answer(model, tokenizer, ids, prompt_length=0):
    with torch.no_grad():
        tokens = model.generate(input_ids=torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False)
    return tokenizer.decode(tokens[0, prompt_length:], skip_special_tokens=True).strip()


@pytest.mark.parametrize("family", ["ours", "t5"])
def test_answers_of_an_encoder_decoder_are_those_to_each_row_alone(family, rows_file, tiny_tokenizer, tmp_path):
    model = (ModelTester().model() if family == "ours" else t5()).eval()
    found = evaluate(model, "text", output=tmp_path, processing_class=tiny_tokenizer, data=[rows_file], **SHORT)
    texts = sources(rows_file)
    alone = [answer(model, tiny_tokenizer, tiny_tokenizer(text)["input_ids"]) for text in texts]
    assert len(set(alone)) > len(alone) // 2
    assert predictions(tmp_path) == alone
    references = [text[::-1] for text in texts]
    expected = exact_match(predictions=alone, references=references) | rouge(predictions=alone, references=references)
    assert found.metrics == pytest.approx(expected)
    assert all(score.interval[0] <= score.value <= score.interval[1] for score in found.scores)
    assert found.examples == found.answered == len(texts)
    assert 0 < found.generation_seconds < found.seconds


@pytest.mark.parametrize("template", [None, "ask {source}, say", "chat"])
def test_a_decoder_only_model_is_prompted_and_only_what_it_adds_is_scored(
    template, rows_file, tiny_tokenizer, tmp_path, monkeypatch
):
    model = llama().eval()
    if template == "chat":
        monkeypatch.setattr(tiny_tokenizer, "chat_template", "ask{{ messages[0].content }}say")
    given = None if template == "chat" else template
    evaluate(
        model, "text", output=tmp_path, processing_class=tiny_tokenizer, data=[rows_file], template=given, **SHORT
    )
    frame = {None: "{}\n", "chat": "ask{}say"}.get(template, "ask {}, say")
    prompts = [tiny_tokenizer(frame.format(text))["input_ids"] for text in sources(rows_file)]
    alone = [answer(model, tiny_tokenizer, ids, len(ids)) for ids in prompts]
    assert len(set(alone)) > len(alone) // 2
    assert predictions(tmp_path) == alone


def test_an_instruction_is_told_in_the_chat_template(rows_file, tiny_tokenizer, tmp_path, monkeypatch):
    model, given = llama().eval(), {"processing_class": tiny_tokenizer, "data": [rows_file], **SHORT}
    evaluate(model, "text", output=tmp_path / "read", template="ask do{source}say", **given)
    monkeypatch.setattr(tiny_tokenizer, "chat_template", "ask{{ messages[0].content }}say")
    evaluate(model, "text", output=tmp_path / "told", instruction=" do{source}", **given)
    assert predictions(tmp_path / "told") == predictions(tmp_path / "read")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"instruction": "say it"}, r"the instruction 'say it' has no \{source\}"),
        ({"instruction": "{source}", "template": "{source}"}, "template and instruction are both given"),
    ],
)
def test_an_instruction_that_cannot_be_told_is_refused(given, message, rows_file, tmp_path):
    with pytest.raises(ValueError, match=message):
        evaluate(llama(), "text", output=tmp_path / "out", data=[rows_file], **given)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_ends_each_text_does_not_end_a_prompt(rows_file, tmp_path, model_folder):
    tokenizer = build_tokenizer("abcdefghijklmnopqrstuvwxyz", ["AE", "K"])
    assert tokenizer("cat")["input_ids"][-1] == tokenizer.eos_token_id
    read = []

    class Recorder:
        config = SimpleNamespace(is_encoder_decoder=False)

        def generate(self, input_ids, attention_mask, **generation):
            read.extend(row[mask.bool()].tolist() for row, mask in zip(input_ids, attention_mask, strict=True))
            return input_ids

    evaluate(Recorder(), "text", output=tmp_path, processing_class=tokenizer, data=[rows_file], template="{source}<s>")
    assert {ids[-1] for ids in read} == {tokenizer.bos_token_id}
    assert set(predictions(tmp_path)) == {""}


class CutError(Exception):
    """What happens to a process that is stopped."""


def test_an_evaluation_that_was_cut_off_goes_on_where_it_was(rows_file, tiny_tokenizer, tmp_path, monkeypatch):
    model = ModelTester().model()
    given = {"processing_class": tiny_tokenizer, "data": [rows_file], **SHORT}
    whole = evaluate(model, "text", output=tmp_path / "whole", **given)
    generate, calls = model.generate, []

    def stopping(**inputs):
        calls.append(len(inputs["input_ids"]))
        if len(calls) == 3:
            raise CutError
        return generate(**inputs)

    monkeypatch.setattr(model, "generate", stopping)
    with pytest.raises(CutError):
        evaluate(model, "text", output=tmp_path / "cut", **given)
    answers = tmp_path / "cut" / "predictions.jsonl"
    assert answers.read_text().count("\n") == 6
    # a line of which only a part was written does not count
    answers.write_text(answers.read_text()[:-10])
    found = evaluate(model, "text", output=tmp_path / "cut", **given)
    assert calls == [3, 3, 2, 3]
    assert predictions(tmp_path / "cut") == predictions(tmp_path / "whole")
    assert (found.metrics, found.answered) == (whole.metrics, 3)
    # nothing is left to do, and another metric needs no other answers
    again = evaluate(model, "text", output=tmp_path / "cut", metrics=["chrf"], **given)
    assert len(calls) == 4
    assert (list(again.metrics), again.answered) == (["chrf"], 0)


def test_answers_under_other_settings_are_neither_mixed_nor_lost(rows_file, write_rows, tmp_path):
    given = {"output": tmp_path, "data": [rows_file]}
    evaluate("copy", "text", **given)
    before = (tmp_path / "predictions.jsonl").read_text()
    with pytest.raises(
        ValueError, match=r"other settings \(limit was null and is 2; generation was .*\): take"
    ) as error:
        evaluate("copy", "text", limit=2, num_beams=3, **given)
    assert '"num_beams": 1' in str(error.value)
    with pytest.raises(ValueError, match="data was"):
        evaluate("copy", "text", output=tmp_path, data=[write_rows([{"source": "a", "target": "b"}])])
    assert (tmp_path / "predictions.jsonl").read_text() == before
    assert evaluate("copy", "text", limit=2, overwrite=True, **given).examples == 2
    assert len(predictions(tmp_path)) == 2


def test_a_copy_of_the_input_is_scored_as_an_answer(write_rows, tmp_path):
    rows = [{"java": "int a;", "cs": "int a;"}, {"java": "boolean b;", "cs": "bool b;"}]
    found = evaluate("copy", "codexglue_java_cs", output=tmp_path, data=[write_rows(rows)])
    assert predictions(tmp_path) == ["int a;", "boolean b;"]
    assert found.metrics["exact_match"] == 50
    assert 0 < found.metrics["code_bleu"] < 100


def test_a_package_that_a_metric_lacks_is_named_before_anything_is_answered(rows_file, tmp_path, monkeypatch):
    # as if it was not installed
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    monkeypatch.delitem(sys.modules, "rouge_score.rouge_scorer", raising=False)
    with pytest.raises(ImportError, match=r"package rouge-score: pip install 'encdec-slm\[evaluation\]'"):
        evaluate("copy", "text", output=tmp_path / "output", data=[rows_file])
    assert not (tmp_path / "output").exists()


def test_the_results_are_what_a_model_card_reads(rows_file, model_folder, tmp_path, capsys):
    arguments = ["evaluate", model_folder, "--task", "text", "--data", rows_file, "--output", tmp_path]
    assert main([*map(str, arguments), "--limit", "3", "--max-new-tokens", "4"]) == 0
    printed = capsys.readouterr().out
    assert "| exact match | 0.00 | 0.00 to 0.00 |" in printed
    ((evaluation),) = read_results(tmp_path / "results.json")
    assert evaluation.machine
    names = {result.metric_type: result.metric_name for result in evaluation.results}
    assert names["exact_match"] == "exact match"
    (record,) = json.loads((tmp_path / "results.json").read_text())
    assert record["dataset"] == {"type": "rows.jsonl", "name": "rows.jsonl"}
    assert record["examples"] == 3
    assert {"torch", "transformers", "encdec-slm"} < record["versions"].keys()
    low, high = record["metrics"][0]["args"]["confidence_interval_95"]
    assert low <= record["metrics"][0]["value"] <= high


def test_a_folder_of_another_format_is_answered_by_its_own_engine(rows_file, model_folder, tmp_path, monkeypatch):
    model = ModelTester().model()
    asked = []

    def engine(folder):
        asked.append(folder)
        # all that it has: tensors of the CPU in, tokens out
        return SimpleNamespace(generate=lambda **inputs: model.generate(**inputs).tolist())

    given = [str(model_folder), "--task", "text", "--data", rows_file, "--max-new-tokens", "4"]
    monkeypatch.setattr(cli, "_load_exported", engine)
    assert main(["evaluate", *given, "--output", str(tmp_path / "engine")]) == 0
    monkeypatch.setattr(cli, "_load_exported", lambda folder: None)
    assert main(["evaluate", *given, "--output", str(tmp_path / "model")]) == 0
    assert asked == [str(model_folder)]
    assert predictions(tmp_path / "engine") == predictions(tmp_path / "model")


def test_a_long_input_is_cut_where_it_is_least_missed(tiny_tokenizer, write_rows, tmp_path):
    file = write_rows([{"source": "abcdefghij", "target": "a"}, {"source": "abc", "target": "a"}])
    for model, words in ((ModelTester().model(), "abcde"), (llama(), "fghij")):
        folder = tmp_path / type(model).__name__
        template = None if model.config.is_encoder_decoder else "{source}"
        given = {"processing_class": tiny_tokenizer, "template": template, "max_new_tokens": 4}
        found = evaluate(model, "text", output=folder, data=[file], max_input_tokens=5, **given)
        assert found.truncated == 1
        ids = tiny_tokenizer(words)["input_ids"]
        prompt_length = 0 if model.config.is_encoder_decoder else len(ids)
        with torch.no_grad():
            tokens = model.generate(input_ids=torch.tensor([ids]), max_new_tokens=4, do_sample=False)
        assert (
            predictions(folder)[0]
            == tiny_tokenizer.decode(tokens[0, prompt_length:], skip_special_tokens=True).strip()
        )


@pytest.mark.parametrize(
    "family",
    [vision_student, llava, pytest.param(qwen2_vl, marks=pytest.mark.slow)],
    ids=lambda make: make.__name__,
)
def test_a_model_that_sees_answers_about_images_as_to_each_alone(family, write_rows, tmp_path):
    model, processor = family()
    model.eval()
    files = [tmp_path / f"{number}.png" for number in range(4)]
    for number, file in enumerate(files):
        picture(8 + 6 * number, 20 - 4 * number, seed=number).save(file)
    rows = [
        {"question": question, "image": str(file), "answers": [{"answer": "w1"}] * 10}
        for question, file in zip(("w1", "w2 w3", "w4 w5 w6", "w7"), files, strict=True)
    ]
    file = write_rows(rows)
    given = {"processing_class": processor, "data": [file], "max_new_tokens": 5}
    found = evaluate(model, "vqav2", output=tmp_path / "batch", batch_size=3, **given)
    evaluate(model, "vqav2", output=tmp_path / "alone", batch_size=1, **given)
    answers = predictions(tmp_path / "batch")
    assert answers == predictions(tmp_path / "alone")
    assert len(set(answers)) > 1
    assert list(found.metrics) == ["vqa_accuracy"]
    # it has looked
    blind = [{**row, "image": str(files[0])} for row in rows]
    evaluate(model, "vqav2", output=tmp_path / "blind", **{**given, "data": [write_rows(blind)]})
    assert predictions(tmp_path / "blind") != answers
