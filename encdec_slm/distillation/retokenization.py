"""Sampled targets in the tokens of the other model, where teacher and student have different tokenizers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from encdec_slm.distillation.chunked_divergence import IGNORE_INDEX
from encdec_slm.distillation.rows import RowEncoder
from encdec_slm.distillation.text_offsets import aligned_positions


# what stands where a row has fewer aligned positions than others
NO_PAIR = -1


@dataclass(frozen=True)
class Retokenizer:
    """Turns answers of one model into ids of the other, by their text.

    Args:
        encoder: Has both tokenizers.
        teacher_eos_token_id: What ends an answer of the teacher.
    """

    encoder: RowEncoder
    teacher_eos_token_id: int

    def for_teacher(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the teacher's ids of some answers, and the positions of both that continue the same text.

        Args:
            labels: Of the student, padded with -100, of shape (rows, target).

        Returns:
            Ids padded with -100, of shape (rows, teacher target), and positions padded with -1, of shape
            (rows, pairs, 2).
        """
        ours, theirs = self.encoder.tokenizer, self.encoder.teacher_tokenizer
        answers, pairs = [], []
        for ids in _rows(labels):
            text = str(ours.decode(ids, skip_special_tokens=True))
            end = [self.teacher_eos_token_id] if ids[-1] == ours.eos_token_id else []
            answer = [*theirs(text, add_special_tokens=False, verbose=False)["input_ids"], *end]
            # a sample without text and end, such as special tokens alone
            answers.append(answer or [self.teacher_eos_token_id])
            pairs.append(aligned_positions(ids, answer, ours, theirs) if answer else [])
        return _padded(answers, labels), _padded_pairs(pairs, labels)

    def for_student(self, answers: torch.Tensor) -> torch.Tensor:
        """Returns labels of the teacher's answers, of shape (rows, target).

        Args:
            answers: Ids of the teacher, padded with -100.
        """
        return _padded([self._labels(ids) for ids in _rows(answers)], answers)

    def _labels(self, ids: list[int]) -> list[int]:
        text = str(self.encoder.teacher_tokenizer.decode(ids, skip_special_tokens=True))
        labels = self.encoder.target_ids(text)
        # an answer that was cut has no end, nor what the student would say after it
        return labels if ids[-1] == self.teacher_eos_token_id or len(labels) == 1 else labels[:-1]


def _rows(labels: torch.Tensor) -> list[list[int]]:
    return [row[row != IGNORE_INDEX].tolist() for row in labels.cpu()]


def _padded(rows: Sequence[Sequence[int]], like: torch.Tensor) -> torch.Tensor:
    width = max(map(len, rows))
    padded = [[*row, *[IGNORE_INDEX] * (width - len(row))] for row in rows]
    return torch.tensor(padded, dtype=like.dtype, device=like.device)


def _padded_pairs(rows: Sequence[Sequence[tuple[int, int]]], like: torch.Tensor) -> torch.Tensor:
    width = max(1, *map(len, rows))
    return torch.stack(
        [
            F.pad(torch.tensor(pairs, dtype=torch.long).view(-1, 2), (0, 0, 0, width - len(pairs)), value=NO_PAIR)
            for pairs in rows
        ]
    ).to(like.device)
