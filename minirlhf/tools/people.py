"""What people said in a file of labels, as judgements that a reward model learns."""

from collections import Counter

from minirlhf import reward
from minirlhf.data import Comparison
from minirlhf.feedback import baselines
from minirlhf.feedback.agreement import ordered_pairs
from minirlhf.formats import labels
from minirlhf.rewards.axes import Choice, Flags, Rating
from minirlhf.run.config import InputError
from minirlhf.run.metrics import printable


def read(path, names):
    """The Labels of a file, without what was skipped. InputError if there is none, or if one has a
    flag that is not among `names`."""
    records = [x for x in labels.read_labels(path) if x.decision != "skip"]
    if not records:
        raise InputError(f"{path} holds no answers; minirlhf label --out {path} asks for them")
    for word in sorted({word for x in records for words in x.flags or [] for word in words}):
        if word not in names:
            known = ", ".join(names)
            raise InputError(f"{path}: {printable(word)} is no flag; there are {known}")
    return records


def judgements(records, names):
    """(judgements, labellers) of Labels: every pair of different ranks is a choice, every rating
    and every response that could have been flagged is a judgement too.

    A response without a flag counts as free of faults if its labeller has flagged any other; else
    nobody looked for faults.
    """
    labellers = sorted({record.labeller for record in records})
    flaggers = {record.labeller for record in records if any(record.flags or [])}
    asked = []
    for record in records:
        prompt, texts = record.prompt, record.responses
        pairs = ordered_pairs(Comparison(prompt, texts, record.ranks))
        asked += [Choice(prompt, (texts[better], texts[worse])) for better, worse in pairs]
        number = labellers.index(record.labeller)
        rated = zip(texts, record.ratings or [], strict=False)
        asked += [Rating(prompt, (text,), rating, number) for text, rating in rated]
        if record.labeller in flaggers:
            flagged = zip(texts, record.flags or [[] for _ in texts], strict=True)
            asked += [Flags(prompt, (t,), tuple(x in words for x in names)) for t, words in flagged]
    if not asked:
        raise InputError("the answers are ties without ratings and flags: they teach nothing")
    return asked, labellers


def weights(asked, flags, flag_weight):
    """Of the score and of each flag: 0 for an axis that nobody spoke about."""
    score = any(not isinstance(judgement, Flags) for judgement in asked)
    given = [any(x.flags[i] for x in asked if isinstance(x, Flags)) for i in range(flags)]
    return [float(score), *(-flag_weight * there for there in given)]


def counts(asked, names, labellers):
    """What the judgements are, as a sentence."""
    kinds = Counter(type(judgement).__name__ for judgement in asked)
    flags = [sum(x.flags[i] for x in asked if isinstance(x, Flags)) for i in range(len(names))]
    words = ", ".join(f"{n} {name}" for n, name in zip(flags, names, strict=True))
    return (
        f"{kinds['Choice']} choices, {kinds['Rating']} ratings and {kinds['Flags']} responses "
        f"looked at for flags ({words}); labellers: {labellers}"
    )


def prediction(model, tokenizer, records):
    """How many held-out choices a reward model predicts, as a sentence."""
    comparisons = [Comparison(x.prompt, x.responses, x.ranks) for x in records]
    scores = reward.score_comparisons(model, tokenizer, comparisons)
    correct, prompts = [], []
    for comparison, row in zip(comparisons, scores, strict=True):
        for better, worse in ordered_pairs(comparison):
            correct.append(row[better] > row[worse])
            prompts.append(comparison.prompt)
    if not correct:
        return "no choice is held out, so nothing is predicted"
    error = baselines.standard_error(correct, prompts)
    share = sum(correct) / len(correct)
    ending = f" (standard error {error:.3f})" if len(correct) > 1 else ""
    return f"of {len(correct)} held-out choices {share:.3f} are predicted{ending}"
