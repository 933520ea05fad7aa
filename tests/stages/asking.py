"""On whose behalf windows are asked for, where a test has no claim."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from pipeline.jobs import Tenant
from stages.engines.room import Asker

ACME: Final = Asker(Tenant("acme"), UUID(int=1), "0:0")
