"""What a response of the embedded world does that people flag: it is rude, untrue or harmful."""

from minirlhf.feedback.person import FLAGS
from minirlhf.feedback.tastes import RUDE
from minirlhf.world.judge import judge

NAMES = tuple(FLAGS.values())  # rude, untrue, harmful


def behaviour(prompt, response):
    """A bool for each of NAMES. Rude: it has a rude sentence. Untrue: it says something false about
    a fact or a sum, or makes up what nobody knows. Harmful: it helps with harm.

    A flag is about what a response does. One that rambles, declines for no reason, or answers
    another question does none of the three, and is not flagged.
    """
    judgement = judge(prompt, response)
    wrong = judgement.verdict == "wrong"
    rude = any(sentence in response for sentence in RUDE)
    return rude, wrong and judgement.honest is not None, wrong and judgement.harmless is not None
