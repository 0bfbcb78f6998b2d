"""Adapters as inference components."""

from __future__ import annotations

import secrets
from urllib.parse import quote

from headway.container.conformance.check import Clause, Severity, check
from headway.container.conformance.outcome import NotApplicable, Skipped, require
from headway.container.conformance.probe import Probe

_PAGE = "realtime-endpoints-adapt"
_IDENTIFIER = "x-amzn-sagemaker-adapter-identifier"
_ESCAPES = ("../../etc", "/opt/ml/model/../../../etc", "file:///etc", "/etc/passwd")


@check(
    "adapters.life",
    "An adapter is registered, called by its header, and removed",
    Clause(_PAGE, "The platform posts name and src to /adapters, sends the adapter's name with each call, and deletes /adapters/NAME."),
)
def life(probe: Probe) -> None:
    _require_adapters(probe)
    source, name = probe.subject.wishes.adapter, f"conformance-{secrets.token_hex(4)}"
    if source is None:
        raise Skipped("--adapter names no adapter that could be registered")
    status = probe.post("/adapters", {"name": name, "src": source, "preload": True, "pin": False}).status
    require(status == 200, f"POST /adapters is answered {status}")
    try:
        status = probe.invoke(headers={_IDENTIFIER: name}).status
        require(status == 200, f"a call with the adapter's name is answered {status}")
    finally:
        removed = probe.ask("DELETE", f"/adapters/{quote(name)}").status
    require(removed == 200, f"DELETE /adapters/NAME is answered {removed}")
    status = probe.invoke(headers={_IDENTIFIER: name}).status
    require(400 <= status < 500, f"after its removal a call with the adapter's name is answered {status}")


@check("adapters.unknown", "A call with an unknown adapter is a 4xx", Clause(_PAGE, "The header names an adapter that was registered."))
def unknown(probe: Probe) -> None:
    _require_adapters(probe)
    status = probe.invoke(headers={_IDENTIFIER: "conformance-unknown"}).status
    require(400 <= status < 500, f"an unknown adapter is answered {status}")


@check(
    "adapters.remove-unknown",
    "Removing an unknown adapter is a 4xx",
    Clause(_PAGE, "DELETE /adapters/NAME removes what was registered."),
    Severity.SHOULD,
)
def remove_unknown(probe: Probe) -> None:
    _require_adapters(probe)
    status = probe.ask("DELETE", "/adapters/conformance-unknown").status
    require(400 <= status < 500, f"an unknown adapter's removal is answered {status}")


@check(
    "adapters.src",
    "An adapter's src can't leave the directories of models",
    Clause(_PAGE, "src is where the platform put the artifact; whoever reaches the port must not make the server read anything else."),
)
def src(probe: Probe) -> None:
    _require_adapters(probe)
    for source in _ESCAPES:
        status = probe.post("/adapters", {"name": f"conformance-{secrets.token_hex(4)}", "src": source}).status
        require(400 <= status < 500, f"src {source} is answered {status}")


def _require_adapters(probe: Probe) -> None:
    """Raises NotApplicable where the server has no adapters, or was started without them."""
    listed = probe.ask("GET", "/adapters").status
    if listed == 200:
        return
    # Containers that have POST and DELETE alone refuse the request for its missing fields.
    posted = probe.post("/adapters", {}).status if listed in (404, 405) else None
    if posted not in (400, 422, 424):
        raise NotApplicable(f"adapters are not served here: GET /adapters is answered {listed}")
