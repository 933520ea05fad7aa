"""``antiphon tenants`` beside a running service: what it sets holds from the next submit on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.installation import Installation, Service

pytestmark = pytest.mark.postgres


def test_what_a_tenant_may_have_is_set_while_the_service_runs(
    home: Installation, service: Service, media: Path
) -> None:
    service.completed(service.submit(media / "jfk.flac"))
    ran = home.run("tenants", "set", "acme", "--weight", "2", "--max-pending", "0")
    assert (ran.returncode, ran.stderr) == (0, "")
    listed = home.run("tenants", "list")
    assert [line.split() for line in listed.stdout.splitlines()[1:]] == [["acme", "2", "none", "0"]]
    refused = service.upload(media / "jfk.flac")
    assert (refused.status_code, refused.json()["code"]) == (429, "quota-exceeded")
    assert int(refused.headers["Retry-After"]) > 0
    assert home.run("tenants", "set", "acme", "--max-pending", "none").returncode == 0
    service.completed(service.submit(media / "jfk.flac"))


def test_a_name_that_no_tenant_can_have_is_told_in_one_line(home: Installation, service: Service) -> None:
    ran = home.run("tenants", "set", "", "--weight", "2")
    assert (ran.returncode, ran.stdout, len(ran.stderr.splitlines())) == (1, "", 1)
    assert "1 to 128 printable characters" in ran.stderr


def test_tenants_are_managed_where_no_service_runs(installation: Installation) -> None:
    assert installation.run("tenants", "set", "acme", "--max-running", "3").returncode == 0
    assert installation.run("tenants", "list").stdout.splitlines()[1].split() == ["acme", "1", "3", "none"]
    assert installation.processes() == {}
