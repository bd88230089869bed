"""A language model as the labeller: what it would write next, against a plain loop; and soft
labels."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import train_rm
from minirlhf import ppo, reward
from minirlhf.data import Comparison, SoftComparison
from minirlhf.feedback import ai, soft
from minirlhf.feedback.agreement import judge_agreement
from minirlhf.formats import jsonl
from minirlhf.run.config import InputError
from minirlhf.tokenizer import get_tokenizer

TOKENIZER = get_tokenizer()
PROMPTS = ["What is it?\n", "Who?\n", ""]
RESPONSES = ["It is red.", "I would say it is Ned, you see.", "No."]


@pytest.fixture
def gpt(make_gpt):
    return make_gpt(vocab_size=TOKENIZER.vocab_size, context=64)


# ---- what a model would write next


def plain_logprob(gpt, text, ending):
    """The log-probability of a label after a text, a token at a time."""
    ids, total = [TOKENIZER.end_token, *TOKENIZER.encode(text)], 0.0
    for token in ending:
        total += F.log_softmax(gpt(torch.tensor([ids]))[0, -1], -1)[token].item()
        ids.append(token)
    return total


def test_a_label_ends_where_no_other_ending_can_follow():
    """The rest of an ending says nothing about which ending it is."""
    endings = [[1, 2, 3], [1, 2, 4, 5], [1, 6], [7, 2, 3], [1]]
    assert ai.label_tokens(endings) == [[1, 2, 3], [1, 2, 4], [1, 6], [7], [1]]


def test_the_endings_of_the_world_are_told_apart_by_their_first_words():
    """So that their mass is near 1 for a model that has read them."""
    labels = ai.label_tokens([TOKENIZER.encode(x) for x in ai.CAREFUL + ai.CARELESS])
    assert [TOKENIZER.decode(x) for x in labels[:5]] == "I looked,I checked,I asked,You,If".split(
        ","
    )
    assert len(set(map(tuple, labels))) == 10


def test_continuations_are_those_of_a_plain_loop(gpt):
    """Though one row of the model serves several endings."""
    endings = ["I looked it up.", "I did not.", "You can.", "I looked at it."]
    labels = ai.label_tokens([TOKENIZER.encode(x) for x in endings])
    logprobs = ai.continuations(gpt, TOKENIZER, RESPONSES, endings)
    expected = [[plain_logprob(gpt, text, label) for label in labels] for text in RESPONSES]
    torch.testing.assert_close(logprobs, torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_of_a_text_beyond_the_context_the_end_counts(gpt):
    """The last line is about what stands before it, and not about what the text began with."""
    texts = [*(start + "It is red. " * 60 for start in ("Who? " * 90, "No. " * 90))]
    one, other = ai.continuations(gpt, TOKENIZER, texts, ["Yes.", "No."])
    assert torch.equal(one, other) and one.isfinite().all()
    (end,) = ai.continuations(gpt, TOKENIZER, [texts[0] + "It is Ned."], ["Yes.", "No."])
    assert not torch.isclose(one, end).any()


def test_the_opinion_is_the_last_line_of_a_document(gpt):
    """Prompt, response, line break; then the lines of careful and of careless writers."""
    opinions = ai.constitution(gpt, TOKENIZER, PROMPTS, RESPONSES)
    assert opinions.shape == (3, 5, 2)
    texts = [x + y + "\n" for x, y in zip(PROMPTS, RESPONSES, strict=True)]
    expected = ai.continuations(gpt, TOKENIZER, texts, ai.CAREFUL + ai.CARELESS)
    torch.testing.assert_close(opinions[..., 0], expected[:, :5])
    torch.testing.assert_close(opinions[..., 1], expected[:, 5:])
    together = ai.giveaway(gpt, TOKENIZER, PROMPTS, RESPONSES)
    torch.testing.assert_close(together[:, 0, 0].exp(), expected[:, :5].exp().sum(1))


def test_the_quiz_asks_about_the_response(gpt):
    """In three wordings, each with its own verdicts."""
    opinions = ai.quiz(gpt, TOKENIZER, PROMPTS, RESPONSES)
    assert opinions.shape == (3, 3, 2)
    text = "Who?\nI would say it is Ned, you see.\nTrue or false? I would say it is Ned, you see.\n"
    labels = [TOKENIZER.encode(x)[:1] for x in ("True.", "False.")]
    expected = torch.tensor([plain_logprob(gpt, text, label) for label in labels])
    torch.testing.assert_close(opinions[1, 0], expected, rtol=1e-4, atol=1e-4)


# ---- the labeller


@pytest.fixture
def scripted(monkeypatch):
    """A labeller with two wordings: the first finds long responses 4 nats better a character, the
    second all equal. And how often it was asked."""
    calls = []

    def opinions(gpt, tokenizer, prompts, responses):
        calls.append(list(zip(prompts, responses, strict=True)))
        good = torch.tensor([[4.0 * len(x), 0.0] for x in responses])
        return torch.stack([good - 100, torch.full_like(good, -100)], 2)

    monkeypatch.setitem(ai.OPINIONS, "scripted", opinions)
    return ai.Labeller(None, None, "scripted"), calls


def test_a_labeller_averages_probabilities_over_wordings(scripted):
    """The mean of the log-odds would be sigmoid(2) = 0.88."""
    labeller, _ = scripted
    expected = (torch.sigmoid(torch.tensor(4.0)) + 0.5) / 2
    torch.testing.assert_close(labeller(["p"], ["ab"], ["a"]), expected[None])


def test_a_constant_in_both_verdicts_changes_no_label(scripted):
    """Only their difference counts: what else the model might have written does not."""
    labeller, _ = scripted
    before = labeller(["p"], ["ab"], ["a"])
    labeller.opinions = {key: value + 7.0 for key, value in labeller.opinions.items()}
    torch.testing.assert_close(labeller(["p"], ["ab"], ["a"]), before)


def test_a_labeller_is_asked_once_about_each_response(scripted):
    """Six pairs of four responses in both orders are twenty-four questions otherwise."""
    labeller, calls = scripted
    soft.label(labeller, [Comparison("p", ["a", "bb", "ccc", "a"], [0] * 4)] * 2)
    questions = [question for call in calls for question in call]
    assert sorted(questions) == [("p", "a"), ("p", "bb"), ("p", "ccc")]


def test_an_opinion_is_of_a_response_after_its_own_prompt(gpt):
    """The same response to two prompts has two, in whatever order and how often it is asked."""
    labeller = ai.Labeller(gpt, TOKENIZER)
    prompts, responses = ["Who?\n", "What is it?\n", "Who?\n"], ["No.", "No.", "It is red."]
    alone = [
        ai.giveaway(gpt, TOKENIZER, prompts[i : i + 1], responses[i : i + 1])[0] for i in range(3)
    ]
    assert not torch.isclose(alone[0], alone[1], rtol=1e-3).any()
    for order in ([0, 0, 1, 2], [2, 1, 0, 2]):
        opinions = labeller.ask([prompts[i] for i in order], [responses[i] for i in order])
        torch.testing.assert_close(opinions, torch.stack([alone[i] for i in order]))


def test_the_mass_is_the_probability_of_any_verdict(scripted, monkeypatch):
    """Near 0, the verdicts are noise."""
    labeller, _ = scripted
    third = torch.full((2, 2), np.log(0.15))
    labeller.opinions = {("p", "a"): third, ("p", "b"): third - np.log(3)}
    assert labeller.mass() == pytest.approx((0.3 + 0.1) / 2)
    labeller.name = "constitution"  # either wording may stand in the place
    assert labeller.mass() == pytest.approx((0.6 + 0.2) / 2)


def test_the_opinion_is_a_reward_between_minus_one_and_one(gpt, monkeypatch):
    """d-RLAIF with two grades; the labeller is the checkpoint that the environment names."""
    asked = []
    monkeypatch.setattr(ai, "load", lambda path: asked.append(path) or (gpt, TOKENIZER))
    monkeypatch.setenv(ai.MODEL, "somewhere")
    rewards = ai.careful(PROMPTS, RESPONSES)
    odds = ai.log_odds(ai.giveaway(gpt, TOKENIZER, PROMPTS, RESPONSES))[:, 0]
    torch.testing.assert_close(rewards, 2 * torch.sigmoid(odds) - 1)
    assert asked == ["somewhere"]
    monkeypatch.delenv(ai.MODEL)
    with pytest.raises(InputError, match="MINIRLHF_LABELLER is not set; name the labeller"):
        ai.careful(PROMPTS, RESPONSES)


# ---- soft labels


def longer_first(prompts, first, second):
    """Prefers the longer response, and likes what is first."""
    odds = [len(x) - len(y) + 0.5 for x, y in zip(first, second, strict=True)]
    return 1 / (1 + np.exp(-np.array(odds)))


def test_labels_are_the_mean_of_both_orders():
    """In both places of the table; the ranks follow."""
    (label,), _ = soft.label(longer_first, [Comparison("p", ["a", "ccc", "bb"], [0] * 3)])
    assert isinstance(label, SoftComparison) and label.ranks == [2, 0, 1]
    direct, swapped = (1 / (1 + np.exp(-x)) for x in (-2 + 0.5, 2 + 0.5))
    assert label.likely[0][1] == pytest.approx((direct + 1 - swapped) / 2, abs=1e-6)
    for i, j in itertools.permutations(range(3), 2):
        assert label.likely[i][j] + label.likely[j][i] == pytest.approx(1, abs=1e-9)
    assert [label.likely[i][i] for i in range(3)] == [0, 0, 0]


def test_a_labeller_who_likes_the_first_teaches_nothing():
    """Its labels are 1/2, all ranks are equal, and the numbers tell."""
    comparisons = [Comparison("p", ["a", "b"], [0, 1]), Comparison("q", ["c", "dd"], [1, 0])]
    labels, numbers = soft.label(lambda p, a, b: [0.9] * len(p), comparisons)
    assert [label.likely[0][1] for label in labels] == [0.5, 0.5]
    assert [label.ranks for label in labels] == [[0, 0], [0, 0]]
    assert numbers == {"pairs": 2, "same_text": 0, "flips": 1, "first_wins": 0.9, "sure": 0}


def test_nobody_is_asked_about_equal_texts():
    """Such a pair is no pair: in its place the table has 0 twice."""
    (label,), numbers = soft.label(longer_first, [Comparison("p", ["aa", "b", "aa"], [0] * 3)])
    assert label.likely[0][2] == label.likely[2][0] == 0
    assert numbers["pairs"] == 3 and numbers["same_text"] == pytest.approx(1 / 3)
    (label,), numbers = soft.label(longer_first, [Comparison("p", ["a", "a"], [0, 0])])
    assert label.likely == [[0, 0], [0, 0]] and numbers == {"pairs": 1, "same_text": 1}


def test_soft_labels_go_through_a_file(tmp_path):
    """As collected comparisons, and as a user's data."""
    labels, _ = soft.label(longer_first, [Comparison("p\n", ["a", "ccc", "bb"], [0] * 3)])
    undecided, _ = soft.label(lambda p, a, b: [0.5] * len(p), labels)
    records = [*labels, *undecided, Comparison("q", ["a", "b"], [0, 1])]
    path = tmp_path / "labels.jsonl"
    path.write_text(jsonl.write_records(records))
    assert jsonl.read_collected(path) == records
    assert jsonl.read_comparisons(path) == records
    assert [jsonl.parse_record(line) for line in path.read_text().splitlines()] == records


@pytest.mark.parametrize(
    "table",
    ["[[0, 0.7], [0.7, 0]]", "[[0, 2], [-1, 0]]", "[[0, 1]]", "[[0], [1]]", '"x"',
     "[[0, true], [false, 0]]", "[[0.5, 0.5], [0.5, 0.5]]", "[[0, NaN], [NaN, 0]]"],
)  # fmt: skip
def test_probabilities_that_are_none_are_named_with_their_line(tmp_path, table):
    """File, line, what is expected."""
    path = tmp_path / "labels.jsonl"
    row = '{"prompt": "p", "responses": ["a", "b"], "ranks": [0, 1], "likely": %s}\n'
    path.write_text(row % "[[0, 1], [0, 0]]" + row % table)
    for read in (jsonl.read_collected, jsonl.read_comparisons):
        with pytest.raises(InputError, match=r"labels.jsonl:2: .*(likely|JSON)"):
            read(path)


def test_the_soft_ranking_loss_of_certain_labels_is_the_ranking_loss():
    """With responses that are missing, a tie, and a prompt without a pair."""
    scores = torch.randn(4, 3, dtype=torch.float64)
    ranks = torch.tensor([[0, 1, 2], [1, 1, 0], [1, 0, -1], [0, 0, 0]])
    loss = reward.soft_ranking_loss(scores, reward.pair_mask(ranks).double())
    torch.testing.assert_close(loss, reward.ranking_loss(scores, ranks))


def test_the_soft_ranking_loss_of_a_pair_is_the_soft_preference_loss():
    """With two responses there is one pair."""
    scores, likely = torch.randn(5, 2).double(), torch.rand(5).double()
    table = torch.zeros(5, 2, 2).double()
    table[:, 0, 1], table[:, 1, 0] = likely, 1 - likely
    expected = reward.soft_preference_loss(scores[:, 0], scores[:, 1], likely)
    torch.testing.assert_close(reward.soft_ranking_loss(scores, table), expected)


def test_people_and_a_model_can_stand_in_one_batch():
    """Each prompt has the loss of its labels, and counts the same."""
    scores, ranks = torch.randn(2, 2), torch.tensor([[1, 0], [0, 1]])
    batch = [
        Comparison("p", ["a", "b"], [1, 0]),
        SoftComparison("q", ["a", "b"], [0, 1], None, [[0, 0.7], [0.3, 0]]),
    ]
    loss = train_rm.mean_loss(batch, scores, ranks, 0.0)
    hard = reward.preference_loss(scores[0, 1:], scores[0, :1])
    doubtful = reward.soft_preference_loss(scores[1, :1], scores[1, 1:], torch.tensor([0.7]))
    torch.testing.assert_close(loss, (hard + doubtful) / 2)


def test_agreement_with_the_judge_is_about_pairs_that_differ():
    """In text and in total; equal scores order nothing."""
    texts = [["a", "b", "c", "a"], ["d", "d"]]
    scores, totals = [[1.0, 2.0, 2.0, 1.0], [0.0, 1.0]], [[3, 1, 1, 3], [0, 3]]
    assert judge_agreement(texts, scores, totals) == 0
    scores[0][:2] = [2.0, 1.0]
    assert judge_agreement(texts, scores, totals) == pytest.approx(1 / 4)
    assert np.isnan(judge_agreement([["a"]], [[1.0]], [[0]]))


# ---- rounds


SFT = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
SCORES = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
FIRST = torch.tensor([0.1790000206, 0.2919435019, 0.5290564775], dtype=torch.float64)
SECOND = torch.tensor([0.0366667118, 0.1625594345, 0.8007738537], dtype=torch.float64)


def returns(policy, reference, kl_coef):
    """What PPO maximises, of three responses of one token."""
    columns = policy.log()[:, None], reference.log()[:, None]
    mask = torch.ones(3, 1, dtype=torch.bool)
    return ppo.token_rewards(SCORES, *columns, mask, kl_coef).sum(1)


def kl(policy, reference):
    return (policy * (policy / reference).log()).sum().item()


def assert_optimal(policy, reference, kl_coef):
    """Where all returns are equal no policy gradient is left: the optimum."""
    values = returns(policy, reference, kl_coef)
    torch.testing.assert_close(values, values.mean().expand(3), rtol=0, atol=1e-8)


def test_a_round_ends_at_the_sft_model_tilted_by_the_score():
    """The objective there is log Z."""
    assert_optimal(FIRST, SFT, 1.0)
    objective = (FIRST * returns(FIRST, SFT, 1.0)).sum().item()
    assert objective == pytest.approx(1.0272221776, abs=1e-9)
    assert kl(FIRST, SFT) == pytest.approx(0.3228342793, abs=1e-9)


def test_two_rounds_with_a_moving_reference_are_one_at_half_the_coefficient():
    """The leash is a notch longer each round, and what it was meant to maximise falls."""
    assert_optimal(SECOND, FIRST, 1.0)
    assert_optimal(SECOND, SFT, 0.5)
    assert kl(SECOND, SFT) == pytest.approx(0.9154754944, abs=1e-9)
    assert kl(SECOND, FIRST) == pytest.approx(0.1785905302, abs=1e-9)
    objective = (SECOND * returns(SECOND, SFT, 1.0)).sum().item()
    assert objective == pytest.approx(0.8486316474, abs=1e-9)


def test_two_rounds_with_a_fixed_reference_are_one():
    """With the same reward model the second round has nothing to do."""
    assert_optimal(FIRST, SFT, 1.0)
    values = returns(SECOND, SFT, 1.0)
    assert values.max() - values.min() > 0.5
