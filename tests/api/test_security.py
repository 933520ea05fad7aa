from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from pydantic import SecretStr
from quart import Quart

from api.security import TokenReader, issue_token
from pipeline.errors import ConfigError, TenantClaimMissing, Unauthenticated
from pipeline.settings import AuthSettings
from tests.api.visiting import SECRET, Client, bearer


def reader(**settings: Any) -> TokenReader:
    return TokenReader(AuthSettings(**{"secret": SecretStr(SECRET), **settings}))


def signed(claims: dict[str, Any], alg: str = "HS256", secret: str = SECRET) -> str:
    return "Bearer " + jwt.encode({"alg": alg}, claims, OctKey.import_key(secret), algorithms=[alg])


def soon() -> int:
    return int(time.time()) + 60


def unsigned() -> str:
    header, payload, _ = signed({"tenant_id": "acme", "exp": soon()}).removeprefix("Bearer ").split(".")
    assert header
    return f"Bearer eyJhbGciOiJub25lIn0.{payload}."  # {"alg":"none"}


def rsa_signed() -> str:
    claims = {"tenant_id": "acme", "exp": soon()}
    return "Bearer " + jwt.encode({"alg": "RS256"}, claims, RSAKey.generate_key(2048), algorithms=["RS256"])


def bad_headers() -> dict[str, str | None]:
    good = {"tenant_id": "acme", "exp": soon()}
    return {
        "no token": None,
        "an empty header": "",
        "another scheme": "Basic YWNtZTphY21l",
        "garbage": "Bearer garbage",
        "only dots": "Bearer ..",
        "not base64": "Bearer a.b.c",
        "expired": signed({**good, "exp": int(time.time()) - 1}),
        "not yet valid": signed({**good, "nbf": soon()}),
        "without an end": signed({"tenant_id": "acme"}),
        "an end that is no time": signed({**good, "exp": "tomorrow"}),
        "another key": signed(good, secret="x" * 32),
        "another hash": signed(good, alg="HS384"),
        "no algorithm": unsigned(),
        "another kind of key": rsa_signed(),
        "very long": signed({**good, "padding": "x" * 8192}),
        "nested without end": "Bearer " + "WyI" + "W1tb" * 2000 + ".e30.e30",
    }


async def test_every_route_of_a_tenant_refuses_every_bad_token(app: Quart, client: Client) -> None:
    walked = 0
    for rule in app.url_map.iter_rules():
        if not rule.rule.startswith("/v1/"):
            continue
        path = rule.rule.replace("<uuid:job_id>", str(uuid4()))
        for method in (rule.methods or set()) - {"HEAD"}:
            for why, header in bad_headers().items():
                headers = {} if header is None else {"Authorization": header}
                answer = await client.open(path, method=method, headers=headers, json=None)
                assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), (path, why)
                body = await answer.get_json()
                assert body["code"] == "unauthenticated"
                assert body["detail"] == "A valid bearer token is needed", why
            headers = {"Authorization": signed({"exp": soon()})}
            answer = await client.open(path, method=method, headers=headers, json=None)
            assert answer.status_code == 403
            assert (await answer.get_json())["code"] == "tenant-claim-missing"
            walked += 1
    assert walked >= 3


async def test_nothing_under_v1_is_told_to_strangers_not_even_what_exists(client: Client) -> None:
    assert (await client.get("/v1/nothing-here")).status_code == 401
    assert (await client.get("/v1/nothing-here", headers=bearer())).status_code == 404


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/openapi.json"])
async def test_probes_and_the_contract_need_no_token(client: Client, path: str) -> None:
    assert (await client.get(path)).status_code == 200


async def test_the_log_knows_why_and_never_the_token() -> None:
    token = signed({"tenant_id": "acme", "exp": 1})
    with structlog.testing.capture_logs() as logs, pytest.raises(Unauthenticated):
        reader().tenant(token)
    assert [line["reason"] for line in logs] == ["expired_token"]
    assert token.removeprefix("Bearer ") not in str(logs)


@pytest.mark.parametrize(
    "tenant", [None, "", 7, True, ["acme"], {"id": "acme"}, "x" * 129, "a\0b", "a\nb", "a\u2028b"], ids=repr
)
def test_a_tenant_is_a_printable_string_of_at_most_128_characters(tenant: object) -> None:
    with pytest.raises(TenantClaimMissing):
        reader().tenant(signed({"tenant_id": tenant, "exp": soon()}))


def test_a_dotted_claim_reaches_into_objects() -> None:
    nested = reader(tenant_claim="org.id")
    assert nested.tenant(signed({"org": {"id": "acme"}, "exp": soon()})) == "acme"
    wrong: list[dict[str, Any]] = [{"org": "acme"}, {"org.id": "acme"}, {"org": {}}, {"org": [{"id": "acme"}]}]
    for claims in wrong:
        with pytest.raises(TenantClaimMissing):
            nested.tenant(signed({**claims, "exp": soon()}))


@pytest.mark.parametrize(
    ("required", "right", "wrong"),
    [
        ({"issuer": "https://id.test"}, {"iss": "https://id.test"}, {"iss": "https://other.test"}),
        ({"audience": "antiphon"}, {"aud": ["other", "antiphon"]}, {"aud": "other"}),
    ],
)
def test_issuer_and_audience_are_checked_when_set(
    required: dict[str, str], right: dict[str, Any], wrong: dict[str, Any]
) -> None:
    good = {"tenant_id": "acme", "exp": soon()}
    assert reader(**required).tenant(signed({**good, **right})) == "acme"
    for claims in (wrong, {}):
        with pytest.raises(Unauthenticated):
            reader(**required).tenant(signed({**good, **claims}))


def test_leeway_forgives_a_clock_that_runs_ahead() -> None:
    late = signed({"tenant_id": "acme", "exp": int(time.time()) - 5})
    assert reader(leeway_seconds=60).tenant(late) == "acme"


@pytest.mark.parametrize(
    "claims", [{"iat": soon()}, {"iat": "today"}, {"sub": 7}, {"jti": 7}, {"iss": 7}, {"aud": 7}], ids=repr
)
def test_claims_that_nobody_asked_to_check_are_not_checked(claims: dict[str, Any]) -> None:
    assert reader().tenant(signed({"tenant_id": "acme", "exp": soon(), **claims})) == "acme"


def test_a_token_is_good_in_the_very_moment_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    token = signed({"tenant_id": "acme", "exp": 2_000_000_000, "nbf": 1_900_000_000.5})
    monkeypatch.setattr(time, "time", lambda: 1_900_000_000.5)
    assert reader().tenant(token) == "acme"
    monkeypatch.setattr(time, "time", lambda: 1_900_000_000.4)
    with pytest.raises(Unauthenticated):
        reader().tenant(token)


def test_the_scheme_is_read_in_any_case() -> None:
    token = signed({"tenant_id": "acme", "exp": soon()}).removeprefix("Bearer ")
    assert reader().tenant(f"bearer {token}") == "acme"


@pytest.mark.parametrize("secret", [None, "", "x" * 31])
def test_a_missing_or_short_secret_ends_the_start(secret: str | None) -> None:
    with pytest.raises(ConfigError, match="AUTH__SECRET"):
        reader(secret=None if secret is None else SecretStr(secret))


@given(tenant=st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=128))
def test_an_issued_token_is_read_as_its_tenant(tenant: str) -> None:
    settings = AuthSettings(secret=SecretStr(SECRET), tenant_claim="org.id", issuer="me", audience="antiphon")
    token = issue_token(settings, tenant, seconds=60)
    assert TokenReader(settings).tenant(f"Bearer {token}") == tenant


@pytest.mark.parametrize("tenant", ["", "x" * 129, "a\nb"], ids=repr)
def test_no_token_is_issued_that_no_reader_would_take(tenant: str) -> None:
    with pytest.raises(ConfigError, match="1 to 128 printable characters"):
        issue_token(AuthSettings(secret=SecretStr(SECRET)), tenant, seconds=60)


@given(st.text(max_size=200) | st.from_regex(r"[\w-]{0,40}\.[\w-]{0,40}\.[\w-]{0,40}", fullmatch=True))
def test_no_text_whatever_breaks_the_reader(token: str) -> None:
    with pytest.raises(Unauthenticated):
        reader().tenant(f"Bearer {token}")
