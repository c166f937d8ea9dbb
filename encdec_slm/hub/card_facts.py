"""What a model card can say of a model folder: read from its files, left out where they do not say it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any, Self

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not typed as such
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
)
from transformers.utils import logging

from encdec_slm.hub.card_results import Evaluation, SpeedComparison, read_results
from encdec_slm.hub.checkpoint import ADAPTER_CONFIG, CONFIG
from encdec_slm.hub.checkpoint_files import (
    ADAPTER_WEIGHTS,
    first_weight_file,
    read_json_object,
    tensor_shapes,
    weight_files,
)
from encdec_slm.models.configuration_encdec_slm import REMOTE_CODE
from encdec_slm.models.configuration_encdec_slm_vision import REMOTE_VISION_CODE


logger = logging.get_logger(__name__)

RESULTS = "results.json"
PROCESSOR = "processor_config.json"


@dataclass(frozen=True, kw_only=True)
class Loader:
    """How a kind of model is loaded, and where the Hub lists it.

    Attributes:
        auto_class: The Auto class.
        pipeline_tag: The Hub's name of the task. It took `text2text-generation` off its list and shows a warning on
            cards that name it: encoder-decoders stand under `text-generation`, with the old name as a tag.
        tags: Tags of all models of the kind.
        architectures: Names of the classes that Transformers itself has.
    """

    auto_class: str
    pipeline_tag: str
    tags: tuple[str, ...] = ()
    architectures: frozenset[str] = frozenset()


SEQ_TO_SEQ = Loader(
    auto_class="AutoModelForSeq2SeqLM",
    pipeline_tag="text-generation",
    tags=("encoder-decoder", "text2text-generation"),
    architectures=frozenset(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values()),
)
CAUSAL = Loader(
    auto_class="AutoModelForCausalLM",
    pipeline_tag="text-generation",
    architectures=frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()),
)
TEXT_ENCODING = Loader(
    auto_class="AutoModelForTextEncoding",
    pipeline_tag="feature-extraction",
    architectures=frozenset(MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.values()),
)
IMAGE_TEXT = Loader(
    auto_class="AutoModelForImageTextToText",
    pipeline_tag="image-text-to-text",
    architectures=frozenset(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()),
)
IMAGE_TEXT_SEQ_TO_SEQ = replace(IMAGE_TEXT, tags=("encoder-decoder",))
BASE = Loader(auto_class="AutoModel", pipeline_tag="feature-extraction")
# a model that reads images can do what the next ones do too
LOADERS = (IMAGE_TEXT, SEQ_TO_SEQ, CAUSAL, TEXT_ENCODING, BASE)
# what an adapter may say in place of the class of its base
TASK_TYPES = {"SEQ_2_SEQ_LM": SEQ_TO_SEQ, "CAUSAL_LM": CAUSAL}


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Sizes of an encoder, decoder or vision tower, by the configuration's names; `None` where it does not say."""

    name: str
    num_hidden_layers: int | None
    hidden_size: int | None
    intermediate_size: int | None
    num_attention_heads: int | None
    num_key_value_heads: int | None
    head_dim: int | None
    max_position_embeddings: int | None

    @classmethod
    def from_config(cls, name: str, config: Mapping[str, Any]) -> Self:
        """Takes the whole numbers out of a configuration."""
        sizes = {field.name: _whole(config.get(field.name)) for field in fields(cls) if field.name != "name"}
        return cls(name=name, **sizes)


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """All that a card says. What is `None` or empty, it does not say.

    Attributes:
        repo_id: Where the model lies on the Hub.
        loader: How it is loaded.
        model_type: Of its configuration.
        architecture: Name of its class.
        parameters: Their number; of an adapter, those of the adapter.
        stacks: Sizes of vision tower, encoder and decoder.
        vocab_size: Number of tokens.
        tokenizer: Kind of the tokenizer that lies with the model.
        processor: Class of the processor of images and texts that lies with the model.
        has_code: Whether the code of the model lies with it.
        adapter: Kind of the adapter, such as `LORA`.
        base_model: Its id on the Hub.
        datasets: Their ids on the Hub.
        license: Its id on the Hub.
        language: Codes of the languages.
        tags: More tags, beside those of the kind.
        summary: What the model is, in Markdown.
        intended_use: What it is for, in Markdown.
        limits: What it cannot do, in Markdown, a point each.
        attribution: Whose weights and data they are, in Markdown.
        recipe: How it was trained, in Markdown.
        command: What trained it.
        machine: What it was trained on.
        example: An input to show.
        results: What was measured of its answers.
        efficiency: What was measured of its speed.
        plot: Picture of the speeds, by its path in the repository.
    """

    repo_id: str
    loader: Loader
    model_type: str | None = None
    architecture: str | None = None
    parameters: int | None = None
    stacks: tuple[Stack, ...] = ()
    vocab_size: int | None = None
    tokenizer: str | None = None
    processor: str | None = None
    has_code: bool = False
    adapter: str | None = None
    base_model: str | None = None
    datasets: tuple[str, ...] = ()
    license: str | None = None
    language: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    summary: str | None = None
    intended_use: str | None = None
    limits: tuple[str, ...] = ()
    attribution: str | None = None
    recipe: str | None = None
    command: str | None = None
    machine: str | None = None
    example: str = "A text."
    results: tuple[Evaluation, ...] = ()
    efficiency: tuple[SpeedComparison, ...] = ()
    plot: str | None = None

    def __post_init__(self) -> None:
        # they stand in code and links; the error of the library is a ValueError
        for name in (self.repo_id, *([self.base_model] if self.base_model else []), *self.datasets):
            validate_repo_id(name)

    @property
    def name(self) -> str:
        """Name of the repository without its namespace."""
        return self.repo_id.rpartition("/")[2]


def facts_from_folder(folder: str | PathLike[str], *, repo_id: str, **given: Any) -> CardFacts:
    """Returns what the files of a folder say: configuration, headers of the weights, tokenizer, `results.json`.

    Args:
        folder: A model folder, or one of an adapter.
        repo_id: Where it will lie on the Hub.
        given: Fields of `CardFacts` that the files cannot tell, or that replace what they tell.

    Raises:
        FileNotFoundError: If there is neither a `config.json` nor an `adapter_config.json`.
        ValueError: If a file is not what its name says, or if the model is of no kind in `LOADERS`.
    """
    folder = Path(folder)
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    config = read_json_object(folder / (ADAPTER_CONFIG if is_adapter else CONFIG))
    read: dict[str, Any] = {
        "parameters": _parameters(folder, config),
        "tokenizer": _tokenizer(folder),
        "processor": _class_in(folder / PROCESSOR, "processor_class"),
    }
    if (folder / RESULTS).is_file():
        read["results"] = read_results(folder / RESULTS)
    facts_from = _facts_from_adapter if is_adapter else facts_from_config
    return facts_from(config, repo_id=repo_id, **{**read, **given})


def facts_from_config(config: Mapping[str, Any], *, repo_id: str, **given: Any) -> CardFacts:
    """Returns what a configuration says, as `facts_from_folder` does for a folder."""
    architectures = config.get("architectures")
    architecture = _text(architectures[0]) if isinstance(architectures, list) and architectures else None
    auto_map = config.get("auto_map")
    auto_map = auto_map if isinstance(auto_map, dict) else {}
    loader = _loader(architecture, auto_map)
    if loader is IMAGE_TEXT and config.get("is_encoder_decoder"):
        loader = IMAGE_TEXT_SEQ_TO_SEQ
    # an encoder alone has the configuration of the whole model
    stacks = {name: sizes for name, sizes in _stacks(config).items() if loader != TEXT_ENCODING or name == "encoder"}
    facts = CardFacts(
        repo_id=repo_id,
        loader=loader,
        model_type=_text(config.get("model_type")),
        architecture=architecture,
        stacks=tuple(Stack.from_config(name, sizes) for name, sizes in stacks.items()),
        vocab_size=_whole(next(iter(reversed(stacks.values())), config).get("vocab_size")),
        has_code=bool(auto_map),
    )
    return replace(facts, **given)


def _facts_from_adapter(config: Mapping[str, Any], *, repo_id: str, **given: Any) -> CardFacts:
    mapping = config.get("auto_mapping")
    architecture = _text(mapping.get("base_model_class")) if isinstance(mapping, dict) else None
    task_type = _text(config.get("task_type"))
    ours = {**REMOTE_VISION_CODE, **REMOTE_CODE}
    if "base_model" not in given:
        given["base_model"] = _hub_id(_text(config.get("base_model_name_or_path")))
    facts = CardFacts(
        repo_id=repo_id,
        loader=TASK_TYPES[task_type] if task_type in TASK_TYPES else _loader(architecture, ours),
        architecture=architecture,
        adapter=_text(config.get("peft_type")) or "PEFT",
    )
    return replace(facts, **given)


def _hub_id(name: str | None) -> str | None:
    """Returns the name if it can be one of the Hub: a folder of this machine means nothing to a reader."""
    if name is None:
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        is_id = False
    else:
        is_id = not Path(name).exists()
    if not is_id:
        logger.warning(
            "the adapter names its base by a folder of this machine, so the card names no base: pass base_model, or "
            f"write the id of the base on the Hub into {ADAPTER_CONFIG}"
        )
    return name if is_id else None


def _loader(architecture: str | None, auto_map: Mapping[str, Any]) -> Loader:
    for loader in LOADERS:
        own = str(auto_map.get(loader.auto_class)).rpartition(".")[2]
        if architecture is not None and (architecture == own or architecture in loader.architectures):
            return loader
    classes = ", ".join(loader.auto_class for loader in LOADERS)
    raise ValueError(
        f"a card is made for models of {classes}, and {architecture or 'a model without architectures'} is none: "
        "write its README.md yourself"
    )


def _stacks(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    halves = {name: config[name] for name in ("encoder", "decoder") if isinstance(config.get(name), dict)}
    if len(halves) == 2:
        tower = halves["encoder"].get("vision_config")
        return {"vision tower": tower, **halves} if isinstance(tower, dict) else halves
    return {} if config.get("is_encoder_decoder") or "num_hidden_layers" not in config else {"decoder": config}


def _parameters(folder: Path, config: Mapping[str, Any]) -> int | None:
    """Returns the number of parameters by the headers of the weights; tied ones are stored, and counted, once."""
    first = ADAPTER_WEIGHTS if (folder / ADAPTER_CONFIG).is_file() else first_weight_file(folder, config)
    # what is quantised has several numbers in an element of a tensor
    if not (folder / first).is_file() or "quantization_config" in config:
        return None
    return sum(math.prod(shape) for shape in tensor_shapes(weight_files(folder, first, [])).values())


def _tokenizer(folder: Path) -> str | None:
    if (folder / "tokenizer.json").is_file():
        model = read_json_object(folder / "tokenizer.json").get("model")
        return (_text(model.get("type")) if isinstance(model, dict) else None) or "tokenizers"
    return _class_in(folder / "tokenizer_config.json", "tokenizer_class")


def _class_in(path: Path, field: str) -> str | None:
    return _text(read_json_object(path).get(field)) if path.is_file() else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
