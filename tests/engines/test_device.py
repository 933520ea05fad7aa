"""Which device a model runs on, and what its errors mean."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from pipeline.errors import ConfigError, EngineLost
from stages.engines import BatchTooBig
from stages.engines.device import NICENESS, choose_device, choose_precision, watched, with_nice_threads


@pytest.mark.parametrize(
    ("asked", "cards", "chosen"),
    [("auto", 0, "cpu"), ("auto", 1, "cuda"), ("cpu", 1, "cpu"), ("cuda", 1, "cuda")],
)
def test_a_card_is_used_where_there_is_one_unless_told_otherwise(asked: str, cards: int, chosen: str) -> None:
    assert choose_device(asked, cards=cards) == chosen


def test_a_card_that_is_asked_for_and_missing_is_an_error() -> None:
    with pytest.raises(ConfigError, match="ENGINE__DEVICE=cuda"):
        choose_device("cuda", cards=0)


def test_precision_follows_the_device_unless_told_otherwise() -> None:
    supported = {"int8", "float16", "float32"}
    assert choose_precision("auto", "cpu", supported) == "int8"
    assert choose_precision("auto", "cuda", supported) == "float16"
    assert choose_precision("float32", "cpu", supported) == "float32"


@pytest.mark.parametrize(
    "reason",
    ["CUDA failed with error an illegal memory access was encountered", "cuBLAS failed with status NOT_INITIALIZED"],
)
def test_a_failing_card_is_a_lost_engine(reason: str) -> None:
    with pytest.raises(EngineLost, match="failed"), watched():
        raise RuntimeError(reason)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA failed with error out of memory"),
        RuntimeError("cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED"),
        RuntimeError("mkl_malloc: failed to allocate memory"),
        MemoryError("std::bad_alloc"),
    ],
)
def test_no_memory_is_a_batch_that_was_too_big(error: Exception) -> None:
    with pytest.raises(BatchTooBig, match="no memory left"), watched():
        raise error


def test_another_error_stays_the_batchs_own() -> None:
    with pytest.raises(RuntimeError, match="The prompts do not fit together"), watched():
        raise RuntimeError("The prompts do not fit together")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has niceness by thread")
def test_threads_that_a_model_starts_are_nicer_than_those_that_answer_requests() -> None:
    nice = []

    def make() -> str:
        worker = threading.Thread(target=lambda: nice.append(os.nice(0)))
        worker.start()
        worker.join()
        return "model"

    before = os.nice(0)
    assert with_nice_threads(make) == "model"
    assert nice == [before + NICENESS]
    assert os.nice(0) == before
