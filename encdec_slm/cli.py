"""The command `encdec-slm`: what the package does, for a shell.

What a subcommand needs is imported when it runs, so that `--help` is quick.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError

from encdec_slm.benchmarks.command import add_benchmark
from encdec_slm.evaluation.command import add_evaluate
from encdec_slm.export.command import add_export
from encdec_slm.hub.command import add_load, add_push


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


DTYPES = ("float32", "float16", "bfloat16")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, or 2 if the user's input was at fault.

    Args:
        argv: Arguments; those of the process if not given.
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    # ImportError: of an optional package; FloatingPointError: of a training that diverged
    except (ValueError, OSError, StrictDataclassError, ImportError, FloatingPointError) as error:
        print(f"encdec-slm: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="encdec-slm", description="Small encoder-decoder language models for Transformers."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_convert(commands)
    _add_trainings(commands)
    _add_init(commands)
    _add_presets(commands)
    _add_generate(commands)
    add_evaluate(commands, loaders=[_load_exported])
    add_export(commands)
    add_benchmark(commands, _load_exported)
    add_push(commands)
    add_load(commands)
    return parser


def _add_convert(commands: Any) -> None:
    convert = commands.add_parser("convert", help="turn a foreign checkpoint into a model folder")
    sources = convert.add_subparsers(title="sources", required=True, metavar="SOURCE")
    original = sources.add_parser(
        "original",
        help="a text checkpoint of microsoft/encoder-decoder-slm",
        description="Converts a text checkpoint of microsoft/encoder-decoder-slm into a folder that "
        "AutoModelForSeq2SeqLM.from_pretrained loads.",
    )
    original.add_argument("checkpoint", metavar="CHECKPOINT", help="the .pt or .safetensors file")
    original.add_argument("output", metavar="OUT", help="the folder to write")
    original.add_argument(
        "--config",
        metavar="FILE",
        help="JSON with the fields of its MuConfig that the tensors cannot say, and bos_token_id and eos_token_id; "
        "what it leaves out is that of the released 330M model",
    )
    original.add_argument("--tokenizer", metavar="DIR", help="folder of the tokenizer, saved with the model")
    _add_overwrite(original)
    original.set_defaults(run=_convert_original)
    _add_convert_original_vision(sources)
    _add_convert_decoder_only(sources)


def _add_convert_original_vision(sources: Any) -> None:
    convert = sources.add_parser(
        "original-vision",
        help="a vision checkpoint of microsoft/encoder-decoder-slm",
        description="Converts a vision checkpoint of microsoft/encoder-decoder-slm into a folder that "
        "AutoModelForImageTextToText.from_pretrained and AutoProcessor.from_pretrained load.",
    )
    convert.add_argument("folder", metavar="FOLDER", help="with config.json and pytorch_model.bin")
    convert.add_argument("output", metavar="OUT", help="the folder to write")
    convert.add_argument(
        "--vision-tower",
        metavar="DIR",
        help="folder of the CLIP tower: its configuration, that of its image processor, and weights if FOLDER has "
        "none of it (default: FOLDER/vision_tower, or else CLIP ViT-L/14 at 336 pixels)",
    )
    convert.add_argument(
        "--tokenizer", metavar="DIR", help="folder of the tokenizer, which is given <image> (default: FOLDER's)"
    )
    _add_overwrite(convert)
    convert.set_defaults(run=_convert_original_vision)


def _add_convert_decoder_only(sources: Any) -> None:
    convert = sources.add_parser(
        "decoder-only",
        help="a decoder-only model of the Llama family, as the start of an encoder-decoder",
        description="Writes an encoder-decoder that starts from the weights of a decoder-only model: Llama, Mistral, "
        "Qwen2, Qwen3 or Gemma. It has to be trained afterwards.",
    )
    convert.add_argument("model", metavar="MODEL", help="folder, id on the Hub, or .gguf file")
    convert.add_argument("output", metavar="OUT", help="the folder to write")
    convert.add_argument("--encoder-layers", type=_positive, metavar="N", help="layers of the encoder")
    convert.add_argument("--decoder-layers", type=_positive, metavar="N", help="layers of the decoder")
    convert.add_argument(
        "--split",
        metavar="E-D",
        help="layers of encoder and decoder as fractions of the source's, where no number is given (default: 2/3-1/3)",
    )
    convert.add_argument(
        "--layers",
        metavar="WHICH",
        help="which layers of the source: even, first, first-last, last, or a list such as 0-4,25-29; for both stacks "
        "or ENCODER/DECODER (default: first/first-last)",
    )
    convert.add_argument(
        "--cross-attention",
        choices=("self", "zero"),
        help="start from the self-attention of the layer, or so that the decoder does not hear the encoder yet "
        "(default: zero)",
    )
    convert.add_argument(
        "--cross-attention-rope",
        action="store_true",
        help="rotate queries and keys of cross-attention by their places, for answers that follow their source",
    )
    convert.add_argument("--gguf-file", metavar="NAME", help="GGUF file in the folder or repository")
    convert.add_argument("--revision", metavar="R", help="branch, tag or commit of the repository")
    convert.add_argument("--dtype", choices=("auto", *DTYPES), help="of the weights (default: the source's)")
    convert.add_argument("--tokenizer", metavar="DIR", help="folder of a tokenizer (default: the source's)")
    _add_overwrite(convert)
    convert.set_defaults(run=_convert_decoder_only)


def _add_trainings(commands: Any) -> None:
    for name, run, summary in (
        (
            "adapt",
            _adapt,
            "let an encoder-decoder learn from plain text: prefix language modeling and span corruption",
        ),
        ("distill", _distill, "let an encoder-decoder learn from a decoder-only teacher"),
        ("teacher-cache", _teacher_cache, "write what a teacher says about the rows of a distillation, once for all"),
    ):
        # all that follows is for the parser of the library, `--help` too: no flag is one here
        command = commands.add_parser(name, help=summary, add_help=False, prefix_chars="\0")
        command.add_argument("arguments", nargs="*")
        command.set_defaults(run=run)


def _add_init(commands: Any) -> None:
    init = commands.add_parser(
        "init",
        help="write a model folder of a named size with random weights",
        description="Writes a model folder of a named size with random weights, to be trained.",
    )
    init.add_argument("preset", metavar="PRESET", help="a name that `encdec-slm presets` lists")
    init.add_argument("output", metavar="OUT", help="the folder to write")
    init.add_argument(
        "--vocab-size", type=int, metavar="N", help="number of tokens (default: the tokenizer's, or the preset's)"
    )
    init.add_argument(
        "--tokenizer",
        metavar="DIR",
        help="folder of a tokenizer, saved with the model; its bos (or else pad) token starts the decoder",
    )
    init.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the weights (default: %(default)s)")
    init.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of the weights (default: %(default)s)")
    _add_overwrite(init)
    init.set_defaults(run=_init)


def _add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="write to a folder that already holds something: the model, tokenizer and code files in it are replaced, "
        "all others stay",
    )


def _add_presets(commands: Any) -> None:
    presets = commands.add_parser("presets", help="list the named sizes")
    presets.set_defaults(run=_presets)


def _add_generate(commands: Any) -> None:
    generate = commands.add_parser(
        "generate",
        help="answer texts with a model",
        description="Prints one answer a line, for each TEXT or each line of the standard input. A line break in an "
        r"answer is printed as \n. A blank input is answered by a blank line.",
    )
    generate.add_argument("folder", metavar="FOLDER", help="the model folder, with its tokenizer")
    generate.add_argument("texts", metavar="TEXT", nargs="*", help="inputs (default: lines of the standard input)")
    generate.add_argument("--max-new-tokens", type=_positive, metavar="N", help="longest answer")
    generate.add_argument("--num-beams", type=_positive, metavar="N", help="width of the beam search")
    generate.add_argument(
        "--num-return-sequences", type=_positive, metavar="N", help="answers to each text, on a line each"
    )
    generate.add_argument("--device", metavar="D", help="such as cpu or cuda:0 (default: what the library finds)")
    generate.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="(default: that of the weights)")
    generate.add_argument("--trust-remote-code", action="store_true", help="run the code that lies in the folder")
    generate.set_defaults(run=_generate)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def _convert_original(arguments: argparse.Namespace) -> None:
    from encdec_slm.conversion import convert_original

    folder = convert_original(
        arguments.checkpoint,
        arguments.output,
        config=arguments.config,
        tokenizer=arguments.tokenizer,
        overwrite=arguments.overwrite,
    )
    print(f"wrote {folder}")


def _convert_original_vision(arguments: argparse.Namespace) -> None:
    from encdec_slm.conversion import convert_original_vision

    folder = convert_original_vision(
        arguments.folder,
        arguments.output,
        vision_tower=arguments.vision_tower,
        tokenizer=arguments.tokenizer,
        overwrite=arguments.overwrite,
    )
    print(f"wrote {folder}")


def _convert_decoder_only(arguments: argparse.Namespace) -> None:
    from encdec_slm.conversion import convert_decoder_only

    # what is not given has the function's default, which stands in one place
    given = {
        name: value
        for name, value in vars(arguments).items()
        if value is not None and name not in ("run", "model", "output")
    }
    print(convert_decoder_only(arguments.model, arguments.output, **given))


def _adapt(arguments: argparse.Namespace) -> None:
    from encdec_slm.adaptation.__main__ import main as adapt

    adapt(arguments.arguments, prog="encdec-slm adapt")


def _distill(arguments: argparse.Namespace) -> None:
    from encdec_slm.distillation.__main__ import main as distill

    distill(arguments.arguments, prog="encdec-slm distill")


def _teacher_cache(arguments: argparse.Namespace) -> None:
    from encdec_slm.distillation.__main__ import teacher_cache

    teacher_cache(arguments.arguments, prog="encdec-slm teacher-cache")


def _init(arguments: argparse.Namespace) -> None:
    import torch
    from transformers import set_seed

    from encdec_slm import EncDecSLMConfig, EncDecSLMForConditionalGeneration
    from encdec_slm.conversion.special_tokens import load_tokenizer, smallest_vocab_size
    from encdec_slm.output_folder import output_folder

    inputs = [arguments.tokenizer] if arguments.tokenizer else []
    with output_folder(arguments.output, overwrite=arguments.overwrite, inputs=inputs) as folder:
        options: dict[str, Any] = {} if arguments.vocab_size is None else {"vocab_size": arguments.vocab_size}
        tokenizer = None
        if arguments.tokenizer:
            tokenizer = load_tokenizer(arguments.tokenizer, arguments.vocab_size)
            options = {**_token_ids(tokenizer), "vocab_size": smallest_vocab_size(tokenizer), **options}
        config = EncDecSLMConfig.from_preset(arguments.preset, **options)
        set_seed(arguments.seed)
        model = EncDecSLMForConditionalGeneration(config).to(getattr(torch, arguments.dtype))
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    print(f"wrote {arguments.output}: {model.num_parameters():,} parameters")


def _token_ids(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int | None]:
    bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    missing = [name for name, token_id in (("eos_token", eos), ("pad_token", pad)) if token_id is None]
    if missing:
        raise ValueError(f"the tokenizer has no {' and no '.join(missing)}: set what is missing and save it again")
    # a tokenizer without a token for the beginning is of T5's kind: the decoder starts with the padding token
    start = pad if bos is None else bos
    return {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad, "decoder_start_token_id": start}


def _presets(arguments: argparse.Namespace) -> None:
    import torch

    from encdec_slm import EncDecSLMConfig, EncDecSLMForConditionalGeneration
    from encdec_slm.models.configuration_encdec_slm import PRESETS

    row = "{:<6} {:>15} {:>7} {:>7} {:>18} {:>9} {:>7} {:>13}"
    print(row.format("name", "layers", "hidden", "ffn", "heads", "positions", "vocab", "parameters"))
    for name, preset in PRESETS.items():
        with torch.device("meta"):
            model = EncDecSLMForConditionalGeneration(EncDecSLMConfig.from_preset(name))
        print(
            row.format(
                name,
                f"{preset.encoder_layers} enc + {preset.decoder_layers} dec",
                preset.hidden_size,
                preset.intermediate_size,
                f"{preset.num_attention_heads} of {preset.head_dim}, {preset.num_key_value_heads} kv",
                preset.max_position_embeddings,
                preset.vocab_size,
                f"{model.num_parameters():,}",
            )
        )


def _generate(arguments: argparse.Namespace) -> None:
    from transformers import pipeline

    from encdec_slm.conversion.special_tokens import load_tokenizer
    from encdec_slm.registration import TEXT2TEXT_TASK

    # a dictionary, because the library annotates `pipeline` for its own tasks only
    loading: dict[str, Any] = {
        "task": TEXT2TEXT_TASK,
        "model": arguments.folder,
        "tokenizer": load_tokenizer(arguments.folder),
        "device": _device(arguments.device),
        "dtype": arguments.dtype,
        "trust_remote_code": arguments.trust_remote_code,
    }
    pipe = pipeline(**loading)
    options = {
        name: getattr(arguments, name)
        for name in ("max_new_tokens", "num_beams", "num_return_sequences")
        if getattr(arguments, name) is not None
    }
    for text in _texts(arguments.texts):
        for answer in pipe(text, **options) if text.strip() else [{"generated_text": ""}]:
            print("\\n".join(answer["generated_text"].splitlines()), flush=True)


def _load_exported(folder: str, **options: Any) -> Any | None:
    from encdec_slm.export.load import is_exported, load_exported

    return load_exported(folder, **options) if is_exported(folder) else None


def _device(name: str | None) -> "torch.device | None":
    import torch

    if name is None:
        return None
    try:
        # the only way to ask whether a device is there that works for all kinds
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"the device {name} cannot be used here: {error}") from error


def _texts(texts: Iterable[str]) -> Iterator[str]:
    yield from texts or (line.rstrip("\r\n") for line in sys.stdin)


if __name__ == "__main__":
    sys.exit(main())
