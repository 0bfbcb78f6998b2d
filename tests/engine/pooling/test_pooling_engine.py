"""The engine over tiny models: recipes of sentence-transformers, what options change, isolation, sleep."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_driver import make_engine, request
from numpy.typing import NDArray
from pooling_driver import pool, text
from safetensors.torch import save_file
from tiny_encoders import make_tiny_encoder, reference_model, write_sentence_transformer
from tiny_models import make_tiny_model

from headway.server.engine.core import EngineCore
from headway.server.errors import ConfigError
from headway.server.source.files import ModelFiles
from headway.server.types import FinishReason

IDS = [random.Random(seed).choices(range(5, 259), k=length) for seed, length in enumerate((17, 40, 3))]  # in no order: a step sorts them
MEAN = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return make_tiny_encoder("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture
def own_bert(tmp_path: Path) -> ModelFiles:
    return make_tiny_encoder("bert", tmp_path)


def engine_of(files: ModelFiles, **topics: Any) -> EngineCore:
    return make_engine(files, model={"max_model_len": None, **topics.pop("model", {})}, **topics)


def states(files: ModelFiles) -> list[NDArray[np.float32]]:
    reference = reference_model(files)
    with torch.inference_mode():
        return [reference(torch.tensor([ids])).last_hidden_state[0].numpy() for ids in IDS]


def vectors(engine: EngineCore, **asked: Any) -> list[NDArray[np.float32]]:
    return [vector[0] for vector in pool(engine, [text(str(i), ids, **asked) for i, ids in enumerate(IDS)])]


def normalised(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return vector / np.linalg.norm(vector)


KINDS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "cls": lambda states: states[0],
    "mean": lambda states: states.mean(0),
    "max": lambda states: states.max(0),
    "last": lambda states: states[-1],
}


@pytest.mark.parametrize(
    ("pooling", "kind"),
    [
        (MEAN, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_sentence_transformers_files_say_how_to_pool(own_bert: ModelFiles, pooling: dict[str, Any], kind: str) -> None:
    write_sentence_transformer(own_bert, pooling)
    for vector, state in zip(vectors(engine_of(own_bert)), states(own_bert), strict=True):
        np.testing.assert_allclose(vector, KINDS[kind](state), atol=1e-4)


def test_a_normalize_module_normalises(own_bert: ModelFiles) -> None:
    write_sentence_transformer(own_bert, MEAN, "2_Normalize", max_seq_length=100)
    engine = engine_of(own_bert)
    assert engine.info.max_model_len == 100
    assert engine.info.pooling is not None
    assert (engine.info.pooling.dimension, engine.info.pooling.tasks) == (48, ("embed", "token_embed"))
    for vector, state in zip(vectors(engine), states(own_bert), strict=True):
        np.testing.assert_allclose(vector, normalised(state.mean(0)), atol=1e-5)
    for vector, state in zip(vectors(engine, use_activation=False), states(own_bert), strict=True):
        np.testing.assert_allclose(vector, state.mean(0), atol=1e-4)


def test_dense_modules_project(own_bert: ModelFiles) -> None:
    write_sentence_transformer(own_bert, MEAN, "2_Dense", "3_Dense", "4_Normalize")
    weights = [
        torch.randn(32, 48, generator=torch.Generator().manual_seed(1)),
        torch.randn(16, 32, generator=torch.Generator().manual_seed(2)),
    ]
    bias = torch.randn(32)
    save_file({"linear.weight": weights[0], "linear.bias": bias}, own_bert.path / "2_Dense" / "model.safetensors")
    save_file({"linear.weight": weights[1]}, own_bert.path / "3_Dense" / "model.safetensors")
    for folder, activation in (("2_Dense", "Tanh"), ("3_Dense", "Identity")):
        config = {"activation_function": f"torch.nn.modules.activation.{activation}"}
        (own_bert.path / folder / "config.json").write_text(json.dumps(config))
    engine = engine_of(own_bert)
    assert engine.info.pooling is not None
    assert engine.info.pooling.dimension == 16
    for vector, state in zip(vectors(engine), states(own_bert), strict=True):
        projected = weights[1] @ torch.tanh(weights[0] @ torch.from_numpy(state.mean(0)) + bias)
        np.testing.assert_allclose(vector, normalised(projected.numpy()), atol=1e-5)


def test_without_such_files_the_architecture_says_it(bert: ModelFiles) -> None:
    for vector, state in zip(vectors(engine_of(bert)), states(bert), strict=True):
        np.testing.assert_allclose(vector, normalised(state[0]), atol=1e-5)


def test_pooler_config_goes_before_the_files(bert: ModelFiles) -> None:
    engine = engine_of(bert, pooling={"pooler_config": {"pooling_type": "MEAN", "use_activation": False}})
    for vector, state in zip(vectors(engine), states(bert), strict=True):
        np.testing.assert_allclose(vector, state.mean(0), atol=1e-4)


@pytest.mark.parametrize("matryoshka", [{"is_matryoshka": True}, {"matryoshka_dimensions": [24, 48]}])
def test_vectors_that_can_be_cut(own_bert: ModelFiles, matryoshka: dict[str, Any]) -> None:
    path = own_bert.path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | matryoshka))
    whole, part = engine_of(own_bert), engine_of(own_bert, pooling={"pooler_config": {"dimensions": 24}})
    assert whole.info.pooling is not None
    assert part.info.pooling is not None
    assert (whole.info.pooling.dimension, part.info.pooling.dimension) == (48, 24)
    expected = [normalised(state[0][:24]) for state in states(own_bert)]
    for found in (vectors(whole, dimensions=24), vectors(part)):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"pooling": {"pooler_config": {"dimensions": 8}}}, "can't be cut"),
        ({"pooling": {"pooler_config": {"task": "classify"}}}, "none of this model's"),
        ({"model": {"quantization": "int8"}}, "--quantization int8"),
        ({"lora": {"enable_lora": True}}, "--enable-lora"),
        ({"scheduler": {"max_num_batched_tokens": 64, "max_num_seqs": 4}}, "must fit in one step"),
    ],
)
def test_options_that_it_can_not_have(bert: ModelFiles, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        engine_of(bert, **options)


def test_different_tasks_share_a_step(bert: ModelFiles) -> None:
    engine = engine_of(bert)
    tasks = ("embed", "token_embed", "embed")
    alone = [pool(engine, [text("a", ids, task)]) for ids, task in zip(IDS, tasks, strict=True)]
    together = pool(engine, [text(str(i), IDS[i], task) for i, task in enumerate(tasks)])
    for (one,), other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert [result.shape for result in together] == [(1, 48), (len(IDS[1]), 48), (1, 48)]


class FaultyModel:
    """The real model, but for one token that breaks the forward pass of any batch that holds it, and one that makes it no number."""

    def __init__(self, model: Any, bad_token: int | None, nan_token: int = -1) -> None:
        self._model, self._bad_token, self._nan_token = model, bad_token, nan_token

    def forward(self, token_ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        if self._bad_token is None or (token_ids == self._bad_token).any():
            raise RuntimeError("a kernel refused this token")
        hidden: torch.Tensor = self._model.forward(token_ids, *rest).clone()
        hidden[token_ids == self._nan_token] = torch.nan
        return hidden

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def break_model(engine: EngineCore, *tokens: Any) -> None:
    resident = engine._executor._worker.resident  # type: ignore[attr-defined]
    resident.give_model(FaultyModel(resident.model, *tokens))


@pytest.mark.parametrize(("tokens", "cause"), [((7,), "a kernel refused this token"), ((-1, 7), "not finite")])
def test_the_text_that_breaks_a_step_ends_alone(bert: ModelFiles, tokens: tuple[int, ...], cause: str) -> None:
    engine = engine_of(bert)
    expected = pool(engine, [text("good", [8, 9])])[0]
    break_model(engine, *tokens)
    for made in (text("good", [8, 9]), text("bad", [7, 9])):
        engine.add_request(made)
    good, bad = engine.step().deltas
    assert good.pooled is not None
    np.testing.assert_allclose(np.frombuffer(good.pooled.data, "<f4"), expected[0], atol=1e-5)
    assert bad.finish_reason is FinishReason.ERROR
    assert bad.error is not None
    assert cause in bad.error


def test_an_engine_that_can_compute_nothing_raises_the_cause(bert: ModelFiles) -> None:
    engine = engine_of(bert)
    break_model(engine, None)
    engine.add_request(text("a", [8]))
    with pytest.raises(RuntimeError, match="a kernel refused this token"):
        engine.step()


def test_each_engine_refuses_the_other_s_work(bert: ModelFiles, tmp_path: Path) -> None:
    pools, generates = engine_of(bert), make_engine(make_tiny_model("llama", tmp_path), model={"max_model_len": 64})
    pools.add_request(request("a", [1, 2]))
    generates.add_request(text("a", [1, 2]))
    for engine, does in ((pools, "pools texts"), (generates, "generates text")):
        (end,) = engine.step().deltas
        assert end.finish_reason is FinishReason.ERROR
        assert end.error is not None
        assert does in end.error


@pytest.mark.parametrize("level", [0, 1, 2])
def test_it_sleeps_and_wakes(own_bert: ModelFiles, level: int) -> None:
    engine = engine_of(own_bert)
    before = vectors(engine)
    told: list[Exception | None] = []
    engine.sleep(level, "keep", told.append)
    engine.settle()
    assert told == [None]
    engine.add_request(text("held", IDS[0]))
    assert engine.stats().num_waiting == 1
    engine.wake_up(None)
    (held,) = engine.step().deltas
    assert held.finish_reason is FinishReason.STOP
    np.testing.assert_array_equal(vectors(engine), before)


def test_aborted_by_sleep(bert: ModelFiles) -> None:
    engine = engine_of(bert)
    engine.add_request(text("a", IDS[0]))
    engine.sleep(0, "abort", lambda problem: None)
    engine.settle()
    (end,) = engine.step().deltas
    assert end.finish_reason is FinishReason.ABORT


def test_what_is_for_kept_kv_is_refused(bert: ModelFiles) -> None:
    with pytest.raises(ConfigError, match="a model that pools keeps no KV"):
        engine_of(bert, kv_transfer={"kv_offloading_size": 1})
