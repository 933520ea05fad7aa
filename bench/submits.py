"""Clients of several tenants that do not give up: what was not answered is sent again, by its key, to any replica."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import anyio
import httpx2

from bench import Unmeasured

TENANTS: Final = ("north", "east", "south", "west", "centre")
PATIENCE: Final = 60.0  # seconds in which a submit is taken, whatever falls meanwhile
PAUSE_SECONDS: Final = 0.1
SPREAD_SECONDS: Final = 0.4  # the longest between two submits
WITHOUT_HOOK: Final = 5  # every fifth job has no callback_url


@dataclass(slots=True)
class Clients:
    """``tokens`` and ``hooks`` by tenant. ``ids``: the jobs as the door named them; ``told``: those with a hook."""

    addresses: Sequence[str]
    tokens: Mapping[str, str]
    hooks: Mapping[str, str]
    files: Sequence[Path]
    urls: Sequence[str]
    chance: random.Random
    ids: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)
    repeated: int = 0

    async def submit(self, http: httpx2.AsyncClient, jobs: int) -> None:
        """At moments of their own, within a second or two."""
        for _ in range(jobs):
            await anyio.sleep(self.chance.uniform(0, SPREAD_SECONDS))
            number = len(self.ids)
            tenant, hooked = self.chance.choice(TENANTS), number % WITHOUT_HOOK > 0
            hook = {"callback_url": self.hooks[tenant]} if hooked else {}
            asked = {"processing_mode": "multitrack", "external_id": str(number), **hook}
            headers = {"Authorization": f"Bearer {self.tokens[tenant]}", "Idempotency-Key": f"job-{number}"}
            job_id = await self._insist(http, headers, self._content(number, asked))
            self.ids.add(job_id)
            if hooked:
                self.told.add(job_id)

    def _content(self, number: int, asked: dict[str, str]) -> dict[str, Any]:
        """Turn about a URL and an upload."""
        if number % 2:
            return {"json": {**asked, "media_url": self.urls[number // 2 % len(self.urls)]}}
        file = self.files[number // 2 % len(self.files)]
        request = ("request", (None, json.dumps(asked).encode(), "application/json"))
        return {"files": [request, ("file", (file.name, file.read_bytes()))]}

    async def _insist(self, http: httpx2.AsyncClient, headers: Mapping[str, str], content: dict[str, Any]) -> str:
        give_up_at = perf_counter() + PATIENCE
        while perf_counter() < give_up_at:
            try:
                answer = await http.post(f"{self.chance.choice(self.addresses)}/v1/jobs", headers=headers, **content)
            except httpx2.HTTPError:
                pass  # it may have been taken or not: the key knows
            else:
                if answer.is_success:
                    return str(answer.json()["id"])
                if not answer.is_server_error:
                    raise Unmeasured(f"A submit was refused: {answer.text}")
            self.repeated += 1
            await anyio.sleep(PAUSE_SECONDS)
        raise Unmeasured(f"A submit was not taken in {PATIENCE:g} s.")
