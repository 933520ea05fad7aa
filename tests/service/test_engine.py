"""The engine of a running service: what is told of it, and the one sentence where there cannot be one."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.service.installation import PATIENCE, Installation, Service, until

pytestmark = pytest.mark.postgres

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Another system may have what is asked for here.")
BLOCKING = """
import sys
for name in sys.argv.pop(1).split():
    sys.modules[name] = None  # what Python takes for a package that cannot be had
from api.__main__ import main
sys.exit(main())
"""
PACKAGES = {"faster_whisper": "faster_whisper", "openai_whisper": "whisper", "whisper_cpp": "pywhispercpp"}
BACKENDS = pytest.mark.parametrize("backend", PACKAGES)


def needs(backend: str) -> None:
    if find_spec(PACKAGES[backend]) is None:
        pytest.skip(f"{PACKAGES[backend]} is not installed.")


def sentence(ran: subprocess.CompletedProcess[str]) -> str:
    """The one with which the start has ended."""
    assert ran.returncode == 1, ran.stderr
    assert ran.stderr.startswith("antiphon: ")
    assert len(ran.stderr.splitlines()) == 1, ran.stderr
    assert ran.stderr.endswith((".\n", "?\n"))
    return ran.stderr


def test_the_engine_is_told_of_with_what_it_has_done(service: Service, media: Path) -> None:
    service.completed(service.submit(media / "austen_0880.flac"))
    told = service.http.get("/v1/engine").json()
    assert (told["backend"], told["device"], told["isolation"]) == ("mock", "cpu", "thread")
    assert (told["room"]["windows"], told["room"]["ready"]) == (1, 0)
    assert [stage["stage"] for stage in told["stages"]] == ["downloader", "demuxer", "transcriber", "interleaver"]
    assert told["database"]["reachable"]
    assert told["database"]["version"].startswith("PostgreSQL ")
    assert told["loaded_since"]
    assert set(service.event("service-ready") or ()) >= {"backend", "model", "device", "compute_type", "isolation"}


def test_a_job_that_comes_while_the_model_is_out_of_memory_brings_it_back(
    installation: Installation, media: Path
) -> None:
    installation.settings["ENGINE__IDLE_UNLOAD_SECONDS"] = "0.1"
    with installation.serving() as service:
        for _ in range(2):
            until(lambda: service.http.get("/v1/engine").json()["loaded_since"] is None)
            service.completed(service.submit(media / "austen_0880.flac"))


@BACKENDS
def test_a_model_that_nobody_knows_ends_the_start(installation: Installation, backend: str) -> None:
    needs(backend)
    told = sentence(installation.run("serve", ENGINE__BACKEND=backend, ENGINE__MODEL="colossal"))
    assert "ENGINE__MODEL" in told
    assert "colossal" in told


@BACKENDS
def test_a_precision_that_there_is_not_ends_the_start(installation: Installation, backend: str) -> None:
    needs(backend)
    told = sentence(
        installation.run("serve", ENGINE__BACKEND=backend, ENGINE__MODEL="base", ENGINE__COMPUTE_TYPE="int7")
    )
    assert "ENGINE__COMPUTE_TYPE=int7" in told


@LINUX
@BACKENDS
@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_this_machine_has_not_ends_the_start(
    installation: Installation, backend: str, device: str
) -> None:
    needs(backend)
    if device == "cuda" and Path("/dev/nvidia0").exists():
        pytest.skip("This machine has a card.")
    told = sentence(installation.run("serve", ENGINE__BACKEND=backend, ENGINE__MODEL="base", ENGINE__DEVICE=device))
    assert f"ENGINE__DEVICE={device}" in told


@BACKENDS
def test_an_engine_whose_package_is_missing_ends_the_start_and_says_what_to_install(
    installation: Installation, backend: str
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", BLOCKING, f"{PACKAGES[backend]} _{PACKAGES[backend]}", "serve"],
        env={**os.environ, **installation.environment, "ENGINE__BACKEND": backend, "ENGINE__MODEL": "base"},
        cwd=installation.folder,
        capture_output=True,
        check=False,
        text=True,
        timeout=PATIENCE,
    )
    told = sentence(ran)
    assert f"ENGINE__BACKEND={backend}" in told
    assert "install" in told
