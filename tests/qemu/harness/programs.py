"""The programs that run in the guest: this project's, linked statically, and the machine's own."""

import json
import os
import platform
import re
import subprocess
from pathlib import Path

from . import HERE, ROOT, Missing, Mistake, program, say, target

TARGET = "x86_64-unknown-linux-gnu"
# The guest has no C library; and QEMU's processor is not this machine's.
RUSTFLAGS = "-C target-feature=+crt-static -C target-cpu=x86-64-v2"
# What `cargo build` is asked for, all at once: one by one, packages would be built with other features.
PACKAGES = ("underpin", "underpin-cli", "underpin-fio", "underpin-on-device")
ASKED = (*(f"--package={package}" for package in PACKAGES), "--bins", "--test=conformance")
BUILT = ("underpin", "underpin-fio", "conformance", "on-device")


def build() -> dict[str, Path]:
    """Builds this project for the guest; the programs by name."""
    if platform.machine() != "x86_64":
        raise Missing(f"the guest is x86-64; this machine is {platform.machine()}")
    env = dict(
        os.environ,
        RUSTFLAGS=RUSTFLAGS,
        # A folder of its own: other flags would build everything anew each time.
        CARGO_TARGET_DIR=str(target() / "guest"),
        CARGO_PROFILE_RELEASE_DEBUG="0",
    )
    command = ["cargo", "build", "--release", "--target", TARGET, *ASKED]
    say("building for the guest")
    done = subprocess.run(
        [*command, "--message-format=json-render-diagnostics"],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        raise Mistake(f"{' '.join(command)} failed")
    found: dict[str, Path] = {}
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message.get("executable"):
            found[message["target"]["name"]] = Path(message["executable"])
    for name in BUILT:
        if name not in found:
            raise Mistake(f"cargo built no {name}")
    return found


def helpers(folder: Path) -> dict[str, Path]:
    """What is written in C for the guest alone (guest/*.c), by name: `end-guest` above all."""
    made = {}
    for source in sorted((HERE / "guest").glob("*.c")):
        made[source.stem] = folder / source.stem
        command = [program("cc", "gcc"), "-static", "-Os", "-Wall", "-Werror", "-o", made[source.stem], source]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise Missing(f"{source} does not compile: {done.stderr}")
    return made


def with_libraries(path: str) -> dict[str, Path]:
    """A program of this machine and the libraries that it loads, by their places in the guest."""
    files = {f"bin/{Path(path).name}": Path(path)}
    done = subprocess.run(["ldd", path], capture_output=True, text=True)
    if done.returncode != 0:
        if "not a dynamic executable" in done.stderr + done.stdout:
            return files
        raise Missing(f"ldd {path}: {done.stderr.strip()}")
    for library in re.findall(r"(/\S+) \(0x", done.stdout):
        files[library.lstrip("/")] = Path(library)
    return files
