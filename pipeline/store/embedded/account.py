"""Who runs the server when we are root, which PostgreSQL refuses to be."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError

ADVICE = "Run as an ordinary user, set DATA_DIR elsewhere, or set DATABASE__DSN."

NAMES = ("postgres", "nobody")

# Name and bit (capabilities(7)). The first reads and passes through any folder; the second also writes, and is
# what Docker leaves to root in place of it.
CAPABILITIES = (("dac_read_search", 2), ("dac_override", 1))


@dataclass(frozen=True, slots=True)
class Account:
    uid: int
    gid: int
    become: tuple[str, ...]
    """What to write before a command for it to run as this account."""

    def admit(self, home: Path, *, owned: Iterable[Path]) -> None:
        """Let the account pass through ``home``, and own what it needs there."""
        os.chown(home, -1, self.gid)
        home.chmod(0o710)
        for path in owned:
            os.chown(path, self.uid, self.gid)


def account_for(home: Path, binaries: Path) -> Account | None:
    """An account that can serve from ``home`` with ``binaries``; ``None`` when we are not root and need none.

    The owner of a database that is there; else ``postgres``, else ``nobody``. Where a folder above is closed to
    it (a clone under /root), the account is given the one capability to pass, since the folder is not ours to open.
    Raises ``ConfigError`` when that cannot be done.
    """
    if os.geteuid() != 0:
        return None
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise ConfigError(f"PostgreSQL refuses to run as root, and there is no setpriv to step down. {ADVICE}")
    uid, gid = _ids(home / "data")
    become = [setpriv, f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    if not (_passable(home.parent) and _passable(binaries)):
        capability = _capability(home)
        # The securebit makes access(2), which PostgreSQL asks about its own files, count the capability too.
        become += [
            "--securebits=+no_setuid_fixup",
            f"--inh-caps=-all,+{capability}",
            f"--ambient-caps=-all,+{capability}",
        ]
    return Account(uid, gid, tuple(become))


def _ids(data: Path) -> tuple[int, int]:
    if data.exists():
        owner = data.stat()
        return owner.st_uid, owner.st_gid
    for name in NAMES:
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        return account.pw_uid, account.pw_gid
    raise ConfigError(f"PostgreSQL refuses to run as root, and there is no account {' or '.join(NAMES)}. {ADVICE}")


def _passable(folder: Path) -> bool:
    return all(step.stat().st_mode & stat.S_IXOTH for step in (folder, *folder.parents))


def _capability(home: Path) -> str:
    status = Path("/proc/self/status").read_text()
    allowed = int(status.partition("CapBnd:")[2].split()[0], base=16)
    for name, bit in CAPABILITIES:
        if allowed >> bit & 1:
            return name
    raise ConfigError(
        f"PostgreSQL refuses to run as root, and no other account can reach {home} and the binaries. {ADVICE}"
    )
