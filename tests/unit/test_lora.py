"""The specification of lora.py: what is trained, what is shared, and that merged is the same."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from helpers import moved, same
from ragged import LENGTHS, PROMPT_LENGTHS, random_tokens
from torch import nn

import train_ppo
from minirlhf import lora
from minirlhf.generate import generate
from minirlhf.model import logprobs, response_mask
from minirlhf.run.config import InputError

ARGS = train_ppo.Config(lora=3, lora_alpha=6.0)
TOKENS, MASK = random_tokens(), response_mask(PROMPT_LENGTHS, LENGTHS, 9)


def disturbed(gpt, args=ARGS):
    """A model with adapters beside `gpt` that have learned something."""
    policy = lora.start(args, gpt)
    for name, parameter in policy.named_parameters():
        if name.endswith(".B"):
            parameter.data.normal_(std=0.3)
    return policy


def plain(policy, gpt):
    """The model without adapters whose weights are the merged ones."""
    model = moved(gpt)
    model.load_state_dict(lora.merged(policy.state_dict()))
    return model


def test_without_a_rank_a_stage_trains_a_copy_to_the_bit(make_gpt):
    """--lora 0 changes nothing: all weights of the model, and none of them shared."""
    gpt = make_gpt()
    policy = lora.start(dataclasses.replace(ARGS, lora=0), gpt.requires_grad_(False))
    assert same(policy.state_dict(), gpt.state_dict())
    assert all(parameter.requires_grad for parameter in policy.parameters())
    places = {p.data_ptr() for p in gpt.parameters()}
    assert not places & {p.data_ptr() for p in policy.parameters()}


def test_a_layer_adds_alpha_over_r_times_the_low_rank_product():
    """y = W x + b + (alpha / r) B A x, worked by hand: W = [[1, 2]], b = 3, r = 1, alpha = 0.5,
    A = [[1, -1]] and B = [[4]]. x = (5, 7) gives 5 + 14 + 3 + 0.5 * 4 * (5 - 7) = 18. With r = 2
    and a second row of zeros the scale is half, and the result 20."""
    linear = nn.Linear(2, 1)
    linear.weight.data, linear.bias.data = torch.tensor([[1.0, 2.0]]), torch.tensor([3.0])
    for rank, expected in ((1, 18.0), (2, 20.0)):
        layer = lora.LoRA(linear, rank, alpha=0.5)
        assert layer.A.shape == (rank, 2) and layer.B.shape == (1, rank)
        layer.A.data, layer.B.data = torch.zeros(rank, 2), torch.zeros(1, rank)
        layer.A.data[0], layer.B.data[0, 0] = torch.tensor([1.0, -1.0]), 4.0
        assert layer(torch.tensor([5.0, 7.0])).tolist() == [expected]


def test_a_model_with_new_adapters_is_the_model_without_to_the_bit(make_gpt):
    """B is zero. So the first rollout has a KL of exactly 0."""
    gpt = make_gpt()
    policy = lora.start(ARGS, gpt)
    assert torch.equal(logprobs(policy, TOKENS, MASK)[0], logprobs(gpt, TOKENS, MASK)[0])


def test_each_linear_layer_gets_an_adapter_and_nothing_else_is_trained(make_gpt):
    """Two blocks of four linear layers: 8 pairs of A and B. Embeddings and norms are frozen."""
    gpt = make_gpt()
    policy = lora.start(ARGS, gpt)
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    layers = ("attention.qkv", "attention.out", "mlp.hidden", "mlp.out")
    names = [
        f"blocks.{block}.{layer}.{part}" for block in "01" for layer in layers for part in "AB"
    ]
    assert trained == set(names)
    rows = {name: tuple(p.shape) for name, p in policy.named_parameters() if name in trained}
    assert rows["blocks.1.mlp.hidden.A"] == (3, 16) and rows["blocks.1.mlp.hidden.B"] == (64, 3)


def test_policy_and_reference_are_one_trunk_in_memory(make_gpt):
    """All weights of the reference are the policy's own tensors: what is new are the adapters."""
    gpt = make_gpt()
    policy = lora.start(ARGS, gpt)
    places = {p.data_ptr(): p.numel() for m in (gpt, policy) for p in m.parameters()}
    adapters = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert sum(places.values()) == sum(p.numel() for p in gpt.parameters()) + adapters
    assert adapters == 2 * 3 * ((16 + 48) + (16 + 16) + 2 * (16 + 64))


def test_training_moves_the_policy_and_never_the_reference(make_gpt):
    """Not a bit of it, whatever the optimiser takes: the shared weights have no gradient."""
    gpt = make_gpt()
    before = {name: x.clone() for name, x in gpt.state_dict().items()}
    policy = disturbed(gpt)
    start = logprobs(policy, TOKENS, MASK)[0].detach()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.1, weight_decay=0.1)
    logprobs(policy, TOKENS, MASK)[0].sum().backward()
    optimizer.step()
    assert same(gpt.state_dict(), before)
    assert (logprobs(policy, TOKENS, MASK)[0] - start).abs().max() > 0.1


def test_a_model_with_adapters_is_a_function(make_gpt):
    """Without dropout, in training too: the policy that sampled is the policy that is updated, and
    the first ratio of PPO is 1."""
    policy = disturbed(make_gpt()).train()
    assert torch.equal(logprobs(policy, TOKENS, MASK)[0], logprobs(policy, TOKENS, MASK)[0])


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_merged_weights_compute_the_same(make_gpt, rank):
    """Log-probabilities and samples, with one adapter's scale as with another's. Names and order
    are those of a model that never had adapters."""
    gpt = make_gpt(std=0.2)
    policy = disturbed(gpt, dataclasses.replace(ARGS, lora=rank))
    model = plain(policy, gpt)
    one, other = (logprobs(m, TOKENS, MASK)[0] for m in (policy, model))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert (one - logprobs(gpt, TOKENS, MASK)[0]).abs().max() > 0.1
    assert list(lora.merged(policy.state_dict())) == list(gpt.state_dict())
    uniforms = torch.rand(3, 6, generator=torch.Generator().manual_seed(0))
    samples = [generate(m, [[1, 2], [3], [4, 5, 6]], 6, 0, 1.0, uniforms) for m in (policy, model)]
    assert torch.equal(samples[0].tokens, samples[1].tokens)


def test_merging_changes_no_tensor_and_twice_is_once(make_gpt):
    """The model that is saved goes on training: its weights stay as they are."""
    gpt = make_gpt()
    policy = disturbed(gpt)
    before = {name: x.clone() for name, x in policy.state_dict().items()}
    state = lora.merged(policy.state_dict())
    assert same(policy.state_dict(), before)
    assert same(lora.merged(state), state) and same(lora.merged(gpt.state_dict()), gpt.state_dict())


def test_packed_rows_give_what_plain_rows_give_with_adapters(make_gpt):
    """Values, and the gradients of the adapters."""
    policy = disturbed(make_gpt(std=0.3))
    wanted = F.pad(MASK, (0, 1))
    states = [policy.hidden(TOKENS, wanted=wanted)[wanted], policy.hidden(TOKENS)[wanted]]
    torch.testing.assert_close(*states, atol=1e-5, rtol=0)
    weights = torch.randn(states[0].shape, generator=torch.Generator().manual_seed(0))
    trained = [p for p in policy.parameters() if p.requires_grad]
    packed, expected = (torch.autograd.grad((x * weights).sum(), trained) for x in states)
    for one, other in zip(packed, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_the_draws_of_adapters_are_the_seeds(make_gpt):
    """Equal for one seed, others for another, and torch's own generator is left alone."""
    gpt, before = make_gpt(), torch.get_rng_state()
    first, again = (lora.start(ARGS, gpt).state_dict() for _ in range(2))
    other = lora.start(dataclasses.replace(ARGS, seed=2), gpt).state_dict()
    assert same(first, again) and torch.equal(torch.get_rng_state(), before)
    name = "blocks.0.mlp.out.A"
    assert not torch.equal(first[name], other[name])
    assert abs(float(first[name].std()) * 8 - 1) < 0.2  # 1 / sqrt(64)


def test_a_rank_beyond_the_matrices_and_an_alpha_alone_are_refused(make_gpt):
    with pytest.raises(InputError, match="--lora 17: .* no more than rank 16; give a smaller one"):
        lora.start(dataclasses.replace(ARGS, lora=17), make_gpt())
    with pytest.raises(InputError, match="--lora-alpha 8 needs --lora"):
        lora.refuse_idle_flag(train_ppo.Config(lora_alpha=8.0))
    lora.refuse_idle_flag(train_ppo.Config())
    lora.refuse_idle_flag(ARGS)
