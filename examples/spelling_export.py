"""What fewer bits cost: the spelling-to-sound demo's student in ONNX Runtime, in every dtype, on its test words.

    make demo
    python examples/spelling_export.py

Each export is asked the test words that no training has seen. Printed and kept: its size, how far its logits are from
PyTorch's, for how many of the first words its answers are those of the model in PyTorch, token by token, and how many
phonemes and words are wrong.
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from data.cmudict import CMUDict
from result_files import machine
from spelling_scores import error_rates, pronounce
from spelling_to_sound import OUTPUT_DIR, first
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from encdec_slm.export import load_exported
from encdec_slm.export.onnx_export import export_onnx


DTYPES = ("fp32", "int8", "int4")
COLUMNS = ("dtype", "MiB", "largest logit error", "mean", "equal answers", "phonemes wrong", "words wrong")


def equal_answers(model: Any, runtime: Any, tokenizer: Any, words: list[str]) -> float:
    """Returns for which share of the words both answer the same tokens, each word alone."""
    equal = 0
    for word in words:
        inputs = tokenizer(word, return_tensors="pt")
        answers = [
            one.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=40)
            for one in (model, runtime)
        ]
        equal += torch.equal(*answers)
    return equal / len(words)


def row(values: Any) -> str:
    """Returns a line of a Markdown table."""
    return "| " + " | ".join(str(value) for value in values) + " |"


def main() -> None:
    """Exports, asks, scores, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=OUTPUT_DIR, metavar="DIR", help="folder of the demo (default: %(default)s)")
    parser.add_argument("--dtypes", nargs="+", default=DTYPES, help="(default: %(default)s)")
    parser.add_argument("--keep", action="append", metavar="PATTERN", help="as of `encdec-slm export`")
    parser.add_argument("--test-words", type=int, default=2_000, metavar="N")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write a JSON file too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    builder = CMUDict()
    builder.download_and_prepare()
    rows = first(builder.as_dataset("test"), arguments.test_words)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForSeq2SeqLM.from_pretrained(arguments.model).eval()
    records: list[dict[str, Any]] = [
        {"dtype": "PyTorch", "MiB": round(4 * model.num_parameters() / 2**20, 2), "largest logit error": 0, "mean": 0,
         "equal answers": 1.0}
    ]  # fmt: skip
    runtimes = [model]
    with TemporaryDirectory() as folder:
        for dtype in arguments.dtypes:
            keep = arguments.keep if dtype in ("int8", "int4") else None
            report = export_onnx(arguments.model, Path(folder, dtype), dtype=dtype, keep=keep)
            runtimes.append(load_exported(Path(folder, dtype), threads=arguments.threads))
            equal = equal_answers(model, runtimes[-1], tokenizer, rows["source"][:100])
            records.append(
                {
                    "dtype": dtype,
                    "MiB": round(report.bytes / 2**20, 2),
                    "largest logit error": float(f"{report.max_logit_error:.2g}"),
                    "mean": float(f"{report.mean_logit_error:.2g}"),
                    "equal answers": equal,
                }
            )
        for record, runtime in zip(records, runtimes, strict=True):
            wrong = error_rates(pronounce(runtime, tokenizer, rows["source"]), rows)
            record |= {"phonemes wrong": round(wrong["phonemes"], 4), "words wrong": round(wrong["words"], 4)}
    lines = [row(COLUMNS), row(["---"] + ["---:"] * (len(COLUMNS) - 1))]
    print("\n".join(lines + [row(record[column] for column in COLUMNS) for record in records]))
    if arguments.results:
        result = {
            "machine": machine(torch.device("cpu"), arguments.threads),
            "test_words": len(rows),
            "exports": records,
        }
        arguments.results.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
