"""Prompt lookup for encoder-decoders: what the answer may copy from the input is tried several tokens at a time."""

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.generation.candidate_generator import PromptLookupCandidateGenerator


@dataclass
class EncoderPromptLookup:
    """A way to decode, for `generate(custom_generate=EncoderPromptLookup())`: the same tokens in fewer steps.

    The last tokens of the answer are looked for in the input and in the answer so far, and what follows there is
    tried: one step of the decoder says how much of it is what it would have written itself. The library's
    `prompt_lookup_num_tokens` looks into the decoder's tokens alone, where an encoder-decoder has no prompt.

    For one input at a time, greedily; a streamer is not served. Works with every encoder-decoder of Transformers.

    Attributes:
        num_tokens: Tokens that are tried in one step, at most.
        max_matching_ngram_size: How many of the last tokens are looked for; fewer if so many are not found.
        steps: Steps of the decoder since the last `reset`.
        tokens: Tokens written since then.
    """

    num_tokens: int = 10
    max_matching_ngram_size: int = 2
    steps: int = field(default=0, init=False)
    tokens: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.num_tokens < 1 or self.max_matching_ngram_size < 1:
            raise ValueError(
                f"num_tokens ({self.num_tokens}) and max_matching_ngram_size ({self.max_matching_ngram_size}) must be "
                "at least 1"
            )

    def reset(self) -> None:
        """Sets the counters to zero."""
        self.steps = self.tokens = 0

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        inputs_tensor: torch.Tensor,
        **model_kwargs: Any,
    ) -> torch.Tensor:
        """Called by `generate`: returns the tokens, shape `(1, target)`.

        Raises:
            ValueError: If there are several inputs, no token ids to look into, sampling or beams, or no cache that
                can forget its last tokens.
        """
        self._refuse(model, input_ids, generation_config, inputs_tensor, model_kwargs)
        cache, encoder_outputs = model_kwargs["past_key_values"], model_kwargs["encoder_outputs"]
        lookup = self._lookup(generation_config, inputs_tensor.shape[1])
        # all that was looked at before this call, as the start token
        known, begin = 0, input_ids.shape[1]
        while True:
            length = input_ids.shape[1]
            seen: Any = torch.cat((inputs_tensor, input_ids), dim=1)
            candidates = lookup.get_candidates(seen)[0][:, seen.shape[1] :]
            # the step adds a token of its own
            candidates = candidates[:, : max(generation_config.max_length - length - 1, 0)]
            sequence = torch.cat((input_ids, candidates), dim=1)
            logits = model(
                decoder_input_ids=sequence[:, known:],
                encoder_outputs=encoder_outputs,
                attention_mask=model_kwargs.get("attention_mask"),
                past_key_values=cache,
                use_cache=True,
            ).logits[0, -candidates.shape[1] - 1 :]
            self.steps += 1
            for position, scores in enumerate(logits.float()):
                chosen = logits_processor(cast(Any, input_ids), scores[None]).argmax(-1, keepdim=True)
                input_ids = torch.cat((input_ids, chosen), dim=1)
                if bool(stopping_criteria(input_ids, None)[0]):
                    self.tokens += input_ids.shape[1] - begin
                    return input_ids
                if position < candidates.shape[1] and candidates[0, position] != chosen:
                    break
            # the last token has not been read yet, and what was tried in vain is forgotten
            known = input_ids.shape[1] - 1
            if known < sequence.shape[1]:
                cache.crop(known - sequence.shape[1])

    def _lookup(self, generation_config: GenerationConfig, input_length: int) -> PromptLookupCandidateGenerator:
        return PromptLookupCandidateGenerator(
            eos_token_id=generation_config._eos_token_tensor,
            num_output_tokens=self.num_tokens,
            max_matching_ngram_size=self.max_matching_ngram_size,
            max_length=input_length + generation_config.max_length,
        )

    @staticmethod
    def _refuse(
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        generation_config: GenerationConfig,
        inputs_tensor: torch.Tensor,
        model_kwargs: dict[str, Any],
    ) -> None:
        if not model.config.is_encoder_decoder:
            raise ValueError(f"{type(model).__name__} is no encoder-decoder: pass prompt_lookup_num_tokens instead")
        if len(input_ids) > 1:
            raise ValueError(f"prompt lookup answers one input at a time, got {len(input_ids)} (inputs or beams)")
        if generation_config.do_sample or (generation_config.num_beams or 1) > 1:
            raise ValueError("prompt lookup decodes greedily: pass do_sample=False and num_beams=1")
        if inputs_tensor.is_floating_point():
            raise ValueError("prompt lookup needs input_ids, got embeddings or features: there are no tokens to find")
        cache = model_kwargs.get("past_key_values")
        if cache is None or generation_config.cache_implementation == "static":
            raise ValueError(
                "prompt lookup needs a cache that can forget: pass use_cache=True and no cache_implementation"
            )
