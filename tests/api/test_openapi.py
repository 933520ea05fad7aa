from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from quart import Quart

from pipeline.jobs import JobStatus
from pipeline.store.rules import event
from tests.api.visiting import Client


async def document(client: Client) -> dict[str, Any]:
    return dict(await (await client.get("/openapi.json")).get_json())


async def test_every_route_and_every_method_is_in_the_document(app: Quart, client: Client) -> None:
    told = {(path, method) for path, item in (await document(client))["paths"].items() for method in item}
    there = {
        (re.sub(r"<uuid:(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD"}
    }
    assert told == there
    assert ("/v1/jobs/{job_id}/transcript", "get") in told


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for inner in node.values():
            yield from references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from references(inner)


async def test_every_reference_leads_somewhere(client: Client) -> None:
    told = await document(client)
    found = set(references(told))
    assert {f"#/components/schemas/{name}" for name in told["components"]["schemas"]} >= found
    assert {f"#/components/schemas/{name}" for name in ("JobView", "JobRequest", "Transcript", "ProblemView")} <= found


async def test_what_a_tenant_asks_needs_a_token_and_probes_do_not(client: Client) -> None:
    for path, item in (await document(client))["paths"].items():
        for operation in item.values():
            assert operation["security"] == ([{"token": []}] if path.startswith("/v1/") else [])
            assert ("401" in operation["responses"]) == path.startswith("/v1/")


async def test_the_members_of_a_job_are_those_of_the_contract(client: Client) -> None:
    schemas = (await document(client))["components"]["schemas"]
    assert set(schemas["JobView"]["properties"]) == {
        *("id", "status", "media_url", "processing_mode", "external_id", "metadata", "created_at", "started_at"),
        *("completed_at", "attempt", "max_attempts", "next_attempt_at", "progress", "error", "last_error", "warnings"),
        *("result", "usage", "links"),
    }
    assert set(schemas["Links"]["properties"]) == {"self", "transcript", "cancel"}
    assert set(schemas["ProblemView"]["properties"]) == {
        *("type", "title", "status", "detail", "instance", "code", "retryable", "request_id", "errors")
    }


async def test_headers_that_answers_have_are_told_of_and_a_body_that_they_have_not_is_not(
    client: Client, submit: Callable[..., Any]
) -> None:
    paths = (await document(client))["paths"]
    accepted = paths["/v1/jobs"]["post"]["responses"]["202"]["headers"]
    assert accepted.keys() == {"Location", "Retry-After", "Idempotency-Replayed"}
    answer = await submit()
    assert all(name in answer.headers for name in accepted.keys() - {"Idempotency-Replayed"})
    for item in paths.values():
        for operation in item.values():
            for status in {"429", "503"} & operation["responses"].keys():
                assert "Retry-After" in operation["responses"][status]["headers"]
            assert "headers" not in operation["responses"].get("404", {})
    assert "content" not in paths["/v1/jobs/{job_id}"]["delete"]["responses"]["204"]


async def test_the_body_of_a_webhook_is_in_the_document(client: Client) -> None:
    told = await document(client)
    body = told["webhooks"]["jobEnded"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/News"}
    sent = json.loads(event(UUID(int=0), JobStatus.COMPLETED, None, datetime.now(UTC)))
    schemas = told["components"]["schemas"]
    assert sent.keys() == schemas["News"]["properties"].keys()
    assert sent["data"].keys() == schemas["EndedJob"]["properties"].keys()
    assert sent["data"]["links"].keys() == schemas["Links"]["properties"].keys()


async def test_an_upload_is_one_file_or_several_and_what_is_asked_of_them(client: Client) -> None:
    content = (await document(client))["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]
    told = content["multipart/form-data"]["schema"]
    assert (told["properties"]["file"]["type"], told["required"]) == ("array", ["file"])
    assert told["properties"]["request"] == {"$ref": "#/components/schemas/JobRequest"}
