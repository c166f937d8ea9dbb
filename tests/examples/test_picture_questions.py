"""The vision demo from end to end with a few steps."""

import json
from types import SimpleNamespace

import pytest
import torch
from picture_questions import BESIDE, BLIND, PICTURE, RECORD, SEEING, ask, main, parse
from remembered_tower import remembered
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoModelForSeq2SeqLM, AutoProcessor
from vision_rows import load_splits, seen, unseen
from vision_scores import right
from vision_training import answers, train_all

from encdec_slm.image_text_collator import DataCollatorForImageTextToText


@pytest.fixture(scope="module")
def run(tmp_path_factory, few_emoji):
    """Arguments of a run of some seconds, its folder, what it returned, and the rows that it scored."""
    root = tmp_path_factory.mktemp("demo")
    flags = (
        "--max_steps 2 --text_steps 2 --projector_steps 2 --charts 3 --test_charts 2 --threads 1 "
        "--disable_tqdm true --per_device_train_batch_size 4"
    )
    folders = {"output_dir": root / "model", "cache_dir": root / "cache", "tower_dir": root / "tower"}
    arguments = [*flags.split(), *(part for name, folder in folders.items() for part in (f"--{name}", str(folder)))]
    found = {entry.questions: entry for entry in main(arguments)}
    splits = load_splits(3, 2, cache_dir=root / "cache")
    return SimpleNamespace(
        arguments=arguments,
        folder=root / "model",
        found=found,
        test=splits.test,
        new_words=splits.test_new_words,
    )


def test_both_models_are_compared_on_all_questions(run):
    assert {name for name in run.found if name.endswith(": all")} == {
        "emoji: all",
        "charts: all",
        "charts of new words: all",
    }
    assert run.found["charts of new words: all"].number == len(run.new_words) == 10
    for entry in run.found.values():
        assert entry.accuracy.keys() == {BLIND, SEEING}
        assert all(0 <= accuracy <= 1 for accuracy in entry.accuracy.values())


def test_the_saved_models_answer_as_the_scored_ones(run):
    processor = AutoProcessor.from_pretrained(run.folder)
    seeing = AutoModelForImageTextToText.from_pretrained(run.folder)
    blind = AutoModelForSeq2SeqLM.from_pretrained(run.folder / BESIDE)
    for name, model, rows in ((SEEING, seeing, seen(run.test)), (BLIND, blind, unseen(run.test))):
        marks = right(answers(model, rows, processor), run.test["references"], run.test["data"])
        emoji = [mark for mark, data in zip(marks, run.test["data"], strict=True) if data == "emoji"]
        assert sum(emoji) / len(emoji) == run.found["emoji: all"].accuracy[name]


def test_the_pipeline_answers_as_the_model(run):
    """Its chat template writes what the rows of the training have."""
    model = AutoModelForImageTextToText.from_pretrained(run.folder)
    rows = run.test.select([0])
    expected = answers(model, seen(rows), AutoProcessor.from_pretrained(run.folder))
    assert [ask(str(run.folder), rows[0]).strip()] == expected


def test_the_tower_is_as_it_was_and_all_else_has_learned(run):
    text, whole = load_file(run.folder / BESIDE / "model.safetensors"), load_file(run.folder / "model.safetensors")
    tower = load_file(run.folder.parent / "tower" / "model.safetensors")
    prefix = "model.encoder.vision_tower."
    assert {name.removeprefix(prefix) for name in whole if name.startswith(prefix)} == tower.keys()
    assert all(whole[prefix + name].equal(weight) for name, weight in tower.items())
    assert text.keys() < whole.keys()
    assert not any(whole[name].equal(weight) for name, weight in text.items() if "norm" not in name)


def test_the_tower_learns_at_a_rate_of_its_own(run, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(run.folder)
    processor = AutoProcessor.from_pretrained(run.folder)
    before = {name: weight.clone() for name, weight in model.get_encoder().vision_tower.named_parameters()}
    _, training = parse([*run.arguments, "--output_dir", str(tmp_path), "--max_steps", "1", "--warmup_steps", "0"])
    train_all(model, seen(run.test), DataCollatorForImageTextToText(processor), training, tower_rate=0.1)
    moved = [
        (weight - before[name]).abs().max() for name, weight in model.get_encoder().vision_tower.named_parameters()
    ]
    # what Adam's first step moves a weight by is the learning rate
    assert 0.09 * training.learning_rate < max(moved) < 0.11 * training.learning_rate


def test_a_remembered_picture_is_seen_as_before(run):
    model = AutoModelForImageTextToText.from_pretrained(run.folder)
    tower, rows = model.get_encoder().vision_tower, seen(run.test)
    processor = AutoProcessor.from_pretrained(run.folder)
    inputs = processor(
        images=[row["images"] for row in rows], text=list(rows["source"]), padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = model.get_image_features(inputs["pixel_values"]).pooler_output
        with remembered(model) as memory:
            first = model.get_image_features(inputs["pixel_values"]).pooler_output
            again = model.get_image_features(inputs["pixel_values"].flip(0)).pooler_output
    assert model.get_encoder().vision_tower is tower
    # each emoji is in three rows, and each chart in five
    assert len(memory) < len(rows)
    # a convolution of other pictures beside it adds up in another order
    torch.testing.assert_close(first, expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(again[::-1], first, atol=1e-4, rtol=1e-3)


def test_the_record_and_the_picture_are_beside_the_model(run):
    record = json.loads((run.folder / RECORD).read_text())
    assert {entry["questions"]: entry["accuracy"] for entry in record["accuracy"]} == {
        name: entry.accuracy for name, entry in run.found.items()
    }
    assert record["settings"]["max_steps"] == 2
    assert (run.folder / PICTURE).read_bytes().startswith(b"\x89PNG")


def test_a_second_run_refuses_the_folder(run):
    with pytest.raises(ValueError, match="already holds something"):
        main(run.arguments)
