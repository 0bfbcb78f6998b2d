"""An adapter's files: what is taken, and one sentence for everything else."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from forward_batches import Sequence, Stepper
from gloo_ranks import run_ranks
from safetensors.torch import load_file, save_file
from tiny_adapters import EVERYTHING, TABLES, make_adapter
from tiny_models import make_tiny_model

from headway.kernels.plans import LoraPlan
from headway.server.config.lora import LoraConfig
from headway.server.distributed.groups import SINGLE, TensorParallelGroup
from headway.server.distributed.places import WHOLE, PipelineStage
from headway.server.engine.lora import AdapterSlots
from headway.server.errors import AdapterError
from headway.server.layers.forward import ForwardBatch
from headway.server.loading.adapter import AdaptedModel, Target, Update, read_adapter
from headway.server.loading.adapter_config import AdapterConfig
from headway.server.loading.loader import LoadedModel, Quantization, load_model
from headway.server.loading.model_config import read_config
from headway.server.source.files import ModelFiles
from headway.server.types import AdapterRef

TARGETS = {
    "model.layers.0.self_attn.q_proj": Target("layers.0.qkv", (("q", 6),), 4),
    "model.embed_tokens": Target("embed_tokens", (("", 9),), 4, is_embedding=True, table="model.embed_tokens.weight"),
    "lm_head": Target("lm_head", (("", 9),), 4, table="lm_head.weight"),
}
MODEL = AdaptedModel(TARGETS)
KEY = "base_model.model.model.layers.0.self_attn.q_proj"
A, B = f"{KEY}.lora_A.weight", f"{KEY}.lora_B.weight"
GOOD = {A: torch.ones(2, 4), B: torch.ones(6, 2)}
EMBEDDING = "base_model.model.model.embed_tokens"
EMBEDDING_A, EMBEDDING_B = f"{EMBEDDING}.lora_embedding_A", f"{EMBEDDING}.lora_embedding_B"
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 6}


def write(directory: Path, config: Any = CONFIG, tensors: dict[str, torch.Tensor] = GOOD) -> Path:
    (directory / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


def test_an_update_has_its_scale(tmp_path: Path) -> None:
    [update] = read_adapter(write(tmp_path), MODEL, 2)
    assert (update.target.layer, update.target.parts) == ("layers.0.qkv", (("q", 6),))
    assert torch.equal(update.b @ update.a, torch.full((6, 4), 2 * 6 / 2))
    [update] = read_adapter(write(tmp_path, {**CONFIG, "use_rslora": True}), MODEL, 2)
    torch.testing.assert_close(update.b @ update.a, torch.full((6, 4), 2 * 6 / 2**0.5))


def test_names_with_the_adapters_name_in_them(tmp_path: Path) -> None:
    tensors = {name.replace(".weight", ".default.weight"): tensor for name, tensor in GOOD.items()}
    assert len(read_adapter(write(tmp_path, tensors=tensors), MODEL, 2)) == 1


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"peft_type": None}, "peft_type None"),
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save .* merge it into the model"),
        ({"bias": "all"}, "bias 'all'"),
        ({"lora_bias": True, "layer_replication": [[0, 4]]}, "biases .* layer_replication"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights 'pissa_niter_4'"),
        ({"lora_alpha": "8"}, "lora_alpha '8'"),
        ({"lora_alpha": float("inf")}, "lora_alpha inf"),
        ({"lora_alpha": True}, "lora_alpha True"),
        ({"lora_alpha": 10**400}, "lora_alpha 1000"),
        ({"lora_alpha": 1e300}, r"lora_alpha 1e\+300; it must be a number above 0, of 1e\+30 at most"),
        ({"r": 0}, "r 0"),
        ({"r": 4}, "the rank 4, and its weights have the rank 2"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "regular expression"),
        ({"alpha_pattern": [3]}, "must be an object"),
        ({"rank_pattern": {"q_proj": 1}}, "the rank 1, and"),
        ({"use_rslora": "no"}, "use_rslora 'no'; it must be true or false"),
        ({"use_dora": 0}, "use_dora 0; it must be true or false"),
        ({"trainable_token_indices": [7]}, "trained tokens"),
    ],
    ids=str,
)
def test_configs_that_are_refused(tmp_path: Path, config: dict[str, Any], word: str) -> None:
    with pytest.raises(AdapterError, match=word):
        read_adapter(write(tmp_path, {**CONFIG, **config}), MODEL, 2)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"root:x:0:0:secret", b"[" * 100_000, b'{"a": "' + b"x" * 2_000_000 + b'"}'], ids=lambda t: t[:9]
)
def test_a_config_that_is_none_is_not_shown(tmp_path: Path, text: bytes) -> None:
    write(tmp_path)
    (tmp_path / "adapter_config.json").write_bytes(text)
    with pytest.raises(AdapterError, match="is not a JSON object of at most 1 MiB") as refusal:
        AdapterConfig(tmp_path)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("tensors", "word"),
    [
        ({}, "holds no tensors"),
        ({A: GOOD[A]}, "only one of lora_A and lora_B"),
        ({**GOOD, A.replace(".weight", ".other.weight"): GOOD[A].clone()}, "more than one lora_A"),
        ({A: torch.ones(2, 5), B: GOOD[B]}, r"lora_A \[2, 5\] .* needs \[r, 4\] and \[6, r\]"),
        ({A: GOOD[A], B: torch.ones(6, 3)}, r"lora_B \[6, 3\]"),
        ({A: torch.ones(4), B: GOOD[B]}, r"lora_A \[4\]"),
        ({A: torch.ones(0, 4), B: torch.ones(6, 0)}, r"lora_A \[0, 4\]"),
        ({A: torch.ones(3, 4), B: torch.ones(6, 3)}, "rank is 3 .* above --max-lora-rank 2"),
        ({A: torch.ones(2, 4, dtype=torch.int32), B: GOOD[B]}, "torch.int32"),
        ({A: GOOD[A] * float("nan"), B: GOOD[B]}, "not finite"),
        ({A: GOOD[A], B: GOOD[B] * float("inf")}, "not finite"),
        ({name.replace("q_proj", "qkv_proj"): tensor for name, tensor in GOOD.items()}, "changes model.layers.0.self_attn.qkv_proj"),
        ({name.replace("layers.0", "layers.7"): tensor for name, tensor in GOOD.items()}, "changes model.layers.7"),
        ({**GOOD, f"{KEY}.lora_magnitude_vector": torch.ones(6)}, "lora_magnitude_vector is no LoRA update"),
        ({EMBEDDING_A: torch.ones(2, 9)}, "only one of lora_embedding_A and lora_embedding_B for model.embed_tokens"),
        (
            {EMBEDDING_A: torch.ones(2, 10), EMBEDDING_B: torch.ones(4, 2)},
            r"lora_embedding_A \[2, 10\] .* needs \[r, 9\] and \[4, r\]; .* more tokens",
        ),
        ({"lm_head.lora_A.weight": torch.ones(2, 4), "lm_head.lora_B.weight": torch.ones(11, 2)}, r"lora_B \[11, 2\].* more tokens"),
        ({"lm_head.lora_A.weight": torch.ones(2, 4), "lm_head.lora_B.weight": torch.ones(8, 2)}, r"lora_B \[8, 2\].* trained for this"),
        ({EMBEDDING_A: torch.ones(3, 9), EMBEDDING_B: torch.ones(4, 3)}, "rank is 3 .* above --max-lora-rank 2"),
        ({A.replace(KEY, EMBEDDING): GOOD[A], B.replace(KEY, EMBEDDING): GOOD[B]}, "no such linear"),
        ({f"{KEY}.lora_embedding_A": GOOD[A], f"{KEY}.lora_embedding_B": GOOD[B]}, "no such embedding"),
        ({**GOOD, f"{EMBEDDING}.base_layer.weight": torch.ones(10, 4)}, r"its own model.embed_tokens \[10, 4\].* more tokens"),
        ({**GOOD, f"{EMBEDDING}.base_layer.weight": torch.ones(9, 4)}, "files hold no model.embed_tokens.weight to compare"),
        (
            {**GOOD, f"{EMBEDDING}.base_layer.weight": torch.ones(9, 4, dtype=torch.float8_e4m3fn)},
            "its own model.embed_tokens has the type F8",
        ),
        ({**GOOD, "base_model.model.lm_head.weight": torch.ones(9, 4)}, "files hold no lm_head.weight to compare"),
        ({**GOOD, f"{EMBEDDING}.token_adapter.trainable_tokens_delta": torch.ones(2, 4)}, "trainable_tokens_delta is no LoRA update"),
        ({**GOOD, f"{KEY}.base_layer.weight": torch.ones(6, 4)}, "base_layer.weight is no LoRA update"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tensors_that_are_refused(tmp_path: Path, tensors: dict[str, torch.Tensor], word: str) -> None:
    with pytest.raises(AdapterError, match=word):
        read_adapter(write(tmp_path, tensors=tensors), MODEL, 2)


def updates_of(directory: Path, tensors: dict[str, torch.Tensor], model: AdaptedModel = MODEL, **config: Any) -> list[Update]:
    return read_adapter(write(directory, {**CONFIG, **config}, tensors), model, 2)


def test_an_embeddings_update_is_that_of_its_rows(tmp_path: Path) -> None:
    a, b = torch.randn(2, 9), torch.randn(4, 2)
    [update] = updates_of(tmp_path, {EMBEDDING_A: a, f"{EMBEDDING_B}.default": b})
    assert update.target.layer == "embed_tokens"
    torch.testing.assert_close(update.b @ update.a, 3 * (b @ a).t())


@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("trained", [torch.float32, torch.bfloat16], ids=str)
def test_a_copy_of_the_models_own_table_changes_nothing(tmp_path: Path, saved: torch.dtype, trained: torch.dtype) -> None:
    """In whichever type it was trained and saved; any other table is refused, and so is a value that differs."""
    table = torch.randn(5000, 4)
    target = Target("lm_head", (("", 5000),), 4, table="lm_head.weight")
    model = AdaptedModel({**TARGETS, "lm_head": target}, read_plain={"lm_head.weight": table}.get)
    copy = table.to(trained).to(saved, copy=True)
    for key in ("base_model.model.lm_head.base_layer.weight", "lm_head.weight"):
        assert len(updates_of(tmp_path, {**GOOD, key: copy}, model)) == 1
    copy[4999, 3] += 1
    with pytest.raises(AdapterError, match="lm_head that is not this model's"):
        updates_of(tmp_path, {**GOOD, "lm_head.weight": copy}, model)


def test_tied_updates_are_one_or_refused(tmp_path: Path) -> None:
    a, b = torch.randn(2, 9), torch.randn(4, 2)
    both = {EMBEDDING_A: a, EMBEDDING_B: b, "lm_head.lora_A.weight": b.t().contiguous(), "lm_head.lora_B.weight": a.t().contiguous()}
    tied = AdaptedModel(TARGETS, tied=("model.embed_tokens", "lm_head"))
    other = {**both, "lm_head.lora_B.weight": both["lm_head.lora_B.weight"] + 1}
    assert len(updates_of(tmp_path, both, tied, ensure_weight_tying=True)) == 2
    assert len(updates_of(tmp_path, GOOD, tied, ensure_weight_tying=True)) == 1
    assert len(updates_of(tmp_path, other, tied)) == len(updates_of(tmp_path, other, ensure_weight_tying=True)) == 2
    of_another_stage = AdaptedModel({}, frozenset({"model.embed_tokens", "lm_head"}), tied.tied)
    odd = {**both, "lm_head.lora_B.weight": torch.ones(2, 2, 2)}
    for tensors, model in ((other, tied), ({EMBEDDING_A: a, EMBEDDING_B: b}, tied), (odd, of_another_stage)):
        with pytest.raises(AdapterError, match=r"ensure_weight_tying, and its updates .* are not the same one"):
            updates_of(tmp_path, tensors, model, ensure_weight_tying=True)


class Marker:
    """Unpickling it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], Path], tuple[str]]:
        return touch, (str(self.path),)


def touch(path: str) -> Path:
    Path(path).touch()
    return Path(path)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter_model.bin").write_bytes(pickle.dumps(Marker(tmp_path / "ran")))
    with pytest.raises(AdapterError, match="which is a pickle and never loaded"):
        read_adapter(tmp_path, MODEL, 2)
    (tmp_path / "adapter_model.bin").rename(tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="damaged"):
        read_adapter(tmp_path, MODEL, 2)
    assert not (tmp_path / "ran").exists()


def test_a_file_that_was_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(AdapterError, match="damaged or cut off"):
        read_adapter(tmp_path, MODEL, 2)


def load(
    files: ModelFiles, group: TensorParallelGroup = SINGLE, quantization: Quantization = "none", stage: PipelineStage = WHOLE
) -> LoadedModel:
    return load_model(
        files, dtype="float32", device=torch.device("cpu"), quantization=quantization, load_format="auto", group=group, seed=0, stage=stage
    )


class Adapted(Stepper):
    """One sequence, with an adapter."""

    def __init__(self, loaded: LoadedModel, adapter: Path) -> None:
        super().__init__(loaded.model)
        lora = LoraConfig(enable_lora=True, max_loras=2, max_lora_rank=8)
        self._slots = AdapterSlots(loaded, lora, 4, dtype=torch.float32, device=torch.device("cpu"))
        self._slots.read(AdapterRef(1, "a", str(adapter))).result()
        self._slots.load(1)
        self._slots.set_row(0, 1)
        own: Any = loaded.model
        self.model: Any = SimpleNamespace(forward=own.forward, logits=lambda hidden: own.logits(hidden, self.head_plan(len(hidden))))

    def head_plan(self, num_tokens: int) -> LoraPlan | None:
        return self._slots.plan_head(np.zeros(num_tokens, dtype=np.int64))

    def _batch(self, rows: Any) -> tuple[ForwardBatch, torch.Tensor]:
        batch, tokens = super()._batch(rows)
        step: Any = SimpleNamespace(rows=np.zeros(len(rows), dtype=np.int64), query_lens=batch.query_lens)
        batch.lora = self._slots.plan(step)
        return batch, tokens


TOKENS = [7, 3, 250, 4, 19, 101, 258, 0]


def logits_with(loaded: LoadedModel, adapter: Path) -> torch.Tensor:
    return Adapted(loaded, adapter).run(TOKENS, [5, 1, 2])


def merged(files: ModelFiles, adapter: Path, directory: Path) -> ModelFiles:
    """The model with the adapter's updates added to its weights, written anew."""
    shutil.copytree(files.path, directory)
    weights = load_file(directory / "model.safetensors")
    scale = AdapterConfig(adapter)
    tensors = load_file(adapter / "adapter_model.safetensors")
    for name, a in tensors.items():
        module = name.removeprefix("base_model.model.").partition(".lora_")[0]
        b = tensors[name.replace("_A", "_B")]
        if name.endswith(("_A", "_A.weight")):
            update = (b @ a).t() if "embedding_A" in name else b @ a
            weights[f"{module}.weight"] = weights[f"{module}.weight"] + scale.scale(module, len(a)) * update
    save_file(weights, directory / "model.safetensors")
    return ModelFiles("safetensors", directory, None, "merged")


@pytest.mark.parametrize(("name", "size"), [("llama", 2), ("llama-biased", 2), ("llama-three", 3), ("qwen3", 4)])
def test_ranks_have_their_share(tmp_path: Path, name: str, size: int) -> None:
    """Slots are cut over the ranks as the weights are: by heads, of which several ranks have the same, by columns, and by tokens of the
    vocabulary, which the ranks do not divide."""
    files = make_tiny_model(name, tmp_path / "model")
    adapter = make_adapter(tmp_path / "a", read_config(files), targets=EVERYTHING)
    expected = Stepper(load(merged(files, adapter, tmp_path / "merged")).model).run(TOKENS, [5, 1, 2])
    torch.testing.assert_close(logits_with(load(files), adapter), expected, atol=2e-4, rtol=0)
    for found in run_ranks(size, lambda group: logits_with(load(files, group), adapter)):
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", ["llama", "llama-tied"])
def test_stages_have_their_own(tmp_path: Path, name: str) -> None:
    """The first the embedding's update, the last the head's, and each those of its layers."""
    files = make_tiny_model(name, tmp_path / "model")
    adapter = make_adapter(tmp_path / "a", read_config(files), targets=EVERYTHING)
    first, last = (Adapted(load(files, stage=PipelineStage(index, 2)), adapter) for index in range(2))
    hidden = None
    for stage in (first, last):
        batch, token_ids = stage._batch([(Sequence(TOKENS), len(TOKENS))])
        hidden = stage.model.forward(token_ids if hidden is None else hidden, stage.kv, batch)
    assert first.head_plan(1) is None
    torch.testing.assert_close(last.model.logits(hidden), logits_with(load(files), adapter), atol=2e-4, rtol=0)


def test_a_copy_is_held_against_the_models_file(tmp_path: Path) -> None:
    """PEFT saves the base model's table beside an update of it."""
    files = make_tiny_model("llama", tmp_path / "model")
    adapter = make_adapter(tmp_path / "a", read_config(files), targets=TABLES)
    tensors, weights = (load_file(next(directory.glob("*.safetensors"))) for directory in (adapter, files.path))
    expected = logits_with(load(files), adapter)
    for module in ("model.embed_tokens", "lm_head"):
        tensors[f"base_model.model.{module}.base_layer.weight"] = weights[f"{module}.weight"].clone()
    save_file(tensors, adapter / "adapter_model.safetensors")
    assert torch.equal(logits_with(load(files), adapter), expected)
    tensors["base_model.model.lm_head.base_layer.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="lm_head that is not this model's"):
        logits_with(load(files), adapter)
