"""The specification of model.py. The authority on GPT-2 is transformers, with the same random
weights."""

import math

import pytest
import torch
import torch.nn.functional as F
import transformers
from ragged import LENGTHS, PROMPT_LENGTHS, random_tokens
from torch import nn

from minirlhf import model
from minirlhf.generate import KVCache
from minirlhf.model import GPT, SIZES, GPTConfig, ScalarHead, logprobs, response_mask


def hugging_face(gpt):
    """transformers' GPT-2 with the weights of `gpt`, assigned one by one: a second list of names,
    independent of formats/gpt2.py."""
    c = gpt.config
    sizes = {
        "vocab_size": c.vocab_size,
        "n_positions": c.context,
        "n_embd": c.width,
        "n_layer": c.layers,
        "n_head": c.heads,
    }
    config = transformers.GPT2Config(
        **sizes, bos_token_id=None, eos_token_id=None, attn_implementation="eager"
    )
    reference = transformers.GPT2LMHeadModel(config).eval()
    for weight, ref_weight in pairs(gpt, reference.transformer):
        ref_weight.data = weight.detach().clone()
    reference.tie_weights()
    return reference


def pairs(gpt, reference, of=lambda parameter: parameter):
    """(of(our parameter) in transformers' layout, transformers' parameter), for every parameter of
    GPT-2."""
    yield of(gpt.token_embedding.weight)[: gpt.config.vocab_size], reference.wte.weight
    yield of(gpt.position_embedding.weight), reference.wpe.weight
    for block, ref_block in zip(gpt.blocks, reference.h, strict=True):
        for norm, ref_norm in ((block.norm1, ref_block.ln_1), (block.norm2, ref_block.ln_2)):
            yield of(norm.weight), ref_norm.weight
            yield of(norm.bias), ref_norm.bias
        for linear, conv in (
            (block.attention.qkv, ref_block.attn.c_attn),
            (block.attention.out, ref_block.attn.c_proj),
            (block.mlp.hidden, ref_block.mlp.c_fc),
            (block.mlp.out, ref_block.mlp.c_proj),
        ):
            yield of(linear.weight).T, conv.weight
            yield of(linear.bias), conv.bias
    yield of(gpt.norm.weight), reference.ln_f.weight
    yield of(gpt.norm.bias), reference.ln_f.bias


# ---- GPT-2


def test_logits_are_those_of_transformers_gpt2(make_gpt):
    """This tests every choice of GPT-2 at once: learned positions, layer norms before the
    sub-layers, biases, tanh-GELU, the tied head."""
    gpt = make_gpt()
    tokens = random_tokens(T=32)
    torch.testing.assert_close(gpt(tokens), hugging_face(gpt)(tokens).logits, atol=1e-4, rtol=1e-5)


def test_gradients_are_those_of_transformers_gpt2(make_gpt):
    """Equal logits do not imply equal gradients: a tied head may be detached, or counted twice.
    Every parameter is compared."""
    gpt = make_gpt(std=0.2)
    reference = hugging_face(gpt)
    tokens = random_tokens(T=20)
    F.cross_entropy(gpt(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    reference(tokens, labels=tokens).loss.backward()
    count = 0
    for gradient, ref_weight in pairs(gpt, reference.transformer, of=lambda p: p.grad):
        torch.testing.assert_close(gradient, ref_weight.grad, atol=1e-6, rtol=1e-4)
        assert ref_weight.grad.abs().max() > 1e-4
        count += 1
    assert count == len(list(gpt.parameters())) == len(list(reference.parameters()))


def test_cached_decoding_gives_transformers_logits(make_gpt):
    """Six tokens at once, then one by one. transformers has a cache too, an independent
    implementation, and the logits agree at every step."""
    gpt = make_gpt()
    reference = hugging_face(gpt)
    tokens = random_tokens(T=16)
    cache = KVCache(torch.tensor([6, 6, 6]), columns=16)
    logits = [gpt.head(gpt.hidden(tokens[:, :6], cache))]
    step = reference(tokens[:, :6], use_cache=True)
    expected = [step.logits]
    for t in range(6, 16):
        logits.append(gpt.head(gpt.hidden(tokens[:, t : t + 1], cache)))
        cache.advance(torch.ones(3, dtype=torch.bool))
        ref_cache = step.past_key_values
        step = reference(tokens[:, t : t + 1], past_key_values=ref_cache, use_cache=True)
        expected.append(step.logits)
    torch.testing.assert_close(torch.cat(logits, 1), torch.cat(expected, 1), atol=1e-4, rtol=1e-5)


def test_a_token_never_sees_its_future(make_gpt):
    """If token 5 changes, the logits of columns 0 to 4 stay equal to the bit, and those of every
    later column change."""
    gpt = make_gpt()
    tokens = random_tokens()
    variant = tokens.clone()
    variant[:, 5] = (variant[:, 5] + 1) % 50
    difference = (gpt(tokens) - gpt(variant)).abs().amax((0, 2))
    assert (difference[:5] == 0).all()
    assert (difference[5:] > 1e-3).all()


def test_a_gradient_reaches_no_token_from_the_past(make_gpt):
    """Causality of the backward pass: a loss at column 3 has no gradient with respect to the
    embeddings of columns 4 and later."""
    gpt = make_gpt()
    tokens = torch.arange(27).view(3, 9)  # all different, so that each id has its own gradient
    gpt.hidden(tokens)[:, 3].sum().backward()
    per_column = gpt.token_embedding.weight.grad[tokens].abs().amax((0, 2))
    assert (per_column[:4] > 0).all() and (per_column[4:] == 0).all()


def test_a_row_does_not_see_its_neighbours(make_gpt):
    """If the rows are permuted, so are the logits. If two of three rows are replaced, the third
    keeps its logits."""
    gpt = make_gpt()
    tokens = random_tokens()
    logits = gpt(tokens)
    torch.testing.assert_close(gpt(tokens[[2, 0, 1]]), logits[[2, 0, 1]], atol=1e-5, rtol=0)
    others = random_tokens(seed=1)
    others[1] = tokens[1]
    torch.testing.assert_close(gpt(others)[1], logits[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("vocab_size", [50, 64, 65])
def test_there_are_exactly_as_many_logits_as_ids(make_gpt, vocab_size):
    """The embedding is padded inside to a multiple of 64 rows, because matrix products on a GPU are
    faster then. A model that can choose id 50,300 of GPT-2's 50,257 produces an id without a text
    (nanoGPT pads its vocabulary so; Ziegler et al. slice the logits, policy.py:59). The values of
    the extra rows have no effect."""
    gpt = make_gpt(vocab_size)
    tokens = random_tokens()
    logits = gpt(tokens)
    assert logits.shape == (3, 9, vocab_size)
    assert gpt.token_embedding.weight.size(0) % 64 == 0
    gpt.token_embedding.weight.data[vocab_size:] = 50.0
    assert torch.equal(gpt(tokens), logits)
    logits.square().mean().backward()
    assert (gpt.token_embedding.weight.grad[vocab_size:] == 0).all()
    assert (gpt.token_embedding.weight.grad[:vocab_size] != 0).any(1).all()


def test_the_head_is_the_token_embedding(make_gpt):
    """The weights are tied: the logit of token v is the dot product of the hidden state with v's
    embedding, and there is no second matrix."""
    gpt = make_gpt()
    hidden = gpt.hidden(random_tokens())
    expected = (hidden * gpt.token_embedding.weight[7]).sum(-1)
    torch.testing.assert_close(gpt.head(hidden)[..., 7], expected, atol=1e-5, rtol=1e-5)
    matrices = [name for name, p in gpt.named_parameters() if p.size(0) == 64]
    assert [name for name in matrices if "block" not in name] == ["token_embedding.weight"]


def test_hidden_states_have_been_through_the_final_layer_norm(make_gpt):
    """Value head and reward head read the hidden states; without the norm their scale would grow
    with depth. Before gain and bias they have mean 0 and variance 1."""
    gpt = make_gpt()
    gpt.norm.reset_parameters()
    hidden = gpt.hidden(random_tokens())
    torch.testing.assert_close(hidden.mean(-1), torch.zeros(3, 9), atol=1e-5, rtol=0)
    torch.testing.assert_close(hidden.var(-1, correction=0), torch.ones(3, 9), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "size, count",
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_the_sizes_by_name_have_gpt2s_parameter_counts(size, count):
    """GPT-2 small has 124,439,808 parameters with V rows of embedding; OpenAI's "117M" leaves some
    out."""
    config = GPTConfig.sized(size, vocab_size=50257, context=1024)
    with torch.device("meta"):
        gpt = GPT(config)
    padding = gpt.token_embedding.weight.size(0) - 50257
    assert padding == 50304 - 50257
    assert sum(p.numel() for p in gpt.parameters()) - padding * config.width == count


def test_the_small_sizes_are_what_the_documentation_says():
    """A reader who finds "nano" in a table of results must be able to build it."""
    nano = GPTConfig(vocab_size=512, context=128, layers=2, heads=4, width=128)
    tiny = GPTConfig(vocab_size=512, context=128, layers=4, heads=4, width=128)
    small = GPTConfig(vocab_size=512, context=256, layers=6, heads=6, width=384)
    assert GPTConfig.sized("nano", 512, 128) == nano
    assert GPTConfig.sized("tiny", 512, 128) == tiny
    assert GPTConfig.sized("small", 512, 256) == small
    assert set(SIZES) == {"nano", "tiny", "small", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"}


def test_a_width_that_the_heads_do_not_divide_is_refused():
    """65 / 4 rounded down would leave a column that belongs to no head. PyTorch's own error would
    come from a reshape inside the model."""
    with pytest.raises(ValueError, match="65 and 4"):
        GPTConfig(vocab_size=50, context=8, layers=1, heads=4, width=65)


def test_more_tokens_than_the_context_are_refused(make_gpt):
    """The error names both numbers. Without the check, an index error would come from inside a
    kernel."""
    gpt = make_gpt(context=8)
    gpt(random_tokens(T=8))
    with pytest.raises(ValueError, match=r"9 tokens .* 8"):
        gpt(random_tokens(T=9))


# ---- initialisation


def test_weights_start_at_one_over_the_root_of_the_width_and_what_adds_to_the_residual_stream_at_less():  # noqa: E501
    """Weights are drawn from N(0, 1/C), so that inputs of unit variance give outputs of unit
    variance. The weights of a block's two outputs are divided by sqrt(2 x layers) (GPT-2's paper,
    2.3). With C = 128: 0.0884, and 0.0884 / sqrt(8) = 0.03125. Biases are zero, and layer norms are
    the identity. GPT-2's 0.02 suits widths of about a thousand: at this width, training took half
    as many steps again (docs/experiments.md)."""
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(vocab_size=500, context=128, layers=4, heads=4, width=128))
    for name, parameter in gpt.named_parameters():
        if "norm" in name and name.endswith("weight"):
            assert (parameter == 1).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            residual = name.endswith(("attention.out.weight", "mlp.out.weight"))
            expected = 0.03125 if residual else 128**-0.5
            # Six standard errors; a matrix has 16,384 numbers or more.
            assert abs(parameter.std() / expected - 1) < 0.034, name
            assert abs(parameter.mean()) < 6 * expected / math.sqrt(parameter.numel()), name


def test_at_the_start_logits_have_about_unit_variance():
    """The loss of a token is then ln V plus half that variance. Larger logits would start at a much
    higher loss, and training would first have to reduce them."""
    torch.manual_seed(0)
    gpt = GPT(GPTConfig.sized("tiny", vocab_size=512, context=64))
    tokens = random_tokens(T=64, vocab_size=512)
    with torch.no_grad():
        logits = gpt(tokens)[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert 0.9 < logits.var() < 1.25
    assert abs(loss - math.log(512) - 0.5) < 0.15


def test_a_reward_head_turns_unit_variance_features_into_unit_variance_scores():
    """The weight is drawn from N(0, 1/(C+1)), where 1/(C+1) is the variance (Ziegler et al.,
    language/model.py:252). OpenRLHF reads it as the standard deviation, which is smaller by the
    factor sqrt(C+1) (models/model.py:170). With C = 1024 the standard deviation is 1/sqrt(1025) =
    0.0312."""
    torch.manual_seed(0)
    head = ScalarHead(1024, std=1 / math.sqrt(1025))
    assert 0.027 < head.weight.std() < 0.0354 and head.bias == 0  # six standard errors
    assert 0.84 < head(torch.randn(3000, 1024)).std() < 1.16


def test_a_value_head_starts_at_zero_everywhere():
    """Ziegler et al., language/model.py:368. The first advantages then consist of rewards alone."""
    head = ScalarHead(16, std=0)
    assert (head(torch.randn(3, 5, 16)) == 0).all()


def test_a_scalar_head_gives_one_float32_number_a_position():
    """This holds for hidden states in bf16 too. 16 features of 1 with weights of 1/16 give 1.0, and
    the bias of 0.5 is added once."""
    head = ScalarHead(16, std=0)
    head.weight.data[:] = 1 / 16
    head.bias.data[:] = 0.5
    values = head(torch.ones(3, 5, 16, dtype=torch.bfloat16))
    assert values.shape == (3, 5) and values.dtype == torch.float32
    assert (values == 1.5).all()


def test_there_is_no_dropout(make_gpt):
    """With dropout the first PPO ratio differs from 1 (TRL 0.11 scored without dropout and updated
    with it: #744, #1066). Ziegler et al. have do_dropout=False throughout (policy.py:48)."""
    gpt = make_gpt().train()
    assert not any(isinstance(module, nn.Dropout) for module in gpt.modules())
    tokens = random_tokens()
    assert torch.equal(gpt(tokens), gpt(tokens)) and torch.equal(gpt(tokens), gpt.eval()(tokens))


def test_a_model_makes_its_tensors_where_the_tokens_are(make_gpt):
    """This includes positions and masks. torch creates tensors on the default device, which is the
    CPU while the tokens are on a GPU. The device "meta", on which nothing can be computed, takes
    the part of the wrong default."""
    gpt, tokens = make_gpt(), random_tokens()
    mask = response_mask(PROMPT_LENGTHS, LENGTHS, 9)
    expected = gpt(tokens), mask, *logprobs(gpt, tokens, mask)
    with torch.device("meta"):
        other_mask = response_mask(PROMPT_LENGTHS, LENGTHS, 9)
        results = gpt(tokens), other_mask, *logprobs(gpt, tokens, mask)
    assert all(torch.equal(one, other) for one, other in zip(results, expected, strict=True))


# ---- log-probabilities of a batch


def test_the_mask_is_true_in_the_columns_that_choose_a_response_token():
    """Worked by hand, T = 6; column t chooses token t + 1. Row 0: prompt of 1, response tokens 1
    and 2, columns 0 and 1. Row 1: prompt of 3, tokens 3 to 5, columns 2 to 4. The choice of the end
    token is included; it is lost where the end token is also the padding (minChatGPT,
    tokenizer.py:14). Row 2: no response. A mask that is off by one column drops a token of the
    response and trains on one outside it: OpenRLHF #465, gpt-neox #1285."""
    mask = response_mask(torch.tensor([1, 3, 4]), torch.tensor([3, 6, 4]), T=6)
    assert mask.dtype == torch.bool
    assert mask.int().tolist() == [[1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]


def prefix_logprobs(gpt, tokens, temperature=1.0):
    """The same quantities from a loop: token t + 1 of a row is scored by a pass over its prefix
    alone, in float64. Returns (B, T-1) and (B, T-1)."""
    B, T = tokens.shape
    chosen, entropy = torch.zeros(B, T - 1), torch.zeros(B, T - 1)
    for row in range(B):
        for t in range(T - 1):
            p = torch.softmax(gpt(tokens[row : row + 1, : t + 1])[0, -1].double() / temperature, -1)
            chosen[row, t] = p[tokens[row, t + 1]].log()
            entropy[row, t] = -(p * p.log()).sum()
    return chosen, entropy


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_a_token_by_token_loop_over_prefixes(make_gpt, temperature):
    """Token j is scored by the logits at j - 1 (Ziegler et al., policy.py:119). The entropy is that
    of the same distribution, after the temperature: OpenRLHF computed it before the temperature
    (models/actor.py:271, until PR 1319)."""
    gpt = make_gpt(std=0.3)
    tokens = random_tokens()
    mask = response_mask(PROMPT_LENGTHS, LENGTHS, 9)
    results, entropy = logprobs(gpt, tokens, mask, temperature)
    expected, expected_entropy = prefix_logprobs(gpt, tokens, temperature)
    assert results.shape == entropy.shape == (3, 8)
    torch.testing.assert_close(results[mask], expected[mask], atol=1e-4, rtol=0)
    torch.testing.assert_close(entropy[mask], expected_entropy[mask], atol=1e-4, rtol=0)


def test_temperature_divides_the_logits(make_gpt):
    """At temperature 0.7 the log-probabilities are those of a model whose logits are 1/0.7 times as
    large."""
    gpt, other = make_gpt(std=0.3), make_gpt(std=0.3)
    other.norm.weight.data /= 0.7
    other.norm.bias.data /= 0.7
    tokens, mask = random_tokens(), response_mask(PROMPT_LENGTHS, LENGTHS, 9)
    results, expected = logprobs(gpt, tokens, mask, 0.7), logprobs(other, tokens, mask)
    for a, b in zip(results, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_probabilities_sum_to_one_over_the_real_ids(make_gpt):
    """The padding rows of the embedding hold +50: included, they would take almost all of the
    probability (N+ and TRL include Pythia's unused rows). Each of the 50 ids is put into every
    column."""
    gpt = make_gpt(std=0.3)
    gpt.token_embedding.weight.data[50:] = 50.0
    tokens = random_tokens()
    mask = response_mask(PROMPT_LENGTHS, LENGTHS, 9)
    total = torch.zeros(3, 8)
    for column in range(8):
        for v in range(50):
            variant = tokens.clone()
            variant[:, column + 1] = v
            log_p = logprobs(gpt, variant, mask)[0][:, column]
            total[:, column] += log_p.exp() * mask[:, column]
    torch.testing.assert_close(total, mask.float(), atol=1e-4, rtol=0)


def test_outside_the_mask_everything_is_zero_and_has_no_gradient(make_gpt):
    """A number that is multiplied by a mask afterwards may be NaN, and 0 times NaN is NaN. The sum
    of the entries outside gives the weights no gradient; the sum of all entries gives the gradient
    of those inside."""
    gpt = make_gpt(std=0.3)
    tokens, mask = random_tokens(), response_mask(PROMPT_LENGTHS, LENGTHS, 9)
    chosen, entropy = logprobs(gpt, tokens, mask)
    assert (chosen[~mask] == 0).all() and (entropy[~mask] == 0).all()
    assert (chosen[mask] < 0).all() and (entropy[mask] > 0).all()
    parameters = list(gpt.parameters())
    gradients = torch.autograd.grad(chosen[~mask].sum(), parameters)
    assert all((gradient == 0).all() for gradient in gradients)
    gradients = torch.autograd.grad(logprobs(gpt, tokens, mask)[0].sum(), parameters)
    expected = torch.autograd.grad(logprobs(gpt, tokens, mask)[0][mask].sum(), parameters)
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert not entropy.requires_grad


def test_a_batch_without_a_response_token_gives_zeros(make_gpt):
    """The gather is empty, and nothing is averaged."""
    chosen, entropy = logprobs(make_gpt(), random_tokens(), torch.zeros(3, 8, dtype=torch.bool))
    assert chosen.shape == entropy.shape == (3, 8)
    assert (chosen == 0).all() and (entropy == 0).all()


def test_gradients_of_logprobs_are_those_of_cross_entropy(make_gpt):
    """torch's own loss on the whole matrix of logits, with label -100 where nothing is trained, is
    compared with the gathered rows."""
    gpt, other = make_gpt(std=0.3), make_gpt(std=0.3)
    tokens, mask = random_tokens(), response_mask(PROMPT_LENGTHS, LENGTHS, 9)
    logprobs(gpt, tokens, mask)[0].sum().backward()
    labels = tokens[:, 1:].masked_fill(~mask, -100)
    logits = other(tokens)[:, :-1].flatten(0, 1)
    (-F.cross_entropy(logits, labels.flatten(), reduction="sum")).backward()
    for (name, a), b in zip(gpt.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-4, msg=name)


def test_what_lies_right_of_a_rows_end_changes_nothing(make_gpt):
    """Any ids there, also the end token or id 0, give the same log-probabilities, entropies and
    gradients, to the bit: no code looks for a padding id. minChatGPT (loss.py:17) and
    PaLM-rlhf-pytorch (ppo.py:579) train on the padding."""
    gpt = make_gpt(std=0.3)
    tokens, mask = random_tokens(), response_mask(PROMPT_LENGTHS, LENGTHS, 9)
    beyond = torch.arange(9) >= LENGTHS[:, None]
    results = []
    for junk in (torch.zeros_like(tokens), torch.full_like(tokens, 49), random_tokens(seed=7)):
        chosen, entropy = logprobs(gpt, torch.where(beyond, junk, tokens), mask)
        gradients = torch.autograd.grad(chosen.sum(), list(gpt.parameters()))
        results.append((chosen, entropy, *gradients))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_more_columns_on_the_right_change_nothing(make_gpt):
    """0, 1 or 20 columns of padding. minChatGPT's scores fall from 0.36 to 0.14 with 50
    (gpt.py:501)."""
    gpt = make_gpt(std=0.3)
    tokens = random_tokens()
    chosen, entropy = logprobs(gpt, tokens, response_mask(PROMPT_LENGTHS, LENGTHS, 9))
    for extra in (1, 20):
        wider = torch.cat([tokens, random_tokens(T=extra, seed=extra)], dim=1)
        wide, wide_entropy = logprobs(gpt, wider, response_mask(PROMPT_LENGTHS, LENGTHS, 9 + extra))
        torch.testing.assert_close(wide[:, :8], chosen, atol=1e-5, rtol=0)
        torch.testing.assert_close(wide_entropy[:, :8], entropy, atol=1e-5, rtol=0)
        assert (wide[:, 8:] == 0).all()


def test_the_head_sees_the_response_tokens_alone(make_gpt, monkeypatch):
    """3 + 6 + 1 response tokens make 10 rows of logits, not the 27 of the batch. With V = 50,257
    the logits are most of the memory. A row has 64 entries: the ids of this model, and the padding
    of its embedding."""
    gpt, shapes, log_softmax = make_gpt(), [], F.log_softmax

    def spy(x, dim):
        shapes.append(tuple(x.shape))
        return log_softmax(x, dim)

    monkeypatch.setattr(F, "log_softmax", spy)
    logprobs(gpt, random_tokens(), response_mask(PROMPT_LENGTHS, LENGTHS, 9))
    assert shapes == [(10, 64)]


def test_a_mask_on_the_cpu_serves_tokens_that_are_elsewhere(make_gpt):
    """If the mask were on the GPU, the CPU would have to wait for its indices until all earlier
    work is finished. "meta" takes the part of a GPU."""
    mask = response_mask(PROMPT_LENGTHS, LENGTHS, 9)
    hidden, tokens = torch.zeros(3, 9, 16, device="meta"), random_tokens().to("meta")
    results = model.logprobs_of_hidden(make_gpt().to("meta"), hidden, tokens, mask)
    assert [(x.shape, x.device.type) for x in results] == 2 * [((3, 8), "meta")]


def test_the_temperature_is_one_where_none_is_given(make_gpt):
    """SFT, reward model and DPO pass no temperature: they use the model's own probabilities."""
    gpt, tokens, mask = make_gpt(), random_tokens(), response_mask(PROMPT_LENGTHS, LENGTHS, 9)
    expected = logprobs(gpt, tokens, mask, 1.0)
    from_tokens = logprobs(gpt, tokens, mask)
    from_states = model.logprobs_of_hidden(gpt, gpt.hidden(tokens), tokens, mask)
    for results in (from_tokens, from_states):
        assert all(torch.equal(one, other) for one, other in zip(results, expected, strict=True))


# ---- precision


def test_log_probabilities_are_float32_when_the_trunk_computes_in_bf16(make_gpt):
    """Logits that are rounded to bf16 change a log-probability by 0.01 to 0.2, which is enough to
    clip the first ratio (OpenRLHF PR 634, minimind PR 814). Logits, log-probabilities and entropy
    are float32, computed in float32 from the trunk's output."""
    gpt = make_gpt()
    tokens, mask = random_tokens(), response_mask(PROMPT_LENGTHS, LENGTHS, 9)
    exact, _ = logprobs(gpt, tokens, mask)
    gpt.precision = torch.bfloat16
    hidden = gpt.hidden(tokens)
    chosen, entropy = logprobs(gpt, tokens, mask)
    assert gpt(tokens).dtype == chosen.dtype == entropy.dtype == torch.float32
    logits = hidden.float() @ gpt.token_embedding.weight[:50].T
    expected = logits.log_softmax(-1)[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(chosen[mask], expected[mask], atol=1e-4, rtol=0)
    assert not torch.equal(exact, chosen), "the trunk did not compute in bf16"


def test_the_trunk_computes_in_bf16_and_its_parameters_stay_float32(make_gpt):
    """bf16 parameters lose updates at a learning rate of 1e-6: 1 + 1e-6 is 1 in bf16 (rlhf-book,
    utils.py:106; GRPO-Zero, train.py:91). Keys and values are cached in the precision in which
    attention computes them."""
    gpt = make_gpt()
    gpt.precision = torch.bfloat16
    cache = KVCache(PROMPT_LENGTHS, columns=9)
    gpt.hidden(random_tokens(), cache)[0, 0, 0].backward()
    assert all(store.dtype == torch.bfloat16 for store in (*cache.keys, *cache.values))
    parameters = [p for p in gpt.parameters() if p.grad is not None]
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in parameters)


def test_the_trunk_computes_in_bf16_where_autocast_would_choose_float16(make_gpt):
    """float16 is autocast's default on a GPU. Its largest number is 65,504, and training in it
    needs a loss scale, which minirlhf does not have."""
    gpt, tokens = make_gpt(), random_tokens()
    gpt.precision = torch.bfloat16
    expected, default = gpt.hidden(tokens), torch.get_autocast_dtype("cpu")
    torch.set_autocast_dtype("cpu", torch.float16)
    try:
        assert torch.equal(gpt.hidden(tokens), expected)
    finally:
        torch.set_autocast_dtype("cpu", default)


def test_a_pass_without_gradient_takes_none_from_the_next(make_gpt):
    """Autocast caches the bf16 copy of a weight until its context ends. A copy that was made under
    no_grad has no gradient, and the weights are never trained (minChatGPT, trainers.py:250, with
    the torch of its time: pytorch #112583)."""
    gpt = make_gpt()
    gpt.precision = torch.bfloat16
    tokens, mask = random_tokens(), response_mask(PROMPT_LENGTHS, LENGTHS, 9)
    with torch.no_grad():
        logprobs(gpt, tokens, mask)
    logprobs(gpt, tokens, mask)[0].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in gpt.parameters())
