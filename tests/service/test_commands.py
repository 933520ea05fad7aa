"""The command line: a recording in, a transcript or a reason out."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import termios
from pathlib import Path

import numpy as np
import pytest
from anyio.abc import ByteStream

from tests.conversation import RECORDING
from tests.service.installation import COMMAND, SPOKEN, Installation, Service
from tests.stages.making import Part, Stream, film, record
from tests.stages.web import Asked, Web, answer, redirect

pytestmark = pytest.mark.postgres


def port(service: Service) -> str:
    return service.address.rpartition(":")[2]


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        ("text", rf"{SPOKEN}\n"),
        ("json", rf'{{"text":"{SPOKEN}".*}}\n'),
        ("srt", rf"1\n00:00:00,\d+ --> 00:00:\d\d,\d+\n{SPOKEN}\n"),
        ("tsv", rf"start\tend\tspeaker\ttext\n\d+\t\d+\t\t{SPOKEN}\n"),
        ("vtt", rf"WEBVTT\n\n00:00:00\.\d+ --> 00:00:\d\d\.\d+\n{SPOKEN}\n"),
    ],
)
def test_transcribe_prints_the_transcript_and_nothing_else(
    home: Installation, service: Service, media: Path, form: str, shown: str
) -> None:
    ran = home.run("transcribe", media / "austen_0880.flac", "--format", form, HTTP__PORT=port(service))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.fullmatch(shown, ran.stdout)


def test_transcribe_takes_a_url(home: Installation, service: Service, media: Path, web: Web) -> None:
    web.answers["/talk.flac"] = answer((media / "austen_0880.flac").read_bytes())
    ran = home.run("transcribe", web.url("/talk.flac"), HTTP__PORT=port(service))
    assert (ran.returncode, ran.stdout) == (0, f"{SPOKEN}\n")


def test_transcribe_brings_a_service_of_its_own_where_none_answers(installation: Installation, media: Path) -> None:
    ran = installation.run("transcribe", media / "austen_0880.flac")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{SPOKEN}\n", "")
    installation.wait_for_silence()
    assert installation.files() == []


@pytest.mark.parametrize("way", [[], ["--once"]], ids=["service", "once"])
def test_every_warning_is_a_line_on_standard_error(
    home: Installation, service: Service, media: Path, tmp_path: Path, way: list[str]
) -> None:
    typed = tmp_path / "minutes.mp3"
    typed.write_text("Minutes of the meeting, typed, not recorded.\n" * 100)
    silent = record(tmp_path / "silent.wav", Stream([Part(0.0, np.zeros((1, 48_000), np.float32))]))
    recordings = [media / "austen_0880.flac", typed, silent]
    labels = [argument for name in ("a", "b", "c", "d") for argument in ("--label", name)]
    ran = home.run("transcribe", *recordings, *labels, *way, HTTP__PORT=port(service))
    assert (ran.returncode, ran.stdout) == (0, f"{SPOKEN}\n")
    surplus, *others = ran.stderr.splitlines()
    assert surplus.startswith("antiphon: There is no track 3 for the label")
    assert others == [
        "antiphon: track 1:0: File 1 is not audio or video in a format that can be read here.",
        "antiphon: track 2:0: Nothing was said on this track.",
    ]


@pytest.mark.parametrize("way", [[], ["--once"]], ids=["service", "once"])
def test_an_empty_transcript_says_that_nothing_was_said(
    home: Installation, service: Service, tmp_path: Path, way: list[str]
) -> None:
    silent = record(tmp_path / "silent.wav", Stream([Part(0.0, np.zeros((1, 48_000), np.float32))]))
    ran = home.run("transcribe", silent, *way, HTTP__PORT=port(service))
    assert (ran.returncode, ran.stdout) == (0, "")
    assert ran.stderr == "antiphon: Nothing was said on this track.\n"


@pytest.mark.parametrize("way", [[], ["--once"]], ids=["service", "once"])
def test_a_job_that_fails_shows_its_title_and_detail(
    home: Installation, service: Service, tmp_path: Path, way: list[str]
) -> None:
    silent = film(tmp_path / "silent.mp4", sound=None)
    ran = home.run("transcribe", silent, *way, HTTP__PORT=port(service))
    title, detail = "The media holds no audio that can be read", "The file has no audio stream."
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", f"antiphon: {title}: {detail}\n")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["absent.mp3"], "There is no file 'absent.mp3'"),
        (["http://10.0.0.1/a.mp3"], "antiphon: This address may not be fetched; "),
        (["ftp://host.test/a.mp3"], "give a file or an http(s) address"),
        (["--track", "3", RECORDING], "antiphon: The recording has no such track: "),
        (["--mode", "downmix", RECORDING, RECORDING], "Several files are the tracks of one recording"),
    ],
)
def test_what_cannot_be_transcribed_is_told_in_one_line(
    home: Installation, service: Service, asked: list[str | Path], says: str
) -> None:
    ran = home.run("transcribe", *asked, HTTP__PORT=port(service))
    assert (ran.returncode, ran.stdout, len(ran.stderr.splitlines())) == (1, "", 1)
    assert says in ran.stderr


@pytest.mark.parametrize("way", [[], ["--once"]], ids=["service", "once"])
def test_a_problem_that_begins_with_its_title_is_told_once(
    home: Installation, service: Service, web: Web, way: list[str]
) -> None:
    web.answers["/moved.mp3"] = redirect("http://10.0.0.1/a.mp3")
    ran = home.run("transcribe", web.url("/moved.mp3"), *way, HTTP__PORT=port(service))
    assert (ran.returncode, ran.stdout, len(ran.stderr.splitlines())) == (1, "", 1)
    assert ran.stderr.count("This address may not be fetched") == 1


def test_a_service_that_goes_away_is_told_of_in_one_line(home: Installation, web: Web, media: Path) -> None:
    async def hang_up(stream: ByteStream, asked: Asked) -> None:
        await stream.aclose()

    web.answers |= {"/readyz": answer(b'{"status":"ok"}'), "/v1/jobs": hang_up}
    ran = home.run("transcribe", media / "austen_0880.flac", HTTP__PORT=str(web.port))
    assert (ran.returncode, ran.stdout, len(ran.stderr.splitlines())) == (1, "", 1)
    assert ran.stderr.startswith(f"antiphon: The service at http://127.0.0.1:{web.port} went away")


@pytest.mark.parametrize("host", ["::1", "::"])
def test_transcribe_brings_its_own_service_whatever_the_configured_one_listens_at(
    installation: Installation, media: Path, host: str
) -> None:
    ran = installation.run("transcribe", media / "austen_0880.flac", HTTP__HOST=host, HTTP__PORT="1")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{SPOKEN}\n", "")


def test_a_terminal_shows_how_far_the_job_is(home: Installation, service: Service, media: Path) -> None:
    ours, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    os.set_blocking(ours, False)
    try:
        ran = subprocess.run(
            [COMMAND, "transcribe", str(media / "austen_0880.flac")],
            env={**home.environment, "HTTP__PORT": port(service)},
            stdout=subprocess.PIPE,
            stderr=terminal,
            check=True,
            text=True,
        )
        shown = os.read(ours, 65_536).decode()
    finally:
        os.close(ours)
        os.close(terminal)
    assert ran.stdout == f"{SPOKEN}\n"
    assert "%" in shown


def test_a_token_speaks_for_its_tenant_alone(home: Installation, service: Service, media: Path) -> None:
    owner, stranger = (
        {"Authorization": f"Bearer {home.run('token', '--tenant', tenant).stdout.strip()}"}
        for tenant in ("acme", "bravo")
    )
    path = f"/v1/jobs/{service.submit(media / 'austen_0880.flac')}"
    assert service.http.get(path, headers=owner).status_code == 200
    refused = service.http.get(path, headers=stranger)
    unknown = service.http.get("/v1/jobs/00000000-0000-4000-8000-000000000000", headers=owner)
    assert refused.status_code == unknown.status_code == 404
    assert refused.json()["code"] == unknown.json()["code"] == "not-found"


def test_a_new_key_is_told_of_once_and_where_it_is(installation: Installation) -> None:
    first, second = (installation.run("token", "--tenant", "acme", DATA_DIR="here") for _ in range(2))
    assert str(installation.folder / "here" / "secret") in first.stderr
    assert (first.stdout.count("."), len(first.stderr.splitlines()), second.stderr) == (2, 1, "")


@pytest.mark.parametrize("tenant", ["", "x" * 129, "a\nb"], ids=repr)
def test_a_token_that_the_door_would_refuse_is_not_made(home: Installation, service: Service, tenant: str) -> None:
    ran = home.run("token", "--tenant", tenant)
    assert (ran.returncode, ran.stdout, len(ran.stderr.splitlines())) == (1, "", 1)
    assert "1 to 128 printable characters" in ran.stderr


def test_wrong_settings_are_told_in_a_line_each(home: Installation) -> None:
    wrong = {"HTTP__PORT": "door", "QUEUE__LEASE_SECONDS": "20", "HTTP__HOTS": "localhost"}
    ran = home.run("check-config", **wrong)
    assert (ran.returncode, ran.stdout) == (1, "")
    lines = sorted(ran.stderr.splitlines())
    assert [line.split()[:2] for line in lines] == [
        ["antiphon:", place] for place in ("HTTP__HOTS", "HTTP__PORT:", "QUEUE:")
    ]
    assert not any(line.endswith("..") for line in lines)


@pytest.mark.parametrize("section", ["DATABASE", "HTTP"])
def test_a_section_that_is_set_as_a_whole_is_told_of_in_one_sentence(home: Installation, section: str) -> None:
    ran = home.run("check-config", **{section: "foo"})
    assert (ran.returncode, ran.stdout, len(ran.stderr.splitlines())) == (1, "", 1)
    assert ran.stderr.startswith(f"antiphon: {section} is no setting by itself")


def test_check_config_shows_every_setting_and_no_secret(home: Installation) -> None:
    ran = home.run("check-config", AUTH__SECRET="a-secret-that-nobody-else-may-read")
    assert ran.returncode == 0
    assert "HTTP__PORT=0" in ran.stdout
    assert "a-secret" not in ran.stdout


def test_migrate_makes_the_schema_and_leaves_nothing_running(installation: Installation) -> None:
    assert installation.run("migrate").returncode == 0
    assert installation.processes() == {}
    assert installation.rows("SELECT count(*) AS n FROM antiphon.migrations")[0]["n"] >= 1
