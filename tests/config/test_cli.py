"""The command itself, in a process of its own: exit status, streams, and what it imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from headway import __version__
from headway.server.cli import main
from headway.server.config.doc_tables import docs_table, filled, topics_on
from headway.server.config.server import ServerConfig
from headway.server.config.show import help_text
from headway.server.config.sources import all_settings
from headway.server.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CLEAN = {"PATH": "/usr/bin:/bin"}


def headway(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headway.server.cli", *words], env=CLEAN | environ, capture_output=True, text=True, timeout=60, check=False
    )


def test_bad_options_end_with_status_2_and_one_line_each() -> None:
    done = headway("serve", "--prot", "1", SM_VLLM_PORT="x")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "headway: error: --prot: unknown option; did you mean --port?",
        "headway: error: environment SM_VLLM_PORT: expected a whole number from 1024 to 65535, got 'x'",
    ]


@pytest.mark.parametrize(
    "words", [["serve", "--prot"], ["serve", "demo", "--show-config"], ["serve", "--help"], ["options"], ["--version"]]
)
def test_nothing_heavy_is_imported_before_the_options_are_valid(words: list[str]) -> None:
    program = (
        "import sys; from headway.server.cli import main; main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'fastapi', 'uvicorn', 'numpy', 'pydantic_settings', 'msgspec', 'zmq'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], env=CLEAN, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_show_config_prints_every_option_with_its_source_and_masks_secrets() -> None:
    done = headway("serve", "demo", "--port", "8081", "--api-key", "s3cret1,s3cret2", "--show-config", SM_MAX_NUM_SEQS="7", HF_TOKEN="hf_t")
    assert done.returncode == 0
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for line in (
        'model: "demo" # MODEL argument',
        "port: 8081 # --port",
        "max-num-seqs: 7 # environment SM_MAX_NUM_SEQS",
        '# api-key: ["***", "***"] # --api-key',
        '# hf-token: "***" # environment HF_TOKEN',
        "block-size: null # default",
    ):
        assert line in lines
    assert all(any(line.removeprefix("# ").startswith(setting.key + ":") for line in lines) for setting in all_settings())
    assert "s3cret" not in done.stdout + done.stderr
    assert "hf_t" not in done.stdout + done.stderr


def test_help_names_every_flag_and_variable_under_its_topic(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    text = capsys.readouterr().out
    for setting in all_settings():
        assert setting.flag in text
        assert "SM_VLLM_" + setting.name.upper() in text
    assert [text.index(f"\n{title}\n") for title in ("Model", "KV cache", "Scheduler", "Network", "Security", "Logs")]
    assert max(map(len, text.splitlines())) <= 140


def test_help_searches() -> None:
    assert "--api-key" in help_text("api_key")
    assert "--port" not in help_text("api_key")
    assert help_text("nosuchword").splitlines()[-1].startswith("No option has 'nosuchword' in its name or its meaning; ")


def test_a_page_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["options", "nowhere/page.md"]) == 2
    sentence = "options: the page nowhere/page.md can't be brought up to date: No such file or directory"
    assert capsys.readouterr().err == f"headway: error: {sentence}\n"


def test_version_and_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"headway {__version__}\n"
    assert main(["serv"]) == 2
    assert capsys.readouterr().err == "headway: error: serv: unknown command; did you mean serve?\n"


def test_options_table_in_the_docs_is_current() -> None:
    current = (ROOT / "docs" / "options.md").read_text()
    assert current == docs_table(), "run `make docs`"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_tables_on_the_pages_are_current(page: Path) -> None:
    assert page.read_text() == filled(page.read_text()), "run `make docs`"


def test_every_topic_has_its_table_on_a_page() -> None:
    shown = {topic for page in (ROOT / "docs").glob("*.md") for topic in topics_on(page.read_text())}
    assert shown == set(ServerConfig.model_fields)


def test_marks_on_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n\n<!-- options: security lora -->\nold\n<!-- /options -->\n\nend\n")
    assert main(["options", str(page)]) == 0
    first = page.read_text()
    assert first.startswith("# A\n\n<!-- options: security lora -->\n\n| flag |")
    assert first.endswith("|\n\n<!-- /options -->\n\nend\n")
    assert "`--api-key`" in first
    assert "`--enable-lora`" in first
    assert "`--port`" not in first
    assert "old" not in first
    assert main(["options", str(page)]) == 0
    assert page.read_text() == first


@pytest.mark.parametrize("text", ["<!-- options: colour -->\n<!-- /options -->", "<!-- options: network -->\nno end"])
def test_marks_that_can_t_be_filled(text: str) -> None:
    with pytest.raises(ConfigError):
        filled(text)
