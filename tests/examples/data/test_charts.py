"""Charts: answers follow from what is drawn, all of it can be read, and the test charts are new."""

import hashlib
import io
import random
from itertools import combinations

import matplotlib as mpl
import pytest
from data.charts import (
    KINDS,
    NEW_TOPICS,
    SIDE,
    TRAIN_TOPICS,
    Chart,
    Charts,
    draw,
    new_charts,
    png,
    questions,
    random_chart,
)
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image


TOPICS = TRAIN_TOPICS | NEW_TOPICS


def build(folder, **kwargs):
    builder = Charts(cache_dir=folder, **kwargs)
    builder.download_and_prepare()
    return builder.as_dataset()


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return build(tmp_path_factory.mktemp("cache"), charts=12, held_out=6)


@pytest.fixture(scope="module")
def charts():
    chance = random.Random(0)
    return [random_chart(chance, TOPICS) for _ in range(300)]


def texts(chart):
    """What is written on the drawn chart, with the rectangle that it takes."""
    figure = draw(chart)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # marks beyond the ends of an axis have a text that is not drawn
    beyond = {tick.label1 for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis) for tick in ticks_beyond(axis)}
    written = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text() and text not in beyond]
    return [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in written]


def ticks_beyond(axis):
    low, high = axis.get_view_interval()
    return [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]


def fullest(kind, title):
    """A chart of the topic that has as little room as there can be: the longest labels, the largest values."""
    labels = sorted(TOPICS[title], key=len)[-5:]
    return Chart(kind, title, tuple(labels), (500, 499, 125, 126, 498), palette="tab10", grid=True)


def answer_of(row):
    """The answer by the row's own data, in other words than the code's."""
    ranked = sorted(zip(row["values"], row["labels"], strict=True))
    words = row["source"].removesuffix("?").split()
    value_of = {label: value for value, label in ranked}
    match row["question_type"]:
        case "value":
            return str(value_of[words[-1]])
        case "maximum":
            return ranked[-1][1]
        case "minimum":
            return ranked[0][1]
        case "difference":
            low, high = sorted((value_of[words[-3]], value_of[words[-1]]))
            return str(high - low)
        case "count":
            return str(len(ranked))
        case "kind":
            return row["kind"]


def test_the_answers_follow_from_the_data_of_the_row(splits):
    for rows in splits.values():
        for row in rows.remove_columns("image"):
            assert row["target"] == answer_of(row)


def test_every_chart_has_one_question_of_each_type(splits):
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 72,
        "validation": 36,
        "test": 36,
        "test_new_words": 36,
    }
    for rows in splits.values():
        for start in range(0, len(rows), 6):
            assert len(set(rows["question_type"][start : start + 6])) == 6


def test_no_two_values_are_equal_so_one_answer_is_right(charts):
    for chart in charts:
        assert len(set(chart.values)) == len(chart.values) == len(set(chart.labels))


@pytest.mark.parametrize("kind", KINDS)
def test_labels_and_values_are_written_on_the_chart_apart_and_inside(charts, kind):
    random_ones = [chart for chart in charts if chart.kind == kind][:8]
    for chart in random_ones + [fullest(kind, title) for title in TOPICS]:
        written = texts(chart)
        words = [word for word, _ in written]
        for word in (chart.title, *chart.labels, *map(str, chart.values)):
            assert word in words
        for word, box in written:
            assert min(box.x0, box.y0) >= 0, (chart, word)
            assert max(box.x1, box.y1) <= SIDE, (chart, word)
        for (word, box), (other, other_box) in combinations(written, 2):
            assert not box.overlaps(other_box), (chart, word, other)


def test_each_value_stands_where_its_label_does(charts):
    for chart in [chart for chart in charts if chart.kind != "pie"][:40]:
        boxes = {}
        for word, box in texts(chart):
            boxes.setdefault(word, []).append(box)
        axis = "y" if chart.kind == "horizontal bar" else "x"
        for label, value in zip(chart.labels, chart.values, strict=True):
            middle = sum(getattr(boxes[label][0], f"interval{axis}")) / 2
            assert any(abs(sum(getattr(box, f"interval{axis}")) / 2 - middle) < 2 for box in boxes[str(value)])


def test_a_bar_is_as_long_as_its_value_says(charts):
    for chart in [chart for chart in charts if "bar" in chart.kind][:20]:
        (bars,) = draw(chart).axes[0].containers
        lengths = [bar.get_width() if chart.kind == "horizontal bar" else bar.get_height() for bar in bars]
        assert lengths == list(chart.values)


def test_the_pictures_have_the_size_that_the_module_says(charts):
    for chart in charts[:4]:
        assert Image.open(io.BytesIO(png(chart))).size == (SIDE, SIDE)


def test_no_picture_is_in_two_splits_and_each_chart_has_its_own(splits):
    pictures = [{hashlib.sha256(image.tobytes()).digest() for image in rows["image"]} for rows in splits.values()]
    assert [len(part) for part in pictures] == [len(rows) // 6 for rows in splits.values()]
    assert len(set.union(*pictures)) == sum(map(len, pictures))


def test_a_chart_of_another_split_is_not_drawn_again():
    few = {"Letters": ("a", "b", "c", "d", "e")}
    seen = set(new_charts(random.Random(0), few, 50, seen=set()))
    assert seen.isdisjoint(new_charts(random.Random(0), few, 50, seen=set(seen)))


def test_the_new_words_are_in_no_other_split(splits):
    words = {name: {label for labels in rows["labels"] for label in labels} for name, rows in splits.items()}
    new = words.pop("test_new_words")
    assert new
    assert new.isdisjoint(set.union(*words.values()))
    assert NEW_TOPICS.keys().isdisjoint(TRAIN_TOPICS)
    new_words = {word for labels in NEW_TOPICS.values() for word in labels}
    assert new_words.isdisjoint(word for labels in TRAIN_TOPICS.values() for word in labels)


def test_the_seed_says_which_charts_there_are(splits, tmp_path):
    again = build(tmp_path / "again", charts=3, held_out=6)
    # the held-out splits do not depend on how many charts there are to train on
    assert again["test"][:] == splits["test"][:]
    assert again["train"][:] == splits["train"][: len(again["train"])]
    other = build(tmp_path / "other", charts=3, held_out=6, seed=1)
    assert other["test"]["values"][:] != splits["test"]["values"][:]


def test_settings_of_matplotlib_do_not_change_the_picture(charts):
    before = [png(chart) for chart in charts[:4]]
    with mpl.rc_context({"font.size": 20, "savefig.bbox": "tight", "figure.dpi": 30, "axes.facecolor": "black"}):
        assert [png(chart) for chart in charts[:4]] == before


def test_questions_ask_about_all_labels_in_the_end(charts):
    chart = max(charts, key=lambda chart: len(chart.labels))
    chance = random.Random(0)
    asked = {question.source for _ in range(200) for question in questions(chart, chance)}
    pairs = len(chart.labels) * (len(chart.labels) - 1)
    assert len(asked) == len(chart.labels) + pairs + 4


def test_all_kinds_scales_and_styles_occur(charts):
    assert {chart.kind for chart in charts} == set(KINDS)
    assert {chart.grid for chart in charts} == {False, True}
    assert {len(chart.labels) for chart in charts} == {3, 4, 5}
    highest = [max(chart.values) for chart in charts]
    assert min(highest) <= 20
    assert max(highest) > 400
