"""What is held out: split by prompt, by a hash that depends on seed and prompt alone."""

import random

import pytest

from minirlhf import data
from minirlhf.data import Comparison, Demonstration, hold_out, split_by_prompt
from minirlhf.feedback import baselines

PROMPTS = [f"prompt {i}" for i in range(3000)]


def pairs_with_labels(prompts, labels):
    """`labels` equal records for each prompt. A coin, which the prompt does not tell, decided which
    of two answers is the better one; each answer has a word of its own."""
    coin, comparisons = random.Random(0), []
    for i in range(prompts):
        answers = [f"yes{i}", f"no{i}"]
        coin.shuffle(answers)
        comparisons += [Comparison(f"prompt {i}", answers, [0, 1])] * labels
    return comparisons


def shuffled(records):
    return random.Random(1).sample(records, len(records))


@pytest.mark.parametrize("order", [list, shuffled], ids=["sorted", "shuffled"])
def test_four_labels_of_a_pair_fall_on_one_side_so_that_a_memoriser_is_at_chance(order):
    """A split by record gives it 1.000: it has seen the other labels of the same pair."""
    comparisons = order(pairs_with_labels(60, 4))
    learned, held_out = split_by_prompt(comparisons, seed=1)
    assert not {c.prompt for c in learned} & {c.prompt for c in held_out}
    assert len(learned) + len(held_out) == 240 and len(held_out) % 4 == 0
    scores = [[0.0, 0.0]] * len(held_out)
    assert baselines.baseline_numbers(learned, held_out, scores)["bag_of_words"] == 0.5


def test_a_memoriser_would_show_a_leak():
    """The other half of the sentence above: with one label of each pair among the learned ones the
    same baseline is right on all."""
    comparisons = pairs_with_labels(60, 4)
    learned, held_out = comparisons[24:] + comparisons[:24:2], comparisons[1:24:2]
    scores = [[0.0, 0.0]] * len(held_out)
    assert baselines.baseline_numbers(learned, held_out, scores)["bag_of_words"] == 1.0


def test_the_prompt_decides_whatever_the_record_the_order_and_the_rest_of_the_file():
    """Prompts, demonstrations and comparisons; a third of the file; backwards; white space."""
    held_out = set(split_by_prompt(PROMPTS, seed=1)[1])
    demonstrations = [Demonstration(prompt, "yes") for prompt in PROMPTS]
    comparisons = [Comparison(prompt, ["a", "b"], [0, 1]) for prompt in reversed(PROMPTS[::3])]
    spaced = [f"\n\n{prompt.replace(' ', '  ')}\n" for prompt in PROMPTS]
    assert {r.prompt for r in split_by_prompt(demonstrations, 1)[1]} == held_out
    assert {r.prompt for r in split_by_prompt(comparisons, 1)[1]} == held_out & set(PROMPTS[::3])
    assert {" ".join(p.split()) for p in split_by_prompt(spaced, 1)[1]} == held_out


def test_a_tenth_of_the_prompts_is_held_out_and_another_seed_holds_out_others():
    """Binomial: 300 of 3,000 with a standard deviation of 16; two seeds share a tenth of theirs."""
    sets = [set(split_by_prompt(PROMPTS, seed)[1]) for seed in range(5)]
    assert all(abs(len(held_out) - 300) < 5 * 16.4 for held_out in sets)
    assert all(len(sets[0] & other) < 80 for other in sets[1:])


def test_the_first_held_out_records_are_a_random_sample_of_both_sources():
    """Of a file with two sources in order, --held-out 100 measures both. A first tenth has one."""
    learned, held_out = hold_out(PROMPTS, 100, seed=1)
    late = sum(int(prompt.split()[1]) >= 1500 for prompt in held_out)
    assert len(held_out) == 100 and abs(late - 50) < 5 * 5
    assert held_out == split_by_prompt(PROMPTS, 1)[1][:100]
    assert learned == split_by_prompt(PROMPTS, 1)[0]  # in the order of the file


def test_the_split_is_said_in_a_line(capsys):
    """Records, prompts, seed; and how many of them are measured where it is not all."""
    comparisons = pairs_with_labels(60, 4)
    n = len(split_by_prompt(comparisons, 3)[1])
    hold_out(comparisons, 256, seed=3)
    line = f"held out: {n} of 240 records ({n // 4} prompts), split by prompt, seed 3"
    assert capsys.readouterr().out == line + "\n"
    assert len(hold_out(comparisons, 2, seed=3)[1]) == 2
    assert capsys.readouterr().out == line + "; 2 of them are measured\n"
    assert hold_out(comparisons, 0, seed=3) == (comparisons, [])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("seed", range(20))
def test_small_files_have_something_on_both_sides(seed):
    """Of two prompts one is held out, whatever their hashes; of one prompt nothing can be."""
    assert sorted(map(len, split_by_prompt(["a", "b"], seed))) == [1, 1]
    assert split_by_prompt(["a", "a", "a"], seed) == (["a", "a", "a"], [])
    assert split_by_prompt([], seed) == ([], [])


def test_a_prompt_that_has_half_of_the_records_is_learned_on():
    """For the seeds whose hash would hold it out. At a tenth of the records it may be."""
    seeds = [seed for seed in range(200) if data.place("common", seed) < 0.1]
    assert len(seeds) > 5
    for seed in seeds:
        learned, held_out = split_by_prompt(["common"] * 30 + PROMPTS[:30], seed)
        assert learned.count("common") == 30 and held_out
        assert split_by_prompt(["common"] * 3 + PROMPTS[:27], seed)[1].count("common") == 3


def test_the_hash_is_the_same_on_every_machine():
    """Python's own hash of a text changes with each process. Pinned: 48 bits of BLAKE2b."""
    assert data.place("Pick a colour.", 1) == pytest.approx(0.11314763138873829)
