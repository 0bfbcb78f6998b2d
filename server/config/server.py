"""The tree of all options."""

from __future__ import annotations

from headway.server.config.cache import CacheConfig
from headway.server.config.fields import Topic
from headway.server.config.http import HttpConfig
from headway.server.config.model import ModelConfig
from headway.server.config.observability import ObservabilityConfig
from headway.server.config.scheduler import SchedulerConfig


class ServerConfig(Topic):
    """Everything a user may set, as asked; frozen. What was decided from it is config/plan.py's and EngineInfo's."""

    model: ModelConfig = ModelConfig()
    cache: CacheConfig = CacheConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    http: HttpConfig = HttpConfig()
    observability: ObservabilityConfig = ObservabilityConfig()
