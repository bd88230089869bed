"""A signal stops a run after the step it is in."""

import contextlib
import signal
import sys
import threading

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C; kill and schedulers; a terminal that closes


class Interrupt:
    """While it is entered, Ctrl-C, SIGTERM or SIGHUP lets the loop finish its step and save; a
    second Ctrl-C stops at once. A second SIGTERM or SIGHUP does not: `timeout` and a closing
    terminal send two. A signal that is ignored stays so (`nohup`). Signals come to the main thread
    only: in another one this does nothing."""

    def __enter__(self):
        self.number, self.previous = None, {}
        if threading.current_thread() is threading.main_thread():
            for name in SIGNALS:
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                if number and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self.previous[number] = signal.signal(number, self.request)
        return self

    @property
    def requested(self):
        return self.number is not None

    def request(self, number, frame):
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = self.number or number
        hint = " (Ctrl-C again stops at once)" if number == signal.SIGINT else ""
        # A terminal may be gone, or a print be under way.
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            print(f"\nstopping after this step{hint}", file=sys.stderr)

    def __exit__(self, *error):
        for number, handler in self.previous.items():
            signal.signal(number, handler)
