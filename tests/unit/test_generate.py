"""The specification of generate.py. The authority is a loop without a cache, without a batch, in float64."""

import contextlib
import importlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minirlhf.generate import KVCache, Samples, choose, generate
from minirlhf.model import logprobs, response_mask

sampler = importlib.import_module("minirlhf.generate")
PROMPTS = [[3], [1, 4, 1, 5, 2], [2, 7, 3]]
ALMOST_ONE = 1 - 2**-24  # the largest float32 below 1


def uniforms_of(B, n, seed=0):
    return torch.rand(B, n, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def naive(gpt, prompt, uniforms, end_token, temperature=1.0):
    """One row, one token at a time, each from a pass over all that came before: the response as a list."""
    tokens, response = list(prompt), []
    for u in uniforms.tolist():
        logits = gpt(torch.tensor([tokens]))[0, -1].double()
        if temperature == 0:
            token = int(logits.argmax())
        else:
            cdf = torch.softmax(logits / temperature, -1).cumsum(-1)
            token = int((cdf <= u).sum())  # the first whose share of [0, 1) reaches beyond u
        tokens.append(token)
        response.append(token)
        if token == end_token:
            break
    return response


def responses(samples):
    """[list of response tokens] of each row."""
    spans = zip(
        samples.tokens.tolist(),
        samples.prompt_lengths.tolist(),
        samples.lengths.tolist(),
        strict=True,
    )
    return [row[start:stop] for row, start, stop in spans]


def scripted_gpt(make_gpt):
    """A model of 4 ids, all equally likely whatever came before, so that `script` says what is drawn."""
    gpt = make_gpt(vocab_size=4, context=32)
    gpt.token_embedding.weight.data.zero_()
    return gpt


def script(rows):
    """The uniforms at which the scripted model draws these tokens: the middle of each token's quarter."""
    return (torch.tensor(rows) + 0.5) / 4


# ---- what a row gets


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_samples_are_those_of_a_loop_without_a_cache(make_gpt, temperature):
    """Prompts of 1, 5 and 3 tokens, 20 new ones: the token of a row at a step is the inverse CDF of softmax(logits /
    temperature) at that row's and step's uniform, and nothing else. minRLHF's left padding without position ids samples from
    one distribution and scores with another (actor.py:89)."""
    gpt, uniforms = make_gpt(vocab_size=12, std=0.3), uniforms_of(3, 20)
    samples = generate(gpt, PROMPTS, 20, end_token=0, temperature=temperature, uniforms=uniforms)
    expected = [naive(gpt, p, u, 0, temperature) for p, u in zip(PROMPTS, uniforms, strict=True)]
    assert responses(samples) == expected
    assert len({len(response) for response in expected}) > 1, (
        "all rows end together: this shows little"
    )


def test_a_batch_of_unequal_prompts_generates_what_each_would_alone(make_gpt):
    """On fixed seeds, token for token. Where it fails, whom a prompt is sampled with decides what is said (OpenRLHF #217, TRL
    #2778)."""
    for seed in range(3):
        gpt, uniforms = make_gpt(vocab_size=12, std=0.3, seed=seed), uniforms_of(3, 20, seed)
        together = responses(generate(gpt, PROMPTS, 20, end_token=0, uniforms=uniforms))
        alone = [
            responses(generate(gpt, [prompt], 20, end_token=0, uniforms=uniforms[row : row + 1]))[0]
            for row, prompt in enumerate(PROMPTS)
        ]
        assert together == alone


def test_with_one_seed_a_row_does_not_depend_on_its_neighbours(make_gpt):
    """Other prompts around it, longer ones too, or in another order with its own uniforms: the same response. With a
    draw per step over the rows still alive, the first row to end would change the luck of all others."""
    gpt = make_gpt(vocab_size=12, std=0.3)

    def middle(prompts):
        samples = generate(
            gpt, prompts, 20, end_token=0, generator=torch.Generator().manual_seed(5)
        )
        return responses(samples)[1]

    expected = middle(PROMPTS)
    assert middle([[9, 9], PROMPTS[1], [8, 1, 2, 3, 4, 5, 6, 7, 8]]) == expected
    assert middle([[0], PROMPTS[1], [1]]) == expected
    uniforms = uniforms_of(3, 20)
    forwards = responses(generate(gpt, PROMPTS, 20, end_token=0, uniforms=uniforms))
    backwards = responses(generate(gpt, PROMPTS[::-1], 20, end_token=0, uniforms=uniforms.flip(0)))
    assert backwards == forwards[::-1]


def test_the_seed_decides_the_samples_and_no_global_generator_is_touched(make_gpt):
    """A run can be repeated, and sampling in the middle of one leaves a user's own random numbers alone (TRL #1648 did not)."""
    gpt = make_gpt(vocab_size=12, std=0.3)

    def sample(seed):
        return responses(
            generate(gpt, PROMPTS, 20, end_token=0, generator=torch.Generator().manual_seed(seed))
        )

    before = torch.get_rng_state()
    assert sample(1) == sample(1) != sample(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_temperature_zero_is_argmax(make_gpt):
    """Whatever the uniforms. Dividing by zero would give NaN, or with a small constant in its place ties and
    overflow."""
    gpt = make_gpt(vocab_size=12, std=0.3)
    expected = [naive(gpt, prompt, torch.zeros(20), 0, temperature=0) for prompt in PROMPTS]
    for seed in (0, 1):
        assert (
            responses(
                generate(gpt, PROMPTS, 20, 0, temperature=0, uniforms=uniforms_of(3, 20, seed))
            )
            == expected
        )
    assert choose(
        torch.tensor([[1.0, 3.0, 2.0], [0.5, 0.1, 0.4]]), torch.tensor([0.0, 0.99]), 0
    ).tolist() == [1, 0]


# ---- the distribution


ROWS, IDS, LAST = 20_000, 5, 4
ONCE_IN_A_MILLION = (
    65.42  # the chi-square of 20 degrees of freedom exceeds it with probability 1e-6
)


def chi_square(gpt, drawn_at, scored_at, seed):
    """Of 20,000 responses of up to two tokens over 5 ids, the probability of a response being the product of its tokens'.

    21 responses are possible (the end token, or one of 4 ids and any second), so there are 20 degrees of freedom.
    """
    generator = torch.Generator().manual_seed(seed)
    seen = responses(generate(gpt, [[1, 2, 3]] * ROWS, 2, LAST, drawn_at, generator=generator))
    with torch.no_grad():
        first = torch.softmax(gpt(torch.tensor([[1, 2, 3]]))[0, -1].double() / scored_at, -1)
        second = torch.softmax(
            gpt(torch.tensor([[1, 2, 3, v] for v in range(IDS)]))[:, -1].double() / scored_at, -1
        )
    probability = {(LAST,): first[LAST]} | {
        (v, w): first[v] * second[v, w] for v in range(LAST) for w in range(IDS)
    }
    assert sum(probability.values()) == pytest.approx(1)
    assert min(probability.values()) * ROWS >= 5, "chi-square wants five expected in every cell"
    return sum((seen.count(list(r)) - p * ROWS) ** 2 / (p * ROWS) for r, p in probability.items())


@pytest.mark.parametrize("temperature, seed", [(1.0, 0), (0.6, 1)])
def test_samples_follow_the_models_distribution(make_gpt, temperature, seed):
    """Chi-square against softmax(logits / temperature), at a bound that pure chance exceeds once in a million. Pure ancestral
    sampling: a top-k, a top-p or a forced end changes the policy behind the log-probabilities' back, and the KL turns negative
    (minChatGPT, trainers.py:194, minRLHF, actor.py:48, nanochat, chat_rl.py:49 sample from the top 50 and score all)."""
    assert (
        torch.special.gammaincc(
            torch.tensor(10.0).double(), torch.tensor(ONCE_IN_A_MILLION / 2).double()
        )
        < 1.001e-6
    )
    assert (
        chi_square(make_gpt(vocab_size=IDS, std=0.3), temperature, temperature, seed)
        < ONCE_IN_A_MILLION
    )


@pytest.mark.parametrize("temperature, seed", [(1.0, 0), (0.6, 1)])
def test_a_temperature_that_is_off_by_a_tenth_is_seen_in_the_samples(make_gpt, temperature, seed):
    """The power of the test above: at 1.1 times the temperature the noncentrality is 175 and 319, so that the chi-square lies
    five standard deviations above the bound, or more."""
    assert (
        chi_square(make_gpt(vocab_size=IDS, std=0.3), 1.1 * temperature, temperature, seed)
        > ONCE_IN_A_MILLION
    )


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_sampler_draws_from_what_the_scorer_scores(make_gpt, monkeypatch, temperature):
    """The first line of any specification of PPO: the log-probability each token was drawn with, through the cache in a ragged
    batch, is the one that `logprobs` gives it later. minChatGPT (trainers.py:193), minRLHF (actor.py:48 and 89),
    PaLM-rlhf-pytorch (palm.py:411), rlhf-book (utils.py:264), GRPO-Zero (grpo.py:59) and nanochat (chat_rl.py:49) each break
    it."""
    drawn = []

    def spy(logits, uniforms, temperature):
        chosen = choose(logits, uniforms, temperature)
        drawn.append(
            torch.log_softmax(logits.double() / temperature, -1).gather(1, chosen[:, None])[:, 0]
        )
        return chosen

    monkeypatch.setattr(sampler, "choose", spy)
    monkeypatch.setattr(
        sampler, "CHECK_EVERY", 1000
    )  # no row leaves, so that step and row can be read off
    gpt = make_gpt(vocab_size=12, std=0.3)
    samples = generate(gpt, PROMPTS, 20, 0, temperature, uniforms=uniforms_of(3, 20))
    mask = response_mask(samples.prompt_lengths, samples.lengths, samples.tokens.size(1))
    scored, _ = logprobs(gpt, samples.tokens, mask, temperature)
    for row in range(3):
        expected = torch.stack(drawn)[: int(mask[row].sum()), row]
        torch.testing.assert_close(scored[row][mask[row]].double(), expected, atol=1e-4, rtol=0)


# ---- the inverse CDF


def test_a_uniform_chooses_the_token_whose_share_it_falls_into():
    """Hand-worked. Probabilities 1/2, 1/4, 1/4: [0, 0.5) is token 0, [0.5, 0.75) token 1, [0.75, 1) token 2."""
    logits = torch.tensor([[2.0, 1.0, 1.0]]).log()
    for u, token in [(0.0, 0), (0.49, 0), (0.51, 1), (0.74, 1), (0.76, 2), (ALMOST_ONE, 2)]:
        assert choose(logits, torch.tensor([u]), 1.0).item() == token, u


def test_temperature_divides_the_logits_before_the_choice():
    """Odds of 2 to 1 are 4 to 1 at temperature 1/2 and 1.41 to 1 at temperature 2: token 0 has 0.667, 0.8, 0.586."""
    logits = torch.tensor([[2.0, 1.0]]).log()
    for temperature, share in [(1.0, 2 / 3), (0.5, 0.8), (2.0, 0.5858)]:
        assert choose(logits, torch.tensor([share - 0.001]), temperature).item() == 0
        assert choose(logits, torch.tensor([share + 0.001]), temperature).item() == 1


def test_a_token_of_probability_zero_is_never_chosen():
    """At the first, a middle and the last place, and at the very borders of the shares: 0, 1/2 and just below 1. A
    left-sided search takes the impossible token at u = 0 and at u = 1/2."""
    nothing = -float("inf")
    logits = torch.tensor([[nothing, 0.0, nothing, 0.0, nothing]])
    for u, token in [(0.0, 1), (0.499, 1), (0.5, 3), (ALMOST_ONE, 3)]:
        assert choose(logits, torch.tensor([u]), 1.0).item() == token, u


def test_the_last_share_reaches_to_one_in_a_vocabulary_of_50257():
    """The cumulative sum ends at 0.99999 or 1.00001, not at 1. Without its own last entry as the scale, a uniform just
    below 1 falls off the end, where a clamp picks the last id, here one of probability zero; and the shares of ids 100
    apart are kept."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 50257, generator=generator) * torch.linspace(0.1, 8, 40)[:, None]
    logits[:, -1] = -float("inf")
    p = torch.softmax(logits.double(), -1)
    for u in (0.0, 0.25, 0.5, ALMOST_ONE):
        chosen = choose(logits, torch.full((40,), u), 1.0)
        assert (p.gather(1, chosen[:, None]) > 0).all()
        below = (p.cumsum(-1) - p).gather(1, chosen[:, None])[:, 0]
        assert (
            (below - 1e-4 <= u) & (u <= below + p.gather(1, chosen[:, None])[:, 0] + 1e-4)
        ).all()


def test_a_uniform_that_was_rounded_up_to_one_still_chooses_a_real_id():
    """numpy's float64 0.99999999 is 1.0 in float32: once in 33 million draws."""
    assert choose(torch.zeros(1, 3), torch.ones(1), 1.0).item() == 2


def test_no_id_outside_the_vocabulary_is_ever_chosen(make_gpt):
    """50 ids in an embedding of 64 rows, the other 14 far likelier than any real one (Pythia has such rows, which N+ and TRL do
    not mask)."""
    gpt = make_gpt(vocab_size=50)
    gpt.token_embedding.weight.data[50:] = 50 * gpt.norm.bias.sign()
    uniforms = torch.cat([uniforms_of(2, 24), torch.full((1, 24), ALMOST_ONE)])
    for temperature in (0, 0.1, 1.0, 10.0):
        samples = generate(
            gpt, PROMPTS, 24, end_token=0, temperature=temperature, uniforms=uniforms
        )
        assert 0 <= samples.tokens.min() and samples.tokens.max() < 50


# ---- where a response ends


def test_nothing_follows_the_end_token_and_lengths_include_it(make_gpt):
    """Hand-worked, end token 3, five draws. It comes first, in the middle (and twice), in the last slot, never; prompts may
    hold it. An end token in the last slot has ended the response: torchtune infers "ended" from padding and punishes it
    (rlhf/rewards.py:41)."""
    gpt = scripted_gpt(make_gpt)
    prompts = [[3], [0, 1, 3], [2, 2], [1, 3, 3, 1]]
    draws = [[3, 0, 1, 2, 0], [0, 0, 3, 1, 3], [1, 1, 1, 1, 3], [2, 1, 0, 1, 2]]
    samples = generate(gpt, prompts, 5, end_token=3, uniforms=script(draws))
    assert responses(samples) == [[3], [0, 0, 3], [1, 1, 1, 1, 3], [2, 1, 0, 1, 2]]
    assert samples.prompt_lengths.tolist() == [1, 3, 2, 4]
    assert samples.lengths.tolist() == [2, 6, 7, 9]
    assert samples.ended.tolist() == [True, True, True, False]


def test_samples_are_in_the_layout_that_training_uses(make_gpt):
    """Prompt, response, anything, from column 0, as wide as the longest row and no wider; "anything" is a valid id."""
    gpt = scripted_gpt(make_gpt)
    samples = generate(
        gpt,
        [[1, 2, 0, 2], [2], [0, 0]],
        9,
        3,
        uniforms=script([[3] * 9, [0, 1, 2, 3] + [0] * 5, [1, 3] * 4 + [1]]),
    )
    assert isinstance(samples, Samples)
    assert samples.tokens.shape == (3, 5)
    assert (
        samples.tokens.dtype == samples.lengths.dtype == samples.prompt_lengths.dtype == torch.int64
    )
    assert samples.tokens[0].tolist() == [1, 2, 0, 2, 3]
    assert samples.tokens[1].tolist() == [2, 0, 1, 2, 3]
    assert samples.tokens[2, :4].tolist() == [0, 0, 1, 3] and 0 <= samples.tokens[2, 4] < 4


def test_the_sampled_tokens_are_the_prompts_continued(make_gpt):
    """Tokens travel, not text (trlX encodes again: accelerate_ppo_trainer.py:343): what is trained on begins with the very ids
    of the prompt, which is not changed."""
    prompts = [list(prompt) for prompt in PROMPTS]
    samples = generate(make_gpt(), prompts, 20, end_token=0, uniforms=uniforms_of(3, 20))
    assert prompts == PROMPTS
    assert [
        row[: len(p)].tolist() for row, p in zip(samples.tokens, PROMPTS, strict=True)
    ] == PROMPTS


def test_a_prompt_stays_whole_however_few_tokens_are_sampled(make_gpt):
    """lm-human-preference-details hands the response's length over as the query's (train_policy_accelerate.py:485): prompts are
    cut to 24 tokens, and nobody is told."""
    samples = generate(make_gpt(), PROMPTS, 1, end_token=0, uniforms=torch.full((3, 1), 0.5))
    assert [
        row[: len(p)].tolist() for row, p in zip(samples.tokens, PROMPTS, strict=True)
    ] == PROMPTS


def test_a_sample_can_be_trained_on(make_gpt):
    """`no_grad`, not `inference_mode`: a tensor made there may not take part in a gradient later."""
    samples = generate(make_gpt(), PROMPTS, 4, end_token=0, uniforms=uniforms_of(3, 4))
    assert not any(tensor.is_inference() or tensor.requires_grad for tensor in samples)


# ---- rows leave the batch as they end


@pytest.mark.parametrize("rows", [3, 13, 16])
def test_compaction_does_not_change_anything(make_gpt, monkeypatch, rows):
    """A model of 6 ids that ends about every sixth token. Looking at every step, every third, every eighth or never
    gives the same tokens, lengths and ends, and those of each row alone; and rows do leave."""
    gpt, uniforms = make_gpt(vocab_size=6, context=40, std=0.3), uniforms_of(rows, 30)
    prompts = [[(row + i) % 6 for i in range(1 + row % 5)] for row in range(rows)]
    results, shrunk = [], []
    compact = KVCache.compact
    monkeypatch.setattr(
        KVCache, "compact", lambda cache, *moves: shrunk.append(moves[0]) or compact(cache, *moves)
    )
    for check_every in (1000, 8, 3, 1):
        monkeypatch.setattr(sampler, "CHECK_EVERY", check_every)
        shrunk.clear()
        samples = generate(gpt, prompts, 30, end_token=5, uniforms=uniforms)
        results.append((responses(samples), samples.lengths.tolist(), samples.ended.tolist()))
        assert bool(shrunk) == (check_every < 1000)
    assert all(result == results[0] for result in results)
    assert results[0][0] == [
        naive(gpt, prompt, u, 5) for prompt, u in zip(prompts, uniforms, strict=True)
    ]


def test_only_the_living_go_on_after_a_look(make_gpt, monkeypatch):
    """Scripted, looking every 2 tokens: 7 rows of which 1, 1, 2, 0, 2 end by tokens 2, 4, 6, 8, 10 and one never does."""
    monkeypatch.setattr(sampler, "CHECK_EVERY", 2)
    gpt = scripted_gpt(make_gpt)
    ends = [6, 2, 99, 10, 4, 6, 9]  # the draw at which each row ends, counted from 1
    draws = [[3 if step == end else step % 3 for step in range(1, 15)] for end in ends]
    sizes = []
    hidden = gpt.hidden
    monkeypatch.setattr(
        gpt,
        "hidden",
        lambda tokens, *cache, **wanted: (
            sizes.append(len(tokens)) or hidden(tokens, *cache, **wanted)
        ),
    )
    samples = generate(gpt, [[0]] * 7, 14, end_token=3, uniforms=script(draws))
    assert sizes == [7] * 2 + [6] * 2 + [5] * 2 + [3] * 4 + [1] * 4
    assert (samples.lengths - samples.prompt_lengths).tolist() == [min(end, 14) for end in ends]
    assert responses(samples) == [row[:end] for row, end in zip(draws, ends, strict=True)]


def test_sampling_stops_when_every_row_has_ended(make_gpt, monkeypatch):
    """By token 3, and the next look is after token 4: 4 passes and not 30. Ziegler et al. and N+ (ppo.py:541) sample to the
    limit always."""
    gpt = scripted_gpt(make_gpt)
    passes = []
    hidden = gpt.hidden
    monkeypatch.setattr(
        gpt,
        "hidden",
        lambda tokens, *cache, **wanted: passes.append(tokens) or hidden(tokens, *cache, **wanted),
    )
    draws = torch.zeros(3, 30, dtype=torch.long)
    draws[0, 0] = draws[1, 2] = draws[2, 1] = 3
    samples = generate(gpt, [[0], [1, 2], [1]], 30, end_token=3, uniforms=script(draws.tolist()))
    assert len(passes) == sampler.CHECK_EVERY == 4
    assert samples.ended.all() and samples.tokens.shape == (3, 5)


def test_a_finished_row_stays_at_its_end_token(make_gpt, monkeypatch):
    """The longest prompt ends at once, in a buffer as long as the context, while a short one goes on: a finished row's
    position stays where its end token is, however many steps follow, and cannot leave the buffer."""
    monkeypatch.setattr(sampler, "CHECK_EVERY", 1000)  # finished rows stay in the batch
    caches = []
    advance = KVCache.advance
    monkeypatch.setattr(
        KVCache, "advance", lambda cache, alive: caches.append(cache) or advance(cache, alive)
    )
    gpt = make_gpt(vocab_size=4, context=32)
    prompts, uniforms = [[1] * 24, [2], [0, 1]], uniforms_of(3, 8)
    end = responses(generate(gpt, prompts[:1], 1, end_token=0, uniforms=uniforms[:1, :1]))[0][0]
    samples = generate(gpt, prompts, 8, end_token=end, uniforms=uniforms)
    assert samples.lengths[0] == 25 and samples.ended[0]
    assert (caches[-1].positions == samples.lengths - 1).all()
    assert responses(samples) == [
        naive(gpt, p, u, end) for p, u in zip(prompts, uniforms, strict=True)
    ]


def test_hardly_a_row_moves_when_others_leave():
    """Of six rows the second, fourth and last have ended: the fifth takes the second's place, and nobody else moves. Where all
    are alive nothing does: the cache holds the very tensors that it held."""
    ended, cache = (
        torch.tensor([False, True, False, True, False, True]),
        KVCache(torch.arange(1, 7), columns=8),
    )
    cache.update(0, *torch.arange(6.0).view(1, 6, 1, 1, 1).expand(2, 6, 1, 1, 1))
    keys, moved = cache.keys[0], []
    compact = cache.compact
    cache.compact = lambda size, target, source: (
        moved.append((size, target.tolist(), source.tolist())) or compact(size, target, source)
    )
    rows, chosen = sampler.drop_finished(cache, torch.arange(6), torch.arange(6) + 10, ended)
    assert moved == [(3, [1], [4])]
    assert (
        rows.tolist() == [0, 4, 2]
        and chosen.tolist() == [10, 14, 12]
        and cache.positions.tolist() == [1, 5, 3]
    )
    assert (
        cache.keys[0][:, 0, 0, 0].tolist() == [0, 4, 2]
        and cache.keys[0].data_ptr() == keys.data_ptr()
    )
    again, _ = sampler.drop_finished(cache, rows, chosen, ended)
    assert len(moved) == 1 and torch.equal(again, rows)


# ---- where it is computed


def test_the_first_pass_is_as_wide_as_the_longest_prompt_and_every_other_one_token(
    make_gpt, monkeypatch
):
    """Prompts of 1, 5 and 3 tokens, 20 new ones: 5 columns, then 1. A first pass over all 25 gives the same samples and costs
    five times as much."""
    gpt, widths = make_gpt(vocab_size=12, std=0.3), []
    hidden = gpt.hidden
    monkeypatch.setattr(
        gpt,
        "hidden",
        lambda tokens, *cache, **wanted: (
            widths.append(tokens.size(1)) or hidden(tokens, *cache, **wanted)
        ),
    )
    samples = generate(gpt, PROMPTS, 20, end_token=0, uniforms=uniforms_of(3, 20))
    assert widths[0] == 5 and set(widths[1:]) == {1}
    assert samples.lengths.max() > 5 + sampler.CHECK_EVERY


def test_a_rollout_in_bf16_rounds_each_weight_once(make_gpt):
    """And not once a token, which would read all weights in float32 every time."""
    gpt, rounded = make_gpt(context=40, std=0.3), []
    gpt.precision = torch.bfloat16

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._to_copy.default and kwargs["dtype"] == torch.bfloat16:
                rounded.append(args[0].data_ptr())
            return function(*args, **(kwargs or {}))

    with Watch():
        generate(gpt, PROMPTS, 20, end_token=0, uniforms=uniforms_of(3, 20))
    names = [
        name
        for pointer in rounded
        for name, weight in gpt.named_parameters()
        if weight.data_ptr() == pointer
    ]
    assert sorted(names) == sorted(
        name for name, _ in gpt.named_parameters() if "blocks" in name and "norm" not in name
    )


def test_prompts_and_uniforms_are_brought_to_where_the_model_is(make_gpt, monkeypatch):
    """They are made on the CPU, so that a seed gives the same samples everywhere. The device "meta" stands in for a GPU."""
    arrived = {}

    def decode(gpt, tokens, prefill, prompt_lengths, uniforms, *rest):
        arrived.update(
            tokens=tokens.device.type,
            prompt_lengths=prompt_lengths.device.type,
            uniforms=uniforms.device.type,
        )
        raise NotImplementedError("meta computes nothing")

    monkeypatch.setattr(sampler, "decode", decode)
    monkeypatch.setattr(
        torch, "autocast", lambda *_, **__: contextlib.nullcontext()
    )  # there is none for "meta"
    with pytest.raises(NotImplementedError, match="computes nothing"):
        generate(make_gpt().to("meta"), PROMPTS, 4, end_token=0, uniforms=uniforms_of(3, 4))
    assert arrived == {"tokens": "meta", "prompt_lengths": "meta", "uniforms": "meta"}


def test_the_sampler_makes_its_tensors_where_its_tokens_are(make_gpt):
    """And not wherever torch makes them when nobody says where: on the CPU by default, while the tokens are on a GPU."""
    gpt, tokens = make_gpt(vocab_size=12, std=0.3), torch.tensor([[3, 0, 0, 0], [1, 2, 0, 0]])
    rest = 2, torch.tensor([1, 2]), uniforms_of(2, 2), 0, 1.0
    expected = sampler.decode(gpt, tokens.clone(), *rest)
    with torch.device("meta"):
        elsewhere = sampler.decode(gpt, tokens.clone(), *rest)
    assert all(torch.equal(one, other) for one, other in zip(elsewhere, expected, strict=True))


# ---- what is refused


def test_a_response_that_may_not_fit_is_refused_before_anything_runs(make_gpt, monkeypatch):
    """Prompt 5 and 28 new tokens in a context of 32: both numbers and the context are named. 27 fit, and fill it."""
    gpt = make_gpt(context=32)
    full = generate(gpt, PROMPTS, 27, end_token=49, temperature=0)
    assert full.tokens.size(1) <= 32

    def must_not_run(*args):
        raise AssertionError("the model ran")

    monkeypatch.setattr(gpt, "hidden", must_not_run)
    with pytest.raises(ValueError, match=r"5 tokens .*28 .*32"):
        generate(gpt, PROMPTS, 28, end_token=0)


def test_an_empty_prompt_is_refused(make_gpt):
    """Its first token would be chosen by whatever stands in column -1; an empty prompt is one end token."""
    with pytest.raises(ValueError, match="empty prompt"):
        generate(make_gpt(), [[1], [], [2, 3]], 4, end_token=0)


def test_no_prompt_at_all_is_refused(make_gpt):
    """As such, and not by way of the longest of no prompts."""
    with pytest.raises(ValueError, match="^an empty prompt, or none"):
        generate(make_gpt(), [], 4, end_token=0)


@pytest.mark.parametrize("shape", [(3, 3), (3, 5), (2, 4), (4, 4)])
def test_uniforms_of_another_shape_are_refused(make_gpt, shape):
    """A column too few would end every response early, one too many write beyond the tokens, a row too many go unused."""
    with pytest.raises(ValueError, match=r"uniforms must be \(3, 4\)"):
        generate(make_gpt(), PROMPTS, 4, end_token=0, uniforms=uniforms_of(*shape))
