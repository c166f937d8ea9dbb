"""What an export is worth: how far its answers are from PyTorch's, and how many bytes it takes."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


REPORT_FILE = "export.json"


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how it compares with the model in PyTorch, in float32.

    Attributes:
        format: Name of the format, as in `encdec-slm export --format`.
        dtype: Of the weights: `fp32`, `fp16`, `int8` or `int4`.
        bytes: Size of the weights and graphs.
        max_logit_error: Largest difference of a logit (of a log-probability where an engine gives no logits).
        mean_logit_error: Mean of the absolute differences.
        equal_greedy_tokens: Share of the tokens of greedy decoding that are PyTorch's, from 0 to 1.
        details: What else a format has to tell, such as versions and layers in higher precision.
    """

    format: str
    dtype: str
    bytes: int
    max_logit_error: float
    mean_logit_error: float
    equal_greedy_tokens: float
    details: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes `export.json`."""
        (folder / REPORT_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def __str__(self) -> str:
        return (
            f"{self.format} {self.dtype}: {self.bytes / 2**20:.1f} MiB, logits differ from PyTorch's by "
            f"{self.max_logit_error:.2g} at most and {self.mean_logit_error:.2g} on average, "
            f"{100 * self.equal_greedy_tokens:.1f} % of the greedy tokens are equal"
        )


def read_report(folder: Path) -> ExportReport:
    """Returns what `ExportReport.save` wrote.

    Raises:
        ValueError: If the file is not one of ours.
    """
    try:
        return ExportReport(**json.loads((folder / REPORT_FILE).read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / REPORT_FILE} is no report of an export: {error}") from error
