#!/usr/bin/env python3
"""Says whether the settings in the environment are good: `antiphon check-config`, found in this clone."""

import os
import sys
from pathlib import Path

ANTIPHON = Path(__file__).resolve().parent.parent / ".venv/bin/antiphon"

if not ANTIPHON.exists():
    sys.exit("check-config: there is no .venv yet; run scripts/setup-dev.bash first.")
os.execv(ANTIPHON, [ANTIPHON, "check-config", *sys.argv[1:]])  # noqa: S606 – our own program
