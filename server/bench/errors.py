"""What keeps a benchmark from being run."""

from headway.server.errors import HeadwayError


class BenchError(HeadwayError):
    """The server, or what was asked of it, can't be measured: one sentence."""
