"""Options about code of the user's own around every request."""

from __future__ import annotations

from headway.server.config.fields import Topic, option


class ExtensionConfig(Topic):
    """Your own code."""

    middleware: list[str] = option(
        [],
        "Dotted paths of async functions (request, call_next) or ASGI classes around every request, the last one outermost; "
        "outside of the API key. The flag may be repeated.",
        repeats=True,
    )
    logits_processors: list[str] = option(
        [],
        "Import paths (package.module:Name) of classes that change the logits of every request, or of functions that a request chooses "
        "by name in `logits_processors`.",
    )
