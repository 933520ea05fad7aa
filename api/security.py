"""Who is asking: a bearer token in, a tenant out."""

from __future__ import annotations

import time
from typing import Any, Final, TypeGuard

import structlog
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from joserfc.jwt import ClaimsOption, JWTClaimsRegistry

from pipeline.errors import ConfigError, TenantClaimMissing, Unauthenticated
from pipeline.jobs import Tenant
from pipeline.settings import AuthSettings

# Pinned: a token does not choose how it is verified.
ALGORITHMS: Final = ("HS256",)
# RFC 7518, section 3.2: a key as long as the hash.
MIN_SECRET_BYTES: Final = 32
# Nothing longer is parsed; servers cap headers at about as much.
MAX_TOKEN_BYTES: Final = 8192
MAX_TENANT_CHARACTERS: Final = 128

log = structlog.get_logger()


class TokenReader:
    """Raises ``ConfigError`` without a secret that is long enough."""

    def __init__(self, settings: AuthSettings) -> None:
        self._key = _key(settings)
        self._claim_path = settings.tenant_claim.split(".")
        # a clock with fractions, though typed for whole seconds: a token is good in the very moment it begins
        self._rules = JWTClaimsRegistry(time.time, settings.leeway_seconds, **_checked(settings))  # type: ignore[arg-type]

    def tenant(self, authorization: str | None) -> Tenant:
        """Read an ``Authorization`` header. Raises ``Unauthenticated`` or ``TenantClaimMissing``; the log knows why."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise _refused("no bearer token")
        return self._tenant_of(self._claims(token.strip()))

    def _claims(self, token: str) -> dict[str, Any]:
        if len(token) > MAX_TOKEN_BYTES:
            raise _refused("too long")
        try:
            claims = jwt.decode(token, self._key, algorithms=list(ALGORITHMS)).claims
            # joserfc would judge all that it knows: an issuer's clock ahead of ours makes no bad token
            self._rules.validate({name: value for name, value in claims.items() if name in self._rules.options})
        except JoseError as error:
            raise _refused(error.error) from None
        except (ValueError, TypeError, RecursionError):
            raise _refused("not a token") from None
        return claims

    def _tenant_of(self, claims: dict[str, Any]) -> Tenant:
        value: Any = claims
        for name in self._claim_path:
            value = value.get(name) if isinstance(value, dict) else None
        if not _names_a_tenant(value):
            log.info("tenant-refused", claim=".".join(self._claim_path))
            raise TenantClaimMissing
        return Tenant(value)


def tenant_named(name: str) -> Tenant:
    """Raises ``ConfigError`` for a name that no token could carry."""
    if not _names_a_tenant(name):
        raise ConfigError(
            f"{name[:MAX_TENANT_CHARACTERS]!r} cannot name a tenant;"
            f" give 1 to {MAX_TENANT_CHARACTERS} printable characters."
        )
    return Tenant(name)


def issue_token(settings: AuthSettings, tenant: str, *, seconds: int) -> str:
    """Sign a token that a ``TokenReader`` of the same settings takes. Raises ``ConfigError`` where there is none."""
    named: Any = tenant_named(tenant)
    for name in reversed(settings.tenant_claim.split(".")):
        named = {name: named}
    now = int(time.time())
    claims = {**named, "iat": now, "exp": now + seconds, "iss": settings.issuer, "aud": settings.audience}
    told = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode({"alg": ALGORITHMS[0]}, told, _key(settings))


def _key(settings: AuthSettings) -> OctKey:
    if settings.secret is None:
        raise ConfigError("AUTH__SECRET is not set: give the key that your tokens are signed with.")
    secret = settings.secret.get_secret_value()
    if (size := len(secret.encode())) < MIN_SECRET_BYTES:
        raise ConfigError(f"AUTH__SECRET has {size} bytes; HS256 needs at least {MIN_SECRET_BYTES}.")
    return OctKey.import_key(secret)


def _names_a_tenant(value: object) -> TypeGuard[str]:
    """What cannot be printed cannot be kept in a database or a log either: NUL, lone surrogates, line ends."""
    return isinstance(value, str) and 0 < len(value) <= MAX_TENANT_CHARACTERS and value.isprintable()


def _checked(settings: AuthSettings) -> dict[str, ClaimsOption]:
    rules: dict[str, ClaimsOption] = {"exp": {"essential": True}, "nbf": {}}
    if settings.issuer is not None:
        rules["iss"] = {"essential": True, "value": settings.issuer}
    if settings.audience is not None:
        rules["aud"] = {"essential": True, "value": settings.audience}
    return rules


def _refused(reason: str) -> Unauthenticated:
    log.info("token-refused", reason=reason)
    return Unauthenticated()
