"""What every store does, as one suite.

A module that runs it imports everything from here and gives two fixtures: ``store``, open and empty, and ``pass_time``,
which lets the store believe that so many seconds have gone by. The store gives every job three attempts.
"""

from __future__ import annotations

from tests.conformance.store_suite.door import TestTheDoor
from tests.conformance.store_suite.ends import TestTheEndOfAnAttempt
from tests.conformance.store_suite.leases import TestLeases, TestProgress
from tests.conformance.store_suite.turn import TestTheTurn
from tests.conformance.store_suite.uploads import TestUploads

__all__ = ["TestLeases", "TestProgress", "TestTheDoor", "TestTheEndOfAnAttempt", "TestTheTurn", "TestUploads"]
