"""`generate` over CTranslate2: the same arguments, the same token ids out, no PyTorch weights."""

import json
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, Self

import ctranslate2
import torch
from transformers import AutoConfig, GenerationConfig
from transformers.generation.streamers import BaseStreamer

from encdec_slm.export.ctranslate2_arguments import EngineOptions, merge, to_engine_options
from encdec_slm.models.configuration_encdec_slm import EncDecSLMConfig
from encdec_slm.models.modeling_encdec_slm import EncDecSLMForConditionalGeneration


FILES = ("model.bin", "config.json", "generation_config.json", "shared_vocabulary.json")


class CT2EncDecSLM:
    """A text model that `encdec-slm export --format ctranslate2` has written.

    Greedy search, beam search and sampling as in Transformers, as far as the engine has them: what it has not is
    refused by name. A beam search ends when `num_beams` answers are complete (`early_stopping=True`). Samples follow
    the engine's own random numbers (`ctranslate2.set_random_seed`). Batched and padded inputs give what they give
    alone. It goes into `pipeline("text2text-generation", model=..., tokenizer=...)`.

    Example:
        >>> model = CT2EncDecSLM.from_pretrained(folder, intra_threads=4)  # doctest: +SKIP
        >>> model.generate(**tokenizer(["zyzzyva"], return_tensors="pt"))  # doctest: +SKIP
    """

    main_input_name = "input_ids"
    input_modalities = ("text",)
    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(
        self,
        translator: ctranslate2.Translator,
        config: EncDecSLMConfig,
        generation_config: GenerationConfig,
        tokens: list[str],
    ) -> None:
        self.translator = translator
        self.config = config
        self.generation_config = generation_config
        self.tokens = tokens
        self.ids = {token: token_id for token_id, token in enumerate(tokens)}

    @classmethod
    def from_pretrained(
        cls,
        folder: str | PathLike[str],
        *,
        device: str = "cpu",
        compute_type: str = "default",
        intra_threads: int = 0,
        inter_threads: int = 1,
        threads: int | None = None,
    ) -> Self:
        """Loads an exported folder.

        Args:
            folder: What `encdec-slm export --format ctranslate2` wrote.
            device: Where the engine computes: `cpu`, `cuda` or `auto`. Token ids come and go on the CPU.
            compute_type: As in `ctranslate2.Translator`, such as `int8` for a folder of float32; by default that of
                the folder.
            intra_threads: Threads of one call; 0 lets the engine choose.
            inter_threads: Calls at once, of several Python threads.
            threads: Another name of `intra_threads`, which `load_exported` has for all engines.

        Raises:
            ValueError: If files are missing, the engine cannot read them, or has no such device or compute type.
        """
        folder = Path(folder)
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise ValueError(
                f"{folder} is no complete CTranslate2 export: {', '.join(missing)} missing. Write it with "
                "`encdec-slm export MODEL OUT --format ctranslate2`"
            )
        try:
            translator = ctranslate2.Translator(
                str(folder),
                device=device,
                compute_type=compute_type,
                intra_threads=intra_threads if threads is None else threads,
                inter_threads=inter_threads,
            )
        # ValueError: for a compute type that the device has not
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"CTranslate2 {ctranslate2.__version__} cannot load {folder}: {error}") from error
        tokens = json.loads((folder / "shared_vocabulary.json").read_text(encoding="utf-8"))
        config = AutoConfig.from_pretrained(folder)
        if len(tokens) != config.vocab_size:
            raise ValueError(
                f"shared_vocabulary.json in {folder} has {len(tokens)} tokens, but config.json says "
                f"{config.vocab_size}: export the model again"
            )
        return cls(translator, config, GenerationConfig.from_pretrained(folder), tokens)

    @property
    def compute_type(self) -> str:
        """What the engine computes with, such as `int8_float32`."""
        return self.translator.compute_type

    def can_generate(self) -> bool:
        """Asked by `pipeline`."""
        return True

    def eval(self) -> Self:
        """Does nothing: the engine does not train."""
        return self

    def to(self, device: str | torch.device) -> Self:
        """Accepts the CPU alone, where token ids come and go.

        Raises:
            ValueError: For any other device.
        """
        if torch.device(device) != self.device:
            raise ValueError(
                f"the model cannot be moved to {device}: choose where the engine computes with "
                "from_pretrained(folder, device=...), and give a pipeline device='cpu'"
            )
        return self

    def num_parameters(self) -> int:
        """Returns the number of weights of the model that was exported, tied ones once."""
        with torch.device("meta"):
            return EncDecSLMForConditionalGeneration(self.config).num_parameters()

    def generate(
        self,
        input_ids: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        attention_mask: torch.Tensor | None = None,
        streamer: BaseStreamer | None = None,
        tokenizer: Any = None,
        **arguments: Any,
    ) -> torch.Tensor:
        """Returns the answers, shape `(batch * num_return_sequences, target)`: start token, tokens, padding.

        Args:
            input_ids: Token ids, shape `(batch, source)`.
            generation_config: In place of the folder's; arguments go first.
            attention_mask: 1 for tokens and 0 for padding, on either side; if not given, all but the padding token.
            streamer: Is given the start token, then every token; one input and no beams.
            tokenizer: Accepted, since pipelines pass it; nothing here needs it.
            arguments: Of the generation configuration, such as `max_new_tokens`, `num_beams` or `top_k`.

        Raises:
            ValueError: If an argument is unknown or nothing that the engine does, or the input is not what it should.
        """
        options = to_engine_options(merge(self.generation_config, generation_config, arguments), len(self.tokens))
        sources = self._sources(input_ids, attention_mask)
        callback = None if streamer is None else self._callback(streamer, sources, options)
        results = self.translator.translate_batch(
            sources,
            **options.translate,
            end_token=options.eos_token_ids,
            return_end_token=True,
            max_input_length=0,
            callback=callback,
        )
        if streamer is not None:
            streamer.end()
        return self._padded(
            [self._to_ids(hypothesis) for result in results for hypothesis in result.hypotheses], options.pad_token_id
        )

    def log_probabilities(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Returns the log-probability of each of `labels`, shape `(batch, target)`, given the input and those before.

        Args:
            input_ids: Token ids without padding, shape `(batch, source)`.
            labels: What the decoder is to have written, shape `(batch, target)`, without the start token.
        """
        sources = self._sources(input_ids, torch.ones_like(input_ids))
        targets = [[self.tokens[token_id] for token_id in row] for row in labels.tolist()]
        results = self.translator.score_batch(sources, targets, max_input_length=0)
        # the engine scores an end of its own after the last one
        return torch.tensor([result.log_probs[: labels.shape[1]] for result in results])

    def _sources(self, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None) -> list[list[str]]:
        if input_ids is None or input_ids.dim() != 2 or input_ids.is_floating_point():
            found = "nothing" if input_ids is None else f"{input_ids.dtype} of shape {tuple(input_ids.shape)}"
            raise ValueError(f"generate needs input_ids, integers of shape (batch, source), got {found}")
        pad = self.generation_config.pad_token_id
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids) if pad is None else input_ids != pad
        if attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)} and input_ids {tuple(input_ids.shape)}: they "
                "must be equal"
            )
        return [self._source(row, mask) for row, mask in zip(input_ids, attention_mask.bool(), strict=True)]

    def _source(self, row: torch.Tensor, mask: torch.Tensor) -> list[str]:
        places = mask.nonzero()[:, 0]
        if not len(places):
            raise ValueError("there is no token to read: leave empty inputs out, or give them an end token")
        if places[-1] - places[0] + 1 != len(places):
            raise ValueError(
                "attention_mask leaves out tokens inside an input, which CTranslate2 cannot: pad its ends only"
            )
        ids = row[mask].tolist()
        if not 0 <= min(ids) <= max(ids) < len(self.tokens):
            raise ValueError(f"input_ids has ids from {min(ids)} to {max(ids)}, the vocabulary {len(self.tokens)}")
        return [self.tokens[token_id] for token_id in ids]

    def _to_ids(self, hypothesis: list[str]) -> list[int]:
        start = self.generation_config.decoder_start_token_id
        return [start, *(self.ids[token] for token in hypothesis)]

    @staticmethod
    def _padded(rows: list[list[int]], pad_token_id: int) -> torch.Tensor:
        longest = max(len(row) for row in rows)
        return torch.tensor([row + [pad_token_id] * (longest - len(row)) for row in rows])

    def _callback(
        self, streamer: BaseStreamer, sources: list[list[str]], options: EngineOptions
    ) -> Callable[[Any], bool]:
        if len(sources) > 1 or options.translate["beam_size"] > 1 or options.sequences_per_input > 1:
            raise ValueError("a streamer follows one answer: pass one input, num_beams=1 and num_return_sequences=1")
        streamer.put(torch.tensor([self.generation_config.decoder_start_token_id]))

        def callback(step: Any) -> bool:
            streamer.put(torch.tensor([step.token_id]))
            return False

        return callback
