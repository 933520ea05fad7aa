from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import fields

import anyio
import pytest
import structlog
from prometheus_client import generate_latest

from pipeline.chain import Chain
from pipeline.settings import TelemetrySettings
from pipeline.store import QueueHealth
from pipeline.telemetry import ENGINE_BUSY, INSTRUMENTS, Telemetry, configure_logging
from tests.pipeline.rig import Cut, Fetch, Hear, Join, Plan, Taker, Writer


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    made = Telemetry()
    yield made
    made.close()


@pytest.fixture
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def _read(name: str) -> dict[str, float]:
    lines = [line for line in generate_latest().decode().splitlines() if line.startswith(name)]
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


@pytest.mark.usefixtures("_logging_as_it_was")
async def test_every_item_of_every_stage_is_counted_by_its_outcome(telemetry: Telemetry) -> None:
    configure_logging(TelemetrySettings(log_format="json"))
    plans = [Plan(tracks=3), Plan(breaks_in="fetch")]
    chain = Chain(Taker(plans), observe=telemetry).then(Fetch()).then(Cut()).then(Hear()).then(Join()).sink(Writer())
    await chain.run()
    items = _read("stage_items_total")
    assert items['stage_items_total{outcome="ok",stage="hear"}'] == 3
    assert items['stage_items_total{outcome="error",stage="fetch"}'] == 1
    assert _read("claims_ended_total") == {
        'claims_ended_total{code="",ending="result"}': 1,
        'claims_ended_total{code="ValueError",ending="failure"}': 1,
    }


def test_an_observed_instrument_tells_what_it_is_asked_for(telemetry: Telemetry) -> None:
    telemetry.watch(ENGINE_BUSY, lambda: 12.5, total=True)
    assert _read("engine_busy_seconds_total") == {"engine_busy_seconds_total": 12.5}


def test_all_that_is_known_of_the_queue_is_told_and_nothing_where_nothing_is_known(telemetry: Telemetry) -> None:
    health: QueueHealth | None = None
    telemetry.watch_queue(lambda: health)
    assert _read("queue_") == {}

    health = QueueHealth(*range(1, 1 + len(fields(QueueHealth))))
    told = _read("queue_")
    assert (told["queue_pending"], told["queue_oldest_seconds"], told["queue_wait_p99_seconds"]) == (1, 5, 12)
    assert sorted(told.values()) == [*range(1, 1 + len(fields(QueueHealth)))]

    health = None
    assert _read("queue_") == {}


def test_no_two_instruments_share_a_name() -> None:
    assert len({instrument.name for instrument in INSTRUMENTS}) == len(INSTRUMENTS)


@pytest.mark.usefixtures("_logging_as_it_was")
def test_a_line_made_in_a_stage_names_the_job_and_libraries_speak_the_same_form(
    telemetry: Telemetry, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(TelemetrySettings(log_format="json"))
    taker = Taker([Plan(breaks_in="fetch")])
    anyio.run(Chain(taker, observe=telemetry).then(Fetch()).sink(Writer()).run)
    logging.getLogger("somebody.else").warning("hello")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    failed = next(line for line in lines if line["event"] == "stage-failed")
    assert failed["job_id"] == str(taker.taken[0].job.id)
    assert (failed["tenant_id"], failed["stage"], failed["level"]) == ("acme", "fetch", "warning")
    assert next(line for line in lines if line["event"] == "hello")["level"] == "warning"
