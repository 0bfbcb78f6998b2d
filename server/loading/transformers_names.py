"""A checkpoint under the names, and with the tensors, that the modules of `transformers` have today."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from headway.server.errors import ModelSourceError
from headway.server.loading.checkpoint import Checkpoint, CheckpointTensor
from headway.server.models.expert_names import ExpertStack


class TransformersNames:
    """Without the tensors that the class says it has no use for. Transformers' own changes of older checkpoints are applied: of names by
    it, and of tensors, which it puts together when they are read. One expert's, which goes into a stack of ours, stays by itself."""

    def __init__(
        self, checkpoint: Checkpoint, causal: Any, stacks: Mapping[str, ExpertStack], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        """``stacks``: of our experts, by name. ``shapes``: of the tensors that the model has a place for."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter

        self.origin = checkpoint.origin
        self._checkpoint = checkpoint
        self._stacks, self._shapes = stacks, shapes
        changes = get_model_conversion_mapping(causal)
        self._converters: list[Any] = [change for change in changes if isinstance(change, WeightConverter)]
        self._renamings: list[Any] = [change for change in changes if not isinstance(change, WeightConverter)]
        self._class = type(causal).__name__
        self._unused = [re.compile(pattern) for pattern in causal._keys_to_ignore_on_load_unexpected or ()]
        self._prefix = f"{causal.base_model_prefix}."
        self._beside = tuple(f"{name}." for name, _ in causal.named_children() if f"{name}." != self._prefix)

    def tensors(self) -> list[CheckpointTensor]:
        found = [replace(_with_a_dimension(tensor), name=self._renamed(tensor.name)) for tensor in self._checkpoint.tensors()]
        if not any(tensor.name.startswith(self._prefix) for tensor in found):  # of the body alone
            found = [replace(t, name=t.name if t.name.startswith(self._beside) else self._prefix + t.name) for t in found]
        found = [tensor for tensor in found if not any(pattern.search(tensor.name) for pattern in self._unused)]
        return list(self._converted(found)) if self._converters else found

    def _renamed(self, name: str) -> str:
        for renaming in self._renamings:
            name, _ = renaming.rename_source_key(name)
        return name

    def _converted(self, tensors: list[CheckpointTensor]) -> Iterator[CheckpointTensor]:
        parts: dict[str, list[tuple[CheckpointTensor, Any, str]]] = {}  # of each tensor that is put together
        for tensor in tensors:
            target, converter, pattern = self._change_of(tensor.name)
            if converter is None:
                yield tensor
            elif (own := self._of_an_expert(tensor.name, target, converter, pattern)) is not None:
                yield replace(tensor, name=own)
            else:
                parts.setdefault(target, []).append((tensor, converter, pattern))
        for target, sources in parts.items():
            yield self._put_together(target, sources)

    def _change_of(self, name: str) -> tuple[str, Any, str]:
        """(name of what it goes into, how, the pattern that it has there); None where it is no part of another."""
        for converter in self._converters:
            target, pattern = converter.rename_source_key(name)
            if pattern is not None:
                return target, converter, pattern
        return name, None, ""

    def _of_an_expert(self, name: str, target: str, converter: Any, pattern: str) -> str | None:
        """Its name as one of ours, where it is a matrix of one expert that is merely stacked, and put beside another."""
        from transformers.core_model_loading import Concatenate, MergeModulelist

        stack = self._stacks.get(target)
        kinds = [type(operation) for operation in converter.operations]
        if (
            stack is None
            or kinds not in ([MergeModulelist], [MergeModulelist, Concatenate])
            or len(stack.parts) != len(converter.source_patterns)
        ):
            return None
        number = re.search(re.escape(pattern).replace(r"\*", r"(\d+)"), name)
        return None if number is None else stack.parts[converter.source_patterns.index(pattern)].replace("{e}", number.group(1))

    def _put_together(self, target: str, sources: list[tuple[CheckpointTensor, Any, str]]) -> CheckpointTensor:
        shape = self._shapes.get(target)
        if shape is None or len(sources[0][1].target_patterns) > 1:
            raise ModelSourceError(
                f"The checkpoint {self.origin} has {sources[0][0].name}, which {self._class} takes apart for several tensors, "
                "and that is not done; use a checkpoint that has those."
            )
        return CheckpointTensor(target, shape, partial(_read_together, target, shape, sources, self.origin))


def _read_together(target: str, shape: tuple[int, ...], sources: list[tuple[CheckpointTensor, Any, str]], origin: str) -> Tensor:
    """Raises ModelSourceError where the parts don't make a tensor of this shape."""
    from transformers.core_model_loading import dot_natural_key

    known = sources[0][1]
    try:
        converter = type(known)(list(known.source_patterns), list(known.target_patterns), known.operations)
        for tensor, _, pattern in sorted(sources, key=lambda source: dot_natural_key(source[0].name)):
            converter.add_tensor(target, tensor.name, pattern, tensor.read)
        found = next(iter(converter.convert(target).values()))
    except Exception as problem:  # whatever transformers thinks of anybody's file
        raise _misfit(target, origin, f"can't be put together ({type(problem).__name__}: {problem})") from problem
    whole: Tensor = found[0] if isinstance(found, list) else found
    for tensor, *_ in sources:
        tensor.done()
    if whole.shape != shape:
        raise _misfit(target, origin, f"have the shape {list(whole.shape)} together, but the model's config asks for {list(shape)}")
    return whole


def _misfit(target: str, origin: str, why: str) -> ModelSourceError:
    return ModelSourceError(f"The parts of {target} in the checkpoint {origin} {why}; check that config and weights belong together.")


def _with_a_dimension(tensor: CheckpointTensor) -> CheckpointTensor:
    """Weights have one at least; a number without any is one of a single element."""
    return tensor if tensor.shape else replace(tensor, shape=(1,), read=lambda: tensor.read().view(1))
