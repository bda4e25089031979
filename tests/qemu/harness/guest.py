"""Boots a guest in QEMU, does for it what only a host can, and waits for its end, but not for ever."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from . import Missing, Mistake, initramfs, program, programs, say
from .judge import Outcome
from .kernel import Kernel
from .scenario import Scenario

# Between two looks at a guest.
LOOK_S = 0.05
# On a busy machine a virtual processor may stand still for long; the kernel takes that for a timer
# that does not work, and panics.
PATIENCE = "no_timer_check nosoftlockup rcupdate.rcu_cpu_stall_suppress=1"
# A kernel that starts rewrites its own instructions, behind breakpoints of a moment. QEMU's other
# virtual processor may run into one that is gone already (once in a hundred boots: `Oops: int3`), so it
# begins when that is over: guest/init.
ALONE = "maxcpus=1"


# Guests that run now, for `kill_all`.
RUNNING: set[subprocess.Popen] = set()


def kill_all() -> None:
    """For who is about to end before they do."""
    for process in list(RUNNING):
        process.kill()


@dataclass
class Kit:
    """What all guests of an invocation share."""

    kernel: Kernel
    base: bytes
    scratch: Path
    accel: str

    @staticmethod
    def collect(kernel: Kernel, scratch: Path, built: dict[str, Path]) -> "Kit":
        archive = initramfs.Archive()
        for name, path in built.items():
            archive.copy(f"bin/{name}", path)
        base = initramfs.base(kernel, programs.helpers(scratch)) + archive.bytes()
        return Kit(kernel, base, scratch, os.environ.get("UNDERPIN_GUEST_ACCEL", "tcg,thread=multi"))


def qemu() -> str:
    return program("qemu-system-x86_64", "qemu-system-x86", "UNDERPIN_QEMU")


def command_line(kit: Kit, scenario: Scenario, directory: Path, nonce: str, shell: bool) -> list[str]:
    """QEMU's command line for a scenario."""
    places = {"DIR": str(directory)}
    for name, size in scenario.images.items():
        path = directory / name
        try:
            subprocess.run(["truncate", "-s", size, path], check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            raise Mistake(f"{scenario.name}: image {name} {size}: {error.stderr.strip()}") from error
        places[name] = str(path)
    append = ["console=ttyS0", "panic=-1", "quiet", PATIENCE, ALONE, f"guest.nonce={nonce}"]
    if shell:
        append.append("guest.shell=1")
    iommu = []
    if scenario.iommu != "none":
        append.append("intel_iommu=on")
        # Interrupts of VFIO need remapping, or it refuses the group.
        iommu = ["-device", f"intel-iommu,intremap=on,{scenario.iommu}"]
    serial = ["-serial", "mon:stdio"] if shell else ["-serial", f"file:{directory}/console"]
    line = [qemu()]
    line += "-machine q35 -cpu max -smp 2 -nodefaults -no-user-config -no-reboot".split()
    line += ["-display", "none", "-accel", kit.accel, "-m", str(scenario.memory_mib), *serial]
    line += ["-kernel", str(kit.kernel.image), "-initrd", f"{directory}/initramfs"]
    line += ["-append", " ".join(append + scenario.append)]
    line += ["-device", "isa-debug-exit,iobase=0x501,iosize=4", *iommu]
    line += ["-qmp", f"unix:{directory}/qmp,server=on,wait=off", "-device", "virtio-serial-pci"]
    for name in ("output", "artifacts"):
        line += ["-chardev", f"file,id={name},path={directory}/{name}"]
        line += ["-device", f"virtserialport,chardev={name},name={name}"]
    line += ["-chardev", f"socket,id=monitor,path={directory}/monitor,server=on,wait=off"]
    line += ["-device", "virtserialport,chardev=monitor,name=monitor"]
    for event in ("pci_nvme_err*", "pci_nvme_ub*", *scenario.trace):
        line += ["-trace", event]
    line += ["-D", f"{directory}/trace"]
    for argument in scenario.qemu:
        for name, place in places.items():
            argument = argument.replace("{" + name + "}", place)
        line.append(argument)
    return line


def write_initramfs(kit: Kit, scenario: Scenario, directory: Path) -> None:
    archive = initramfs.Archive()
    archive.file("scenario", scenario.script.encode())
    archive.file("directory", scenario.directory.encode())
    archive.directory("files")
    for name, path in scenario.files.items():
        archive.copy(name, path)
    for name in scenario.bring:
        try:
            brought = programs.with_libraries(program(name, name))
        except Missing as missing:
            # A guest there can be; without what it is to bring a scenario has failed, and is not skipped.
            raise Mistake(f"{scenario.name}: {missing}") from missing
        for place, path in brought.items():
            archive.copy(place, path)
    with open(directory / "initramfs", "wb") as out:
        out.write(kit.base)
        out.write(archive.bytes())


def run(kit: Kit, scenario: Scenario, shell: bool = False, live: bool = False) -> Outcome:
    """Runs a scenario to its end. `live` prints what it says while it says it."""
    if not kit.scratch.is_dir():
        raise Mistake(f"{kit.scratch} has vanished: somebody removes files while guests run")
    directory = kit.scratch / f"{scenario.name}-{secrets.token_hex(3)}"
    directory.mkdir()
    nonce = secrets.token_hex(8)
    line = command_line(kit, scenario, directory, nonce, shell)
    write_initramfs(kit, scenario, directory)
    (directory / "command").write_text(" \\\n  ".join(line) + "\n")
    began = time.monotonic()
    with open(directory / "stderr", "wb") as stderr:
        streams = {} if shell else {"stdin": subprocess.DEVNULL, "stdout": stderr, "stderr": stderr}
        qemu = subprocess.Popen(line, **streams)
    RUNNING.add(qemu)
    status = None
    try:
        relay = threading.Thread(target=Relay(directory, qemu).run, daemon=True)
        relay.start()
        status = wait(qemu, None if shell else began + scenario.timeout_s, directory, live)
    finally:
        if qemu.poll() is None:
            qemu.kill()
            qemu.wait()
        RUNNING.discard(qemu)
    for name in ("initramfs", "qmp", "monitor", *scenario.images):
        (directory / name).unlink(missing_ok=True)
    unpack(directory)
    return Outcome(directory, nonce, status, time.monotonic() - began)


def wait(qemu: subprocess.Popen, deadline: float | None, directory: Path, live: bool) -> int | None:
    """QEMU's exit status; None if it has not ended at the deadline."""
    printed = 0
    while True:
        status = qemu.poll()
        if live:
            printed = copy_out(directory / "output", printed)
        if status is not None:
            return status
        if deadline is not None and time.monotonic() > deadline:
            return None
        time.sleep(LOOK_S)


def copy_out(path: Path, printed: int) -> int:
    try:
        with open(path, "rb") as file:
            file.seek(printed)
            data = file.read()
    except OSError:
        return printed
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    return printed + len(data)


def unpack(directory: Path) -> None:
    """The guest's /artifacts, from the archive that it sent."""
    sent = directory / "artifacts"
    if not sent.is_file() or sent.stat().st_size == 0:
        return
    try:
        with tarfile.open(sent) as archive:
            for member in archive:
                if member.isfile() and ".." not in Path(member.name).parts:
                    target = directory / "from-guest" / member.name.lstrip("/")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.extractfile(member) as source, open(target, "wb") as out:
                        shutil.copyfileobj(source, out)
    except (tarfile.TarError, OSError) as error:
        say(f"{sent}: {error}")


class Relay:
    """Lets the guest ask the host for what a host does: `monitor` in guest/lib.sh.

    A line is `qmp JSON`, `hmp COMMAND` of QEMU's monitor, `wait EVENT`, `trace TEXT` for how many
    lines of QEMU's trace hold it, or `vanish`, which removes the run's directory, for the selftest;
    the answer is a line."""

    # The guest has a deadline of its own.
    EVENT_S = 30

    def __init__(self, directory: Path, qemu: subprocess.Popen):
        self.directory, self.qemu = directory, qemu
        self.events: list[dict] = []

    def run(self) -> None:
        try:
            guest = self.connect("monitor").makefile("rw")
            self.socket = self.connect("qmp")
            self.qmp = self.socket.makefile("rw")
            self.receive()
            self.ask({"execute": "qmp_capabilities"})
            for line in guest:
                guest.write(json.dumps(self.answer(line.strip())) + "\n")
                guest.flush()
        except (OSError, ValueError):
            # QEMU has ended, and with it what there was to relay.
            pass

    def connect(self, name: str) -> socket.socket:
        # The address of a UNIX socket is short; a directory's path may not be.
        with_descriptor = os.open(self.directory, os.O_PATH)
        try:
            while self.qemu.poll() is None:
                connection = socket.socket(socket.AF_UNIX)
                try:
                    connection.connect(f"/proc/self/fd/{with_descriptor}/{name}")
                    return connection
                except OSError:
                    connection.close()
                    time.sleep(LOOK_S)
            raise OSError("QEMU has ended")
        finally:
            os.close(with_descriptor)

    def answer(self, line: str) -> dict:
        word, _, rest = line.partition(" ")
        try:
            if word == "qmp":
                return self.ask(json.loads(rest))
            if word == "hmp":
                arguments = {"command-line": rest}
                return self.ask({"execute": "human-monitor-command", "arguments": arguments})
            if word == "wait":
                return self.event(rest)
            if word == "trace":
                with open(self.directory / "trace", encoding="utf-8", errors="replace") as trace:
                    return {"return": sum(rest in line for line in trace)}
            if word == "vanish":
                shutil.rmtree(self.directory)
                return {"return": {}}
        except ValueError as error:
            return {"error": f"{line}: {error}"}
        return {"error": f"'{word}' is none of qmp, hmp, wait, trace"}

    def receive(self) -> dict:
        line = self.qmp.readline()
        if not line:
            raise OSError("QEMU's monitor has closed")
        return json.loads(line)

    def ask(self, command: dict) -> dict:
        self.qmp.write(json.dumps(command) + "\n")
        self.qmp.flush()
        while True:
            message = self.receive()
            if "event" not in message:
                return message
            self.events.append(message)

    def event(self, name: str) -> dict:
        """The event of that name that nobody has waited for yet."""
        deadline = time.monotonic() + self.EVENT_S
        while time.monotonic() < deadline:
            for position, message in enumerate(self.events):
                if message["event"] == name:
                    return self.events.pop(position)
            # Events come with the answers to questions.
            self.ask({"execute": "query-status"})
            time.sleep(LOOK_S)
        return {"error": f"no event {name} in {self.EVENT_S} s"}
