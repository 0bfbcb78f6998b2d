"""Options that switch on routes for whoever operates the server, not for its clients."""

from __future__ import annotations

from headway.server.config.fields import Topic, option


class DevelopmentConfig(Topic):
    """Sleep and development."""

    enable_sleep_mode: bool = option(False, "Allow /sleep, /wake_up and /is_sleeping, which give the device's memory back for a while.")
    enable_dev_routes: bool = option(
        False,
        "Allow /reset_prefix_cache, /server_info, /pause, /resume and /is_paused.",
        environment=("VLLM_SERVER_DEV_MODE",),
    )


def development_warnings(development: DevelopmentConfig, has_key: bool) -> list[str]:
    asked = [f"--{name.replace('_', '-')}" for name, value in development if value]
    if not asked or has_key:
        return []
    return [f"{' and '.join(asked)} without --api-key: whoever reaches the port can stop this server from serving"]
