"""The subcommand of `encdec-slm` that scores a model. What it needs is imported when it runs."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from encdec_slm.evaluation.tasks import TASKS


if TYPE_CHECKING:
    from encdec_slm.evaluation.model_loading import Loader

LOADING = ("device", "dtype", "trust_remote_code", "revision")
JUDGE = "judge_"


def add_evaluate(commands: Any, loaders: "Sequence[Loader]" = ()) -> None:
    """Adds `evaluate` to the subcommands.

    Args:
        commands: The subcommands.
        loaders: See `encdec_slm.evaluation.model_loading.load_respondent`.
    """
    evaluate = commands.add_parser(
        "evaluate",
        help="score a model on a task",
        description="Answers the rows of a task with any encoder-decoder, decoder-only or image-text model and prints "
        "its scores with 95 % confidence intervals. Answers are kept in OUTPUT as they come: the same command goes on "
        "where it was stopped. results.json there is what model cards read.",
    )
    evaluate.add_argument("model", metavar="MODEL", help="folder or Hub id, or copy: the input as its own answer")
    evaluate.add_argument(
        "--task",
        required=True,
        choices=TASKS,
        metavar="NAME",
        help=f"one of {', '.join(TASKS)}; the last two are yours",
    )
    evaluate.add_argument("--output", required=True, metavar="OUT", help="folder of the answers and the results")
    evaluate.add_argument(
        "--data",
        nargs="+",
        metavar="FILE",
        help="local rows (.jsonl, .json, .csv, .parquet) with the columns of the data set or source and target; or "
        "two text files whose lines belong together (default: the data set on the Hub)",
    )
    evaluate.add_argument("--dataset-config", metavar="C", help="configuration of the data set")
    evaluate.add_argument("--split", metavar="S", help="of the data set (default: the task's)")
    evaluate.add_argument("--limit", type=int, metavar="N", help="rows, from the first (default: all)")
    evaluate.add_argument("--metrics", nargs="+", metavar="M", help="instead of the task's")
    evaluate.add_argument(
        "--prompt", metavar="TEXT", help="what is asked, with columns in braces, instead of the task's"
    )
    evaluate.add_argument(
        "--instruction",
        metavar="TEXT",
        help="what a decoder-only model is told, with the prompt as {source}, in its chat template if it has one "
        "(default: the task's)",
    )
    evaluate.add_argument(
        "--template", metavar="TEXT", help="all that a decoder-only model reads, with the prompt as {source}"
    )
    evaluate.add_argument("--max-input-tokens", type=int, metavar="N", help="cut longer inputs")
    evaluate.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer (default: the task's)")
    evaluate.add_argument("--num-beams", type=int, metavar="N", help="width of the beam search (default: 1)")
    evaluate.add_argument("--batch-size", type=int, metavar="N", help="rows at once (default: 16)")
    evaluate.add_argument("--overwrite", action="store_true", help="remove answers made under other settings")
    evaluate.add_argument(
        "--device", metavar="D", help="such as cpu or cuda:0 (default: the first GPU if there is one)"
    )
    evaluate.add_argument(
        "--dtype", choices=("auto", "float32", "float16", "bfloat16"), help="(default: that of the weights)"
    )
    evaluate.add_argument("--trust-remote-code", action="store_true", help="run the code that comes with the model")
    evaluate.add_argument("--revision", metavar="R", help="branch, tag or commit of the model")
    _add_judge(evaluate)
    evaluate.set_defaults(run=lambda arguments: _evaluate(arguments, loaders))


def _add_judge(evaluate: argparse.ArgumentParser) -> None:
    judge = evaluate.add_argument_group(
        "judge", "a language model that judges answer correctness, as Ragas defines it"
    )
    judge.add_argument("--judge-url", metavar="URL", help="an OpenAI-compatible endpoint, such as http://HOST:8000/v1")
    judge.add_argument("--judge-model", metavar="NAME", help="the judge's name there")
    judge.add_argument("--judge-embedding-model", metavar="NAME", help="adds similarity to a quarter of the score")
    judge.add_argument(
        "--judge-key-variable", metavar="VAR", help="environment variable of the key (default: OPENAI_API_KEY)"
    )
    judge.add_argument("--judge-timeout", type=float, metavar="S", help="seconds for a request (default: 120)")
    judge.add_argument("--judge-retries", type=int, metavar="N", help="of a request (default: 5)")
    judge.add_argument("--judge-workers", type=int, metavar="N", help="requests at a time (default: 4)")


def _evaluate(arguments: argparse.Namespace, loaders: "Sequence[Loader]") -> None:
    from encdec_slm.evaluation.evaluate import Loading, evaluate
    from encdec_slm.evaluation.judge import Judge

    # what is not given has the function's default, which stands in one place
    given = {name: value for name, value in vars(arguments).items() if value is not None and name != "run"}
    judge = {name.removeprefix(JUDGE): given.pop(name) for name in list(given) if name.startswith(JUDGE)}
    if judge and not {"url", "model"} <= judge.keys():
        raise ValueError("a judge needs both --judge-url and --judge-model")
    loading = Loading(loaders=loaders, **{name: given.pop(name) for name in LOADING if name in given})
    evaluation = evaluate(**given, judge=Judge(**judge) if judge else None, loading=loading)
    print(evaluation.table())
    if evaluation.truncated:
        print(f"{evaluation.truncated} inputs were longer than the model takes, and cut")
    if evaluation.unjudged:
        print(f"{evaluation.unjudged} answers are unjudged: what the judge said of them cannot be read")
    print(f"\nwrote {evaluation.folder}")
