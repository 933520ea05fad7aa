"""The key that tokens are signed with where none is configured: made once, kept in the data directory."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from pydantic import SecretStr

from pipeline.errors import ConfigError
from pipeline.settings import Settings

KEY_BYTES = 48


def with_secret(settings: Settings) -> Settings:
    """The same settings, with a key. Raises ``ConfigError`` when none can be kept."""
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
