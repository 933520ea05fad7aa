"""Every knob, its default and its reason. ``__`` joins section and field in the environment: ``HTTP__PORT``."""

from __future__ import annotations

import os
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from platformdirs import user_cache_path
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MIB = 1024 * 1024
GIB = 1024 * MIB

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Network = IPv4Network | IPv6Network


class Section(BaseModel):
    """Unknown members are errors, so that a misspelt name does not go unread."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DatabaseSettings(Section):
    """PostgreSQL 15 or newer. Without ``dsn`` a private server is run under ``DATA_DIR``."""

    dsn: SecretStr | None = Field(None, description="postgresql://… of the shared server; unset: the embedded one.")
    direct_dsn: SecretStr | None = Field(
        None, description="For LISTEN and migrations where dsn goes through a transaction pooler."
    )
    pool_size: Count = Field(10, description="Connections of the door, and as many again of the chain.")
    binaries: Path | None = Field(None, description="Folder of postgres and initdb for the embedded server.")


class QueueSettings(Section):
    lease_seconds: Positive = Field(60.0, description="How long a silent worker keeps a job.")
    heartbeat_seconds: Positive = Field(15.0, description="A quarter of the lease: three beats may be lost.")
    poll_seconds: Positive = Field(1.0, description="Behind notices, which may be lost.")
    jobs_in_flight: Count = Field(
        8, description="Open jobs a replica; at least 1.5 × jobs a second × seconds to fetch."
    )
    reserved_jobs: int = Field(
        4, ge=0, description="Further open jobs, for tenants with none open here: long jobs of one keep nobody out."
    )
    max_attempts: Count = Field(3, description="Of a job; attempts whose worker was lost are not counted.")
    max_losses: Count = Field(3, description="How many workers a job may lose before it fails as worker-lost.")
    retry_seconds: Positive = Field(5.0, description="Pause before the second attempt; doubles with each further one.")
    checkpoint_seconds: Positive = Field(30.0, description="Engine time of a job that a lost worker may cost.")
    max_running: Count | None = Field(
        None,
        description="Running jobs a tenant, on all replicas; unset: any number. `antiphon tenants` sets it for one.",
    )
    max_pending: Count | None = Field(10_000, description="Waiting jobs a tenant, likewise.")
    retention_seconds: Count | None = Field(
        None, description="How long an ended job is kept where the client does not say; unset: until it is deleted."
    )

    @model_validator(mode="after")
    def _beats_within_the_lease(self) -> QueueSettings:
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError("QUEUE__HEARTBEAT_SECONDS must be at most half of QUEUE__LEASE_SECONDS.")
        return self


class DownloadSettings(Section):
    workers: Count = 8
    max_bytes: Count = Field(4 * GIB, description="Of one media file, fetched or uploaded.")
    connect_seconds: Positive = 10.0
    stall_seconds: Positive = Field(30.0, description="Longest silence between two chunks.")
    total_seconds: Positive = 3600.0
    min_bytes_per_second: Count = Field(1024, description="Slower on average over stall_seconds counts as a stall.")
    max_redirects: int = Field(5, ge=0)
    allow_networks: Annotated[tuple[Network, ...], NoDecode] = Field(
        (), description="Private networks that may be fetched from, such as 127.0.0.0/8; comma-separated."
    )
    allow_ports: Annotated[tuple[int, ...], NoDecode] = Field((80, 443), description="Comma-separated; empty: any.")

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: dict[str, object]) -> dict[str, object]:
        return {
            key: [part.strip() for part in value.split(",") if part.strip()]
            if key in ("allow_networks", "allow_ports") and isinstance(value, str)
            else value
            for key, value in values.items()
        }


class AudioSettings(Section):
    max_tracks: Count = 32
    max_seconds: Positive = Field(12 * 3600.0, description="Longest recording.")
    scratch_bytes: Count = Field(
        64 * GIB, description="Disk for decoded tracks of all jobs at once; 12 hours of 32 tracks take 41 GiB."
    )
    vad_threshold: float = Field(0.5, gt=0, lt=1, description="Speech begins at this probability, ends 0.15 below.")


class EngineSettings(Section):
    backend: Literal["auto", "faster_whisper", "openai_whisper", "whisper_cpp", "mock"] = Field(
        "auto", description="auto: faster_whisper; on a Mac whisper_cpp, if it is installed."
    )
    model: str = Field("base", description="A name from `antiphon weights list`, or a path; for the mock a script.")
    model_dir: Path = Field(default_factory=lambda: user_cache_path("antiphon") / "models")
    offline: bool = Field(False, description="Never ask the network for weights.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="cuda is also ROCm's name, where PyTorch has it; mps is Metal."
    )
    compute_type: str = Field(
        "auto",
        description="faster_whisper: what CTranslate2 knows, by itself int8 on a CPU and float16 on CUDA; "
        "openai_whisper: float32, on CUDA also float16, which is its own choice; whisper_cpp: the type of its file.",
    )
    threads: int = Field(0, ge=0, description="Lanes of one thread on a CPU; 0: one a core.")
    max_batch: int = Field(0, ge=0, description="Windows in one run; 0: what the engine suggests.")
    isolation: Literal["thread", "process"] = Field(
        "thread", description="process: a lane is a child process, whose crash costs its batch and nothing else."
    )
    stall_seconds: Positive = Field(600.0, description="A batch that takes longer makes /livez fail.")
    memory_limit: Count = Field(GIB, description="Bytes of prepared windows waiting or running.")
    keep_freed_memory: bool = Field(
        True,
        description="With glibc, on a CPU: a third less time for encoding, for some hundred MB until it is idle.",
    )
    idle_unload_seconds: float = Field(
        0.0, ge=0, description="The model leaves memory after so long without work; 0: never."
    )


class WebhookSettings(Section):
    secret: SecretStr | None = Field(
        None, description="Master of the tenants' signing secrets, of at least 32 bytes; unset: made of AUTH__SECRET."
    )
    timeout_seconds: Positive = Field(10.0, description="One try, from the connection to the end of the answer.")
    max_tries: Count = Field(16, description="With pauses that double from 5 s to 6 h: about a day.")
    workers: Count = Field(
        32, description="Deliveries at once, two a tenant: fifteen whose endpoints hang leave hands for everybody else."
    )


class AuthSettings(Section):
    secret: SecretStr | None = Field(
        None, description="HS256 key of at least 32 bytes; unset: one is made and kept under DATA_DIR."
    )
    tenant_claim: str = Field("tenant_id", min_length=1, description="May be dotted, such as org.id.")
    issuer: str | None = None
    audience: str | None = None
    leeway_seconds: int = Field(0, ge=0)


class HttpSettings(Section):
    host: str = Field("127.0.0.1", description="0.0.0.0 in a container.")
    port: int = Field(8000, ge=0, le=65535)
    max_body_bytes: Count = Field(MIB, description="Of a JSON body; uploads are bounded by DOWNLOAD__MAX_BYTES.")


class ShutdownSettings(Section):
    grace_seconds: float = Field(30.0, ge=0, description="For work in hand after SIGTERM; then it is given back.")


class TelemetrySettings(Section):
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "json", "text"] = Field("auto", description="auto: text on a terminal.")


class Settings(BaseSettings):
    """The whole configuration. Unknown names under a section's prefix end the start."""

    model_config = SettingsConfigDict(env_nested_delimiter="__", extra="forbid", frozen=True)

    data_dir: Path = Field(Path(".antiphon"), description="Embedded database, scratch files, the made-up secret.")
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    queue: QueueSettings = Field(default_factory=QueueSettings)
    download: DownloadSettings = Field(default_factory=DownloadSettings)
    audio: AudioSettings = Field(default_factory=AudioSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    auth: AuthSettings = Field(default_factory=AuthSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)
    webhooks: WebhookSettings = Field(default_factory=WebhookSettings)
    shutdown: ShutdownSettings = Field(default_factory=ShutdownSettings)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)


def cores() -> int:
    """Processors this process may use; a container's affinity counts, unlike ``os.cpu_count``."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
