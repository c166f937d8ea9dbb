"""The README's part on the translator is what evaluations and the training say."""

import json

import java_to_csharp_report
import pytest
from readme_blocks import README, markers, replaced


TRAINING = {"label": "started", "minutes": 60.0, "pairs": 800, "parameters": 7_000, "machine": "P"}
SETTINGS = {"generation": {"num_beams": 1}}


def evaluation(model, bleu, exact):
    metrics = [
        {"type": kind, "value": value, "args": {"confidence_interval_95": [value - 1, value + 1]}}
        for kind, value in (("bleu", bleu), ("exact_match", exact), ("rougeL", 1.0))
    ]
    return {"model": model, "examples": 499, "metrics": metrics}


@pytest.fixture
def folders(tmp_path):
    """Outputs of four evaluations, all but one in the folder of a translator."""
    for name, content in (
        ("copy/results.json", [evaluation("copy", 20.0, 2.0)]),
        ("copy/settings.json", SETTINGS),
        ("trained/scores/results.json", [evaluation("ours", 50.0, 25.0)]),
        ("trained/scores/settings.json", SETTINGS),
        ("trained/searched/results.json", [evaluation("ours", 55.0, 30.0)]),
        ("trained/searched/settings.json", {"generation": {"num_beams": 5}}),
        ("trained/training.json", TRAINING),
        ("teacher/scores/results.json", [evaluation("teacher", 70.0, 40.0)]),
        ("teacher/scores/settings.json", SETTINGS),
        ("teacher/training.json", {"label": "the teacher", "parameters": 9_000, "pairs": 80}),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return tmp_path


def write(folders, *names):
    (folders / "README.md").write_text("\n".join(markers("java_to_csharp")))
    options = ["--results", folders / "record.json", "--readme", folders / "README.md"]
    java_to_csharp_report.main([str(value) for value in [*(folders / name for name in names), *options]])
    return (folders / "README.md").read_text()


def test_scores_stand_in_the_order_given_beside_the_published_ones(folders):
    text = write(folders, "copy", "trained/scores")
    copied = "| copy | - | - | - | - | 20.00 (19.00 to 21.00) | 2.00 (1.00 to 3.00) |\n"
    assert f"{copied}| started | 7,000 | 60 | 1 | 800 | 50.00 (49.00 to 51.00) | 25.00 (24.00 to 26.00) |" in text
    assert "Machines: (1) P." in text
    assert "| CodeBERT | 79.92 | 59.0 |" in text
    # from the record alone
    assert write(folders) == text


def test_what_is_not_known_is_a_dash(folders):
    text = write(folders, "trained/scores", "teacher/scores")
    assert "| the teacher | 9,000 | - | - | 80 | 70.00 (69.00 to 71.00) | 40.00 (39.00 to 41.00) |" in text
    assert "Machines: (1) P." in text


def test_a_beam_search_is_told(folders):
    text = write(folders, "trained/scores", "trained/searched")
    assert "| started | 7,000 | 60 | 1 | 800 | 50.00 " in text
    assert "| started, 5 beams | 7,000 | 60 | 1 | 800 | 55.00 (54.00 to 56.00) | 30.00 " in text


def test_an_evaluation_takes_the_place_of_an_earlier_one_and_the_others_stay(folders):
    write(folders, "copy", "trained/scores")
    (folders / "trained/scores/results.json").write_text(json.dumps([evaluation("ours", 60.0, 35.0)]))
    (folders / "trained/training.json").write_text(json.dumps(TRAINING | {"machine": "Q"}))
    text = write(folders, "trained/scores", "trained/searched")
    rows = [line.split(" | ")[:6] for line in text.splitlines() if " to " in line and line.startswith("| ")]
    assert [(row[0], row[5][:5]) for row in rows] == [
        ("| copy", "20.00"),
        ("| started", "60.00"),
        ("| started, 5 beams", "55.00"),
    ]
    assert "Machines: (1) Q." in text


def test_machines_are_told_apart(folders):
    (folders / "teacher/training.json").write_text(json.dumps(TRAINING | {"label": "the teacher", "machine": "Q"}))
    text = write(folders, "trained/scores", "teacher/scores")
    assert "| started | 7,000 | 60 | 1 | 800 |" in text
    assert "| the teacher | 7,000 | 60 | 2 | 800 |" in text
    assert "Machines: (1) P; (2) Q." in text


def test_what_is_missing_is_named(folders):
    with pytest.raises(ValueError, match=r"other/results\.json does not exist: run `encdec-slm evaluate"):
        write(folders, "copy", "other")
    record = evaluation("copy", 20.0, 2.0)
    del record["metrics"][0]
    (folders / "copy" / "results.json").write_text(json.dumps([record]))
    with pytest.raises(ValueError, match=r"copy/results\.json has no bleu: use `--task codexglue_java_cs`"):
        write(folders, "copy")


def test_the_readme_has_what_the_record_says():
    if not java_to_csharp_report.RESULTS.exists():
        pytest.skip("there is no record yet: run `make results-translation` first")
    text = README.read_text()
    record = json.loads(java_to_csharp_report.RESULTS.read_text())
    block = java_to_csharp_report.BLOCK
    assert replaced(text, block, java_to_csharp_report.report(record)) == text
