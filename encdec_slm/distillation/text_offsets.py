"""Where two tokenizers' tokens of one text begin at the same place.

Offsets are made of ids alone, so that sampled ids have them too, and are in bytes, since a token may be a part of a
character. What bytes a token stands for is read off the tokenizer's decoder: a ByteLevel alphabet (GPT-2, SmolLM),
`<0xNN>` byte fallback (Llama 2, Phi-3), and for any other (Metaspace, WordPiece, words) what the decoder itself makes
of a token behind another one.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode


# which byte each character of a ByteLevel token stands for
_BYTE_LEVEL = {character: byte for byte, character in bytes_to_unicode().items()}
_BYTE_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# stands for the text that an unknown token has lost: a byte that is nowhere in UTF-8
_LOST = b"\xff"


@dataclass(frozen=True)
class TextOffsets:
    """A text and where in it each token begins.

    Args:
        text: In UTF-8, with one more blank in front. It stands for the dummy blank of SentencePiece, which one
            tokenizer writes and another does not, and which may be a token of its own.
        starts: An offset per token, in bytes, not decreasing. The first token of the text begins at 0, in front of the
            blank, and special tokens have no width.
    """

    text: bytes
    starts: tuple[int, ...]


def text_offsets(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> TextOffsets:
    """Returns the text of some tokens and where each of them begins.

    Special tokens, and ids that a model has beyond its tokenizer's, have no text. An unknown token has a text of its
    own, which is equal only to that of another unknown token.

    Args:
        ids: Tokens of one sequence, without padding.
        tokenizer: One that the `tokenizers` library runs (a "fast" one).

    Raises:
        ValueError: If an id is negative, or it is not known which bytes the tokens of this tokenizer stand for.
    """
    if any(i < 0 for i in ids):
        raise ValueError(f"the ids have {min(ids)}, which is padding and not a token: cut the padding off first")
    pieces = _token_bytes([int(i) for i in ids], tokenizer)
    starts, text = [], b""
    for piece in pieces:
        starts.append(len(text))
        if piece is not None:
            text += piece if text else b" " + piece
    return TextOffsets(text, tuple(starts))


def aligned_positions(
    student_ids: Sequence[int],
    teacher_ids: Sequence[int],
    student_tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
) -> list[tuple[int, int]]:
    """Returns the positions (i, j) at which student and teacher continue the same text.

    Both tokens i and j begin at the same place: the text of the student's tokens before i is that of the teacher's
    before j. The first tokens of both are such a pair, and so are the ends of the sequence after the same whole text.

    Texts are the same up to what tokenizers normalise: the kind and number of blanks (T5 makes one of any run of
    them), also in front of the text, and compatibility characters (NFKD). Inside such a place, and inside a character
    that is written differently, nothing is paired; behind it pairs go on. After the first place where the texts really
    differ, an unknown token among them, there are none.

    Special tokens have no width. Where they stand before a text token on one side only, it is the text token that is
    paired: after BART's `<s>` the first pair is (1, 0). Where both have them they are paired from the back.

    Args:
        student_ids: The student's target, without padding, with its end if it has one.
        teacher_ids: The same text in the teacher's tokens, likewise.
        student_tokenizer: That of `student_ids`.
        teacher_tokenizer: That of `teacher_ids`.

    Returns:
        Pairs that increase strictly on both sides.

    Raises:
        ValueError: If it is not known which bytes the tokens of a tokenizer stand for.
    """
    student, teacher = text_offsets(student_ids, student_tokenizer), text_offsets(teacher_ids, teacher_tokenizer)
    same = _same_places(student.text, teacher.text)
    teacher_positions = _positions_by_start(teacher.starts)
    pairs: list[tuple[int, int]] = []
    for start, positions in _positions_by_start(student.starts).items():
        others = teacher_positions.get(same[start], []) if start in same else []
        pairs += list(zip(reversed(positions), reversed(others), strict=False))[::-1]
    return pairs


def _token_bytes(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[bytes | None]:
    """Returns what each token adds to the text, and None for a token that is not in it."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(
            f"the text of each token is read off the decoder of a fast tokenizer, but {type(tokenizer).__name__} has "
            "none: convert it to one of the `tokenizers` library"
        )
    spell = _Speller(tokenizer.backend_tokenizer.decoder)
    silent = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    lost = {tokenizer.unk_token_id} - {tokenizer.bos_token_id, tokenizer.eos_token_id}
    pieces: list[bytes | None] = []
    for i, token in zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True):
        if i in lost:
            pieces.append(_LOST)
        elif token is None or i in silent:
            pieces.append(None)
        else:
            pieces.append(spell(token, first=all(piece is None for piece in pieces)))
    _check_text(b"".join(piece for piece in pieces if piece is not None), ids, tokenizer)
    return pieces


class _Speller:
    """Makes bytes of tokens, one by one, as a tokenizer's decoder does of all together.

    Args:
        decoder: Of the `tokenizers` library; None for one that puts a blank between tokens.
    """

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder
        state = {} if decoder is None else json.loads(decoder.__getstate__())
        self.kinds = {part.get("type") for part in state.get("decoders", [state])}

    def __call__(self, token: str, *, first: bool) -> bytes:
        """Returns what a token adds to the text; the first one may lose a blank."""
        byte = _BYTE_FALLBACK.fullmatch(token)
        if byte and "ByteFallback" in self.kinds:
            return bytes.fromhex(byte[1])
        if "ByteLevel" in self.kinds:
            # tokens that were added to the vocabulary are written as they are
            in_alphabet = all(character in _BYTE_LEVEL for character in token)
            return bytes(_BYTE_LEVEL[character] for character in token) if in_alphabet else token.encode()
        if self.decoder is None:
            return token.encode() if first else f" {token}".encode()
        if first:
            return str(self.decoder.decode([token])).encode()
        return str(self.decoder.decode(["a", token])).removeprefix("a").encode()


def _check_text(text: bytes, ids: list[int], tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses a tokenizer that decodes its tokens to another text, up to blanks in front."""
    try:
        spelled = text.decode()
    except UnicodeDecodeError:
        # sampled bytes need not be a text, and how many � they are differs between decoders
        return
    decoded = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if spelled.lstrip(" ") != str(decoded).lstrip(" "):
        raise ValueError(
            f"the tokens of {type(tokenizer).__name__} are {spelled[:80]!r} one by one, but {decoded[:80]!r} "
            "together: where they begin in the text is not known. Tokenizers are understood whose decoder is "
            "ByteLevel, Metaspace, WordPiece or SentencePiece's with byte fallback"
        )


def _positions_by_start(starts: Sequence[int]) -> dict[int, list[int]]:
    positions: dict[int, list[int]] = {}
    for position, start in enumerate(starts):
        positions.setdefault(start, []).append(position)
    return positions


def _same_places(student: bytes, teacher: bytes) -> dict[int, int]:
    """Returns offsets of the student's text and those of the teacher's before which the texts are the same."""
    if student == teacher:
        return {offset: offset for offset in range(len(student) + 1)}
    (student_form, student_ends), (teacher_form, teacher_ends) = _normal_form(student), _normal_form(teacher)
    agreed = _common_length(student_form, teacher_form)
    places, here, there = {0: 0}, 0, 0
    for end in sorted(student_ends.keys() & teacher_ends.keys()):
        if end > agreed:
            break
        i, j = student_ends[end], teacher_ends[end]
        if student[here:i] == teacher[there:j]:
            places |= zip(range(here, i), range(there, j), strict=True)
        places[i] = j
        here, there = i, j
    return places


def _common_length(first: str, second: str) -> int:
    pairs = zip(first, second, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _normal_form(text: bytes) -> tuple[str, dict[int, int]]:
    """Returns the normal form of a text, and for the length of each prefix of it how many bytes the prefix is made of.

    A prefix ends with a character or a run of blanks. Characters are decomposed (NFKD) and not composed again, since
    only then the form of a text is the forms of its characters.
    """
    form, ends, read, length = [], {0: 0}, 0, 0
    for piece in re.findall(r"\s+|\S", text.decode(errors="surrogateescape")):
        form.append(" " if piece.isspace() else unicodedata.normalize("NFKD", piece))
        read += len(piece.encode(errors="surrogateescape"))
        length += len(form[-1])
        ends[length] = read
    return "".join(form), ends
