"""The news of a job on its way through the whole service: from its end to whoever waits for it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from tests.service.installation import Installation, Service, until
from tests.stages.web import Asked, Web, answer, hanging

pytestmark = pytest.mark.postgres

SETTINGS = {"QUEUE__POLL_SECONDS": "0.05"}
LINKS = {"self": "", "transcript": "/transcript", "cancel": "/cancel"}
OUTBOX = "SELECT status, url, tries, delivered_at FROM antiphon.deliveries WHERE job_id = $1"


def told(web: Web, path: str) -> Asked:
    """What the endpoint at ``path`` was told, once it was."""
    return until(lambda: next((asked for asked in web.asked if asked.path.startswith(path)), None))


def verified(home: Installation, asked: Asked) -> Any:
    """The payload, verified with the secret that the command line hands to the tenant."""
    secret = home.run("webhook-secret", "--tenant", "acme").stdout.strip()
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{asked.headers['webhook-id']}.{asked.headers['webhook-timestamp']}.{asked.body.decode()}"
    expected = base64.b64encode(hmac.new(key, signed.encode(), hashlib.sha256).digest()).decode()
    assert asked.headers["webhook-signature"] == f"v1,{expected}"
    return json.loads(asked.body)


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
def test_however_a_job_ends_its_client_hears_of_it(
    home: Installation, service: Service, media: Path, web: Web, end: str
) -> None:
    media_of: dict[str, Path | str] = {
        "completed": media / "jfk.flac",
        "failed": web.url("/lost"),
        "cancelled": web.url("/slow"),
    }
    web.answers |= {f"/{end}": answer(), "/lost": answer(status=404), "/slow": hanging}
    job_id = service.submit(media_of[end], callback_url=web.url(f"/{end}?key=hush"), external_id=f"call-{end}")
    if end == "cancelled":
        service.begun(job_id)
        assert service.http.post(f"/v1/jobs/{job_id}/cancel").status_code == 200
    body = verified(home, told(web, f"/{end}"))
    assert body["type"] == f"job.{end}"
    assert body["data"] == {
        "job_id": job_id,
        "status": end,
        "external_id": f"call-{end}",
        "links": {leaf: f"/v1/jobs/{job_id}{path}" for leaf, path in LINKS.items()},
    }
    assert service.ended(job_id)["status"] == end
    [row] = until(lambda: rows if (rows := home.rows(OUTBOX, job_id))[0]["url"] is None else None)
    assert (row["status"], row["tries"], bool(row["delivered_at"])) == (end, 1, True)


def test_news_that_could_not_be_told_before_the_service_ended_is_told_by_the_next(
    installation: Installation, media: Path, web: Web
) -> None:
    installation.settings |= SETTINGS
    web.answers["/later"] = answer(status=503)
    with installation.serving() as service:
        service.completed(service.submit(media / "jfk.flac", callback_url=web.url("/later")))
        first = told(web, "/later")
        service.process.terminate()
        assert service.ends() == 0
    web.answers["/later"] = answer()
    web.asked.clear()
    with installation.serving():
        assert told(web, "/later").headers["webhook-id"] == first.headers["webhook-id"]


def test_a_secret_is_a_tenants_own_and_the_same_each_time(installation: Installation) -> None:
    mine, again, theirs = (installation.run("webhook-secret", "--tenant", name) for name in ("acme", "acme", "globex"))
    assert mine.stdout == again.stdout != theirs.stdout
    assert mine.stdout.startswith("whsec_")
    assert len(base64.b64decode(mine.stdout.strip().removeprefix("whsec_"))) == 32
    assert str(installation.data / "secret") in mine.stderr
    assert again.stderr == ""


def test_a_secret_needs_no_key_where_there_is_a_master_of_its_own(installation: Installation) -> None:
    ran = installation.run("webhook-secret", "--tenant", "acme", WEBHOOKS__SECRET="o" * 32)
    assert (ran.returncode, ran.stderr, installation.data.exists()) == (0, "", False)


@pytest.mark.parametrize("command", [("webhook-secret", "--tenant", "acme"), ("serve",)], ids=lambda asked: asked[0])
def test_a_master_that_can_be_guessed_is_told_of_in_one_line(
    installation: Installation, command: tuple[str, ...]
) -> None:
    ran = installation.run(*command, WEBHOOKS__SECRET="short")
    assert (ran.returncode, ran.stdout, len(ran.stderr.splitlines())) == (1, "", 1), ran.stderr
    assert "WEBHOOKS__SECRET has 5 bytes" in ran.stderr
    assert installation.processes() == {}


def test_callback_addresses_are_in_no_log_and_leave_the_database_with_their_news(
    home: Installation, service: Service, media: Path, web: Web
) -> None:
    web.answers["/secret"] = answer(status=410)
    job_id = service.submit(media / "jfk.flac", callback_url=web.url("/secret?key=marked-callback"))
    assert service.completed(job_id)
    told(web, "/secret")
    until(lambda: home.rows(OUTBOX, job_id)[0]["url"] is None)
    kept = home.rows("SELECT * FROM antiphon.jobs WHERE id = $1", job_id)
    assert "marked-callback" not in str(kept) + service.log.read_text()
    assert home.rows(OUTBOX, job_id)[0]["delivered_at"] is None
