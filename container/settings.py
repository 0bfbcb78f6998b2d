"""What a container would be given, its environment and the words after the image's name, and the options that come of it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headway.container.limits import VARIABLE_NAME
from headway.entrypoint.environment import examine_options
from headway.entrypoint.foreign import model_directory
from headway.server.config.sources import Resolved
from headway.server.errors import ConfigError

# Of this process' environment, what a deployment would carry; the rest (PATH, HOME, AWS credentials) is the machine's own.
CARRIED = ("SM_", "SAGEMAKER_", "HF_", "VLLM_", "HEADWAY_")


@dataclass(frozen=True, slots=True)
class Settings:
    """``environ`` is the container's own; ``machine`` is that of this process, where the region and credentials for references stand."""

    environ: Mapping[str, str]
    words: tuple[str, ...]
    model_directory: Path | None
    machine: Mapping[str, str]

    def resolve(self) -> Resolved:
        """What ``examine`` finds. Raises ConfigError with every problem."""
        resolved, problems = self.examine()
        if problems:
            raise ConfigError(problems)
        return resolved

    def examine(self) -> tuple[Resolved, list[str]]:
        """The effective options, as the entrypoint would have them, and a sentence for each problem with them."""
        own = {name: value for name, value in self.machine.items() if not name.startswith(CARRIED)}
        return examine_options(self.words, {**own, **self.environ}, self.model_directory)

    @property
    def place_here(self) -> Path:
        """Where the container would find a model that nothing names, as it is on this machine."""
        return self.model_directory or model_directory(self.environ)

    def name_here(self, name: str) -> str:
        """A model's name as it is on this machine: --model-dir stands for the place where the container finds models."""
        place = model_directory(self.environ)
        if self.model_directory is None or not Path(name).is_relative_to(place):
            return name
        return str(self.model_directory / Path(name).relative_to(place))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every command about a container has."""
    add_variable_arguments(parser)
    parser.add_argument("words", nargs="*", metavar="WORD", help="Words after the image's name: `-- serve MODEL --max-model-len 4096`.")


def add_variable_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of a command that chooses the words itself."""
    group = parser.add_argument_group("the container")
    group.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE", help="A variable of the container, repeated.")
    group.add_argument("--env-file", action="append", default=[], metavar="FILE", help="Lines NAME=VALUE, as for docker.")
    group.add_argument("--model-dir", type=Path, metavar="DIR", help="What the container would find at /opt/ml/model.")


def parse_arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """What ``parser``, which has add_arguments' options, makes of ``argv``; all behind `--` are words. Raises ConfigError."""
    border = argv.index("--") if "--" in argv else len(argv)
    given, unknown = parser.parse_known_args(list(argv[:border]))
    if unknown:
        raise ConfigError(
            [f"{unknown[0]}: no option of `{parser.prog}`, which has --help; the server's own stand behind --, as in `-- {unknown[0]} ...`"]
        )
    given.words += argv[border + 1 :]
    return given


def read_settings(given: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    """With neither --env nor --env-file the variables of this process count that a container would be given. Raises ConfigError."""
    if given.env or given.env_file:
        named = dict(pair for path in given.env_file for pair in _file_pairs(path, environ))
        named |= dict(pair for word in given.env for pair in _pairs(word, environ, "--env"))
    else:
        named = {name: value for name, value in environ.items() if name.startswith(CARRIED)}
    return Settings(named, tuple(given.words), given.model_dir, environ)


def _file_pairs(path: str, environ: Mapping[str, str]) -> list[tuple[str, str]]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"--env-file {path} can't be read: {getattr(error, 'strerror', None) or 'it is no UTF-8 text'}"]) from error
    texts = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")]
    return [pair for number, line in texts for pair in _pairs(line, environ, f"{path}, line {number}")]


def _pairs(text: str, environ: Mapping[str, str], place: str) -> list[tuple[str, str]]:
    """NAME=VALUE, or NAME alone for this process' value (none if it is not set), as docker has it."""
    name, equals, value = text.partition("=")
    name = name.strip()
    if not VARIABLE_NAME.fullmatch(name):
        raise ConfigError([f"{place}: expected NAME=VALUE, and a name of letters, digits and underscores; got {name!r}"])
    if equals:
        return [(name, value)]
    return [(name, environ[name])] if name in environ else []
