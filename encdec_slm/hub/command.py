"""The subcommands of `encdec-slm` that talk to the Hub. What one needs is imported when it runs."""

import argparse
from typing import Any


def add_push(commands: Any) -> None:
    """Adds `push` to the subcommands."""
    push = commands.add_parser(
        "push",
        help="publish a model folder on the Hugging Face Hub",
        description="Publishes a model or LoRA folder with all that others need to use it, in one commit: weights, "
        "configurations, tokenizer, code and card. First prints what would change there, and uses the folder in a "
        "fresh process without this package. The token is that of `hf auth login` or HF_TOKEN.",
    )
    push.add_argument("model", metavar="MODEL", help="the model folder; weights must be safetensors")
    push.add_argument("repo_id", metavar="REPO", help="namespace/name, or a name in your namespace")
    push.add_argument(
        "--private", action="store_const", const=True, help="the repository is private (default: as the Hub decides)"
    )
    push.add_argument("--revision", metavar="BRANCH", help="made if it is not there (default: main)")
    push.add_argument("--message", dest="commit_message", metavar="TEXT", help="title of the commit")
    push.add_argument(
        "--include",
        action="append",
        metavar="PATTERN",
        help="further files of the folder, such as 'onnx/*'; may be repeated",
    )
    push.add_argument("--dry-run", action="store_true", help="do everything but send")
    push.add_argument(
        "--no-check", dest="check", action="store_false", help="do not use the folder in a fresh process first"
    )
    push.set_defaults(run=_push)


def _push(arguments: argparse.Namespace) -> None:
    from encdec_slm.hub.push import push

    # what is not given has the function's default, which stands in one place
    given = {name: value for name, value in vars(arguments).items() if value is not None and name != "run"}
    push(**given, report=print)


def add_load(commands: Any) -> None:
    """Adds `load` to the subcommands."""
    load = commands.add_parser(
        "load",
        help="fetch a model from the Hugging Face Hub, check it and load it",
        description="Fetches a model or LoRA adapter into the cache, as one commit, prints its files and the code "
        "that would run where this package is not installed, its SHA-256 and whether it is the installed one, and "
        "loads it. Pickles, damaged weights and configurations that do not fit them are refused.",
    )
    load.add_argument("name", metavar="REPO", help="id on the Hub, or a folder")
    load.add_argument("--revision", metavar="R", help="branch, tag or commit of the repository (default: main)")
    load.add_argument("--code-revision", metavar="R", help="branch, tag or commit of the code (default: the same)")
    load.add_argument("--verify", action="store_true", help="refuse code that is not that of the installed package")
    load.add_argument(
        "--trust-remote-code", action="store_true", help="run the code of a model whose class is not installed"
    )
    load.add_argument(
        "--max-file-bytes", type=int, metavar="N", help="largest size of a file that is no weights (default: 64 MiB)"
    )
    load.set_defaults(run=_load)


def _load(arguments: argparse.Namespace) -> None:
    from encdec_slm.hub.checkpoint import checkpoint_report, fetch_checkpoint
    from encdec_slm.hub.load import load_checkpoint

    given = {
        name: value
        for name in ("revision", "code_revision", "max_file_bytes")
        if (value := getattr(arguments, name)) is not None
    }
    checkpoint = fetch_checkpoint(arguments.name, **given)
    # before any of it can run
    for part in checkpoint.with_base:
        print(checkpoint_report(part))
    model = load_checkpoint(checkpoint, verify=arguments.verify, trust_remote_code=arguments.trust_remote_code).model
    print(f"loaded: {type(model).__name__}, {model.num_parameters():,} parameters")
