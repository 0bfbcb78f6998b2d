"""Config files that are broken, hostile or no files at all: refused in a sentence, and quickly."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from headway.server.config.sources import resolve
from headway.server.config.yaml_document import MAX_CHARS, MAX_NODES
from headway.server.errors import ConfigError

# CPU time. A start that a file holds up for longer is taken for one that hangs; one that waits for a file, the run's time limit ends.
PATIENCE_S = 10


def problems_of(path: Path | str) -> list[str]:
    started = time.process_time()
    with pytest.raises(ConfigError) as caught:
        resolve(["demo", f"--config={path}"], {})
    assert time.process_time() - started < PATIENCE_S
    assert all(len(problem) < 500 and "\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


def problem_of(folder: Path, text: str) -> str:
    path = folder / "options.yaml"
    path.write_text(text)
    (problem,) = problems_of(path)
    return problem.removeprefix(f"--config {path}: ")


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{this}: &{this} [{', '.join([f'*{before}'] * 9)}]\n" for before, this in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "override-generation-config: {<<: [" + ", ".join(["&m {temperature: 1}"] + ["*m"] * (MAX_NODES // 3)) + "]}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (LAUGHS, f"stands for more than {MAX_NODES} values"),
        (MERGES, f"stands for more than {MAX_NODES} values"),
        ("override-generation-config: &a {b: *a}", "has a value that holds itself (line 1)"),
        ("port: " + "[" * 100_000, "is nested too deeply"),
        ("override-generation-config: " + "{a: " * 5000 + "1" + "}" * 5000, "is nested too deeply"),
        ("revision: " + "x" * MAX_CHARS, f"has {MAX_CHARS + 10} characters; a file of options has {MAX_CHARS} at most"),
        ("model: !!python/object/apply:os.system ['true']", "has the tag !!python/object/apply:os.system (line 1)"),
        ("port: 1\nserved-model-name: !!set {a}", "has the tag !!set (line 2)"),
        ("revision: !secret x", "has the tag !secret (line 1)"),
        ("port: 1\n---\nport: 2", "is not valid YAML: but found another document (line 2)"),
        ("port: 1\n\t- x", "is not valid YAML: found character '\\t' that cannot start any token (line 2)"),
        ("host: a\nport: [1", "is not valid YAML: expected ',' or ']', but got '<stream end>' (line 2)"),
        ("port: *nowhere", "is not valid YAML: found undefined alias 'nowhere' (line 1)"),
        ("just words", "must hold a mapping of option names to values"),
        ("[port, 1]", "must hold a mapping of option names to values"),
        ("\x00", "is not valid YAML: unacceptable character #x0000"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_hostile_files(text: str, sentence: str, tmp_path: Path) -> None:
    assert problem_of(tmp_path, text).startswith(sentence)


def test_aliases_and_merges_of_a_reasonable_size_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text(
        "override-generation-config: {<<: &base {temperature: 0.5}, top_k: 1}\nserved-model-name: [&n name, other]\nrevision: *n\n"
    )
    model = resolve(["demo", f"--config={path}"], {}).config.model
    assert model.override_generation_config == {"temperature": 0.5, "top_k": 1}
    assert (model.served_model_name, model.revision) == (["name", "other"], "name")


def test_thousands_of_wrong_keys_are_not_all_told(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("".join(f"max-model-length-{number}: 1\n" for number in range(3000)))
    *told, last = problems_of(path)
    assert len(told) == 20
    assert last == f"--config {path}: has more problems than these; is it a file of options?"


@pytest.mark.parametrize("value", ["false", "true", "null", "1", "[]"])
def test_a_misspelt_key_is_an_error_whatever_its_value(value: str, tmp_path: Path) -> None:
    assert problem_of(tmp_path, f"enable-prefx-caching: {value}").endswith("unknown option; did you mean enable-prefix-caching?")


def test_what_is_no_file(tmp_path: Path) -> None:
    link = tmp_path / "loop.yaml"
    link.symlink_to(link)
    large = tmp_path / "large.yaml"
    with large.open("wb") as file:
        file.truncate(5 * 1024**2)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\xff")
    for path, why in (
        (tmp_path, "Is a directory"),
        (tmp_path / "none.yaml", "No such file or directory"),
        (link, "Too many levels of symbolic links"),
        (large, "it is larger than 4 MiB"),
        ("/dev/zero", "it is larger than 4 MiB"),
        (binary, "it is not UTF-8 text"),
    ):
        assert problems_of(path) == [f"--config: the file {path} can't be read: {why}"]
    # Unreadable even for root, who ignores permissions.
    (problem,) = problems_of("/proc/self/mem")
    assert problem.startswith("--config: the file /proc/self/mem can't be read: ")
