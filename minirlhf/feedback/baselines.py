"""What held-out accuracy is worth: its standard error, and two baselines that know no language."""

import math
import re
from collections import Counter

import numpy as np
import torch
import torch.nn.functional as F

from minirlhf.feedback.agreement import ordered_pairs

WORDS = re.compile(r"\w+|[^\w\s]")
VOCABULARY = 20_000  # the most frequent words of the training pairs
L2 = 10.0  # ridge penalty, beside the sum of the losses of all pairs


def baseline_numbers(training, held_out, scores):
    """Dictionary: the standard error of the accuracy of `scores`, one list per held-out comparison,
    and the accuracy of both baselines on the same pairs. Empty if there is no pair. `training` and
    `held_out` are Comparisons."""
    pairs, prompts, correct = pairs_of(held_out), [], []
    for comparison, row in zip(held_out, scores, strict=True):
        for better, worse in ordered_pairs(comparison):
            prompts.append(comparison.prompt)
            correct.append(row[better] > row[worse])
    if not pairs:
        return {}
    return {
        "held_out_standard_error": standard_error(correct, prompts),
        "shorter_wins": share_above_zero([len(worse) - len(better) for better, worse in pairs]),
        "bag_of_words": share_above_zero(BagOfWords(pairs_of(training)).margins(pairs)),
    }


def baseline_line(model, numbers):
    """The numbers as one sentence about `model`."""
    if not numbers["held_out_pairs"]:
        return f"{model}: there is no held-out pair to measure it on"
    accuracy, error = numbers["held_out_accuracy"], numbers["held_out_standard_error"]
    return (
        f"{model} is right on {accuracy:.3f} of {numbers['held_out_pairs']:,} held-out pairs "
        f'(standard error {error:.3f}); "the shorter one wins" on {numbers["shorter_wins"]:.3f}, '
        f"a bag of words on {numbers['bag_of_words']:.3f}"
    )


def pairs_of(comparisons):
    """[(better text, worse text)] of all strictly ordered pairs of different texts."""
    return [(c.responses[i], c.responses[j]) for c in comparisons for i, j in ordered_pairs(c)]


def standard_error(correct, prompts):  # N truth values, N texts -> number
    """Of the mean of `correct`. Pairs of one prompt are not independent: their deviations are
    summed before they are squared (clustered by prompt)."""
    deviations = np.array(correct) - np.mean(correct)
    sums = Counter()
    for prompt, deviation in zip(prompts, deviations, strict=True):
        sums[prompt] += deviation
    return float(np.sqrt(sum(x**2 for x in sums.values())) / len(correct))


def share_above_zero(margins):
    """Ties count half."""
    return float(np.mean(np.sign(margins)) / 2 + 0.5)


class BagOfWords:
    """Logistic regression on log(1 + n) of each word's count n in a response, better minus worse,
    with a ridge penalty. `pairs` are (better, worse) texts. Memory grows with the text alone."""

    def __init__(self, pairs):
        counts = Counter(word for pair in pairs for text in pair for word in counted(text))
        common = [word for word, n in counts.most_common(VOCABULARY) if n > 1]
        self.columns = {word: column for column, word in enumerate(common)}
        self.weights = torch.zeros(len(common) + 1, 1, dtype=torch.float64, requires_grad=True)
        features, steps = self.features(pairs), {"max_iter": 100, "line_search_fn": "strong_wolfe"}
        optimizer = torch.optim.LBFGS([self.weights], **steps)

        def closure():
            optimizer.zero_grad()
            losses = F.softplus(-self.products(*features)).sum()
            loss = losses + L2 / 2 * self.weights.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)

    @torch.no_grad()
    def margins(self, pairs):
        """(N,): above 0 where the first text of a pair is the better one by the words alone."""
        return self.products(*self.features(pairs)).numpy()

    def features(self, pairs):
        """Sparse rows: columns and values of all pairs in a row, and where each pair begins."""
        columns, values, starts = [], [], []
        for better, worse in (map(counted, pair) for pair in pairs):
            starts.append(len(columns))
            for word in better | worse:
                if word in self.columns and better[word] != worse[word]:
                    columns.append(self.columns[word])
                    values.append(math.log1p(better[word]) - math.log1p(worse[word]))
        sizes = torch.long, torch.float64, torch.long
        parts = zip((columns, values, starts), sizes, strict=True)
        return [torch.tensor(part, dtype=dtype) for part, dtype in parts]

    def products(self, columns, values, starts):  # -> (N,)
        table = {"mode": "sum", "per_sample_weights": values}
        return F.embedding_bag(columns, self.weights, starts, **table)[:, 0]


def counted(text):
    """The words and marks of a text with their counts, in the order of their first occurrence."""
    return Counter(WORDS.findall(text.lower()))
