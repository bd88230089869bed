"""Print text of the embedded world.

minirlhf world --show 5               demonstrations and what the judge says of them
minirlhf world --documents 3000       texts to learn language from
"""

from dataclasses import dataclass

import numpy as np

from minirlhf.run import config
from minirlhf.run.config import flag
from minirlhf.world import judge, writers


@dataclass(frozen=True)
class Config:
    """Text of the embedded world."""

    documents: int = flag(0, "texts to learn language from that are printed", low=0)
    show: int = flag(0, "demonstrations that are printed, with their judgements", low=0)
    seed: int = flag(0, "the same seed gives the same text", low=0)


def main(argv=None):
    args = config.parse(Config, argv)
    rng = np.random.default_rng(args.seed)
    for text in writers.documents(args.documents, rng):
        print(text, end="\n\n")
    for record in writers.demonstrations(args.show, rng):
        judgement = judge.judge(record.prompt, record.response)
        print(record.prompt + record.response, judgement, sep="\n", end="\n\n")


if __name__ == "__main__":
    config.run(main)
