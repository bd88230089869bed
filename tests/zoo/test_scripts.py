"""The mutants of scripts.py fit the code as it is, and cover every flag."""

import ast
import dataclasses
import importlib

import pytest
from run_scripts import ROOT, broken, killers
from scripts import MUTANTS
from second_list import SECOND_KILLERS, SECOND_LIST
from third_list import THIRD_KILLERS, THIRD_LIST

MODULES = {"train_sft", "train_rm", "train_ppo"}
MODULES |= {f"minirlhf.tools.{name}" for name in ("dpo", "evaluate", "gates", "report", "results")}
MODULES |= {f"minirlhf.tools.{name}" for name in ("world", "demo", "evaluate_rm", "sample", "chat")}
MODULES |= {f"minirlhf.tools.{name}" for name in ("methods", "rounds", "overoptimisation")}
MODULES |= {f"minirlhf.tools.{name}" for name in ("ai", "rewards", "demonstrations", "rejection")}

# train_sft.py reads no folder, and what demonstrations hands to its stages is checked by these.
HANDED_ON = {"train_sft": {"out"}, "minirlhf.tools.demonstrations": {"device"}}


@pytest.mark.parametrize("file", sorted({mutant.file for mutant in MUTANTS}))
def test_every_mutant_is_one_place_in_its_file_and_another_program(file):
    """A text that is there twice, or no longer, would be no mutant."""
    source = (ROOT / file).read_text(encoding="utf-8")
    for mutant in MUTANTS:
        if mutant.file == file:
            ast.parse(broken(mutant, source))
            assert broken(mutant, source) != source and mutant.breaks.endswith(".")


def test_every_mutant_has_tests_that_exist():
    for mutant in MUTANTS:
        for word in killers(mutant):
            assert not word.endswith(".py") or (ROOT / word).exists(), word


def test_no_two_mutants_are_the_same_and_there_are_enough_of_them():
    assert len(set(MUTANTS)) == len(MUTANTS)
    assert sum(not mutant.flag for mutant in MUTANTS) >= 150


def test_the_second_list_has_several_of_every_file_and_none_of_the_first():
    """And every sentence that names tests of its own is one of the list."""
    first = {(m.file, m.right, m.wrong) for m in MUTANTS if not m.second}
    second = {(m.file, m.right, m.wrong) for m in MUTANTS if m.second}
    assert not first & second and len(second) >= 250
    assert min(map(len, SECOND_LIST.values())) >= 6
    sentences = {(m.file, m.breaks) for m in MUTANTS if m.second}
    assert len(sentences) == len(second) and set(SECOND_KILLERS) <= sentences


def test_the_third_list_has_none_of_the_others_and_names_the_tests_of_each():
    others = {(m.file, m.right, m.wrong) for m in MUTANTS if not m.third}
    third = {(m.file, m.right, m.wrong) for m in MUTANTS if m.third}
    assert not others & third and len(third) == len(THIRD_LIST) >= 50
    assert set(THIRD_KILLERS) == {(m.file, m.breaks) for m in MUTANTS if m.third}
    assert len(THIRD_KILLERS) == len(THIRD_LIST)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_flag_of_every_command_is_ignored_by_a_mutant(name):
    file = name.replace(".", "/") + ".py"
    rooms = "minirlhf/run/", "minirlhf/formats/", "minirlhf/rewards/"
    rooms += "minirlhf/tools/ptx.py", "minirlhf/lora.py"
    shared = {mutant.flag for mutant in MUTANTS if mutant.file.startswith(rooms)}
    flags = {mutant.flag for mutant in MUTANTS if mutant.file == file} | shared
    fields = {field.name for field in dataclasses.fields(importlib.import_module(name).Config)}
    assert fields - flags == HANDED_ON.get(name, set())
