"""The statements of the folder ``queries``, by name."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final


def _named() -> dict[str, str]:
    texts = [file.read_text() for file in (files("pipeline.store") / "queries").iterdir() if file.name.endswith(".sql")]
    parts = [part for text in texts for part in re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)[1:]]
    names = parts[::2]
    assert len(names) == len(set(names)), "Two statements have one name."
    return dict(zip(names, parts[1::2], strict=True))


SQL: Final = _named()
