"""Where a rank stands among those of its engine: which stage of the layers it computes, and which share of each layer. No torch here.

With S stages of R ranks each, rank 0 of which is the engine's own process:

    stage        0                  1           ..    S - 1
    ranks   (S-1) R .. S R - 1                        0 .. R - 1
            embedding, layers   layers                layers, norm, head

Stages count from the embedding on, ranks from the last stage on: rank 0 schedules and samples, so it has to have the logits. Where the
layers of a stage are there several times, for shares of the prompts, each of them has consecutive ranks.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PipelineStage:
    """One of ``size`` consecutive parts of a model's layers. Of size 1: the whole model."""

    index: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """It starts from token ids; the others from hidden states."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """It ends in logits."""
        return self.index == self.size - 1

    def layers(self, num_layers: int) -> range:
        """Those of this stage, of the model's ``num_layers``, at least one. Where they can't be shared evenly the stages between the first
        and the last have one more, which have neither embedding nor head; then the first, never the last."""
        assert num_layers >= self.size, f"{num_layers} layers are not enough for {self.size} stages"
        even, rest = divmod(num_layers, self.size)
        larger = [*range(1, self.size - 1), 0][:rest]
        start = even * self.index + sum(index < self.index for index in larger)
        return range(start, start + even + (self.index in larger))


WHOLE = PipelineStage()


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Of rank ``rank`` where each of ``num_stages`` stages is cut over ``tensor_size`` ranks, ``num_prompt_shares`` times."""

    rank: int
    tensor_size: int
    num_stages: int = 1
    num_prompt_shares: int = 1

    @property
    def num_ranks(self) -> int:
        return self.stage_size * self.num_stages

    @property
    def stage_size(self) -> int:
        return self.tensor_size * self.num_prompt_shares

    @property
    def stage_rank(self) -> int:
        """Among the ranks of its stage; those of the same number in each stage pass hidden states on to each other."""
        return self.rank % self.stage_size

    @property
    def stage(self) -> PipelineStage:
        return PipelineStage(self.num_stages - 1 - self.rank // self.stage_size, self.num_stages)
