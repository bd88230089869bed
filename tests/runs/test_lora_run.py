"""--lora in all stages: what is trained, what is in memory, what a checkpoint holds, and that a
resumed run is the run that it was."""

import shutil

import pytest
import torch
from helpers import logged, same, saved
from processes import together

import train_ppo
import train_rm
import train_sft
from minirlhf import lora, reward
from minirlhf.run import checkpoint
from minirlhf.run.checkpoint import load_gpt
from minirlhf.run.config import InputError
from minirlhf.tools import dpo, evaluate, export

PPO = ["--max-new-tokens", "6", "--batch-size", "12", "--minibatches", "2", "--held-out", "4"]
LORA = ["--lora", "2", "--lora-alpha", "8", "--warmup", "2", "--lr", "0.02"]


@pytest.fixture(scope="module")
def chain(tmp_path_factory, colour_run, colours):
    """OUT of the four stages with adapters, SFT beside the weights of a run without."""
    out = tmp_path_factory.mktemp("lora") / "out"

    def data(name):
        return ["--out", str(out), *LORA, "--data", str(colours / f"{name}.jsonl")]

    common = ["--max-new-tokens", "6", "--batch-size", "18"]
    train_sft.main([*data("demonstrations"), *common, "--init", str(colour_run / "sft")])
    train_rm.main([*data("comparisons"), *common, "--norm-prompts", "4"])
    dpo.main([*data("comparisons")])
    train_ppo.main([*data("prompts"), *PPO, "--updates", "4", "--save-every", "2"])
    return out


@pytest.mark.parametrize("stage", ["sft", "dpo", "ppo"])
def test_every_command_takes_the_policy_of_a_run_with_adapters(chain, colour_run, stage):
    """Its checkpoint holds merged weights under the names of any other: those of the model that it
    began with, and the adapters, which have learned something."""
    start = colour_run / "sft" if stage == "sft" else chain / "sft"
    before, _ = load_gpt(start)
    gpt, _ = load_gpt(chain / stage)
    adapters = saved(chain / stage)["adapters"]["model"]
    assert len(adapters) == 2 * 4 * 3 and adapters["blocks.0.mlp.hidden.A"].shape == (2, 32)
    assert all(adapters[f"blocks.{block}.attention.out.scale"] == 4 for block in range(2))
    for name, weight in gpt.state_dict().items():
        layer = name.removesuffix(".weight")
        change = weight - before.state_dict()[name]
        if f"{layer}.A" in adapters and name.endswith("weight"):
            expected = 4 * adapters[f"{layer}.B"] @ adapters[f"{layer}.A"]
            torch.testing.assert_close(change, expected, atol=1e-6, rtol=0)
            assert change.abs().max() > 1e-3
        else:
            assert not change.any(), name


def test_a_reward_model_learns_its_adapters_and_its_head(chain):
    """A head that stayed at its random start would make of the adapters' work noise."""
    state, adapters = saved(chain / "rm"), saved(chain / "rm")["adapters"]["model"]
    assert {"head.weight", "head.bias", "mean", "std", "gpt.blocks.1.mlp.out.B"} <= set(adapters)
    assert adapters["head.bias"] != 0 and adapters["gpt.blocks.1.mlp.out.B"].any()
    assert state["model"]["head.weight"].equal(adapters["head.weight"])
    sft = saved(chain / "sft")["model"]
    assert state["model"]["gpt.token_embedding.weight"].equal(sft["token_embedding.weight"])


def test_the_optimiser_has_the_adapters_alone(chain):
    """Two moments of each A and B of 8 layers, and of the value head: nothing of the trunk."""
    moments = saved(chain / "ppo")["optimizer"]["state"].values()
    numbers = sum(x.numel() for moment in moments for x in moment.values() if x.dim())
    adapters = sum(x.numel() for x in saved(chain / "ppo")["adapters"]["model"].values() if x.dim())
    assert numbers == 2 * (adapters + 32 + 1)


def test_the_first_update_of_ppo_has_ratio_1_and_no_kl(chain):
    """The policy starts as the reference to the bit; afterwards it has left it, and the reference
    is not the policy."""
    kl = logged(chain / "ppo", "kl")
    assert kl[0] == 0 and all(kl[1:])


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_a_trunk_is_in_memory_once(chain, colours, tmp_path, monkeypatch, critic):
    """Policy, reference and, where its adapters stand beside the same weights, reward model hold
    the same tensors. A critic of its own starts from the reward model's trunk and shares that."""
    held = []
    monkeypatch.setattr(train_ppo, "train", lambda args, folder, models, *rest: held.append(models))
    places = ["--sft", str(chain / "sft"), "--rm", str(chain / "rm"), "--critic", critic]
    data = ["--out", str(tmp_path / "out"), "--data", str(colours / "prompts.jsonl")]
    train_ppo.main([*data, *LORA, *PPO, *places])
    reference = {p.data_ptr() for p in held[0].reference.parameters()}
    policy = {p.data_ptr() for p in held[0].actor_critic.gpt.parameters()}
    reward_model = held[0].score.args[0]
    scores = {p.data_ptr() for p in reward_model.gpt.parameters()}
    assert reference < policy and len(policy - reference) == 2 * 4 * 2
    if critic == "shared":
        assert reference < scores
    else:
        trunk = {p.data_ptr() for p in held[0].actor_critic.critic.parameters()}
        assert not reference & scores and scores < trunk


def test_a_shared_trunk_gives_the_scores_of_one_of_its_own(chain):
    """To rounding: adapters beside the SFT model's weights, or merged ones."""
    sft, tokenizer = load_gpt(chain / "sft")
    prompts, responses = ["Pick a colour, number 3.\n"] * 3, ["b", "r", "g"]
    models = [reward.load_reward_model(chain / "rm", sft=x)[0] for x in (None, sft)]
    assert [lora.is_adapted(model) for model in models] == [False, True]
    merged, beside = (reward.score(m, tokenizer, prompts, responses) for m in models)
    torch.testing.assert_close(merged, beside, atol=1e-4, rtol=0)
    other, _ = load_gpt(chain / "ppo")
    assert not lora.is_adapted(reward.load_reward_model(chain / "rm", sft=other)[0])


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_two_and_two_updates_are_four(chain, colours, tmp_path, ctrl_c, critic):
    """The resumed run goes on from the adapters beside the SFT model's weights. Beside the merged
    ones, which its checkpoint holds as well, they would be there twice."""
    runs = [tmp_path / name for name in ("whole", "resumed")]
    flags = ["--sft", str(chain / "sft"), "--rm", str(chain / "rm"), "--critic", critic, *LORA]
    flags += ["--data", str(colours / "prompts.jsonl"), *PPO, "--updates", "4"]
    train_ppo.main(["--out", str(runs[0]), *flags])
    ctrl_c("ppo", 1)
    with pytest.raises(KeyboardInterrupt):
        train_ppo.main(["--out", str(runs[1]), *flags])
    ctrl_c(None)
    assert saved(runs[1] / "ppo")["step"] == 2
    train_ppo.main(["--out", str(runs[1]), "--resume"])
    first, second = (saved(run / "ppo") for run in runs)
    for part in ("model", "adapters", "value_head", "optimizer"):
        assert same(first[part], second[part]), part
    assert logged(runs[0] / "ppo") == logged(runs[1] / "ppo")
    assert ("critic" in first["adapters"]) == (critic == "separate")


def test_two_processes_learn_the_adapters_of_one(chain, colours, tmp_path):
    """Only their gradients are added up: the shared weights have none."""
    flags = ["--sft", str(chain / "sft"), "--rm", str(chain / "rm"), *LORA, *PPO, "--updates", "2"]
    flags += ["--data", str(colours / "prompts.jsonl")]
    train_ppo.main(["--out", str(tmp_path / "one"), *flags])
    together(tmp_path, 2, lambda: train_ppo.main(["--out", str(tmp_path / "two"), *flags]))
    one, two = (saved(tmp_path / name / "ppo")["adapters"]["model"] for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, adapter in one.items():
        torch.testing.assert_close(adapter, two[name], atol=1e-4, rtol=0)


def test_a_checkpoint_without_the_adapters_of_its_flags_is_refused(chain, tmp_path):
    """A file that was put into the folder, of a run without adapters."""
    out = shutil.copytree(chain, tmp_path / "out")
    state = saved(out / "ppo")
    del state["adapters"]
    torch.save(state, out / "ppo" / "checkpoint.pt")
    with pytest.raises(InputError, match="holds other weights than are needed here"):
        train_ppo.main(["--out", str(out), "--resume", "--updates", "5"])


# ---- adapters alone


@pytest.mark.parametrize("stage", ["sft", "rm", "dpo", "ppo"])
def test_adapters_alone_are_a_checkpoint_that_every_command_takes(chain, tmp_path, stage):
    """A small file, which loads to the weights of the run to the bit."""
    folder = tmp_path / "small"
    export.main([str(chain / stage), str(folder), "--adapters-only"])
    file = saved(folder)
    assert not file["model"] and "optimizer" not in file and "critic" not in file
    state = checkpoint.load(folder, (stage,))
    assert same(state["model"], saved(chain / stage)["model"])


def test_adapters_alone_are_evaluated_and_exported(chain, tmp_path, colours, capsys):
    """As one would any other policy."""
    folder, prompts = tmp_path / "small", str(colours / "prompts.jsonl")
    export.main([str(chain / "ppo"), str(folder), "--adapters-only"])
    common = ["--baseline", str(chain / "sft"), "--reward-model", str(chain / "rm")]
    common += ["--data", prompts, "--prompts", "4", "--best-of", "1", "--max-new-tokens", "6"]
    printed = []
    for policy in (folder, chain / "ppo"):
        capsys.readouterr()
        evaluate.main(["--policy", str(policy), *common])
        printed.append(capsys.readouterr().out.replace(str(policy), "POLICY"))
    assert printed[0] == printed[1]
    export.main([str(folder), str(tmp_path / "theirs"), "--weights-only"])
    assert same(saved(tmp_path / "theirs")["model"], saved(chain / "ppo")["model"])


@pytest.mark.parametrize("change", ["moved", "trained again"])
def test_adapters_alone_name_the_model_that_they_lack(chain, tmp_path, change):
    out = shutil.copytree(chain, tmp_path / "out")
    export.main([str(out / "ppo"), str(tmp_path / "small"), "--adapters-only"])
    if change == "moved":
        shutil.move(out / "sft", tmp_path / "elsewhere")
        expected = "the model they stand beside is not there: .*does not exist"
    else:
        state = saved(out / "sft")
        state["model"]["norm.bias"] += 0.01
        torch.save(state, out / "sft" / "checkpoint.pt")
        expected = "is not the model that they were trained beside"
    with pytest.raises(InputError, match=expected):
        load_gpt(tmp_path / "small")


def test_adapters_are_not_exported_where_there_are_none_or_beside_another_model(chain, tmp_path):
    out = shutil.copytree(chain, tmp_path / "out")
    shutil.copy(out / "dpo" / "checkpoint.pt", out / "sft" / "checkpoint.pt")
    with pytest.raises(InputError, match="is not the model beside which"):
        export.main([str(out / "ppo"), str(tmp_path / "small"), "--adapters-only"])
    state = saved(out / "ppo")
    del state["adapters"]
    torch.save(state, out / "ppo" / "checkpoint.pt")
    with pytest.raises(InputError, match="has no adapters: it was trained without --lora"):
        export.main([str(out / "ppo"), str(tmp_path / "small"), "--adapters-only"])


def test_adapters_need_a_model_that_has_learned_something(colours, tmp_path):
    """Beside random weights they would learn to correct noise."""
    data = ["--out", str(tmp_path / "out"), "--data", str(colours / "demonstrations.jsonl")]
    with pytest.raises(InputError, match="--lora has nothing to stand beside: give --init"):
        train_sft.main([*data, "--lora", "2"])
    assert not (tmp_path / "out").exists()
