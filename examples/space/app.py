"""A page that asks an encoder-decoder and, side by side, a peer: answers as they are written, and both clocks.

    python examples/space/app.py --model FOLDER --peer FOLDER

Where there is no command line, as on a Hugging Face Space, the same flags stand in the variable SPACE_ARGUMENTS. A tab
for images appears with `--vision-model`.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
import torch
from answering import Answer, Turns
from PIL import Image
from respondents import Question, Respondent, load_image_text_model, load_text_model


ROLES = ("model", "peer")
NOTE = (
    "Greedy answers, one model after the other, on {threads} thread(s) of this machine's processor. *First token* is "
    "counted from the call of `generate`, *tokens per second* from the first token on."
)
# fonts of the visitor's machine: the page asks no other server
FONT = ("system-ui", "sans-serif")
CSS = """
.clocks { display: flex; gap: 2.5rem; padding: 0.25rem 0.5rem; }
.clocks b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.clocks span { font-size: 0.8rem; opacity: 0.7; }
"""


@dataclass(frozen=True)
class Tab:
    """A kind of question and who answers it.

    Attributes:
        title: What the tab is called.
        respondents: One or two models.
        takes_image: Whether an image is part of the question.
    """

    title: str
    respondents: tuple[Respondent, ...]
    takes_image: bool = False

    def warm_up(self, turns: Turns) -> None:
        """Lets the models answer once: the first call of `generate` is slower than all others."""
        image = Image.new("RGB", (64, 64)) if self.takes_image else None
        for _ in turns.side_by_side(self.respondents, Question("a", image)):
            pass


def build_page(tabs: Sequence[Tab], turns: Turns, examples: Sequence[str] = ()) -> gr.Blocks:
    """Returns the page.

    Args:
        tabs: One or more.
        turns: Lets the models of all tabs answer one at a time.
        examples: Texts to try, for the tab without an image.
    """
    with gr.Blocks(title="encdec-slm", analytics_enabled=False) as page:
        gr.Markdown("# Small encoder-decoders\nAsk, and see what is answered and how fast.")
        for tab in tabs:
            with gr.Tab(tab.title):
                _build_tab(tab, turns, () if tab.takes_image else examples)
        gr.Markdown(NOTE.format(threads=torch.get_num_threads()))
    return page


def _build_tab(tab: Tab, turns: Turns, examples: Sequence[str]) -> None:
    question: list[Any] = []
    with gr.Row():
        if tab.takes_image:
            question = [gr.Image(type="pil", label="Image", height=240)]
        text = gr.Textbox(label="Text", lines=8 if tab.takes_image else 2, placeholder="What the models read", scale=2)
    with gr.Row():
        button = gr.Button("Answer", variant="primary", scale=0, min_width=160)
    if examples:
        gr.Examples([[example] for example in examples], inputs=text, label="To try")
    shown: list[Any] = []
    with gr.Row():
        for respondent in tab.respondents:
            with gr.Column():
                gr.Markdown(f"**{respondent.name}** \u00b7 {respondent.kind}")
                # above the answers, which may differ in length
                readings = gr.HTML(clocks(None))
                shown += [gr.Textbox(label="Answer", lines=4, interactive=False), readings]
    gr.on(
        [button.click, text.submit],
        partial(ask, turns, tab.respondents),
        inputs=[text, *question],
        outputs=shown,
        show_progress="hidden",
        api_visibility="private",
    )


def ask(
    turns: Turns, respondents: Sequence[Respondent], text: str, image: Image.Image | None = None
) -> Iterator[list[str]]:
    """Yields what the page shows: a text and the clocks of each model in turn.

    Raises:
        gr.Error: If this cannot be asked; the page shows why.
    """
    try:
        for answers in turns.side_by_side(respondents, Question(text, image)):
            yield [part for answer in answers for part in (answer.text if answer else "", clocks(answer))]
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error


def clocks(answer: Answer | None) -> str:
    """Returns the clocks of an answer as HTML; a dash stands for what is not known yet."""
    first = speed = tokens = "\u2013"
    if answer is not None:
        tokens = f"{answer.tokens:,}"
        if answer.first_token_seconds is not None:
            first = f"{1e3 * answer.first_token_seconds:,.1f} ms"
        if answer.tokens_per_second is not None:
            speed = f"{answer.tokens_per_second:,.0f}"
    readings = (("first token", first), ("tokens per second", speed), ("tokens", tokens))
    state = "complete" if answer is not None and answer.is_complete else "incomplete"
    tiles = "".join(f"<div><b>{reading}</b><span>{name}</span></div>" for name, reading in readings)
    return f'<div class="clocks {state}">{tiles}</div>'


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the command line.

    Args:
        argv: Arguments; if None those of the process, or, if it has none, those in SPACE_ARGUMENTS.
    """
    if argv is None:
        argv = sys.argv[1:] or shlex.split(os.environ.get("SPACE_ARGUMENTS", ""))
    parser = argparse.ArgumentParser(description="A page that asks models and shows their answers and clocks.")
    for kind, prefix in (("text", ""), ("an image and a text", "vision-")):
        for role in ROLES:
            parser.add_argument(f"--{prefix}{role}", metavar="NAME", help=f"folder or Hub id of a {role} for {kind}")
            parser.add_argument(
                f"--{prefix}{role}-template",
                metavar="TEXT",
                help="what it reads, with {source} for the visitor's text",
            )
    parser.add_argument("--examples", nargs="+", default=[], metavar="TEXT", help="texts to try")
    parser.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="longest answer (%(default)s)")
    # more is slower for small models: the threads wait for each other whenever the page is drawn
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of a model (%(default)s)")
    parser.add_argument("--port", type=int, metavar="N", help="of 127.0.0.1 (default: a free one from 7860 on)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the code that lies in the folders")
    arguments = parser.parse_args(argv)
    for prefix in ("", "vision_"):
        if getattr(arguments, f"{prefix}peer") and not getattr(arguments, f"{prefix}model"):
            parser.error(f"there is a {prefix}peer, but no {prefix}model to stand beside it")
    if not arguments.model and not arguments.vision_model:
        parser.error("name a --model or a --vision-model")
    return arguments


def load_tabs(arguments: argparse.Namespace) -> list[Tab]:
    """Returns a tab for each kind of model that is named."""
    tabs = []
    for title, prefix, load in (
        ("Text", "", load_text_model),
        ("Image and text", "vision_", load_image_text_model),
    ):
        respondents = tuple(
            _load(load, prefix + role, arguments) for role in ROLES if getattr(arguments, prefix + role)
        )
        if respondents:
            tabs.append(Tab(title, respondents, takes_image=bool(prefix)))
    return tabs


def _load(load: Callable[..., Respondent], role: str, arguments: argparse.Namespace) -> Respondent:
    return load(
        getattr(arguments, role),
        template=getattr(arguments, f"{role}_template"),
        max_new_tokens=arguments.max_new_tokens,
        trust_remote_code=arguments.trust_remote_code,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Loads the models and serves the page until it is interrupted.

    Args:
        argv: See `parse`.
    """
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    try:
        tabs = load_tabs(arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"app.py: error: {error}")
    turns = Turns()
    for tab in tabs:
        tab.warm_up(turns)
    build_page(tabs, turns, arguments.examples).launch(
        server_port=arguments.port,
        share=False,
        # an error that is none of the visitor's is shown too
        show_error=True,
        max_file_size="10mb",
        theme=gr.themes.Default(font=FONT, font_mono=("ui-monospace", "monospace")),
        css=CSS,
        footer_links=[],
    )


if __name__ == "__main__":
    main()
