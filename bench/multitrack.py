"""What it costs to keep every voice on its own track.

Beside the mix of all tracks, beside each track as a job of its own, and beside faster-whisper on each track.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final

import anyio
import jiwer
from anyio import to_thread

from bench import Benchmark, plot
from bench.figures import RESULTS, Figure, Report
from bench.meeting import Meeting, meeting
from bench.peers import hear
from bench.sides import TENANT, Side, Work, emptied
from bench.web import serving
from pipeline.jobs import JobRequest
from pipeline.settings import Settings
from pipeline.store.memory import MemoryStore
from pipeline.transcript import Transcript
from stages.engines import Engine, load, weights

TURNS: Final = 24  # nearly five minutes
QUICK_TURNS: Final = 9  # one minute
TRACKS: Final = (1, 2, 4, 8)
REPETITIONS: Final = 3

COMPARED: Final = 4  # tracks, for which there are targets
WALL: Final = 1.25  # times the downmix's
CPU: Final = {"default": 4.5, "with its VAD": 2.5, "batched": 1.4}  # times ours
TARGET: Final = f"{COMPARED} tracks: wall ≤ {WALL:g} × the downmix; CPU {', '.join(map(str, CPU.values()))} × less"


@dataclass(frozen=True, slots=True)
class Cost:
    """In seconds; ``engine`` is how long its lanes worked, summed over them."""

    wall: float
    cpu: float
    engine: float

    @classmethod
    def of(cls, *sides: Side) -> Cost:
        return cls(
            sum(side.wall for side in sides),
            sum(side.cpu for side in sides),
            sum(side.engine.seconds() for side in sides),
        )


PARTS: Final[Mapping[str, Callable[[Cost], float]]] = {
    "wall": lambda cost: cost.wall,
    "engine": lambda cost: cost.engine,
    "CPU": lambda cost: cost.cpu,
}


@dataclass(frozen=True, slots=True)
class Peer:
    """What all tracks take, in CPU seconds, and the word error rate in percent."""

    cpu: float
    errors: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One meeting. ``apart``: each track selected by a job of its own, one after another through the chain.

    ``errors``: word error rate of the multitrack job, in percent. ``fast``: the same job at that quality, where it is
    compared with peers.
    """

    downmix: Cost
    multitrack: Cost
    apart: Cost
    errors: float
    peers: Mapping[str, Peer]
    fast: Peer | None


Series = Mapping[int, Sequence[Measured]]
"""Repetitions by how many tracks."""


def run(quick: bool) -> Report:
    turns, counts, repetitions = (QUICK_TURNS, (1, COMPARED), 1) if quick else (TURNS, TRACKS, REPETITIONS)
    meetings = {tracks: meeting(tracks, turns) for tracks in counts}
    with tempfile.TemporaryDirectory() as folder:
        settings = _settings(Path(folder))
        with closing(load(settings.engine)) as engine:
            series = anyio.run(_measure, settings, engine, meetings, repetitions)
            told = _told(engine, meetings)
    if not quick:
        plot.save(RESULTS / "multitrack.svg", list(_panels(series)))
    return Report("multitrack", told, list(_figures(series)))


async def _measure(
    settings: Settings, engine: Engine, meetings: Mapping[int, Meeting], repetitions: int
) -> dict[int, list[Measured]]:
    """The first job of all is not counted: it loads what is loaded when it is first needed."""
    names = {tracks: held.save(settings.data_dir / f"{tracks}.mkv").name for tracks, held in meetings.items()}
    series: dict[int, list[Measured]] = {tracks: [] for tracks in meetings}
    async with serving(settings.data_dir, list(names.values()), (0.0, 0.0)) as web, MemoryStore() as store:
        work = Work(settings, engine, store, ())
        await _job(work, JobRequest(media_url=web.url(names[1])))
        for _ in range(repetitions):
            for tracks, held in meetings.items():
                series[tracks].append(await _repeat(work, held, web.url(names[tracks])))
    return series


async def _repeat(work: Work, held: Meeting, url: str) -> Measured:
    downmix, _ = await _job(work, JobRequest(media_url=url))
    multitrack, transcript = await _job(work, JobRequest(media_url=url, processing_mode="multitrack"))
    each = [JobRequest(media_url=url, processing_mode="select", track_index=n) for n in range(held.tracks)]
    apart = [side for side, _ in [await _job(work, request) for request in each]]
    errors = _errors(held, list(_texts(transcript)))
    if held.tracks != COMPARED:
        return Measured(Cost.of(downmix), Cost.of(multitrack), Cost.of(*apart), errors, {}, None)
    peers = await to_thread.run_sync(_peers, work.settings, held)
    side, transcript = await _job(work, JobRequest(media_url=url, processing_mode="multitrack", quality="fast"))
    fast = Peer(side.cpu, _errors(held, list(_texts(transcript))))
    return Measured(Cost.of(downmix), Cost.of(multitrack), Cost.of(*apart), errors, peers, fast)


async def _job(work: Work, request: JobRequest) -> tuple[Side, Transcript]:
    """One job with nothing else to do."""
    door = work.store.tenant(TENANT)
    job = await door.submit(request)
    side = await emptied(work, 1)
    transcript = await door.transcript(job.id)
    assert transcript is not None  # the job has completed
    return side, transcript


def _peers(settings: Settings, held: Meeting) -> Mapping[str, Peer]:
    """Given a file for each track: of one file it would hear the first track only."""
    files = held.save_apart(settings.data_dir)
    found = weights.find(settings.engine.model, settings.engine)
    told = {name: hear(name, found, files) for name in CPU}
    return {name: Peer(heard.cpu, _errors(held, heard.texts)) for name, heard in told.items()}


def _texts(transcript: Transcript) -> Iterator[str]:
    for track in transcript.tracks:
        yield " ".join(segment.text for segment in transcript.segments if segment.track == track.id)


def _errors(held: Meeting, heard: Sequence[str]) -> float:
    """Word error rate over all tracks, in percent, blind to case and punctuation."""
    return 100 * float(jiwer.wer([_plain(text) for text in held.said], [_plain(text) for text in heard]))


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", re.sub("['’]", "", text.lower())))


def _figures(series: Series) -> Iterator[Figure]:
    for tracks, measured in series.items():
        yield from _beside_the_mix(tracks, measured)
    yield from _beside_the_peers(series[COMPARED])


def _beside_the_mix(tracks: int, measured: Sequence[Measured]) -> Iterator[Figure]:
    for name, part in PARTS.items():
        target = WALL if name == "wall" and tracks == COMPARED else None
        ours = [part(one.multitrack) for one in measured]
        mixed = [part(one.multitrack) / part(one.downmix) for one in measured]
        apart = [part(one.multitrack) / part(one.apart) for one in measured]
        yield Figure(f"{tracks}: {name}, multitrack", ours, "s")
        yield Figure(f"{tracks}: {name}, over its downmix", mixed, "×", at_most=target)
        yield Figure(f"{tracks}: {name}, over its tracks one after another", apart, "×")


def _beside_the_peers(measured: Sequence[Measured]) -> Iterator[Figure]:
    for name, target in CPU.items():
        cpu = [one.peers[name].cpu for one in measured]
        times = [one.peers[name].cpu / one.multitrack.cpu for one in measured]
        yield Figure(f"{COMPARED}: CPU, faster-whisper {name}", cpu, "s")
        yield Figure(f"{COMPARED}: CPU, faster-whisper {name}, over ours", times, "×", at_least=target)
    yield from _fast(measured)
    yield Figure(f"{COMPARED}: word error rate, multitrack", [one.errors for one in measured], "%")
    for name in CPU:
        errors = [one.peers[name].errors for one in measured]
        yield Figure(f"{COMPARED}: word error rate, faster-whisper {name}", errors, "%")
    beyond = [one.errors - min(peer.errors for peer in one.peers.values()) for one in measured]
    yield Figure(f"{COMPARED}: word error rate, beyond the best of these", beyond, "points", at_most=0.0)


def _fast(measured: Sequence[Measured]) -> Iterator[Figure]:
    """Beside peers that still take five beams, as they do when nobody says otherwise."""
    fast = [(one.fast, one.peers) for one in measured if one.fast]
    yield Figure(f"{COMPARED}: CPU, multitrack at quality fast", [ours.cpu for ours, _ in fast], "s")
    for name in CPU:
        times = [peers[name].cpu / ours.cpu for ours, peers in fast]
        yield Figure(f"{COMPARED}: CPU, faster-whisper {name}, over ours at quality fast", times, "×")
    yield Figure(f"{COMPARED}: word error rate, multitrack at quality fast", [ours.errors for ours, _ in fast], "%")


def _panels(series: Series) -> Iterator[plot.Panel]:
    """Over the same repetition's downmix, so that what else the machine did falls on both."""
    for title, part in (("Wall time", PARTS["wall"]), ("CPU time", PARTS["CPU"])):
        ours = {n: [part(one.multitrack) / part(one.downmix) for one in measured] for n, measured in series.items()}
        apart = {n: [part(one.apart) / part(one.downmix) for one in measured] for n, measured in series.items()}
        yield plot.Panel(title, ours, apart)


def _told(engine: Engine, meetings: Mapping[int, Meeting]) -> dict[str, str]:
    info, can = engine.info, engine.capabilities
    lengths = ", ".join(f"{tracks}: {held.seconds:.0f} s" for tracks, held in meetings.items())
    words = sum(len(said.split()) for said in meetings[COMPARED].said)
    return {
        "engine": f"{info.backend} {info.model} {info.compute_type}, {can.lanes} × {can.max_batch}",
        "meeting": f"{words} words, the same for any number of tracks ({lengths}); a FLAC stream each, in Matroska",
        "ours": "one job at a time through the chain, from submit to commit, with the default settings",
        "faster-whisper": "one file a track, one after another, beam 5, cpu_threads=1, its own process; batch_size=8",
    }


def _settings(folder: Path) -> Settings:
    asked = Settings()
    download = {"allow_networks": (IPv4Network("127.0.0.0/8"),), "allow_ports": ()}
    return asked.model_copy(update={"data_dir": folder, "download": asked.download.model_copy(update=download)})


BENCHMARK: Final = Benchmark(
    "multitrack",
    "meetings of 1 to 8 tracks: beside their mix, beside a job for each track, and beside faster-whisper",
    TARGET,
    run,
)
