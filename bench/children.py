"""A measurement in a process of its own: what one sets for the whole of it does not reach another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import Unmeasured


def told(what: str, module: str, *arguments: str) -> Any:
    """The JSON in the last line that a module of the benchmarks prints. Raises ``Unmeasured`` when it fails."""
    command = [sys.executable, "-m", module, *arguments]
    child = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    if child.returncode:
        *_, reason = ["it said nothing", *child.stderr.strip().splitlines()]
        raise Unmeasured(f"{what} failed with exit code {child.returncode}: {reason}")
    return json.loads(child.stdout.splitlines()[-1])
