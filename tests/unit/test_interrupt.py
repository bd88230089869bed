"""The specification of run/interrupt.py: a signal stops a run after the step it is in."""

import os
import signal
import sys
import threading
from types import SimpleNamespace

import pytest

from minirlhf.run.interrupt import SIGNALS, Interrupt


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_lets_the_step_finish(name):
    """Ctrl-C, a scheduler that takes the machine back, a terminal that closes: a checkpoint holds
    whole steps only; otherwise a resumed run could not be exact."""
    handler = signal.getsignal(getattr(signal, name))
    with Interrupt() as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), getattr(signal, name))
        assert interrupt.requested and interrupt.number == getattr(signal, name)
    assert signal.getsignal(getattr(signal, name)) is handler


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


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_second_signal_that_no_person_typed_is_as_the_first(name):
    """`timeout` sends two SIGTERM, a closing terminal two SIGHUP."""
    with Interrupt() as interrupt:
        for _ in range(2):
            os.kill(os.getpid(), getattr(signal, name))
        assert interrupt.requested


def test_a_signal_that_is_ignored_stays_so():
    """`nohup` has SIGHUP ignored, and a run in the background of a script SIGINT."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupt.requested
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_a_terminal_that_is_gone_does_not_end_the_step(monkeypatch):
    """The handler runs between any two lines of the step; an error there would be one of theirs."""

    def gone(*_):
        raise OSError("Input/output error")

    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=gone, flush=gone))
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGHUP)
        assert interrupt.requested


def test_in_another_thread_signals_are_left_alone():
    """Python allows handlers in the main thread only. A stage that was started in another one died
    of that after it had removed the old run."""
    errors = []

    def enter():
        try:
            with Interrupt() as interrupt:
                assert not interrupt.requested
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert not errors
