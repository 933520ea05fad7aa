"""What is done to a recording. The chain below is the whole service on one screen."""

from __future__ import annotations

from pipeline.chain import Chain
from pipeline.observer import Observer
from pipeline.settings import Settings
from pipeline.store import JobQueue
from pipeline.transcript import Transcript
from stages.checkpoints import Checkpoints
from stages.claimer import Claimer
from stages.committer import Committer
from stages.demuxer import Demuxer
from stages.downloader import Downloader
from stages.engines.room import ModelRoom
from stages.interleaver import Interleaver
from stages.transcriber import Transcriber


def chain(queue: JobQueue, room: ModelRoom, settings: Settings, observe: Observer) -> Chain[Transcript]:
    checkpoints = Checkpoints(queue, settings.queue, room.engine.info)
    # Every open job may be fetched at once, or a slow server of one tenant would hold up all the others.
    fetchers = max(settings.download.workers, room.jobs)
    return (
        Chain(Claimer(queue, settings.queue, settings.data_dir / "scratch"), observe=observe)
        .then(Downloader(queue, settings.download), workers=fetchers, ahead=2)
        .then(Demuxer(settings.audio), workers=room.jobs, ahead=1)
        .then(Transcriber(room, settings.audio, checkpoints), workers=room.tracks, ahead=2)
        .then(Interleaver(room.engine.info))
        .sink(Committer(queue, settings.queue), workers=2)
    )
