"""What every store does, as one suite.

A module that runs it imports everything from here and gives three fixtures: ``store``, open and empty, which gives
every job three attempts; ``pass_time``, which lets it believe that so many seconds have gone by; and ``everything``,
all that it holds at this moment, as text.
"""

from __future__ import annotations

from tests.conformance.store_suite.door import TestTheDoor
from tests.conformance.store_suite.ends import TestTheEndOfAnAttempt
from tests.conformance.store_suite.leases import TestLeases, TestProgress
from tests.conformance.store_suite.turn import TestTheTurn
from tests.conformance.store_suite.uploads import TestUploads

__all__ = ["TestLeases", "TestProgress", "TestTheDoor", "TestTheEndOfAnAttempt", "TestTheTurn", "TestUploads"]
