"""A pause that is never quite the same, so that what happened together does not happen together again."""

from __future__ import annotations

import random
from typing import Final

SHARE: Final = 0.2
"""Of a pause, either way: replicas started together and jobs failed together are apart within a few rounds."""


def jittered(seconds: float) -> float:
    """``seconds`` ± 20 %."""
    return seconds * random.uniform(1 - SHARE, 1 + SHARE)  # noqa: S311 -- spreads pauses, no secret
