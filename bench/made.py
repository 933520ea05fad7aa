"""The transcript that benchmarks of the queue write: 8 kB, as a conversation of some minutes has."""

from __future__ import annotations

from typing import Final

from pipeline.jobs import Usage
from pipeline.transcript import EngineInfo, Transcript

TRANSCRIPT: Final = Transcript(
    text=" ".join(f"word{n:04}" for n in range(900)),
    language="en",
    duration=300.0,
    processing_mode="downmix",
    tracks=(),
    segments=(),
    warnings=(),
    engine=EngineInfo(backend="mock", model="mock", device="cpu", compute_type="none", version="1"),
)
USAGE: Final = Usage(
    media_seconds=300.0,
    track_seconds=300.0,
    speech_seconds=200.0,
    queue_seconds=1.0,
    processing_seconds=10.0,
    realtime_factor=0.033,
)
