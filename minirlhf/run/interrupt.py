"""Ctrl-C stops a run after the step it is in."""

import signal
import sys


class Interrupt:
    """While it is entered, the first Ctrl-C lets the loop finish its step and save; the second
    stops at once."""

    def __enter__(self):
        self.requested = False
        self.previous = signal.signal(signal.SIGINT, self.request)
        return self

    def request(self, number, frame):
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("\nstopping after this step (Ctrl-C again stops at once)", file=sys.stderr)

    def stop_if_requested(self, folder, step, steps):
        """To be called after saving. KeyboardInterrupt if Ctrl-C was pressed."""
        if self.requested:
            print(
                f"{folder / 'checkpoint.pt'} holds {step} of {steps} steps; "
                "the same command with --resume goes on",
                file=sys.stderr,
            )
            raise KeyboardInterrupt

    def __exit__(self, *error):
        signal.signal(signal.SIGINT, self.previous)
