"""What a model is loaded for, and the one sentence for each thing in its files that can't be done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_files import convert_to_gguf
from safetensors.torch import save_file
from tiny_encoders import make_tiny_encoder, write_sentence_transformer
from tiny_models import make_tiny_model

from headway.server.distributed.groups import SINGLE
from headway.server.errors import ModelSourceError
from headway.server.loading.pooled import load_pooled_model
from headway.server.loading.pooled_files import read_pooled
from headway.server.loading.use import Convert, Runner, use_of
from headway.server.models.base import LoadedModel
from headway.server.source.files import ModelFiles

MEAN = {"pooling_mode_mean_tokens": True}


def load(files: ModelFiles, is_classifier: bool = False, load_format: Any = "auto") -> LoadedModel:
    source = read_pooled(files, is_classifier)
    return load_pooled_model(
        source, dtype="float32", device=torch.device("cpu"), load_format=load_format, group=SINGLE, seed=0, max_model_len=source.max_tokens
    )


def edit_config(files: ModelFiles, **changes: Any) -> None:
    path = files.path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def config_of(folder: Path, architecture: str) -> ModelFiles:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    return ModelFiles("safetensors", folder, None, "m")


@pytest.mark.parametrize(
    ("architecture", "runner", "convert", "use"),
    [
        ("LlamaForCausalLM", "auto", "auto", "generate"),
        ("LlamaForCausalLM", "auto", "none", "generate"),
        ("LlamaForCausalLM", "pooling", "auto", "embed"),
        ("LlamaForCausalLM", "auto", "embed", "embed"),
        ("LlamaForCausalLM", "pooling", "classify", "classify"),
        ("LlamaForSequenceClassification", "auto", "auto", "classify"),
        ("LlamaForSequenceClassification", "auto", "embed", "embed"),
        ("Qwen3Model", "auto", "auto", "embed"),
        ("BertModel", "auto", "auto", "embed"),
        ("BertForMaskedLM", "pooling", "auto", "embed"),
        ("XLMRobertaForSequenceClassification", "pooling", "auto", "classify"),
        ("MambaForCausalLM", "auto", "auto", "generate"),  # which is then refused with what is supported
    ],
)
def test_what_a_model_is_for(tmp_path: Path, architecture: str, runner: Runner, convert: Convert, use: str) -> None:
    assert use_of(config_of(tmp_path / "m", architecture), runner, convert) == use


def test_a_decoder_with_sentence_transformers_files_embeds_unless_told_otherwise(tmp_path: Path) -> None:
    files = config_of(tmp_path / "m", "Qwen3ForCausalLM")
    (files.path / "modules.json").write_text("[]")
    assert use_of(files, "auto", "auto") == "embed"
    assert use_of(files, "generate", "auto") == "generate"


def test_an_encoder_can_not_generate(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match=r"BertModel.*leave --runner generate out.*/v1/embeddings"):
        use_of(config_of(tmp_path / "m", "BertModel"), "generate", "auto")


def test_an_unknown_architecture_is_told_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match=r"T5Model,.*Bert.*Llama"):
        read_pooled(config_of(tmp_path / "m", "T5Model"), False)


def test_dummy_weights(tmp_path: Path) -> None:
    files = make_tiny_encoder("bert", tmp_path, is_classifier=True)
    (files.path / "model.safetensors").unlink()
    assert load(files, is_classifier=True, load_format="dummy").weight_bytes > 0


def test_a_classifier_without_its_head_is_told_what_lacks(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match=r"lacks the tensor score\.weight"):
        load(make_tiny_model("llama", tmp_path), is_classifier=True)


def test_long_rope_of_a_gguf(tmp_path: Path) -> None:
    """Whose factors are tensors."""
    original = make_tiny_model("phi4-mini", tmp_path)
    metadata = {"rope.scaling.original_context_length": 16}
    assert load(convert_to_gguf(original, tmp_path / "tiny.gguf", "phi3", metadata=metadata)).weight_bytes == load(original).weight_bytes


def test_heads_of_other_tasks_are_left_out(tmp_path: Path) -> None:
    masked, classifier = make_tiny_encoder("bert-masked", tmp_path / "a"), make_tiny_encoder("bert", tmp_path / "b", is_classifier=True)
    for files in (masked, classifier):
        assert load(files).config.num_labels == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"is_decoder": True}, "is_decoder"),
        ({"hidden_act": "mish"}, "'mish'"),
        ({"num_attention_heads": 5}, "no multiple of num_attention_heads 5"),
        ({"matryoshka_dimensions": "all"}, "matryoshka_dimensions"),
        ({"hidden_size": None}, "hidden_size is missing"),
    ],
)
def test_configs_that_can_not_be_served(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    files = make_tiny_encoder("bert", tmp_path)
    edit_config(files, **changes)
    with pytest.raises(ModelSourceError, match=words):
        read_pooled(files, False)


def test_overrides_are_laid_over_the_config(tmp_path: Path) -> None:
    files = make_tiny_encoder("bert", tmp_path, is_classifier=True)
    assert read_pooled(files, False, {"is_matryoshka": True}).recipe.matryoshka == ()
    assert read_pooled(files, True, {"id2label": {"1": "middle"}}).recipe.labels == ("LABEL_0", "middle", "LABEL_2")
    assert use_of(files, "auto", "auto", {"architectures": ["BertModel"]}) == "embed"


@pytest.mark.parametrize(
    ("changes", "activation"),
    [
        ({}, "softmax"),
        ({"problem_type": "multi_label_classification"}, "sigmoid"),
        ({"problem_type": "regression"}, "identity"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, "identity"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}, "sigmoid"),
    ],
)
def test_what_becomes_of_scores(tmp_path: Path, changes: dict[str, Any], activation: str) -> None:
    files = make_tiny_encoder("bert", tmp_path, is_classifier=True)
    edit_config(files, **changes)
    assert read_pooled(files, True).recipe.activation == activation


def test_labels_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    files = make_tiny_encoder("bert", tmp_path, is_classifier=True)
    edit_config(files, id2label={"2": "c", "0": "a", "1": "b"})
    assert read_pooled(files, True).recipe.labels == ("a", "b", "c")
    edit_config(files, id2label={"0": "a", "7": "b"})
    with pytest.raises(ModelSourceError, match="from 0 on"):
        read_pooled(files, True)


@pytest.mark.parametrize(
    ("pooling", "modules", "words"),
    [
        ({"pooling_mode_weightedmean_tokens": True}, (), "weightedmean"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, (), "pooling_mode_cls_token"),
        ({}, (), "not given"),
        ({"pooling_mode": "weightedmean"}, (), "weightedmean"),
        (MEAN, ("2_LSTM",), "the module LSTM is not supported"),
    ],
)
def test_modules_that_can_not_be_served(tmp_path: Path, pooling: dict[str, Any], modules: tuple[str, ...], words: str) -> None:
    files = make_tiny_encoder("bert", tmp_path)
    write_sentence_transformer(files, pooling, *modules)
    with pytest.raises(ModelSourceError, match=words):
        read_pooled(files, False)


@pytest.mark.parametrize("path", ["..", "../other", "/etc"])
def test_a_module_s_folder_is_beside_it(tmp_path: Path, path: str) -> None:
    files = make_tiny_encoder("bert", tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "x.Pooling", "path": path}]))
    with pytest.raises(ModelSourceError, match="folder beside it"):
        read_pooled(files, False)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"linear.weight": torch.zeros(8, 7)}, "takes vectors of 7, and those before it have 48"),
        ({"linear.weight": torch.zeros(8)}, "no matrix linear.weight"),
        ({"linear.weight": torch.zeros(8, 48), "linear.bias": torch.zeros(4)}, "linear.bias"),
    ],
)
def test_dense_modules_that_do_not_fit(tmp_path: Path, tensors: dict[str, torch.Tensor], words: str) -> None:
    files = make_tiny_encoder("bert", tmp_path)
    write_sentence_transformer(files, MEAN, "2_Dense")
    (tmp_path / "2_Dense" / "config.json").write_text("{}")
    save_file(tensors, tmp_path / "2_Dense" / "model.safetensors")
    with pytest.raises(ModelSourceError, match=words):
        load(files)
