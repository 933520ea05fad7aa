"""Time in a media file: where on one clock the frames of all its streams belong.

Time stamps that jump by hours, or back, are the clock set anew: from there on they are mapped to go on where the file
had come to. All streams follow the same mappings, each when its own stamps jump. A jump forward within the length that
the file states is a hole, however long.
"""

from __future__ import annotations

from typing import Final

JITTER_SECONDS: Final = 0.020  # containers round time stamps to 1 ms, and some encoders wander by a few
OVERLAP_SECONDS: Final = 1.0  # a file that was joined repeats at most an encoder's delay
JUMP_SECONDS: Final = 2 * 3600.0  # unless it says so, no recording falls silent so long


class Clock:
    """Of one file, ``stated`` seconds long. ``reached``: where the stream that has come furthest has ended."""

    def __init__(self, stated: float = 0.0) -> None:
        self.stated = stated
        self.reached = 0.0
        self.shifts = [0.0]  # in the order in which the clock was set


class Hand:
    """Of one stream. ``end``: where its last frame ended, in seconds."""

    def __init__(self, clock: Clock) -> None:
        self.end = 0.0
        self._clock = clock
        self._setting = 0
        self._jitter = 0.0

    def place(self, time: float | None, seconds: float) -> float:
        """Where a frame of this length starts: at ``end``, after it (a hole) or before it (an overlap)."""
        start = self.end if time is None else self._mapped(time)
        if abs(start - self.end) < self._jitter:
            start = self.end
        self.end = max(self.end, start + seconds)
        self._clock.reached = max(self._clock.reached, self.end)
        self._jitter = JITTER_SECONDS  # the first frame alone says where the stream begins
        return start

    def _mapped(self, time: float) -> float:
        shifts, reached = self._clock.shifts, self._clock.reached
        furthest = max(reached + JUMP_SECONDS, self._clock.stated)
        for setting in range(self._setting, len(shifts)):
            start = time + shifts[setting]
            if self.end - OVERLAP_SECONDS < start < furthest:
                self._setting = setting
                return start
        shifts.append(reached - time)
        self._setting = len(shifts) - 1
        return reached
