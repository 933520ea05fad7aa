from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from quart import Quart

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


async def test_an_upload_is_one_file_or_several_and_what_is_asked_of_them(client: Client) -> None:
    content = (await document(client))["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]
    told = content["multipart/form-data"]["schema"]
    assert (told["properties"]["file"]["type"], told["required"]) == ("array", ["file"])
    assert told["properties"]["request"] == {"$ref": "#/components/schemas/JobRequest"}
