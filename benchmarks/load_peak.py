"""How fast weights are loaded, and how much memory that takes at its peak: `python benchmarks/load_peak.py --help`.

Makes a random checkpoint of two shards in a temporary directory, loads it in a process of its own and deletes it. The files are in the page
cache then, as they have just been written. Or the demo model, whose embedding is half of what is kept of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from demo_model import demo_files, demo_gguf

from headway.server.distributed.groups import SINGLE
from headway.server.loading.loader import Quantization, load_model
from headway.server.machine import trim_heap
from headway.server.source.files import ModelFiles

HIDDEN, INTERMEDIATE, VOCABULARY, HEADS, KV_HEADS = 1024, 2816, 16384, 16, 4
_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
_QUANTIZED: dict[str, Quantization] = {"int8": "int8", "int4": "int4", "gguf": "gguf"}
_DEMO = "demo"
_KV = HIDDEN // HEADS * KV_HEADS
_LAYER = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (_KV, HIDDEN),
    "self_attn.v_proj": (_KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
    "input_layernorm": (HIDDEN,),
    "post_attention_layernorm": (HIDDEN,),
}
_POLL_S = 0.002
_KB_MB = 1024 / 1e6


def write_checkpoint(directory: Path, num_bytes: int, vocabulary: int = VOCABULARY) -> None:
    """bf16, as many layers as fill ``num_bytes``, one at least."""
    ends_bytes = 4 * vocabulary * HIDDEN
    layer_bytes = 2 * sum(torch.Size(shape).numel() for shape in _LAYER.values())
    num_layers = max(1, round((num_bytes - ends_bytes) / layer_bytes))
    (directory / "config.json").write_text(json.dumps(_CONFIG | {"num_hidden_layers": num_layers, "vocab_size": vocabulary}))
    tables = {"model.embed_tokens.weight": (vocabulary, HIDDEN), "lm_head.weight": (vocabulary, HIDDEN), "model.norm.weight": (HIDDEN,)}
    layers = [(f"model.layers.{i}.{name}.weight", shape) for i in range(num_layers) for name, shape in _LAYER.items()]
    weight_map: dict[str, str] = {}
    for number, part in enumerate((dict(layers[: len(layers) // 2]), dict(layers[len(layers) // 2 :]) | tables), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: torch.randn(shape, dtype=torch.bfloat16).mul_(0.02) for name, shape in part.items()}, directory / file)
        weight_map |= dict.fromkeys(part, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def load(files: ModelFiles, form: str) -> dict[str, float]:
    """In this process: seconds, and MB of the kept weights, of all memory before, and of its peak, mapped files included."""
    before, samples, ended = _resident_mb(), [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(_POLL_S):
            samples.append(_resident_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    since = time.perf_counter()
    model = load_model(
        files,
        dtype="float32" if form in _QUANTIZED else form,
        device=torch.device("cpu"),
        quantization=_QUANTIZED.get(form, "none"),
        load_format="auto",
        group=SINGLE,
        seed=0,
    )
    seconds = time.perf_counter() - since
    ended.set()
    watcher.join()
    return {"seconds": seconds, "weights_mb": model.weight_bytes / 1e6, "before_mb": before, "peak_mb": max(samples)}


def read_s(paths: Sequence[Path]) -> float:
    """Seconds that reading the files takes with nothing done to them."""
    buffer, since = bytearray(1 << 20), time.perf_counter()
    for path in sorted(paths):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - since


def _resident_mb() -> float:
    def numbers() -> Iterator[int]:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(("RssAnon:", "RssFile:", "RssShmem:")):
                yield int(line.split()[1])

    return sum(numbers()) * _KB_MB


def _warm_up(form: str) -> None:
    """Loads a model of one layer: the code that a first load reads in, and what torch sets up with it, is not the weights'."""
    with tempfile.TemporaryDirectory(prefix="headway-load-") as folder:
        write_checkpoint(Path(folder), 0, vocabulary=256)
        load(ModelFiles("safetensors", Path(folder), None, "random"), form)
    trim_heap()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mb", type=int, default=1000, help="of the checkpoint, in bf16")
    parser.add_argument("--forms", default="bfloat16,float32", help="of bfloat16, float32, int8, int4; gguf with --demo")
    parser.add_argument("--demo", action="store_true", help="the demo model, not a random checkpoint")
    parser.add_argument("--most", type=float, default=1.2, help="of the weights, the peak above which the exit status is 1")
    parser.add_argument("--load", nargs=2, metavar=("DIRECTORY", "FORM"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.load:
        directory, form = options.load
        _warm_up("int4" if form == "gguf" else form)
        files = demo_files() if directory == _DEMO else ModelFiles("safetensors", Path(directory), None, "random")
        print(json.dumps(load(files, form)))
        return 0
    is_good = True
    with tempfile.TemporaryDirectory(prefix="headway-load-") as folder:
        if options.demo:
            folder, paths = _DEMO, [demo_gguf()]
        else:
            write_checkpoint(Path(folder), options.mb * 10**6)
            paths = list(Path(folder).glob("*.safetensors"))
        file_mb = sum(path.stat().st_size for path in paths) / 1e6
        for form in options.forms.split(","):
            command = [sys.executable, __file__, "--load", folder, form]
            found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
            peak = (found["peak_mb"] - found["before_mb"]) / found["weights_mb"]
            is_good &= peak <= options.most
            print(
                f"{form}: {file_mb:.0f} MB of files, {found['weights_mb']:.0f} MB of weights in {found['seconds']:.2f} s: "
                f"{file_mb / found['seconds']:.0f} MB/s of the files (reading them alone: {file_mb / read_s(paths):.0f} MB/s); "
                f"peak {peak:.2f} times the weights"
            )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
