"""The report of the vision demo: each question is counted where it belongs, for each model."""

import pytest
import vision_report
from datasets import Dataset
from PIL import Image
from vision_report import draw, entries, sample, table
from vision_rows import QUESTION_TYPES


@pytest.fixture
def rows():
    """Each question three times; the target says which, and another answer is right too."""
    asked = [(data, kind) for data, kinds in QUESTION_TYPES.items() for kind in kinds for _ in range(3)]
    return Dataset.from_dict(
        {
            "image": [Image.new("RGB", (8, 8), (index, 0, 0)) for index in range(len(asked))],
            "source": [f"Which {kind}?" for _, kind in asked],
            "target": [f"{kind} {index}" for index, (_, kind) in enumerate(asked)],
            "references": [[f"{kind} {index}", f"or {index}"] for index, (_, kind) in enumerate(asked)],
            "question_type": [kind for _, kind in asked],
            "data": [data for data, _ in asked],
        }
    )


@pytest.fixture
def answers(rows):
    """One model knows groups and counts, the other knows two thirds of everything by another word."""
    targets = rows["target"]
    return {
        "one": [target if target.startswith(("group", "count")) else "" for target in targets],
        "other": [f"or {index}" if index % 3 else "" for index in range(len(targets))],
    }


def test_accuracies_are_those_of_the_question(rows, answers):
    found = {entry.questions: entry for entry in entries(rows, answers)}
    kinds = [f"{data}: {kind}" for data, types in QUESTION_TYPES.items() for kind in ("all", *types)]
    assert list(found) == kinds
    assert found["emoji: all"].accuracy["one"] == 1 / 3
    assert found["charts: all"].accuracy["one"] == 1 / 5
    for name, entry in found.items():
        assert entry.accuracy["other"] == pytest.approx(2 / 3)
        if not name.endswith("all"):
            assert entry.number == 3
            assert entry.accuracy["one"] == (1.0 if name in ("emoji: group", "charts: count") else 0.0)


def test_a_split_of_one_data_set_has_the_name_that_it_is_given(rows, answers):
    first = rows["data"].index("charts")
    charts = rows.select(range(first, len(rows)))
    found = entries(charts, {name: given[first:] for name, given in answers.items()}, "new charts")
    assert [entry.questions for entry in found][:2] == ["new charts: all", "new charts: kind"]


def test_questions_that_were_not_asked_have_no_entry(rows, answers):
    asked = [index for index, kind in enumerate(rows["question_type"]) if kind != "tag"]
    chosen = {name: [given[index] for index in asked] for name, given in answers.items()}
    found = [entry.questions for entry in entries(rows.select(asked), chosen)]
    assert "emoji: tag" not in found
    assert "emoji: subgroup" in found


def test_the_table_has_a_line_for_each_entry_and_a_column_for_each_model(rows, answers):
    lines = table(entries(rows, answers)).splitlines()
    assert lines[0] == "| questions | number | one | other |"
    assert "| emoji: group | 3 | 1.000 | 0.667 |" in lines
    assert len({line.count("|") for line in lines}) == 1


def test_the_picture_shows_bars_and_what_was_said(rows, answers, monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(vision_report.plt, "close", figures.append)
    found = entries(rows, answers)
    draw(found, rows, answers["one"], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    bars, *pictures = figures[0].axes
    widths = [bar.get_width() for bar in bars.patches]
    assert widths == [entry.accuracy[name] for name in answers for entry in found]
    shown = [index for data in QUESTION_TYPES for index in sample(rows, data)]
    for axes, index in zip(pictures, shown, strict=False):
        assert axes.get_title() == rows[index]["source"]
        verdict = "right" if answers["one"][index] else f"it is: {', '.join(rows[index]['references'])}"
        assert axes.get_xlabel().endswith(verdict)


def test_the_pictures_shown_are_of_all_questions(rows):
    for data, types in QUESTION_TYPES.items():
        shown = rows.select(sample(rows, data))
        assert set(shown["data"]) == {data}
        assert len(set(shown["question_type"])) == min(len(shown), len(types))
