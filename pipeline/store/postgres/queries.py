"""The statements of ``queries.sql``, by name."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final


def _named(text: str) -> dict[str, str]:
    _, *parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


SQL: Final = _named((files("pipeline.store") / "queries.sql").read_text())
