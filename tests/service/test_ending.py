"""How the service starts, or says why not, and how it ends: orderly, in haste, and never leaving anything behind."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tests.service.installation import Installation, Service, until

pytestmark = pytest.mark.postgres

FOR_EVER = 3600.0
STOPS = pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
JOB = "SELECT status, attempt FROM antiphon.jobs WHERE id = $1"


def at_work(service: Service, media: Path) -> str:
    """The id of a job that a worker has."""
    job_id = service.submit(media / "jfk.flac")
    service.begun(job_id)
    return job_id


@STOPS
def test_work_in_hand_is_finished_before_the_service_ends(
    installation: Installation, media: Path, stop: signal.Signals
) -> None:
    installation.speak(window_seconds=1.0)
    with installation.serving() as service:
        job_id = at_work(service, media)
        service.process.send_signal(stop)
        assert service.ends() == 0
        installation.wait_for_silence()
        assert installation.rows(JOB, job_id) == [{"status": "completed", "attempt": 1}]
    assert installation.files() == []


@STOPS
def test_a_draining_service_answers_polls_and_a_second_signal_gives_its_work_back_uncounted(
    installation: Installation, media: Path, stop: signal.Signals
) -> None:
    installation.speak(window_seconds=FOR_EVER)
    with installation.serving() as service:
        job_id = at_work(service, media)
        service.process.send_signal(stop)
        until(lambda: service.event("service-draining"))
        assert [service.http.get(path).status_code for path in ("/readyz", "/livez")] == [503, 200]
        assert service.job(job_id)["status"] == "running"
        service.process.send_signal(stop)
        assert service.ends() == 0
        installation.wait_for_silence()
    assert installation.rows(JOB, job_id) == [{"status": "pending", "attempt": 0}]
    assert installation.files() == []
    installation.speak()
    with installation.serving() as service:
        assert service.completed(job_id)["attempt"] == 1


def test_work_that_outlasts_the_grace_is_given_back(installation: Installation, media: Path) -> None:
    installation.settings["SHUTDOWN__GRACE_SECONDS"] = "0.1"
    installation.speak(window_seconds=FOR_EVER)
    with installation.serving() as service:
        job_id = at_work(service, media)
        service.process.terminate()
        assert service.ends() == 0
    assert installation.rows(JOB, job_id) == [{"status": "pending", "attempt": 0}]


def test_what_the_engine_had_said_until_then_is_not_asked_for_again(installation: Installation, media: Path) -> None:
    installation.settings["SHUTDOWN__GRACE_SECONDS"] = "0.1"
    installation.speak(window_seconds=0.5, max_batch=1, lanes=1)
    clips = [media / name for name in ("sonnet_p001.mp3", "sonnet_p002.mp3")]
    with installation.serving() as service:
        job_id = service.submit(*clips, processing_mode="multitrack", crosstalk="off")
        until(lambda: windows(service) >= 2)
        service.process.terminate()
        assert service.ends() == 0
    [kept] = installation.rows("SELECT count(*) FROM antiphon.checkpoints WHERE job_id = $1", job_id)
    assert kept["count"] >= 2
    assert installation.rows(JOB, job_id) == [{"status": "pending", "attempt": 0}]
    installation.speak(lanes=1)
    with installation.serving() as service:
        service.completed(job_id)
        resumed = windows(service)
        other = service.submit(*clips, processing_mode="multitrack", crosstalk="off")
        service.completed(other)
        undisturbed = windows(service) - resumed
        assert undisturbed - resumed == kept["count"]
        assert service.transcript(job_id, "json") == service.transcript(other, "json")


def windows(service: Service) -> int:
    """How many the engine has answered."""
    return int(service.http.get("/v1/engine").json()["room"]["windows"])


def test_an_interrupted_transcription_leaves_nothing_running(installation: Installation, media: Path) -> None:
    installation.speak(window_seconds=FOR_EVER)
    with installation.started("transcribe", media / "jfk.flac") as started:
        until(lambda: [path for path in installation.files() if path.suffix == ".pcm"])
        started.process.send_signal(signal.SIGINT)
        assert started.ends() == 130
        assert "Traceback" not in started.log.read_text()
        installation.wait_for_silence()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"HTTP__PORT": "many"}, "HTTP__PORT"),
        ({"HTTP__PRT": "8000"}, "HTTP__PRT is not a setting"),
        ({"ENGINE__MODEL": "absent.json"}, "ENGINE__MODEL=absent.json"),
        ({"AUTH__SECRET": "short"}, "AUTH__SECRET has 5 bytes"),
        ({"DATABASE__DSN": "postgresql://nobody:word@127.0.0.1:1/none"}, "The database cannot be reached"),
        ({"DATA_DIR": "/proc/antiphon"}, "DATA_DIR"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_one_sentence(
    installation: Installation, settings: dict[str, str], sentence: str
) -> None:
    ran = installation.run("serve", **settings)
    assert ran.returncode == 1
    assert sentence in ran.stderr
    assert len(ran.stderr.splitlines()) == 1, ran.stderr
    assert installation.processes() == {}


def test_a_port_that_is_taken_ends_the_start_before_anything_slow(installation: Installation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        ran = installation.run("serve", HTTP__PORT=port)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1)
    assert f"127.0.0.1:{port} cannot be listened on" in ran.stderr
    assert not list(installation.data.glob("postgres-*"))


@pytest.mark.full
def test_two_services_share_a_data_directory_and_the_one_that_came_later_may_go_first(
    installation: Installation, media: Path
) -> None:
    with installation.serving() as first, installation.started("serve") as second:
        until(lambda: second.event("service-ready"))
        second.process.terminate()
        assert second.ends() == 0
        assert installation.processes()
        job_id = first.submit(media / "jfk.flac")
        assert first.completed(job_id)["attempt"] == 1
        first.process.terminate()
        assert first.ends() == 0
