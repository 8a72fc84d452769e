"""The run of faults, in its short form: every kind of fault once, and no property breached."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.faults import KINDS, schedule

_SECONDS, _SEED = 22, 11
# The run ends itself; this is for a machine that does much else meanwhile.
_PATIENCE_S = 200


@pytest.mark.slow
@pytest.mark.timeout(_PATIENCE_S + 40)
def test_nothing_is_lost_whatever_is_killed() -> None:
    """Exit status 0: every property held, and the server and its PostgreSQL came back each time."""
    command = [sys.executable, "-m", "chaos", "--seconds", str(_SECONDS), "--seed", str(_SEED)]
    run = subprocess.Popen(
        command, cwd=Path(__file__).parent.parent, start_new_session=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        output, _ = run.communicate(timeout=_PATIENCE_S)
    except BaseException:
        run.terminate()  # it ends what it has started
        try:
            run.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()
        raise
    assert run.returncode == 0, output


def test_a_schedule_is_the_same_for_the_same_seed() -> None:
    assert schedule(5, 600) == schedule(5, 600) != schedule(6, 600)


def test_ten_minutes_hold_thirty_faults_of_every_kind() -> None:
    faults = schedule(1, 600)
    assert len(faults) >= 30
    assert {fault.kind for fault in faults} == set(KINDS)


def test_the_short_form_holds_every_kind() -> None:
    assert {fault.kind for fault in schedule(_SEED, _SECONDS)} == set(KINDS)
