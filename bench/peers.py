"""faster-whisper itself, on the same weights and recordings, in a process of its own: `python -m bench.peers`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final

from bench.children import told

# What its documentation shows: `transcribe` as it is, with its own speech detector, and in batches.
PEERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "default": {},
    "with its VAD": {"vad_filter": True},
    "batched": {"batch_size": 8},
}


@dataclass(frozen=True, slots=True)
class Heard:
    """CPU and wall seconds for all files, decoding included and loading the model not; the text of each."""

    cpu: float
    wall: float
    texts: Sequence[str]


def hear(peer: str, weights: Path, files: Sequence[Path]) -> Heard:
    """File after file on one thread, as CTranslate2 takes the least CPU time. Raises ``Unmeasured`` when it fails."""
    return Heard(**told(f"faster-whisper ({peer})", "bench.peers", peer, str(weights), *map(str, files)))


def _hear(peer: str, weights: str, files: Sequence[str]) -> Heard:
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model: Any = WhisperModel(weights, "cpu", compute_type="int8", cpu_threads=1)
    if peer == "batched":
        model = BatchedInferencePipeline(model)
    began, cpu = perf_counter(), process_time()
    texts = []
    for file in files:
        segments, _ = model.transcribe(file, beam_size=5, **PEERS[peer])
        texts.append("".join(segment.text for segment in segments))
    return Heard(process_time() - cpu, perf_counter() - began, texts)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    print(json.dumps(asdict(_hear(sys.argv[1], sys.argv[2], sys.argv[3:]))))
