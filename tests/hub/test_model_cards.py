"""The cards in `model_cards` are those that the records render to, and the records are those of the commands."""

import importlib.util
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import vision_report
from huggingface_hub import ModelCard
from spelling_report import Entry, table, write
from spelling_students import build_model
from spelling_teacher import build_teacher
from transformers import PreTrainedTokenizerFast

from encdec_slm.benchmarks.compare import Result, Shape
from encdec_slm.benchmarks.decoding import Measurement
from encdec_slm.benchmarks.efficiency_tables import Run
from encdec_slm.benchmarks.report import conditions
from encdec_slm.benchmarks.timing import Latency
from encdec_slm.hub.card import render
from encdec_slm.hub.card_facts import Stack
from encdec_slm.models.configuration_encdec_slm import PRESETS


ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "model_cards"
COMPARISON = FOLDER / "spelling_to_sound/comparison.json"


@pytest.fixture(scope="module")
def rendering():
    """`model_cards/render.py`."""
    spec = importlib.util.spec_from_file_location("model_cards_render", FOLDER / "render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def facts(rendering):
    return rendering.cards()


@pytest.fixture(scope="module")
def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


def committed_cards():
    return {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md") if path.name != "README.md"}


def test_committed_cards_are_what_the_records_render_to(facts):
    assert committed_cards() == {name: str(render(one)) for name, one in facts.items()}, "run `make cards`"


def test_every_named_size_and_every_model_of_the_demo_has_a_card(facts):
    entries = json.loads(COMPARISON.read_text())["models"]
    originals = {"original_330m", "original_vision"}
    assert {*PRESETS, *originals} < facts.keys()
    assert sum(name.startswith("spelling_to_sound") for name in facts) == len(entries)
    # the repositories are as many
    assert len({one.repo_id for one in facts.values()}) == len(facts)


@pytest.mark.parametrize("name", sorted(committed_cards()))
def test_committed_card_is_read_by_the_library_without_loss(name):
    card = ModelCard.load(FOLDER / f"{name}.md")
    assert str(card) == committed_cards()[name]
    assert card.data.license == "mit"
    assert card.data.library_name == "transformers"
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]*)\)", card.text):
        assert (FOLDER / picture).read_bytes().startswith(b"\x89PNG")


def test_rendering_again_writes_cards_and_pictures(rendering, facts, tmp_path):
    rendering.main(tmp_path)
    pictures = {one.plot for one in facts.values() if one.plot}
    assert {path.name for path in tmp_path.iterdir()} == pictures | {f"{name}.md" for name in facts}
    assert pictures == {"spelling_to_sound.png"} | ({"330m.benchmark.png"} if rendering.EFFICIENCY.exists() else set())


def test_numbers_of_the_demo_are_those_of_the_readme(readme):
    entries = [
        Entry(any_error_rate=0.0, **{field: value for field, value in model.items() if field != "any_error_rate"})
        for model in json.loads(COMPARISON.read_text())["models"]
    ]
    assert table(entries) in readme


def test_sizes_of_the_demo_are_those_that_it_trains(facts):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(COMPARISON.parent / "tokenizer.json"),
        pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
    )  # fmt: skip
    student, teacher = build_model(tokenizer), build_teacher(tokenizer)
    for name, model, stacks in (
        ("spelling_to_sound", student, {"encoder": student.config.encoder, "decoder": student.config.decoder}),
        ("spelling_to_sound_student_alone", student, None),
        ("spelling_to_sound_teacher", teacher, {"decoder": teacher.config}),
    ):
        assert facts[name].parameters == model.num_parameters()
        if stacks is not None:
            expected = tuple(Stack.from_config(half, config.to_dict()) for half, config in stacks.items())
            assert facts[name].stacks == expected


def test_parameters_of_the_originals_fill_their_published_files(facts):
    # bytes by the pointers in their repository: weights of two bytes, and names and shapes
    for name, file_bytes in (("original_330m", 664_270_379), ("original_vision", 1_250_128_806)):
        assert 0 < file_bytes - 2 * facts[name].parameters < 500_000


def test_what_the_demo_writes_is_read(rendering, tmp_path):
    entry = Entry(
        name="a", parameters=5, phoneme_error_rate=0.25, word_error_rate=0.5, any_error_rate=0.125,
        first_token_ms=2.0, tokens_per_second=100.0,
    )  # fmt: skip
    path = tmp_path / "demo/comparison.json"
    path.parent.mkdir()
    write([entry], {"a": 61.4}, path)
    facts = rendering.facts_of_comparison(path, "a")
    assert [result.metric_value for result in facts["results"][0].results] == [0.25, 0.5]
    (speed,) = facts["efficiency"][0].speeds
    assert asdict(speed) == {"name": "a", "parameters": 5, "first_token_ms": 2.0, "tokens_per_second": 100.0}
    assert facts["machine"].endswith("in 61 seconds")


def test_what_the_vision_demo_writes_is_read(rendering, tmp_path):
    found = [
        vision_report.Entry(questions=f"charts: {kind}", number=number, accuracy={"blind": 0.25, "seeing": share})
        for kind, number, share in (("all", 30, 0.5), ("most", 10, 0.75))
    ]
    settings = dict.fromkeys(rendering.DEMO_VISION_FLAGS, 7)
    vision_report.write(found, {"scores": 1.5, "all parts": 3.0}, settings, tmp_path / "comparison.json")
    facts = rendering.facts_of_answers(tmp_path / "comparison.json", "seeing")
    (evaluation,) = facts["results"]
    assert [(result.metric_name, result.metric_value) for result in evaluation.results] == [
        ("right answers: all, of 30", 0.5), ("right answers: most, of 10", 0.75),
    ]  # fmt: skip
    assert evaluation.command == facts["command"]
    assert "--max_steps 7 --threads 7" in facts["command"]
    # of 4.5: to even
    assert facts["machine"].endswith("in 4 seconds in all")


def benchmark(path, seconds, processor_seconds, threads=1):
    """Writes what `encdec-slm benchmark` writes, of one model in three turns."""
    wall, processor = (
        tuple(Latency(10 * value, value) for value in (each, 9 * each, each / 2))
        for each in (seconds, processor_seconds)
    )
    answers = Measurement(name="ours", parameters=5, wall=wall, processor=processor)
    result = Result(source="", attention="sdpa", answers=answers, work=None, peak_bytes=7, limit=None)
    shape = Shape(batch_size=1, input_length=8, new_tokens=4)
    record = {
        "command": "encdec-slm benchmark --preset tiny",
        "settings": {"preset": "tiny", "repeats": 3},
        "conditions": {**conditions(), "threads": threads, "device": "cpu", "energy": ""},
        "runs": [Run(dtype="float32", shape=shape, results=(result,)).to_dict()],
    }
    path.write_text(json.dumps(record))
    return path


def test_what_the_benchmark_writes_is_on_the_card_of_its_size(rendering, tmp_path, monkeypatch):
    monkeypatch.setattr(rendering, "EFFICIENCY", benchmark(tmp_path / "x.json", 0.5, 0.49))
    fields = {"preset": "tiny", "repo_id": "a/b"}
    facts = rendering.facts_of("a card", {**fields, "benchmark": "tiny"}, tmp_path)
    (comparison,) = facts.efficiency
    (speed,) = comparison.speeds
    assert asdict(speed) == {"name": "ours", "parameters": 5, "first_token_ms": 5000.0, "tokens_per_second": 2.0}
    assert comparison.command == "encdec-slm benchmark --preset tiny"
    assert comparison.title == "tiny, float32: 8 tokens in, 4 out, random weights, medians of 3 turns"
    assert facts.plot == "tiny.benchmark.png"
    assert not rendering.facts_of("a card", {**fields, "benchmark": "small"}, tmp_path).efficiency


def test_a_benchmark_of_a_busy_machine_is_refused(rendering, tmp_path):
    path = benchmark(tmp_path / "x.json", 0.5, 0.4)
    with pytest.raises(ValueError, match=r"x\.json: ours took 500\.00 ms .* worked 400\.00 ms: measure again"):
        rendering.speeds_of_benchmark(path, "tiny")
    # several threads are not told by their processor time
    assert rendering.speeds_of_benchmark(benchmark(path, 0.5, 0.4, threads=2), "tiny")


def test_two_cards_of_one_name_are_refused(rendering, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("cards:\n  same:\n    preset: tiny\n    repo_id: a/b\n")
    with pytest.raises(ValueError, match=r"two cards are called same, the second one in .*b\.yaml"):
        rendering.cards(tmp_path)
