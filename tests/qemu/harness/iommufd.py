"""A small kernel that has what Debian's for virtual machines lacks: IOMMUFD, and a node for each
device in /dev/vfio/devices. Built once from Debian's linux-source package and kept in the cache."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import HERE, Missing, Mistake, cache, program, say
from .kernel import Apt, Kernel, checked, run

PACKAGE = "linux-source-6.12"
CONFIG = HERE / "iommufd.config"
# Programs that the build needs, and their packages.
TOOLS = {
    "make": "make",
    "gcc": "gcc",
    "ld": "binutils",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "perl": "perl",
    "xz": "xz-utils",
}
HEADERS = {"gelf.h": "libelf-dev"}


def kernel() -> Kernel:
    """The kernel of this configuration: the one that is kept, or a new one."""
    wanted = hashlib.sha256(CONFIG.read_bytes()).hexdigest()[:12]
    folder = cache() / "iommufd" / wanted
    if not (folder / "vmlinuz").is_file():
        build(folder)
    return checked(Kernel(folder / "vmlinuz", folder / "modules"))


def build(folder: Path) -> None:
    for name, package in TOOLS.items():
        program(name, package)
    for name, package in HEADERS.items():
        if not Path("/usr/include", name).is_file():
            raise Missing(f"there is no {name}; install {package}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        tree = source(Path(scratch))
        configure(tree)
        log = folder.parent / "build.log"
        say(f"building a kernel with IOMMUFD: a quarter of an hour and more; {log} tells")
        with open(log, "wb") as out:
            command = ["make", "-C", tree, f"-j{os.cpu_count() or 1}", "bzImage"]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        if done.returncode != 0:
            raise Mistake(f"the kernel does not build; {log} says why")
        made = Path(scratch) / "made"
        (made / "modules").mkdir(parents=True)
        shutil.copy(tree / "arch" / "x86" / "boot" / "bzImage", made / "vmlinuz")
        shutil.copy(tree / ".config", made / "config")
        # Where the harness looks whether a kernel has what it needs.
        shutil.copy(tree / "modules.builtin", made / "modules")
        made.rename(folder)


def source(scratch: Path) -> Path:
    """The unpacked source tree of the package."""
    apt = Apt(scratch)
    if not apt.knows(PACKAGE):
        apt.use_own_lists()
    say(f"fetching {PACKAGE}")
    deb = apt.download(PACKAGE, scratch)
    run(program("dpkg-deb", "dpkg"), "-x", str(deb), str(scratch / "package"))
    deb.unlink()
    archive = next((scratch / "package" / "usr" / "src").glob("linux-source-*.tar.xz"), None)
    if archive is None:
        raise Missing(f"{PACKAGE} holds no source archive")
    run("tar", "-C", str(scratch), "-xf", str(archive))
    archive.unlink()
    tree = next((path.parent for path in scratch.glob("*/Kbuild")), None)
    if tree is None:
        raise Missing(f"{PACKAGE} holds no source tree")
    return tree


def configure(tree: Path) -> None:
    """Writes the configuration; what depends on something that is off would be left out silently."""
    run("make", "-C", str(tree), f"KCONFIG_ALLCONFIG={CONFIG}", "allnoconfig")
    there = set((tree / ".config").read_text().splitlines())
    wanted = [line for line in CONFIG.read_text().splitlines() if line.startswith("CONFIG_")]
    lost = [line for line in wanted if line not in there]
    if lost:
        raise Mistake(f"{CONFIG}: this kernel cannot have {', '.join(lost)}")
