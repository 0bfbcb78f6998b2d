"""One device: the model on it, the KV pages beside it, and how much memory each takes."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from headway.server.config.lora import LoraConfig
from headway.server.config.plan import Plan
from headway.server.engine.device import give_back_memory
from headway.server.engine.executor.base import Runner
from headway.server.engine.host_copies import HostCopies
from headway.server.engine.lora import AdapterSlots
from headway.server.engine.resident import Resident
from headway.server.engine.structured.compiler import GrammarCompiler
from headway.server.errors import ModelSourceError
from headway.server.layers.forward import ForwardBatch, LayerKV
from headway.server.machine import trim_heap
from headway.server.models.base import LoadedModel, Model
from headway.server.sizing.memory import bytes_per_block, cpu_step_bytes, logits_bytes
from headway.server.text.tokenizer import Tokenizer


class Worker:
    """Holds a device's tensors. Start: construct (weights are loaded), ``measure_activations``, ``start``."""

    def __init__(
        self,
        load: Callable[[], LoadedModel],
        plan: Plan,
        device: torch.device,
        lora: LoraConfig,
        load_tokenizer: Callable[[], Tokenizer] | None = None,
    ) -> None:
        """``load`` gives the same model whenever it is called: a worker that slept may need it anew. ``load_tokenizer`` is called when
        the first grammar comes; None: no request has one."""
        self._load = load
        self._loaded: LoadedModel | None = load()
        self.adapters: AdapterSlots | None = None
        if lora.enable_lora:
            self.adapters = AdapterSlots(self.loaded, lora, plan.max_num_seqs, dtype=getattr(torch, plan.dtype), device=device)
        self.grammars: GrammarCompiler | None = None
        if load_tokenizer is not None:
            self.grammars = GrammarCompiler(load_tokenizer, self.loaded.config.vocab_size)
        self._plan = plan
        self._device = device
        self._kv_dtype: torch.dtype = getattr(torch, plan.kv_cache_dtype)
        self._resident: Resident | None = None
        self._runner: Runner | None = None
        self._num_blocks = 0
        self._config, self._kv_spec = self.loaded.config, self.loaded.model.kv_spec
        self._copies: HostCopies | None = None  # of what left the device for a sleep

    @property
    def loaded(self) -> LoadedModel:
        assert self._loaded is not None, "the weights are discarded"
        return self._loaded

    @property
    def runner(self) -> Runner:
        assert self._runner is not None, "start() comes first"
        return self._runner

    @property
    def resident(self) -> Resident:
        assert self._resident is not None, "start() comes first"
        return self._resident

    @property
    def dtype(self) -> torch.dtype:
        """Of activations."""
        dtype: torch.dtype = getattr(torch, self._plan.dtype)
        return dtype

    @property
    def bytes_per_block(self) -> int:
        """Of all layers, keys and values."""
        return bytes_per_block(self._kv_spec, self._plan)

    def measure_activations(self, num_outputs: int) -> int:
        """Peak bytes that the largest step needs beside weights and cache: run on a GPU, estimated on a CPU. ``num_outputs``: of a
        request in a step."""
        config, plan = self.loaded.config, self._plan
        if self._device.type != "cuda":
            return cpu_step_bytes(config, plan, num_outputs)
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        self._forward_dummy(self.loaded.model, plan.max_num_batched_tokens)
        peak = torch.cuda.max_memory_allocated(self._device) - before + logits_bytes(plan, num_outputs)
        gc.collect()
        torch.cuda.empty_cache()
        return peak

    def start(self, num_blocks: int, make_runner: Callable[[Resident], Runner]) -> None:
        self._num_blocks = num_blocks
        self._resident = Resident(self.loaded.model, self._allocate(num_blocks), lambda model: self._forward_dummy(model, 1))
        self._runner = make_runner(self._resident)

    def warm_up(self) -> None:
        """The first calls choose and compile kernels; better now than under the first request."""
        for num_tokens in (1, min(16, self._plan.max_num_batched_tokens)):
            self._forward_dummy(self.loaded.model, num_tokens)
        # What loading freed in pieces: of the demo model in 8 bits up to 250 MB, given back within 10 ms (2026-11).
        trim_heap()

    def sleep(self, level: int) -> None:
        """See Executor.sleep. On a CPU level 1 frees the cache only: its weights are in the host's memory as it is. Adapters are kept at
        every level, since their files may be gone; a GPU's go to the host's memory."""
        if self._device.type != "cpu" and self._copies is None:
            moved = [self._loaded.model.tensors()] if level == 1 and self._loaded is not None else []
            self._copies = HostCopies(chain(*moved, self.adapters.tensors() if self.adapters is not None else ()))
        if level == 2:
            self._loaded = None
            self.resident.give_model(None)
        self.resident.kv = []
        give_back_memory(self._device)

    def wake_weights(self) -> None:
        """Raises ModelSourceError, and whatever else loading raises; then nothing has changed."""
        if self._loaded is None:
            loaded = self._load()
            if loaded.config != self._config:
                raise ModelSourceError("The model's files have changed to another model's since the start: start the server again.")
            if self.adapters is not None:
                self.adapters.attach(loaded.model)
            self.resident.give_model(loaded.model)
            self._loaded = loaded
        if self._copies is not None:
            self._copies.restore()
            self._copies = None

    def wake_cache(self) -> None:
        self.resident.kv = self._allocate(self._num_blocks)

    def _allocate(self, num_blocks: int) -> list[LayerKV]:
        spec = self._kv_spec
        shape = (num_blocks, self._plan.block_size, spec.num_kv_heads, spec.head_dim)
        return [LayerKV(self._pages(shape), self._pages(shape)) for _ in range(spec.num_layers)]

    def _pages(self, shape: tuple[int, ...]) -> Tensor:
        """Zeroed, so that no stray NaN poisons a masked read; on a CPU the system maps each page when it is first written."""
        if self._device.type != "cpu":
            return torch.zeros(shape, dtype=self._kv_dtype, device=self._device)
        num_bytes = math.prod(shape) * self._kv_dtype.itemsize
        return torch.from_numpy(np.zeros(num_bytes, dtype=np.uint8)).view(self._kv_dtype).view(shape)

    @torch.inference_mode()
    def _forward_dummy(self, model: Model, num_tokens: int) -> None:
        """One row of ``num_tokens``, which may be longer than the context, in a cache made for it."""
        block_size = self._plan.block_size
        num_blocks = -(-num_tokens // block_size)
        tokens = torch.arange(num_tokens, device=self._device)
        batch = ForwardBatch(
            positions=tokens % self._plan.max_model_len,
            slot_mapping=tokens,
            query_start_loc=torch.tensor([0, num_tokens], dtype=torch.int32, device=self._device),
            seq_lens=torch.tensor([num_tokens], dtype=torch.int32, device=self._device),
            block_tables=torch.arange(num_blocks, dtype=torch.int32, device=self._device)[None],
            num_decodes=int(num_tokens == 1),
            max_query_len=num_tokens,
            max_seq_len=num_tokens,
            logits_indices=tokens[-1:],
            query_lens=[num_tokens],
            seq_lens_host=[num_tokens],
        )
        hidden = model.forward(torch.zeros_like(tokens), self._allocate(num_blocks), batch)
        model.logits(hidden[batch.logits_indices])

    def release(self) -> None:
        self._runner = self._resident = None
