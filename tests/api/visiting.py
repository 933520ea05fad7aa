"""What a visitor of the door brings along: tokens, a model's facts, transcripts to find there."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import SecretStr
from quart import Quart
from quart.typing import TestClientProtocol

from api import EngineFacts, Health, create_app
from api.engine import CapabilitiesView, EngineState, RoomView, StageView
from api.security import issue_token
from pipeline.jobs import Usage
from pipeline.settings import AuthSettings, Settings
from pipeline.store import Store
from pipeline.transcript import EngineInfo, Segment, Track, Transcript, Word

Client = TestClientProtocol  # by a name that pytest does not take for a test

SECRET = "the-key-of-the-tests-is-long-enough"
FACTS = EngineFacts(translate=True, words=True, prompt=True, languages=frozenset({"en", "de", "fr"}), model="base")
STATE = EngineState(
    backend="faster_whisper",
    model="base",
    device="cpu",
    compute_type="int8",
    library_version="4.8",
    isolation="thread",
    capabilities=CapabilitiesView(
        languages=("de", "en", "fr"), words=True, translate=True, prompt=True, batch=8, lanes=2, cancellable=False
    ),
    loaded_since=None,
    room=RoomView(ready=3, outside=0, batches=7, windows=40, busy_seconds=5.5),
    stages=(StageView(stage="downloader", waiting=2, active=8, workers=8),),
    version="0",
)
URL = "https://media.test/call.mkv"


def door(store: Store, settings: Settings, *, health: Health | None = None, engine: EngineFacts = FACTS) -> Quart:
    """With an engine that is always in the same ``STATE``."""
    return create_app(store, settings, engine=engine, look=lambda: STATE, health=health or Health(store, checks={}))


def bearer(tenant: str = "acme", **headers: str) -> dict[str, str]:
    token = issue_token(AuthSettings(secret=SecretStr(SECRET)), tenant, seconds=60)
    return {"Authorization": f"Bearer {token}", **headers}


async def complete(store: Store, transcript: Transcript) -> None:
    """Play the chain for the one job that waits."""
    claim = await store.queue().claim(replica="test", lease_seconds=60)
    assert claim
    usage = Usage(
        media_seconds=4.0,
        track_seconds=4.0,
        speech_seconds=3.0,
        queue_seconds=0.0,
        processing_seconds=1.0,
        realtime_factor=0.25,
    )
    await store.queue().commit(claim, transcript, usage)


def make_segment(number: int, text: str, track: str = "downmix", *, words: bool = False) -> Segment:
    return Segment(
        id=number,
        track=track,
        start=number + 0.24,
        end=number + 0.9996,
        text=text,
        language="en",
        confidence=0.9,
        avg_logprob=-0.2,
        no_speech_prob=None,
        compression_ratio=1.1,
        words=(Word(word=text, start=number + 0.24, end=number + 0.9, confidence=0.9),) if words else None,
    )


def make_transcript(*segments: Segment, labels: Mapping[str, str | None] | None = None) -> Transcript:
    tracks = labels or {"downmix": None}
    return Transcript(
        text=" ".join(segment.text for segment in segments),
        language="en",
        duration=max((segment.end for segment in segments), default=0.0),
        processing_mode="downmix",
        tracks=tuple(
            Track(id=name, index=index, stream=None, channel=None, label=label)
            for index, (name, label) in enumerate(tracks.items())
        ),
        segments=segments,
        engine=EngineInfo(backend="mock", model="mock", device="cpu", compute_type="int8", version="1"),
    )
