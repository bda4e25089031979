"""The pieces of tests/qemu/run: kernel, programs, initramfs, guest, judge, scenarios."""

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
HERE = ROOT / "tests" / "qemu"


class Missing(Exception):
    """Something that the machine lacks; without it there is no guest."""


class Mistake(Exception):
    """Something that the caller, or who wrote a scenario, has to mend."""


def cache() -> Path:
    """Where kernels are kept between runs: `UNDERPIN_GUEST_CACHE`, or below the user's cache."""
    told = os.environ.get("UNDERPIN_GUEST_CACHE")
    if told:
        return Path(told)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "underpin" / "guest"


def target() -> Path:
    """Where builds go, and what guests leave: nobody tidies up there while they run."""
    return Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")


def program(name: str, package: str, variable: str = "") -> str:
    """The path of a program of this machine, or what to install."""
    told = os.environ.get(variable) if variable else None
    # What lies in sbin is often not on an ordinary user's path.
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    found = shutil.which(told or name, path=path)
    if not found:
        raise Missing(f"there is no {told or name}; install {package} (tests/setup does on Debian)")
    return found


def say(*words: object) -> None:
    """Tells how far the work has come, beside what a guest prints."""
    print(*words, file=sys.stderr, flush=True)
