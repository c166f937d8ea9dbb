"""The comparison of the demo: every model is timed and shown with its own numbers."""

import json

import pytest
import spelling_report
import torch
from spelling_report import INPUT_LENGTH, NEW_TOKENS, TURNS, Entry, compare, draw, table, write
from transformers import LlamaConfig, LlamaForCausalLM


RATES = {
    "large": {"phonemes": 0.1, "words": 0.4, "any": 0.3},
    "small": {"phonemes": 0.2, "words": 0.6, "any": 0.5},
}


@pytest.fixture
def models(tiny_model):
    """A decoder-only model and an encoder-decoder, as the demo has them."""
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return {"large": LlamaForCausalLM(config), "small": tiny_model}


@pytest.fixture
def entries():
    return [
        Entry(
            name=name,
            parameters=1_000 * size,
            phoneme_error_rate=0.1 / size,
            word_error_rate=0.4 / size,
            any_error_rate=0.3 / size,
            first_token_ms=2.5 * size,
            tokens_per_second=300 / size,
        )
        for size, name in enumerate(("small", "large"), start=1)
    ]


def test_each_model_has_its_size_its_errors_and_its_speed(models):
    entries = compare(models, RATES)
    assert [entry.name for entry in entries] == ["large", "small"]
    for entry in entries:
        assert entry.parameters == models[entry.name].num_parameters()
        assert entry.phoneme_error_rate == RATES[entry.name]["phonemes"]
        assert entry.word_error_rate == RATES[entry.name]["words"]
        assert entry.any_error_rate == RATES[entry.name]["any"]
        assert entry.first_token_ms > 0
        assert entry.tokens_per_second > 0


def test_models_answer_in_turns_on_one_thread_as_many_tokens(models, monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: calls.append(number))
    for name, model in models.items():

        def spy(name=name, generate=model.generate, start=1 if name == "small" else INPUT_LENGTH, **arguments):
            answer = generate(**arguments)
            calls.append((name, tuple(arguments["input_ids"].shape), answer.shape[1] - start))
            return answer

        monkeypatch.setattr(model, "generate", spy)
    spelling_report.speeds(models)
    warm_up = 2
    assert calls[0] == 1
    assert calls[-1] == 2
    assert [name for name, _, _ in calls[1:-1]] == ["large", "small"] * (1 + TURNS)
    assert {shape for _, shape, _ in calls[1:-1]} == {(1, INPUT_LENGTH)}
    assert {written for _, _, written in calls[1 + warm_up : -1]} == {NEW_TOKENS}


def test_the_table_has_a_line_for_each_model(entries):
    lines = table(entries).splitlines()
    assert len(lines) == 2 + len(entries)
    assert len({line.count("|") for line in lines}) == 1
    for entry, line in zip(entries, lines[2:], strict=True):
        assert line.startswith(f"| {entry.name} | {entry.parameters:,} | {entry.phoneme_error_rate:.3f} | ")
        assert line.endswith(f"| {entry.tokens_per_second:.0f} |")


def test_the_picture_has_a_bar_for_each_number(entries, monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(spelling_report.plt, "close", figures.append)
    draw(entries, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    heights = [[bar.get_height() for bar in axis.patches] for axis in figures[0].axes]
    assert heights == [[measure.of(entry) for entry in entries] for measure in spelling_report.MEASURES]


def test_the_record_has_numbers_seconds_and_the_machine(entries, tmp_path):
    write(entries, {"teacher": 12.34}, tmp_path / "record.json")
    record = json.loads((tmp_path / "record.json").read_text())
    assert [model["name"] for model in record["models"]] == ["small", "large"]
    assert record["models"][0]["first_token_ms"] == entries[0].first_token_ms
    assert record["seconds"] == {"teacher": 12.3}
    assert record["training"]["processor"]
