"""The stock fio that the kernel's driver is measured with: Debian's source, built statically once."""

import hashlib
import re
import shutil
import subprocess
import tempfile
import urllib.request
from pathlib import Path

from . import Missing, Mistake, program, say, target

VERSION = "3.33"
ARCHIVE = f"fio_{VERSION}.orig.tar.gz"
SHA256 = "d2410e13e0f379d061d077cc5ae325835bb7c6186aa7bafc1df954cbc9b014fc"
SOURCES = (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*")))


def stock() -> Path:
    """The static program: the one that is kept below target/, or a new one."""
    kept = target() / "stock-fio" / VERSION / "fio"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent.parent) as scratch:
            shutil.move(build(Path(scratch)), kept)
    return kept


def build(scratch: Path) -> Path:
    for name in ("make", "gcc"):
        program(name, name)
    archive = scratch / ARCHIVE
    url = f"{mirror()}/pool/main/f/fio/{ARCHIVE}"
    say(f"fetching {url}")
    try:
        with urllib.request.urlopen(url, timeout=120) as response:
            archive.write_bytes(response.read())
    except OSError as error:
        raise Missing(f"no source of fio: {url}: {error}") from error
    if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
        raise Missing(f"{url} is not the archive that Debian's {ARCHIVE} was")
    subprocess.run(["tar", "-C", scratch, "-xf", archive], check=True)
    tree = scratch / f"fio-{VERSION}"
    say("building fio")
    # The guest's processor is not this machine's.
    for command in (["./configure", "--build-static", "--disable-native"], ["make", "-j2", "fio"]):
        done = subprocess.run(command, cwd=tree, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise Mistake(f"fio: {' '.join(command)} failed: {done.stderr[-2000:]}")
    return tree / "fio"


def mirror() -> str:
    """The first mirror of Debian's that apt is configured with."""
    for path in SOURCES:
        text = path.read_text(errors="replace") if path.is_file() else ""
        # A list of one line each, or of fields.
        found = re.search(r"^(?:deb\s+(?:\[[^]]*\]\s+)?|URIs:\s*)(https?://\S+/debian)/?\s", text, re.MULTILINE)
        if found:
            return found[1]
    raise Missing("apt names no Debian mirror to fetch fio's source from")
