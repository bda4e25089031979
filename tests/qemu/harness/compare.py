"""What a comparison runs in the guest, and what its figures mean."""

import json
import re
import shlex
from dataclasses import dataclass
from statistics import median

from . import Mistake
from .scenario import Scenario

# Two identical controllers of each medium, the first of them ours and the other the kernel's: nothing
# has to be bound again between runs.
MEDIA = {"null-co": ("0000:00:04.0", "0000:00:05.0"), "file": ("0000:00:06.0", "0000:00:07.0")}
DEPTHS = (1, 32)
PATTERNS = ("randread", "randwrite")
STOCK, SPARING, FAIR = "stock fio", "stock fio, sparing", "our loop on the kernel"
POLLING, INTERRUPTS = "ours, polling", "ours, interrupts"
ALONE = "ours, polling, no generator"
# QEMU's device reads and writes shadow doorbells for each command, and a register is cheap in its guest.
REGISTERS = "ours, polling, no generator, no shadow doorbells"
SIDES = (STOCK, POLLING, FAIR, INTERRUPTS, SPARING, ALONE, REGISTERS)
# Of a round's runs, the least that says something.
BAR_ROUNDS = 5
# What libvfn reaches, as a multiple of stock fio with io_uring on the kernel's driver, and how much of it
# is wanted here.
SHARE = 0.95
LIBVFN = {
    (POLLING, "null-co", 1, "randread"): 4.4,
    (POLLING, "null-co", 32, "randread"): 16,
    (POLLING, "file", 1, "randread"): 3.5,
    (POLLING, "file", 32, "randread"): 5.3,
    (INTERRUPTS, "null-co", 1, "randread"): 1.4,
}
# By io_uring: QEMU's threads for files, some 30 of them, would take the host's cores from the guest's
# processors.
DISK = "aio=io_uring,cache.direct=off,filename="
SIZE_MIB = 256
# Where our vector is, and who waits for it: the kernel's driver has its own on the processor that
# submits, by itself, while VFIO's go wherever the administrator says.
PROCESSOR = 1


@dataclass(frozen=True)
class Cell:
    """One thing that every side does."""

    medium: str
    depth: int
    pattern: str

    def __str__(self) -> str:
        return f"{self.medium} QD {self.depth} {self.pattern}"


CELLS = [Cell(medium, depth, pattern) for medium in MEDIA for depth in DEPTHS for pattern in PATTERNS]


def command(side: str, cell: Cell, runtime: str) -> str:
    """A run, in the guest's shell."""
    ours, kernels = MEDIA[cell.medium]
    words = ["--name=run", "--direct=1", "--bs=4k", "--thread", "--group_reporting", "--time_based"]
    words += [f"--runtime={runtime}", f"--rw={cell.pattern}", f"--iodepth={cell.depth}", f"--size={SIZE_MIB}m"]
    words += ["--output-format=json", "--eta=never"]
    if side in (ALONE, REGISTERS):
        way = " --write" if "write" in cell.pattern else ""
        way += " --no-shadow-doorbells" if side == REGISTERS else ""
        size = f"--size-bytes {SIZE_MIB << 20}"
        return f"on-device rate pci:{ours} --depth {cell.depth} --runtime-ms {milliseconds(runtime)} {size}{way}"
    if side in (POLLING, INTERRUPTS):
        words += ["--ioengine=underpin", f"--filename=pci:{ours}", f"--interrupts={int(side == INTERRUPTS)}"]
        where = f"taskset {1 << PROCESSOR:x} " if side == INTERRUPTS else ""
        return f"{where}underpin-fio {shlex.join(words)}"
    words.append("--ioengine=io_uring")
    if side == SPARING:
        words += ["--gtod_reduce=1", "--norandommap"]
    name = "underpin-fio" if side == FAIR else "stock-fio"
    return f'{name} {shlex.join(words)} --filename="$(disk {kernels})"'


def milliseconds(time: str) -> int:
    """A time as fio's options have it: `500ms`, or seconds with or without their unit."""
    told = re.fullmatch(r"(\d+)(ms|s|)", time)
    if not told:
        raise Mistake(f"--runtime {time}: seconds, or milliseconds as in 500ms")
    return int(told[1]) * (1 if told[2] == "ms" else 1000)


def scenario(rounds: int, runtime: str) -> Scenario:
    """A guest that runs every side of every cell, side by side, so many times."""
    one = Scenario("compare", "")
    number = 0
    for medium, functions in MEDIA.items():
        for _ in functions:
            node, address = f"d{number}", 4 + number
            if medium == "file":
                one.told(f"image {node} {SIZE_MIB}M")
                one.told(f"qemu -blockdev driver=file,node-name={node},{DISK}{{{node}}}")
            else:
                one.told(f"qemu -blockdev driver=null-co,node-name={node},size=1073741824,read-zeroes=on")
            one.told(f"qemu -device nvme,serial={node},drive={node},addr={address}")
            number += 1
    # DMA of the kernel's driver is translated, as ours is.
    one.told("append iommu.passthrough=0")
    one.told(f"timeout {120 + rounds * len(CELLS) * len(SIDES) * 15}")
    # Of vectors that are still to be had: those of the kernel's own queues stay where they are.
    lines = [f"echo {1 << PROCESSOR:x} >/proc/irq/default_smp_affinity"]
    lines.append(f"to_vfio {' '.join(functions[0] for functions in MEDIA.values())}")
    for functions in MEDIA.values():
        kind = f"$(cat /sys/kernel/iommu_groups/$(group {functions[1]})/type)"
        # With `identity` the kernel would be spared what the driver pays for.
        lines.append(f'case {kind} in DMA*) ;; *) fail "the kernel\'s DMA is not translated" ;; esac')
    # Blocks of a file that was never written need no reading.
    for function in MEDIA["file"]:
        fill = command(POLLING if function == MEDIA["file"][0] else FAIR, Cell("file", 32, "write"), "0")
        fill = fill.replace("--time_based ", "").replace("--runtime=0 ", "").replace("--bs=4k", "--bs=128k")
        lines.append(f"{fill} >/tmp/said 2>&1 || {{ cat /tmp/said; fail filling {function}; }}")
    for at in range(rounds):
        for index, cell in enumerate(CELLS):
            for side in SIDES[at % len(SIDES) :] + SIDES[: at % len(SIDES)]:
                file = f"/artifacts/{at}-{index}-{SIDES.index(side)}.json"
                run = command(side, cell, runtime)
                lines.append(f"{run} >{file} 2>/tmp/said || {{ cat /tmp/said {file}; fail '{side}, {cell}'; }}")
            lines.append(f"ok 'round {at + 1}: {cell}'")
    one.script = "\n".join(lines) + "\n"
    return one


def iops(report: str) -> float:
    """I/Os per second of a report; a run without any is none."""
    # A note may stand before the report.
    said = json.loads(report[report.index("{") :])
    found = sum(job[way]["iops"] for job in said["jobs"] for way in ("read", "write"))
    if not found or any(job["error"] for job in said["jobs"]):
        raise ValueError("a run did no I/O, or failed")
    return found


def figures(folder, rounds: int) -> list[dict]:
    """Every run of a guest, in order."""
    found = []
    for at in range(rounds):
        for index, cell in enumerate(CELLS):
            for number, side in enumerate(SIDES):
                report = (folder / f"{at}-{index}-{number}.json").read_text()
                found.append(dict(vars(cell), side=side, iops=iops(report)))
    return found


def medians(runs: list[dict]) -> dict[tuple, float]:
    """The median of each side of each cell."""
    groups: dict[tuple, list[float]] = {}
    for run in runs:
        groups.setdefault((run["side"], run["medium"], run["depth"], run["pattern"]), []).append(run["iops"])
    return {key: median(values) for key, values in groups.items()}


def table(runs: list[dict]) -> list[str]:
    """Medians, with how many times stock fio's each is, and the fair ratio."""
    middle = medians(runs)
    lines = ["| " + " | ".join(("", *SIDES, "ours / our loop")) + " |", "|---" * (len(SIDES) + 2) + "|"]
    for cell in CELLS:
        of = lambda side: middle[(side, cell.medium, cell.depth, cell.pattern)]
        cells = [f"{of(side):.0f} ({of(side) / of(STOCK):.2f} x)" for side in SIDES]
        lines.append(f"| {cell} | {' | '.join(cells)} | {of(POLLING) / of(FAIR):.2f} |")
    return lines


def bars(runs: list[dict]) -> list[tuple[str, float, float]]:
    """Each bar: what it is about, what the best of our sides there reaches, and what is wanted."""
    middle = medians(runs)
    found = []
    for (side, *cell), multiple in LIBVFN.items():
        times = lambda side: middle[(side, *cell)] / middle[(STOCK, *cell)]
        sides = (POLLING, ALONE, REGISTERS) if side == POLLING else (side,)
        each = ", ".join(f"{side}: {times(side):.2f} x" for side in sides)
        found.append((f"{Cell(*cell)} ({each})", max(map(times, sides)), SHARE * multiple))
    return found
