"""The secrets of an installation: the key that its tokens are signed with, and those of its tenants' webhooks."""

from __future__ import annotations

import base64
import hmac
import os
import secrets
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from api.security import MIN_SECRET_BYTES
from pipeline.errors import ConfigError
from pipeline.jobs import Tenant
from pipeline.settings import Settings

KEY_BYTES: Final = 48


def with_secret(settings: Settings) -> Settings:
    """The same settings, with a key: where none is configured, one is made once and kept in the data directory.

    Raises ``ConfigError`` when none can be kept.
    """
    if settings.auth.secret is not None:
        return settings
    path = kept_at(settings)
    try:
        key = _kept(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be used ({error.strerror}); set AUTH__SECRET, or DATA_DIR.") from error
    auth = settings.auth.model_copy(update={"secret": SecretStr(key)})
    return settings.model_copy(update={"auth": auth})


def kept_at(settings: Settings) -> Path:
    return settings.data_dir / "secret"


def _kept(path: Path) -> str:
    """Whoever links the finished file first has made the key; everybody else reads that one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        made = path.with_name(f".secret-{secrets.token_hex(4)}")
        made.touch(mode=0o600)
        made.write_text(secrets.token_urlsafe(KEY_BYTES))
        try:
            os.link(made, path)
        except FileExistsError:
            pass
        finally:
            made.unlink()
    return path.read_text().strip()


def webhook_master(settings: Settings) -> bytes:
    """What all tenants' signing keys are made of. Needs ``settings.auth.secret`` where there is none of its own.

    Raises ``ConfigError`` for one that is too short.
    """
    secret = settings.webhooks.secret or settings.auth.secret
    assert secret is not None  # see with_secret
    master = secret.get_secret_value().encode()
    if len(master) < MIN_SECRET_BYTES:
        name = "WEBHOOKS__SECRET" if settings.webhooks.secret else "AUTH__SECRET"
        raise ConfigError(f"{name} has {len(master)} bytes; it needs at least {MIN_SECRET_BYTES}.")
    return master


def webhook_key(master: bytes, tenant: Tenant) -> bytes:
    """What this tenant's webhooks are signed with, 32 bytes; it tells nothing of the master or of another's.

    The NUL keeps it apart from what else the master may sign: no token has one.
    """
    return hmac.digest(master, b"webhooks\0" + tenant.encode(), "sha256")


def spelled(key: bytes) -> str:
    """As the libraries of Standard Webhooks take it."""
    return f"whsec_{base64.b64encode(key).decode()}"
