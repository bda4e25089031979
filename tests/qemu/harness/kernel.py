"""A Linux kernel for the guest: told, kept from an earlier run, this machine's, or Debian's."""

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import Missing, Mistake, cache, program, say

# Meta packages that stay when the version changes, best first: 6.1 has no ublk.
PACKAGES = ("linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64")
# Without one of these, as a module or built in, a kernel is of no use here.
NEEDED = ("nvme", "virtio_pci", "virtio_console", "vfio_pci", "vfio_iommu_type1")


@dataclass
class Kernel:
    """A kernel's image and the directory of its modules."""

    image: Path
    modules: Path

    def built_in(self) -> set[str]:
        """The names of what would be modules elsewhere."""
        try:
            lines = (self.modules / "modules.builtin").read_text().splitlines()
        except OSError:
            return set()
        return {module_name(line) for line in lines}

    def module_files(self) -> dict[str, Path]:
        """Every module by its name, `-` written as `_`."""
        return {module_name(path.name): path for path in self.modules.rglob("*.ko*")}

    def lacks(self) -> list[str]:
        """What of `NEEDED` it has neither built in nor as a module."""
        there = self.built_in() | set(self.module_files())
        return [name for name in NEEDED if name not in there]


def module_name(path: str) -> str:
    """`kernel/drivers/vfio/pci/vfio-pci.ko.xz` is `vfio_pci`."""
    return path.rsplit("/", 1)[-1].split(".ko")[0].replace("-", "_")


def find(told: str | None) -> Kernel:
    """The kernel to boot. `told` is what `--kernel` said: a path, or `iommufd`."""
    told = told or os.environ.get("UNDERPIN_GUEST_KERNEL")
    if told == "iommufd":
        from . import iommufd

        return iommufd.kernel()
    if told:
        return checked(at(Path(told)))
    for kernel in kept() + installed():
        if not kernel.lacks():
            return kernel
    return checked(downloaded())


def at(image: Path) -> Kernel:
    """A kernel by the path of its image; its modules are beside it or in `/lib/modules`."""
    if not image.is_file():
        raise Mistake(f"there is no kernel at {image}")
    release = re.sub(r"^(vmlinuz|bzImage)-?", "", image.name)
    told = os.environ.get("UNDERPIN_GUEST_MODULES")
    places = [Path(told)] if told else [image.parent / "modules", Path("/lib/modules") / release]
    for modules in places:
        if (modules / "modules.builtin").is_file():
            return Kernel(image, modules)
    raise Mistake(
        f"{image}: its modules are not in {' or '.join(map(str, places))}; "
        "set UNDERPIN_GUEST_MODULES to the directory that has modules.builtin"
    )


def checked(kernel: Kernel) -> Kernel:
    lacks = kernel.lacks()
    if lacks:
        raise Mistake(f"{kernel.image} has no {', '.join(lacks)}: no guest for VFIO")
    return kernel


def newest_first(paths) -> list[Path]:
    """By the numbers in their names: 6.12.9 comes after 6.12.117."""
    numbers = lambda path: [int(number) for number in re.findall(r"\d+", path.name)]
    return sorted(paths, key=numbers, reverse=True)


def kept() -> list[Kernel]:
    folders = newest_first(cache().glob("kernels/*"))
    return [Kernel(folder / "vmlinuz", folder / "modules") for folder in folders]


def installed() -> list[Kernel]:
    """Those of this machine that an ordinary user may read."""
    found = []
    for image in newest_first(Path("/boot").glob("vmlinuz-*")):
        if os.access(image, os.R_OK):
            found.append(Kernel(image, Path("/lib/modules") / image.name.removeprefix("vmlinuz-")))
    return found


def downloaded() -> Kernel:
    """Debian's kernel for virtual machines, unpacked into the cache. Needs no root."""
    folder = cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Missing(f"no kernel, and none can be kept in {folder}: {error}") from error
    apt = Apt(folder)
    package = apt.resolve(PACKAGES)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        say(f"fetching {package}")
        deb = apt.download(package, Path(scratch))
        tree = Path(scratch) / "tree"
        run(program("dpkg-deb", "dpkg"), "-x", str(deb), str(tree))
        release = package.removeprefix("linux-image-")
        made = Path(scratch) / "made"
        made.mkdir()
        modules = next(tree.glob(f"**/lib/modules/{release}"), None)
        image = tree / "boot" / f"vmlinuz-{release}"
        if modules is None or not image.is_file():
            raise Missing(f"{package} holds no kernel for {release}")
        shutil.move(image, made / "vmlinuz")
        shutil.move(modules, made / "modules")
        target = folder / "kernels" / release
        target.parent.mkdir(exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)
    return Kernel(target / "vmlinuz", target / "modules")


class Apt:
    """apt as an ordinary user: with lists of its own where the machine has none."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.options: list[str] = []
        program("apt-get", "apt, or tell a kernel by UNDERPIN_GUEST_KERNEL")

    def resolve(self, packages) -> str:
        """The versioned package behind the first of the meta packages that is known."""
        for own_lists in (False, True):
            if own_lists:
                self.use_own_lists()
            for package in packages:
                found = self.ask("apt-cache", "depends", "--important", package)
                named = re.search(r"Depends: (linux-image-\S+)", found)
                if named:
                    return named[1]
        raise Missing(f"no kernel: apt knows none of {', '.join(packages)}")

    def knows(self, package: str) -> bool:
        return "Candidate:" in self.ask("apt-cache", "policy", package)

    def use_own_lists(self) -> None:
        state = self.folder / "apt"
        for name in ("lists/partial", "cache/archives/partial"):
            (state / name).mkdir(parents=True, exist_ok=True)
        status = state / "status"
        status.touch()
        places = {"Dir::State": state, "Dir::State::status": status, "Dir::Cache": state / "cache"}
        self.options = [f"-o{name}={place}" for name, place in places.items()]
        say("fetching the lists of packages")
        self.ask("apt-get", "update", "-q")

    def ask(self, name: str, *arguments: str) -> str:
        done = subprocess.run(
            [name, *self.options, *arguments], capture_output=True, text=True, timeout=300
        )
        return done.stdout

    def download(self, package: str, folder: Path) -> Path:
        done = subprocess.run(
            ["apt-get", *self.options, "download", "-q", package],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=600,
        )
        deb = next(folder.glob("*.deb"), None)
        if done.returncode != 0 or deb is None:
            raise Missing(f"apt-get download {package}: {done.stderr.strip() or done.stdout}")
        return deb


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Missing(f"{' '.join(command)}: {done.stderr.strip()}")
