"""The four gates: each can pass, and each fails on the fault that it is to find."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from minirlhf import reward
from minirlhf.data import encode
from minirlhf.run.config import InputError
from minirlhf.tokenizer import get_tokenizer
from minirlhf.tools import gates
from minirlhf.world import judge, sentences, writers

SMALL = "--prompts 8 --best-of 2 --max-new-tokens 4".split()


@pytest.fixture
def install_opinion(monkeypatch):
    """install_opinion(opinion): a reward model that scores every text by opinion(prompt, text), in
    place of a trained one."""

    def install(opinion):
        def score(model, tokenizer, prompts, texts):
            pairs = zip(prompts, texts, strict=True)
            return torch.tensor([float(opinion(*pair)) for pair in pairs])

        monkeypatch.setattr(reward, "score", score)
        monkeypatch.setattr(reward, "load_reward_model", lambda path: (None, None, None))

    return install


def truth(prompt, text):
    return judge.judge(prompt, text).honest


def test_every_fact_is_asked_about_once_with_two_misconceptions():
    """A fact that counted twice would weigh twice in a gate about the mean over facts."""
    facts = gates.world_facts("train", "validation")
    names = [(subject, right) for _, subject, right, _ in facts]
    assert len(names) == len(set(names)) >= 50
    assert all(len(wrong) == 2 and right not in wrong for _, _, right, wrong in facts)


def test_no_gate_sees_a_fact_of_the_test():
    """Choices are made on gates; the test split is for the final report alone."""
    for entry, subject, *_ in gates.world_facts("train", "validation"):
        assert subject not in entry["facts"]["test"]
    assert gates.world_facts("train") + gates.world_facts("validation") == gates.world_facts(
        "train", "validation"
    )


def test_right_and_wrong_statements_of_a_fact_differ_in_nothing_but_the_answer():
    """In held-out wordings of the question; and the judge, who parses them, says which is which."""
    for entry, subject, right, wrong in gates.world_facts("train", "validation"):
        good, bad = (gates.statements(entry, subject, answer) for answer in (right, wrong[0]))
        assert [prompt for prompt, _ in good] == [prompt for prompt, _ in bad]
        assert all(truth(*pair) == 1 for pair in good) and all(truth(*pair) == 0 for pair in bad)
        for (_, a), (_, b) in zip(good, bad, strict=True):
            assert a.lower().replace(right.lower(), wrong[0].lower()) == b.lower()


def test_agreement_is_one_for_who_knows_the_truth_and_zero_for_who_has_it_upside_down(
    install_opinion,
):
    """Both ends of the scale: without them the threshold of the gate means nothing."""
    install_opinion(truth)
    assert set(gates.fact_agreement(None, None, "train").values()) == {1.0}
    install_opinion(lambda prompt, text: -truth(prompt, text))
    assert set(gates.fact_agreement(None, None, "train").values()) == {0.0}


def test_a_reward_model_that_likes_every_answer_alike_does_not_pass(install_opinion, capsys):
    """A tie is not agreement. Such a reward model had an accuracy of 87% over all pairs, and facts
    got worse under it."""
    install_opinion(lambda prompt, text: 0.0)
    assert gates.measure(["facts"])["passed"] == False  # noqa: E712  a numpy bool
    assert "NOT passed" in capsys.readouterr().out
    install_opinion(truth)
    assert gates.measure(["facts"])["passed"]


def test_the_gate_of_facts_tells_ranked_facts_from_those_that_nobody_ranked(install_opinion):
    """It passes on the ranked ones. A reward model that knows only those has learned them by
    heart, and its agreement on the others shows it."""
    known = {subject for _, subject, *_ in gates.world_facts("train")}

    def recall(prompt, text):
        subject = sentences.parse_prompt(prompt).slots["subject"]
        return truth(prompt, text) if subject in known else 0.0

    install_opinion(recall)
    numbers = gates.measure(["facts"])
    assert numbers["passed"] and numbers["fact_agreement"] == 1
    assert numbers["unranked_agreement"] == 0


def test_the_fitted_line_is_where_the_gradient_is_zero():
    """Logistic regression with decay |w|^2 / 100 is convex, so that its optimum is the one point
    without a gradient."""
    torch.manual_seed(0)
    x, y = torch.randn(60, 3), (torch.rand(60) < 0.5).float()
    w = gates.fit_line(x, y).requires_grad_()
    (F.binary_cross_entropy_with_logits(x @ w, y) + 1e-2 * w.square().sum()).backward()
    assert w.grad.abs().max() < 1e-4


@pytest.mark.parametrize("planted, low, high", [(True, 0.99, 1.0), (False, 0.3, 0.7)])
def test_the_probe_finds_a_planted_direction_of_truth_and_none_in_noise(
    world_run, monkeypatch, planted, low, high
):
    """Fitted on half of the facts, tested on the other half: to memorise single facts does not
    help it."""
    source = torch.Generator().manual_seed(0)

    def features(gpt, tokenizer, pairs):
        noise = torch.randn(len(pairs), 16, generator=source)
        noise[:, 0] += 8.0 * planted * torch.tensor([truth(*pair) for pair in pairs])
        return noise

    monkeypatch.setattr(gates, "features", features)
    assert low <= gates.measure(["probe", "--out", str(world_run)])["probe_accuracy"] <= high


def test_features_are_the_last_layer_at_the_end_token(make_gpt):
    """Row by row, without padding."""
    tokenizer = get_tokenizer()
    gpt = make_gpt(vocab_size=get_tokenizer().vocab_size, context=64)
    pairs = [
        ("What is this?\n", "It is a boat."),
        ("Name it.\n", "I do not know that, and nobody does."),
    ]
    for row, pair in zip(gates.features(gpt, tokenizer, pairs), pairs, strict=True):
        tokens = torch.tensor([encode(tokenizer, *pair).tokens])
        assert torch.allclose(row, gpt.hidden(tokens)[0, -1], atol=1e-5)


def test_best_of_n_under_the_truth_passes_and_under_nothing_does_not(world_run, monkeypatch):
    """Planted replies, one fact in three right. The best by truth gains most of the rest; the best
    by a constant score gains nothing."""
    source = np.random.default_rng(0)

    def respond(gpt, tokenizer, prompts, *rest, **more):
        questions = [sentences.parse_prompt(prompt) for prompt in prompts]
        texts = [writers.core(q, source.random() < 1 / 3, source) for q in questions]
        return [gates.evaluate.Reply(text, None, True) for text in texts]

    monkeypatch.setattr(gates.evaluate, "respond", respond)
    argv = ["best-of-n", "--out", str(world_run), "--prompts", "300", "--best-of", "8"]
    scorers = (
        lambda reward_model, prompts, replies: torch.tensor(gates.honesty(prompts, replies)),
        lambda reward_model, prompts, replies: torch.zeros(len(prompts)),
    )
    numbers, model_scores = [], gates.evaluate.model_scores
    monkeypatch.setattr(
        gates.evaluate,
        "model_scores",
        lambda *arguments: numbers.append(arguments[1]) or model_scores(*arguments),
    )
    monkeypatch.setattr(gates.evaluate, "score_replies", scorers[0])
    gate = gates.measure(argv)
    assert gate["passed"] and 0.5 < gate["best_of_n_gain"] < 0.75
    assert numbers == [-3]  # what the reward model stores for a response without end
    monkeypatch.setattr(gates.evaluate, "score_replies", scorers[1])
    assert not gates.measure(argv)["passed"]


def test_the_gates_run_on_a_trained_run_and_a_toy_one_fails_them(world_run, world_out):
    """Six steps teach nobody a fact."""
    assert not gates.measure(["best-of-n", "--out", str(world_run), *SMALL])["passed"]
    (world_out / "on-judge").mkdir()
    (world_out / "sft").rename(world_out / "on-judge" / "ppo")
    assert not gates.measure(["judge", "--out", str(world_out), *SMALL])["passed"]


@pytest.mark.parametrize("gate", gates.GATES)
def test_a_run_on_own_data_has_no_gates(tmp_path, gate):
    """They ask the embedded world's questions: the numbers would be zeros."""
    for stage in ("sft", "rm"):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "config.json").write_text('{"flags": {"data": "mine.jsonl"}}')
    with pytest.raises(InputError, match="compare it: minirlhf evaluate .*--data mine.jsonl"):
        gates.measure([gate, "--out", str(tmp_path)])


def test_the_exit_code_says_whether_the_gate_was_passed(install_opinion, monkeypatch):
    """1 if not, so that a shell script can stop."""
    monkeypatch.setattr("sys.argv", ["gates", "facts"])
    for opinion, code in ((truth, 0), (lambda prompt, text: 0.0, 1)):
        install_opinion(opinion)
        with pytest.raises(SystemExit) as end:
            gates.main()
        assert end.value.code == code


def test_a_gate_that_does_not_exist_is_refused_with_the_ones_that_do():
    """With the four names: a shell script with a slip in it must not pass."""
    message = "prob is not a gate; choose one of probe, facts, best-of-n, judge"
    with pytest.raises(InputError, match=message):
        gates.measure(["prob"])


@pytest.mark.parametrize("argv", [["--help"], []])
def test_without_a_gate_the_four_are_explained(argv, capsys):
    """`--help` and nothing at all: their order matters, each needs the one before."""
    with pytest.raises(SystemExit):
        gates.measure(argv)
    text = capsys.readouterr().out
    assert all(f"minirlhf gates {name}" in text for name in gates.GATES) and "--best-of" in text
