"""Which engine a machine gets when none is named: faster_whisper, and whisper_cpp on a Mac, where it has Metal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Final

# What has to be installed for an engine that does not come with Antiphon.
INSTALL: Final = {
    "openai_whisper": "run `pip install 'antiphon[torch]'`",
    "whisper_cpp": "run `pip install 'antiphon[whisper-cpp]'`",
}


def _is_installed(package: str) -> bool:
    return find_spec(package) is not None


def choose_backend(
    asked: str, *, platform: str = sys.platform, is_installed: Callable[[str], bool] = _is_installed
) -> str:
    """An engine's file name. CTranslate2 cannot use Metal: a Mac without whisper.cpp works on its processor."""
    if asked != "auto":
        return asked
    return "whisper_cpp" if platform == "darwin" and is_installed("pywhispercpp") else "faster_whisper"
