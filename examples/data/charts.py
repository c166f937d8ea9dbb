"""Charts to answers: bar, line and pie charts drawn by matplotlib, questions in the manner of ChartQA.

One row: `{"image": <224 x 224>, "source": "What is the value of pears?", "target": "12", "question_type": "value",
"kind": "bar", "labels": ["plums", "pears", "figs"], "values": [17, 12, 5]}`

    python examples/data/charts.py

Nothing is read: charts and answers follow from a seed. The test charts are new and have words of the training; a split
of its own, `test_new_words`, has charts whose words are on no other. `examples/vision_scores.py` says how near to the
target an answer has to be.
"""

import io
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import matplotlib as mpl
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke


SIDE = 224
KINDS = ("bar", "horizontal bar", "line", "pie")
LABELS_OF_A_CHART = range(3, 6)
# the largest possible value of a chart; the smallest is a quarter of it, so that a piece of a pie has room for a label
SCALES = (20, 50, 100, 500)
# titles and labels; a label has at most six letters, so that five of them stand side by side
TRAIN_TOPICS = {
    "Fruit": ("apples", "pears", "plums", "figs", "grapes", "lemons", "kiwis", "dates"),
    "Animals": ("cats", "dogs", "horses", "goats", "sheep", "ducks", "hens", "pigs"),
    "Cities": ("Oslo", "Rome", "Cairo", "Lima", "Delhi", "Paris", "Tokyo", "Kyiv"),
    "Sports": ("chess", "tennis", "rugby", "judo", "golf", "rowing", "hockey", "polo"),
    "Clothes": ("coats", "hats", "shoes", "shirts", "socks", "gloves", "belts", "scarfs"),
    "Colours": ("red", "blue", "green", "yellow", "black", "white", "brown", "pink"),
    "Weekdays": ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"),
    "Traffic": ("cars", "buses", "trains", "bikes", "trams", "ships", "planes", "vans"),
}
NEW_TOPICS = {
    "Tools": ("saws", "nails", "drills", "files", "axes", "screws", "levels", "clamps"),
    "Music": ("flutes", "harps", "drums", "pianos", "tubas", "violas", "horns", "lutes"),
    "Countries": ("Chile", "Kenya", "Nepal", "Spain", "Japan", "Ghana", "Cuba", "Peru"),
    "Kitchen": ("forks", "spoons", "knives", "plates", "bowls", "cups", "pots", "pans"),
}

_PALETTES = ("tab10", "Set2", "Dark2", "Accent", "Pastel1")
# left, bottom, width and height in parts of the picture; what is left is for the labels
_UPRIGHT = (0.15, 0.12, 0.82, 0.74)
_PLACES = {
    "bar": _UPRIGHT,
    "horizontal bar": (0.22, 0.12, 0.72, 0.74),
    "line": _UPRIGHT,
    "pie": (0.15, 0.06, 0.7, 0.78),
}
# the values stand out from lines behind them
_HALO = {"path_effects": [withStroke(linewidth=2, foreground="white")]}
_TEXT = {"font.size": 7, "axes.titlesize": 8, "axes.titlepad": 8, "xtick.labelsize": 6.5}


@dataclass(frozen=True)
class Chart:
    """A chart before it is drawn.

    Attributes:
        kind: One of `KINDS`.
        title: What stands above it.
        labels: Its categories.
        values: One for each category, no two equal, so that one is the highest and one the lowest.
        palette: The colour map of matplotlib.
        grid: Whether lines show the marks of the axis of values; not on a pie.
    """

    kind: str
    title: str
    labels: tuple[str, ...]
    values: tuple[int, ...]
    palette: str
    grid: bool


@dataclass(frozen=True)
class Question:
    """A question and its only right answer.

    Attributes:
        question_type: "kind", "count", "maximum", "minimum", "value" or "difference".
        source: The question.
        target: The answer.
    """

    question_type: str
    source: str
    target: str


@dataclass
class ChartsConfig(datasets.BuilderConfig):
    """How many charts there are, and which.

    Attributes:
        charts: Number of charts in the train split; each has five rows.
        held_out: Number of charts in the validation split, and again in each of the two test splits.
        seed: Another seed gives other charts.
    """

    charts: int = 2_000
    held_out: int = 200
    seed: int = 0


class Charts(datasets.GeneratorBasedBuilder):
    """Picture of a chart (`image`) and question (`source`) to answer (`target`), six questions a chart.

    `kind`, `labels` and `values` are what the chart was drawn from, and `question_type` says which answer follows from
    them. The charts of `validation` and `test` have the words of the training; words and titles of `test_new_words`
    are new too.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = ChartsConfig

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(dataset_name="charts", **kwargs)

    def _info(self) -> datasets.DatasetInfo:
        strings = ("source", "target", "question_type", "kind")
        return datasets.DatasetInfo(
            description="Bar, line and pie charts with questions whose answers are known, drawn by matplotlib.",
            license="generated by this project: MIT",
            features=datasets.Features(
                {
                    "image": datasets.Image(),
                    **{name: datasets.Value("string") for name in strings},
                    "labels": datasets.List(datasets.Value("string")),
                    "values": datasets.List(datasets.Value("int32")),
                }
            ),
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        config = self.config
        seen: set[Chart] = set()
        # the train split comes last: its size does not change what the others hold
        plan = (
            ("test_new_words", NEW_TOPICS, config.held_out),
            ("test", TRAIN_TOPICS, config.held_out),
            ("validation", TRAIN_TOPICS, config.held_out),
            ("train", TRAIN_TOPICS, config.charts),
        )
        return [
            datasets.SplitGenerator(
                name=name,
                # a list: several processes share it out among them
                gen_kwargs={
                    "charts": [
                        (f"{config.seed} {name} {number}", chart)
                        for number, chart in enumerate(
                            new_charts(random.Random(f"{config.seed} {name}"), topics, count, seen=seen)
                        )
                    ]
                },
            )
            for name, topics, count in plan
        ]

    def _generate_examples(self, charts: list[tuple[str, Chart]]) -> Iterator[tuple[str, dict[str, Any]]]:
        for key, chart in charts:
            picture = png(chart)
            for question in questions(chart, random.Random(key)):
                yield (
                    f"{key} {question.question_type}",
                    {
                        "image": {"bytes": picture, "path": None},
                        **asdict(question),
                        "kind": chart.kind,
                        "labels": chart.labels,
                        "values": chart.values,
                    },
                )


def new_charts(
    chance: random.Random, topics: Mapping[str, Sequence[str]], count: int, *, seen: set[Chart]
) -> tuple[Chart, ...]:
    """Charts that are not in `seen`, to which they are added.

    Args:
        chance: Where the charts come from.
        topics: Titles and their labels.
        count: How many charts.
        seen: Charts of other splits.
    """
    charts: list[Chart] = []
    while len(charts) < count:
        chart = random_chart(chance, topics)
        if chart not in seen:
            seen.add(chart)
            charts.append(chart)
    return tuple(charts)


def random_chart(chance: random.Random, topics: Mapping[str, Sequence[str]]) -> Chart:
    """A chart of any kind, with three to five labels of one topic."""
    kind = chance.choice(KINDS)
    title = chance.choice(sorted(topics))
    labels = chance.sample(topics[title], chance.choice(LABELS_OF_A_CHART))
    scale = chance.choice(SCALES)
    return Chart(
        kind=kind,
        title=title,
        labels=tuple(labels),
        values=tuple(chance.sample(range(scale // 4, scale + 1), len(labels))),
        palette=chance.choice(_PALETTES),
        grid=chance.random() < 0.5,
    )


def questions(chart: Chart, chance: random.Random) -> tuple[Question, ...]:
    """One question of each type.

    Args:
        chart: What is asked about.
        chance: Which labels are asked about.
    """
    value_of = dict(zip(chart.labels, chart.values, strict=True))
    asked = chance.choice(chart.labels)
    one, other = chance.sample(chart.labels, 2)
    difference = abs(value_of[one] - value_of[other])
    return (
        Question("kind", "What kind of chart is this?", chart.kind),
        Question("count", "How many categories are there?", str(len(chart.labels))),
        Question("maximum", "Which category has the highest value?", max(chart.labels, key=value_of.__getitem__)),
        Question("minimum", "Which category has the lowest value?", min(chart.labels, key=value_of.__getitem__)),
        Question("value", f"What is the value of {asked}?", str(value_of[asked])),
        Question("difference", f"What is the difference between {one} and {other}?", str(difference)),
    )


def png(chart: Chart) -> bytes:
    """The chart as a PNG file of `SIDE` by `SIDE` pixels."""
    buffer = io.BytesIO()
    with _our_settings():
        draw(chart).savefig(buffer, format="png")
    return buffer.getvalue()


def draw(chart: Chart) -> Figure:
    """The chart with its title, labels and values.

    The values are written on it, as on most charts of ChartQA; on all but pies they can be read from an axis too.
    """
    with _our_settings():
        figure = Figure(figsize=(SIDE / 100, SIDE / 100), dpi=100)
        axes = figure.add_axes(_PLACES[chart.kind])
        axes.set_title(chart.title)
        if chart.kind == "pie":
            _draw_pie(chart, axes)
        else:
            _draw_along_axes(chart, axes)
    return figure


@contextmanager
def _our_settings() -> Iterator[None]:
    """Whatever the user's own settings of matplotlib say."""
    with style.context(["default", _TEXT]):
        yield


def _draw_pie(chart: Chart, axes: Axes) -> None:
    values = iter(chart.values)
    axes.pie(
        chart.values,
        labels=chart.labels,
        # it is given a share and asked once for each wedge in turn
        autopct=lambda _: str(next(values)),
        pctdistance=0.72,
        colors=mpl.colormaps[chart.palette].colors,
    )


def _draw_along_axes(chart: Chart, axes: Axes) -> None:
    colours = mpl.colormaps[chart.palette].colors[: len(chart.labels)]
    is_horizontal = chart.kind == "horizontal bar"
    if chart.grid:
        axes.grid(axis="x" if is_horizontal else "y")
        axes.set_axisbelow(True)
    if chart.kind == "line":
        axes.margins(x=0.1)
        axes.plot(chart.labels, chart.values, marker="o", color=colours[0])
        for place in zip(chart.labels, chart.values, strict=True):
            axes.annotate(str(place[1]), place, xytext=(0, 5), textcoords="offset points", ha="center", **_HALO)
    else:
        bars = axes.barh if is_horizontal else axes.bar
        axes.bar_label(bars(chart.labels, chart.values, color=colours), padding=2, **_HALO)
    # few marks: they take half of the time of drawing
    axes.locator_params(axis="x" if is_horizontal else "y", nbins=4)
    # room for what is written at the highest value, and zero in sight as on bars
    (axes.set_xlim if is_horizontal else axes.set_ylim)(0, 1.2 * max(chart.values))


if __name__ == "__main__":
    import torch
    from preview import preview
    from torchvision.transforms.functional import pil_to_tensor
    from torchvision.utils import save_image

    builder = Charts()
    preview(builder)
    # a row in six: each chart has six questions
    sample = builder.as_dataset(split="train").select(range(0, 72, 6))["image"]
    grid = Path("outputs/charts.png")
    grid.parent.mkdir(exist_ok=True)
    save_image(torch.stack([pil_to_tensor(picture.convert("RGB")) for picture in sample]) / 255, grid, nrow=4)
    print(f"\n12 of its charts: {grid}")
