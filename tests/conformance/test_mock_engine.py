"""The mock engine keeps the promises of an engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from stages.engines import Engine, Options, Window
from stages.engines.mock import Fault, MockEngine, Script
from tests.conformance.engine_suite import Clip, EngineSuite


class TestMockEngine(EngineSuite):
    @pytest.fixture
    def engine(self) -> Engine:
        fault = Fault(mark="break this", kind="window")
        return MockEngine(Script(lines=("One two three.", "Four five.", "Six"), lanes=2, faults=(fault,)))

    @pytest.fixture
    def speech(self) -> Sequence[Clip]:
        noise = np.random.default_rng(0).normal(0, 0.1, 160_000).astype(np.float32)
        return [noise, noise[:40_000], noise[40_000:123_456]]

    @pytest.fixture
    def broken(self, speech: Sequence[Clip]) -> Window:
        return Window(speech[0], Options(prompt="Please break this."))


class TestMockEngineWithoutTimesOfWords(TestMockEngine):
    @pytest.fixture
    def engine(self) -> Engine:
        fault = Fault(mark="break this", kind="window")
        return MockEngine(Script(lines=("One two three.", "Four five."), words=False, faults=(fault,)))
