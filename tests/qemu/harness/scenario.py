"""A scenario: a shell script for the guest, whose lines `#: WORD ...` tell what the host sets up.

    #: image NAME SIZE     a sparse file, on which -blockdev options can build: {NAME} is its path
    #: qemu ARGUMENTS      more of QEMU's command line; {DIR} is the run's directory
    #: iommu OPTIONS       options of intel-iommu (aw-bits=39 otherwise); `none`: no IOMMU
    #: append WORDS        more of the kernel's command line
    #: memory MIB          the guest's memory (1024 otherwise)
    #: bring PROGRAM       a program of this machine and its libraries go into the guest's /bin
    #: file PATH           a file of the project goes into the guest's /files
    #: timeout SECONDS     when a guest that has not ended has failed (240 otherwise)
    #: expect FINDING      a finding that must be there, and else must not: see judge.py
    #: allow FINDING TEXT  a finding that may be there, in lines that hold the text: a race decides on it
    #: trace EVENT         one of QEMU's trace events that `monitor trace` is to count
    #: artifact NAME        must be in /artifacts when the guest ends; it comes to the host
    #: notice TEXT         in selftest/: a problem that the harness has to find, and no other
"""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from . import HERE, ROOT, Mistake
from .judge import FINDINGS, Wanted

# Two controllers with a namespace each, at 00:04.0 and 00:05.0.
DISKS = [
    "image disk0 1G",
    "image disk1 1G",
    "qemu -blockdev driver=file,node-name=d0,filename={disk0},cache.direct=off",
    "qemu -blockdev driver=file,node-name=d1,filename={disk1},cache.direct=off",
    "qemu -device nvme,serial=one,drive=d0,addr=4 -device nvme,serial=two,drive=d1,addr=5",
]


@dataclass
class Scenario:
    """What a guest is made of and what it runs."""

    name: str
    script: str
    title: str = ""
    images: dict[str, str] = field(default_factory=dict)
    qemu: list[str] = field(default_factory=list)
    iommu: str = "aw-bits=39"
    append: list[str] = field(default_factory=list)
    memory_mib: int = 1024
    bring: list[str] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    timeout_s: int = 240
    expect: set[str] = field(default_factory=set)
    allow: dict[str, str] = field(default_factory=dict)
    trace: list[str] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)
    notice: list[str] = field(default_factory=list)
    counts_tests: bool = True
    directory: str = "/"

    def wanted(self) -> Wanted:
        """What a run of it is judged by."""
        return Wanted(self.expect, self.allow, self.artifacts, self.counts_tests)

    def told(self, line: str) -> None:
        """Takes in what a line `#: ...` says."""
        word, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if word == "image":
            name, _, size = rest.partition(" ")
            self.images[name] = size
        elif word == "qemu":
            self.qemu += shlex.split(rest)
        elif word == "iommu":
            self.iommu = rest
        elif word == "append":
            self.append += rest.split()
        elif word == "memory":
            self.memory_mib = int(rest)
        elif word == "bring":
            self.bring.append(rest)
        elif word == "file":
            path = ROOT / rest
            self.files[f"files/{path.name}"] = path
        elif word == "timeout":
            self.timeout_s = int(rest)
        elif word in ("expect", "allow"):
            finding, _, text = rest.partition(" ")
            if finding not in FINDINGS:
                raise Mistake(f"{self.name}: {word} one of {', '.join(FINDINGS)}, not {finding}")
            if (word == "allow") != bool(text):
                raise Mistake(f"{self.name}: '#: expect FINDING' or '#: allow FINDING TEXT', not {word} {rest}")
            if word == "expect":
                self.expect.add(finding)
            else:
                self.allow[finding] = text.strip()
        elif word == "trace":
            self.trace.append(rest)
        elif word == "artifact":
            self.artifacts.append(rest)
        elif word == "notice":
            self.notice.append(rest)
        else:
            raise Mistake(f"{self.name}: nobody knows '#: {line.strip()}'")


def read(path: Path) -> Scenario:
    """A scenario from its file."""
    script = path.read_text()
    scenario = Scenario(path.stem, script)
    lines = [line for line in script.splitlines() if line.startswith("#")]
    for line in lines:
        if line.startswith("#:"):
            try:
                scenario.told(line[2:])
            except ValueError as error:
                raise Mistake(f"{path}: {line}: {error}") from error
        elif not scenario.title:
            scenario.title = line.lstrip("# ").split(". ")[0].rstrip(".")
    if not scenario.title:
        raise Mistake(f"{path}: its first line does not say what it shows")
    return scenario


def folder(name: str) -> dict[str, Scenario]:
    """The scenarios of a folder in tests/qemu, by name."""
    return {path.stem: read(path) for path in sorted((HERE / name).glob("*.sh"))}


def command(words: list[str], unbound: bool) -> Scenario:
    """One that runs a command of the user's; files that it names go along with it."""
    script = "" if unbound else "to_vfio $(nvme_functions)\n"
    scenario = Scenario("command", script + f"exec {shlex.join(words)}\n", directory="/files")
    scenario.counts_tests = False
    for word in words:
        if Path(word).is_file() and not Path(word).is_absolute() and ".." not in Path(word).parts:
            scenario.files[f"files/{word}"] = Path(word)
    for line in DISKS:
        scenario.told(line)
    return scenario
