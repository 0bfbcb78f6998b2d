"""PID 1 of the image: environment variables -> options -> exec of the server. Also `headway entrypoint`."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from headway.server.errors import ConfigError


def main(argv: Sequence[str] | None = None) -> int:  # noqa: RET503 - _become does not return
    """Replace this process by the server; return an exit status only when that can't be done or help was asked for."""
    words = list(sys.argv[1:] if argv is None else argv)
    gc.disable()  # 12 of 170 ms here; this process is soon replaced
    # exec, not a child: the server becomes PID 1 and gets SIGTERM itself.
    server = [sys.executable, "-m", "headway.server.cli"]
    if any(word in ("-h", "--help", "--version") or word.startswith("--help=") for word in words):
        asked = ["--version"] if "--version" in words else ["serve", *(w for w in words if w.startswith(("-h", "--help")))]
        _become([*server, *asked], os.environ)
    try:
        # Here, since these take 0.1 s that --help and --version need not wait for.
        from headway.entrypoint.argv import server_arguments
        from headway.entrypoint.banner import banner
        from headway.entrypoint.environment import read_options
        from headway.entrypoint.secrets import environment_for_server, key_warnings, what_server_would_lose

        resolved = read_options(words, os.environ)
        arguments, environment = server_arguments(resolved), environment_for_server(resolved, os.environ)
        if problems := what_server_would_lose(resolved, arguments, environment):
            raise ConfigError(problems)
    except ConfigError as error:
        sys.stderr.writelines(f"headway: error: {problem}\n" for problem in error.problems)
        return 2
    sys.stderr.writelines(f"headway: warning: {warning}\n" for warning in (*resolved.warnings, *key_warnings(resolved, os.environ)))
    sys.stderr.write(banner(resolved))
    sys.stderr.flush()
    _become([*server, *arguments], environment)


def _become(command: list[str], environ: Mapping[str, str]) -> NoReturn:
    os.execvpe(command[0], command, environ)


if __name__ == "__main__":
    sys.exit(main())
