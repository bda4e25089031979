"""Whether a guest's run was good. Its word alone is not enough: QEMU completes a transfer that its
IOMMU has blocked with success, so what it and the guest's kernel say of such things is read."""

import re
from dataclasses import dataclass
from pathlib import Path

# isa-debug-exit makes an exit status v into (v << 1) | 1; the guest writes 0x10 + status, so that
# none of its own looks like one of QEMU's.
STATUS_BASE = 0x10

# What must not be found, by its name in `#: expect` and `#: allow`, with the file where it would be.
FINDINGS = {
    "dmar-fault": ("console", re.compile(r"DMAR:.*fault")),
    "translation-failure": ("stderr", re.compile(r"detected translation failure")),
    # What a driver did that the specification calls undefined.
    "undefined-behaviour": ("trace", re.compile(r"pci_nvme_ub_\w+")),
}
KERNEL_TROUBLE = re.compile(
    r"Kernel panic|Oops|BUG: (?!soft lockup)|general protection fault|WARNING: CPU"
)


@dataclass
class Outcome:
    """How a run ended, and what it left."""

    directory: Path
    nonce: str
    qemu_status: int | None
    seconds: float

    def text(self, name: str) -> str:
        try:
            return (self.directory / name).read_bytes().decode(errors="replace")
        except OSError:
            return ""

    def tail(self, name: str, lines: int = 25) -> str:
        """The last lines, as the console's carriage returns leave them."""
        kept = self.text(name).replace("\r", "").splitlines()[-lines:]
        return "\n".join(f"  {name}| {line}" for line in kept)

    def guest_status(self) -> int | None:
        """The status by which the guest ended itself, if it did."""
        status = self.qemu_status
        if status is None or status < 0 or status % 2 == 0:
            return None
        return (status >> 1) - STATUS_BASE if status >> 1 >= STATUS_BASE else None

    def tests(self) -> int:
        """How many tests say that they passed, as `ok` of guest/lib.sh and the conformance suite do; what
        else has such lines, like doctor, has them closer."""
        return len(re.findall(r"^ok {6}\S", self.text("output"), re.MULTILINE))


@dataclass
class Wanted:
    """What a run has to show."""

    expect: set[str]
    # By finding, what each of its lines must hold to be allowed.
    allow: dict[str, str]
    artifacts: list[str]
    counts_tests: bool


def problems(outcome: Outcome, wanted: Wanted) -> list[str]:
    """Why the run was not good; nothing if it was."""
    if not outcome.directory.is_dir():
        return [f"{outcome.directory} has vanished while the guest ran, and with it what it said"]
    found = []
    status = outcome.guest_status()
    console = outcome.text("console").replace("\r", "")
    if outcome.qemu_status is None:
        found.append(f"hangs: it has not ended after {outcome.seconds:.0f} s")
    elif status is None:
        found.append(f"QEMU ended with status {outcome.qemu_status}, and not because the guest did")
    elif status != 0:
        found.append(f"the guest ended with status {status}")
    if status is not None:
        marker = f"guest ended {outcome.nonce} status={status}"
        if marker not in console.splitlines():
            found.append(f"the console lacks the line '{marker}'")
    # Warnings do not come to a quiet console; the guest leaves all that its kernel has said.
    for said in (console, outcome.text("from-guest/dmesg")):
        trouble = KERNEL_TROUBLE.search(said)
        if trouble:
            found.append(f"the guest's kernel: {line_of(said, trouble.start())}")
            break
    for name, (source, pattern) in FINDINGS.items():
        text = outcome.text(source)
        seen = pattern.search(text)
        if name not in wanted.expect:
            lines = (line_of(text, one.start()) for one in pattern.finditer(text))
            may_be = wanted.allow.get(name)
            found += [f"{name}: {line}" for line in lines if may_be is None or may_be not in line][:1]
        if not seen and name in wanted.expect:
            found.append(f"{name} was expected and did not occur")
    for name in wanted.artifacts:
        if not (outcome.directory / "from-guest" / name).is_file():
            found.append(f"the guest left no {name}")
    if wanted.counts_tests:
        found += re.findall(r"^FAILED.*", outcome.text("output"), re.MULTILINE)
        if status is not None and outcome.tests() == 0:
            found.append("no test has passed")
    return found


def line_of(text: str, position: int) -> str:
    start = text.rfind("\n", 0, position) + 1
    return text[start:].split("\n", 1)[0].strip()
