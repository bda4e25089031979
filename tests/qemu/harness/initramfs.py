"""The guest's file system: a cpio archive in the `newc` format, written without root."""

import gzip
import lzma
import re
import subprocess
from io import BytesIO
from pathlib import Path

from . import HERE, Mistake, program
from .kernel import NEEDED, Kernel

# Loaded where the kernel has them as modules.
ALSO_LOADED = ("iommufd", "vfio", "dm_mod")
DIRECTORY, FILE, LINK, CHARACTER_DEVICE = 0o040000, 0o100000, 0o120000, 0o020000


class Archive:
    """A cpio archive in the making. Archives can be concatenated; the last of a name wins."""

    def __init__(self) -> None:
        self.out = BytesIO()
        self.inode = 0
        self.directories: set[str] = set()

    def entry(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self.inode += 1
        raw = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name, checksum
        fields = (self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(raw), 0)
        self.out.write(b"070701" + b"".join(b"%08X" % field for field in fields))
        for part in (raw, data):
            self.out.write(part)
            self.out.write(b"\0" * (-self.out.tell() % 4))

    def directory(self, name: str) -> None:
        parent = name.rpartition("/")[0]
        if parent:
            self.directory(parent)
        if name not in self.directories:
            self.directories.add(name)
            self.entry(name, DIRECTORY | 0o755)

    def add(self, name: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> None:
        parent = name.rpartition("/")[0]
        if parent:
            self.directory(parent)
        self.entry(name, mode, data, device)

    def file(self, name: str, data: bytes, mode: int = 0o755) -> None:
        self.add(name, FILE | mode, data)

    def copy(self, name: str, source: Path) -> None:
        try:
            self.file(name, source.read_bytes())
        except OSError as error:
            raise Mistake(f"{source} cannot go into the guest: {error}") from error

    def bytes(self) -> bytes:
        self.entry("TRAILER!!!", 0)
        self.out.write(b"\0" * (-self.out.tell() % 512))
        return self.out.getvalue()


def base(kernel: Kernel, helpers: dict[str, Path]) -> bytes:
    """What every guest has: busybox, modules, the first process and the scenarios' library."""
    archive = Archive()
    # Opened by the kernel before anything is mounted.
    archive.add("dev/console", CHARACTER_DEVICE | 0o600, b"", (5, 1))
    archive.add("dev/null", CHARACTER_DEVICE | 0o666, b"", (1, 3))
    for name in ("proc", "sys", "tmp", "run", "mnt", "artifacts", "etc"):
        archive.directory(name)
    archive.file("etc/passwd", b"root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000:user:/:/bin/sh\n", 0o644)
    archive.file("etc/group", b"root:x:0:\nuser:x:1000:\n", 0o644)
    archive.copy("bin/busybox", Path(program("busybox", "busybox-static", "UNDERPIN_GUEST_BUSYBOX")))
    for name, path in helpers.items():
        archive.copy(f"bin/{name}", path)
    archive.copy("init", HERE / "guest" / "init")
    archive.copy("lib/guest.sh", HERE / "guest" / "lib.sh")
    order = []
    for name, data in modules(kernel):
        archive.file(f"lib/modules/{name}.ko", data, 0o644)
        order.append(name)
    archive.file("lib/modules/order", "".join(f"{name}\n" for name in order).encode(), 0o644)
    return archive.bytes()


def modules(kernel: Kernel) -> list[tuple[str, bytes]]:
    """The modules that are not built in, each after those that it depends on."""
    files = kernel.module_files()
    chosen: dict[str, bytes] = {}

    def choose(name: str) -> None:
        if name in chosen or name not in files:
            return
        data = unpacked(files[name])
        for listed in re.findall(rb"depends=([^\0]*)\0", data):
            for other in filter(None, listed.decode().split(",")):
                choose(other.replace("-", "_"))
        chosen[name] = data

    for name in (*NEEDED, *ALSO_LOADED):
        choose(name)
    return list(chosen.items())


def unpacked(path: Path) -> bytes:
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    if path.suffix == ".zst":
        command = [program("zstd", "zstd"), "-dcq", path]
        return subprocess.run(command, check=True, capture_output=True).stdout
    return path.read_bytes()
