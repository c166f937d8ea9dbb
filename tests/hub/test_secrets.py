"""Credentials are found by their names and in texts, and never said."""

import pytest
from push_tester import FAKE_TOKEN

from encdec_slm.hub.secrets import SECRET_TEXTS, Finding, secret_names, secret_texts


# put together here, so that no file of ours holds what looks like one
SECRETS = {
    "Hugging Face token": [FAKE_TOKEN, "api_org_" + "x1" * 16],
    "API key": ["sk-" + "proj-Ab1_" * 4],
    "Google API key": ["AIza" + "Sy0_-" * 7],
    "AWS access key": ["AKIA" + "ABCD1234" * 2, "ASIA" + "ABCD1234" * 2],
    "GitHub token": ["ghp_" + "a1" * 18, "gho_" + "a1" * 18, "github_pat_" + "a1_" * 14],
    "GitLab token": ["glpat-" + "a1-_" * 6],
    "Slack token": ["xoxb-" + "1234-" * 5],
    "private key": [f"-----BEGIN {kind}PRIVATE KEY-----" for kind in ("", "RSA ", "OPENSSH ", "EC ")],
}


def test_every_pattern_has_an_example():
    assert SECRETS.keys() == {kind for kind, *_ in SECRET_TEXTS}


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_is_found_with_its_line_and_not_said(kind):
    for secret in SECRETS[kind]:
        for text in (secret, f'"key": "{secret}",\n', f"export KEY={secret}\nmore"):
            (finding,) = secret_texts("run.sh", f"one\ntwo\n{text}")
            assert finding == Finding("run.sh", kind, 3)
            assert str(finding) == f"run.sh, line 3 ({kind})"


def test_several_are_found_all():
    text = "\n".join(secret for secrets in SECRETS.values() for secret in secrets)
    found = secret_texts("a.md", text)
    assert sorted(finding.line for finding in found) == [*range(1, text.count("\n") + 2)]


@pytest.mark.parametrize(
    "text",
    [
        # the names of variables and models, and the words of a vocabulary
        "HF_TOKEN=$HF_TOKEN hf_hub_download hf_transfer token: hf_xxx",
        "task-conditioned-generation-with-2-encoders-and-more, ask-1-question-about-everything-else",
        "sk-an-identifier-without-any-number-in-it",
        "the AKIAN people, AKIA, AIza",
        "ghp_short, -----BEGIN CERTIFICATE-----, -----BEGIN PUBLIC KEY-----",
        "a" * 20 + FAKE_TOKEN,
        "9c5e0d4f7a9b8c7d6e5f4a3b2c1d0e9f8a7b6c5d",
    ],
)
def test_what_is_no_secret_is_left_alone(text):
    assert secret_texts("README.md", text) == []


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".env.local",
        "sub/.netrc",
        "id_rsa",
        "deep/er/id_ed25519",
        "server.pem",
        "TLS.KEY",
        "credentials.json",
        "secrets.yaml",
        ".git-credentials",
        "service-account-7.json",
        ".cache/huggingface/token",
        "stored_tokens",
    ],
)
def test_a_file_is_found_by_its_name_in_any_folder(path):
    assert [finding.path for finding in secret_names(["config.json", path])] == [path]


def test_names_of_a_model_folder_are_left_alone():
    names = [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "spiece.model",
        "model.safetensors",
        "environment.yml",
        "README.md",
        "keys.txt",
    ]
    assert secret_names(names) == []
