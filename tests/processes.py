"""Several gloo processes for a test, forked from it: no process has to import torch again. The test
keeps their store, as torchrun does."""

import os
import sys
import time
import traceback
from contextlib import contextmanager
from unittest.mock import patch

import torch

from minirlhf.run import distributed


@contextmanager
def environment(rank, world, port):
    """What torchrun sets."""
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    texts = {name: str(value) for name, value in values.items()}
    with patch.dict(os.environ, texts | {"MASTER_ADDR": "127.0.0.1"} | AGENT):
        yield


AGENT = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
STORES = []  # they live as long as the tests


def start(folder, world, function, ranks=None):
    """Fork a process for each rank, which calls `function` in its environment. What it prints goes
    to FOLDER/RANK.out and .err. Returns the process numbers.

    None begins before all are there: when one connects, a thread of the store looks up its address,
    and a process that is forked at this moment inherits the lock of glibc's resolver, for ever."""
    STORES.append(
        torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    )
    port = STORES[-1].port
    folder.mkdir(parents=True, exist_ok=True)
    gate, opening = os.pipe()
    pids = []
    for rank in range(world) if ranks is None else ranks:
        sys.stdout.flush()
        if pid := os.fork():
            pids.append(pid)
            continue
        os.close(opening)
        os.read(gate, 1)
        code = 70
        try:
            sys.stdout = open(folder / f"{rank}.out", "w")
            sys.stderr = open(folder / f"{rank}.err", "w")
            with environment(rank, world, port):
                function()
            code = 0
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(opening)
    os.close(gate)
    return pids


def wait(pids, seconds=100):
    """The exit codes of processes. TimeoutError, and they are killed, if one does not end."""
    codes, deadline = {}, time.monotonic() + seconds
    while len(codes) < len(pids):
        for pid in set(pids) - set(codes):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            for pid in set(pids) - set(codes):
                os.kill(pid, 9)
                os.waitpid(pid, 0)
            raise TimeoutError(f"{len(pids) - len(codes)} processes did not end")
        time.sleep(0.01)
    return [codes[pid] for pid in pids]


def together(folder, world, function):
    """What `function` returns in each of several processes, in the order of their ranks."""

    def work():
        with distributed.processes():
            result = function()
            torch.save(result, folder / f"{distributed.rank()}.pt")

    codes = wait(start(folder, world, work))
    errors = "".join((folder / f"{rank}.err").read_text() for rank in range(world))
    assert codes == [0] * world, errors
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]
