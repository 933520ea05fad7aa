"""What every store does, as one suite.

A module that runs it imports everything from here and gives five fixtures: ``store``, open and empty, with the settings
as they are by default; ``open_store``, which opens one with others; ``pass_time``, which lets it
believe that so many seconds have gone by; ``everything``, all that it holds at this moment, as text; and ``books``.
"""

from __future__ import annotations

from tests.conformance.store_suite.cancelling import TestCancelAtTheDoor
from tests.conformance.store_suite.checkpoints import TestCheckpoints
from tests.conformance.store_suite.costs import TestCosts
from tests.conformance.store_suite.deleting import TestDelete
from tests.conformance.store_suite.door import TestTheDoor
from tests.conformance.store_suite.ends import TestTheEndOfAnAttempt
from tests.conformance.store_suite.fairness import TestLimitsOfTenants, TestTheTurnOfTenants
from tests.conformance.store_suite.keeping import TestHealth, TestRetention, TestStanding
from tests.conformance.store_suite.keys import TestIdempotencyKeys
from tests.conformance.store_suite.leases import TestLeases, TestProgress
from tests.conformance.store_suite.lists import TestLists
from tests.conformance.store_suite.losses import TestJobsThatRunAlone, TestLosses
from tests.conformance.store_suite.quotas import TestQuotas, TestTerms
from tests.conformance.store_suite.telling import TestTheOutbox, TestUsage
from tests.conformance.store_suite.turn import TestTheTurn
from tests.conformance.store_suite.uploads import TestUploads

__all__ = [
    "TestCancelAtTheDoor",
    "TestCheckpoints",
    "TestCosts",
    "TestDelete",
    "TestHealth",
    "TestIdempotencyKeys",
    "TestJobsThatRunAlone",
    "TestLeases",
    "TestLimitsOfTenants",
    "TestLists",
    "TestLosses",
    "TestProgress",
    "TestQuotas",
    "TestRetention",
    "TestStanding",
    "TestTerms",
    "TestTheDoor",
    "TestTheEndOfAnAttempt",
    "TestTheOutbox",
    "TestTheTurn",
    "TestTheTurnOfTenants",
    "TestUploads",
    "TestUsage",
]
