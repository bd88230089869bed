"""A third list of semantic mutants, written after the survivors of the second list had got tests.

It was written and committed before anybody ran it, by somebody who had seen neither a test nor an
entry of the first two lists. What they have too was taken off afterwards. So the share that was
killed at once, in mutants.md, says what the tests catch of a list that nobody here has seen.

An entry is (file, the text that is right, the text in its place, what that breaks).
"""

SFT, RM, PPO = "train_sft.py", "train_rm.py", "train_ppo.py"
EVALUATE, REPORT, RESULTS, GATES = (
    f"minirlhf/tools/{name}.py" for name in ("evaluate", "report", "results", "gates")
)

THIRD_LIST = [
    (
        SFT,
        'stats["held_out_loss"] = mean_loss(gpt, held_out, args.microbatch_tokens)',
        'stats["held_out_loss"] = mean_loss(\n'
        "                    gpt, examples[: len(held_out)], args.microbatch_tokens\n"
        "                )",
        "The held-out loss is measured on examples that are learned on.",
    ),
    (
        SFT,
        "return learned + held_out",
        "return learned",
        "A run is known by what it learns on, and not by what it holds out.",
    ),
    (
        SFT,
        "optim.cosine(step, steps, args.warmup)",
        "optim.cosine(step - first, steps - first, args.warmup)",
        "A run that goes on warms up again.",
    ),
    (
        SFT,
        "if example.prompt_length <= room]",
        "if example.prompt_length < room]",
        "A prompt that leaves just enough room is not among the samples.",
    ),
    (
        SFT,
        "writers.documents(args.documents, rng(args.seed, config.DOCUMENTS))",
        "writers.documents(args.documents, rng(1, config.DOCUMENTS))",
        "All seeds pretrain on the documents of seed 1.",
    ),
    (
        SFT,
        "for example in held_out or learned if",
        "for example in learned or held_out if",
        "The samples of own data are replies to prompts that were learned on.",
    ),
    (
        SFT,
        "if args.tokenizer not in (Config.tokenizer, tokenizer.name):",
        "if args.tokenizer not in (args.tokenizer, tokenizer.name):",
        "Another --tokenizer than that of --init is never refused.",
    ),
    (
        SFT,
        "jsonl.holds_comparisons(args.data, **names)",
        "jsonl.holds_comparisons(args.data)",
        "The next command looks for comparisons without --form and --map.",
    ),
    (
        RM,
        "norm = comparisons[: args.norm_prompts]",
        "norm = held_out[: args.norm_prompts]",
        "The scores are normalised on the responses to held-out prompts.",
    ),
    (
        RM,
        'parts["missing_end_score"] = args.missing_end_score',
        'parts["missing_end_score"] = args.missing_end_score or Config.missing_end_score',
        "A missing-end score of 0 counts as not given.",
    ),
    (
        RM,
        "(config.RANKED_HELD_OUT_RESPONSES, config.HELD_OUT_LABELS)",
        "(config.RANKED_HELD_OUT_RESPONSES, config.LABELS)",
        "The held-out labels are drawn with the chance of the labels that are learned.",
    ),
    (
        RM,
        "learnable = sum(map(has_pair, batch))",
        "learnable = len(batch)",
        "Prompts without a pair dilute the loss of a batch.",
    ),
    (
        RM,
        "correct += (margins > 0).sum()",
        "correct += (margins >= 0).sum()",
        "Equal scores count as a pair that is ordered right.",
    ),
    (
        RM,
        "baselines.baseline_numbers(comparisons, held_out, scores)",
        "baselines.baseline_numbers(held_out, held_out, scores)",
        "The baselines learn from the comparisons that they are measured on.",
    ),
    (
        RM,
        "    comparisons = source.earlier + comparisons\n"
        "    write_text(folder / COMPARISONS, jsonl.write_records(comparisons))\n",
        "    write_text(folder / COMPARISONS, jsonl.write_records(comparisons))\n"
        "    comparisons = source.earlier + comparisons\n",
        "The file of the comparisons is without those of earlier rounds.",
    ),
    (
        RM,
        "chain.refuse_mixed(args, path)",
        'chain.refuse_mixed(args, f"{args.out}/sft")',
        "Whether own data and the world are mixed is asked of OUT/sft, and not of --sft.",
    ),
    (
        PPO,
        "monitor = Monitor(args, tokenizer, held_out, final_score, reference, held_out_text)",
        "monitor = Monitor(args, tokenizer, held_out, final_score, reference, text)",
        "The loss on text is measured on the text that is learned.",
    ),
    (
        PPO,
        "rng(args.seed, config.MINIBATCHES, step)",
        "rng(args.seed, config.MINIBATCHES, 0)",
        "Every rollout is shuffled in the same way.",
    ),
    (
        PPO,
        '{"reward_model": reward_models[0]}',
        '{"reward_model": reward_models[-1]}',
        "Of several reward models the last, not the first, is in the command that compares.",
    ),
    (
        PPO,
        "if args.microscope and (not step or progress.due(args.eval_every)):",
        "if args.microscope and (step == first or progress.due(args.eval_every)):",
        "A run that goes on records the tokens of its first update once more.",
    ),
    (
        PPO,
        "stored if math.isnan(args.missing_end_score) else args.missing_end_score",
        "stored if not args.missing_end_score < 0 else args.missing_end_score",
        "A missing-end score of 0 or more is ignored.",
    ),
    (
        PPO,
        "ensemble.robust(args, score, reward_models, reference, tokenizer, prompts)",
        "ensemble.robust(args, score, reward_models, reference, tokenizer, held_out)",
        "What makes the score robust is fitted on the held-out prompts.",
    ),
    (
        PPO,
        'sft = reference if args.critic == "shared" else None',
        "sft = reference",
        "A separate critic may share the trunk that the reference has.",
    ),
    (
        PPO,
        '{"tokens_per_s": int(samples.lengths.sum()) / clock.total()}',
        '{"tokens_per_s": int(samples.lengths.sum()) / clock.seconds["rollout_s"]}',
        "The speed leaves out scoring and update.",
    ),
    (
        EVALUATE,
        'evaluate.kl(*models, replies["policy"], args.temperature or 1.0)',
        'evaluate.kl(*models, replies["policy"])',
        "The KL is that at temperature 1, whatever the replies were sampled at.",
    ),
    (
        EVALUATE,
        "for path in (args.policy, args.baseline, args.reward_model):",
        "for path in (args.policy, args.baseline):",
        "The prompts that the reward model was trained on are not left out.",
    ),
    (
        EVALUATE,
        "{name: side[n].text for name, side in replies.items()}",
        "{name: evaluate.finished(side)[n] for name, side in replies.items()}",
        "A reply that was cut off is an empty text in the file.",
    ),
    (
        EVALUATE,
        "limits = args.best_of, args.max_new_tokens, args.seed, args.temperature",
        "limits = args.best_of, args.max_new_tokens, args.seed",
        "Best-of-n is sampled at temperature 1, whatever --temperature says.",
    ),
    (
        EVALUATE,
        '"prompts": len(prompts), "seed": args.seed}',
        '"prompts": args.prompts, "seed": args.seed}',
        "The file names the prompts that were asked for, not those that there were.",
    ),
    (
        EVALUATE,
        "trunks = [policy, baseline, *([reward_model.gpt] if reward_model else [])]",
        "trunks = [policy, baseline]",
        "A prompt may be too long for the reward model's context.",
    ),
    (
        EVALUATE,
        "texts = evaluate.finished(first), evaluate.finished(second)",
        "texts = evaluate.finished(first), [reply.text for reply in second]",
        "The judge sees the second of two replies although it was cut off.",
    ),
    (
        EVALUATE,
        'if args.data and args.reward_model == "out/rm" and not Path("out/rm").exists():',
        'if args.data and not Path("out/rm").exists():',
        "A reward model that stands elsewhere is refused.",
    ),
    (
        REPORT,
        "Answers(replies, kl, -float(logprobs.mean()))",
        "Answers(replies, kl, -float(ref_logprobs.mean()))",
        "The entropy of a policy is the surprise of the SFT model at its replies.",
    ),
    (
        REPORT,
        "Memoriser(MEMORISED, rng(args.seed, config.PPO_PROMPTS))",
        "Memoriser(args.prompts, rng(args.seed, config.PPO_PROMPTS))",
        "The memoriser knows as many prompts as are asked, not 10,000.",
    ),
    (
        REPORT,
        'report["win_rate"] = interval(evaluate.wins(ppo["total"], sft["total"]), clusters)',
        'report["win_rate"] = evaluate.interval(evaluate.wins(ppo["total"], sft["total"]))',
        "The interval of the win rate takes answers about one fact for independent.",
    ),
    (
        REPORT,
        "interval(ppo[measure] - column, clusters)",
        "interval(ppo[measure] - measures.mean(column), clusters)",
        "The gains are unpaired: the interval is that of PPO alone.",
    ),
    (
        REPORT,
        "kl = evaluate.best_of_n_kl(n)",
        "kl = evaluate.best_of_n_kl(args.best_of)",
        "Best of 4 has the KL of best of n.",
    ),
    (
        REPORT,
        'pretrained = last == "sft" and (Path(out) / "pretrain").exists()',
        'pretrained = (Path(out) / "pretrain").exists()',
        "PPO on own data is compared with the pretrained model, and not with SFT.",
    ),
    (
        REPORT,
        "evaluate.respond(gpt, tokenizer, prompts, uniforms, progress=name)",
        "evaluate.respond(gpt, tokenizer, prompts, "
        "evaluate.noise(args.seed + len(answers), *uniforms.shape), progress=name)",
        "Every policy is sampled with noise of its own.",
    ),
    (
        REPORT,
        '"clusters": len(set(clusters))}',
        '"clusters": len(clusters)}',
        "The report says that there are as many clusters as prompts.",
    ),
    (
        RESULTS,
        'half_width = math.hypot(peak["eval_total_half"], end["eval_total_half"])',
        'half_width = peak["eval_total_half"] + end["eval_total_half"]',
        "The half widths of peak and end are added, not their squares.",
    ),
    (
        RESULTS,
        'max(records, key=lambda r: r["eval_total"])',
        'max(records, key=lambda r: r["eval_score"])',
        "The peak is that of the reward model's score, not of the judge's total.",
    ),
    (
        RESULTS,
        '(*QUALITY, *(COSTS[:4] if name == "SFT" else ()))',
        "(*QUALITY, *COSTS[:4])",
        "The costs against the memoriser are listed, too.",
    ),
    (
        RESULTS,
        'share = (numbers["expected_accuracy"] - 0.5) / best if best else math.nan',
        'share = (numbers["expected_accuracy"] - 0.5) / numbers["best_possible_accuracy"]',
        "The share of the best possible accuracy counts chance in the denominator.",
    ),
    (
        RESULTS,
        "key=lambda path: float(path.parent.name[3:]))",
        "key=lambda path: path.parent.name)",
        "The KL coefficients stand in the order of their letters.",
    ),
    (
        RESULTS,
        "values = [value for value in values if value is not None]",
        "values = [value for value in values if value]",
        "A seed in which a number is 0 is left out of the mean.",
    ),
    (
        RESULTS,
        "names = ordered({name: None for rows in runs for name in rows})",
        "names = ordered(runs[0])",
        "A policy that the first seed lacks has no row.",
    ),
    (
        RESULTS,
        'text = "-" if share is None else f"{share:.2f}"',
        'text = f"{share:.2f}" if share else "-"',
        "A share of 0 of the way is shown as missing.",
    ),
    (
        GATES,
        "scale = x.std(0).clamp(min=1e-6)",
        "scale = torch.cat(differences).std(0).clamp(min=1e-6)",
        "The probe's features are scaled with those of the facts it is tested on.",
    ),
    (
        GATES,
        "wins = better > scores(entry, subject, answer)",
        "wins = better >= scores(entry, subject, answer)",
        "Equal scores count as a fact that is ranked right.",
    ),
    (
        GATES,
        '"passed": mean >= 0.9}',
        '"passed": majority >= 0.9}',
        "The gate of the facts goes by majorities, not by the mean agreement.",
    ),
    (
        GATES,
        "gain, half_width = evaluate.interval(best - single)",
        "gain, half_width = (best - single).mean(), evaluate.interval(best)[1]",
        "The interval of the gain is that of best-of-n alone.",
    ),
    (
        GATES,
        "limits = args.best_of, args.max_new_tokens, args.seed",
        "limits = args.best_of, args.max_new_tokens, 1",
        "All seeds draw the candidates of seed 1.",
    ),
    (
        GATES,
        "key=lambda item: item[1])[:5]",
        "key=lambda item: item[1])[-5:]",
        "The table of the worst misconceptions shows the best.",
    ),
    (
        GATES,
        '{"sft_facts": single.mean(), "best_of_n_gain": gain',
        '{"sft_facts": best.mean(), "best_of_n_gain": gain',
        "The number of single samples is that of best-of-n.",
    ),
    (
        GATES,
        "for i in rng(seed, config.PROBED_FACTS).permutation(len(facts)):",
        "for i in range(len(facts)):",
        "The folds of the probe are the order of the facts, not one by chance.",
    ),
]

# Written when the sentences of the first two lists were known, but no test, since most of the
# entries above stood there already.
FURTHER = [
    (
        SFT,
        'idle |= dict.fromkeys(("size", "context"), "the model is that of --init")',
        'idle |= dict.fromkeys(("size",), "the model is that of --init")',
        "--context beside --init is read by nobody, and nothing is said.",
    ),
    (
        SFT,
        "serves = Path(args.data).is_file() and jsonl",
        "serves = jsonl",
        "The next command looks for comparisons in what is no file: a folder, a pipe.",
    ),
    (
        SFT,
        'write_samples(folder, title, ("prompt", "response"), rows)',
        'write_samples(folder, title, ("response", "prompt"), rows)',
        "The columns of samples.txt have each other's name.",
    ),
    (
        SFT,
        "if len(kept) < len(examples) and not args.drop_long:",
        "if not kept and not args.drop_long:",
        "Records that do not fit the context are dropped without --drop-long.",
    ),
    (
        SFT,
        "progress.complete(step + 1, stats)",
        "progress.complete(step, stats)",
        "A step is complete before it was made.",
    ),
    (
        SFT,
        'return Path(path).suffix == ".pt" or (Path(path) / "checkpoint.pt").exists()',
        'return (Path(path) / "checkpoint.pt").exists()',
        "The file of a checkpoint is not known as a run of ours.",
    ),
    (
        SFT,
        "optim.require_finite(step, loss=loss, grad_norm=grad_norm)",
        "optim.require_finite(step, loss=loss)",
        "A step with an infinite gradient is made.",
    ),
    (
        RM,
        "if not any(len(set(c.responses)) > 1 for c in comparisons):",
        "if not any(len(c.responses) > 1 for c in comparisons):",
        "That all responses are alike is never noticed.",
    ),
    (
        RM,
        "if args.margin and not rated:",
        "if args.margin and not comparisons:",
        "--margin without ratings is ignored.",
    ),
    (
        RM,
        "kept = list(filter(fits, unranked))",
        "kept = unranked",
        "A response that does not fit when it is encoded again is kept.",
    ),
    (
        RM,
        'for split in ("train", "validation"):  # what',
        'for split in ("train",):  # what',
        "Held-out prompts that do not fit are an error after hours.",
    ),
    (
        RM,
        'step = int(checkpoint.load(folder, ("rm",))["step"])',
        'step = int(checkpoint.load(folder, ("rm",))["step"]) - 1',
        "The held-out numbers stand at the step before the last.",
    ),
    (
        RM,
        "drop_long=True)[: args.norm_prompts]",
        "args.drop_long)[: args.norm_prompts]",
        "A comparison that fits, but leaves no room for a sample, stops the run.",
    ),
    (
        RM,
        'chain.command("python train_ppo.py", args, chain.STAGE_FLAGS)',
        'chain.command("python train_ppo.py", args, chain.EVALUATION_FLAGS)',
        "The next command lacks --out and --sft.",
    ),
    (
        PPO,
        '{"model": actor_critic.gpt, "value_head": actor_critic.value_head}',
        '{"model": actor_critic.gpt}',
        "A resumed run has a new value head.",
    ),
    (
        PPO,
        "    if actor_critic.critic:\n",
        '    if actor_critic.critic and "critic" in parts:\n',
        "The checkpoint forgets the separate critic.",
    ),
    (
        PPO,
        "actor_critic.critic = critic and lora.start(args, critic.gpt)",
        "actor_critic.critic = critic and critic.gpt",
        "With --lora the separate critic is trained whole.",
    ),
    (
        PPO,
        "jsonl.flags(args, columns=columns)",
        "jsonl.flags(args)",
        "The columns that the reward function asks for are not read.",
    ),
    (
        PPO,
        '"reward": function.source(args.reward)}',
        '"reward": args.reward}',
        "A resumed run does not notice that the reward function has changed.",
    ),
    (
        PPO,
        "share = optim.linear(step, args.updates, args.warmup)",
        "share = optim.linear(step + 1, args.updates, args.warmup)",
        "The learning rate is that of the next update.",
    ),
    (
        PPO,
        "final_score = partial(evaluate.final_scores, score, missing_end_score)",
        "plain = partial(evaluate.score_replies, reward_models[0]) if reward_models else score\n"
        "    final_score = partial(evaluate.final_scores, plain, missing_end_score)",
        "The evaluation's score is the first reward model's, not the robust one.",
    ),
    (
        PPO,
        'idle |= {} if args.kl_target else {"kl_horizon": "is about --kl-target"}',
        "idle |= {}",
        "--kl-horizon without --kl-target is read by nobody, and nothing is said.",
    ),
    (
        EVALUATE,
        '{"policy": args.policy, "baseline": args.baseline, "judge"',
        '{"policy": args.baseline, "baseline": args.policy, "judge"',
        "The file has policy and baseline under each other's name.",
    ),
    (
        EVALUATE,
        '{"data": args.data or chain.WORLD, "prompts"',
        '{"data": args.data, "prompts"',
        "The file does not say that the prompts are the world's.",
    ),
    (
        EVALUATE,
        "    if args.to:\n        files.writable",
        "    if args.to and args.data:\n        files.writable",
        "That --to cannot be written shows after sampling.",
    ),
    (
        EVALUATE,
        'print(f"the score of a response without end is {number:g}")',
        'print(f"the score of a response without end is {stored:g}")',
        "The missing-end score that is printed is the reward model's, not the one in use.",
    ),
    (
        EVALUATE,
        "if math.isnan(number):\n        raise InputError(",
        "if math.isnan(number) and not args.reward:\n        raise InputError(",
        "A reward function without a missing-end score is never refused.",
    ),
    (
        EVALUATE,
        "args.temperature or 1.0",
        "args.temperature",
        "The KL of greedy replies is infinite or not a number.",
    ),
    (
        EVALUATE,
        "chain.refuse_mixed(args, args.policy, args.baseline)",
        "chain.refuse_mixed(args, args.policy)",
        "A baseline of own data is judged by the world.",
    ),
    (
        REPORT,
        "tables.show_examples(prompts, ",
        "tables.show_examples(prompts[::-1], ",
        "The examples stand beside other prompts.",
    ),
    (
        REPORT,
        "if None in values or values[0] == values[2]:",
        "if values[0] == values[2]:",
        "A measure that applies to no prompt ends in a traceback.",
    ),
    (
        REPORT,
        "data.encode(tokenizer, *pair), True)",
        "data.encode(tokenizer, *pair), False)",
        "The responses of the memoriser count as cut off.",
    ),
    (
        REPORT,
        'figures.draw_learning(pyplot, [f"{args.out}/ppo"]',
        'figures.draw_learning(pyplot, [f"{args.out}/rm"]',
        "The figure is of the reward model's training.",
    ),
    (
        REPORT,
        'reward_model = f"{out}/rm" if "rm" in flags else "none --judge MODULE:FUNCTION"',
        'reward_model = f"{out}/rm"',
        "The command names a reward model that there is not.",
    ),
    (
        REPORT,
        '    write_text(f"{args.out}/report.json", json.dumps(report, indent=1) + "\\n")\n'
        "    page.write(args.out, html)\n",
        "    page.write(args.out, html)\n"
        '    write_text(f"{args.out}/report.json", json.dumps(report, indent=1) + "\\n")\n',
        "The page shows the report of the time before.",
    ),
    (
        REPORT,
        'print(f"{name} is left out: {error}", file=sys.stderr)',
        "pass",
        "A policy is left out, and nothing is said.",
    ),
    (
        RESULTS,
        '"|---" * (len(header) + 1)',
        '"|---" * len(header)',
        "The line below a table's header has a column too few.",
    ),
    (
        RESULTS,
        "for name in columns[0]]",
        "for name in columns[-1]]",
        "What the last seed has not measured is told of no seed.",
    ),
    (
        RESULTS,
        "if None not in gains[measure]:",
        "if gains[measure][0] is not None:",
        "A gain whose interval is not known ends in a traceback.",
    ),
    (
        RESULTS,
        "whole = all(report[name] for name in PARTS)",
        "whole = any(report[name] for name in PARTS)",
        "A report that lacks a part is read.",
    ),
    (
        RESULTS,
        'write_text(f"{args.out}/results.md", text)',
        'write_text(f"{args.out}/results.md", markdown(reports))',
        "The file lacks the table of the KL coefficients.",
    ),
    (
        RESULTS,
        'folders = [f"{args.out}/{seed}/ppo" for seed in reports]',
        'folders = [f"{args.out}/{seed}/ppo" for seed in reports][:1]',
        "The learning curves are those of the first seed.",
    ),
    (
        GATES,
        "text[0].upper() + text[1:])",
        "text)",
        "The statements begin with a small letter, as no answer does.",
    ),
    (
        GATES,
        "[torch.ones(len(x)), torch.zeros(len(x))]",
        "[torch.zeros(len(x)), torch.ones(len(x))]",
        "The probe learns the wrong answers.",
    ),
    (
        GATES,
        "if command := report.own_data_command(args.out):",
        'if name == "probe" and (command := report.own_data_command(args.out)):',
        "Only the probe refuses a run on own data.",
    ),
    (
        GATES,
        'print("passed" if numbers["passed"] else "NOT passed")',
        'print("passed" if numbers else "NOT passed")',
        "The console says of every gate that it passed.",
    ),
    (
        GATES,
        "[share > 0.5 for share in agreement.values()]",
        "[share >= 0.5 for share in agreement.values()]",
        "Half of the wordings count as most of them.",
    ),
    (
        GATES,
        "gains {gain:+.3f} +- {half_width:.3f}",
        "gains {gain:+.3f} +- {2 * half_width:.3f}",
        "The console shows the whole width of the interval of the gain.",
    ),
]
