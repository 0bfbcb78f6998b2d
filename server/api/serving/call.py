"""What the transport tells about a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headway.server.api.deadline import Deadline
from headway.server.api.protocol.base import GenerationFields
from headway.server.api.protocol.pooling import PoolingFields
from headway.server.api.request_record import RequestRecord

if TYPE_CHECKING:
    from headway.server.api.request_span import RequestSpan


@dataclass(frozen=True, slots=True)
class Call:
    """``num_bytes``: the body's size. ``deadline`` knows when the request arrived, too. ``span``: None where nothing is traced.

    ``adapter``: the name of one that was asked for beside the body; it goes before the body's model. ``record``: of the HTTP request.
    ``owner``: whose it is, and what is kept of it (auth.owner_of).
    """

    request_id: str
    is_id_given: bool  # by the client, beside the body
    num_bytes: int
    deadline: Deadline
    span: RequestSpan | None
    adapter: str | None
    record: RequestRecord
    owner: bytes = b""

    def id_of(self, request: GenerationFields | PoolingFields) -> str:
        """The client's X-Request-Id goes before the body's request_id, and that before a fresh one."""
        return self.request_id if self.is_id_given else request.request_id or self.request_id
