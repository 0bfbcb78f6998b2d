"""What a command about a container takes from its own command line and environment."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import pytest

from headway.container.settings import Settings, add_arguments, parse_arguments, read_settings
from headway.server.errors import ConfigError


def settings_of(*argv: str, environ: Mapping[str, str] | None = None) -> Settings:
    parser = argparse.ArgumentParser(prog="headway tool", allow_abbrev=False)
    add_arguments(parser)
    parser.add_argument("--json", action="store_true")
    return read_settings(parse_arguments(parser, argv), environ or {})


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("serve", "demo"), ("serve", "demo")),
        (("demo", "--json", "--", "--max-num-seqs", "3"), ("demo", "--max-num-seqs", "3")),
        (("--", "demo", "--", "x"), ("demo", "--", "x")),
        ((), ()),
    ],
)
def test_words_stand_free_or_behind_two_dashes(argv: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert settings_of(*argv).words == words


def test_an_option_of_the_server_before_the_dashes_is_told_where_it_belongs() -> None:
    with pytest.raises(ConfigError, match=r"^--max-num-seqs: no option of `headway tool`.*`-- --max-num-seqs \.\.\.`$"):
        settings_of("demo", "--max-num-seqs", "3")


def test_a_containers_variables_are_given_or_those_of_this_process(tmp_path: Path) -> None:
    machine = {"SM_VLLM_PORT": "1", "HF_TOKEN": "t", "PATH": "/bin"}
    assert settings_of(environ=machine).environ == {"SM_VLLM_PORT": "1", "HF_TOKEN": "t"}
    (tmp_path / "env").write_text("# a comment\nSM_VLLM_PORT=2\nHF_TOKEN\nABSENT\n")
    file = ("--env-file", str(tmp_path / "env"))
    assert settings_of(*file, environ=machine).environ == {"SM_VLLM_PORT": "2", "HF_TOKEN": "t"}
    assert settings_of(*file, "-e", "SM_VLLM_PORT=3", environ=machine).environ["SM_VLLM_PORT"] == "3"
    # What this process has and the container is not given does not count.
    assert settings_of("-e", "SM_VLLM_MODEL=demo", environ=machine).resolve().config.network.port == 8080


@pytest.mark.parametrize("argv", [("-e", "A B=1"), ("-e", "=1"), ("--env-file", "/nowhere/env")])
def test_broken_pairs_are_one_sentence(argv: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of(*argv)
    assert len(caught.value.problems) == 1


def test_the_directory_stands_for_the_containers(tmp_path: Path) -> None:
    given = settings_of("--model-dir", str(tmp_path))
    assert given.name_here("/opt/ml/model/inner") == str(tmp_path / "inner")
    assert given.name_here("/opt/ml/models") == "/opt/ml/models"
    assert given.name_here("s3://bucket/x/") == "s3://bucket/x/"
    assert settings_of().name_here("/opt/ml/model") == "/opt/ml/model"


def test_problems_and_the_options_that_could_be_understood_come_together(tmp_path: Path) -> None:
    given = settings_of(
        "-e", "SM_VLLM_PORT=many", "-e", "SM_VLLM_MAX_NUM_SEQS=7", "-e", "SAGEMAKER_MULTI_MODEL=true", "--model-dir", str(tmp_path)
    )
    resolved, problems = given.examine()
    assert resolved.config.scheduler.max_num_seqs == 7
    assert [problem.split(":")[0] for problem in problems] == [
        "environment SM_VLLM_PORT",
        "no model is found",
        "environment SAGEMAKER_MULTI_MODEL",
    ]
    with pytest.raises(ConfigError) as caught:
        given.resolve()
    assert caught.value.problems == problems
