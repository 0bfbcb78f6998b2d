"""An engine of container/conformance/engines whose containers are processes of stub_container.py."""

from __future__ import annotations

import json
import os
import sys

from ports import claimed_port
from stub_container import FAULT, HOST, PUBLISHED, SCRIPT

from headway.container.conformance.engines.base import Copy, ImageFacts, Start
from headway.container.conformance.engines.process import ProcessCopy
from headway.container.conformance.starts import ping_status


class StubEngine:
    has_networks = True
    isolates = True

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.num_started = 0

    def start(self, start: Start) -> Copy:
        self.num_started += 1
        port = claimed_port()
        host = {"is_read_only": start.is_read_only, "user": start.user, "is_offline": start.is_offline}
        own = {FAULT: self.fault, PUBLISHED: json.dumps({str(start.port): port}), HOST: json.dumps(host)}
        return _StubCopy([sys.executable, str(SCRIPT), *start.words], {**os.environ, **start.environ, **own}, f"http://127.0.0.1:{port}")

    def facts(self) -> ImageFacts:
        entrypoint = ("/bin/sh", "-c", "serve.py") if self.fault == "image.exec-form" else ("/usr/bin/serve",)
        labels = {} if self.fault == "image.label" else {"com.amazonaws.sagemaker.capabilities.accept-bind-to-port": "true"}
        return ImageFacts(entrypoint, labels)

    def close(self) -> None:
        pass


class _StubCopy(ProcessCopy):
    def ping_inside(self) -> int | None:
        return ping_status(self.url)
