"""The server's TLS: its files judged at the start, and watched for renewed ones."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from headway.server.api.file_watch import keep_looking
from headway.server.api.tls.context import SwappableContext, make_context
from headway.server.api.tls.material import Material, judge, read_material
from headway.server.config.tls import TlsConfig
from headway.server.errors import ConfigError

log = logging.getLogger(__name__)


class ServerTls:
    """What a listener needs for HTTPS. ``context`` serves new connections with the newest files that could be used.

    Raises ConfigError when made with files that can't be.
    """

    def __init__(self, tls: TlsConfig) -> None:
        self._tls = tls
        self._material = read_material(tls)
        self._judgement = judge(tls, self._material, datetime.now(UTC))
        self.context = SwappableContext(make_context(tls, self._material))
        self._seen_fault: str | None = None
        self._told_fault: str | None = None
        self._warn()

    @property
    def is_refreshed(self) -> bool:
        return self._tls.enable_ssl_refresh

    def expires_at(self) -> float:
        """When the certificate in use does, in seconds since 1970."""
        return self._judgement.expires_at.timestamp()

    async def keep_fresh(self) -> None:
        """Never returns."""
        await keep_looking(self.look)

    def look(self) -> None:
        """Takes the files over if they are others than those in use, and good. If they are not good, what is in use stays."""
        try:
            material = read_material(self._tls)
            if material != self._material:
                self._take(material)
        except (ConfigError, OSError) as problem:  # OSError: no file can be opened any more, for one
            self._tell("; ".join(str(problem).splitlines()))
        else:
            self._seen_fault = self._told_fault = None

    def _take(self, material: Material) -> None:
        judgement = judge(self._tls, material, datetime.now(UTC))
        self.context.current = make_context(self._tls, material)
        self._material, self._judgement = material, judgement
        log.info("TLS: new connections get the renewed files; the certificate expires on %s", judgement.expires_at.date())
        self._warn()

    def _tell(self, fault: str) -> None:
        """Once, and at the second look only: at the first, files may be half written."""
        if fault == self._seen_fault != self._told_fault:
            log.warning("TLS: the files have changed and cannot be used; those read before stay in use: %s", fault)
            self._told_fault = fault
        self._seen_fault = fault

    def _warn(self) -> None:
        for warning in self._judgement.warnings:
            log.warning("%s", warning)
