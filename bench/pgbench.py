"""The store's own statements without Python around them: pgbench sends them as the store does, four at once."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import Unmeasured
from bench.backlog import REQUEST
from bench.made import TRANSCRIPT, USAGE
from pipeline.jobs import Progress
from pipeline.store.embedded.binaries import find_binaries
from pipeline.store.postgres.queries import SQL
from pipeline.store.rules import divide

CONNECTIONS: Final = 4
TENANT: Final = ":tenant"
SERVED: Final = ":turn_tenant_id"
CLAIMED: Final = "nullif(:id, '')::uuid"  # a tenant may turn out to have no work, and then nothing is settled


def _spelled(name: str, *values: str) -> str:
    """The statement with expressions in the places of its parameters."""
    lines = [line.partition("--")[0] for line in SQL[name].splitlines()]
    text = re.sub(r"\$(\d+)", lambda found: values[int(found[1]) - 1], "\n".join(lines))
    return text.strip().removesuffix(";")


def _document(json: str) -> str:
    """A literal; pgbench would take a colon with a letter or digit behind it for a variable of its own."""
    return "'{}'::json".format(re.sub(r":(?=\w)", ": ", json))


def _transaction(role: str, *statements: str, tenant: str = "''", durable: str = "on") -> str:
    return "\n".join(["BEGIN;", _spelled("enter", f"'{role}'", tenant, f"'{durable}'") + ";", *statements, "COMMIT;"])


def _submit() -> str:
    shown, secrets = divide(REQUEST)
    documents = [_document(part.model_dump_json()) for part in (shown, secrets)]
    progress = _document(Progress().model_dump_json()).replace("::json", "::jsonb")
    values = ("gen_random_uuid()", TENANT, *documents, "'{}'::json", "'{}'::uuid[]", "0", "3", progress, *["NULL"] * 4)
    return _transaction("antiphon_door", _spelled("submit", *values) + ";", _spelled("wake_own") + ";", tenant=TENANT)


def _claim() -> str:
    return _transaction(
        "antiphon_chain",
        _spelled("turn", "'{}'::text[]") + r" \gset turn_",
        _spelled("claim", SERVED, ":token", "'pgbench'", "60.0", "NULL::integer", "NULL") + r" \gset",
        r"\if :spent",
        _spelled("lock_turn", SERVED) + r" AS alone \gset",
        r"\if :alone",
        _spelled("leave_turn", SERVED, "NULL::integer") + ";",
        r"\endif",
        r"\endif",
        durable="off",
    )


def _settle() -> str:
    nothing = ("NULL::jsonb", "NULL::json", "NULL", "3", "10.0::float8")
    documents = (_document(TRANSCRIPT.model_dump_json()), "'[]'::json", _document(USAGE.model_dump_json()))
    return _transaction(
        "antiphon_chain",
        _spelled("settle", CLAIMED, ":token", "'completed'", *nothing, *documents, "'mock'") + ";",
        _spelled("forget", CLAIMED) + ";",
        _spelled("wake", f"ARRAY[{SERVED}]::text[]") + ";",
    )


@dataclass(frozen=True, slots=True)
class Script:
    """Transactions of one job after another, each of some tenant."""

    text: str

    def run(self, folder: Path, dsn: str, tenants: int, *limit: str) -> float:
        """How often a second, until the ``limit``, which is pgbench's option. Raises ``Unmeasured``."""
        names = "SELECT 'tenant-' || lpad((:n)::text, 5, '0') AS tenant, gen_random_uuid() AS token \\gset"
        file = folder / "pgbench.sql"
        file.write_text("\n".join([rf"\set n random(1, {tenants - 1})", names, self.text, ""]))
        options = ["-n", "-M", "prepared", "-f", str(file), "-c", str(CONNECTIONS), *limit]
        command = [str(find_binaries(None) / "pgbench"), *options, dsn]
        done = subprocess.run(command, capture_output=True, text=True)
        found = re.search(r"^tps = ([\d.]+)", done.stdout, re.MULTILINE)
        if done.returncode or not found:
            raise Unmeasured(f"pgbench failed: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
        return float(found[1])


SUBMIT: Final = Script(_submit())
CLAIM: Final = Script(_claim())
CYCLE: Final = Script("\n".join([_submit(), _claim(), _settle()]))
