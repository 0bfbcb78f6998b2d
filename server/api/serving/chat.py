"""Chat completions: messages to a prompt, pieces of answers to chat.completion objects and chunks."""

from __future__ import annotations

from typing import Any

from headway.server.api.deps import AppState
from headway.server.api.json_text import encode
from headway.server.api.protocol.chat import ChatCompletionRequest
from headway.server.api.serving.answer import Answer
from headway.server.api.serving.call import Call
from headway.server.api.serving.choices import ChoiceDelta
from headway.server.api.serving.chunks import ChunkWriter
from headway.server.api.serving.generate import Usage
from headway.server.api.serving.kv_transfer import answered_transfer
from headway.server.api.serving.logprobs import LogprobFormat
from headway.server.api.serving.turn import Turn, open_turn


async def open_chat(state: AppState, call: Call, request: ChatCompletionRequest) -> Answer:
    """Raises as open_turn does."""
    return await open_turn(state, call, request, f"chatcmpl-{call.id_of(request)}", _ChatFormat)


class _ChatFormat:
    """See AnswerFormat."""

    def __init__(self, turn: Turn) -> None:
        http = turn.state.config.http
        self._request = request = turn.request
        self._prompt = turn.prompt
        self._tokenizer = turn.model.tokenizer
        self._logprobs = LogprobFormat.of(http, request, turn.model.tokenizer)
        self._public_id = turn.public_id
        self._name = turn.name
        self._fingerprint = turn.state.fingerprint
        self._created = turn.created
        last = request.messages[-1]
        self._role = http.response_role if request.add_generation_prompt and not request.continue_final_message else last["role"]
        self._echoed = _text_of(last) if request.echo and last["role"] == self._role else ""
        self._writer = ChunkWriter("chat.completion.chunk", turn.public_id, turn.created, turn.name, self._fingerprint)
        self._begun: set[int] = set()
        self._choice_of_tools = request.wanted_tools
        self._calls = turn.call_writer()
        self._have_called: set[int] = set()  # choices
        has_old_name = turn.state.config.chat.send_reasoning_content
        self._reasoning_names = ("reasoning", "reasoning_content") if has_old_name else ("reasoning",)

    def chunks(self, delta: ChoiceDelta, usage: Usage | None) -> list[bytes]:
        if usage is None and delta.is_plain and delta.index in self._begun and not self._request.return_token_ids:
            return [self._writer.plain(delta.index, b'"delta":{"content":', delta.text, b"}")]
        chunks = []
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            chunks.append(self._first_chunk(delta, usage))
        if delta.tool_calls:
            self._have_called.add(delta.index)
        logprobs = self._logprobs.chat(delta.logprobs) if delta.logprobs else None
        extra = {"token_ids": delta.token_ids} if self._request.return_token_ids and delta.token_ids else None
        contents = self._contents(delta)
        if not contents and (logprobs or extra or delta.finish_reason):
            contents = [{}] if delta.finish_reason else [{"content": ""}]
        for at, content in enumerate(contents):
            is_first, is_last = at == 0, at == len(contents) - 1
            chunks.append(
                self._writer.choice(
                    delta.index,
                    b'"delta":' + encode(content),
                    logprobs=logprobs if is_first else None,
                    finish_reason=self._finish_reason(delta) if is_last else None,
                    stop_reason=delta.stop_reason,
                    extra=extra if is_first else None,
                    usage=usage,
                )
            )
        return chunks

    def _contents(self, delta: ChoiceDelta) -> list[dict[str, Any]]:
        """What a piece says, as the deltas of as many chunks as it takes."""
        said: dict[str, Any] = dict.fromkeys(self._reasoning_names, delta.reasoning) if delta.reasoning else {}
        if delta.text:
            said["content"] = delta.text
        calls = [{"tool_calls": [entry]} for entry in self._calls.streamed(delta.tool_calls)]
        return [said, *calls] if said else calls

    def _finish_reason(self, delta: ChoiceDelta) -> str | None:
        """OpenAI says tool_calls where the model has chosen to call, and stop where it was told which function."""
        has_chosen = delta.index in self._have_called and self._choice_of_tools.mode != "named"
        return "tool_calls" if has_chosen and delta.finish_reason == "stop" else delta.finish_reason

    def _first_chunk(self, delta: ChoiceDelta, usage: Usage | None) -> bytes:
        """The role; it goes with the first token, so that time to first token means what it says."""
        begun = self._echoed or (None if self._choice_of_tools.is_forced else "")
        content = b'"delta":' + encode({"role": self._role, "content": begun})
        extra: dict[str, Any] = {"prompt_token_ids": self._prompt.token_ids} if self._request.return_token_ids else {}
        if self._request.return_prompt_text:
            extra["prompt_text"] = self._prompt.shown(self._tokenizer)
        return self._writer.choice(delta.index, content, logprobs=None, finish_reason=None, stop_reason=None, extra=extra, usage=usage)

    def usage_chunk(self, usage: Usage, metrics: dict[str, Any] | None) -> bytes:
        return self._writer.usage(usage, metrics)

    def body(self, choices: list[ChoiceDelta], usage: Usage) -> dict[str, Any]:
        prompt_logprobs = None
        if self._request.prompt_logprobs is not None and choices[0].prompt_logprobs is not None:
            prompt_logprobs = self._logprobs.prompt(choices[0].prompt_logprobs)
        return {
            "id": self._public_id,
            "object": "chat.completion",
            "created": self._created,
            "model": self._name,
            "choices": [self._choice(choice) for choice in choices],
            "service_tier": None,
            "system_fingerprint": self._fingerprint,
            "usage": usage.as_dict(),
            "prompt_logprobs": prompt_logprobs,
            "prompt_token_ids": self._prompt.token_ids if self._request.return_token_ids else None,
            "prompt_text": self._prompt.shown(self._tokenizer) if self._request.return_prompt_text else None,
            "kv_transfer_params": answered_transfer(choices),
        }

    def _choice(self, choice: ChoiceDelta) -> dict[str, Any]:
        if choice.tool_calls:
            self._have_called.add(choice.index)
        return {
            "index": choice.index,
            "message": self._message(choice),
            "logprobs": self._logprobs.chat(choice.logprobs) if choice.logprobs is not None else None,
            "finish_reason": self._finish_reason(choice),
            "stop_reason": choice.stop_reason,
            "token_ids": choice.token_ids if self._request.return_token_ids else None,
        }

    def _message(self, choice: ChoiceDelta) -> dict[str, Any]:
        message = {
            "role": self._role,
            "content": (self._echoed + choice.text) or (None if choice.tool_calls or choice.reasoning else ""),
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            **dict.fromkeys(self._reasoning_names, choice.reasoning or None),
        }
        return message | {"tool_calls": self._calls.whole(choice.tool_calls)} if choice.tool_calls else message


def _text_of(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return content or ""
