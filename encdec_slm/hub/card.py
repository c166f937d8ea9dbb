"""Model cards: what is known of a model as the README of its repository, with the metadata that the Hub indexes."""

import json
import re
from os import PathLike
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from encdec_slm.hub.card_facts import CardFacts, facts_from_folder
from encdec_slm.models.configuration_encdec_slm import EncDecSLMConfig
from encdec_slm.models.configuration_encdec_slm_vision import EncDecSLMVisionConfig


TEMPLATE = Path(__file__).with_name("card_template.md.jinja")
# what Markdown, HTML and formulas would read as their own
_MARKUP = re.compile(r"([\\`*_\[\]<>|#$&~!])")


def card_for_folder(folder: str | PathLike[str], repo_id: str) -> str:
    """Returns the card of a model or adapter folder as text: what its files say, and nothing else.

    Args:
        folder: The folder.
        repo_id: Where it will lie on the Hub.

    Raises:
        FileNotFoundError: If there is neither a `config.json` nor an `adapter_config.json`.
        ValueError: If a file is not what its name says, the id is none, or the model is no language model.
    """
    return str(render(facts_from_folder(folder, repo_id=repo_id)))


def render(facts: CardFacts, template: str | PathLike[str] | None = None) -> ModelCard:
    """Returns the card that says these facts.

    Args:
        facts: What to say. Whatever is not said in Markdown (see `CardFacts`) appears as it is written, also where it
            looks like markup; nothing in them is run as a template.
        template: Jinja template in place of `TEMPLATE`.
    """
    return ModelCard.from_template(
        metadata(facts),
        template_path=str(TEMPLATE if template is None else template),
        facts=facts,
        our_model_types=(EncDecSLMConfig.model_type, EncDecSLMVisionConfig.model_type),
        literal=literal,
        measured=measured,
        code_span=code_span,
        python_string=python_string,
    )


def metadata(facts: CardFacts) -> ModelCardData:
    """Returns what stands between the dashes: keys that the Hub indexes, without those that nothing is known of."""
    results = [result for evaluation in facts.results for result in evaluation.results]
    library = "transformers" if facts.adapter is None else "peft"
    tags = (*facts.loader.tags, *([facts.adapter.lower()] if facts.adapter else []), *facts.tags)
    return ModelCardData(
        language=[*facts.language] or None,
        license=facts.license,
        library_name=library,
        pipeline_tag=facts.loader.pipeline_tag,
        tags=[*tags] or None,
        base_model=facts.base_model,
        datasets=[*facts.datasets] or None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=facts.name if results else None,
        eval_results=results or None,
    )


def literal(text: object) -> str:
    """Returns text for one line of Markdown, or one cell of a table, that is shown as it is written."""
    return _MARKUP.sub(r"\\\1", _one_line(text))


def code_span(text: object) -> str:
    """Returns text as code in one line of Markdown, between more backticks than it has in a row."""
    line = _one_line(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    # a backtick at the edge would join the fence
    blank = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{blank}{line}{blank}{fence}"


def measured(value: float) -> str:
    """Returns a time or a rate with as many digits as are worth reading."""
    return f"{value:.1f}" if abs(value) < 100 else f"{value:,.0f}"


def python_string(text: str) -> str:
    """Returns a literal of Python for a block of code, whose fence no backtick in it can end."""
    return json.dumps(text, ensure_ascii=False).replace("`", r"\u0060")


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
