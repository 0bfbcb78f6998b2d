"""Parts of the composition root that work without a server."""

from __future__ import annotations

import resource

from headway.server.launch import allow_many_sockets


def test_the_limit_on_open_files_is_raised_and_never_lowered() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = before[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        allow_many_sockets()
        raised = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert raised[0] > 256
        assert raised[1] == hard
        if raised[0] < hard or hard == resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised[0] + 1, hard))
            allow_many_sockets()
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == raised[0] + 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
