"""Meetings made of real voices: what each microphone hears, and where on its track each word lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.random import Generator
from numpy.typing import NDArray

from stages.spool import SAMPLE_RATE, Samples

Sound = NDArray[np.float64]
Span = tuple[int, int]  # samples

VOICES: Final = (
    "austen_0870.flac",
    "austen_0880.flac",
    "austen_0890.flac",
    "jfk.flac",
    "leopard_de.flac",
    "leopard_en.flac",
    "leopard_es.flac",
    "leopard_fr.flac",
    "sonnet_clip.mp3",
)
LEVEL: Final = 0.08  # RMS of a voice on its own microphone
HOP: Final = SAMPLE_RATE // 50
SYLLABLE: Final = 5  # hops: shorter sounds are no words
WORD: Final = 20  # hops: longer ones are several
SPOKEN: Final = 25.0  # dB below its loudest that a voice is taken to speak


@dataclass(frozen=True, slots=True)
class Room:
    """Speakers, one after another, each with a microphone and a recorder.

    ``bleed``: dB that a voice is louder on the others' microphones than on its own, ``None``: not heard there at all;
    ``delay``: milliseconds, least and most, that it is later there. ``overlap``: share of the turns that begin before
    the last one ends. ``quieter``: dB that the last speaker is. ``drift``: ppm between the clocks of the recorders;
    ``gains``: dB that each may be set up or down.
    """

    bleed: float | None
    tracks: int = 3
    seconds: int = 180
    overlap: float = 0.15
    delay: tuple[float, float] = (1.0, 12.0)
    reverberation: float = 0.25  # seconds until a sound has died by 60 dB; 0: none at all
    noise: float = -50.0  # dB beside a voice
    quieter: float = 0.0
    drift: float = 0.0
    gains: float = 6.0
    silent: tuple[int, ...] = ()  # who never says anything


@dataclass(frozen=True, slots=True, eq=False)
class Meeting:
    """``words[track][speaker]``: where the words of a speaker lie on a track; of track n the speaker is n."""

    tracks: Sequence[Samples]
    words: Sequence[Sequence[Sequence[Span]]]


def voices(folder: Path) -> list[Sound]:
    """The recordings at 16 kHz, one as loud as the other."""
    sounds = [_mono(folder / name) for name in VOICES]
    return [sound * LEVEL / np.sqrt(np.mean(np.square(sound))) for sound in sounds]


def meeting(room: Room, spoken: Sequence[Sound], seed: int) -> Meeting:
    """The same for the same seed."""
    random = np.random.default_rng(seed)
    said, words = _turns(room, spoken, random)
    tracks, places = [], []
    for track in range(room.tracks):
        clock = 1 + room.drift * 1e-6 * (-1) ** track / 2
        delays = random.uniform(*room.delay, room.tracks) * SAMPLE_RATE / 1000
        delays[track] = 0
        sound = said[track] + sum(_echo(room, said[n], delays[n], random) for n in range(room.tracks) if n != track)
        tracks.append(_recorded(room, sound, clock, random))
        places.append([[_later(word, delays[n], clock) for word in words[n]] for n in range(room.tracks)])
    return Meeting(tracks, places)


def _turns(room: Room, spoken: Sequence[Sound], random: Generator) -> tuple[list[Sound], list[list[Span]]]:
    """What each says, and when."""
    said = [np.zeros(room.seconds * SAMPLE_RATE) for _ in range(room.tracks)]
    words: list[list[Span]] = [[] for _ in range(room.tracks)]
    at, speaker = SAMPLE_RATE, -1
    while True:
        others = [n for n in range(room.tracks) if n not in (speaker, *room.silent)]
        speaker = int(random.choice(others)) if others else speaker
        voice = spoken[int(random.integers(len(spoken)))]
        if at + len(voice) > len(said[0]) - SAMPLE_RATE:
            return said, words
        louder = 10 ** (-room.quieter / 20) if speaker == room.tracks - 1 else 1.0
        said[speaker][at : at + len(voice)] += voice * louder
        words[speaker] += [(at + start, at + end) for start, end in words_of(voice)]
        early = random.random() < room.overlap
        at += len(voice) + round((random.uniform(-2, -0.5) if early else random.uniform(0.3, 2)) * SAMPLE_RATE)


def words_of(voice: Sound) -> list[Span]:
    """Stretches of sound of at most 0.4 s: about a word each."""
    hops = len(voice) // HOP
    levels = 10 * np.log10(np.mean(np.square(voice[: hops * HOP].reshape(hops, HOP)), axis=1) + 1e-9)
    loud = levels > np.percentile(levels, 95) - SPOKEN
    edges = np.flatnonzero(np.diff(loud.astype(np.int8), prepend=0, append=0)) * HOP
    spans: list[Span] = []
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if end - start >= SYLLABLE * HOP:
            parts = -(-(end - start) // (WORD * HOP))
            spans += pairwise(np.linspace(start, end, parts + 1).astype(int).tolist())
    return spans


def _echo(room: Room, said: Sound, delay: float, random: Generator) -> Sound | float:
    """A voice at another's microphone: its way there, and as much again from the walls."""
    if room.bleed is None:
        return 0.0
    direct = round(delay)
    response = np.zeros(direct + 1 + round(room.reverberation * SAMPLE_RATE))
    response[direct] = 1
    tail = len(response) - direct - 1
    if tail:
        walls = random.standard_normal(tail) * 10 ** (-3 * np.arange(tail) / tail)
        response[direct + 1 :] = 0.7 * walls / np.sqrt(np.sum(np.square(walls)))
    response *= 10 ** (room.bleed / 20) / np.sqrt(np.sum(np.square(response)))
    size = 1 << (len(said) + len(response)).bit_length()
    return np.fft.irfft(np.fft.rfft(said, size) * np.fft.rfft(response, size), size)[: len(said)]


def _recorded(room: Room, sound: Sound, clock: float, random: Generator) -> Samples:
    gain = 10 ** (random.uniform(-room.gains, room.gains) / 20)
    noise = random.standard_normal(len(sound)) * LEVEL * 10 ** (room.noise / 20)
    heard = (sound + noise) * gain
    if clock != 1:
        heard = np.interp(np.arange(len(heard)) / clock, np.arange(len(heard)), heard)
    return (np.clip(heard, -1, 1) * 32767).astype(np.int16)


def _later(word: Span, delay: float, clock: float) -> Span:
    start, end = ((edge + delay) * clock for edge in word)
    return round(start), round(end)


def _mono(path: Path) -> Sound:
    convert = AudioResampler("s16", "mono", SAMPLE_RATE)
    with av.open(str(path)) as container:
        frames = [out for frame in container.decode(audio=0) for out in convert.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in [*frames, *convert.resample(None)]]) / 32768
