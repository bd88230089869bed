"""The specification of run/interrupt.py: Ctrl-C stops a run after the step it is in."""

import os
import signal

import pytest

from minirlhf.run.interrupt import Interrupt


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_ctrl_c_lets_the_step_finish_and_says_how_to_go_on(tmp_path, capsys):
    """A checkpoint holds whole steps only; otherwise a resumed run could not be exact."""
    finished = []
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupt() as interrupt:
        for step in range(5):
            if step == 2:
                ctrl_c()
            finished.append((step, interrupt.requested))
            interrupt.stop_if_requested(tmp_path, step + 1, 5)
    assert finished == [(0, False), (1, False), (2, True)]
    message = capsys.readouterr().err
    assert f"{tmp_path / 'checkpoint.pt'} holds 3 of 5 steps" in message and "--resume" in message
    assert signal.getsignal(signal.SIGINT) is handler


def test_the_second_ctrl_c_stops_at_once():
    """A step of a large model takes a minute, too long for a user who presses twice."""
    finished = False
    with pytest.raises(KeyboardInterrupt), Interrupt():
        ctrl_c()
        ctrl_c()
        finished = True
    assert not finished


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_outside_the_loop_ctrl_c_is_what_it_was(error):
    """A handler that stays would swallow the next Ctrl-C, in tests too."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        with Interrupt():
            assert signal.getsignal(signal.SIGINT) is not handler
            if error:
                raise error
    except RuntimeError:
        pass
    assert signal.getsignal(signal.SIGINT) is handler
