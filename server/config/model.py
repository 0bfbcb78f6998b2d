"""Options about which model is served and as what."""

from __future__ import annotations

import re
from typing import Any, Literal

from headway.server.config.fields import Topic, option

AskedQuantization = Literal[
    "none", "int8", "int4", "fp8", "gguf", "compressed-tensors", "awq", "awq_marlin", "gptq", "gptq_marlin", "bitsandbytes", "mxfp4"
]
Dtype = Literal["auto", "float32", "float", "bfloat16", "float16", "half"]
_ARCHIVES = (".tar.gz", ".tgz", ".tar")
_TOKEN = re.compile(r"[\x21-\x7e]+")


class ModelConfig(Topic):
    """Model."""

    model: str | None = option(
        None,
        "What to serve: `demo`, a Hub id, a local directory with safetensors, a .gguf file, a .tar.gz of one of these, or s3://BUCKET/PREFIX/.",
        positional=True,
        metavar="MODEL",
        location=True,
    )
    served_model_name: list[str] = option(
        [], "Names accepted in a request's `model`; the first is shown in answers. Default: the model as given."
    )
    tokenizer: str | None = option(
        None, "Tokenizer directory, Hub id or s3://BUCKET/PREFIX/, when it is not the model's own.", location=True
    )
    tokenizer_revision: str | None = option(
        None, "Branch, tag or commit of a Hub tokenizer: that of --tokenizer, or of the model's own repository."
    )
    revision: str | None = option(None, "Branch, tag or commit of a Hub model.")
    hf_token: str | None = option(None, "Hub token for gated models.", secret=True, environment=("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"))
    download_dir: str | None = option(None, "Where Hub models are kept; default: the Hub cache.", location=True)
    load_format: Literal["auto", "safetensors", "gguf", "dummy"] = option(
        "auto", "Weight format; `dummy` makes random weights from config.json, for measuring speed."
    )
    dtype: Dtype = option(
        "auto", "Type of weights and activations. auto: the checkpoint's on a GPU; on a CPU what the chip computes fastest."
    )
    quantization: AskedQuantization | None = option(
        None,
        "int8, int4, fp8: weights are rounded so, tensor by tensor, as they are loaded; activations to 8 bits in each step, but for "
        "int4 on a GPU and for fp8 in models of fewer than 2,048 channels. fp8 is for GPUs. gguf: those of a quantised GGUF as the file "
        "has them; activations to 8 bits on a CPU alone. "
        "Unset: gguf for one on a GPU, and on a CPU with dtype auto (int8 without the compiled kernels on a CPU without bf16 products), "
        "else none. "
        "A quantised checkpoint is known by its config.json: a name of its format is checked against that, none dequantises it.",
        short=("-q",),
    )
    model_impl: Literal["auto", "headway", "transformers"] = option(
        "auto",
        "Whose model code runs. auto: Headway's own for the families that it has, else that of the transformers library, over Headway's "
        "attention, cache, linear layers and experts. vllm means headway.",
        synonyms=(("vllm", "headway"),),
        refused=(("terratorch", "it is for models of images, and Headway serves text: use auto"),),
    )
    trust_remote_code: bool = option(
        False,
        "Run the Python code that comes with a model whose class neither Headway nor transformers has. It can do whatever the server's "
        "user can.",
    )
    code_revision: str | None = option(
        None, "Branch, tag or commit of that code, where config.json names a Hub repository for it other than the model's."
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "Where to run; auto takes the GPU if there is one.")
    max_model_len: int | Literal["auto"] | None = option(
        None,
        "Context length in tokens, prompt and output together. Default: the model's; -1 or auto: the longest that fits the KV cache.",
        human=True,
    )
    allow_long_max_model_len: bool = option(
        False,
        "Take a --max-model-len above the model's own limit, beyond which its answers get worse.",
        environment=("VLLM_ALLOW_LONG_MAX_MODEL_LEN",),
    )
    max_logprobs: int = option(20, "Most logprobs that a request may ask for; -1: the whole vocabulary.", ge=-1)
    seed: int = option(0, "Seed of the requests that bring none.")
    generation_config: str = option(
        "auto",
        "Default sampling: auto takes the model's generation_config.json, vllm ignores it, else a directory that holds one.",
        location=True,
    )
    override_generation_config: dict[str, Any] = option({}, 'JSON laid over the generation config, such as {"temperature": 0.2}.')
    skip_model_name_validation: bool = option(
        False, "Answer requests for any model name, as the served model.", environment=("VLLM_SKIP_MODEL_NAME_VALIDATION",)
    )
    hf_overrides: dict[str, Any] = option({}, 'JSON laid over the model\'s config.json, such as {"is_matryoshka": true}.')
    rope_scaling: dict[str, Any] = option(
        {},
        'JSON laid over the rope parameters of config.json, such as {"rope_type": "yarn", "factor": 4.0}; the same as rope_parameters in '
        "--hf-overrides.",
        aliases=("rope-parameters",),
    )
    rope_theta: float | None = option(None, "Base of the rotary embedding, in the place of config.json's.", gt=0)
    ignore_patterns: list[str] = option([], "Files of a Hub repository that are not fetched, as shell patterns such as consolidated*.")

    @property
    def config_overrides(self) -> dict[str, Any]:
        """All that is laid over config.json; what an option of its own says goes before --hf-overrides."""
        rope = {**self.rope_scaling} if self.rope_theta is None else {**self.rope_scaling, "rope_theta": self.rope_theta}
        if not rope:
            return self.hf_overrides
        return {**self.hf_overrides, "rope_parameters": {**(self.hf_overrides.get("rope_parameters") or {}), **rope}}

    @property
    def tokenizer_source(self) -> str | None:
        """Where the tokenizer is that is not among the files of the model as they were fetched."""
        return self.model if self.tokenizer is None and self.tokenizer_revision is not None else self.tokenizer


def model_problems(model: ModelConfig) -> list[str]:
    found = []
    if model.hf_token is not None and not _TOKEN.fullmatch(model.hf_token):
        # HTTP libraries refuse such a header with a text that shows it, in a form that is not masked.
        found.append("--hf-token holds a blank, a line break or a character outside ASCII, which no token does (it is not shown)")
    length = model.max_model_len
    if isinstance(length, int) and length < 1 and length != -1:
        found.append(f"--max-model-len must be at least 1, or -1 or auto for the longest that fits, got {length}")
    names = model.served_model_name
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        found.append(f"--served-model-name must not repeat a name, got {', '.join(doubles)} more than once")
    if model.code_revision is not None and not model.trust_remote_code:
        found.append("--code-revision names code that only runs with --trust-remote-code: add that, or leave it out")
    if model.trust_remote_code and (model.model or "").startswith("s3://") and not (model.model or "").endswith(_ARCHIVES):
        found.append(
            "--trust-remote-code runs code from a directory, an archive or the Hub, and not what lies on S3: give it as an archive there"
        )
    if model.trust_remote_code and model.model_impl == "headway":
        found.append("--trust-remote-code is for models that run through transformers, and --model-impl is headway: leave one of them out")
    return found
