"""A second list of semantic mutants, written by somebody who had not seen the first.

The first list, in scripts.py, was there while the code and its tests were made. This one asks what
that leaves: it was written and committed before anybody ran it, or looked at the tests, or at the
entries of the first list. What the first list has too was taken off afterwards. So the share that
was killed at once, in mutants.md, says what a list would find that nobody here has ever seen.

A mutant here is the slip of a hasty refactoring: one variable for another of the same type, a
boundary moved by one, a zero that counts as "not set", a check that never fires, a stream of random
numbers used twice, a part of the state that a checkpoint forgets, a number in a file that is not
the one that was computed.
"""

TRAIN_SFT = [
    (
        "stop = min(stop, len(examples) * epochs)",
        "stop = min(stop, len(examples) * max(epochs, args.epochs))",
        "Pretraining goes on into another pass when fine-tuning has several.",
    ),
    (
        "optim.cosine(step, steps, args.warmup)",
        "optim.cosine(step - first, steps - first, args.warmup)",
        "A resumed run warms up again.",
    ),
    (
        "    total = response_tokens(batch)\n",
        "    total = sum(len(example.tokens) for example in batch)\n",
        "The loss is a mean over prompt and response, though only the response is summed.",
    ),
    (
        "            gpt.token_embedding.requires_grad_(False)\n",
        "        gpt.token_embedding.requires_grad_(False)\n",
        "The embeddings are frozen without pretraining, too.",
    ),
    (
        "demonstrations, args.epochs, args.lr)\n",
        "demonstrations, args.epochs, args.pretrain_lr)\n",
        "Fine-tuning has the learning rate of pretraining.",
    ),
    (
        "stream = rng(args.seed, config.DEMONSTRATIONS)",
        "stream = rng(args.seed, config.DOCUMENTS)",
        "Demonstrations are drawn by the random numbers of the documents.",
    ),
    (
        'config.HELD_OUT_PROMPTS), split="validation")',
        'config.HELD_OUT_PROMPTS), split="test")',
        "The policy is judged on the split that is kept for the final report.",
    ),
    (
        "n = min(args.held_out, len(examples) // 10)",
        "n = min(args.held_out, len(examples) // 2)",
        "Up to half of the records are held out.",
    ),
    (
        "if len(example.tokens) <= context]",
        "if len(example.tokens) < context]",
        "A record that just fits the context is left out.",
    ),
    (
        "for prompt, reply in zip(prompts[:8], replies[:8], strict=True)]",
        "for prompt, reply in zip(prompts[:8], replies[-8:], strict=True)]",
        "The samples beside the prompts belong to the last prompts.",
    ),
    (
        'comparisons = args.data if serves else "YOUR_COMPARISONS.jsonl"',
        'comparisons = args.data or "YOUR_COMPARISONS.jsonl"',
        "The next command names a file that holds no comparisons.",
    ),
    (
        "health.warn(health.short_run(steps, args.warmup))",
        "health.warn(health.short_run(len(examples) * epochs, args.warmup))",
        "Nobody is warned of a run that ends in its warm-up.",
    ),
    (
        "lengths = [len(example.tokens) - example.prompt_length for example in both(splits)]",
        "lengths = [len(example.tokens) for example in both(splits)]",
        "The warning of long answers counts the prompt.",
    ),
    (
        "progress.due(args.eval_every)",
        "progress.due(args.save_every)",
        "The held-out loss is measured where a checkpoint is saved.",
    ),
    (
        '"init": gpt if args.init else None}',
        '"init": None}',
        "A resumed run may start from other weights.",
    ),
    (
        "if args.tokenizer not in (Config.tokenizer, tokenizer.name):",
        "if args.tokenizer not in (Config.tokenizer, args.tokenizer):",
        "A tokenizer that is not that of --init is ignored, and nothing is said.",
    ),
    (
        "part = summed_loss(gpt, [batch[row] for row in rows]) / total",
        "part = summed_loss(gpt, [batch[row] for row in rows]) / response_tokens(\n"
        "            [batch[row] for row in rows]\n        )",
        "Each microbatch has a mean of its own, and the step grows with their number.",
    ),
    (
        "fits = data.fits_context(tokenizer, gpt.config.context, drop_long=args.drop_long)",
        "fits = data.fits_context(tokenizer, args.context, drop_long=args.drop_long)",
        "The context is that of the flag, and not that of the model of --init.",
    ),
    (
        "text.windows(args.text, tokenizer, gpt.config.context)",
        "text.windows(args.text, tokenizer, args.context)",
        "The windows of a text have the context of the flag, and not that of --init.",
    ),
    (
        "    if args.data or args.init:\n",
        "    if args.data:\n",
        "What --init names is pretrained once more.",
    ),
    (
        "if args.lora and not args.init:",
        "if args.lora and not args.init and not args.data:",
        "Adapters stand beside random weights, and nothing is said.",
    ),
    (
        "stop = min(stop, len(examples) * epochs)\n",
        "stop = step * args.batch_size + args.batch_size\n",
        "The last batch is filled up from a pass that was not asked for.",
    ),
]
TRAIN_RM = [
    (
        "steps = -(-len(comparisons) * args.epochs // args.batch_size)",
        "steps = max(1, len(comparisons) * args.epochs // args.batch_size)",
        "The last batch, which is smaller, is left out.",
    ),
    (
        "share = sum(map(has_pair, members)) / max(learnable, 1)",
        "share = len(members) / len(batch)",
        "A prompt whose responses all tie takes weight from the microbatch it is in.",
    ),
    (
        "correct += (margins > 0).sum()",
        "correct += (margins >= 0).sum()",
        "Two equal scores count as the right order.",
    ),
    (
        "wanted = rating_margins(members, ranks, margin)",
        "wanted = rating_margins(batch[: len(rows)], ranks, margin)",
        "The margins belong to other comparisons of the batch.",
    ),
    (
        "if not any(isinstance(c, SoftComparison) for c in comparisons):",
        "if not all(isinstance(c, SoftComparison) for c in comparisons):",
        "Beside people's rankings a model's probabilities are lost.",
    ),
    (
        "torch.tensor(comparison.likely)",
        "torch.tensor(comparison.likely).T",
        "A model's probabilities are read the wrong way round.",
    ),
    (
        "row + [-1] * (K - len(row))",
        "row + [K] * (K - len(row))",
        "A response that is not there is the worst of its prompt.",
    ),
    (
        "ratings[:, :, None] - ratings[:, None, :]",
        "ratings[:, None, :] - ratings[:, :, None]",
        "The better response has to lose by the margin.",
    ),
    (
        "if len(c.ratings) != len(c.responses) or any(",
        "if any(",
        "Ratings that are fewer than the responses are not refused.",
    ),
    (
        "reward_model.normalise(torch.tensor(scores))",
        "reward_model.normalise(torch.tensor(scores).T)",
        "The unit of a score is its spread between prompts.",
    ),
    (
        "prompts = norm_prompts(args, sft, tokenizer, comparisons)",
        "prompts = norm_prompts(args, sft, tokenizer, held_out)",
        "The scores are normalised on the held-out prompts.",
    ),
    (
        'held_out = rank(args, sft, tokenizer, "validation",',
        'held_out = rank(args, source.policy, tokenizer, "validation",',
        "With --policy the held-out responses are the policy's.",
    ),
    (
        "lengths = [len(tokenizer.encode(text)) + 1 for text in texts]",
        "lengths = [len(tokenizer.encode(text)) for text in texts]",
        "The warning of long answers forgets the end token.",
    ),
    (
        "people = round(args.human_share * len(comparisons))",
        "people = round((1 - args.human_share) * len(comparisons))",
        "The share that people rank is that of the model.",
    ),
    (
        "labeller.label(source.prefer, comparisons[people:])",
        "labeller.label(source.prefer, comparisons)",
        "What people ranked is labelled by the model once more, and learned from twice.",
    ),
    (
        "comparisons = source.earlier + comparisons",
        "comparisons = comparisons + source.earlier",
        "The earlier rounds come last, so that the scores are normalised on the policy's.",
    ),
    (
        "jsonl.write_records(comparisons))",
        "jsonl.write_records(comparisons[len(source.earlier) :]))",
        "The file of the comparisons lacks those of earlier rounds.",
    ),
    (
        "if not any(len(set(c.responses)) > 1 for c in comparisons):",
        "if not all(len(set(c.responses)) > 1 for c in comparisons):",
        "A single prompt whose responses are all the same stops the run.",
    ),
    (
        '"train": (config.RANKED_RESPONSES, config.LABELS),',
        '"train": (config.RANKED_RESPONSES, config.HELD_OUT_LABELS),',
        "The labellers' noise is that of the held-out comparisons.",
    ),
    (
        "truth = None if args.data else [totals(c) for c in held_out]",
        "truth = None if args.data else [totals(c) for c in comparisons[: len(held_out)]]",
        "What is true of the held-out responses is that of others.",
    ),
    (
        "agreement.calibration(held_out, scores)",
        "agreement.calibration(held_out[::-1], scores[::-1][:1] * len(scores))",
        "The calibration is that of one comparison's scores.",
    ),
    (
        'step = int(checkpoint.load(folder, ("rm",))["step"])',
        'step = int(checkpoint.load(folder, ("rm",))["step"]) - 1',
        "The numbers of the held-out comparisons replace the record of the last step.",
    ),
    (
        '{"data": comparisons, "sft": sft} | source.inputs',
        '{"data": comparisons, "sft": sft}',
        "A resumed run may have another labeller or another policy.",
    ),
    (
        'model = args.labeller_model or f"{args.out}/pretrain"',
        'model = args.labeller_model or f"{args.out}/sft"',
        "The labeller is the SFT model.",
    ),
    (
        "return float(loss), float(correct / pairs)",
        "return float(loss), float(correct / len(batch))",
        "The accuracy is divided by the number of prompts.",
    ),
]
TRAIN_PPO = [
    (
        "rewards += models.credit(scores, samples, mask)",
        "rewards += models.credit(raw_scores, samples, mask)",
        "Credit is shared out of the score that a response without end does not get.",
    ),
    (
        "ppo.rollout_stats(rollout, raw_scores, scores, samples.ended, kl_coef)",
        "ppo.rollout_stats(rollout, scores, scores, samples.ended, kl_coef)",
        "The logged score is that after the missing-end rule.",
    ),
    (
        'controller.update(stats["kl"], len(prompts))',
        'controller.update(stats["kl"], args.minibatches)',
        "The KL coefficient adapts over minibatches and not over responses.",
    ),
    (
        "models.ptx_loss(step)}",
        "models.ptx_loss(0)}",
        "Every update learns from the same text.",
    ),
    (
        "for i in places for _ in range(group)]",
        "for _ in range(group) for i in places]",
        "The responses to a prompt do not stand in a row, so that a group is of several prompts.",
    ),
    (
        '"value_clip": args.value_clip,',
        '"value_clip": args.clip,',
        "--clip is for the values, too.",
    ),
    (
        "betas=(0.9, 0.999), eps=1e-5, **head)",
        "betas=(0.9, 0.999), **head)",
        "Adam's eps is that of the other stages.",
    ),
    (
        "betas=(0.9, 0.999), eps=1e-5, **head)",
        "eps=1e-5, **head)",
        "Adam's betas are those of the other stages.",
    ),
    (
        'parts["kl_coef"], shape = controller.kl_coef,',
        'parts["kl_coef"], shape = args.kl_coef,',
        "The checkpoint holds the coefficient that the run began with.",
    ),
    (
        "share = optim.linear(step, args.updates, args.warmup)",
        "share = optim.linear(step - first, args.updates, args.warmup)",
        "A resumed run warms up again.",
    ),
    (
        '"episodes": updates * args.batch_size}',
        '"episodes": step * args.batch_size}',
        "The episodes are those before the update.",
    ),
    (
        "if args.microscope and (not step or progress.due(args.eval_every)):",
        "if args.microscope and progress.due(args.eval_every):",
        "The first update is not in the microscope.",
    ),
    (
        "microscope.record(args, folder, step, models, rollout)",
        "microscope.record(args, folder, updates, models, rollout)",
        "The microscope's records have the number of the next update.",
    ),
    (
        "context = min(gpt.config.context for gpt in trunks)",
        "context = reference.config.context",
        "Prompts that do not fit the reward model's context are kept.",
    ),
    (
        "reward_models, reference, tokenizer, prompts)\n",
        "reward_models, reference, tokenizer, held_out)\n",
        "A combined score is normalised on the held-out prompts.",
    ),
    (
        "monitor = Monitor(args, tokenizer, held_out, final_score, reference, held_out_text)",
        "monitor = Monitor(args, tokenizer, held_out, final_score, reference, text)",
        "The loss on held-out text is that on the text that is learned from.",
    ),
    (
        '"data": prompts + held_out,',
        '"data": prompts,',
        "A resumed run may have other held-out prompts.",
    ),
    (
        '"rm": ensemble.one(reward_models)}',
        '"rm": reward_models[0] if reward_models else None}',
        "A resumed run may have another second reward model.",
    ),
    (
        'flags |= {"reward_model": reward_models[0]}',
        'flags |= {"reward_model": reward_models[-1]}',
        "The command at the end names the last of several reward models.",
    ),
    (
        '"reward": args.reward, "missing_end_score": args.missing_end_score}',
        '"reward": args.reward}',
        "The command at the end leaves the missing-end score out.",
    ),
    (
        "args.kl_target and args.kl_horizon < args.batch_size",
        "args.kl_target and args.kl_horizon <= args.batch_size",
        "A horizon of one batch is refused.",
    ),
    (
        "if args.minibatches > args.batch_size:",
        "if args.minibatches >= args.batch_size:",
        "Minibatches of one response are refused.",
    ),
    (
        "if updates > args.updates:",
        "if updates >= args.updates:",
        "A finished run cannot be resumed to see that it is finished.",
    ),
    (
        "stored if math.isnan(args.missing_end_score) else args.missing_end_score",
        "stored if math.isnan(args.missing_end_score) or not args.missing_end_score else "
        "args.missing_end_score",
        "--missing-end-score 0 counts as not given.",
    ),
    (
        'config.HELD_OUT_PROMPTS), "validation")',
        'config.HELD_OUT_PROMPTS), "test")',
        "The held-out prompts are those that are kept for the final report.",
    ),
    (
        '"return_mean", "policy_loss", "value_loss", "entropy", "grad_norm")',
        '"return_mean", "policy_loss", "entropy")',
        "A gradient that is infinite is no divergence.",
    ),
    (
        "int(samples.lengths.sum()) / clock.total()}",
        'int(samples.lengths.sum()) / clock.seconds["rollout_s"]}',
        "The tokens per second are those of sampling alone.",
    ),
    (
        "chain.refuse_mixed(args, path, *reward_paths)",
        "chain.refuse_mixed(args, path)",
        "A reward model of the world scores responses to your prompts, and nothing is said.",
    ),
    (
        'health.warn(health.short_run(args.updates, args.warmup, "raise --updates"))',
        'health.warn(health.short_run(args.updates * args.minibatches, args.warmup, "raise"))',
        "Nobody is warned of a run that ends in its warm-up.",
    ),
    (
        "scores = ppo.missing_end_rule(raw_scores, samples.ended, models.missing_end_score)",
        "scores = ppo.missing_end_rule(raw_scores, samples.ended, raw_scores.min())",
        "A response without end gets the lowest score of its batch.",
    ),
    (
        "step * n, (step + 1) * n, args.seed)",
        "step * n, (step + 1) * n, args.seed + step)",
        "The passes over the prompts overlap: some are seen twice before others are seen once.",
    ),
    (
        "stats |= ensemble.stats(models.score)",
        "stats |= {}",
        "How far several reward models disagree is not logged.",
    ),
]
EVALUATE_COMMAND = [
    (
        'replies["policy"], args.temperature or 1.0)',
        'replies["policy"])',
        "The KL is that at temperature 1, whatever the samples have.",
    ),
    (
        "    if score and args.best_of > 1:\n",
        "    if score and args.best_of > 2:\n",
        "--best-of 2 is left out.",
    ),
    (
        "chain.missing_end_score(args.policy, args.reward_model, args.reward, stored)",
        "chain.missing_end_score(args.baseline, args.reward_model, args.reward, stored)",
        "The missing-end score is not that of the policy's training.",
    ),
    (
        "    if math.isnan(number):\n        number = chain",
        "    if math.isnan(number) or not number:\n        number = chain",
        "--missing-end-score 0 counts as not given.",
    ),
    (
        'writers.prompts(args.prompts, stream, "validation")',
        'writers.prompts(args.prompts, stream, "test")',
        "It evaluates on the split that is kept for the final report.",
    ),
    (
        'columns = [*names, "score", "kl", "length", "ended"]',
        'columns = [*names, "kl", "score", "length", "ended"]',
        "In the file score and KL are exchanged.",
    ),
    (
        'responses, replies["baseline"])\n',
        'responses, replies["policy"])\n',
        "The win rates are against the policy.",
    ),
    (
        '{"rate": rate, "half_width": number(half_width)}',
        '{"rate": rate, "half_width": number(2 * half_width)}',
        "The file has the whole width of the interval.",
    ),
    (
        'zip(prompts, texts["baseline"], texts["policy"], strict=False)',
        'zip(prompts, texts["policy"], texts["baseline"], strict=False)',
        "Baseline and policy are exchanged in the samples.",
    ),
    (
        "{name: side[n].text for name, side in replies.items()}",
        "{name: side[n - 1].text for name, side in replies.items()}",
        "The file has the responses beside the next prompt.",
    ),
    (
        '"prompts": len(prompts), "seed": args.seed}',
        '"prompts": args.prompts, "seed": args.seed}',
        "The file has the number of prompts that was asked for.",
    ),
    (
        "*([reward_model.gpt] if reward_model else [])]",
        "]",
        "Prompts that do not fit the reward model's context are kept.",
    ),
    (
        "checkpoint.same_vocabulary(args.policy, tokenizer, args.baseline, other)",
        "checkpoint.same_vocabulary(args.policy, tokenizer, args.baseline, tokenizer)",
        "Models of two vocabularies are compared.",
    ),
    (
        "checkpoint.same_vocabulary(args.policy, tokenizer, args.reward_model, other)",
        "checkpoint.same_vocabulary(args.policy, tokenizer, args.reward_model, tokenizer)",
        "A reward model of another vocabulary scores the ids.",
    ),
    (
        "[1] or prompts[:1]\n",
        "[1] or prompts\n",
        "Where nothing was held out, it evaluates on what was learned from.",
    ),
    (
        "        return prompts[: args.prompts]\n",
        "        return prompts[-args.prompts :]\n",
        "The last prompts of a file are used, and not the first.",
    ),
    (
        'results["win_rates"] = show_win_rates(prompts, replies, prefer, results["judge"])',
        'results["win_rates"] = show_win_rates(\n'
        '        prompts, replies, prefer and evaluate.by_score(score), results["judge"]\n    )',
        "The judge is the score, whoever is named.",
    ),
    (
        'print(f"{name} beats the baseline: {percent} {ending}")',
        'print(f"{name} beats the baseline: {100 - 100 * rate:.1f}% {ending}")',
        "The console says how often the baseline wins.",
    ),
]
REPORT = [
    (
        "Answers(replies, kl, -float(logprobs.mean()))",
        "Answers(replies, kl, -float(ref_logprobs.mean()))",
        "The entropy is the cross entropy with the SFT model.",
    ),
    (
        "memoriser = Memoriser(MEMORISED, rng(args.seed, config.PPO_PROMPTS))",
        "memoriser = Memoriser(MEMORISED, rng(args.seed, config.RANKED_PROMPTS))",
        "The memoriser knows other prompts than PPO.",
    ),
    (
        'evaluate.wins(values[name]["total"], sft["total"]).mean())',
        'evaluate.wins(values[name]["helpful"], sft["helpful"]).mean())',
        "What beats SFT goes by helpfulness.",
    ),
    (
        '"clusters": len(set(clusters))}',
        '"clusters": len(clusters)}',
        "The number of clusters is that of the prompts.",
    ),
    (
        "measures.diversity(side.replies)",
        'measures.diversity(answers["SFT"].replies)',
        "Every policy is as diverse as SFT.",
    ),
    (
        "interval(ppo[measure] - column, clusters)]",
        "interval(ppo[measure] - column[::-1], clusters)]",
        "The differences are not paired.",
    ),
    (
        'report["win_rate"] = interval(evaluate.wins(ppo["total"], sft["total"]), clusters)',
        'report["win_rate"] = evaluate.interval(evaluate.wins(ppo["total"], sft["total"]))',
        "The interval of the win rate takes every prompt for a cluster.",
    ),
    (
        'report["win_rate"] = interval(evaluate.wins(ppo["total"], sft["total"]), clusters)',
        'report["win_rate"] = interval(ppo["total"] > sft["total"], clusters)',
        "A tie counts as a loss.",
    ),
    (
        "return (values[1] - values[0]) / (values[2] - values[0])",
        "return (values[1] - values[0]) / values[2]",
        "The share of the way is that of the level, and not of the gain.",
    ),
    (
        "if None in values or values[0] == values[2]:",
        "if None in values or values[0] == values[1]:",
        "Where PPO gained nothing, the share of the way is missing.",
    ),
    (
        'checkpoint.same_vocabulary(path, other, "the SFT model", tokenizer)',
        'checkpoint.same_vocabulary(path, other, "the SFT model", other)',
        "A policy of another vocabulary is compared.",
    ),
    (
        '"PPO on the judge": "on-judge/ppo",',
        '"PPO on the judge": "on-judge/dpo",',
        "PPO on the judge is not found.",
    ),
    (
        'pretrained = last == "sft" and (Path(out) / "pretrain").exists()',
        'pretrained = (Path(out) / "pretrain").exists()',
        "The command compares PPO with the pretrained model.",
    ),
    (
        'for stage in ("ppo", "dpo") if stage in flags), "sft")',
        'for stage in ("dpo", "ppo") if stage in flags), "sft")',
        "The command compares DPO where PPO was trained as well.",
    ),
    (
        'values["data"] for values in flags.values() if values.get("data"))',
        'values["data"] for values in [*flags.values()][:1] if values.get("data"))',
        "Only the data of the last stage tell that a run is on own data.",
    ),
    (
        "config.HELD_OUT_PROMPTS), args.split)",
        'config.HELD_OUT_PROMPTS), "validation")',
        "The report says test, and its prompts are those of validation.",
    ),
    (
        "np.mean([reply.length for reply in side.replies])",
        "np.mean([len(reply.text) for reply in side.replies])",
        "The length is in characters.",
    ),
    (
        "    return evaluate.interval(column[applies], clusters[applies])",
        "    return evaluate.interval(column[applies], clusters[: applies.sum()])",
        "The clusters of a measure are those of other prompts.",
    ),
    (
        "evaluate.Reply(pair[1], data.encode(tokenizer, *pair), True)",
        "evaluate.Reply(pair[1], data.encode(tokenizer, pair[1], pair[0]), True)",
        "The reward model scores the prompt as an answer to the response.",
    ),
]
RESULTS = [
    (
        "values = [value for value in values if value is not None]",
        "values = [value for value in values if value]",
        "A seed whose value is 0 counts as missing.",
    ),
    (
        "    if len(values) < 3:\n",
        "    if len(values) <= 3:\n",
        "Three seeds have no interval.",
    ),
    (
        '[f"seed {s}" for s in columns]',
        '[f"seed {s}" for s in range(1, len(columns) + 1)]',
        "The seeds are counted and not named.",
    ),
    (
        "score(prompts, best).mean()), float(total)))",
        "scores.max(1).mean()), float(total)))",
        "Every n has the reward model's score of the largest n.",
    ),
    (
        "points.append((evaluate.best_of_n_kl(n),",
        "points.append((math.log(n),",
        "The KL of best of n lacks its second term.",
    ),
    (
        'half_width = math.hypot(peak["eval_total_half"], end["eval_total_half"])',
        'half_width = peak["eval_total_half"] + end["eval_total_half"]',
        "The half widths of a difference are added.",
    ),
    (
        'f"{end[\'eval_score\']:.2f}", f"{score:+.2f}"]',
        'f"{score:+.2f}", f"{end[\'eval_score\']:.2f}"]',
        "The score and its change are exchanged.",
    ),
    (
        "row = [name, f\"{end['eval_total']:.2f} ± {end['eval_total_half']:.2f}\"]",
        "row = [name, f\"{end['eval_total']:.2f} ± {half_width:.2f}\"]",
        "The total has the interval of its change.",
    ),
    (
        'rng(seed, config.HELD_OUT_PROMPTS), "validation")',
        'rng(seed, config.HELD_OUT_PROMPTS), "test")',
        "The best-of-n curve is on the split that is kept for the final report.",
    ),
    (
        '*(COSTS[:4] if name == "SFT" else ())',
        '*(COSTS[:4] if name != "SFT" else ())',
        "The costs are told against the memoriser.",
    ),
    (
        'name.startswith(("agreement", "calibration", "labellers", "tied"))',
        'name.startswith(("agreement", "calibration", "labellers"))',
        "The share of tied comparisons is not told.",
    ),
    (
        'lines[f"PPO - {name}, {measure}"] = f"{mean:+.2f} ± {half_width:.2f}"',
        'lines[f"PPO - {name}, {measure}"] = f"{mean:+.2f} ± {half_width / 1.96:.2f}"',
        "What stands behind ± is a standard error.",
    ),
]
GATES = [
    (
        'wordings = entry["say"] + entry["brief"]',
        'wordings = entry["say"]',
        "The short wordings are left out.",
    ),
    (
        "+ decay * w.square().sum()",
        "+ decay * w.abs().sum()",
        "The penalty is the absolute value of the weights.",
    ),
    (
        "folds = differences[::2], differences[1::2]",
        "rows = torch.cat(differences)\n    folds = [rows[::2]], [rows[1::2]]",
        "Statements of one fact stand in both folds.",
    ),
    (
        "for train, test in (folds, folds[::-1]):",
        "for train, test in (folds,):",
        "Half of the facts are never tested.",
    ),
    (
        "differences.append(torch.cat([states[0] - state for state in states[1:]]))",
        "differences.append(torch.cat([states[0] - state for state in states[1:2]]))",
        "Only the first misconception of a fact is probed.",
    ),
    (
        '"facts_ranked_right": majority, "passed": mean >= 0.9}',
        '"facts_ranked_right": majority, "passed": majority >= 0.9}',
        "The gate goes by the majority of the wordings.",
    ),
    (
        "key=lambda item: item[1])[:5]",
        "key=lambda item: item[1])[-5:]",
        "The misconceptions that are shown are the best ones.",
    ),
    (
        "[judgement.honest for judgement",
        "[judgement.honest > 0 for judgement",
        "A vague answer counts as a true fact.",
    ),
    (
        '"best_of_n_gain": gain, "passed": gain >= 0.15}',
        '"best_of_n_gain": gain, "passed": gain - half_width >= 0.15}',
        "The gate asks for more than it says.",
    ),
    (
        '"judge_facts": facts.mean(), "passed": facts.mean() >= 0.9}',
        '"judge_facts": facts.mean(), "passed": facts.mean() > 0.9}',
        "A share of exactly 0.9 does not pass.",
    ),
    (
        'sys.exit(0 if measure(argv).get("passed", True) else 1)',
        'sys.exit(0 if measure(argv).get("passed") else 1)',
        "The probe, which has nothing to pass, ends with exit code 1.",
    ),
    (
        "scale = x.std(0).clamp(min=1e-6)",
        "scale = torch.cat(train + test).std(0).clamp(min=1e-6)",
        "The features are scaled by the facts that are tested, too.",
    ),
]
DPO = [
    (
        "steps = -(-len(comparisons) * args.epochs // args.batch_size)",
        "steps = max(1, len(comparisons) * args.epochs // args.batch_size)",
        "The last batch, which is smaller, is left out.",
    ),
    (
        "optim.cosine(step, steps, args.warmup)",
        "optim.cosine(step - first, steps - first, args.warmup)",
        "A resumed run warms up again.",
    ),
    (
        "response_lengths([examples])",
        "torch.tensor([len(example.tokens) for example in examples])",
        "The mean of a token counts the prompt.",
    ),
    (
        'return Method("ipo", args.tau)',
        'return Method("ipo", args.beta)',
        "The strength of IPO is --beta.",
    ),
    (
        'return Method("simpo", args.beta, args.gamma)',
        'return Method("simpo", args.gamma, args.beta)',
        "--beta and --gamma are exchanged.",
    ),
    (
        "if getattr(args, name) != getattr(defaults, name):",
        "if getattr(args, name) > getattr(defaults, name):",
        "A flag that the loss does not read is refused only if it is larger than its default.",
    ),
    (
        'if args.loss == "kto" and args.batch_size < 2:',
        'if args.loss == "kto" and args.batch_size <= 2:',
        "KTO with two prompts per step is refused.",
    ),
    (
        'start_run(args, tokenizer, "dpo", data=records, sft=reference)',
        'start_run(args, tokenizer, "dpo", data=comparisons, sft=reference)',
        "A resumed run may have other held-out comparisons.",
    ),
    (
        'models = {"policy": folder, "baseline": path}',
        'models = {"policy": folder, "baseline": f"{args.out}/sft"}',
        "The command at the end names another SFT model than --sft.",
    ),
    (
        "if not is_comparison(x) or len(set(x.ranks)) > 1]",
        'if len(set(getattr(x, "ranks", ()))) > 1]',
        "KTO leaves out what is labelled good or bad by itself.",
    ),
    (
        'trained = (Path(args.out) / "rm" / "checkpoint.pt").exists()',
        'trained = (Path(args.out) / "rm").exists()',
        "The command at the end names a reward model of which there is only a file of comparisons.",
    ),
    (
        'step = int(checkpoint.load(folder, ("dpo",))["step"])',
        'step = int(checkpoint.load(folder, ("dpo",))["step"]) - 1',
        "The numbers of the held-out comparisons replace the record of the last step.",
    ),
    (
        "comparisons, held_out = (list(filter(is_comparison, x)) for x in (comparisons, held_out))",
        "held_out = list(filter(is_comparison, held_out))",
        "The baselines are asked to learn from single responses.",
    ),
    (
        "return [[next(rewards) for _ in c.responses] for c in comparisons]",
        "return [[next(rewards) for _ in comparisons[0].responses] for c in comparisons]",
        "Where prompts have different numbers of responses, the rewards belong to others.",
    ),
    (
        "agreement.calibration(held_out, scores)",
        "agreement.calibration(held_out, [[x / len(s) for x in s] for s in scores])",
        "The calibration is that of rewards divided by the number of responses.",
    ),
    (
        "fits = data.fits_context(tokenizer, reference.config.context, drop_long=args.drop_long)",
        "fits = data.fits_context(tokenizer, reference.config.context, drop_long=True)",
        "Comparisons that do not fit are left out, and nothing is said.",
    ),
    (
        '"kto": ("beta", "undesirable_weight"),',
        '"kto": ("beta", "undesirable_weight", "lam"),',
        "--lam beside --loss kto is ignored, and nothing is said.",
    ),
]
MONITOR = [
    (
        "self.record(updates - 1, folder,",
        "self.record(updates, folder,",
        "The evaluations have the number of the next update.",
    ),
    (
        "numbers |= self.text_loss(gpt)",
        "numbers |= self.text_loss(self.reference)",
        "The policy's loss on text is the SFT model's.",
    ),
    (
        'sides = ("totals", replies), ("sft_totals", self.sft_replies)',
        'sides = ("totals", self.sft_replies), ("sft_totals", replies)',
        "The totals of the SFT model and of the policy are exchanged.",
    ),
    (
        '{"scores": scores.tolist(), "kls": kls.tolist()}',
        '{"scores": scores.tolist(), "kls": kls.sort().values.tolist()}',
        "The KLs belong to other prompts.",
    ),
    (
        'wins(policy["total"], sft["total"]).mean()',
        'wins(policy["flawless"], sft["flawless"]).mean()',
        "A policy beats SFT where it is flawless and SFT is not.",
    ),
    (
        "np.mean([reply.length for reply in replies])",
        "np.mean([reply.length - reply.ended for reply in replies])",
        "The length lacks the end token.",
    ),
    (
        "rows = list(zip(*columns, strict=True))[:5]",
        "rows = list(zip(*columns, strict=True))[-5:]",
        "The samples are those of the last prompts.",
    ),
    (
        'for name in ("parsed", "declined")}',
        'for name in ("declined", "parsed")}\n        numbers["declined"] = 1 - numbers["parsed"]',
        "What was declined is what cannot be read.",
    ),
    (
        "self.sft_numbers |= self.text_loss(reference)",
        "self.sft_numbers |= {}",
        "The SFT model's loss on text is not logged.",
    ),
]
EVALUATE = [
    (
        "draws = torch.from_numpy(uniforms[rows])",
        "draws = torch.from_numpy(uniforms[: len(ids[rows])])",
        "Every 512 prompts have the same noise.",
    ),
    (
        "data.Example(tokens[:length], prompt_length), ended))",
        "data.Example(tokens, prompt_length), ended))",
        "A reply's ids go on behind its end.",
    ),
    (
        'return [reply.text if reply.ended else "" for reply in replies]',
        "return [reply.text for reply in replies]",
        "A judge sees a response that was cut off as if it were whole.",
    ),
    (
        "sums[rows] = logprobs.sum(1).cpu()",
        "sums[rows] = logprobs.mean(1).cpu()",
        "The log-probability of a response is a mean.",
    ),
    (
        "logprobs, _ = model.logprobs(gpt, tokens, mask, temperature)",
        "logprobs, _ = model.logprobs(gpt, tokens, mask)",
        "A log-probability is that at temperature 1.",
    ),
    (
        "return logprobs - sequence_logprobs(reference, examples, temperature)",
        "return logprobs - sequence_logprobs(reference, examples)",
        "The reference's log-probabilities are those at temperature 1.",
    ),
    (
        "error = math.sqrt(len(sums) / (len(sums) - 1) * np.square(sums).sum()) / len(values)",
        "error = math.sqrt(np.square(sums).sum()) / len(values)",
        "The standard error is not corrected for few clusters.",
    ),
    (
        "np.square(sums).sum()) / len(values)",
        "np.square(sums).sum()) / len(sums)",
        "The standard error divides by clusters and not by values.",
    ),
    (
        "t95(len(sums) - 1) * error",
        "t95(len(values) - 1) * error",
        "Student's t has the degrees of the values.",
    ),
    (
        "return T95[n - 1]",
        "return T95[max(n - 2, 0)]",
        "Student's t has one degree less.",
    ),
    (
        "uniforms = noise(seed, len(repeated), max_new_tokens, config.CANDIDATE_NOISE)",
        "uniforms = noise(seed, len(repeated), max_new_tokens)",
        "The candidates have the noise of the single samples.",
    ),
    (
        "dtype=np.float64).reshape(-1, n)",
        "dtype=np.float64).reshape(n, -1).T",
        "The scores belong to other candidates.",
    ),
    (
        "    columns = scores[:, :n].argmax(1)\n",
        "    columns = n - 1 - scores[:, n - 1 :: -1].argmax(1) if n else 0\n",
        "Of equal scores the last is taken.",
    ),
    (
        "prompts, n, max_new_tokens, seed, temperature\n    )\n    return best(",
        "prompts, n, max_new_tokens, seed\n    )\n    return best(",
        "Best of n samples at temperature 1.",
    ),
    (
        "return ppo.missing_end_rule(score(prompts, replies), ended, missing_end_score)",
        "return score(prompts, replies) + missing_end_score * ~ended",
        "The missing-end score is added to a score, and does not replace it.",
    ),
    (
        "return len(self.example.tokens) - self.example.prompt_length",
        "return len(self.example.tokens) - self.example.prompt_length - self.ended",
        "The length lacks the end token.",
    ),
    (
        "return (1 + np.sign(np.asarray(first) - np.asarray(second))) / 2",
        "return np.float64(np.asarray(first) >= np.asarray(second))",
        "A tie counts as a win.",
    ),
    (
        "return math.log(n) - (n - 1) / n",
        "return math.log(n)",
        "The KL of best of n lacks its second term.",
    ),
]
CHECKPOINT = [
    (
        "    refuse_replaced(folder)\n",
        "",
        "A run that was half replaced is resumed.",
    ),
    (
        "        refuse_lost_files(args, Path(args.out) / stage)\n",
        "",
        "A file that the run would replace is noticed late, or not at all.",
    ),
    (
        'resume.refuse_changed_flags(dataclasses.asdict(args), record, folder / "config.json")',
        'resume.refuse_changed_flags(flags, record, folder / "config.json")',
        "A resumed run may change any flag.",
    ),
    (
        'defaults=flags | {"resume": False, "overwrite": False})',
        "defaults=flags)",
        "What a first command said of --overwrite holds for the run that goes on.",
    ),
    (
        'header["samples_bytes"] = samples_size(path.parent)',
        'header["samples_bytes"] = 0',
        "A resumed run empties samples.txt.",
    ),
    (
        "for part in state.values():\n        if name := first_not_finite(part):",
        'for part in [state.get("model")]:\n        if name := first_not_finite(part):',
        "A value head that is not finite is saved.",
    ),
    (
        "previous = path.with_name(PREVIOUS) if keep else None",
        "previous = path.with_name(PREVIOUS)",
        "--keep 0 keeps the checkpoint before the last.",
    ),
    (
        "return lora.merged(state) if adapted(part) else state",
        "return state",
        "A checkpoint holds adapters beside the weights, and not merged ones.",
    ),
    (
        "load_part(part, state.get(name), folder)",
        "load_part is load_optimizer or load_part(part, state.get(name), folder)",
        "The optimiser begins anew in a resumed run.",
    ),
    (
        'state = {"adapters": {}} | load(folder, (stage,))',
        'state = {"adapters": {}} | load(folder, (*POLICIES, "rm"))',
        "A run goes on from a checkpoint of another stage.",
    ),
    (
        "if {name: tensor.dtype for name, tensor in weights.items()} != types:",
        "if weights.keys() != types.keys():",
        "Weights in half precision are loaded, and nothing is said.",
    ),
    (
        "if settings(optimizer) != before or not fits or len(pairs) % 3:",
        "if not fits or len(pairs) % 3:",
        "An optimiser with other betas goes on, and its own are lost.",
    ),
    (
        "if settings(optimizer) != before or not fits or len(pairs) % 3:",
        "if settings(optimizer) != before or not fits:",
        "An optimiser that lacks a moment goes on.",
    ),
    (
        "    if resume.fingerprint(weights) != before:\n",
        "    if not before:\n",
        "Adapters stand beside a model that they were not trained beside.",
    ),
    (
        'tokenizer.fingerprint() != state["vocabulary"] or tokenizer.vocab_size != size',
        "tokenizer.vocab_size != size",
        "Another vocabulary of the same size is taken for the one that was trained with.",
    ),
    (
        "    gpt.precision = precision\n",
        "",
        "--precision is ignored where a model is loaded.",
    ),
    (
        "if tokenizer.fingerprint() != other.fingerprint():",
        "if tokenizer.name != other.name:",
        "Two vocabularies of one name are taken for the same.",
    ),
    (
        "if before not in (None, resume.fingerprint(sft)):",
        "if before != resume.fingerprint(sft):",
        "A policy of an older version, which does not say what it began with, is refused.",
    ),
    (
        'return "adapters" in state and inputs.get("sft") == resume.fingerprint(sft)',
        'return "adapters" in state',
        "The adapters of a reward model stand beside another SFT model than theirs.",
    ),
    (
        "        if type(value) is not int or value < 0:\n",
        "        if type(value) is not int:\n",
        "A checkpoint with a negative step is loaded.",
    ),
    (
        'if state["stage"] not in stages:',
        'if state["stage"] not in (*POLICIES, "rm"):',
        "A reward model is taken for a policy.",
    ),
    (
        "if isinstance(value, torch.Tensor) and not value.isfinite().all():",
        "if isinstance(value, torch.Tensor) and value.isnan().any():",
        "A weight that is infinite is saved.",
    ),
]
RESUME = [
    (
        '*("updates", "eval_every", "save_every", "keep", "track", "microscope"),',
        '*("updates", "eval_every", "save_every", "keep", "track", "microscope", "warmup"),',
        "A resumed run may change the warm-up.",
    ),
    (
        '*("updates", "eval_every", "save_every", "keep", "track", "microscope"),',
        '*("updates", "eval_every", "save_every", "keep", "track", "microscope", "held_out"),',
        "A resumed run may hold out other records.",
    ),
    (
        '*("updates", "eval_every", "save_every", "keep", "track", "microscope"),',
        '*("updates", "save_every", "keep", "track", "microscope"),',
        "A resumed run may not change --eval-every.",
    ),
    (
        '    "gradient_checkpointing",\n',
        "",
        "A resumed run may not change --gradient-checkpointing, which changes memory alone.",
    ),
    (
        "        for record in value:\n            digest",
        "        for record in value[:1]:\n            digest",
        "Data are known by their first record.",
    ),
    (
        "        for record in value:\n            digest",
        "        for record in sorted(value, key=repr):\n            digest",
        "Data whose records stand in another order are taken for the same.",
    ),
    (
        "if value not in (None, [])}",
        "if value}",
        "A missing-end score of 0 has no fingerprint.",
    ),
    (
        "flags = {name: None if is_nan(value) else value for",
        "flags = {name: 0.0 if is_nan(value) else value for",
        "A number that was not set is 0 in config.json.",
    ),
    (
        'place = ("out", "resume", "overwrite")',
        'place = ("resume", "overwrite")',
        "A checkpoint says where its run was, so that two equal runs differ.",
    ),
    (
        'if state.get("weights_only"):',
        'if state.get("weights_only") and "optimizer" in state:',
        "Weights without an optimiser are resumed.",
    ),
    (
        'refuse_changed_flags(record["flags"], saved, Path(folder) / "checkpoint.pt")',
        "pass",
        "A config.json of another run is taken for that of the checkpoint.",
    ),
    (
        'refuse_changed_inputs(record.get("inputs", {}), saved, Path(folder) / "checkpoint.pt")',
        "pass",
        "A config.json that names other inputs is taken for that of the checkpoint.",
    ),
    (
        'value = record["flags"].get(field.name, field.default)',
        'value = record["flags"].get(field.name) or field.default',
        "A flag that was set to 0 or False has its default in the resumed run.",
    ),
    (
        '            inputs = record.get("inputs", {}) | inputs\n',
        "            pass\n",
        "What a run added to its record is lost when it is resumed.",
    ),
    (
        'record["inputs"] = record.get("inputs", {}) | inputs',
        'record["inputs"] = inputs',
        "What a run adds to its record replaces what it began with.",
    ),
    (
        'return name in record.get("inputs", {}) and (default or bool(before) == bool(value))',
        'return name in record.get("inputs", {}) and default',
        "A file of data cannot be moved.",
    ),
    (
        'return name in record.get("inputs", {}) and (default or bool(before) == bool(value))',
        "return default or bool(before) == bool(value)",
        "Any flag may change from one value to another.",
    ),
    (
        'if name in OF_CODE and not (before + now).count("weights"):',
        "if name in OF_CODE:",
        "Another labelling model is only warned of.",
    ),
    (
        "unset = [x is None or is_nan(x) for x in (before, value)]",
        "unset = [not x or is_nan(x) for x in (before, value)]",
        "A number that was not set may become 0 in a resumed run.",
    ),
    (
        "return before == value or all(unset)",
        "return before == value or any(unset)",
        "What was not set may be set in a resumed run.",
    ),
]
HEALTH = [
    (
        "if kl > max(10, length / 2):",
        "if kl > min(10, length / 2):",
        "A KL of 5 nats in a response of 8 tokens is a runaway.",
    ),
    (
        'first, entropy = recent(records[:1], "entropy"), recent(records, "entropy", 5)',
        'first, entropy = recent(records[-WINDOW:][:1], "entropy"), recent(records, "entropy", 5)',
        "The entropy is compared with that of ten steps ago.",
    ),
    (
        'unfinished = 1 - recent(records, "ended")',
        'unfinished = 1 - recent(records, "ended", 5)',
        "A single update with unfinished responses is not told at once.",
    ),
    (
        'recent(records, "advantage_std") < 1e-4',
        'recent(records, "advantage_std") < 0',
        "Advantages that are all 0 are not told.",
    ),
    (
        'recent(records, "step") < 19:',
        'recent(records, "step") < 9:',
        "The critic has ten updates and not twenty.",
    ),
    (
        "if explained < -0.5 or spread < target / 1000:",
        "if explained < -0.5:",
        "Values that never move are not told.",
    ),
    (
        "if clipped > 0.3 or kl > 0.1:",
        "if clipped > 0.3 and kl > 0.1:",
        "Large steps are told only where both signs are there.",
    ),
    (
        "if score > max(largest, mean + 4 * spread) and 1 - ended <= CUT_OFF:",
        "if score > max(largest, mean + 4 * spread):",
        "Scores that rise since responses end now are called unknown.",
    ),
    (
        'if "policy_loss" not in records[0] and loss > 1.5 * max(first, 0.7):',
        "if loss > 1.5 * max(first, 0.7):",
        "The loss of PPO, which means nothing, is watched.",
    ),
    (
        'if "policy_loss" not in records[0] and loss > 1.5 * max(first, 0.7):',
        'if "policy_loss" not in records[0] and loss > 1.5 * first:',
        "A small loss that rises by half is called a divergence.",
    ),
    (
        "    if steps < warmup:\n",
        "    if steps <= warmup:\n",
        "A run that ends with its warm-up is warned of.",
    ),
    (
        "share = sum(length > max_new_tokens for length in lengths)",
        "share = sum(length >= max_new_tokens for length in lengths)",
        "A response that just fits counts as cut off.",
    ),
    (
        "enough = sorted(lengths)[math.ceil(0.95 * len(lengths)) - 1]",
        "enough = sorted(lengths)[math.ceil(0.95 * len(lengths)) - 2]",
        "The length that is recommended fits fewer than 95%.",
    ),
    (
        "        self.known |= set(new)\n",
        "        self.known = set(new)\n",
        "A sign that goes on is told at every other step.",
    ),
    (
        "self.records, self.known = [*records[:1], *records[1:][-WINDOW:]], set()",
        "self.records, self.known = [], set()",
        "A resumed run takes its first record for the first of all.",
    ),
    (
        'signs = [(record["step"], watch.signs(record)) for record in records]',
        "signs = [(place, watch.signs(record)) for place, record in enumerate(records)]",
        "The step of a sign is the number of its record.",
    ),
    (
        "return sum(values) / n if len(values) == n else math.nan",
        "return sum(values) / len(values) if values else math.nan",
        "Fewer records than asked for are enough for a sign.",
    ),
    (
        "values = [record[name] for record in records if record.get(name) is not None][-n:]",
        "values = [record[name] for record in records[-n:] if record.get(name) is not None]",
        "A record without a metric breaks off the records that have it.",
    ),
]
PROGRESS = [
    (
        "return self.done % every == 0 or self.done == self.steps",
        "return self.done % every == 0",
        "The last step has no checkpoint of its own.",
    ),
    (
        "        if self.due(self.save_every) or signal:\n",
        "        if self.due(self.save_every):\n",
        "What was trained since the last save is lost at Ctrl-C.",
    ),
    (
        "self.metrics.log(self.done - 1, **self.pending, weight_rms=size)",
        "self.metrics.log(self.done, **self.pending, weight_rms=size)",
        "A record has the number of the next step.",
    ),
    (
        "        if self.saved < self.done:\n",
        "        if self.saved <= self.done:\n",
        "A step that was saved is saved again, and the checkpoint before it is lost.",
    ),
    (
        "            self.metrics.flush()\n            self.write(self.done)\n",
        "            self.write(self.done)\n            self.metrics.flush()\n",
        "After a power failure a checkpoint may lack its metrics.",
    ),
    (
        "        if failed and self.whole:\n",
        "        if failed:\n",
        "A checkpoint holds the half of a step.",
    ),
    (
        "not isinstance(error, KeyboardInterrupt | Divergence)",
        "not isinstance(error, KeyboardInterrupt)",
        "A model that diverged replaces the last good one.",
    ),
    (
        "self.watch = health.Watch(read_metrics(folder))",
        "self.watch = health.Watch()",
        "A resumed run forgets what a healthy start looked like.",
    ),
    (
        "        cut_samples(folder, state)\n",
        "",
        "A resumed run repeats samples that are in the file already.",
    ),
    (
        "        self.hook.remove()\n",
        "",
        "The hook stays on the optimiser.",
    ),
    (
        "            raise KeyboardInterrupt(signal)\n",
        "            raise KeyboardInterrupt\n",
        "A run that was stopped by SIGTERM ends with the exit code of Ctrl-C.",
    ),
    (
        "            self.pending = None\n            self.watch.see(record)\n",
        "            self.watch.see(record)\n",
        "A step may be logged twice.",
    ),
    (
        '        if not self.saved:\n            return "nothing was saved yet"\n',
        '        if not self.done:\n            return "nothing was saved yet"\n',
        "It says that a checkpoint is there before there is one.",
    ),
]
METRICS = [
    (
        'if record["step"] < step]',
        'if record["step"] <= step]',
        "A resumed run logs its first step twice.",
    ),
    (
        "for name, x in numbers.items() if x is not None}",
        "for name, x in numbers.items() if x}",
        "A number that is 0 is left out.",
    ),
    (
        "self.seconds[name], self.start = stop - self.start, stop",
        "self.seconds[name] = stop - self.start",
        "A lap counts those before it.",
    ),
    (
        "for place, line in enumerate(lines[:-1], start=1):",
        "for place, line in enumerate(lines if lines[-1] else lines[:-1], start=1):",
        "A line that was cut short is read.",
    ),
    (
        "                file.truncate(size)\n",
        "                pass\n",
        "A full disk leaves half a line.",
    ),
    (
        'type(record.get("step")) is int and record["step"] >= 0',
        'type(record.get("step")) is int',
        "A record with a negative step is read.",
    ),
    (
        'float(f"{x:.7g}") if math.isfinite(x) else None',
        'float(f"{x:.4g}") if math.isfinite(x) else None',
        "Numbers are logged to four digits.",
    ),
    (
        "for name in (MICROSCOPE, EVALUATIONS):",
        "for name in (MICROSCOPE,):",
        "A resumed run has evaluations twice.",
    ),
    (
        'size = state.get("samples_bytes", 0 if state["step"] == 0 else math.inf)',
        'size = state.get("samples_bytes", math.inf)',
        "A run that begins anew keeps the samples of what was never saved.",
    ),
    (
        'cut_back(Path(folder) / name, state["step"])',
        'cut_back(Path(folder) / name, state["step"] + 1)',
        "A resumed run has an evaluation twice.",
    ),
    (
        "*table(header, rows, width=10_000)]",
        "*table(header, rows)]",
        "Samples in the file are cut as on the screen.",
    ),
    (
        "values = [x for x in record.values() if x is not None] if has_step(record) else [None]",
        "values = [x for x in record.values()] if has_step(record) else [None]",
        "A record with a number that was not finite is left out.",
    ),
    (
        'return text if len(text) <= width else text[: width - 3] + "..."',
        'return text if len(text) <= width else text[:width] + "..."',
        "A cell that is cut is wider than the table.",
    ),
    (
        "        if (valid or has_step)(record):\n",
        "        if has_step(record):\n",
        "Records with texts in the place of numbers are read.",
    ),
    (
        "past = cut_back(self.path, step, is_record)",
        "past = cut_back(self.path, step or 10**9, is_record)",
        "A run that begins anew keeps the metrics of what was never saved.",
    ),
]
OPTIM = [
    (
        "matrices = [p for p in parameters if p.dim() >= 2]",
        "matrices = [p for p in parameters if p.dim() >= 1]",
        "Biases and layer norms decay, too.",
    ),
    (
        'group["lr"] = lr * group["scale"]',
        'group["lr"] = group["lr"] if group["scale"] != 1 else lr',
        "The head's learning rate stays what the optimiser began with.",
    ),
    (
        'return optimizer.param_groups[0]["lr"]',
        'return optimizer.param_groups[-1]["lr"]',
        "The learning rate that is logged is the head's.",
    ),
    (
        "return (step + 1) / warmup",
        "return step / warmup",
        "The first step of the warm-up has a learning rate of 0.",
    ),
    (
        "progress = (step - warmup) / max(1, steps - warmup)",
        "progress = step / max(1, steps)",
        "The cosine begins before the warm-up has ended.",
    ),
    (
        "return (1 - step / steps) * min(1, (step + 1) / max(1, warmup))",
        "return (1 - (step + 1) / steps) * min(1, (step + 1) / max(1, warmup))",
        "The last update has a learning rate of 0.",
    ),
    (
        "return (1 - step / steps) * min(1, (step + 1) / max(1, warmup))",
        "return min(1 - step / steps, (step + 1) / max(1, warmup))",
        "The warm-up goes to the line and is no factor.",
    ),
    (
        'weights = [p for group in optimizer.param_groups for p in group["params"]]',
        'weights = optimizer.param_groups[0]["params"]',
        "The size of the weights is that of the matrices.",
    ),
    (
        "        if not math.isfinite(value):\n",
        "        if math.isnan(value):\n",
        "A loss that is infinite is no divergence.",
    ),
    (
        "parameters = [p for p in model.parameters() if p.requires_grad]",
        "parameters = [p for p in model.parameters()]",
        "The size of the weights counts those that are frozen.",
    ),
    (
        "own = set(head.parameters()) if head else set()",
        "own = set()",
        "The head has the learning rate of the others.",
    ),
    (
        "weight_decay, head_scale)",
        "0.0, head_scale)",
        "The head does not decay.",
    ),
]
SECOND_LIST = {
    "train_sft.py": TRAIN_SFT,
    "train_rm.py": TRAIN_RM,
    "train_ppo.py": TRAIN_PPO,
    "minirlhf/tools/evaluate.py": EVALUATE_COMMAND,
    "minirlhf/tools/report.py": REPORT,
    "minirlhf/tools/results.py": RESULTS,
    "minirlhf/tools/gates.py": GATES,
    "minirlhf/tools/dpo.py": DPO,
    "minirlhf/tools/monitor.py": MONITOR,
    "minirlhf/evaluate.py": EVALUATE,
    "minirlhf/run/checkpoint.py": CHECKPOINT,
    "minirlhf/run/resume.py": RESUME,
    "minirlhf/run/health.py": HEALTH,
    "minirlhf/run/progress.py": PROGRESS,
    "minirlhf/run/metrics.py": METRICS,
    "minirlhf/run/optim.py": OPTIM,
}

# The tests that kill those which the tests of their file do not see, by file and sentence.
ELSEWHERE = [  # (file, words for pytest, sentences)
    (
        "minirlhf/run/checkpoint.py",
        ["runs/test_lora_run.py", "-k", "policy_of_a_run_with_adapters"],
        ["A checkpoint holds adapters beside the weights, and not merged ones."],
    ),
    (
        "minirlhf/run/checkpoint.py",
        ["runs/test_lora_run.py", "-k", "shared_trunk or beside_another or in_memory_once"],
        ["The adapters of a reward model stand beside another SFT model than theirs."],
    ),
    (
        "minirlhf/run/checkpoint.py",
        ["runs/test_lora_run.py", "-k", "that_they_lack"],
        ["Adapters stand beside a model that they were not trained beside."],
    ),
    (
        "minirlhf/run/checkpoint.py",
        ["runs/test_resume.py", "-k", "damaged_metadata"],
        ["A checkpoint with a negative step is loaded."],
    ),
    (
        "minirlhf/run/checkpoint.py",
        ["unit/test_folder.py", "-k", "overwrite"],
        ["A run that was half replaced is resumed."],
    ),
    (
        "minirlhf/run/optim.py",
        ["runs/test_divergence.py", "-k", "named_with"],
        ["A loss that is infinite is no divergence."],
    ),
    (
        "minirlhf/run/resume.py",
        ["runs/test_resume.py", "-k", "made_the_past"],
        ["A resumed run may change the warm-up.", "A resumed run may hold out other records."],
    ),
    (
        "minirlhf/run/resume.py",
        ["runs/test_resume.py", "-k", "may_change"],
        ["A resumed run may not change --eval-every."],
    ),
    (
        "minirlhf/run/resume.py",
        ["runs/test_resume.py", "-k", "may_change or every_flag"],
        ["A resumed run may not change --gradient-checkpointing, which changes memory alone."],
    ),
    (
        "minirlhf/tools/dpo.py",
        ["runs/test_chain_split.py", "-k", "implicit_rewards"],
        ["Where prompts have different numbers of responses, the rewards belong to others."],
    ),
    (
        "minirlhf/tools/dpo.py",
        ["runs/test_direct_run.py", "-k", "every_other"],
        ["--lam beside --loss kto is ignored, and nothing is said."],
    ),
    (
        "minirlhf/tools/dpo.py",
        ["runs/test_direct_run.py", "-k", "flags_ask_for"],
        ["The strength of IPO is --beta.", "--beta and --gamma are exchanged."],
    ),
    (
        "minirlhf/tools/dpo.py",
        ["runs/test_direct_run.py", "-k", "label_and_no_partner or share_a_file"],
        ["KTO leaves out what is labelled good or bad by itself."],
    ),
    (
        "minirlhf/tools/dpo.py",
        ["runs/test_direct_run.py", "-k", "labelled or share_a_file"],
        ["The baselines are asked to learn from single responses."],
    ),
    (
        "minirlhf/tools/dpo.py",
        ["runs/test_direct_run.py", "-k", "of_another_loss"],
        ["A flag that the loss does not read is refused only if it is larger than its default."],
    ),
    (
        "minirlhf/tools/dpo.py",
        ["runs/test_direct_run.py", "-k", "two_prompts_a_step"],
        ["KTO with two prompts per step is refused."],
    ),
    (
        "minirlhf/tools/dpo.py",
        ["runs/test_dpo_run.py", "-k", "refused_or_left_out"],
        ["Comparisons that do not fit are left out, and nothing is said."],
    ),
    (
        "minirlhf/tools/dpo.py",
        ["runs/test_dpo_run.py", "-k", "three_steps"],
        ["A resumed run warms up again."],
    ),
    (
        "minirlhf/tools/evaluate.py",
        ["runs/test_chain.py", "-k", "takes_what_the_policy or one_score"],
        ["The missing-end score is not that of the policy's training."],
    ),
    (
        "minirlhf/tools/evaluate.py",
        ["runs/test_train_ppo.py", "-k", "cannot_compare"],
        [
            "A reward model of another vocabulary scores the ids.",
            "Models of two vocabularies are compared.",
        ],
    ),
    (
        "minirlhf/tools/monitor.py",
        ["runs/test_microscope.py", "-k", "number_for_each"],
        [
            "The evaluations have the number of the next update.",
            "The totals of the SFT model and of the policy are exchanged.",
        ],
    ),
    (
        "minirlhf/tools/monitor.py",
        ["runs/test_train_ptx.py", "-k", "own_text or ppo_alone"],
        ["The policy's loss on text is the SFT model's."],
    ),
    (
        "minirlhf/tools/monitor.py",
        ["runs/test_train_ptx.py", "-k", "ppo_alone"],
        ["The SFT model's loss on text is not logged."],
    ),
    (
        "minirlhf/tools/monitor.py",
        ["runs/test_whole_ppo.py", "-k", "first_five"],
        ["The samples are those of the last prompts."],
    ),
    (
        "minirlhf/tools/monitor.py",
        ["runs/test_whole_ppo.py", "-k", "judges_numbers"],
        ["What was declined is what cannot be read."],
    ),
    (
        "minirlhf/tools/monitor.py",
        ["runs/test_whole_ppo.py", "-k", "own_score_and_kl"],
        ["The KLs belong to other prompts."],
    ),
    (
        "minirlhf/tools/report.py",
        ["runs/test_report.py", "-k", "as_diverse"],
        ["Every policy is as diverse as SFT."],
    ),
    (
        "minirlhf/tools/report.py",
        ["runs/test_report.py", "-k", "chooses_the_prompts"],
        ["The report says test, and its prompts are those of validation."],
    ),
    (
        "minirlhf/tools/report.py",
        ["runs/test_report.py", "-k", "ended_behind"],
        ["The reward model scores the prompt as an answer to the response."],
    ),
    (
        "minirlhf/tools/report.py",
        ["runs/test_report.py", "-k", "gets_a_page"],
        [
            "Only the data of the last stage tell that a run is on own data.",
            "The command compares PPO with the pretrained model.",
            "The command compares DPO where PPO was trained as well.",
        ],
    ),
    (
        "minirlhf/tools/report.py",
        ["runs/test_report.py", "-k", "older_run"],
        ["A policy of another vocabulary is compared."],
    ),
    (
        "minirlhf/tools/report.py",
        ["runs/test_report.py", "-k", "paired_and_clustered"],
        ["The interval of the win rate takes every prompt for a cluster."],
    ),
    (
        "minirlhf/tools/report.py",
        ["runs/test_report.py", "-k", "what_applies"],
        ["The clusters of a measure are those of other prompts."],
    ),
    (
        "minirlhf/tools/results.py",
        ["runs/test_results.py", "-k", "students"],
        ["A seed whose value is 0 counts as missing."],
    ),
    (
        "train_ppo.py",
        ["runs/test_chain.py", "-k", "another_world"],
        ["A reward model of the world scores responses to your prompts, and nothing is said."],
    ),
    (
        "train_ppo.py",
        ["runs/test_chain.py", "-k", "score_of_its_training"],
        ["The command at the end leaves the missing-end score out."],
    ),
    (
        "train_ppo.py",
        ["runs/test_divergence.py", "-k", "far_too_high or takes_no_step"],
        ["A gradient that is infinite is no divergence."],
    ),
    (
        "train_ppo.py",
        ["runs/test_microscope.py", "-k", "first_update"],
        [
            "The first update is not in the microscope.",
            "The microscope's records have the number of the next update.",
        ],
    ),
    (
        "train_ppo.py",
        ["runs/test_robust_rewards.py", "-k", "credit_reaches"],
        ["Credit is shared out of the score that a response without end does not get."],
    ),
    (
        "train_ppo.py",
        ["runs/test_robust_rewards.py", "-k", "disagreement"],
        ["How far several reward models disagree is not logged."],
    ),
    (
        "train_ppo.py",
        ["runs/test_robust_rewards.py", "-k", "names_a_command"],
        ["The command at the end names the last of several reward models."],
    ),
    (
        "train_ppo.py",
        ["runs/test_robust_rewards.py", "-k", "same_members"],
        ["A resumed run may have another second reward model."],
    ),
    (
        "train_ppo.py",
        ["runs/test_train_grpo.py", "-k", "in_a_row"],
        ["The responses to a prompt do not stand in a row, so that a group is of several prompts."],
    ),
    (
        "train_ppo.py",
        ["runs/test_train_ppo.py", "-k", "at_the_edge"],
        ["A horizon of one batch is refused.", "Minibatches of one response are refused."],
    ),
    (
        "train_ppo.py",
        ["runs/test_train_ppo.py", "-k", "be_it_zero"],
        ["--missing-end-score 0 counts as not given."],
    ),
    (
        "train_ppo.py",
        ["runs/test_train_ppo.py", "-k", "go_back"],
        ["A finished run cannot be resumed to see that it is finished."],
    ),
    (
        "train_ppo.py",
        ["runs/test_train_ppo.py", "-k", "three_updates"],
        [
            "The checkpoint holds the coefficient that the run began with.",
            "A resumed run warms up again.",
        ],
    ),
    (
        "train_ppo.py",
        ["runs/test_train_ptx.py", "-k", "own_text"],
        [
            "Every update learns from the same text.",
            "The loss on held-out text is that on the text that is learned from.",
        ],
    ),
    (
        "train_ppo.py",
        ["runs/test_warnings.py", "-k", "fewer_updates"],
        ["Nobody is warned of a run that ends in its warm-up."],
    ),
    (
        "train_rm.py",
        ["runs/test_rounds.py", "-k", "all_rounds"],
        [
            "The earlier rounds come last, so that the scores are normalised on the policy's.",
            "The file of the comparisons lacks those of earlier rounds.",
        ],
    ),
    (
        "train_rm.py",
        ["runs/test_rounds.py", "-k", "beside_the_sft_model"],
        [
            "What people ranked is labelled by the model once more, and learned from twice.",
            "The labeller is the SFT model.",
            "The share that people rank is that of the model.",
        ],
    ),
    (
        "train_rm.py",
        ["runs/test_rounds.py", "-k", "labeller or policy_of_the_round"],
        ["A resumed run may have another labeller or another policy."],
    ),
    (
        "train_rm.py",
        ["runs/test_train_rm.py", "-k", "earlier_rounds_peoples"],
        ["A single prompt whose responses are all the same stops the run."],
    ),
    (
        "train_rm.py",
        ["runs/test_train_rm.py", "-k", "over_their_pairs"],
        [
            "The accuracy is divided by the number of prompts.",
            "A response that is not there is the worst of its prompt.",
        ],
    ),
    (
        "train_rm.py",
        ["runs/test_train_rm.py", "-k", "pair_by_pair"],
        ["A model's probabilities are read the wrong way round."],
    ),
    (
        "train_rm.py",
        ["runs/test_train_rm.py", "-k", "strict"],
        ["Two equal scores count as the right order."],
    ),
    (
        "train_rm.py",
        ["runs/test_train_rm.py", "-k", "without_a_pair"],
        [
            "Beside people's rankings a model's probabilities are lost.",
            "A prompt whose responses all tie takes weight from the microbatch it is in.",
        ],
    ),
    (
        "train_rm.py",
        ["unit/test_margin.py"],
        [
            "Ratings that are fewer than the responses are not refused.",
            "The better response has to lose by the margin.",
            "The margins belong to other comparisons of the batch.",
        ],
    ),
    (
        "train_sft.py",
        ["runs/test_chain.py", "-k", "asks_for_comparisons"],
        ["The next command names a file that holds no comparisons."],
    ),
    (
        "train_sft.py",
        ["runs/test_export.py", "-k", "tokenizer"],
        ["A tokenizer that is not that of --init is ignored, and nothing is said."],
    ),
    (
        "train_sft.py",
        ["runs/test_lora_run.py", "-k", "learned_something"],
        ["Adapters stand beside random weights, and nothing is said."],
    ),
    (
        "train_sft.py",
        ["runs/test_train_sft.py", "-k", "embeddings"],
        ["The embeddings are frozen without pretraining, too."],
    ),
    (
        "train_sft.py",
        ["runs/test_train_sft.py", "-k", "just_fits"],
        ["A record that just fits the context is left out."],
    ),
    (
        "train_sft.py",
        ["runs/test_train_sft.py", "-k", "starts_from"],
        [
            "What --init names is pretrained once more.",
            "The windows of a text have the context of the flag, and not that of --init.",
            "The context is that of the flag, and not that of the model of --init.",
        ],
    ),
    (
        "train_sft.py",
        ["runs/test_train_sft.py", "-k", "three_steps"],
        ["A resumed run warms up again."],
    ),
    (
        "train_sft.py",
        ["runs/test_train_sft.py", "-k", "weights_of_init"],
        ["A resumed run may start from other weights."],
    ),
    (
        "train_sft.py",
        ["runs/test_warnings.py", "-k", "fewer_steps"],
        ["Nobody is warned of a run that ends in its warm-up."],
    ),
]
SECOND_KILLERS = {
    (file, sentence): words for file, words, sentences in ELSEWHERE for sentence in sentences
}
