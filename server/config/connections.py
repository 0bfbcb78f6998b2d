"""Options about the connections of clients: how many, how long, how large a request's head."""

from __future__ import annotations

from headway.server.config.fields import Topic, option


class ConnectionsConfig(Topic):
    """Connections."""

    http_keep_alive_s: int = option(
        75,
        "Seconds that a connection stays open between two requests. Longer than the 60 that load balancers keep theirs: of the two it "
        "must not be the server that closes first, while a request is on its way.",
        ge=1,
        environment=("VLLM_HTTP_TIMEOUT_KEEP_ALIVE",),
    )
    h11_max_incomplete_event_size: int = option(
        64 * 1024,
        "Most bytes of a request's path and headers; more are answered 431. Named after another parser; this server has httptools.",
        ge=1024,
        le=16 * 1024 * 1024,
        human=True,
    )
    h11_max_header_count: int = option(256, "Most headers of a request; more are answered 431.", ge=1)
    # The times that nginx has for the same (client_header_timeout, client_body_timeout), and twice its send_timeout.
    client_header_timeout_s: float = option(
        60.0, "Seconds that a client gets for the TLS handshake, and then for a request's path and headers, before it is cut off.", gt=0
    )
    client_body_timeout_s: float = option(60.0, "Seconds that a client gets for the next piece of a request's body.", gt=0)
    client_read_timeout_s: float = option(120.0, "Seconds in which a client must take some of an answer that waits for it.", gt=0)
    max_connections: int | None = option(
        None,
        "Open connections above which a new one is answered 503, but on /ping and /health. Default: seven eighths of the open files that "
        "the process may have.",
        ge=1,
    )
