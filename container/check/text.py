"""What a check found, for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from headway import __version__
from headway.container.check.fit import FitReport
from headway.container.check.model_look import ModelLook
from headway.container.check.report import Report, contexts_of
from headway.container.instances import Instance
from headway.server.config.show import differences
from headway.server.config.sources import Resolved
from headway.server.say import one_line
from headway.server.words import amount, cut, gib, plural

_MAX_VALUE_LENGTH = 120
_MAX_CPU_SIZES = 3


def as_text(report: Report) -> str:
    lines = [f"headway {__version__} check"]
    lines += _section("options that differ from the defaults", _options(report.resolved) if report.resolved else ())
    lines += _section("model", _model(report.look))
    if report.fit:
        lines += _section(f"fit on {report.fit.instance.name} ({_device(report.fit.instance)})", _fit(report.fit))
    if report.look.shape:
        lines += _section("instance types on which it fits, least GPU memory first", _instances(report))
    lines += _section("not checked", report.look.not_checked)
    lines += _section("found", (f"{finding.severity}: {finding.message}" for finding in report.findings))
    lines += ["", f"{plural(report.count('error'), 'error')}, {plural(report.count('warning'), 'warning')}"]
    # A model's files are somebody else's: their texts must not steer a terminal.
    return "\n".join(line and " " * (len(line) - len(line.lstrip(" "))) + one_line(line) for line in lines) + "\n"


def _section(title: str, lines: Iterable[str]) -> list[str]:
    body = [f"  {line}" for line in lines]
    return ["", title, *body] if body else []


def _options(resolved: Resolved) -> Iterator[str]:
    rows = [(setting.key, cut(text, _MAX_VALUE_LENGTH), source) for setting, text, source in differences(resolved)]
    width = max((len(key) for key, _, _ in rows), default=0)
    yield from (f"{key:<{width}}  {text}   ({source})" for key, text, source in rows)


def _model(look: ModelLook) -> Iterator[str]:
    if look.files or look.place:
        yield f"found on     {look.place}{f': {look.files.path}' if look.files else ''}"
    if look.sizes:
        yield f"files        {plural(len(look.sizes), 'file')}, {amount(look.weight_file_bytes)} of weights"
    if look.shape:
        uses = {"generate": "generates text", "embed": "gives vectors", "classify": "gives scores"}
        facts = look.shape.facts
        yield f"is           {look.shape.config.architecture}, {facts.dtype}, {facts.max_model_len} tokens; {uses[look.shape.use]}"


def _fit(fit: FitReport) -> Iterator[str]:
    yield f"memory       {gib(fit.device_bytes)}, of which {gib(fit.reserved_bytes)} are reckoned for what else is there"
    yield from _processes(fit)
    adapters = f", adapters {gib(fit.adapter_bytes, 2)}" if fit.adapter_bytes else ""
    yield f"model        weights {gib(fit.weight_bytes, 2)} in {fit.weight_format}{adapters}, largest step {gib(fit.activation_bytes, 2)}"
    if fit.num_kv_tokens:
        yield f"KV cache     {gib(fit.kv_cache_bytes, 2)}: {fit.num_kv_tokens} tokens in {fit.kv_cache_dtype}"
    if fit.offload_bytes:
        yield f"KV offload   {gib(fit.offload_bytes, 2)} of the host's memory"
    if fit.fits:
        yield f"context      {fit.max_model_len} tokens are served; the longest that would fit: {fit.longest_context}"
        counts = (f"{fit.num_requests(context)} of {context} tokens" for context in contexts_of(fit))
        yield f"requests     at a time: {', '.join(counts)}"
    elif fit.longest_context:
        yield f"context      the longest that would fit: {fit.longest_context}"
    sizes = ", ".join(map(str, fit.tensor_parallel_sizes))
    stages = f"; --pipeline-parallel-size 1 to {fit.most_stages}" if fit.most_stages > 1 else ""
    yield f"parallel     --tensor-parallel-size can be {sizes}{stages}"


def _processes(fit: FitReport) -> Iterator[str]:
    """What takes part in the figures below: engines, and ranks of each."""
    on_gpu = fit.device == "cuda"
    if fit.num_engines > 1:
        where = plural(fit.num_ranks, "GPU") if on_gpu else "its share of that memory"
        yield f"engines      {fit.num_engines}, each with {where}; what follows is of each"
    if fit.num_ranks > 1:
        where = "a GPU" if on_gpu else "an equal part of that memory"
        what = "each" if fit.num_stages == 1 else f"one of the {fit.num_stages} stages, that with the least room"
        yield f"ranks        {fit.num_ranks}, each with {where}; the bytes that follow are of {what}"


def _instances(report: Report) -> Iterator[str]:
    told = _first_of_each(report.fitting)
    for fit in told:
        tokens = f"{fit.num_kv_tokens} tokens of KV cache, " if fit.bytes_per_block else ""
        requests = f"{fit.num_requests(fit.max_model_len)} x {fit.max_model_len} tokens"
        yield f"{fit.instance.name:<20} {_device(fit.instance):<27} {tokens}{requests}"
    if left := len(report.fitting) - len(told):
        yield f"and {left} more, larger or with the same memory; --json names them all"
    if not report.fitting:
        yield "none of those that are known"


def _first_of_each(fitting: Sequence[FitReport]) -> list[FitReport]:
    """The first with each GPU, and before them the first few sizes of CPU instances."""
    first: dict[tuple[str | None, int], FitReport] = {}
    for fit in fitting:
        first.setdefault((fit.instance.gpu, 0 if fit.instance.gpu else fit.instance.memory_bytes), fit)
    on_cpu = [fit for (gpu, _), fit in first.items() if gpu is None]
    return on_cpu[:_MAX_CPU_SIZES] + [fit for (gpu, _), fit in first.items() if gpu]


def _device(instance: Instance) -> str:
    return f"{instance.num_gpus} x {instance.gpu}, {gib(instance.gpu_bytes)}" if instance.gpu else f"CPU, {gib(instance.memory_bytes)}"
