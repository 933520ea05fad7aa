"""`python -m bench` lists the benchmarks; with a name it runs one and prints its figures beside their targets."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from bench import (
    Unmeasured,
    accuracy,
    align,
    api,
    crosstalk,
    decode,
    engines,
    faults,
    goodput,
    multitrack,
    overlap,
    queue,
)
from bench.figures import table
from bench.machine import Machine
from pipeline.errors import ConfigError
from pipeline.settings import TelemetrySettings
from pipeline.telemetry import configure_logging

BENCHMARKS: Final = {
    one.name: one
    for one in (
        overlap.BENCHMARK,
        goodput.BENCHMARK,
        multitrack.BENCHMARK,
        align.BENCHMARK,
        decode.BENCHMARK,
        engines.BENCHMARK,
        accuracy.BENCHMARK,
        crosstalk.BENCHMARK,
        api.BENCHMARK,
        queue.BENCHMARK,
        faults.BENCHMARK,
    )
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 it could be measured, whatever came out; 1 it could not (standard error says why)."""
    asked = _parser().parse_args(argv)
    if asked.name is None:
        listed = [(one.name, one.measures, one.target) for one in BENCHMARKS.values()]
        print("\n".join(table([("benchmark", "measures", "target"), *listed])))
        return 0
    configure_logging(TelemetrySettings(log_level="ERROR"))
    machine = Machine.here()
    print(machine)
    try:
        report = BENCHMARKS[asked.name].run(asked.quick)
    except (ConfigError, Unmeasured) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(report)
    print(f"\n{report.save(machine)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m bench", description="Lists the benchmarks, or runs one.")
    parser.add_argument("name", nargs="?", choices=BENCHMARKS, metavar="NAME", help="which to run")
    parser.add_argument("--quick", action="store_true", help="fewer jobs, no repetitions: figures to glance at")
    return parser


if __name__ == "__main__":
    sys.exit(main())
