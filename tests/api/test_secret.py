"""The master secret of webhooks: its own, or that of the tokens, and never one that can be guessed."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from api.secret import webhook_key, webhook_master
from pipeline.errors import ConfigError
from pipeline.jobs import Tenant
from pipeline.settings import AuthSettings, Settings, WebhookSettings


def of_acme(settings: Settings) -> bytes:
    return webhook_key(webhook_master(settings), Tenant("acme"))


def test_a_secret_of_its_own_takes_the_place_of_the_tokens(settings: Settings) -> None:
    own = settings.model_copy(update={"webhooks": WebhookSettings(secret=SecretStr("o" * 32))})
    assert of_acme(own) != of_acme(settings)
    moved = own.model_copy(update={"auth": AuthSettings(secret=SecretStr("n" * 32))})
    assert of_acme(own) == of_acme(moved)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"webhooks": WebhookSettings(secret=SecretStr("short"))}, "WEBHOOKS__SECRET"),
        ({"auth": AuthSettings(secret=SecretStr("short"))}, "AUTH__SECRET"),
    ],
)
def test_one_that_can_be_guessed_is_refused(settings: Settings, change: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} has 5 bytes; it needs at least 32"):
        webhook_master(settings.model_copy(update=change))
