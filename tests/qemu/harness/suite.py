"""Runs scenarios, two at a time at most, and prints a table of how they went."""

import os
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from . import guest, say
from .guest import Kit
from .judge import problems
from .scenario import Scenario

# A guest has two processors; this many at once find their places on a small machine.
AT_ONCE = 2
# A kernel that rewrites its own instructions does so behind breakpoints of a moment, and QEMU's other
# virtual processor may run into one that is gone already. guest.py keeps that from starting kernels;
# what runs in a guest can make its kernel do it later. Seen once in some hundred guests.
QEMUS_FAULT = "Oops: int3"


class Row:
    """A scenario that has been run."""

    def __init__(self, kit: Kit, scenario: Scenario):
        outcome = guest.run(kit, scenario)
        if QEMUS_FAULT in outcome.text("console"):
            say(f"{scenario.name}: once more, for QEMU's sake: {QEMUS_FAULT} in {outcome.directory}")
            outcome = guest.run(kit, scenario)
        self.scenario = scenario
        self.outcome = outcome
        self.problems = problems(outcome, scenario.wanted())

    def __str__(self) -> str:
        result = "FAILED" if self.problems else "ok"
        return f"{self.scenario.name:<32} {self.outcome.tests():>5} {self.outcome.seconds:>7.1f}  {result}"

    def report(self) -> str:
        """All that is known of why it failed."""
        outcome = self.outcome
        lines = [f"{self.scenario.name}: {problem}" for problem in self.problems]
        for name in ("output", "console", "stderr", "trace"):
            tail = outcome.tail(name)
            if tail:
                lines.append(tail)
        lines.append(f"  all of it: {outcome.directory}")
        return "\n".join(lines)


def run(kit: Kit, scenarios: list[Scenario]) -> bool:
    """Whether all of them went well."""
    lock = Lock()

    def one(scenario: Scenario) -> Row:
        row = Row(kit, scenario)
        with lock:
            say(row)
            if row.problems:
                say(row.report())
        return row

    with ThreadPoolExecutor(min(AT_ONCE, os.cpu_count() or 1)) as pool:
        # The longest first, lest one that is begun last keeps everybody waiting.
        ordered = sorted(scenarios, key=lambda scenario: -scenario.timeout_s)
        rows = {row.scenario.name: row for row in pool.map(one, ordered)}
    print(f"{'scenario':<32} {'tests':>5} {'seconds':>7}  result")
    for scenario in scenarios:
        print(rows[scenario.name])
    failed = [row for row in rows.values() if row.problems]
    tests = sum(row.outcome.tests() for row in rows.values())
    print(f"guest: {len(rows) - len(failed)} scenarios passed, {len(failed)} failed, {tests} tests")
    return bool(rows) and not failed
