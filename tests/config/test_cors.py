"""CORS options: what is no origin, and what to write; what browsers would refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from headway.server.config.cors import CorsConfig, cors_problems, cors_warnings
from headway.server.config.sources import resolve

EXAMPLE = "write it as https://app.example.com, with a scheme, and a port if it is not the scheme's own"


@pytest.mark.parametrize(
    "origin",
    ["*", "https://a.example", "http://localhost:3000", "http://[::1]:8080", "https://xn--bcher-kva.example", "chrome-extension://abc"],
)
def test_origins(origin: str) -> None:
    assert cors_problems(CorsConfig(allowed_origins=[origin])) == []


@pytest.mark.parametrize(
    ("origin", "advice"),
    [
        ("https://a.example/", "write https://a.example"),
        ("https://a.example/app?x#y", "write https://a.example"),
        ("a.example", "write https://a.example"),
        ("localhost:3000", "write https://localhost:3000"),
        ("HTTPS://A.Example", "write https://a.example"),
        ("https://a.example:443", "write https://a.example"),
        ("http://a.example:80/", "write http://a.example"),
        ("https://me:pw@a.example", "write https://a.example"),
        ("https://a.example\n", "write https://a.example"),
        ("https://*.a.example", "a * stands for all origins and only alone: list each origin by its name"),
        ("https://a.example:99999", EXAMPLE),
        ("https://b\u00fccher.example", EXAMPLE),
        ("https://a b", EXAMPLE),
        ("https://[x", EXAMPLE),
        ("null", "any page in a sandbox sends it, whoever wrote that page"),
    ],
)
def test_what_is_no_origin(origin: str, advice: str) -> None:
    assert cors_problems(CorsConfig(allowed_origins=["https://ok", origin])) == [
        f"--allowed-origins holds {origin!r}, which is no origin as browsers send it; {advice}"
    ]


def test_credentials_with_every_origin_are_refused_and_other_wildcards_are_not() -> None:
    assert cors_problems(CorsConfig(allowed_origins=["*"], allow_credentials=True)) == [
        "--allow-credentials can't be used with * in --allowed-origins, because browsers refuse that: list the origins"
    ]
    assert cors_problems(CorsConfig(allowed_origins=["https://a"], allow_credentials=True)) == []  # methods and headers are *


def test_methods_and_headers() -> None:
    first, second = cors_problems(CorsConfig(allowed_methods=["GET", "post", "*"], allowed_headers=["X-A", "x y", "*"]))
    assert first == "--allowed-methods holds 'post', which is no method; write them in capitals, as GET, or * for all"
    assert second == "--allowed-headers holds 'x y', which is no header's name; write them as Content-Type, or * for all"


def test_what_has_no_effect_without_origins() -> None:
    assert cors_warnings(CorsConfig()) == []
    assert len(cors_warnings(CorsConfig(allow_credentials=True, allowed_methods=["GET"], allowed_headers=["X-A"]))) == 3
    assert cors_warnings(CorsConfig(allow_credentials=True, allowed_origins=["https://a"])) == []


@pytest.mark.parametrize("form", ["json", "yaml list", "yaml json", "environment json", "environment commas"])
def test_lists_in_every_form(form: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    json = '["https://a.example", "https://b.example"]'
    path.write_text("allowed-origins: " + {"yaml json": f"'{json}'"}.get(form, "[https://a.example, https://b.example]"))
    words = {"json": ["--allowed-origins", json], "yaml list": ["--config", str(path)], "yaml json": ["--config", str(path)]}.get(form, [])
    environ = {"environment json": json, "environment commas": "https://a.example,https://b.example"}.get(form)
    config = resolve(["demo", *words], {"SM_VLLM_ALLOWED_ORIGINS": environ} if environ else {}).config
    assert config.cors.allowed_origins == ["https://a.example", "https://b.example"]
    assert (config.cors.allowed_methods, config.cors.allowed_headers) == (["*"], ["*"])
