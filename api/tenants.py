"""``antiphon tenants``: whose jobs go first, and how many of them may wait and run."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from api.security import tenant_named
from pipeline.errors import ConfigError
from pipeline.store import TenantTerms, Terms

# Beyond these a tenant would in effect always go first, or never.
WEIGHTS: Final = (0.001, 1000.0)
MOST: Final = 2**31 - 1  # as many as an integer column counts
HEAD: Final = ("TENANT", "WEIGHT", "MAX RUNNING", "MAX PENDING")
CHANGES: Final = ("weight", "max_running", "max_pending")


def describe(parser: ArgumentParser) -> None:
    """Give ``parser`` the arguments that ``answer`` reads."""
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
    actions.add_parser("list", help="every tenant that was ever seen, and what it may have")
    setting = actions.add_parser("set", help="what one may have, from its next job on; what is not named stays")
    setting.add_argument("name", metavar="NAME", help="also of a tenant that has sent nothing yet")
    setting.add_argument("--weight", type=weight, default=SUPPRESS, metavar="W", help="its share beside others (1)")
    setting.add_argument(
        "--max-running",
        type=limit,
        default=SUPPRESS,
        metavar="N|none",
        help="jobs that run at once, on all replicas; 0 pauses it, none: QUEUE__MAX_RUNNING",
    )
    setting.add_argument(
        "--max-pending",
        type=limit,
        default=SUPPRESS,
        metavar="N|none",
        help="jobs that wait; none: QUEUE__MAX_PENDING",
    )


async def answer(terms: Terms, asked: Namespace) -> Sequence[str]:
    """What to print. Raises ``ConfigError`` for a name that no tenant has, and where nothing is to be set."""
    if asked.action == "list":
        return table(await terms.list())
    changes = {name: value for name, value in vars(asked).items() if name in CHANGES}
    if not changes:
        raise ConfigError("Say what to set: --weight, --max-running or --max-pending.")
    name = tenant_named(asked.name)
    before = {known.tenant: known for known in await terms.list()}.get(name, TenantTerms(name))
    after = replace(before, **changes)
    await terms.set(after)
    return table([after])


def table(rows: Sequence[TenantTerms]) -> Sequence[str]:
    told = [(row.tenant, f"{row.weight:g}", _told(row.max_running), _told(row.max_pending)) for row in rows]
    width = max(len(name) for name, *_ in [HEAD, *told])
    return [
        f"{name:<{width}}  {weight:>6}  {running:>11}  {pending:>11}"
        for name, weight, running, pending in [HEAD, *told]
    ]


def _told(most: int | None) -> str:
    return "none" if most is None else str(most)


# argparse tells of what these refuse by their names.


def weight(text: str) -> float:
    lowest, highest = WEIGHTS
    if not lowest <= (number := float(text)) <= highest:
        raise ArgumentTypeError(f"{text} is not between {lowest:g} and {highest:g}")
    return number


def limit(text: str) -> int | None:
    if text == "none":
        return None
    if not 0 <= (number := int(text)) <= MOST:
        raise ArgumentTypeError(f"{text} is not between 0 and {MOST}")
    return number
