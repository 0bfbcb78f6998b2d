"""What the model's files say of pooling, with what the user asked for laid over it."""

from __future__ import annotations

from dataclasses import replace

from headway.server.config.pooling import PoolerChoice
from headway.server.errors import ConfigError
from headway.server.loading.pooling_recipe import PoolingRecipe
from headway.server.models.base import LoadedModel
from headway.server.types import PoolingInfo, PoolingTask


def chosen_recipe(recipe: PoolingRecipe, choice: PoolerChoice, is_classifier: bool) -> PoolingRecipe:
    recipe = replace(recipe, kind=choice.kind or recipe.kind, dimensions=choice.dimensions)
    if choice.use_activation is None:
        return recipe
    if not is_classifier:
        return replace(recipe, normalizes=choice.use_activation)
    return recipe if choice.use_activation else replace(recipe, activation="identity")


def pooling_info(recipe: PoolingRecipe, choice: PoolerChoice, loaded: LoadedModel) -> PoolingInfo:
    """Raises ConfigError for a task or dimensions that the model does not have."""
    own: tuple[PoolingTask, ...] = ("classify",) if recipe.labels else ("embed", "token_embed")
    if choice.task is not None and choice.task not in own:
        raise ConfigError([f"--pooler-config: task {choice.task} is none of this model's, which are {', '.join(own)}"])
    tasks = own if choice.task is None else (choice.task,)
    dimension = loaded.projections[-1].weight.shape[0] if loaded.projections else loaded.config.hidden_size
    if choice.dimensions is not None:
        if recipe.labels or recipe.matryoshka is None or choice.dimensions > dimension:
            raise ConfigError(
                [f"--pooler-config: dimensions {choice.dimensions} can't be had: the model's vectors have {dimension} and can't be cut"]
            )
        dimension = choice.dimensions
    return PoolingInfo(tasks, dimension, recipe.matryoshka, recipe.labels)
