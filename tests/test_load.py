"""infra/load.py: a run that is slowed down by other programs says so once."""

import pytest

from infra.load import BusyMachine


@pytest.mark.parametrize("steps, load, noted", [
    ([1, 1, 1, 1, 1, 3.1], 4.0, [5]), ([1, 1, 1, 1, 1, 2.9], 4.0, []),  # three times as long
    ([1, 1, 1, 1, 1, 3.1], 2.4, []),                                    # the machine is not busy
    ([9, 1, 1, 1, 1, 3.1], 4.0, [5]), ([1, 1, 1, 1, 9], 4.0, []),       # the first steps
    ([1, 1, 1, 1, 1, 1, 3.1, 5], 4.0, [6])])                            # once
def test_the_first_slow_step_of_a_busy_machine_is_noted(steps, load, noted):
    machine = BusyMachine()
    notes = {i: machine.note(seconds, load, 2) for i, seconds in enumerate(steps)}
    said = {i: note for i, note in notes.items() if note}
    assert list(said) == noted
    for note in said.values():
        assert "3.1 times as long" in note and "load 4.0 on 2 cores" in note
