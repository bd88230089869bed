"""A training loop that stops, for whatever reason, leaves a checkpoint of its last whole step."""

import contextlib
import sys

from minirlhf.fast import return_memory
from minirlhf.run import distributed, health, optim
from minirlhf.run.config import Divergence, InputError, one_line
from minirlhf.run.interrupt import Interrupt
from minirlhf.run.metrics import Metrics, cut_samples, read_metrics


class Progress:
    """The steps of a run: which are done, logged and saved.

    While it is entered, a signal stops the loop after its step, and an error (a user's reward that
    fails, a full disk) does not lose the steps since the last save: the weights are saved if the
    optimiser has not changed them since the last whole step. Divergence, which would replace a good
    checkpoint, saves nothing; nor does a second Ctrl-C.

    `first` is the step that a restored run begins with, `save(done)` writes a checkpoint.
    """

    def __init__(self, folder, state, steps, save_every, optimizer, save):
        self.folder, self.steps, self.save_every = folder, steps, save_every
        self.optimizer, self.write = optimizer, save
        self.done = self.saved = state["step"]  # steps
        self.whole = True  # the weights are those after `done` steps
        self.pending = None  # the metrics of the last step, until they are logged
        self.metrics = Metrics(folder, self.done)
        self.watch = health.Watch(read_metrics(folder))
        cut_samples(folder, state)
        self.interrupt = Interrupt()

    def __enter__(self):
        self.hook = self.optimizer.register_step_pre_hook(self.change)
        self.interrupt.__enter__()
        return self

    def change(self, *_):
        self.whole = False

    def complete(self, done, stats):
        """The weights are those after `done` steps. What comes until the next optimiser step may
        fail and nothing is lost; it may add to `stats`."""
        self.done, self.pending, self.whole = done, stats, True

    def due(self, every):
        """Whether something that comes every so many steps does now; the last step has all."""
        return self.done % every == 0 or self.done == self.steps

    def record(self):
        """Log the step, and save it where that is due. KeyboardInterrupt if a signal has come."""
        self.log()
        signal = distributed.largest(self.interrupt.number or 0)  # that any process has got
        if self.due(self.save_every) or signal:
            self.save()
        if signal:
            print(self.state(), file=sys.stderr)
            raise KeyboardInterrupt(signal)

    def log(self):
        if self.pending is not None:
            size = optim.weight_rms(self.optimizer)
            record = self.metrics.log(self.done - 1, **self.pending, weight_rms=size)
            self.pending = None
            self.watch.see(record)

    def save(self):
        if self.saved < self.done:
            self.metrics.flush()
            self.write(self.done)
            self.saved = self.done
            return_memory()

    def state(self):
        """Where a run that stops can go on."""
        if not self.saved:
            return "nothing was saved yet"
        if not self.folder.exists():
            return f"{self.folder} is gone, and its checkpoint with it: start again"
        return (
            f"{self.folder / 'checkpoint.pt'} holds {self.saved} of {self.steps} steps; the same "
            "command with --resume goes on"
        )

    def __exit__(self, kind, error, traceback):
        self.hook.remove()
        failed = error is not None and not isinstance(error, KeyboardInterrupt | Divergence)
        if failed and self.whole:
            with contextlib.suppress(OSError, InputError):
                self.log()
            with contextlib.suppress(OSError, InputError):
                self.save()
        self.interrupt.__exit__()  # not before: if a process dies, torchrun stops the others
        if not failed:
            return
        if isinstance(error, InputError | OSError):
            raise InputError(f"{one_line(error)}. {self.state()}") from error
        print(self.state(), file=sys.stderr)  # below the traceback of an error of ours
