"""One device: the model on it, the KV pages beside it, and how much memory each takes."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor

from headway.kernels.kv_cache import INT8, int8_blocks
from headway.server.config.lora import LoraConfig
from headway.server.config.plan import Plan
from headway.server.distributed.pipeline import ONE_STAGE, PipelineGroup
from headway.server.distributed.sequence_share import SequenceShare
from headway.server.engine.device import give_back_memory
from headway.server.engine.draw import warm_up_choice
from headway.server.engine.executor.base import Runner
from headway.server.engine.expert_balancing import ExpertBalancer
from headway.server.engine.graphs import Compute, DecodeGraphs
from headway.server.engine.host_copies import HostCopies
from headway.server.engine.lora import AdapterSlots
from headway.server.engine.pooling.inputs import Piece, forward_batch
from headway.server.engine.resident import Resident
from headway.server.engine.stage_port import StagePort
from headway.server.engine.structured.compiler import GrammarCompiler
from headway.server.errors import ModelSourceError
from headway.server.layers.forward import ForwardBatch, LayerKV
from headway.server.machine import keep_freed_memory, trim_heap, zeroed_memory
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
        graphs: DecodeGraphs | None = None,
        pipeline: PipelineGroup = ONE_STAGE,
        balancer: ExpertBalancer | None = None,
        dealt: SequenceShare | None = None,
    ) -> None:
        """``load`` gives the same model whenever it is called: a worker that slept may need it anew. ``load_tokenizer`` is called when
        the first grammar comes; None: no request has one. ``graphs`` are recorded when the model and the pages are there. ``pipeline``
        has the stage that is loaded. ``balancer`` gets each model that is. ``dealt``: see AdapterSlots."""
        self._load = load
        self._loaded: LoadedModel | None = load()
        self._plan = plan
        self.adapters: AdapterSlots | None = None
        if lora.enable_lora:
            dtype: torch.dtype = getattr(torch, plan.adapter_dtype)
            self.adapters = AdapterSlots(self.loaded, lora, plan.max_num_seqs, dtype=dtype, device=device, dealt=dealt)
        self._balancer = balancer
        if balancer is not None:
            balancer.attach(self.loaded.model)
        self.grammars: GrammarCompiler | None = None
        if load_tokenizer is not None:
            self.grammars = GrammarCompiler(load_tokenizer, self.loaded.config.vocab_size)
        self._graphs = graphs
        self._device = device
        hidden_size = self.loaded.config.hidden_size
        self.port = StagePort(pipeline, plan.max_num_batched_tokens, hidden_size, dtype=self.dtype, device=device)
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
        whole, rest = divmod(plan.max_num_batched_tokens, plan.max_model_len)
        query_lens = [1] * (rest == 1) + [plan.max_model_len] * whole + [rest] * (rest > 1)
        pages = self._pages_for(query_lens)
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        self._forward_dummy(self.loaded.model, pages, query_lens)
        peak = torch.cuda.max_memory_allocated(self._device) - before + logits_bytes(plan, num_outputs)
        del pages
        gc.collect()
        torch.cuda.empty_cache()
        return peak

    def measure_graphs(self) -> int:
        """Bytes that ``record_graphs`` will take."""
        return 0 if self._graphs is None else self._graphs.measure(self._compute(self._allocate(1)))

    def start(self, num_blocks: int, make_runner: Callable[[Resident], Runner] | None = None) -> None:
        """Without ``make_runner`` another worker's runner computes with what is resident here."""
        self._num_blocks = num_blocks
        self._resident = Resident(self.loaded.model, self._allocate(num_blocks), self._probe)
        self._runner = make_runner(self._resident) if make_runner is not None else None

    def warm_up(self) -> None:
        """The first calls choose and compile kernels; better now than under the first request."""
        longest = min(16, self._plan.max_num_batched_tokens, self._plan.max_model_len)
        for query_lens in ([1], [longest], [1, longest - 1]) if longest > 1 else ([1],):
            self._forward_dummy(self.loaded.model, self._pages_for(query_lens), query_lens)
        if self._device.type == "cuda" and self.port.is_last:
            warm_up_choice(self._config.vocab_size, self._device)
        # What loading freed in pieces: of the demo model in 8 bits up to 250 MB, given back within 10 ms (2026-11).
        trim_heap()
        if self._device.type == "cpu":
            keep_freed_memory()

    def record_graphs(self) -> None:
        """After ``start`` and each time that weights or pages have moved; does nothing while either is away."""
        if self._graphs is not None and self._loaded is not None and self._copies is None and self.resident.kv:
            self._graphs.record(self._compute(self.resident.kv))

    def _compute(self, kv: list[LayerKV]) -> Compute:
        model = self.loaded.model

        @torch.inference_mode()
        def compute(token_ids: Tensor, batch: ForwardBatch) -> Tensor:
            return model.forward(self.port.inputs(token_ids), kv, batch)

        return compute

    def sleep(self, level: int) -> None:
        """See Executor.sleep. On a CPU level 1 frees the cache only: its weights are in the host's memory as it is. Adapters are kept at
        every level, since their files may be gone; a GPU's go to the host's memory. Graphs,
        which hold addresses, are dropped."""
        if self._device.type != "cpu" and self._copies is None:
            moved = [self._loaded.model.tensors()] if level == 1 and self._loaded is not None else []
            self._copies = HostCopies(chain(*moved, self.adapters.tensors() if self.adapters is not None else ()))
        if level == 2:
            self._loaded = None
            self.resident.give_model(None)
            if self._balancer is not None:
                self._balancer.detach()
        self.resident.kv = []
        if self._graphs is not None:
            self._graphs.drop()
        give_back_memory(self._device)

    def wake_weights(self) -> None:
        """Raises ModelSourceError, and whatever else loading raises; then nothing has changed."""
        if self._loaded is None:
            loaded = self._load()
            if loaded.config != self._config:
                raise ModelSourceError("The model's files have changed to another model's since the start: start the server again.")
            if self.adapters is not None:
                self.adapters.attach(loaded.model)
            if self._balancer is not None:
                self._balancer.attach(loaded.model)
            self.resident.give_model(loaded.model)
            self._loaded = loaded
            trim_heap()
        if self._copies is not None:
            self._copies.restore()
            self._copies = None
        self.record_graphs()

    def wake_cache(self) -> None:
        self.resident.kv = self._allocate(self._num_blocks)
        try:
            self.record_graphs()
        except BaseException:
            self.resident.kv = []
            raise

    def _allocate(self, num_blocks: int) -> list[LayerKV]:
        spec = self._kv_spec
        if self._kv_dtype == INT8:
            page = self._plan.page_size, spec.num_kv_heads, spec.head_dim
            keys_and_values = ((self._pages(int8_blocks(num_blocks, *page)) for _ in range(2)) for _ in range(spec.num_layers))
            return [LayerKV.of_int8_blocks(k, v, *page) for k, v in keys_and_values]
        shape = (num_blocks, self._plan.page_size, spec.num_kv_heads, spec.head_dim)
        keys = [self._pages(shape) for _ in range(spec.num_layers)]
        return [LayerKV(k, k if spec.shares_values else self._pages(shape)) for k in keys]

    def _pages(self, shape: tuple[int, ...]) -> Tensor:
        """Zeroed, so that no stray NaN poisons a masked read; on a CPU the system maps each page when it is first written."""
        num_bytes = math.prod(shape) * self._kv_dtype.itemsize
        if self._device.type != "cpu":
            zeros = torch.zeros(num_bytes, dtype=torch.uint8, device=self._device)
        else:
            zeros = torch.frombuffer(zeroed_memory(num_bytes), dtype=torch.uint8)
        return zeros.view(self._kv_dtype).view(shape)

    def _pages_for(self, query_lens: list[int]) -> list[LayerKV]:
        return self._allocate(sum(-(-length // self._plan.page_size) for length in query_lens))

    def _probe(self, model: Model) -> None:
        self._forward_dummy(model, self._pages_for([1]), [1])

    @torch.inference_mode()
    def _forward_dummy(self, model: Model, pages: list[LayerKV], query_lens: list[int]) -> None:
        """Rows of so many tokens, those with one first, in ``pages`` made for them."""
        token_ids, batch = forward_batch([Piece([0] * length) for length in query_lens], self._plan.page_size, self._device)
        hidden = model.forward(self.port.inputs(token_ids), pages, batch)
        if self.port.is_last:
            for num_outputs in range(1, min(len(hidden), 2) + 1):  # one row has a kernel of its own
                model.logits(hidden[-num_outputs:])

    def release(self) -> None:
        self._runner = self._resident = None
        if self._graphs is not None:
            self._graphs.drop()
