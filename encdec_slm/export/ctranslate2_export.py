"""A model of ours as a CTranslate2 folder, compared with PyTorch before it is where it was asked for."""

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import ctranslate2
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from encdec_slm.export.ctranslate2_model import CT2EncDecSLM
from encdec_slm.export.ctranslate2_spec import model_spec, refuse_what_ctranslate2_cannot_compute
from encdec_slm.export.report import ExportReport
from encdec_slm.export.source import load_source, save_companions
from encdec_slm.models.configuration_encdec_slm import EncDecSLMConfig
from encdec_slm.models.modeling_encdec_slm import EncDecSLMForConditionalGeneration
from encdec_slm.output_folder import output_folder


QUANTIZATIONS = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
# how far log-probabilities may be off: at most for fp32, else on average; as a share of their spread where that is
# over one. Rounding stays well below it, an engine that computes something else does not
TOLERANCES = {"fp32": 1e-4, "fp16": 0.02, "int8": 0.2}
CHECKED_LENGTHS = (3, 17, 64)
CHECKED_NEW_TOKENS = 24


def export_ctranslate2(
    model: str | PathLike[str],
    output: str | PathLike[str],
    *,
    dtype: str = "fp32",
    keep: Sequence[str] | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Writes a model folder for CTranslate2, with its vocabulary, tokenizer and configurations.

    The folder is a CTranslate2 model (`ctranslate2.Translator(output)`), and its `config.json` is that of the model in
    Transformers too. Scales of int8 are per output channel, embeddings and head included: the engine has no layers in
    higher precision.

    Args:
        model: The folder, or id on the Hub, of a text model of this package.
        output: The folder to write.
        dtype: Of the weights: `fp32`, `fp16` or `int8`.
        keep: Of the ONNX export; refused here, with the reason.
        overwrite: Whether `output` may already hold something.

    Raises:
        ValueError: If the engine cannot compute the model, the dtype or `keep`, the tokenizer has more tokens than the
            model, or the written model does not compute what PyTorch does.
    """
    if dtype not in QUANTIZATIONS:
        raise ValueError(
            f"dtype {dtype!r} is nothing that CTranslate2 computes for encoder-decoders: use one of "
            f"{', '.join(QUANTIZATIONS)} (the ONNX export has int4)"
        )
    if keep:
        raise ValueError(
            f"keep was given ({', '.join(keep)}), but CTranslate2 computes all layers in one type: what a file keeps "
            "in float32 it rounds when it loads the file for int8. Export to ONNX, which keeps layers, or in fp16"
        )
    inputs = [model] if Path(model).exists() else []
    with output_folder(output, overwrite=overwrite, inputs=inputs) as folder:
        source: Any = load_source(model)
        _refuse(source)
        save_companions(source, model, folder)
        _write(source, _tokenizer(model), folder, QUANTIZATIONS[dtype])
        report = check_export(source, folder, dtype)
        report.save(folder)
    return report


def _refuse(source: Any) -> None:
    # the configuration of a model that sees is one of text too
    if source.config.model_type != EncDecSLMConfig.model_type:
        raise ValueError(
            f"an {source.config.model_type} model reads images, which CTranslate2 does not: export it with --format "
            "onnx, which has graphs for the images"
        )
    refuse_what_ctranslate2_cannot_compute(source.config)
    for name in ("decoder_start_token_id", "eos_token_id"):
        if getattr(source.generation_config, name) is None:
            raise ValueError(f"{name} is None in the generation configuration, but CTranslate2 needs one: set it")


def _tokenizer(name_or_path: str | PathLike[str]) -> PreTrainedTokenizerBase | None:
    if cached_file(name_or_path, "tokenizer_config.json", _raise_exceptions_for_missing_entries=False) is None:
        return None
    return AutoTokenizer.from_pretrained(name_or_path)


def token_names(tokenizer: PreTrainedTokenizerBase | None, vocab_size: int) -> list[str]:
    """Returns a name for each token id, no two alike: the tokenizer's, or one made of the id.

    Raises:
        ValueError: If the tokenizer has more tokens than the model.
    """
    if tokenizer is not None and len(tokenizer) > vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens and the model {vocab_size}: resize the model's embeddings"
        )
    known = [] if tokenizer is None else tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    names: dict[str, None] = {}
    for token_id in range(vocab_size):
        name = known[token_id] if token_id < len(known) else None
        names[f"<id_{token_id}>" if name is None or name in names else name] = None
    return list(names)


def _write(
    source: EncDecSLMForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: Path,
    quantization: str,
) -> None:
    config: Any = source.config
    generation = source.generation_config
    tokens = token_names(tokenizer, config.vocab_size)
    spec = model_spec(source, tokens)
    eos = generation.eos_token_id
    eos = eos[0] if isinstance(eos, list) else eos
    unknown = None if tokenizer is None else tokenizer.unk_token_id
    engine = spec.config
    engine.decoder_start_token = tokens[generation.decoder_start_token_id]
    engine.bos_token = tokens[generation.bos_token_id or generation.decoder_start_token_id]
    engine.eos_token = tokens[eos]
    # a name that is not in the vocabulary would be added to it, and the engine wants one
    engine.unk_token = tokens[eos if unknown is None else unknown]
    engine.layer_norm_epsilon = config.encoder.rms_norm_eps
    spec.validate()
    spec.optimize(quantization=quantization)
    ours = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    spec.save(str(folder))
    # both read what they know by name, and no name is in both
    engines = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**ours, **engines}, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def check_export(source: Any, folder: Path, dtype: str) -> ExportReport:
    """Returns how the log-probabilities and greedy tokens of an exported model compare with PyTorch's.

    Raises:
        ValueError: If they differ by more than `dtype` explains.
    """
    exported = CT2EncDecSLM.from_pretrained(folder, intra_threads=torch.get_num_threads())
    generator = torch.Generator().manual_seed(0)
    # a model's own configuration may ask for beams or samples
    greedily: dict[str, Any] = {
        "max_new_tokens": CHECKED_NEW_TOKENS,
        "min_new_tokens": CHECKED_NEW_TOKENS,
        "do_sample": False,
        "num_beams": 1,
    }
    errors, wanted, equal, tokens = [], [], 0, 0
    for length in CHECKED_LENGTHS:
        input_ids = torch.randint(source.config.vocab_size, (1, length), generator=generator)
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        greedy, answer = (one.generate(**inputs, **greedily) for one in (source, exported))
        equal += int((greedy == answer)[:, 1:].sum())
        tokens += greedy.shape[1] - 1
        other = torch.randint(source.config.vocab_size, greedy[:, 1:].shape, generator=generator)
        for labels in (greedy[:, 1:], other):
            logits = source(**inputs, labels=labels).logits
            ours = logits.log_softmax(-1).gather(-1, labels[..., None])[0, :, 0]
            errors.append((ours - exported.log_probabilities(input_ids, labels)[0]).abs())
            wanted.append(ours)
    error, spread = torch.cat(errors), float(torch.cat(wanted).std())
    found, explained = error.max() if dtype == "fp32" else error.mean(), TOLERANCES[dtype] * max(spread, 1.0)
    # an error that is no number is too large as well
    if not found <= explained:
        raise ValueError(
            f"the exported model is not the model: its log-probabilities differ from PyTorch's by {error.mean():.2g} "
            f"on average and {error.max():.2g} at most, where {dtype} explains {explained:.2g} "
            f"{'at most' if dtype == 'fp32' else 'on average'}"
        )
    return ExportReport(
        format="ctranslate2",
        dtype=dtype,
        bytes=(folder / "model.bin").stat().st_size,
        max_logit_error=float(error.max()),
        mean_logit_error=float(error.mean()),
        equal_greedy_tokens=equal / tokens,
        details={"ctranslate2": ctranslate2.__version__, "compute_type": exported.compute_type},
    )
