"""What a client asks for, read from JSON and held against the contract, the address rules and the loaded model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Final, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from werkzeug.datastructures import MultiDict

from pipeline.egress import OUR_HEADERS, check_url
from pipeline.errors import (
    AntiphonError,
    CapabilityUnsupported,
    InvalidRequest,
    MalformedJson,
    Pointed,
    UrlNotAllowed,
)
from pipeline.jobs import JobRequest
from pipeline.settings import DownloadSettings

Refusal = TypeVar("Refusal", bound=AntiphonError)

# Enough to mend a request by; an answer must not grow with the nonsense it answers.
MAX_ERRORS: Final = 32


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the door must know of the loaded model. ``languages``: codes; ``model``: its name, as clients may see it."""

    translate: bool
    words: bool
    prompt: bool
    languages: frozenset[str]
    model: str


def read_request(body: bytes) -> JobRequest:
    """Raises ``MalformedJson``, or ``InvalidRequest`` with a pointer to each wrong member."""
    try:
        request = JobRequest.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise unreadable(error) from None
    refuse(InvalidRequest, _unstorable(request.model_dump(), ""))
    return request


def check_source(request: JobRequest, settings: DownloadSettings) -> None:
    """Judge the form of ``media_url`` and ``media_headers``. Raises ``InvalidRequest`` or ``UrlNotAllowed``."""
    if request.media_url is None:
        refuse(InvalidRequest, [Pointed("/media_url", "This member is required.")])
    else:
        _check_address(request.media_url, "/media_url", settings)
    refuse(InvalidRequest, _bad_headers(request.media_headers))


def check_callback(request: JobRequest, settings: DownloadSettings) -> None:
    """Judge ``callback_url`` as media is judged. Raises ``UrlNotAllowed``."""
    if request.callback_url is not None:
        _check_address(request.callback_url, "/callback_url", settings)


def _check_address(url: str, pointer: str, settings: DownloadSettings) -> None:
    try:
        check_url(url, settings)
    except UrlNotAllowed as error:
        raise UrlNotAllowed(error.detail, errors=(Pointed(pointer, error.detail),)) from None


def check_no_source(request: JobRequest) -> None:
    """An upload is its own source. Raises ``InvalidRequest``."""
    named = {"media_url", "media_headers"} & request.model_fields_set
    refuse(InvalidRequest, [Pointed(f"/{name}", "An upload has no media_url.") for name in sorted(named)])


def check_files(count: int, request: JobRequest | None, limit: int) -> None:
    """Judge how many files came, as far as can be told before the ``request`` has come. Raises ``InvalidRequest``."""
    if count > limit:
        refuse(InvalidRequest, [Pointed("/file", f"A job takes at most {limit} files.")])
    if count > 1 and request is not None and request.processing_mode != "multitrack":
        several = "Several files are the tracks of one job; set processing_mode to 'multitrack'."
        refuse(InvalidRequest, [Pointed("/processing_mode", several)])


def check_capabilities(request: JobRequest, engine: EngineFacts) -> None:
    """Raises ``CapabilityUnsupported`` with a pointer to each member that cannot be honoured."""
    refuse(CapabilityUnsupported, _beyond_the_model(request, engine))


def refuse(kind: type[Refusal], errors: Iterable[Pointed]) -> None:
    """Raise ``kind`` when there are ``errors``."""
    if told := tuple(errors):
        raise _refusal(kind, told)


def _refusal(kind: type[Refusal], errors: Sequence[Pointed]) -> Refusal:
    first = f"{errors[0].pointer}: {errors[0].detail}".removeprefix(": ")
    detail = first if len(errors) == 1 else f"{first} ({len(errors)} members are wrong; see errors.)"
    return kind(detail, errors=tuple(errors[:MAX_ERRORS]))


def _beyond_the_model(request: JobRequest, engine: EngineFacts) -> Iterator[Pointed]:
    for pointer, language in _languages(request):
        if language not in engine.languages:
            yield Pointed(pointer, f"The model {engine.model} does not know {language!r}.")
    if request.target_language not in (None, "en"):
        yield Pointed("/target_language", "Translation reaches only English: 'en'.")
    elif request.target_language and not engine.translate:
        yield Pointed("/target_language", f"The model {engine.model} cannot translate.")
    if request.word_timestamps and not engine.words:
        yield Pointed("/word_timestamps", f"The model {engine.model} gives no times of words.")
    if request.prompt and not engine.prompt:
        yield Pointed("/prompt", f"The model {engine.model} takes no prompt.")


def _languages(request: JobRequest) -> Iterator[tuple[str, str]]:
    """Every language that is asked for, behind the pointer to it."""
    if request.language is not None:
        yield "/language", request.language
    for place, track in enumerate(request.tracks):
        if track.language is not None:
            yield f"/tracks/{place}/language", track.language


_TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")  # RFC 9110, section 5.6.2


def _bad_headers(headers: Mapping[str, str]) -> Iterator[Pointed]:
    for name, value in headers.items():
        pointer = _pointer(("media_headers", name))
        if not name or not _TOKEN.issuperset(name.lower()):
            yield Pointed(pointer, "This is not a header name.")
        elif name.lower() in OUR_HEADERS:
            yield Pointed(pointer, "This header is set by the service.")
        elif not value.isascii() or not value.isprintable() or value != value.strip():
            yield Pointed(pointer, "A header value is printable ASCII without spaces around it.")


def _unstorable(value: object, pointer: str) -> Iterator[Pointed]:
    """JSON that no database keeps, though parsers take it."""
    match value:
        case str() if "\0" in value:
            yield Pointed(pointer, "A NUL character cannot be kept.")
        case float() if not isfinite(value):
            yield Pointed(pointer, "A number must be finite.")
        case dict():
            for key, inner in value.items():
                yield from _unstorable(key, pointer)
                yield from _unstorable(inner, pointer + _pointer((key,)))
        case list() | tuple():
            for index, inner in enumerate(value):
                yield from _unstorable(inner, f"{pointer}/{index}")


def read_query(given: MultiDict[str, str]) -> dict[str, str]:
    """Raises ``InvalidRequest`` for what is asked more than once, perhaps with two meanings."""
    twice = (name for name, values in given.lists() if len(values) > 1)
    refuse(InvalidRequest, [Pointed(_pointer((name,)), "This may be given once.") for name in twice])
    return given.to_dict()


def unreadable(wrong: ValidationError) -> AntiphonError:
    """``MalformedJson``, or ``InvalidRequest`` with a pointer to each wrong member."""
    errors = wrong.errors(include_url=False, include_input=False)
    if errors[0]["type"] == "json_invalid":
        return MalformedJson(f"The body is not JSON: {errors[0]['ctx']['error']}.")
    return _refusal(InvalidRequest, [Pointed(_pointer(error["loc"]), in_words(error)) for error in errors])


def _pointer(path: Iterable[str | int]) -> str:
    """RFC 6901."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


# What pydantic finds wrong, as one would say it; the braces are filled from the error's context.
# 15 digits tell a bound as it was written, and a whole one without its “.0”.
_WORDS: Final[Mapping[str, str]] = {
    "extra_forbidden": "There is no such member.",
    "missing": "This member is required.",
    "model_type": "This must be a JSON object.",
    "dict_type": "This must be a JSON object.",
    "tuple_type": "This must be an array.",
    "string_type": "This must be a string.",
    "bool_type": "This must be true or false.",
    "int_type": "This must be a whole number.",
    "float_type": "This must be a number.",
    "finite_number": "A number must be finite.",
    "literal_error": "This must be {expected}.",
    "enum": "This must be {expected}.",
    "datetime_parsing": "There is no such time.",
    "datetime_from_date_parsing": "There is no such time.",
    "greater_than_equal": "This must be at least {ge:.15g}.",
    "less_than_equal": "This must be at most {le:.15g}.",
    "string_too_short": "This must have at least {min_length} character.",
    "string_too_long": "This may have at most {max_length} characters.",
    "too_long": "This may have at most {max_length} members.",
    "value_error": "{error}",
}


def in_words(error: ErrorDetails) -> str:
    return _WORDS.get(error["type"], "This is not a value that can stand here.").format_map(error.get("ctx", {}))
