"""PID 1 of the image: environment variables -> options -> exec of the server, or of `headway check`. Also `headway entrypoint`."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from headway.server.errors import ConfigError
from headway.server.say import announce, say
from headway.server.signals import EarlyStop, hold_back_signals


def main(argv: Sequence[str] | None = None) -> int:
    """Replace this process by the server; return an exit status only when that can't be done or help was asked for."""
    EarlyStop().install()
    words = list(sys.argv[1:] if argv is None else argv)
    gc.disable()  # 9 of 133 ms up to the exec (2 cores, 2026-11); this process is soon replaced
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # there are none; looking for them takes 3 ms
    # exec, not a child: the server becomes PID 1 and gets SIGTERM itself.
    server = [sys.executable, "-m", "headway.server.cli"]
    if words[:1] == ["check"]:
        _become([*server, *words], os.environ)
    if any(word in ("-h", "--help", "--version") or word.startswith("--help=") for word in words):
        asked = ["--version"] if "--version" in words else ["serve", *(w for w in words if w.startswith(("-h", "--help")))]
        _become([*server, *asked], os.environ)
    try:
        # Here, since these take 0.1 s that --help and --version need not wait for.
        from headway.entrypoint.argv import server_arguments
        from headway.entrypoint.banner import banner
        from headway.entrypoint.drivers import judge
        from headway.entrypoint.environment import read_options
        from headway.entrypoint.handover import environment_for_server
        from headway.entrypoint.platform import read_platform
        from headway.entrypoint.sagemaker import listener_problems, listener_warnings
        from headway.entrypoint.secrets import key_warnings
        from headway.server.config.show import show_config

        resolved = read_options(words, os.environ)
    except ConfigError as error:
        return _refuse(error.problems)
    as_json = resolved.config.logs.is_json
    host = read_platform(os.environ)
    device = judge(resolved.config.model.device, host.gpus, host.torch)
    announce(banner(resolved, host), as_json)
    found = (*resolved.warnings, *key_warnings(resolved, os.environ), *listener_warnings(resolved.config, os.environ), *device.warnings)
    for warning in found:
        say("warning", warning, as_json)
    if resolved.show_config:  # here, where it is known which variable gave what
        sys.stdout.write(show_config(resolved))
        return 0
    if problems := [*listener_problems(resolved.config, os.environ), *device.problems]:
        return _refuse(problems, as_json)
    try:
        _become([*server, *server_arguments(resolved)], environment_for_server(resolved, os.environ))
    except (OSError, ValueError) as error:  # too much for execve in all, or a character that no command line can hold
        return _refuse([f"the server can't be started with these options: {error}"], as_json)


def _refuse(problems: Sequence[str], as_json: bool = False) -> int:
    for problem in problems:
        say("error", problem, as_json)
    return 2


def _become(command: list[str], environ: Mapping[str, str]) -> NoReturn:
    hold_back_signals()
    # Nothing that a library prints may wait in a buffer: a killed container would lose it.
    os.execvpe(command[0], command, {"PYTHONUNBUFFERED": "1", **environ})


if __name__ == "__main__":
    sys.exit(main())
