"""A model on this machine: whether its files are whole, and what the server would make of them."""

from __future__ import annotations

from collections.abc import Callable

from headway.container.check.model_look import ModelLook
from headway.container.check.texts import needs_conversion, template_problems, templates_of, tokenizer_problems, unreadable_texts
from headway.container.check.weights import safetensors_problems
from headway.server.config.server import ServerConfig
from headway.server.loading.gguf_file import GgufFile
from headway.server.source.files import ModelFiles
from headway.server.source.gguf_parts import parts_of
from headway.server.text.chat_template import read_chat_template
from headway.server.text.gguf_tokenizer import chat_templates


def look_at_files(look: ModelLook, files: ModelFiles, config: ServerConfig) -> None:
    """``files`` may be incomplete. Raises ModelSourceError."""
    look.files = files
    if files.kind == "gguf":
        _look_at_gguf(look, files, config)
    elif unreadable := unreadable_texts(files.path):
        look.problems += unreadable
    else:
        _look_at_directory(look, files, config)


def _look_at_directory(look: ModelLook, files: ModelFiles, config: ServerConfig) -> None:
    look.sizes = {path.name: path.stat().st_size for path in sorted(files.path.iterdir()) if path.is_file()}
    look.keep_problems(lambda: look.read_shape(config, files))
    if config.model.load_format != "dummy":
        look.keep_problems(lambda: look.problems.extend(safetensors_problems(files.path)))
    if config.model.tokenizer is None:
        look.problems += tokenizer_problems(files.path)
        if needs_conversion(files.path):
            look.warnings.append(
                f"{files.path} has no tokenizer.json: what it has is converted when the server starts, which takes seconds; "
                "save it with `AutoTokenizer.from_pretrained(...).save_pretrained(...)` of transformers"
            )
    else:
        look.not_checked.append(f"the tokenizer {config.model.tokenizer} was not looked at")
    look.keep_problems(lambda: _look_at_templates(look, files, config, lambda: templates_of(files.path)))


def _look_at_gguf(look: ModelLook, files: ModelFiles, config: ServerConfig) -> None:
    look.sizes = {path.name: path.stat().st_size for path in map(files.path.with_name, parts_of(files.path.name))}
    file = GgufFile(files.path)
    look.keep_problems(file.require_whole)
    look.keep_problems(lambda: look.read_shape(config, files))
    if config.model.tokenizer is None and "tokenizer.ggml.model" not in file.metadata:
        look.problems.append(f"{files.path} has no tokenizer in its metadata; name one with --tokenizer, or convert the model anew.")
    look.keep_problems(lambda: _look_at_templates(look, files, config, lambda: chat_templates(file.metadata)))


def _look_at_templates(look: ModelLook, files: ModelFiles, config: ServerConfig, own: Callable[[], dict[str, str]]) -> None:
    if look.shape is not None and look.shape.use != "generate":
        return
    given = config.chat.chat_template
    sources = {"default": read_chat_template(given)} if given else own()
    look.problems += template_problems(sources, "--chat-template" if given else str(files.path))
    if not sources:
        look.warnings.append(
            "the model has no chat template, so requests with messages (/v1/chat/completions) are refused: give one with --chat-template"
        )
