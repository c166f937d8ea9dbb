"""A model onto the Hub: looked at before anything is sent, and then there as a whole or not at all."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: of httpx, or httpx2 from 2.0 on
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
)
from transformers import PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import logging

from encdec_slm.hub.card import card_for_folder
from encdec_slm.hub.checkpoint import fetch_checkpoint
from encdec_slm.hub.clean_process import check_in_clean_process
from encdec_slm.hub.contents import Contents, staged
from encdec_slm.hub.plan import CARD, MAIN, PushPlan, files_at, hub_state, is_same, plan_push


logger = logging.get_logger(__name__)

LOGIN = "log in with `hf auth login`, set HF_TOKEN or pass token"


@dataclass(frozen=True)
class PushResult:
    """What a push did.

    Attributes:
        plan: What was to be done.
        commit: The commit at the head of the branch, which holds all that was pushed; None after a dry run that had
            something to do.
        url: The page of the commit, if one was made.
    """

    plan: PushPlan
    commit: str | None
    url: str | None = None


def push(
    model: Any,
    repo_id: str,
    *,
    processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload model with encdec-slm",
    include: Iterable[str] = (),
    token: str | None = None,
    dry_run: bool = False,
    check: bool = True,
    report: Callable[[str], object] = logger.info,
) -> PushResult:
    """Publishes a model: weights, configurations, tokenizer, the code that loads them, and a card, in one commit.

    Before anything is sent, the plan is reported, and the folder is loaded with `trust_remote_code=True` in a fresh
    process without this package, where it must compute what the model computes here, bit by bit. What is on the Hub
    already is not sent again, also after a push that broke off: until the commit none of it is visible.

    A repository or branch that is not there is made. A card is written if there is none in the folder or on the Hub.

    Args:
        model: A model folder, or a model or adapter object. Weights must be safetensors.
        repo_id: The repository, `namespace/name`, or a name in the namespace of the user.
        processing_class: Tokenizer or processor of a model object; a folder has its own.
        private: Whether a repository that is made is private, by default as the Hub decides. One that is there must
            agree.
        revision: The branch, `main` by default.
        commit_message: Title of the commit.
        include: Patterns of further files of the folder, such as `onnx/*`.
        token: Token of the Hub; by default that of the login.
        dry_run: Do everything but send. No token is needed for a public or an absent repository.
        check: Whether to use the folder in a fresh process first.
        report: Is told the plan and what was done, line by line.

    Returns:
        What was done.

    Raises:
        ValueError: If there is a secret in the folder, something is missing in it or does not work without this
            package, the repository is not as private as `private` says, or an adapter would lie beside a model.
        OSError: If the Hub cannot be reached, refuses, or has changed meanwhile. Nothing has changed there then,
            except that the repository or branch may have been made.
    """
    api = HfApi(token=token)
    with staged(model, processing_class=processing_class, include=include) as contents:
        with hub_errors(repo_id):
            repo_id = repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"
            plan = _plan(api, contents, repo_id, revision=revision or MAIN, private=private)
            report(str(plan))
            if plan.is_done:
                report("nothing to send: the Hub holds all of it")
                return PushResult(plan, plan.state.head)
            if not dry_run:
                # said now, not after a minute of checks
                api.whoami()
        if check:
            _check(contents, token)
            report("checked: works without encdec_slm, and computes the same")
        if dry_run:
            report("dry run: nothing was sent")
            return PushResult(plan, None)
        with hub_errors(repo_id):
            result = _send(api, plan, private=private, commit_message=commit_message)
            _verify(api, result)
    report(f"pushed: {result.url or result.commit}")
    return result


def _plan(api: HfApi, contents: Contents, repo_id: str, *, revision: str, private: bool | None) -> PushPlan:
    state = hub_state(api, repo_id, revision)
    if None not in (private, state.private) and private != state.private:
        kinds = {True: "private", False: "public"}
        raise ValueError(
            f"{repo_id} is {kinds[bool(state.private)]}, not {kinds[bool(private)]}: change it in its settings on the "
            "Hub, or push without saying which"
        )
    # a card on the Hub may have been written there by hand
    if CARD not in contents.files() and CARD not in state.files:
        (contents.folder / CARD).write_text(card_for_folder(contents.folder, repo_id), encoding="utf-8")
    return plan_push(contents, repo_id, revision=revision, state=state)


def _check(contents: Contents, token: str | None) -> None:
    base = None
    if contents.base_model is not None:
        base = fetch_checkpoint(contents.base_model, revision=contents.base_revision, token=token).folder
    check_in_clean_process(contents.folder, source=contents.source, auto_class=contents.auto_class, base=base)


def _send(api: HfApi, plan: PushPlan, *, private: bool | None, commit_message: str) -> PushResult:
    head = plan.state.head
    if head is None:
        api.create_repo(plan.repo_id, private=private)
        head = api.repo_info(plan.repo_id).sha
    if not plan.state.has_branch:
        api.create_branch(plan.repo_id, branch=plan.revision, revision=head)
    if not plan.changes:
        return PushResult(plan, head)
    commit = api.create_commit(
        plan.repo_id,
        [file.operation for file in plan.changes],
        commit_message=commit_message,
        revision=plan.revision,
        parent_commit=head,
    )
    return PushResult(plan, commit.oid, str(commit.commit_url))


def _verify(api: HfApi, result: PushResult) -> None:
    """Refuses a commit without all of the files: the Hub skips what a `.gitignore` in the repository names."""
    files = files_at(api, result.plan.repo_id, result.commit)
    operations = [file.operation for file in result.plan.files]
    additions = [operation for operation in operations if isinstance(operation, CommitOperationAdd)]
    missing = [
        addition.path_in_repo
        for addition in additions
        if addition.path_in_repo not in files or not is_same(addition, files[addition.path_in_repo])
    ]
    if missing:
        raise ValueError(
            f"the Hub did not take {', '.join(missing)} into {result.url}: if {result.plan.repo_id} has a .gitignore "
            "that names them, remove it and push again"
        )


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Turns what the client raises into an `OSError` that says what to do. No message holds the token.

    Args:
        repo_id: The repository that is spoken to.

    Raises:
        OSError: In place of an error of the Hub or the connection.
    """
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise OSError(f"the Hub has to know who pushes to {repo_id}: {LOGIN}") from error
    except HTTPError as error:
        raise OSError(_explanation(error, repo_id)) from error
    except RuntimeError as error:
        # so the client wraps what breaks off an upload
        cause = error.__cause__ or error
        raise OSError(f"{error} {_explanation(cause, repo_id)}") from error


def _explanation(error: BaseException, repo_id: str) -> str:
    if not isinstance(error, HfHubHTTPError):
        return (
            f"the connection to the Hub broke off ({type(error).__name__}: {error}): push again, what has arrived is "
            "not sent twice"
        )
    status, message = error.response.status_code, error.server_message or "no reason given"
    if status == 401:
        return f"the Hub does not accept the token for {repo_id}: {LOGIN}"
    if status == 403:
        namespace = repo_id.partition("/")[0]
        return f"the Hub refuses to write to {repo_id} ({message}): the token needs the right to write to {namespace}"
    if status in (409, 412):
        return f"{repo_id} has changed on the Hub since the plan was made ({message}): push again"
    return f"the Hub refuses {repo_id} with {status} ({message}): push again when that is settled"
