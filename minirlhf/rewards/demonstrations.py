"""A reward from demonstrations, by comparisons: the demonstration is chosen, and what a policy
responds to the same prompt is rejected.

With demonstrations from d and responses from pi, Bradley-Terry's optimum is
z(y) = log d(y) - log pi(y), up to a constant of the prompt, which no advantage depends on: that of
a classifier which tells the two apart (the discriminator of GAIL, Ho and Ermon 2016; here the pair
is the trial, and so it need not learn which prompts there are). The policy that maximises
E[z] - beta KL(policy || pi) is proportional to pi (d / pi)^(1 / beta):

    beta = 1     d itself: imitation, by reverse KL (Sun and van der Schaar 2024)
    beta < 1     beyond d, in the direction from pi to d
    no penalty   the responses that are the most typical of d

Three methods learn from such comparisons (minirlhf/tools/demonstrations.py):

    afd    a reward model, and PPO against it: once (alignment from demonstrations)
    gaf    the same in rounds, each with the responses of the policy as it is then: generative
           adversarial feedback (Yu et al. 2023)
    spin   DPO on them in rounds, without a reward model (Chen et al. 2024)

Where the policy writes as the demonstrators do, z is 0 and the two sides of a pair cannot be told
apart: GAF and SPIN end there.
"""

from minirlhf.data import Comparison


def compare(demonstrations, responses):  # N Demonstrations, N texts -> at most N Comparisons
    """Each demonstration against a response to its prompt. A response that is the demonstration
    teaches nothing, the difference of its score to itself being 0, and is left out."""
    return [
        Comparison(demonstration.prompt, [demonstration.response, response], [0, 1])
        for demonstration, response in zip(demonstrations, responses, strict=True)
        if demonstration.response != response
    ]
