"""Proves the judge: each guest in selftest/ goes wrong in its way, and has to be told so. Those with
no `#: notice` have to pass."""

from concurrent.futures import ThreadPoolExecutor

from . import guest, say
from .guest import Kit
from .judge import problems
from .scenario import Scenario, folder
from .suite import AT_ONCE


def complaints(kit: Kit, scenario: Scenario) -> list[str]:
    """What is wrong with the judge's opinion of a scenario."""
    outcome = guest.run(kit, scenario)
    found = problems(outcome, scenario.wanted())
    missed = [text for text in scenario.notice if not any(text in problem for problem in found)]
    made_up = [problem for problem in found if not any(text in problem for text in scenario.notice)]
    wrong = [f"not noticed: {text}" for text in missed] + [f"noticed: {text}" for text in made_up]
    if wrong:
        wrong += [outcome.tail(name) for name in ("output", "console", "stderr")]
    return wrong


def run(kit: Kit) -> bool:
    scenarios = list(folder("selftest").values())
    failed = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = pool.map(lambda scenario: complaints(kit, scenario), scenarios)
        for scenario, wrong in zip(scenarios, results):
            print(f"{'FAILED' if wrong else 'ok':<7} {scenario.name}: {scenario.title}", flush=True)
            failed += bool(wrong)
            for line in wrong:
                say(line)
    print(f"guest selftest: {len(scenarios) - failed} passed, {failed} failed")
    return bool(scenarios) and not failed
