"""Submitting once, however often it is sent: what a client calls a submit, and what is compared."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Final

from quart import request

from pipeline.errors import InvalidRequest
from pipeline.jobs import JobRequest
from pipeline.store import IdempotencyKey
from pipeline.store.rules import divide

HEADER: Final = "Idempotency-Key"
KEY: Final = re.compile("[!-~]{1,128}")


def key_name() -> str | None:
    """The request's own, if it has one. Raises ``InvalidRequest`` for one that is malformed."""
    given = request.headers.getlist(HEADER)
    if not given:
        return None
    if len(given) > 1 or not KEY.fullmatch(given[0]):
        raise InvalidRequest(f"{HEADER} is 1 to 128 visible ASCII characters, sent once.")
    return given[0]


def key_of(name: str, asked: JobRequest, files: Sequence[bytes]) -> IdempotencyKey:
    """``files``: a digest of each file's bytes.

    The query of ``media_url`` and ``media_headers`` are left out: a URL that was signed anew is the same request. So is
    every member with its default, for the sake of a release that knows one more.
    """
    shown, _ = divide(asked)
    compared = shown.model_copy(update={"callback_url": asked.callback_url})
    told = json.dumps(compared.model_dump(mode="json", exclude_defaults=True), sort_keys=True).encode()
    parts = [hashlib.sha256(told).digest(), *files]
    return IdempotencyKey(name, hashlib.sha256(b"".join(parts)).digest())
