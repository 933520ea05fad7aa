"""What must hold when all is over, as statements that count what breaks it; the superuser asks them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bench.figures import Figure
from bench.hooks import Receiver
from bench.replicas import Event
from bench.server import Server
from bench.submits import Clients
from pipeline.observer import Ending

# Whatever was killed, these count nothing.
BREACHES: Final = {
    "jobs that have not completed": "SELECT count(*) FROM antiphon.jobs WHERE status <> 'completed'",
    "completed jobs without a transcript": """
        SELECT count(*) FROM antiphon.jobs LEFT JOIN antiphon.transcripts ON job_id = id
        WHERE status = 'completed' AND job_id IS NULL""",
    "jobs without a usage row": """
        SELECT count(*) FROM antiphon.jobs LEFT JOIN antiphon.usage ON job_id = id
        WHERE job_id IS NULL OR usage.outcome <> jobs.status""",
    "usage rows of no job": """
        SELECT count(*) FROM antiphon.usage LEFT JOIN antiphon.jobs ON id = job_id WHERE id IS NULL""",
    "jobs that were completed twice": """
        SELECT count(*) FROM (SELECT FROM antiphon.attempts WHERE outcome = 'completed'
                              GROUP BY job_id HAVING count(*) > 1) AS twice""",
    "jobs done again that were not lost or given back": """
        SELECT count(*) FROM (SELECT FROM antiphon.attempts GROUP BY job_id
            HAVING count(*) > 1 + count(*) FILTER (WHERE outcome IN ('lost', 'given back'))) AS again""",
    "jobs whose counts are not those of their attempts": """
        SELECT count(*) FROM antiphon.jobs JOIN (
            SELECT job_id, count(*) FILTER (WHERE outcome <> 'given back') AS begun,
                count(*) FILTER (WHERE outcome = 'lost') AS lost
            FROM antiphon.attempts GROUP BY job_id) AS history ON job_id = id
        WHERE attempt <> begun OR losses <> lost""",
    "leases left": "SELECT count(*) FROM antiphon.leases",
    "jobs with secrets left": """
        SELECT count(*) FROM antiphon.jobs WHERE secrets IS NOT NULL OR callback_url IS NOT NULL""",
    "uploads of jobs left": "SELECT count(*) FROM antiphon.uploads WHERE job_id IS NOT NULL",
    "checkpoints left": "SELECT count(*) FROM antiphon.checkpoints",
    "deliveries that are not done": "SELECT count(*) FROM antiphon.deliveries WHERE delivered_at IS NULL",
}

OPEN: Final = "SELECT count(*) FROM antiphon.jobs WHERE completed_at IS NULL"
UNTOLD: Final = "SELECT count(*) FROM antiphon.deliveries WHERE next_try_at IS NOT NULL"
LOST: Final = "SELECT count(*) FROM antiphon.attempts WHERE outcome = 'lost'"
GIVEN_BACK: Final = "SELECT count(*) FROM antiphon.attempts WHERE outcome = 'given back'"
JOBS: Final = "SELECT id::text FROM antiphon.jobs"
COMPLETED: Final = "SELECT id::text, attempt FROM antiphon.jobs WHERE status = 'completed'"
DELIVERIES: Final = "SELECT job_id::text, id::text FROM antiphon.deliveries"


async def breaches(server: Server) -> list[Figure]:
    return [Figure(name, [await server.count(statement)], at_most=0) for name, statement in BREACHES.items()]


async def agreement(server: Server, clients: Clients, receiver: Receiver) -> list[Figure]:
    """What the clients know, what the database does, and what the receiver was told."""
    jobs = {row[0] for row in await server.fetch(JOBS)}
    written = {(row[0], row[1]) for row in await server.fetch(DELIVERIES)}
    heard = {(job, event) for job, events in receiver.heard.items() for event in events}
    hooked = {job for job, _ in written}
    return [
        Figure("jobs", [len(clients.ids)]),
        Figure("submits that had to be repeated", [clients.repeated]),
        Figure("attempts lost", [await server.count(LOST)]),
        Figure("attempts given back", [await server.count(GIVEN_BACK)]),
        Figure("events received", [receiver.came]),
        Figure("jobs that only one side knows", [len(clients.ids ^ jobs)], at_most=0),
        Figure("jobs with a webhook and no event, or the reverse", [len(clients.told ^ hooked)], at_most=0),
        Figure("events that only one side knows", [len(written ^ heard)], at_most=0),
        Figure("events with a wrong signature", [receiver.forged], at_most=0),
    ]


async def stolen(server: Server, events: Iterable[Event]) -> Figure:
    """Results that a worker believes it has stored, of attempts that are not those the jobs were completed by."""
    stored = {(row[0], row[1]) for row in await server.fetch(COMPLETED)}
    ends = (event for event in events if event["event"] == "job-ended" and event["ending"] == Ending.RESULT)
    told = {(event["job_id"], event["attempt"]) for event in ends}
    return Figure("results of attempts that had lost their lease", [len(told - stored)], at_most=0)
