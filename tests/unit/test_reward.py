"""The specification of the reward model, in the order of reward.py."""

import copy
import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import same
from ragged import LENGTHS, random_tokens
from spec.tensors import naive_ranking_loss

import train_rm
from minirlhf import reward
from minirlhf.data import Comparison, encode
from minirlhf.model import ScalarHead
from minirlhf.reward import RewardModel, calibration_error, margins, ranking_loss
from minirlhf.rewards import function
from minirlhf.run import checkpoint
from minirlhf.run.config import InputError
from minirlhf.tokenizer import get_tokenizer


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def numbers(*rows):
    return torch.tensor(rows, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer():
    return get_tokenizer()


@pytest.fixture(scope="module")
def reward_model(make_gpt, tokenizer):
    """A reward model over the packaged vocabulary whose scores are about 1 apart."""
    model = RewardModel(make_gpt(tokenizer.vocab_size, context=64, std=0.3))
    model.head.weight.data = normal(1, 16, seed=1)
    return model


# ---- the model


def test_the_trunk_is_a_copy_of_the_sft_model(make_gpt):
    """They are equal at step 0 and share no storage: training one leaves the other unchanged. The
    reward model starts from the SFT model, as in Stiennon et al. 2020, section 3.4, and
    InstructGPT."""
    gpt = make_gpt()
    model, weights = RewardModel(gpt), copy.deepcopy(gpt.state_dict())
    assert same(dict(model.gpt.state_dict()), dict(weights))
    for parameter in model.parameters():
        parameter.data += 1
    assert same(dict(gpt.state_dict()), dict(weights))


def test_the_heads_weights_have_variance_one_over_width_plus_one(make_gpt):
    """Width 1024: standard deviation 1 / sqrt(1025) = .0312, so that unit-variance features give
    unit-variance scores. Ziegler et al., language/model.py:252. OpenRLHF reads the variance as a
    standard deviation and starts at .00098 (models/model.py:170); Hugging Face's .02 does not
    depend on the width."""
    head = RewardModel(make_gpt(width=1024, layers=1)).head
    six_standard_errors = 6 / math.sqrt(2 * 1024)  # 13%
    assert abs(head.weight.std().item() * math.sqrt(1025) - 1) < six_standard_errors
    assert (head.bias == 0).all()


def test_the_width_in_that_variance_is_the_trunks(make_gpt, monkeypatch):
    """Width 4: 1 / sqrt(5) = .4472, not 1 / sqrt(3) or 1 / sqrt(6). A sample of 1024 weights could
    not distinguish them."""
    arguments = []

    def spy(width, std):
        arguments.append((width, std))
        return ScalarHead(width, std)

    monkeypatch.setattr(reward, "ScalarHead", spy)
    RewardModel(make_gpt(width=4))
    assert arguments == [(4, pytest.approx(0.447214, abs=1e-6))]


def test_the_score_is_the_head_of_the_state_at_the_last_real_token(make_gpt):
    """It is not the mean over the row, as in minChatGPT, where padding changes the score
    (gpt.py:501)."""
    model, tokens = RewardModel(make_gpt()), random_tokens()
    for b, n in enumerate(LENGTHS.tolist()):
        state = model.gpt.hidden(tokens[b : b + 1, :n])[0, -1]
        expected = model.head.weight[0] @ state + model.head.bias[0]
        torch.testing.assert_close(model.raw(tokens, LENGTHS)[b], expected, rtol=1e-4, atol=1e-5)


def test_one_response_gets_one_score(make_gpt):
    """A batch of one keeps its dimension; a bare squeeze() removes it (minRLHF, critic.py:23)."""
    assert RewardModel(make_gpt())(torch.tensor([[1, 2, 3]]), torch.tensor([3])).shape == (1,)
    assert ScalarHead(16, std=0)(torch.zeros(1, 1, 16)).shape == (1, 1)


@pytest.mark.parametrize("pads", [1, 20])
def test_the_score_does_not_see_what_is_appended(make_gpt, pads):
    """1 and 20 columns of other ids do not change it: minChatGPT's score falls from .36 to .14 with
    padding (gpt.py:501)."""
    model, tokens = RewardModel(make_gpt()), random_tokens()
    longer = torch.cat([tokens, random_tokens(T=pads, seed=1)], dim=1)
    beyond = torch.arange(longer.size(1)) >= LENGTHS[:, None]
    longer = torch.where(beyond, (longer + 11) % 50, longer)
    torch.testing.assert_close(model(longer, LENGTHS), model(tokens, LENGTHS), rtol=1e-5, atol=1e-5)


def test_the_score_changes_with_every_real_token_the_last_included(make_gpt):
    """Read one column early, the score would not depend on the end token; read at column 0, it
    would depend on nothing. Either way the row would get a number."""
    model, tokens = RewardModel(make_gpt()), random_tokens()
    scores = model(tokens, LENGTHS)
    for distance in (1, 2, 3, 4):
        place = torch.arange(3), LENGTHS - distance
        variant = tokens.clone()
        variant[place] = (variant[place] + 1) % 50
        assert (model(variant, LENGTHS) != scores).all()


def test_scoring_twice_gives_the_same_bits(make_gpt):
    """PaLM-rlhf-pytorch's reward model samples its output: 3, 2, 4, 1, 3 for one input
    (reward.py:66)."""
    model, tokens = RewardModel(make_gpt()), random_tokens()
    assert torch.equal(model(tokens, LENGTHS), model(tokens, LENGTHS))


def test_head_and_trunk_are_both_trained(make_gpt):
    """minChatGPT's LoRA freezes the head at its random initialisation (gpt.py:504)."""
    model = RewardModel(make_gpt())
    model.raw(random_tokens(), LENGTHS).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_normalised_scores_have_mean_zero_and_variance_one_within_a_prompt(make_gpt):
    """Two prompts with scores (1, 3) and (10, 14): mean 7, variances within a prompt 2 and 8
    (divided by K - 1), so the standard deviation is sqrt(5). The variance over all four is 36.7,
    but PPO cannot change the differences between prompts."""
    model = RewardModel(make_gpt())
    model.normalise(numbers([1, 3], [10, 14]))
    assert model.mean.item() == 7
    assert model.std.item() == pytest.approx(math.sqrt(5))
    raw = 5 * normal(400, 4) + 30 * normal(400, 1, seed=1) + 2
    model.normalise(raw)
    scores = (raw - model.mean) / model.std
    torch.testing.assert_close(scores.mean(), torch.tensor(0.0), rtol=0, atol=1e-4)
    torch.testing.assert_close(scores.var(dim=1).mean(), torch.tensor(1.0), rtol=1e-4, atol=1e-4)


def test_a_small_spread_is_divided_by_as_well(make_gpt):
    """Scores (0, .1) and (1, 1.3): variances .005 and .045, so the standard deviation is sqrt(.025)
    = .1581. The scores of an uncertain reward model, too, are in units of their standard
    deviation."""
    model = RewardModel(make_gpt())
    model.normalise(numbers([0, 0.1], [1, 1.3]))
    assert model.std.item() == pytest.approx(0.158114, abs=1e-6)


def test_normalising_shifts_and_scales_and_changes_no_preference(make_gpt):
    """(raw - 7) / sqrt(5) keeps the order. Ziegler et al. choose gain and bias so that samples of
    the reference have mean 0 and standard deviation 1 (rewards.py:77); N+ shifts so that
    demonstrations have mean 0 (reward.py:456)."""
    model, tokens = RewardModel(make_gpt()), random_tokens()
    assert torch.equal(model(tokens, LENGTHS), model.raw(tokens, LENGTHS))
    model.normalise(numbers([1, 3], [10, 14]))
    raw, scores = model.raw(tokens, LENGTHS), model(tokens, LENGTHS)
    torch.testing.assert_close(scores, (raw - 7) / math.sqrt(5))
    assert torch.equal(scores.argsort(), raw.argsort())


def test_scores_that_are_all_the_same_normalise_to_finite_ones(make_gpt):
    """A reward model that learned nothing has a standard deviation of 0. PPO should get scores of 0
    from it, not NaN."""
    model = RewardModel(make_gpt())
    model.normalise(torch.full((3, 4), 2.0))
    assert torch.isfinite(model(random_tokens(), LENGTHS)).all()


def test_each_response_goes_through_the_trunk_once(reward_model, tokenizer, monkeypatch):
    """4 + 2 + 3 responses are 9 rows, although they form 6 + 1 + 2 pairs. InstructGPT, section 3.5:
    K passes for K(K-1)/2 comparisons, and no response is overfitted because it is in K - 1
    batches."""
    rows, hidden = [], reward_model.gpt.hidden

    def spy(tokens, **options):
        rows.append(len(tokens))
        return hidden(tokens, **options)

    monkeypatch.setattr(reward_model.gpt, "hidden", spy)
    batch = [
        Comparison("a", ["one", "two", "three and more", "four"], [0, 1, 2, 3]),
        Comparison("some prompt", ["yes", "no"], [1, 0]),
        Comparison("b", ["x", "y", "z"], [0, 1, 1]),
    ]
    train_rm.accumulate(reward_model, tokenizer, batch, microbatch_tokens=30)
    assert sum(rows) == 9 and len(rows) > 1


@pytest.mark.parametrize("microbatch_tokens", [1, 60, 10_000])
def test_the_gradient_is_that_of_a_loop_over_prompts_whatever_the_microbatches(
    reward_model, tokenizer, microbatch_tokens
):
    """The loss is the mean over the prompts of the batch, also where they have 3, 2 and 4 responses
    and are in different microbatches."""
    batch = [
        Comparison("why", ["because", "no idea, really no idea", "as"], [1, 0, 2]),
        Comparison("a somewhat longer prompt", ["yes", "no"], [0, 1]),
        Comparison("b", ["one", "two and three", "four", "five"], [0, 1, 1, 0]),
    ]
    model = copy.deepcopy(reward_model)
    total = 0.0
    for c in batch:
        ids = [encode(tokenizer, c.prompt, response).tokens for response in c.responses]
        rows = [(torch.tensor([tokens]), torch.tensor([len(tokens)])) for tokens in ids]
        scores = torch.stack([model.raw(*row)[0] for row in rows])
        total = total + naive_ranking_loss(scores[None], torch.tensor([c.ranks])) / 3
    gradients = torch.autograd.grad(total, list(model.parameters()))
    loss, _ = train_rm.accumulate(model, tokenizer, batch, microbatch_tokens)
    assert loss == pytest.approx(total.item(), abs=1e-5)
    for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5, msg=name)


# ---- scores of texts, and checkpoints


def test_scores_of_texts_are_read_at_the_end_token_of_each(reward_model, tokenizer):
    """Each row alone: the ids of the prompt, those of the response, then the end token, which TRL's
    evaluation left out (PR 5813). `score` sorts the texts into microbatches and restores their
    order."""
    reward_model.mean.fill_(0.4)
    reward_model.std.fill_(2.0)
    prompts = ["why", "a longer prompt", "b"]
    responses = ["because it is so", "no", "yes, of course"]
    raw = []
    for prompt, response in zip(prompts, responses, strict=True):
        ids = tokenizer.encode(prompt) + tokenizer.encode(response) + [tokenizer.end_token]
        raw.append(reward_model.head(reward_model.gpt.hidden(torch.tensor([ids]))[0, -1]).item())
    texts = tokenizer, prompts, responses
    scores = reward.score(reward_model, *texts, raw=True)
    assert scores.tolist() == pytest.approx(raw, abs=1e-4)
    normalised = [(x - 0.4) / 2 for x in raw]
    scores = reward.score(reward_model, *texts)
    assert scores.tolist() == pytest.approx(normalised, abs=1e-4)
    examples = [encode(tokenizer, *pair) for pair in zip(prompts, responses, strict=True)]
    scores = reward.score_examples(reward_model, examples, max_tokens=1)
    assert scores.tolist() == pytest.approx(normalised, abs=1e-4) and not scores.requires_grad
    reward_model.normalise(numbers([0, 1]))


def test_a_prompt_without_a_response_is_an_error_and_not_left_out(reward_model, tokenizer):
    """Two prompts and one response: with a score missing, the scores would go to the wrong rows."""
    with pytest.raises(ValueError):
        reward.score(reward_model, tokenizer, ["why", "and"], ["because"])


def test_the_scores_of_comparisons_are_the_raw_ones_response_by_response(reward_model, tokenizer):
    """Comparisons of three and two responses give lists of three and two scores, each equal to the
    score of the response alone."""
    reward_model.mean.fill_(0.4)
    reward_model.std.fill_(2.0)
    batch = [
        Comparison("why", ["because", "no idea, really no idea", "as"], [1, 0, 2]),
        Comparison("b", ["yes", "no"], [0, 1]),
    ]
    scores = reward.score_comparisons(reward_model, tokenizer, batch)
    assert [len(row) for row in scores] == [3, 2]
    for c, row in zip(batch, scores, strict=True):
        for response, score in zip(c.responses, row, strict=True):
            single = reward.score(reward_model, tokenizer, [c.prompt], [response], raw=True)
            assert score == pytest.approx(single.item(), abs=1e-4)
    reward_model.normalise(numbers([0, 1]))


def test_a_score_is_read_where_the_tokens_are(make_gpt):
    """torch creates tensors on the default device, which is the CPU while the tokens are on a
    GPU."""
    model, tokens = RewardModel(make_gpt()), random_tokens()
    expected = model.raw(tokens, LENGTHS)
    with torch.device("meta"):
        assert torch.equal(model.raw(tokens, LENGTHS), expected)


def save(model, tokenizer, folder, missing_end_score=-3.0):
    parts = {"model": model, "missing_end_score": missing_end_score}
    checkpoint.save(folder, "rm", model.gpt.config, tokenizer, 1, **parts)


def test_a_saved_reward_model_scores_as_before_with_its_normalisation(
    reward_model, tokenizer, tmp_path
):
    """minChatGPT's scores doubled when it was loaded again (gpt.py:549). The loaded model is
    frozen, and comes with its missing-end score."""
    reward_model.mean.fill_(0.4)
    reward_model.std.fill_(2.0)
    save(reward_model, tokenizer, tmp_path, missing_end_score=-2.5)
    other, other_tokenizer, missing_end_score = reward.load_reward_model(tmp_path)
    tokens = random_tokens(vocab_size=512)
    assert torch.equal(other(tokens, LENGTHS), reward_model(tokens, LENGTHS))
    assert not torch.equal(other(tokens, LENGTHS), other.raw(tokens, LENGTHS))
    assert missing_end_score == -2.5 and other_tokenizer.fingerprint() == tokenizer.fingerprint()
    assert not any(parameter.requires_grad for parameter in other.parameters())


def test_a_loaded_reward_model_computes_in_the_precision_that_was_asked_for(
    reward_model, tokenizer, tmp_path
):
    """On a GPU every model is loaded in bf16. A reward model that stays in float32 raises no error,
    and is slow."""
    save(reward_model, tokenizer, tmp_path)
    model, _, _ = reward.load_reward_model(tmp_path)
    assert model.gpt.precision == torch.float32
    model, _, _ = reward.load_reward_model(tmp_path, precision=torch.bfloat16)
    assert model.gpt.precision == torch.bfloat16


def test_a_reward_model_that_does_not_load_is_named_by_its_path(reward_model, tokenizer, tmp_path):
    """Of four checkpoints on a command line one is wrong: which? Other weights, then another
    vocabulary."""
    save(reward_model, tokenizer, tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save(state | {"vocabulary": "another"}, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match=f"{tmp_path} was trained with another vocabulary"):
        reward.load_reward_model(tmp_path)
    state["model"]["spread"] = state["model"].pop("std")  # its name in an older version
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match=f"{tmp_path} holds other weights"):
        reward.load_reward_model(tmp_path)


def test_only_the_state_at_the_last_token_goes_through_the_last_block(make_gpt):
    """Three rows of 4, 9 and 7 tokens: 20 tokens in the first block, and 3 states, not 27, in the
    MLP of the last."""
    model, counts = RewardModel(make_gpt()), []
    for block in model.gpt.blocks:
        block.mlp.register_forward_pre_hook(lambda _, inputs: counts.append(inputs[0].shape[:-1]))
    tokens = random_tokens()
    tokens[:, 0] = torch.arange(3)  # rows that begin alike would share tokens
    model.raw(tokens, LENGTHS)
    assert counts == [(20,), (3,)]


def test_short_responses_are_scored_in_one_pass(reward_model, tokenizer, rows_through_trunks):
    """By default as many tokens as suit the device, 2,048 on a CPU, and not a row at a time."""
    reward.score(reward_model, tokenizer, ["a", "b", "c"], ["yes", "no", "perhaps"])
    assert [rows for _, rows, _ in rows_through_trunks] == [3]


def test_a_language_model_is_refused_as_a_reward_model_and_the_other_way_round(
    reward_model, tokenizer, tmp_path
):
    """Both have the same trunk, so both could be loaded; the scores of the first would come from a
    random head."""
    gpt = reward_model.gpt
    checkpoint.save(tmp_path / "sft", "sft", gpt.config, tokenizer, 1, model=gpt)
    with pytest.raises(InputError, match="stage sft, but rm is needed"):
        reward.load_reward_model(tmp_path / "sft")
    save(reward_model, tokenizer, tmp_path / "rm")
    with pytest.raises(InputError, match="stage rm, but"):
        checkpoint.load_gpt(tmp_path / "rm")
    with pytest.raises(InputError, match="does not exist"):
        reward.load_reward_model(tmp_path / "nowhere")


def test_a_function_is_found_by_module_and_name():
    """A user's own reward is a plain function, not a module that wraps one. TRL's users asked for
    that (#2273, #2518)."""
    assert function.load_function("--reward", "math:sqrt") is math.sqrt


def test_a_function_is_found_in_the_current_folder_wherever_the_script_is(tmp_path, monkeypatch):
    """`python /elsewhere/train_ppo.py` has the script's folder on Python's path, and not this one;
    the message said "importable from this folder" and was wrong."""
    (tmp_path / "my_own_rewards.py").write_text("def brevity(prompts, responses): ...")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path])
    assert function.load_function("--reward", "my_own_rewards:brevity").__name__ == "brevity"
    with pytest.raises(InputError, match=f"of a file in {tmp_path}"):
        function.load_function("--reward", "my_other_rewards:brevity")


def test_what_is_found_but_is_no_function_is_refused_as_such():
    """math.pi exists and is a number. The error does not wait for the first call, which comes after
    a rollout."""
    with pytest.raises(InputError, match="pi is not a function"):
        function.load_function("--reward", "math:pi")


@pytest.mark.parametrize(
    "name", ["no_such_module_here:f", "math:no_such_function", "math", ":f", "math:", ""]
)
def test_a_function_that_is_not_there_is_an_error_that_names_the_option(name):
    """A typing error in `module:function` is the most common mistake; "No module named" alone does
    not say which flag is wrong."""
    with pytest.raises(InputError, match=r"--reward .*module:function"):
        function.load_function("--reward", name)


@pytest.fixture
def scores_of():
    """scores_of(function, n=2) -> what `function.call` makes of n replies."""

    def call(scorer, n=2):
        replies = [SimpleNamespace(text=f"text {i}") for i in range(n)]
        return function.call("my:reward", scorer, ["prompt"] * n, replies)

    return call


def test_what_a_function_returns_may_be_of_any_kind_of_numbers(scores_of):
    """A tensor with a gradient, of bf16, an array, a list."""
    for scores in (
        torch.tensor([1.0, -2.0], requires_grad=True),
        torch.tensor([1, -2], dtype=torch.bfloat16),
        np.array([1, -2]),
        [True, -2.0],
        (np.float64(1), torch.tensor(-2.0)),
    ):
        result = scores_of(lambda *_, scores=scores: scores)
        assert result.tolist() == [1.0, -2.0] and result.dtype == torch.float32


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e39, None, "x" * 100, [1.0]])
def test_the_bad_number_is_shown_whole_with_its_response(scores_of, bad):
    """The first 80 characters of 256 numbers do not have it."""
    scores = [0.123456] * 299 + [bad]
    for values in (scores, [*scores[1:], bad]):
        with pytest.raises(InputError) as error:
            scores_of(lambda *_, values=values: values, n=300)
        message = str(error.value)
        assert f"{bad!r} for response {values.index(bad)}" in message and "\n" not in message
        assert repr(values) in message


@pytest.mark.parametrize("value", [None, 1.0, "x" * 200, {"a": 1}, np.zeros(2000), [[1, 2]] * 3])
def test_a_result_of_another_shape_is_shown_whole(scores_of, value):
    """numpy shows six of 2,000 numbers."""
    with pytest.raises(InputError, match="must return 2 finite numbers") as error:
        scores_of(lambda *_: value)
    text = repr(value.tolist() if isinstance(value, np.ndarray) else value)
    assert text in str(error.value)


def test_a_function_that_fails_is_an_error_in_the_users_file(scores_of):
    """File and line are the user's, also where a library raised the error. A message of several
    lines, and with an escape sequence, is one line."""

    def library(*_):
        json.loads("{")

    def several(*_):
        raise RuntimeError("one\ntwo \x1b]0;owned\x07")

    line = library.__code__.co_firstlineno + 1
    with pytest.raises(InputError) as error:
        scores_of(library)
    assert f"my:reward failed at {__file__}, line {line}: JSONDecodeError: E" in str(error.value)
    with pytest.raises(InputError) as error:
        scores_of(several)
    assert str(error.value).endswith("RuntimeError: one two \ufffd]0;owned\ufffd")
    with pytest.raises(InputError, match="my:reward failed: TypeError: len"):
        scores_of(len)


# ---- learning


def test_scores_are_recovered_from_bradley_terry_labels():
    """20 responses with known scores; people prefer i to j with probability sigmoid(s_i - s_j). The
    minimum of the ranking loss recovers the scores up to a constant, and orders as many pairs as
    possible: E[max(p, 1 - p)]."""
    generator = torch.Generator().manual_seed(0)
    truth, N = normal(20, seed=3), 20_000
    pairs = torch.stack([torch.randperm(20, generator=generator)[:2] for _ in range(N)])
    p = torch.sigmoid(truth[pairs[:, 0]] - truth[pairs[:, 1]])
    first_wins = torch.rand(N, generator=generator) < p
    ranks = torch.stack([~first_wins, first_wins], dim=1).long()
    scores = torch.zeros(20, requires_grad=True)
    optimizer = torch.optim.LBFGS([scores], max_iter=50)

    def closure():
        optimizer.zero_grad()
        loss = ranking_loss(scores[pairs], ranks)
        loss.backward()
        return loss

    optimizer.step(closure)
    estimate = scores.detach()
    assert (estimate - estimate.mean() - truth + truth.mean()).abs().max() < 0.15
    accuracy = (margins(estimate[pairs], ranks) > 0).float().mean()
    assert abs(accuracy - torch.maximum(p, 1 - p).mean()) < 0.01
    differences = (estimate[pairs[:, 0]] - estimate[pairs[:, 1]]).numpy()
    assert calibration_error(differences, first_wins.numpy().astype(float)) < 0.02


def test_a_reward_model_learns_how_much_more_people_like_a_response(reward_model, tokenizer):
    """Through the trunk: of two words people prefer "good" to "bad" nine times in ten, for every
    prompt. The margin becomes log 9 = 2.2, so that the confidence of the model is the agreement of
    the people."""
    model, prompts = copy.deepcopy(reward_model), "abcdefg"
    comparisons = [
        Comparison(prompts[i % 7], ["good", "bad"], [0, 1] if i % 10 else [1, 0])
        for i in range(400)
    ]
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(40):
        _, accuracy = train_rm.accumulate(model, tokenizer, comparisons, 4096)
        optimizer.step()
        optimizer.zero_grad()
    good, bad = (
        reward.score(model, tokenizer, list(prompts), [word] * 7, raw=True)
        for word in ("good", "bad")
    )
    assert ((good - bad) - math.log(9)).abs().max() < 0.5
    assert accuracy == pytest.approx(0.9)
