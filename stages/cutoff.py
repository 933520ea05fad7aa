"""Whether a media file lacks its end, for the formats of which libav takes a file to be as long as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Final

OGG_REACH: Final = 65_536  # bytes; no page is longer
TS_PACKETS: Final = ((188, 0), (192, 4), (204, 0))  # bytes of a packet, and where in it the sync byte stands
TS_SYNC: Final = b"\x47" * 5  # so many in their places are no chance
# Layer III (ISO 11172-3 and 13818-3): Hz and kbit/s by their indices in a frame's head. By MPEG version: its kbit/s, by
# what its Hz are less, and an eighth of the samples in a frame.
MP3_HERTZ: Final = (44_100, 48_000, 32_000)
MP3_KILOBITS: Final = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
MP3_KILOBITS_2: Final = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
MP3_VERSIONS: Final = {3: (MP3_KILOBITS, 1, 144), 2: (MP3_KILOBITS_2, 2, 72), 0: (MP3_KILOBITS_2, 4, 72)}


def is_cut_off(path: Path, format_name: str, last_packet: bytes) -> bool:
    """``format_name`` and ``last_packet`` as libav's reader gave them. ``False`` also where nothing tells."""
    match format_name:
        case "wav":
            return _wav(path)
        case "ogg":
            return _ogg(path)
        case "mpegts":
            return _mpegts(path)
        case "mp3":
            return len(last_packet) < _mp3_frame_bytes(last_packet)
    return False


def _wav(path: Path) -> bool:
    declared = int.from_bytes(_read(path, 0, 8)[4:], "little")
    return declared != 0xFFFF_FFFF and declared + 8 > path.stat().st_size


def _ogg(path: Path) -> bool:
    _, mark, page = _read(path, max(0, path.stat().st_size - OGG_REACH), OGG_REACH).rpartition(b"OggS")
    if not mark or len(page) < 23:
        return True
    last, segments = page[1] & 4, page[22]  # RFC 3533, section 6
    return not last or len(page) < 23 + segments + sum(page[23 : 23 + segments])


def _mpegts(path: Path) -> bool:
    head = _read(path, 0, len(TS_SYNC) * 204)
    size = path.stat().st_size
    return any(size % packet for packet, at in TS_PACKETS if head[at::packet].startswith(TS_SYNC))


def _mp3_frame_bytes(frame: bytes) -> int:
    """How long the frame says it is; 0 where it does not."""
    if len(frame) < 3 or frame[0] != 0xFF or frame[1] & 0b110 != 0b010:  # layer III
        return 0
    version, kilobits, hertz, padding = frame[1] >> 3 & 3, frame[2] >> 4, frame[2] >> 2 & 3, frame[2] >> 1 & 1
    if version not in MP3_VERSIONS or kilobits in (0, 15) or hertz == 3:
        return 0
    table, less, eighth = MP3_VERSIONS[version]
    return eighth * table[kilobits - 1] * 1000 * less // MP3_HERTZ[hertz] + padding


def _read(path: Path, start: int, count: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(count)
