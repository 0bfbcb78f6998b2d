"""A checkpoint under the names of its family, whichever of the usual ways it was saved in."""

from __future__ import annotations

from dataclasses import replace

from headway.server.loading.checkpoint import Checkpoint, CheckpointTensor


class RenamedCheckpoint:
    """With the prefix of the body's tensors, and with today's names of layer norms. ``heads``: beginnings of names that stand beside the
    body."""

    def __init__(self, checkpoint: Checkpoint, prefix: str, heads: tuple[str, ...] = ()) -> None:
        self.origin = checkpoint.origin
        self._checkpoint = checkpoint
        self._prefix = prefix
        self._heads = heads

    def tensors(self) -> list[CheckpointTensor]:
        found = self._checkpoint.tensors()
        is_bare = not any(tensor.name.startswith(self._prefix) for tensor in found)
        return [replace(tensor, name=self._renamed(tensor.name, is_bare)) for tensor in found]

    def _renamed(self, name: str, is_bare: bool) -> str:
        # The first BERT checkpoints have TensorFlow's words for a layer norm's weight and bias.
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        return self._prefix + name if is_bare and not name.startswith(self._heads) else name
