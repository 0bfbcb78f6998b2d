"""The bodies of the routes that register, change and remove adapters."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from headway.server.api.protocol.base import RequestModel, shown_with
from headway.server.errors import RequestError

_MAX_NAME = 1000
_MAX_SRC = 4096


class RegisterAdapterRequest(RequestModel):
    """POST /adapters: SageMaker's, for an adapter inference component."""

    model_config = shown_with({"name": "sql", "src": "/opt/ml/model/adapters/sql"})

    name: str = Field(min_length=1, max_length=_MAX_NAME)
    src: str = Field(min_length=1, max_length=_MAX_SRC, description="Its directory: an absolute path or a file:// address.")
    preload: bool = Field(True, description="Load it now; else with its first request.")
    pin: bool = Field(False, description="Keep it in memory; it is then loaded now.")


class UpdateAdapterRequest(RequestModel):
    """POST /adapters/{name}/update. What is left out stays as it is."""

    model_config = shown_with({"pin": True})

    src: str | None = Field(None, min_length=1, max_length=_MAX_SRC, description="Read the weights from here, anew if it is the old place.")
    preload: bool | None = None
    pin: bool | None = None

    def check(self) -> None:
        if self.src is None and self.preload is None and self.pin is None:
            raise RequestError("There is nothing to update; give src, preload or pin.", "src")


class LoadLoraAdapterRequest(RequestModel):
    """POST /v1/load_lora_adapter, vLLM's."""

    model_config = shown_with({"lora_name": "sql", "lora_path": "/opt/ml/model/adapters/sql"})

    lora_name: str = Field(min_length=1, max_length=_MAX_NAME)
    lora_path: str = Field(min_length=1, max_length=_MAX_SRC)
    load_inplace: bool = Field(False, description="Replace an adapter of that name.")

    REFUSED: ClassVar[dict[str, tuple[Any, ...]]] = {"is_3d_lora_weight": (False,)}


class UnloadLoraAdapterRequest(RequestModel):
    """POST /v1/unload_lora_adapter, vLLM's."""

    model_config = shown_with({"lora_name": "sql"})

    lora_name: str = Field(min_length=1, max_length=_MAX_NAME)

    REFUSED: ClassVar[dict[str, tuple[Any, ...]]] = {"lora_int_id": ()}
