"""Tokens, signatures, headers and what was said are in no log, and in the database no longer than they are needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.installation import Installation
from tests.stages.web import Web, answer, hanging

pytestmark = pytest.mark.postgres

SIGNATURE, HEADER, SAID, PROMPT = "marked-signature", "marked-header", "Marked speech is private.", "marked prompt"
SECRETS = "SELECT secrets::text, request::text FROM antiphon.jobs WHERE id = $1"


def test_secrets_are_in_no_log_and_leave_the_database_with_the_job(
    installation: Installation, media: Path, web: Web
) -> None:
    installation.settings |= {"TELEMETRY__LOG_LEVEL": "DEBUG", "SHUTDOWN__GRACE_SECONDS": "0"}
    installation.speak(lines=[SAID])
    web.answers |= {"/kept": answer((media / "jfk.flac").read_bytes()), "/lost": answer(status=403), "/slow": hanging}
    headers = {"X-Key": HEADER}
    with installation.serving() as service:
        slow = service.submit(web.url(f"/slow?{SIGNATURE}"), media_headers=headers, prompt=PROMPT)
        service.begun(slow)
        [held] = installation.rows(SECRETS, slow)
        assert SIGNATURE in held["secrets"]
        assert HEADER in held["secrets"]
        assert SIGNATURE not in held["request"]
        kept = service.submit(web.url(f"/kept?{SIGNATURE}"), media_headers=headers, prompt=PROMPT)
        lost = service.submit(web.url(f"/lost?{SIGNATURE}"), media_headers=headers)
        assert service.completed(kept)["result"]["text"] == SAID
        assert SIGNATURE not in str(service.ended(lost))
        assert [installation.rows(SECRETS, job_id)[0]["secrets"] for job_id in (kept, lost)] == [None, None]
        service.http.get(f"/v1/jobs/{kept}", params={"token": SIGNATURE})
        service.post(f"file:///etc/{SIGNATURE}", media_headers=headers)
        service.http.post("/v1/jobs", content=f"not json {SIGNATURE}")
        service.process.terminate()
        assert service.ends() == 0
    told = service.log.read_text() + "".join(log.read_text() for log in installation.data.glob("postgres-*/log"))
    assert "request-answered" in told
    assert [mark for mark in (SIGNATURE, HEADER, SAID, PROMPT, service.token) if mark in told] == []
    assert [asked.headers["x-key"] for asked in web.asked if asked.path.startswith("/kept")] == [HEADER]
