"""The specification of generate.py. The authority is a loop without cache or batch, in float64."""

import contextlib
import importlib
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minirlhf.generate import KVCache, Samples, choose, generate, stream_response
from minirlhf.model import logprobs, response_mask

sampler = importlib.import_module("minirlhf.generate")
PROMPTS = [[3], [1, 4, 1, 5, 2], [2, 7, 3]]
ALMOST_ONE = 1 - 2**-24  # the largest float32 below 1


def uniforms_of(B, n, seed=0):
    return torch.rand(B, n, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def naive_sample(gpt, prompt, uniforms, end_token, temperature=1.0):
    """The response of one row as a list, one token at a time, each from a pass over all tokens
    before it."""
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
    columns = samples.tokens, samples.prompt_lengths, samples.lengths
    rows = zip(*(x.tolist() for x in columns), strict=True)
    return [tokens[start:stop] for tokens, start, stop in rows]


def scripted_gpt(make_gpt):
    """A model of 4 ids that are equally likely after any prefix, so that `script` decides which are
    sampled."""
    gpt = make_gpt(vocab_size=4, context=32)
    gpt.token_embedding.weight.data.zero_()
    return gpt


def script(rows):
    """The uniforms at which the scripted model samples these tokens: the middle of each token's
    quarter."""
    return (torch.tensor(rows) + 0.5) / 4


def pass_shapes(monkeypatch, gpt):
    """A list that gets the shape (B, T) of every pass through the model."""
    shapes, hidden = [], gpt.hidden

    def spy(tokens, *cache, **options):
        shapes.append(tuple(tokens.shape))
        return hidden(tokens, *cache, **options)

    monkeypatch.setattr(gpt, "hidden", spy)
    return shapes


# ---- what a row gets


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_samples_are_those_of_a_loop_without_a_cache(make_gpt, temperature):
    """Prompts of 1, 5 and 3 tokens, 20 new ones. The token of a row at a step is the inverse CDF of
    softmax(logits / temperature) at the uniform of that row and step, and depends on nothing else.
    minRLHF, with left padding and no position ids, samples from one distribution and scores with
    another (actor.py:89)."""
    gpt, uniforms = make_gpt(vocab_size=12, std=0.3), uniforms_of(3, 20)
    samples = generate(gpt, PROMPTS, 20, end_token=0, temperature=temperature, uniforms=uniforms)
    rows = zip(PROMPTS, uniforms, strict=True)
    expected = [naive_sample(gpt, *row, 0, temperature) for row in rows]
    assert responses(samples) == expected
    assert len(set(map(len, expected))) > 1, "all rows end together, which tests little"


def test_a_batch_of_unequal_prompts_generates_what_each_would_alone(make_gpt):
    """Token for token, on fixed seeds. Otherwise the response to a prompt depends on the other
    prompts of its batch (OpenRLHF #217, TRL #2778)."""
    for seed in range(3):
        gpt, uniforms = make_gpt(vocab_size=12, std=0.3, seed=seed), uniforms_of(3, 20, seed)
        batch = generate(gpt, PROMPTS, 20, end_token=0, uniforms=uniforms)
        singles = [
            generate(gpt, [prompt], 20, end_token=0, uniforms=uniforms[row : row + 1])
            for row, prompt in enumerate(PROMPTS)
        ]
        assert responses(batch) == [responses(single)[0] for single in singles]


def test_with_one_seed_a_row_does_not_depend_on_its_neighbours(make_gpt):
    """A row gets the same response beside other prompts, also longer ones, and in another order
    with its own uniforms. If each step drew random numbers for the rows still alive, the first row
    to end would change those of all others."""
    gpt = make_gpt(vocab_size=12, std=0.3)

    def middle(prompts):
        generator = torch.Generator().manual_seed(5)
        return responses(generate(gpt, prompts, 20, end_token=0, generator=generator))[1]

    expected = middle(PROMPTS)
    assert middle([[9, 9], PROMPTS[1], [8, 1, 2, 3, 4, 5, 6, 7, 8]]) == expected
    assert middle([[0], PROMPTS[1], [1]]) == expected
    uniforms = uniforms_of(3, 20)
    forwards = responses(generate(gpt, PROMPTS, 20, end_token=0, uniforms=uniforms))
    backwards = responses(generate(gpt, PROMPTS[::-1], 20, end_token=0, uniforms=uniforms.flip(0)))
    assert backwards == forwards[::-1]


def test_the_seed_decides_the_samples_and_no_global_generator_is_touched(make_gpt):
    """A run can be repeated, and sampling does not change the random numbers of the user's own code
    (in TRL #1648 it did)."""
    gpt = make_gpt(vocab_size=12, std=0.3)

    def sample(seed):
        generator = torch.Generator().manual_seed(seed)
        return responses(generate(gpt, PROMPTS, 20, end_token=0, generator=generator))

    state = torch.get_rng_state()
    assert sample(1) == sample(1) != sample(2)
    assert torch.equal(torch.get_rng_state(), state)


def test_temperature_zero_is_argmax(make_gpt):
    """Whatever the uniforms. Division by zero would give NaN; division by a small constant instead
    would give ties and overflow."""
    gpt = make_gpt(vocab_size=12, std=0.3)
    expected = [naive_sample(gpt, prompt, torch.zeros(20), 0, temperature=0) for prompt in PROMPTS]
    for seed in (0, 1):
        uniforms = uniforms_of(3, 20, seed)
        assert responses(generate(gpt, PROMPTS, 20, 0, 0, uniforms=uniforms)) == expected
    logits, uniforms = torch.tensor([[1.0, 3.0, 2.0], [0.5, 0.1, 0.4]]), torch.tensor([0.0, 0.99])
    assert choose(logits, uniforms, 0).tolist() == [1, 0]


# ---- one token at a time


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0])
def test_a_streamed_response_has_the_ids_of_generate_at_the_same_uniforms(make_gpt, temperature):
    """Prompts of 1, 5 and 3 tokens, some of which end before their 20 tokens. What a person sees
    being written is what an evaluation samples."""
    lengths = set()
    for seed in range(3):
        gpt, uniforms = make_gpt(vocab_size=12, std=0.3, seed=seed), uniforms_of(3, 20, seed)
        batch = generate(gpt, PROMPTS, 20, 0, temperature, uniforms)
        rows = zip(PROMPTS, uniforms, strict=True)
        streams = [list(stream_response(gpt, *row, 0, temperature)) for row in rows]
        assert streams == responses(batch)
        lengths |= set(map(len, streams))
    assert 20 in lengths and (temperature == 0 or len(lengths) > 2)


def test_a_streamed_token_comes_before_the_next_one_is_computed(make_gpt, monkeypatch):
    """The prompt goes through the model once, then one token a pass: the shapes after the first and
    after the third token. A reader waits for one token and not for a response."""
    gpt = scripted_gpt(make_gpt)
    shapes = pass_shapes(monkeypatch, gpt)
    ids = stream_response(gpt, [1, 3, 1], script([2, 1, 3, 0, 2]), end_token=0)
    assert shapes == []
    assert next(ids) == 2
    assert shapes == [(1, 3)]
    assert [next(ids), next(ids)] == [1, 3]
    assert shapes == [(1, 3), (1, 1), (1, 1)]
    assert list(ids) == [0]


def test_streaming_leaves_the_gradients_of_its_reader_alone_and_refuses_what_does_not_fit(make_gpt):
    """Between two tokens the code of the reader runs, in its own mode."""
    gpt = make_gpt(vocab_size=12)
    ids = stream_response(gpt, [1], uniforms_of(1, 3)[0], end_token=11)
    next(ids)
    assert torch.is_grad_enabled()
    with pytest.raises(ValueError, match="30 tokens and 3 new ones do not fit a context of 32"):
        next(stream_response(gpt, [1] * 30, uniforms_of(1, 3)[0], end_token=11))


# ---- the distribution


ROWS, IDS, END = 20_000, 5, 4
BOUND = 65.42  # a chi-square of 20 degrees of freedom exceeds it with probability 1e-6


def chi_square(gpt, sample_temperature, score_temperature, seed):
    """The chi-square statistic of 20,000 responses of up to two tokens over 5 ids. The probability
    of a response is the product of those of its tokens.

    There are 21 possible responses (the end token, or one of 4 ids and any second), so 20 degrees
    of freedom.
    """
    generator = torch.Generator().manual_seed(seed)
    prompt = [1, 2, 3]
    samples = generate(gpt, [prompt] * ROWS, 2, END, sample_temperature, generator=generator)
    counts = Counter(map(tuple, responses(samples)))
    with torch.no_grad():
        logits = gpt(torch.tensor([prompt]))[:, -1].double()
        first = torch.softmax(logits / score_temperature, -1)[0]
        logits = gpt(torch.tensor([[*prompt, v] for v in range(IDS)]))[:, -1].double()
        second = torch.softmax(logits / score_temperature, -1)
    probability = {(v, w): first[v] * second[v, w] for v in range(END) for w in range(IDS)}
    probability[END,] = first[END]
    assert sum(probability.values()) == pytest.approx(1)
    assert min(probability.values()) * ROWS >= 5, "chi-square needs an expectation of 5 per cell"
    return sum((counts[r] - p * ROWS) ** 2 / (p * ROWS) for r, p in probability.items())


@pytest.mark.parametrize("temperature, seed", [(1.0, 0), (0.6, 1)])
def test_samples_follow_the_models_distribution(make_gpt, temperature, seed):
    """Chi-square against softmax(logits / temperature), with a bound that chance exceeds once in a
    million. Sampling is pure ancestral sampling. A top-k, a top-p or a forced end token samples
    from another policy than the one whose log-probabilities are computed, and the KL becomes
    negative (minChatGPT, trainers.py:194, minRLHF, actor.py:48, nanochat, chat_rl.py:49 sample from
    the top 50 and score all)."""
    half_freedom, half_bound = torch.tensor([20, BOUND]).double() / 2
    assert torch.special.gammaincc(half_freedom, half_bound) < 1.001e-6
    gpt = make_gpt(vocab_size=IDS, std=0.3)
    assert chi_square(gpt, temperature, temperature, seed) < BOUND


@pytest.mark.parametrize("temperature, seed", [(1.0, 0), (0.6, 1)])
def test_a_temperature_that_is_off_by_a_tenth_is_seen_in_the_samples(make_gpt, temperature, seed):
    """The power of the test above: at 1.1 times the temperature the noncentrality is 175 and 319,
    so that the expected chi-square is at least five standard deviations above the bound."""
    gpt = make_gpt(vocab_size=IDS, std=0.3)
    assert chi_square(gpt, 1.1 * temperature, temperature, seed) > BOUND


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_sampler_draws_from_what_the_scorer_scores(make_gpt, monkeypatch, temperature):
    """The first requirement of PPO: the log-probability with which a token was sampled, through the
    cache in a ragged batch, is the one that `logprobs` computes later. minChatGPT
    (trainers.py:193), minRLHF (actor.py:48 and 89), PaLM-rlhf-pytorch (palm.py:411), rlhf-book
    (utils.py:264), GRPO-Zero (grpo.py:59) and nanochat (chat_rl.py:49) each violate it."""
    steps = []  # the log-probabilities (B,) of each step

    def spy(logits, uniforms, temperature):
        next_tokens = choose(logits, uniforms, temperature)
        log_p = torch.log_softmax(logits.double() / temperature, -1)
        steps.append(log_p.gather(1, next_tokens[:, None])[:, 0])
        return next_tokens

    monkeypatch.setattr(sampler, "choose", spy)
    monkeypatch.setattr(sampler, "CHECK_EVERY", 1000)  # no row leaves: rows stay in their places
    gpt = make_gpt(vocab_size=12, std=0.3)
    samples = generate(gpt, PROMPTS, 20, 0, temperature, uniforms=uniforms_of(3, 20))
    mask = response_mask(samples.prompt_lengths, samples.lengths, samples.tokens.size(1))
    results, _ = logprobs(gpt, samples.tokens, mask, temperature)
    for row in range(3):
        expected = torch.stack(steps)[: int(mask[row].sum()), row]
        torch.testing.assert_close(results[row][mask[row]].double(), expected, atol=1e-4, rtol=0)


# ---- the inverse CDF


def test_a_uniform_chooses_the_token_whose_share_it_falls_into():
    """Worked by hand. With probabilities 1/2, 1/4, 1/4: [0, 0.5) is token 0, [0.5, 0.75) token 1,
    [0.75, 1) token 2."""
    logits = torch.tensor([[2.0, 1.0, 1.0]]).log()
    for u, token in [(0.0, 0), (0.49, 0), (0.51, 1), (0.74, 1), (0.76, 2), (ALMOST_ONE, 2)]:
        assert choose(logits, torch.tensor([u]), 1.0).item() == token, u


def test_temperature_divides_the_logits_before_the_choice():
    """Odds of 2 to 1 become 4 to 1 at temperature 1/2 and 1.41 to 1 at temperature 2. Token 0 has
    the probability 0.667, 0.8 and 0.586."""
    logits = torch.tensor([[2.0, 1.0]]).log()
    for temperature, share in [(1.0, 2 / 3), (0.5, 0.8), (2.0, 0.5858)]:
        assert choose(logits, torch.tensor([share - 0.001]), temperature).item() == 0
        assert choose(logits, torch.tensor([share + 0.001]), temperature).item() == 1


def test_a_token_of_probability_zero_is_never_chosen():
    """Such tokens stand at the first, a middle and the last place; the uniforms are at the very
    borders of the intervals: 0, 1/2 and just below 1. A left-sided search chooses the impossible
    token at u = 0 and at u = 1/2."""
    nothing = -float("inf")
    logits = torch.tensor([[nothing, 0.0, nothing, 0.0, nothing]])
    for u, token in [(0.0, 1), (0.499, 1), (0.5, 3), (ALMOST_ONE, 3)]:
        assert choose(logits, torch.tensor([u]), 1.0).item() == token, u


def test_the_last_share_reaches_to_one_in_a_vocabulary_of_50257():
    """The cumulative sum ends at 0.99999 or 1.00001, not at 1. If it is not scaled by its last
    entry, a uniform just below 1 lies beyond it, and the clamp chooses the last id, which here has
    probability zero. Every next_tokens id is the one whose interval contains the uniform, to within
    1e-4."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 50257, generator=generator) * torch.linspace(0.1, 8, 40)[:, None]
    logits[:, -1] = -float("inf")
    p = torch.softmax(logits.double(), -1)
    for u in (0.0, 0.25, 0.5, ALMOST_ONE):
        next_tokens = choose(logits, torch.full((40,), u), 1.0)
        assert (p.gather(1, next_tokens[:, None]) > 0).all()
        start = (p.cumsum(-1) - p).gather(1, next_tokens[:, None])[:, 0]
        end = p.cumsum(-1).gather(1, next_tokens[:, None])[:, 0]
        assert ((start - 1e-4 <= u) & (u <= end + 1e-4)).all()


def test_a_uniform_that_was_rounded_up_to_one_still_chooses_a_real_id():
    """numpy's float64 0.99999999 is 1.0 in float32. This happens once in 33 million draws."""
    assert choose(torch.zeros(1, 3), torch.ones(1), 1.0).item() == 2


def test_no_id_outside_the_vocabulary_is_ever_chosen(make_gpt):
    """50 ids in an embedding of 64 rows; the other 14 are far likelier than any real one. (Pythia
    has such rows, which N+ and TRL do not mask.)"""
    gpt = make_gpt(vocab_size=50)
    gpt.token_embedding.weight.data[50:] = 50 * gpt.norm.bias.sign()
    uniforms = torch.cat([uniforms_of(2, 24), torch.full((1, 24), ALMOST_ONE)])
    for temperature in (0, 0.1, 1.0, 10.0):
        samples = generate(gpt, PROMPTS, 24, 0, temperature, uniforms)
        assert 0 <= samples.tokens.min() and samples.tokens.max() < 50


# ---- where a response ends


def test_nothing_follows_the_end_token_and_lengths_include_it(make_gpt):
    """Worked by hand: end token 3, five draws. It comes first, in the middle (and again later), in
    the last slot, never; a prompt may contain it. A response whose end token is in the last slot
    has ended: torchtune infers "ended" from padding and penalises it (rlhf/rewards.py:41)."""
    gpt = scripted_gpt(make_gpt)
    prompts = [[3], [0, 1, 3], [2, 2], [1, 3, 3, 1]]
    draws = [[3, 0, 1, 2, 0], [0, 0, 3, 1, 3], [1, 1, 1, 1, 3], [2, 1, 0, 1, 2]]
    samples = generate(gpt, prompts, 5, end_token=3, uniforms=script(draws))
    assert responses(samples) == [[3], [0, 0, 3], [1, 1, 1, 1, 3], [2, 1, 0, 1, 2]]
    assert samples.prompt_lengths.tolist() == [1, 3, 2, 4]
    assert samples.lengths.tolist() == [2, 6, 7, 9]
    assert samples.ended.tolist() == [True, True, True, False]


def test_samples_are_in_the_layout_that_training_uses(make_gpt):
    """Prompt, response, then anything, from column 0, as wide as the longest row and no wider.
    "Anything" is a valid id."""
    gpt = scripted_gpt(make_gpt)
    draws = [[3] * 9, [0, 1, 2, 3] + [0] * 5, [1, 3] * 4 + [1]]
    samples = generate(gpt, [[1, 2, 0, 2], [2], [0, 0]], 9, 3, uniforms=script(draws))
    assert isinstance(samples, Samples)
    assert samples.tokens.shape == (3, 5)
    assert all(x.dtype == torch.int64 for x in samples[:3])
    assert samples.tokens[0].tolist() == [1, 2, 0, 2, 3]
    assert samples.tokens[1].tolist() == [2, 0, 1, 2, 3]
    assert samples.tokens[2, :4].tolist() == [0, 0, 1, 3] and 0 <= samples.tokens[2, 4] < 4


def beginnings(samples):
    """The first tokens of each row, as many as its prompt has."""
    return [row[: len(p)].tolist() for row, p in zip(samples.tokens, PROMPTS, strict=True)]


def test_the_sampled_tokens_are_the_prompts_continued(make_gpt):
    """Samples are ids, not text (trlX encodes the text again: accelerate_ppo_trainer.py:343). A row
    begins with the ids of its prompt, and the list of prompts is not changed."""
    prompts = [list(prompt) for prompt in PROMPTS]
    samples = generate(make_gpt(), prompts, 20, end_token=0, uniforms=uniforms_of(3, 20))
    assert prompts == PROMPTS
    assert beginnings(samples) == PROMPTS


def test_a_prompt_stays_whole_however_few_tokens_are_sampled(make_gpt):
    """lm-human-preference-details passes the length of the response as the length of the query
    (train_policy_accelerate.py:485): prompts are cut to 24 tokens without a warning."""
    samples = generate(make_gpt(), PROMPTS, 1, end_token=0, uniforms=torch.full((3, 1), 0.5))
    assert beginnings(samples) == PROMPTS


def test_a_sample_can_be_trained_on(make_gpt):
    """Sampling uses `no_grad`, not `inference_mode`, whose tensors may not take part in a gradient
    later."""
    samples = generate(make_gpt(), PROMPTS, 4, end_token=0, uniforms=uniforms_of(3, 4))
    assert not any(tensor.is_inference() or tensor.requires_grad for tensor in samples)


# ---- rows leave the batch as they end


@pytest.mark.parametrize("rows", [3, 13, 16])
def test_compaction_does_not_change_anything(make_gpt, monkeypatch, rows):
    """A model of 6 ids that ends about every sixth token. A check for finished rows at every step,
    every third, every eighth or never gives the same tokens, lengths and ends, which are those of
    each row alone. And rows do leave the batch."""
    gpt, uniforms = make_gpt(vocab_size=6, context=40, std=0.3), uniforms_of(rows, 30)
    prompts = [[(row + i) % 6 for i in range(1 + row % 5)] for row in range(rows)]
    results, sizes, compact = [], [], KVCache.compact

    def spy(cache, size, *moves):
        sizes.append(size)
        compact(cache, size, *moves)

    monkeypatch.setattr(KVCache, "compact", spy)
    for check_every in (1000, 8, 3, 1):
        monkeypatch.setattr(sampler, "CHECK_EVERY", check_every)
        sizes.clear()
        samples = generate(gpt, prompts, 30, end_token=5, uniforms=uniforms)
        results.append((responses(samples), samples.lengths.tolist(), samples.ended.tolist()))
        assert bool(sizes) == (check_every < 1000)
    assert all(result == results[0] for result in results)
    expected = [naive_sample(gpt, *row, 5) for row in zip(prompts, uniforms, strict=True)]
    assert results[0][0] == expected


def test_only_the_living_go_on_after_a_look(make_gpt, monkeypatch):
    """Scripted, with a check every 2 tokens: of 7 rows 1, 1, 2, 0 and 2 end by tokens 2, 4, 6, 8
    and 10, and one never does."""
    monkeypatch.setattr(sampler, "CHECK_EVERY", 2)
    gpt = scripted_gpt(make_gpt)
    ends = [6, 2, 99, 10, 4, 6, 9]  # the draw at which each row ends, counted from 1
    draws = [[3 if step == end else step % 3 for step in range(1, 15)] for end in ends]
    shapes = pass_shapes(monkeypatch, gpt)
    samples = generate(gpt, [[0]] * 7, 14, end_token=3, uniforms=script(draws))
    assert [B for B, _ in shapes] == [7] * 2 + [6] * 2 + [5] * 2 + [3] * 4 + [1] * 4
    assert (samples.lengths - samples.prompt_lengths).tolist() == [min(end, 14) for end in ends]
    assert responses(samples) == [row[:end] for row, end in zip(draws, ends, strict=True)]


def test_sampling_stops_when_every_row_has_ended(make_gpt, monkeypatch):
    """All rows end by token 3, and the next check is after token 4: 4 passes, not 30. Ziegler et
    al. and N+ (ppo.py:541) always sample to the limit."""
    gpt = scripted_gpt(make_gpt)
    shapes = pass_shapes(monkeypatch, gpt)
    draws = torch.zeros(3, 30, dtype=torch.long)
    draws[0, 0] = draws[1, 2] = draws[2, 1] = 3
    samples = generate(gpt, [[0], [1, 2], [1]], 30, end_token=3, uniforms=script(draws.tolist()))
    assert len(shapes) == sampler.CHECK_EVERY == 4
    assert samples.ended.all() and samples.tokens.shape == (3, 5)


def test_a_finished_row_stays_at_its_end_token(make_gpt, monkeypatch):
    """The longest prompt ends at once, in a buffer as long as the context, while a short one goes
    on. However many steps follow, the position of a finished row stays at its end token and cannot
    leave the buffer."""
    monkeypatch.setattr(sampler, "CHECK_EVERY", 1000)  # finished rows stay in the batch
    caches, advance = [], KVCache.advance

    def spy(cache, alive):
        caches.append(cache)
        advance(cache, alive)

    monkeypatch.setattr(KVCache, "advance", spy)
    gpt = make_gpt(vocab_size=4, context=32)
    prompts, uniforms = [[1] * 24, [2], [0, 1]], uniforms_of(3, 8)
    ((end,),) = responses(generate(gpt, prompts[:1], 1, end_token=0, uniforms=uniforms[:1, :1]))
    samples = generate(gpt, prompts, 8, end_token=end, uniforms=uniforms)
    assert samples.lengths[0] == 25 and samples.ended[0]
    assert (caches[-1].positions == samples.lengths - 1).all()
    expected = [naive_sample(gpt, p, u, end) for p, u in zip(prompts, uniforms, strict=True)]
    assert responses(samples) == expected


def test_hardly_a_row_moves_when_others_leave():
    """Of six rows the second, fourth and last have ended. The fifth takes the place of the second;
    no other row moves, and the cache keeps its storage. If all rows are alive, none moves."""
    ended = torch.tensor([False, True, False, True, False, True])
    cache = KVCache(torch.arange(1, 7), columns=8)
    cache.update(0, *torch.arange(6.0).view(1, 6, 1, 1, 1).expand(2, 6, 1, 1, 1))
    keys, moves, compact = cache.keys[0], [], cache.compact

    def spy(size, target, source):
        moves.append((size, target.tolist(), source.tolist()))
        compact(size, target, source)

    cache.compact = spy
    rows, next_tokens = sampler.drop_finished(cache, torch.arange(6), torch.arange(6) + 10, ended)
    assert moves == [(3, [1], [4])]
    assert rows.tolist() == [0, 4, 2]
    assert next_tokens.tolist() == [10, 14, 12]
    assert cache.positions.tolist() == [1, 5, 3]
    assert cache.keys[0][:, 0, 0, 0].tolist() == [0, 4, 2]
    assert cache.keys[0].data_ptr() == keys.data_ptr()
    same_rows, _ = sampler.drop_finished(cache, rows, next_tokens, ended)
    assert len(moves) == 1 and torch.equal(same_rows, rows)


# ---- where it is computed


def test_the_first_pass_is_as_wide_as_the_longest_prompt_and_every_other_one_token(
    make_gpt, monkeypatch
):
    """Prompts of 1, 5 and 3 tokens, 20 new ones: first 5 columns, then 1. A first pass over all 25
    columns gives the same samples and costs five times as much."""
    gpt = make_gpt(vocab_size=12, std=0.3)
    shapes = pass_shapes(monkeypatch, gpt)
    samples = generate(gpt, PROMPTS, 20, end_token=0, uniforms=uniforms_of(3, 20))
    assert shapes[0][1] == 5 and {T for _, T in shapes[1:]} == {1}
    assert samples.lengths.max() > 5 + sampler.CHECK_EVERY


def test_a_rollout_in_bf16_rounds_each_weight_once(make_gpt):
    """Once per token would mean to read all weights in float32 each time."""
    gpt, pointers = make_gpt(context=40, std=0.3), []
    gpt.precision = torch.bfloat16

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._to_copy.default and kwargs["dtype"] == torch.bfloat16:
                pointers.append(args[0].data_ptr())
            return function(*args, **(kwargs or {}))

    with Watch():
        generate(gpt, PROMPTS, 20, end_token=0, uniforms=uniforms_of(3, 20))
    names = {weight.data_ptr(): name for name, weight in gpt.named_parameters()}
    conversions = [names[pointer] for pointer in pointers if pointer in names]
    blocks = [name for name in names.values() if "blocks" in name and "norm" not in name]
    assert sorted(conversions) == sorted(blocks)


def test_prompts_and_uniforms_are_brought_to_where_the_model_is(make_gpt, monkeypatch):
    """They are created on the CPU, so that a seed gives the same samples everywhere. The device
    "meta" takes the part of a GPU."""
    devices = []

    def decode(gpt, tokens, prefill, prompt_lengths, uniforms, *rest):
        devices.extend(x.device.type for x in (tokens, prompt_lengths, uniforms))
        raise NotImplementedError("meta computes nothing")

    monkeypatch.setattr(sampler, "decode", decode)
    # "meta" has no autocast.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    with pytest.raises(NotImplementedError, match="computes nothing"):
        generate(make_gpt().to("meta"), PROMPTS, 4, end_token=0, uniforms=uniforms_of(3, 4))
    assert devices == ["meta", "meta", "meta"]


def test_the_sampler_makes_its_tensors_where_its_tokens_are(make_gpt):
    """torch creates tensors on the default device, which is the CPU while the tokens are on a
    GPU."""
    gpt, tokens = make_gpt(vocab_size=12, std=0.3), torch.tensor([[3, 0, 0, 0], [1, 2, 0, 0]])
    rest = 2, torch.tensor([1, 2]), uniforms_of(2, 2), 0, 1.0
    expected = sampler.decode(gpt, tokens.clone(), *rest)
    with torch.device("meta"):
        results = sampler.decode(gpt, tokens.clone(), *rest)
    assert all(torch.equal(one, other) for one, other in zip(results, expected, strict=True))


# ---- what is refused


def test_a_response_that_may_not_fit_is_refused_before_anything_runs(make_gpt, monkeypatch):
    """A prompt of 5 and 28 new tokens in a context of 32: the error names all three numbers. 27 new
    tokens fill the context exactly."""
    gpt = make_gpt(context=32)
    full = generate(gpt, PROMPTS, 27, end_token=49, temperature=0)
    assert full.tokens.size(1) <= 32

    def must_not_run(*args):
        raise AssertionError("the model ran")

    monkeypatch.setattr(gpt, "hidden", must_not_run)
    with pytest.raises(ValueError, match=r"5 tokens .*28 .*32"):
        generate(gpt, PROMPTS, 28, end_token=0)


def test_an_empty_prompt_is_refused(make_gpt):
    """Its first token would be next_tokens by the state in column -1. An empty prompt is one end
    token."""
    with pytest.raises(ValueError, match="empty prompt"):
        generate(make_gpt(), [[1], [], [2, 3]], 4, end_token=0)


def test_no_prompt_at_all_is_refused(make_gpt):
    """The error says so; otherwise it would come from the maximum of an empty list."""
    with pytest.raises(ValueError, match="^an empty prompt, or none"):
        generate(make_gpt(), [], 4, end_token=0)


@pytest.mark.parametrize("shape", [(3, 3), (3, 5), (2, 4), (4, 4)])
def test_uniforms_of_another_shape_are_refused(make_gpt, shape):
    """With a column too few every response would end early, with one too many it would be written
    beyond the tokens, and a row too many would not be used."""
    with pytest.raises(ValueError, match=r"uniforms must be \(3, 4\)"):
        generate(make_gpt(), PROMPTS, 4, end_token=0, uniforms=uniforms_of(*shape))


def test_of_a_prompt_only_the_last_token_goes_through_the_last_block(make_gpt):
    """Prompts of 1, 5 and 3 tokens that begin differently: 9 tokens go through the first block, and
    only the 3 states that choose a token through the MLP of the last."""
    gpt, counts = make_gpt(), []
    for block in gpt.blocks:
        block.mlp.register_forward_pre_hook(lambda _, inputs: counts.append(inputs[0].shape[:-1]))
    generate(gpt, PROMPTS, 1, end_token=0, uniforms=uniforms_of(3, 1))
    assert counts == [(9,), (3,)]
