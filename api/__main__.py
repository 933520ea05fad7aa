"""The command line: ``antiphon COMMAND``; ``antiphon --help`` lists what there is."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Final

import anyio
from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsError

from api import order, tenants
from pipeline.errors import ConfigError
from pipeline.settings import EngineSettings, Settings
from pipeline.transcript import Notice

if TYPE_CHECKING:
    from stages.engines.catalogue import Form

Command = Callable[[Settings, argparse.Namespace], int]

INTERRUPTED: Final = 130  # 128 + SIGINT, as shells count

ABOUT: Final = """\
Antiphon transcribes recordings, for many tenants, and keeps every voice on its own track.

  antiphon transcribe talk.mp3            a transcript, with nothing set up
  antiphon transcribe --mode multitrack call.mkv
  antiphon serve                          the service; then, from another terminal:
  TOKEN=$(antiphon token --tenant acme)
  curl -H "Authorization: Bearer $TOKEN" -F file=@talk.mp3 http://127.0.0.1:8000/v1/jobs

Settings are environment variables; `antiphon check-config` shows each with its meaning."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 it could not be done (standard error says why), 2 wrong use, 130 interrupted."""
    asked = _parser().parse_args(argv)
    command: Command = asked.command
    try:
        return command(configured(), asked)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ConfigError, ExceptionGroup) as error:
        return _say(*_reasons(error, ConfigError))


# ── the commands; each imports what it needs, so that `token` does not wait for libav ─────────────────────────────────


def serve(settings: Settings, _: argparse.Namespace) -> int:
    from api import service
    from api.secret import with_secret
    from pipeline.telemetry import configure_logging
    from stages.engines import load

    configure_logging(settings.telemetry)
    with closing(load(settings.engine)) as engine:
        anyio.run(service.serve, with_secret(settings), engine)
    return 0


def transcribe(settings: Settings, asked: argparse.Namespace) -> int:
    from api import transcribing
    from api.client import Refused
    from api.secret import with_secret
    from pipeline.telemetry import configure_logging

    configure_logging(settings.telemetry.model_copy(update={"log_level": "ERROR"}))
    wanted = order.read(asked)
    try:
        delivery = transcribing.transcribe(with_secret(settings), wanted, once=asked.once)
    except (Refused, ExceptionGroup) as error:
        return _say(*_reasons(error, Refused))
    text = delivery.text
    sys.stdout.write(f"{text}\n" if text and not text.endswith("\n") else text)
    _say(*map(_warning, delivery.warnings))
    return 0


def token(settings: Settings, asked: argparse.Namespace) -> int:
    from api.security import issue_token

    print(issue_token(_keyed(settings).auth, asked.tenant, seconds=int(asked.hours * 3600)))
    return 0


def webhook_secret(settings: Settings, asked: argparse.Namespace) -> int:
    from api.secret import spelled, webhook_key, webhook_master
    from api.security import tenant_named

    master = webhook_master(settings if settings.webhooks.secret else _keyed(settings))
    print(spelled(webhook_key(master, tenant_named(asked.tenant))))
    return 0


def _keyed(settings: Settings) -> Settings:
    """The same settings, with a key; of one that was made just now no running service knows."""
    from api.secret import kept_at, with_secret

    kept = kept_at(settings).absolute()
    new = not kept.exists() and settings.auth.secret is None
    keyed = with_secret(settings)
    if new:
        _say(f"No key was kept yet; {kept} is a new one. Only a service with this DATA_DIR goes by it.")
    return keyed


def manage_tenants(settings: Settings, asked: argparse.Namespace) -> int:
    from api.service import opened_store

    async def answer() -> Sequence[str]:
        async with opened_store(settings) as store:
            return await tenants.answer(store.terms(), asked)

    print(*anyio.run(answer), sep="\n")
    return 0


def migrate(settings: Settings, _: argparse.Namespace) -> int:
    from api.service import opened_store

    async def up_to_date() -> None:
        async with opened_store(settings):
            print("The schema is up to date.")

    anyio.run(up_to_date)
    return 0


def check_config(settings: Settings, _: argparse.Namespace) -> int:
    for name, field in Settings.model_fields.items():
        held = getattr(settings, name)
        if isinstance(held, BaseModel):
            for inner, row in type(held).model_fields.items():
                _show(f"{name}__{inner}", getattr(held, inner), row.description)
        else:
            _show(name, held, field.description)
    return 0


def weights(settings: Settings, asked: argparse.Namespace) -> int:
    from stages.engines import weights as models
    from stages.engines.backend import choose_backend
    from stages.engines.catalogue import FORM_OF_BACKEND

    form: Form = asked.form or FORM_OF_BACKEND.get(choose_backend(settings.engine.backend), "ctranslate2")
    names: list[str] = asked.models or [settings.engine.model]
    if asked.action == "list":
        for row in models.listed(settings.engine):
            size = f"{row.bytes / 1e6:5.0f} MB" if row.bytes else "not published"
            print(f"{row.name:<16}{row.form:<13}{size:<15}{row.path or 'not here'}")
    elif asked.action == "pull":
        for name in names:
            print(f"{name}: {models.pull(name, settings.engine, form, progress=True)}")
    else:
        damaged = [line for name in names for line in _damage(name, settings.engine, form)]
        if damaged:
            return _say(*damaged)
        print("All files are what they should be.")
    return 0


def _damage(name: str, settings: EngineSettings, form: Form) -> Iterator[str]:
    from stages.engines import weights as models

    files = models.verify(name, settings, form)
    yield from (f"{name}: {file} is missing or not what it should be." for file in files)
    if files:
        yield models.repair(name, settings, form)


# ── what is asked ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "antiphon", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about)
        added.set_defaults(command=command)
        return added

    add("serve", serve, "Run the service until SIGTERM or Ctrl-C; work in hand is finished or given back.")
    order.describe(add("transcribe", transcribe, "Transcribe a recording and print what was said."))
    issue = add(
        "token", token, "Print a bearer token for a tenant, signed with AUTH__SECRET or this installation's key."
    )
    issue.add_argument("--tenant", required=True, help="whom the token speaks for")
    issue.add_argument("--hours", type=_positive, default=24.0, help="how long it is valid (24)")
    signing = add("webhook-secret", webhook_secret, "Print what a tenant's webhooks are signed with, to hand to it.")
    signing.add_argument("--tenant", required=True, help="whose webhooks")
    tenants.describe(add("tenants", manage_tenants, "List tenants, or set what share and how much one may have."))
    add("migrate", migrate, "Bring the database's schema up to date; `serve` does so too.")
    add("check-config", check_config, "Say whether the settings in the environment are good, and what each means.")
    store = add("weights", weights, "Fetch, list or check the weights of models known by name.")
    store.add_argument("action", choices=["pull", "list", "verify"])
    store.add_argument("models", nargs="*", metavar="MODEL", help="default: ENGINE__MODEL")
    store.add_argument(
        "--form", choices=["ctranslate2", "pt", "ggml"], help="default: the one that ENGINE__BACKEND takes"
    )
    return parser


def _positive(text: str) -> float:
    if (number := float(text)) <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


# ── what is told ──────────────────────────────────────────────────────────────────────────────────────────────────────


def configured() -> Settings:
    """The settings in the environment. Raises ``ConfigError`` with a sentence for each that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        raise ConfigError("\n".join(_wrong(row["loc"], row["msg"]) for row in error.errors())) from error
    except SettingsError as error:
        section = str(error).partition('"')[2].partition('"')[0].upper()  # it names it in its message alone
        raise ConfigError(f"{section} is no setting by itself; set what is in it, as in HTTP__PORT=8080.") from error


def _wrong(place: tuple[int | str, ...], message: str) -> str:
    name = "__".join(str(part) for part in place if isinstance(part, str)).upper()
    if message == "Extra inputs are not permitted":
        return f"{name} is not a setting; `antiphon check-config` shows those there are."
    return f"{name}: {message.removeprefix('Value error, ').rstrip('.')}."


def _show(name: str, value: object, about: str | None) -> None:
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else str(value)
    print(f"{name.upper()}={shown}" + (f"  # {about}" if about else ""))


def _reasons(error: Exception, kind: type[Exception]) -> list[str]:
    """The texts of all errors of ``kind`` in a tree of groups. Raises it again when there is any other in it."""
    if isinstance(error, kind):
        return [str(error)]
    if isinstance(error, ExceptionGroup):
        return [text for inner in error.exceptions for text in _reasons(inner, kind)]
    raise error


def _warning(notice: Notice) -> str:
    """Of a downmix nobody needs to hear that it is a track."""
    return notice.detail if notice.track in (None, "downmix") else f"track {notice.track}: {notice.detail}"


def _say(*lines: str) -> int:
    """Print what went wrong; the exit code for it."""
    for line in dict.fromkeys("\n".join(lines).splitlines()):
        print(f"antiphon: {line}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
