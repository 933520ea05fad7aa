from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, example, given
from hypothesis import settings as tried
from hypothesis import strategies as st
from quart import Quart

from api.middleware import REQUEST_ID
from api.schemas import ProblemView
from pipeline.store import Unavailable
from pipeline.store.memory import MemoryStore, MemoryTenantJobs
from tests.api.visiting import URL, Client, bearer


async def problem_of(answer: Any) -> ProblemView:
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = ProblemView.model_validate_json(await answer.get_data())
    assert problem.status == answer.status_code
    assert problem.type == f"urn:antiphon:problem:{problem.code}"
    assert problem.request_id == answer.headers["X-Request-ID"]
    return problem


@pytest.mark.parametrize(
    ("method", "path", "code", "allow"),
    [
        ("GET", "/", "not-found", None),
        ("GET", "/static/x", "not-found", None),
        ("GET", "/v1/jobs/", "not-found", None),
        ("GET", "/v1/jobs/7/cancel", "not-found", None),
        ("PUT", "/v1/jobs", "method-not-allowed", "GET, HEAD, POST"),
        ("OPTIONS", "/v1/jobs", "method-not-allowed", "GET, HEAD, POST"),
        ("BREW", "/v1/queue", "method-not-allowed", "GET, HEAD"),
        ("POST", "/livez", "method-not-allowed", "GET, HEAD"),
    ],
)
async def test_the_errors_of_the_framework_are_problems_too(
    client: Client, method: str, path: str, code: str, allow: str | None
) -> None:
    answer = await client.open(path, method=method, headers=bearer(), json=None)
    problem = await problem_of(answer)
    assert (problem.code, problem.retryable, problem.instance) == (code, False, path)
    assert answer.headers.get("Allow") == allow


async def test_a_problem_names_the_path_without_its_query(client: Client) -> None:
    assert (await problem_of(await client.get("/nowhere?token=hush"))).instance == "/nowhere"


async def test_the_unforeseen_is_told_to_the_log_and_not_to_the_client(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("SELECT secret FROM tenants")

    monkeypatch.setattr(MemoryTenantJobs, "submit", broken)
    with structlog.testing.capture_logs() as logs:
        answer = await client.post("/v1/jobs", headers=bearer(), json={"media_url": URL})
    problem = await problem_of(answer)
    assert (problem.status, problem.code) == (500, "internal")
    assert "SELECT" not in problem.model_dump_json()
    assert [line["event"] for line in logs] == ["request-failed", "request-answered"]


async def test_a_store_out_of_reach_is_worth_another_try(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object, **__: object) -> None:
        raise Unavailable("db-7.internal refused")

    monkeypatch.setattr(MemoryTenantJobs, "submit", away)
    answer = await client.post("/v1/jobs", headers=bearer(), json={"media_url": URL})
    problem = await problem_of(answer)
    assert (problem.status, problem.code, problem.retryable) == (503, "engine-unavailable", True)
    assert int(answer.headers["Retry-After"]) > 0
    assert "internal" not in problem.detail


@pytest.mark.parametrize("given_id", ["a", "A-b_c.9", "x" * 128])
async def test_a_request_id_that_is_one_is_kept(client: Client, given_id: str) -> None:
    answer = await client.get("/livez", headers={"X-Request-ID": given_id})
    assert answer.headers["X-Request-ID"] == given_id


@pytest.mark.parametrize("given_id", ["", "x" * 129, "a b", "é", "a/b"])
async def test_a_request_id_that_is_none_is_replaced(client: Client, given_id: str) -> None:
    answers = [await client.get("/nowhere", headers={"X-Request-ID": given_id}) for _ in range(2)]
    made = [(await problem_of(answer)).request_id or "" for answer in answers]
    assert made[0] != made[1]
    assert all(REQUEST_ID.fullmatch(name) for name in made)


async def test_answers_to_tenants_are_not_kept_by_anybody(client: Client, submit: Callable[..., Any]) -> None:
    for answer in (await submit(), await submit(nope=1), await client.get("/v1/jobs/7"), await client.get("/v1/x")):
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert (await client.get("/livez")).headers["X-Content-Type-Options"] == "nosniff"


async def test_a_line_in_the_log_names_tenant_and_request_and_no_query(
    client: Client, store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    await client.get("/v1/jobs/7?signature=hush", headers=bearer("acme", **{"X-Request-ID": "r-1"}))
    line = capsys.readouterr().out
    assert "acme" in line
    assert "r-1" in line
    assert "hush" not in line


@tried(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@example(path="/v1//jobs", method="GET")
@example(path="/v1/jobs/%", method="GET")
@given(path=st.text(st.characters(codec="utf-8")).map("/".__add__), method=st.sampled_from(["GET", "POST"]))
async def test_no_path_whatever_breaks_the_door(app: Quart, path: str, method: str) -> None:
    connection = app.test_client().request("/", method=method, headers=bearer())
    connection.scope["path"] = path  # type: ignore[attr-defined]  # as a server decodes it; the client would mend it
    async with connection:
        await connection.send_complete()
    problem = await problem_of(await connection.as_response())
    assert (problem.code, problem.instance) == ("not-found", "/" + path.lstrip("/"))
