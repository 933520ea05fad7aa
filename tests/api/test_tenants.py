from __future__ import annotations

import time
from argparse import ArgumentParser
from collections.abc import Sequence

import anyio
import pytest

from api.tenants import answer, describe
from pipeline.errors import ConfigError
from pipeline.jobs import JobRequest, Tenant
from pipeline.store import TenantTerms
from pipeline.store.memory import MemoryStore


def ask(store: MemoryStore, *arguments: str) -> Sequence[str]:
    parser = ArgumentParser("antiphon tenants")
    describe(parser)
    return anyio.run(answer, store.terms(), parser.parse_args(arguments))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(clock=time.monotonic)


def terms(store: MemoryStore) -> Sequence[TenantTerms]:
    return anyio.run(store.terms().list)


def test_tenants_are_listed_with_what_they_may_have(store: MemoryStore) -> None:
    assert ask(store, "list") == ["TENANT  WEIGHT  MAX RUNNING  MAX PENDING"]
    anyio.run(store.tenant(Tenant("Müller & Söhne")).submit, JobRequest(media_url="https://media.test/a"))
    ask(store, "set", "acme", "--weight", "2.5", "--max-pending", "0")
    head, *rows = ask(store, "list")
    assert [row.split() for row in rows] == [
        ["Müller", "&", "Söhne", "1", "none", "none"],
        ["acme", "2.5", "none", "0"],
    ]
    assert len({len(row) for row in [head, *rows]}) == 1


def test_what_is_not_named_stays_and_none_is_the_setting_again(store: MemoryStore) -> None:
    ask(store, "set", "acme", "--weight", "3", "--max-running", "4")
    ask(store, "set", "acme", "--max-pending", "5")
    assert terms(store) == [TenantTerms(Tenant("acme"), 3.0, max_running=4, max_pending=5)]
    told = ask(store, "set", "acme", "--max-running", "none", "--max-pending", "none")
    assert told[1].split() == ["acme", "3", "none", "none"]
    assert terms(store) == [TenantTerms(Tenant("acme"), 3.0)]


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb"], ids=repr)
def test_a_name_that_no_token_carries_is_refused(store: MemoryStore, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a tenant"):
        ask(store, "set", name, "--weight", "1")
    assert terms(store) == []


def test_nothing_to_set_is_a_mistake(store: MemoryStore) -> None:
    with pytest.raises(ConfigError, match="Say what to set"):
        ask(store, "set", "acme")


@pytest.mark.parametrize(
    "wrong",
    [
        ("--weight", "0"),
        ("--weight", "-1"),
        ("--weight", "nan"),
        ("--weight", "inf"),
        ("--weight", "heavy"),
        ("--max-running", "-1"),
        ("--max-running", "2.5"),
        ("--max-pending", str(2**31)),
        ("--max-pending", "unlimited"),
    ],
)
def test_numbers_that_mean_nothing_are_wrong_use(
    store: MemoryStore, wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as told:
        ask(store, "set", "acme", *wrong)
    assert told.value.code == 2
    said = capsys.readouterr().err
    assert wrong[0] in said
    assert wrong[1] in said
    assert "_limit" not in said
    assert terms(store) == []
