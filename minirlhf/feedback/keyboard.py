"""The keys of a person: single ones from a terminal, without Enter, or the characters of lines that
come through a pipe."""

import contextlib
import os
import select
import signal
import sys
import threading

from minirlhf.run.metrics import printable

try:
    import termios
    import tty
except ImportError:  # not on this system
    termios = tty = None

ESCAPE = "\x1b"
PAUSE = 0.05  # seconds within which the rest of an arrow key's sequence arrives


class Lines:
    """Standard input that is no terminal: each character of a line is a key."""

    def __init__(self):
        self.rest = ""
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(encoding="utf-8", errors="replace")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def key(self):
        """One character; "" at the end."""
        while not self.rest.strip():
            line = sys.stdin.readline()
            if not line:
                return ""
            self.rest = line
        self.rest = self.rest.strip()
        key, self.rest = self.rest[0], self.rest[1:]
        return key

    def line(self, caption):
        """What is left of the line, or the next one, as text without control characters."""
        text = self.rest.strip() or sys.stdin.readline()
        self.rest = ""
        return clean(text)


class Terminal:
    """A key is read when it is pressed and is not shown; a line is typed as usual. Afterwards the
    terminal is as it was before."""

    def __init__(self):
        self.number = sys.stdin.fileno()

    def __enter__(self):
        self.modes, self.handlers = termios.tcgetattr(self.number), {}
        if threading.current_thread() is threading.main_thread():
            handlers = {signal.SIGTERM: stop, signal.SIGHUP: stop, signal.SIGCONT: self.listen}
            self.handlers = {n: signal.signal(n, handler) for n, handler in handlers.items()}
        self.listen()
        # What was typed before the first question is no answer to it.
        termios.tcflush(self.number, termios.TCIFLUSH)
        return self

    def __exit__(self, *error):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(self.number, termios.TCSADRAIN, self.modes)

    def listen(self, *_):
        tty.setcbreak(self.number, termios.TCSADRAIN)  # what was typed ahead is kept

    def key(self):
        """One character; "" when the terminal is closed, and for Ctrl-D. An arrow key and its like
        send several characters, which are no keys."""
        while True:
            character = self.character()
            if character == ESCAPE:
                self.drop_sequence()
            elif character == "\x04":
                return ""
            elif not character.isspace():
                return character

    def character(self):
        try:
            return os.read(self.number, 1).decode("ascii", "replace")
        except OSError:  # the terminal is gone
            return ""

    def drop_sequence(self):
        """What follows ESC: [ or O, parameters, and a letter or ~."""
        if not self.waiting() or self.character() not in ("[", "O"):
            return
        while self.waiting():
            character = self.character()
            if not character or "@" <= character <= "~":
                return

    def waiting(self):
        return bool(select.select([self.number], [], [], PAUSE)[0])

    def line(self, caption):
        """A line of text without control characters."""
        termios.tcsetattr(self.number, termios.TCSADRAIN, self.modes)
        print(caption, end="", flush=True)
        try:
            return clean(os.read(self.number, 4096).decode("utf-8", "replace"))
        finally:
            self.listen()


def stop(number, frame):
    """A signal ends the command as Ctrl-C does, which gives the terminal back as it was."""
    raise KeyboardInterrupt(number)


def clean(text):
    return printable(" ".join(text.split()))


def keyboard():
    """What standard input is."""
    is_terminal = termios and sys.stdin.isatty() and sys.stdout.isatty()
    return Terminal() if is_terminal else Lines()
