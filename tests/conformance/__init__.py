"""Suites that every implementation of a contract runs; their asserts speak like those of a test module."""

import pytest

pytest.register_assert_rewrite(
    "tests.conformance.store_suite", "tests.conformance.engine_suite", "tests.conformance.whisper_suite"
)
