"""Instructions of the driver in a guest where QEMU counts them, and accesses to registers, which count
as one instruction and cost a thousand: what a run of the guest is, and what holds it to its baseline."""

import platform
import re
import subprocess
import tomllib
from dataclasses import dataclass

from . import HERE, ROOT, Mistake
from .scenario import Scenario

BASELINE = ROOT / "benches" / "baselines" / "guest_cost.toml"
HEAD = """\
# The driver's cost per 4 KiB read on QEMU's NVMe controller: instructions of submit, ring and poll as
# QEMU counts them, and accesses to the device's registers. `tests/qemu/icount` fails above these by
# more than 3 %; `tests/qemu/icount --bless` writes this file.
"""
# How much more than the baseline passes.
SLACK = 1.03
FUNCTION = "0000:00:04.0"
# An instruction takes 2^SHIFT ns of the guest's time, and an idle guest's time leaps to its next timer.
SHIFT = 2
ACCEL = "tcg,thread=single"
# Reads in flight, and registers read with each of them: 0, and 1 for the control.
DEPTHS = (1, 32)
EXTRA_READS = (0, 1)
ACCESS = re.compile(r"pci_nvme_mmio_(?:read|write) ")
CREATED, DELETED = re.compile(r"pci_nvme_create_sq "), re.compile(r"pci_nvme_del_sq ")


@dataclass
class Figures:
    """Of a run of `on-device cost`, per read."""

    depth: int
    extra_reads: int
    instructions: float
    registers: float
    # The cheapest and the dearest batch, and how many there were.
    least: float
    most: float
    batches: int

    def named(self) -> dict[str, float]:
        """By their names in the baseline."""
        return {
            f"instructions_qd{self.depth}": self.instructions,
            f"registers_qd{self.depth}": self.registers,
        }

    def __str__(self) -> str:
        control = f", {self.extra_reads} register read more with each" if self.extra_reads else ""
        return (
            f"QD {self.depth}{control}: {self.instructions:.2f} instructions and {self.registers:.4f} accesses "
            f"to registers per read ({self.batches} batches; {self.least:.2f} to {self.most:.2f} instructions)"
        )


def scenario() -> Scenario:
    """A guest of one processor that runs every case once."""
    one = Scenario("icount", "")
    one.told("qemu -blockdev driver=null-co,node-name=d0,size=1073741824,read-zeroes=on")
    # Doorbells that are eventfds would not be seen.
    one.told("qemu -device nvme,serial=one,drive=d0,addr=4,ioeventfd=off")
    one.told(f"qemu -smp 1 -icount shift={SHIFT},sleep=off")
    one.told("append initcall_blacklist=nvme_init")
    for event in ("pci_nvme_mmio_read", "pci_nvme_mmio_write", "pci_nvme_create_sq", "pci_nvme_del_sq"):
        one.told(f"trace {event}")
    one.told("timeout 120")
    lines = [f"to_vfio {FUNCTION}"]
    # Where its clock is a register of QEMU's, a look at it costs more than what is measured.
    lines.append('[ "$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)" = tsc ] ||')
    lines.append('  fail "the guest does not keep its time by the processor\'s counter"')
    for depth in DEPTHS:
        for extra in EXTRA_READS:
            lines.append(f"on-device cost pci:{FUNCTION} --depth {depth} --register-reads {extra}")
            lines.append(f"ok 'counted at QD {depth}, {extra} register reads more with each'")
    one.script = "\n".join(lines) + "\n"
    return one


def figures(output: str, trace: str) -> list[Figures]:
    """What the guest printed and QEMU traced, case by case."""
    said = [
        {name: int(value) for name, value in re.findall(r"(\w+) (\d+)", line)}
        for line in output.splitlines()
        if line.startswith("cost: ")
    ]
    accesses = accessed(trace)
    cases = [(depth, extra) for depth in DEPTHS for extra in EXTRA_READS]
    if len(said) != len(cases) or len(accesses) < len(cases):
        raise Mistake(f"{len(cases)} cases, {len(said)} of them told, {len(accesses)} traced")
    found = []
    # The firmware may have had a queue, too, before the first of ours.
    for (depth, extra), told, count in zip(cases, said, accesses[-len(cases) :]):
        # The clock is read at both ends of two pieces.
        of = lambda name: (told[name] - 2 * told["clock_ns"]) / (1 << SHIFT) / depth
        ends = of("least_ns"), of("most_ns")
        found.append(
            Figures(depth, extra, of("batch_ns"), count / told["reads"], *ends, told["batches"])
        )
    return found


def accessed(trace: str) -> list[int]:
    """Accesses to registers between the making of an I/O queue and its end, for each of them."""
    found: list[int] = []
    count = 0
    for line in trace.splitlines():
        if CREATED.search(line):
            count = 0
        elif DELETED.search(line):
            found.append(count)
        elif ACCESS.search(line):
            count += 1
    return found


def compiler() -> str:
    """What the figures are of."""
    done = subprocess.run(["rustc", "--version"], cwd=HERE, capture_output=True, text=True)
    return done.stdout.strip()


def bless(cases: list[Figures]) -> None:
    """Makes these figures the committed ones."""
    text = HEAD + f'rustc = "{compiler()}"\narch = "{platform.machine()}"\n'
    for case in cases:
        if not case.extra_reads:
            text += "".join(f"{name} = {value:.4f}\n" for name, value in case.named().items())
    BASELINE.write_text(text)


def baseline() -> dict[str, float | str]:
    try:
        return tomllib.loads(BASELINE.read_text())
    except OSError as error:
        raise Mistake(f"{error}; make it with tests/qemu/icount --bless") from error


def excesses(case: Figures, was: dict[str, float | str]) -> list[str]:
    """Every figure of a case that is too far above the baseline, in words."""
    found = []
    for name, value in case.named().items():
        if name not in was:
            found.append(f"{name} is not in {BASELINE}")
        elif value > float(was[name]) * SLACK:
            percent = (value / float(was[name]) - 1) * 100
            found.append(f"{name} is {value:.4f}, {percent:+.1f} % from {was[name]:.4f}")
    return found
