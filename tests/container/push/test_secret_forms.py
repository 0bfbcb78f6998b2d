from __future__ import annotations

import pytest

from headway.container.push.secret_forms import in_text, in_variables, known_form

HF = "hf_" + "a1B2" * 9


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("-----BEGIN RSA PRIVATE KEY-----\nMII", "a private key"),
        ("-----BEGIN PRIVATE KEY-----", "a private key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "a private key"),
        ("id AKIA" + "Z2" * 8, "an AWS access key id"),
        (f"pip install --token={HF}", "a Hugging Face token"),
        ("ghp_" + "a" * 36, "a GitHub token"),
        ("github_pat_" + "a" * 70, "a GitHub token"),
        ("glpat-" + "a" * 20, "a GitLab token"),
        ("sk-proj-" + "a" * 30, "an OpenAI or Anthropic key"),
        ("xoxb-" + "1" * 24, "a Slack token"),
        ("pypi-AgE" + "a" * 60, "a PyPI token"),
        ("--index-url https://me:secret@pypi.example/simple", "a URL with a password"),
    ],
)
def test_secrets_are_known_by_their_form(text: str, what: str) -> None:
    assert known_form(text) == what


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN CERTIFICATE-----",
        "AKIAIOSFODNN7EXAMPLE",  # AWS' own, of its documentation
        "hf_transfer",
        "https://pypi.org/simple",
        "https://example.com:8080/a@b",
        "https://me:${PASSWORD}@pypi.example/simple",
    ],
)
def test_other_texts_are_none(text: str) -> None:
    assert known_form(text) is None


def test_a_variable_is_judged_by_its_value_then_by_its_name() -> None:
    variables = {
        "GREETING": f"say {HF}",
        "HF_TOKEN": "short",
        "SM_VLLM_API_KEY": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "GPG_KEY": "7169605F62C751356D054A26A821E680E5FA6305",
        "DB_PASSWORD_OLD": "p",
        "TOKENIZERS_PARALLELISM": "false",
        "PATH": "/usr/bin",
    }
    found = {finding.place: (finding.what, finding.is_certain) for finding in in_variables(variables, "environment")}
    assert found == {
        "environment GREETING": ("a Hugging Face token", True),
        "environment HF_TOKEN": ("a secret", True),
        "environment SM_VLLM_API_KEY": ("a secret", True),
        "environment AWS_SECRET_ACCESS_KEY": ("a secret", True),
        "environment GPG_KEY": ("a secret, to judge by the name", False),
        "environment DB_PASSWORD_OLD": ("a secret, to judge by the name", False),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_TOKEN", ""),
        ("HF_TOKEN", "$TOKEN"),
        ("HF_TOKEN", "ssm:/prod/token"),
        ("SM_VLLM_API_KEY", "file:///run/secrets/key"),
        ("SM_VLLM_API_KEY_FILE", "/run/secrets/key"),
        ("HF_TOKEN_PATH", "/run/secrets/token"),
    ],
)
def test_a_value_that_says_where_the_secret_stands_is_none(name: str, value: str) -> None:
    assert in_variables({name: value}, "environment") == []


@pytest.mark.parametrize(
    ("text", "place", "is_certain"),
    [
        (f"RUN |1 HF_TOKEN={HF} /bin/sh -c make", "step, HF_TOKEN", True),
        ("/bin/sh -c #(nop)  ENV AWS_SECRET_ACCESS_KEY='a b'", "step, AWS_SECRET_ACCESS_KEY", True),
        ("RUN DB_PASSWORD=hunter2 make", "step, DB_PASSWORD", False),
        ("RUN pip install --index-url https://me:secret@pypi.example/simple x", "step", True),
    ],
)
def test_commands_are_searched(text: str, place: str, is_certain: bool) -> None:
    assert [(found.place, found.is_certain) for found in in_text(text, "step")] == [(place, is_certain)]


def test_commands_without_secrets_are_silent() -> None:
    assert in_text("RUN HF_TOKEN=$(cat /run/secrets/token) pip install -q x && MAX_TOKENS=1 make", "step") == []
    assert in_text("ENV HF_TOKEN=abc", "step", {"HF_TOKEN": "abc"}) == []


def test_no_finding_repeats_the_value() -> None:
    found = [*in_text(f"A_TOKEN={HF} curl https://me:hunter2@x", "step"), *in_variables({"HF_TOKEN": "hunter2"}, "environment")]
    assert found
    assert not any(secret in str(finding) for finding in found for secret in (HF, "hunter2"))
