"""Which heads are taken, in the formats that they are published in, and what is said of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from any_load import V
from engine_driver import make_engine, request, run
from tiny_heads import change_head, head_config, head_weights, make_head, write_head
from tiny_models import make_tiny_model

from headway.server.engine.core import EngineCore
from headway.server.errors import ConfigError, ModelSourceError
from headway.server.source.files import ModelFiles


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return make_tiny_model("llama", tmp_path_factory.mktemp("model"), seed=1, vocab_size=V, num_hidden_layers=4)


def make(files: ModelFiles, head: ModelFiles, method: str = "", **topics: Any) -> EngineCore:
    is_third = "draft_vocab_size" in head_config(head)
    asked = {"method": method or ("eagle3" if is_third else "eagle"), "model": "head", "num_speculative_tokens": 2}
    options = {"model": {"max_model_len": 48}, "speculative": {"speculative_config": asked}} | topics
    return make_engine(files, draft_files=head, **options)


def test_a_head_in_the_format_of_speculators_says_the_same(model: ModelFiles, tmp_path: Path) -> None:
    """The layer is described and named apart, it adds to what its norm gives, and the embedding is its own."""
    head = make_head("eagle3", tmp_path / "a", model, config={"norm_before_residual": True})
    config, weights = head_config(head), head_weights(head)
    embedding = _weights_of(model)["model.embed_tokens.weight"]
    other = write_head(
        tmp_path / "b",
        {
            "architectures": ["Eagle3Speculator"],
            "draft_vocab_size": config["draft_vocab_size"],
            "eagle_aux_hidden_state_layer_ids": [1, 2, 3],
            "speculators_model_type": "eagle3",
            "torch_dtype": "float32",
            "transformer_layer_config": {key: value for key, value in config.items() if key not in ("architectures", "eagle_config")},
        },
        {name.replace("midlayer.", "layers.0."): value for name, value in weights.items()} | {"embed_tokens.weight": embedding},
    )
    drawn = [_drafts(make(model, files)) for files in (head, other)]
    assert drawn[0] == drawn[1]
    assert len({tuple(drafts) for drafts in drawn[0]}) > 3


def test_a_head_of_its_own_embedding_keeps_it(model: ModelFiles, tmp_path: Path) -> None:
    """One that is the model's is not kept twice."""
    head = make_head("eagle3", tmp_path / "a", model)
    embedding = _weights_of(model)["model.embed_tokens.weight"]
    engines = [
        make(model, head),
        make(model, change_head(head, tmp_path / "b", embed_tokens__weight=embedding)),
        make(model, change_head(head, tmp_path / "c", embed_tokens__weight=-embedding)),
    ]
    assert _drafts(engines[0]) == _drafts(engines[1]) != _drafts(engines[2])
    without, same, other = (engine.info.draft_model.weight_bytes for engine in engines if engine.info.draft_model is not None)
    assert without == same == other - embedding.nbytes


def test_a_head_that_guesses_all_tokens_needs_no_list_of_them_and_no_head_of_its_own(model: ModelFiles, tmp_path: Path) -> None:
    head = make_head("eagle3", tmp_path / "a", model)
    weights = {name: value for name, value in head_weights(head).items() if name not in ("d2t", "t2d", "lm_head.weight")}
    config = head_config(head) | {"draft_vocab_size": V}
    bare = write_head(tmp_path / "b", config, weights)
    whole = change_head(bare, tmp_path / "c", lm_head__weight=_weights_of(model)["lm_head.weight"])
    drawn = _drafts(make(model, bare))
    assert drawn == _drafts(make(model, whole))
    assert any(token % 3 for drafts in drawn for token in drafts)


def test_heads_of_eagle_come_with_copies_of_the_models_own_and_without_a_bias(model: ModelFiles, tmp_path: Path) -> None:
    head = make_head("eagle", tmp_path / "a", model, config={"architectures": ["EagleLlamaForCausalLM"], "model_type": "eagle"})
    bare = change_head(head, tmp_path / "b", without="fc.bias")
    zero = change_head(head, tmp_path / "c", fc__bias=torch.zeros(64))
    names = {"embed_tokens__weight": "model.embed_tokens.weight", "lm_head__weight": "lm_head.weight"}
    whole = change_head(bare, tmp_path / "d", **{name: _weights_of(model)[source] for name, source in names.items()})
    drawn = [_drafts(make(model, files)) for files in (head, bare, zero, whole)]
    assert drawn[0] != drawn[1] == drawn[2] == drawn[3]


@pytest.mark.parametrize(
    ("method", "config", "sentence"),
    [
        (
            "eagle",
            {"hidden_size": 32},
            "reads hidden states of 32 numbers, and the model's have 64: name one that was trained for this model",
        ),
        ("eagle3", {"vocab_size": V + 3}, f"has {V + 3} tokens in its vocabulary, and the model {V}: name one that was trained"),
        (
            "eagle",
            {"architectures": ["Qwen3ForCausalLM"]},
            "architectures is Qwen3ForCausalLM, and method eagle takes EagleLlamaForCausalLM",
        ),
        ("eagle", {"num_hidden_layers": 2}, "num_hidden_layers is 2, and heads of one layer are supported"),
        ("eagle3", {"parallel_drafting": True}, "parallel_drafting is set, and such heads are not supported"),
        ("eagle3", {"eagle_config": {"use_mtp_layernorm": True}}, "use_mtp_layernorm is set, and such heads are not supported"),
        ("eagle3", {"eagle_config": 4}, "eagle_config must be an object, not 4"),
        ("eagle3", {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 2, 3]}}, "gives no three of the model's 4 layers"),
        ("eagle3", {"eagle_config": {}, "eagle_aux_hidden_state_layer_ids": ["a"]}, "must be a list of whole numbers, not ['a']"),
        ("eagle3", {"eagle_config": {}}, "eagle_aux_hidden_state_layer_ids is missing, which gives no three of the model's 4 layers"),
        ("eagle3", {"draft_vocab_size": V + 1}, f"guesses {V + 1} tokens, more than the {V} of its vocabulary"),
        ("eagle", {"quantization_config": {"quant_method": "fp8"}}, "its weights are quantised"),
    ],
)
def test_a_head_that_does_not_go_with_the_model_is_refused_in_a_sentence(
    method: str, config: dict[str, Any], sentence: str, model: ModelFiles, tmp_path: Path
) -> None:
    head = make_head(method, tmp_path, model)
    (tmp_path / "config.json").write_text(json.dumps(head_config(head) | config))
    with pytest.raises((ConfigError, ModelSourceError)) as refusal:
        make(model, head, method)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    ("method", "weights", "without", "sentence"),
    [
        ("eagle", {"fc__weight": torch.zeros(64, 64)}, "", "fc.weight has shape [64, 64], but the model's config asks for [64, 128]"),
        ("eagle3", {"fc__weight": torch.zeros(64, 128)}, "", "fc.weight has shape [64, 128], but the model's config asks for [64, 192]"),
        ("eagle3", {}, "norm.weight", "lacks the tensor norm.weight"),
        ("eagle3", {}, "d2t", "lacks the tensor d2t, which says what its 88 tokens of 264 are"),
        ("eagle3", {}, "lm_head.weight", "lacks the tensor lm_head.weight of its 88 tokens"),
        ("eagle3", {"d2t": torch.zeros(3, dtype=torch.int64)}, "", "d2t must be 88 whole numbers"),
        ("eagle3", {"d2t": torch.full((88,), 264)}, "", "d2t names tokens that the model's vocabulary of 264 has not"),
        ("eagle", {"layers__0__input_layernorm__weight": torch.ones(64)}, "", "has the tensor layers.0.input_layernorm.weight"),
    ],
)
def test_a_checkpoint_that_is_none_of_a_head_is_refused_in_a_sentence(
    method: str, weights: dict[str, torch.Tensor], without: str, sentence: str, model: ModelFiles, tmp_path: Path
) -> None:
    head = change_head(make_head(method, tmp_path / "a", model), tmp_path / "b", without=without, **weights)
    with pytest.raises(ModelSourceError) as refusal:
        make(model, head)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    ("method", "topics", "sentence"),
    [
        ("draft_model", {}, "is an EAGLE head, and no model of its own: set method to eagle3"),
        ("eagle3", {"model": {"quantization": "int8", "max_model_len": 48}}, "8-bit weights on a CPU rotate the hidden states"),
        ("eagle3", {"model": {"load_format": "dummy", "max_model_len": 48}}, "--load-format dummy makes no EAGLE heads"),
        ("eagle3", {"model": {"model_impl": "transformers", "max_model_len": 48}}, "the model runs through transformers"),
    ],
)
def test_what_a_head_does_not_go_with(method: str, topics: dict[str, Any], sentence: str, model: ModelFiles, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        make(model, make_head("eagle3", tmp_path, model), method, **topics)
    assert sentence in str(refusal.value)


def test_a_head_for_shorter_texts_goes_on_and_is_warned_of(model: ModelFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = make(model, make_head("eagle", tmp_path, model, config={"max_position_embeddings": 16}))
    assert len(run(engine, [request("r", [5, 6, 7], max_tokens=30, ignore_eos=True)])["r"].token_ids) == 30
    assert "was made for 16 tokens, and the context has 48" in caplog.text


def _weights_of(model: ModelFiles) -> dict[str, torch.Tensor]:
    return head_weights(model)


def _drafts(engine: EngineCore) -> list[list[int]]:
    """What is drawn behind a text that grows by what a bias says."""
    drawn: list[list[int]] = []
    drafter = engine._executor._worker.runner._drafter  # type: ignore[attr-defined]
    draw = drafter.draw

    def recorded(scheduled: list[Any]) -> list[Any]:
        rows: list[Any] = draw(scheduled)
        drawn.extend(list(row.drafts) for row in rows if row.drafts)
        return rows

    drafter.draw = recorded
    run(engine, [request("r", [5, 6, 7, 8], max_tokens=8, ignore_eos=True)])
    return drawn
