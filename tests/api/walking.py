"""A walk of one tenant along every route and method, in two worlds: in one there is another tenant, in the other none.

The very same requests are answered the very same, with ids, cursors, keys and files that are the other's in the one
world and nobody's in the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from quart import Quart

from pipeline.errors import MediaCorrupt
from pipeline.jobs import Problem
from pipeline.settings import Settings
from pipeline.store import Store
from tests.api.test_reading import claim_of
from tests.api.test_upload import HEADERS, asking, form, part
from tests.api.visiting import URL, bearer, complete, door, make_segment, make_transcript

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW")
QUEUE: Final = "/v1/queue"
# What each route is asked besides its bare path. One that is not here yet is a route that nobody has thought about.
QUERIES: Final = {
    "/v1/jobs": ("", "?cursor={cursor}", "?external_id=theirs", "?status=completed", "?limit=1"),
    "/v1/jobs/<uuid:job_id>": ("",),
    "/v1/jobs/<uuid:job_id>/cancel": ("",),
    "/v1/jobs/<uuid:job_id>/transcript": ("", "?format=srt", "?track=downmix"),
    QUEUE: ("",),
    "/v1/engine": ("",),
    "/livez": ("",),
    "/readyz": ("",),
    "/metrics": ("",),
    "/openapi.json": ("",),
}
OF_THE_PROCESS: Final = ("/metrics", "/v1/engine")  # numbers there change with every look
HOOK: Final = "https://hooks.test/ended"
UPLOAD: Final = form(part("file", b"RIFF...."), asking(external_id="theirs", callback_url=HOOK))
JSON: Final = b'{"media_url": "%s", "external_id": "theirs", "callback_url": "%s"}' % (URL.encode(), HOOK.encode())
# ids, times and cursors
NEW: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{4}-\d\d-\d\dT[\d:.]+Z|\"[\w-]{44}\"")
NUMBER: Final = re.compile(r"\d[\d.e+-]*")
# The place in the queue and when it comes are about the queue as a whole: all that one tenant learns of the others.
OF_THE_QUEUE: Final = re.compile(r'("ahead"|"starts_in_seconds"):(null|[\d.e+-]+)')
AGE: Final = re.compile(r'("oldest_seconds"):[\d.e+-]+')


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


SUBMISSIONS: Final = [
    Asked("POST", "/v1/jobs", body, {**kind, **key})
    for body, kind in ((JSON, {"Content-Type": "application/json"}), (UPLOAD, HEADERS))
    for key in ({}, {"Idempotency-Key": "json"}, {"Idempotency-Key": "form"}, {"Idempotency-Key": "mine"})
]


class World:
    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.app = door(store, settings)
        self.client: Any = self.app.test_client()  # by its type it would always be given json

    async def populate(self) -> tuple[list[str], str]:
        """globex does all that a tenant can do; the ids of its jobs, one in each state, and a cursor of its."""
        ids = [await self._submit(SUBMISSIONS[1]), await self._submit(SUBMISSIONS[6])]
        await complete(self.store, make_transcript(make_segment(0, "Theirs")))
        await self.store.queue().fail(await claim_of(self.store), Problem.of(MediaCorrupt()), retry_in=None)
        ids += [await self._submit(SUBMISSIONS[0]) for _ in range(3)]
        await claim_of(self.store)
        await self.client.post(f"/v1/jobs/{ids[-1]}/cancel", headers=bearer("globex"))
        page = await (await self.client.get("/v1/jobs?limit=2", headers=bearer("globex"))).get_json()
        return ids, str(page["next_cursor"])

    async def _submit(self, asked: Asked) -> str:
        headers = bearer("globex", **asked.headers)
        answer = await self.client.post(asked.path, headers=headers, data=asked.body)
        return str((await answer.get_json())["id"])

    async def seen(self, tenant: str) -> list[Any]:
        """All that a tenant sees of its own."""
        headers = bearer(tenant, **{"X-Request-ID": "seen"})
        page = await (await self.client.get("/v1/jobs", headers=headers)).get_json()
        paths = [f"{job['links']['self']}{leaf}" for job in page["items"] for leaf in ("", "/transcript")]
        return [page, *[await (await self.client.get(path, headers=headers)).get_json() for path in paths]]

    async def told(self, asked: Asked) -> tuple[int, dict[str, str], str]:
        """What acme is answered, without what is new in every answer."""
        headers = bearer("acme", **{"X-Request-ID": "walk", **asked.headers})
        answer = await self.client.open(asked.path, method=asked.method, headers=headers, data=asked.body)
        text = NEW.sub("NEW", (await answer.get_data()).decode())
        headers = {name.lower(): NEW.sub("NEW", value) for name, value in answer.headers.items()}
        if asked.path in OF_THE_PROCESS:
            text = NUMBER.sub("N", text)
        if asked.path == QUEUE:
            text = AGE.sub(r"\1:N", OF_THE_QUEUE.sub(r"\1:N", text))
        del headers["content-length"]  # of a text that is compared
        return answer.status_code, headers, text


def walk(app: Quart, ids: Sequence[str], cursor: str) -> Iterator[Asked]:
    for rule in sorted(app.url_map.iter_rules(), key=str):
        assert rule.arguments <= {"job_id"}
        for job_id in ids if rule.arguments else ("",):
            for query in QUERIES[rule.rule]:
                path = rule.rule.replace("<uuid:job_id>", job_id) + query.format(cursor=cursor)
                yield from (Asked(method, path) for method in METHODS if (method, path) != ("POST", "/v1/jobs"))


async def find_no_difference(shared: World, alone: World) -> None:
    ids, cursor = await shared.populate()
    before = await shared.seen("globex")
    statuses = {job["status"] for job in before[0]["items"]}
    assert statuses == {"pending", "running", "completed", "failed", "cancelled"}
    with_jobs = [Asked("GET", path) for path in ("/v1/jobs", "/v1/jobs?limit=2", QUEUE)]
    every = [*walk(shared.app, ids, cursor), *SUBMISSIONS, *with_jobs]
    for asked in every:
        assert await shared.told(asked) == await alone.told(asked), asked
    assert await shared.seen("globex") == before
    assert len(await alone.seen("acme")) > 1
    assert '"oldest_seconds":N' in (await alone.told(Asked("GET", QUEUE)))[2]  # something waits
    assert "Theirs" in str(before)
    assert "Theirs" not in str(await shared.seen("acme"))
