"""The adapters on this device: which one is in which slot of the layers, and which rows of a step have one."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from headway.kernels.lora import prepare_lora
from headway.kernels.plans import LoraPlan
from headway.server.config.lora import LoraConfig
from headway.server.distributed.sequence_share import SequenceShare
from headway.server.engine.rows import LongArray, StepInputs
from headway.server.errors import AdapterError
from headway.server.layers.dealt_prompts import own_tokens
from headway.server.layers.embedding import ParallelLMHead, VocabParallelEmbedding
from headway.server.layers.linear import Linear
from headway.server.layers.lora import UpdateShare
from headway.server.loading.adapter import AdaptedModel, Target, Update, read_adapter
from headway.server.models.base import DecoderConfig, LoadedModel, Model
from headway.server.models.names import EMBEDDING, HEAD
from headway.server.types import AdapterRef

log = logging.getLogger(__name__)

_NONE = -1
_EMBEDDING, _HEAD = EMBEDDING.removesuffix(".weight"), HEAD.removesuffix(".weight")  # layers
_READERS = 2


@dataclass(frozen=True, slots=True)
class _Share:
    """What an adapter adds to a part of a layer."""

    layer: str
    part: str
    update: UpdateShare


class AdapterSlots:
    """Owns the slots, and copies of adapters in the host's memory; gives every linear of the model room for the slots, and its embedding.

    Which adapters these are is decided elsewhere (engine/adapters.py), for all ranks alike. Not thread-safe; adapters come and go between
    steps, and only reading goes on beside them.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        lora: LoraConfig,
        max_rows: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        dealt: SequenceShare | None = None,
    ) -> None:
        """``dealt``: what this rank computes of each prompt; None: all of it."""
        self._dealt = dealt
        self._transform = loaded.transform
        self._max_rank = lora.max_lora_rank
        self._device = device
        self._adapters = {
            name: layer.make_adapters(lora.max_loras, lora.max_lora_rank, dtype=dtype, device=device)
            for name, layer in _adaptable(loaded.model)
        }
        self.attach(loaded.model)
        self._held_against = AdaptedModel(self._find_targets(loaded), _modules_elsewhere(loaded), _tied_modules(loaded), loaded.read_plain)
        self._slot_of: dict[int, int] = {}
        self._head_slots: set[int] = set()  # of adapters that change the head
        self._copies: dict[int, Future[list[_Share]]] = {}
        self._reader = ThreadPoolExecutor(_READERS, thread_name_prefix="adapter-reader")
        self._free = list(range(lora.max_loras - 1, -1, -1))
        self._row_slots = np.full(max_rows, _NONE, dtype=np.int64)
        num_bytes = sum(room.num_bytes for room in self._adapters.values())
        log.info("Room for %d adapters of rank %d or less: %.1f MiB", lora.max_loras, lora.max_lora_rank, num_bytes / 2**20)

    def attach(self, model: Model) -> None:
        """To the first model's successor: the same one, loaded anew."""
        for name, layer in _adaptable(model):
            layer.adapters = self._adapters[name]

    def tensors(self) -> Iterator[Tensor]:
        """All that is on the device."""
        for room in self._adapters.values():
            yield from room.tensors()

    def read(self, adapter: AdapterRef) -> Future[None]:
        """Reads and checks all of it in a thread, into a copy of this rank's share in the host's memory. The future raises AdapterError."""
        assert adapter.id not in self._copies, "an adapter has one copy"
        copy = self._copies[adapter.id] = self._reader.submit(self._read, adapter)
        done: Future[None] = Future()
        copy.add_done_callback(lambda read: _pass_on(read, done))
        return done

    def drop(self, adapter_id: int) -> None:
        """Forgets the copy, read or not."""
        assert adapter_id not in self._slot_of, "an adapter on the device has its copy"
        self._copies.pop(adapter_id).cancel()

    def load(self, adapter_id: int) -> None:
        """From its copy to a free slot; waits for the copy where it is still being read. Raises AdapterError, and nothing has changed."""
        assert adapter_id not in self._slot_of, "it is loaded already"
        assert self._free, "a slot has been freed"
        shares = self._copies[adapter_id].result()
        slot = self._free[-1]
        for room in self._adapters.values():
            room.clear(slot)  # of who had it before, and of a load that broke
        for share in shares:
            self._adapters[share.layer].put(slot, share.part, share.update)
        self._slot_of[adapter_id] = self._free.pop()
        (self._head_slots.add if any(share.layer == _HEAD for share in shares) else self._head_slots.discard)(slot)

    def unload(self, adapter_id: int) -> None:
        """No row may have it. Raises AdapterError if it is not loaded."""
        if adapter_id not in self._slot_of:
            raise AdapterError(f"No adapter with the id {adapter_id} is loaded.")
        self._free.append(self._slot_of.pop(adapter_id))

    def set_row(self, row: int, adapter_id: int | None) -> None:
        """For each row that is added: the adapter of its request, which must be loaded, or None."""
        self._row_slots[row] = _NONE if adapter_id is None else self._slot_of[adapter_id]

    def plan(self, inputs: StepInputs) -> LoraPlan | None:
        """For the tokens of a step that this rank computes; None if no row of the step has an adapter."""
        row_slots = self._row_slots[inputs.rows]
        if (row_slots == _NONE).all():
            return None
        slots, own = np.repeat(row_slots, inputs.query_lens), None
        if self._dealt is not None:
            own = own_tokens(inputs.query_lens, inputs.seq_lens, inputs.num_decodes, self._dealt)
        return prepare_lora(torch.from_numpy(slots if own is None else slots[own]), self._device)

    def plan_head(self, rows: LongArray) -> LoraPlan | None:
        """For hidden states [L, H] of the rows ``rows`` [L] on their way to logits; None if no adapter of theirs changes the head."""
        if not self._head_slots:
            return None
        slots = self._row_slots[rows]
        changes = np.isin(slots, list(self._head_slots))
        if not changes.any():
            return None
        return prepare_lora(torch.from_numpy(np.where(changes, slots, _NONE)), self._device)

    def _read(self, adapter: AdapterRef) -> list[_Share]:
        started = time.monotonic()
        updates = read_adapter(Path(adapter.path), self._held_against, self._max_rank)
        shares = [share for update in updates for share in self._shares(update)]
        log.info("Adapter %s read from %r in %.2f s", adapter.name, adapter.path, time.monotonic() - started)
        return shares

    def _shares(self, update: Update) -> Iterator[_Share]:
        target, a, b = update.target, update.a, update.b
        if self._transform is not None:
            a, b = self._transform.update(f"{target.layer}.weight", a, b)
        first = 0
        for part, num_rows in target.parts:
            yield _Share(target.layer, part, self._adapters[target.layer].share(part, a, b.narrow(0, first, num_rows)))
            first += num_rows

    def _find_targets(self, loaded: LoadedModel) -> dict[str, Target]:
        """Checkpoint's name of a linear, or the embedding -> its place here."""
        targets = {}
        for name in loaded.names:
            for i in range(loaded.config.num_layers) if "{i}" in name.weight else (0,):
                layer, _, kind = name.weight.replace("{i}", str(i)).rpartition(".")
                if kind == "weight" and layer in self._adapters:
                    module = name.checkpoint.replace("{i}", str(i)).removesuffix(".weight")
                    shapes = [(part, self._adapters[layer].shape(part)) for part in name.all_parts]
                    parts = tuple((part, shape[0]) for part, shape in shapes)
                    table = _table_of(layer, loaded) if layer in (_EMBEDDING, _HEAD) else ""
                    targets[module] = Target(layer, parts, shapes[0][1][1], layer == _EMBEDDING, table)
        return targets


def _pass_on(read: Future[list[_Share]], done: Future[None]) -> None:
    if read.cancelled():
        done.cancel()
    elif (problem := read.exception()) is not None:
        done.set_exception(problem)
    else:
        done.set_result(None)


def _table_of(layer: str, loaded: LoadedModel) -> str:
    """The checkpoint's tensor that is the embedding's or the head's table."""
    checkpoint_of = {name.weight: name.checkpoint for name in loaded.names}
    own = checkpoint_of[f"{layer}.weight"]
    # Through transformers an embedding may be none of ours.
    return checkpoint_of.get(EMBEDDING, own) if _is_tied(loaded) else own


def _is_tied(loaded: LoadedModel) -> bool:
    return isinstance(loaded.config, DecoderConfig) and loaded.config.tie_word_embeddings


def _tied_modules(loaded: LoadedModel) -> tuple[str, str] | None:
    modules = {name.weight: name.checkpoint.removesuffix(".weight") for name in loaded.names if name.weight in (EMBEDDING, HEAD)}
    return (modules[EMBEDDING], modules[HEAD]) if _is_tied(loaded) and len(modules) == 2 else None


def _modules_elsewhere(loaded: LoadedModel) -> frozenset[str]:
    """The checkpoint's names of what other stages have, linear or not."""
    num_layers, stage = loaded.config.num_layers, loaded.stage
    others = set(range(num_layers)) - set(stage.layers(num_layers))
    weights = [name.checkpoint for name in loaded.names if "{i}" in name.weight and name.weight.endswith(".weight")]
    modules = {weight.replace("{i}", str(i)).removesuffix(".weight") for weight in weights for i in others}
    tables = [weight for weight, is_here in ((EMBEDDING, stage.is_first), (HEAD, stage.is_last)) if not is_here]
    return frozenset(modules | {name.checkpoint.removesuffix(".weight") for name in loaded.names if name.weight in tables})


def _adaptable(model: Model) -> Iterator[tuple[str, Linear | VocabParallelEmbedding | ParallelLMHead]]:
    for name, layer in model.named_layers():
        if isinstance(layer, Linear) or (isinstance(layer, VocabParallelEmbedding | ParallelLMHead) and name in (_EMBEDDING, _HEAD)):
            yield name, layer
