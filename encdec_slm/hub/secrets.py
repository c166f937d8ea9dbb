"""What must not leave the machine: files that hold credentials by their name, and credentials within a text."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Finding:
    """A secret, told without itself.

    Attributes:
        path: The file, relative to the folder.
        kind: What it is, such as "private key".
        line: Where in the file, counted from 1; without it the name of the file alone gives it away.
    """

    path: str
    kind: str
    line: int | None = None

    def __str__(self) -> str:
        place = self.path if self.line is None else f"{self.path}, line {self.line}"
        return f"{place} ({self.kind})"


# of files, in lower case
SECRET_NAMES = {
    "environment variables": (".env", ".env.*", ".envrc"),
    "private key": ("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "*.pem", "*.key", "*.p12", "*.pfx", "*.ppk"),
    "password": (".netrc", "_netrc", ".git-credentials", ".pypirc", ".npmrc", ".htpasswd", ".pgpass", "*.kdbx"),
    "credentials": ("credentials", "credentials.*", "secrets.*", "service[-_]account*.json", "kaggle.json"),
    # as the client of the Hub names them
    "access token": ("token", "stored_tokens", "*.token"),
}

# kind, how the secret begins, how it goes on
SECRET_TEXTS = (
    ("Hugging Face token", "hf_", r"[A-Za-z0-9]{30,}"),
    ("Hugging Face token", "api_org_", r"[A-Za-z0-9]{30,}"),
    # the digit tells it from words joined by hyphens
    ("API key", "sk-", r"(?=[\w-]*\d)[\w-]{20,}"),
    ("Google API key", "AIza", r"[\w-]{35}(?![\w-])"),
    ("AWS access key", "AKIA", r"[0-9A-Z]{16}(?![A-Za-z0-9])"),
    ("AWS access key", "ASIA", r"[0-9A-Z]{16}(?![A-Za-z0-9])"),
    ("GitHub token", "gh", r"[opsru]_[A-Za-z0-9]{30,}"),
    ("GitHub token", "github_pat_", r"\w{30,}"),
    ("GitLab token", "glpat-", r"[\w-]{20,}"),
    ("Slack token", "xox", r"[abeoprs]-[A-Za-z0-9-]{20,}"),
    ("private key", "-----BEGIN ", r"(?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"),
)
# The beginning comes first, as the engine then looks for it alone: 50 times as fast on a large tokenizer.json. It must
# not be the end of a longer word ("task-...").
_PATTERNS = tuple(
    (kind, re.compile(f"{beginning}(?<![A-Za-z0-9]{beginning}){rest}")) for kind, beginning, rest in SECRET_TEXTS
)


def secret_names(paths: Iterable[str]) -> list[Finding]:
    """Returns which files hold credentials by their names, whatever folder they lie in.

    Args:
        paths: Of files, relative to the folder, with slashes.
    """
    return [
        Finding(path, kind)
        for path in paths
        for kind, patterns in SECRET_NAMES.items()
        if any(fnmatchcase(PurePosixPath(path).name.lower(), pattern) for pattern in patterns)
    ]


def secret_texts(path: str, text: str) -> list[Finding]:
    """Returns the lines of a text in which there is a credential.

    Args:
        path: The file that the text is from, for the findings.
        text: What it holds.
    """
    return [
        Finding(path, kind, 1 + text.count("\n", 0, match.start()))
        for kind, pattern in _PATTERNS
        for match in pattern.finditer(text)
    ]
