"""Semantic mutants of the methods' commands, in the form of scripts.py: a model as the labeller,
the choice of pairs to ask about, ratings and flags, other rewards, MetaRM, demonstrations,
rejection sampling and PPO-ptx; and of the modules below them, where they join functions together.

As there, the list was written before the tests that kill the mutants, and each mutant is one text
that stands once in its file, the text in its place, and what it breaks.
"""

AI = [
    (
        "    if prefer is None:\n",
        "    if False:\n",
        "Nobody says that people cannot be the labeller.",
    ),
    (
        "if Path(args.to).resolve() in read:",
        "if args.to in read:",
        "The file of labels is overwritten if it has another spelling.",
    ),
    (
        "files.listed(args.data or args.comparisons)",
        "files.listed(args.comparisons)",
        "The file of --data is overwritten with the labels.",
    ),
    (
        "jsonl.write_records(labelled)",
        "jsonl.write_records(records)",
        "The written labels are people's.",
    ),
    (
        "    labelled, numbers = labeller.label(prefer, records)\n",
        "    labelled, numbers = labeller.label(prefer, list(reversed(records)))\n",
        "The labels stand beside other records.",
    ),
    (
        'idle |= {"contrasts": "they are the world\'s, and --data is your own"}',
        "pass",
        "--contrasts beside --data goes unnoticed.",
    ),
    (
        "if args.labeller not in labeller.NAMES:",
        'if args.labeller == "human":',
        "--labeller-model beside a function goes unnoticed.",
    ),
    (
        "labeller.load(args.labeller, args.labeller_model, device)",
        "labeller.load(args.labeller, Config.labeller_model, device)",
        "Another model is the labeller.",
    ),
    ("[: args.records or None]", "[:RECORDS]", "--records is ignored beside --data."),
    ("[: args.records or RECORDS]", "[:RECORDS]", "--records is ignored."),
    (
        "    except ValueError:\n        return False",
        "    except ValueError:\n        return True",
        "The judge is asked about prompts that it cannot read.",
    ),
    (
        "rng(args.seed, config.CONTRASTS)",
        "rng(1, config.CONTRASTS)",
        "The contrasts are the same for every seed.",
    ),
    (
        "= prefer(prompts, better, worse), prefer(prompts, worse, better)",
        "= prefer(prompts, better, worse), 1 - prefer(prompts, better, worse)",
        "The gate asks in one order only.",
    ),
    (
        "np.asarray(swapped, float)) > 0.5",
        "np.asarray(swapped, float)) >= 0.5",
        "A labeller who sees nothing is always right.",
    ),
    ("for x in (better, worse)\n", "for x in (worse, better)\n", "The AUC is that of bad ones."),
    (
        ".mean(1).numpy()",
        "[:, 0].numpy()",
        "The AUC is that of one wording.",
    ),
    (
        "auc(*(x[of_kind] for x in sides))",
        "auc(*sides)",
        "Every kind of contrast has the AUC of all.",
    ),
    (
        "float(right[of_kind].mean())",
        "float(right.mean())",
        "Every kind of contrast has the share of all.",
    ),
    (
        "isinstance(row[3], float) and row[3] < GATE",
        "isinstance(row[3], float) and row[2] < GATE",
        "The gate is on the share of pairs, not on the AUC.",
    ),
    (
        "good[:, None] - bad[None, :]",
        "good - bad",
        "The AUC is of pairs of one prompt.",
    ),
    (
        "if kind in (ALL, kinds[n])]",
        "if kind == ALL or kind in kinds]",
        "Every kind of prompt has the numbers of all.",
    ),
    (
        "for side in (by_model, by_people)]",
        "for side in (by_people, by_model)]",
        "The columns of the model and of people are swapped.",
    ),
    (
        "both = judge_agreement(words, by_model, by_people)",
        "both = judge_agreement(words, by_model, truth)",
        "The model is compared with the judge in the column of people.",
    ),
    (
        "for side in (records, labelled))",
        "for side in (records, records))",
        "People's ranks are taken for the model's.",
    ),
]

LABELLER = [
    (
        "prefer, prompts, first, second, limit=1)",
        "prefer, prompts, second, first, limit=1)",
        "A user's labeller is asked about the second response.",
    ),
    (
        "prefer, prompts, first, second, limit=1)",
        "prefer, prompts, first, second)",
        "A labeller may answer with any number.",
    ),
    (
        "gpt.requires_grad_(False), tokenizer, name)",
        "gpt.requires_grad_(False), tokenizer)",
        "The quiz and the constitution are never asked.",
    ),
    (
        "{numbers['first_wins']:.3f}, the mean certainty is {numbers['sure']:.3f}",
        "{numbers['sure']:.3f}, the mean certainty is {numbers['first_wins']:.3f}",
        "Two printed numbers are swapped.",
    ),
    (
        "jsonl.read_collected(more) if more else []",
        "[]",
        "The comparisons of earlier rounds are not read.",
    ),
    (
        '"labeller": model or function.source(args.labeller)',
        '"labeller": function.source(args.labeller)',
        "A resumed run may have another model as the labeller.",
    ),
    (
        '"labeller": model or function.source(args.labeller)',
        '"labeller": model',
        "A resumed run may have another function as the labeller.",
    ),
    ('"more": earlier}', '"more": []}', "A resumed run may have other earlier comparisons."),
    (
        'inputs["policy"] = policy',
        'inputs["policy"] = sft',
        "A resumed run may sample from another policy.",
    ),
    (
        "tokenizer, policy_path, other)",
        "tokenizer, policy_path, tokenizer)",
        "A policy of another vocabulary is sampled from.",
    ),
    (
        "    if args.labeller == HUMAN:\n",
        "    if args.labeller is None:\n",
        "--human-share beside people goes unnoticed.",
    ),
    (
        'if not getattr(args, "more", ""):',
        "if False:",
        "--policy without --more goes unnoticed.",
    ),
    (
        'names = ("labeller", "policy", "more", "labeller_model",',
        'names = ("labeller", "policy", "labeller_model",',
        "--more beside --data goes unnoticed.",
    ),
]

CHOICE = [
    (
        'config.HELD_OUT_PROMPTS, "validation")',
        'config.HELD_OUT_PROMPTS, "train")',
        "Agreement is measured on prompts of the training split.",
    ),
    (
        "rng(args.seed, stream), split)",
        "rng(1, stream), split)",
        "The prompts are the same for every seed.",
    ),
    (
        "            seed=args.seed, policy=args.sft",
        "            seed=1, policy=args.sft",
        "The responses have the same noise for every seed.",
    ),
    (
        "rng(args.seed, config.ASKED_LABELS, len(lists))",
        "rng(1, config.ASKED_LABELS, len(lists))",
        "The labels have the same noise for every seed.",
    ),
    (
        'questions.questions(samples) if split == "train" else samples',
        "samples",
        "Pairs of identical texts are asked about.",
    ),
    (
        "simulated.rank(row, label_rng) for row in totals]",
        "np.argsort(np.argsort(-np.array(row))).tolist() for row in totals]",
        "The labels are the judge's, without noise.",
    ),
    (
        "    if len(pool) < args.labels:\n",
        "    if not pool:\n",
        "A pool with too few pairs goes unnoticed.",
    ),
    (
        "learned = [setting.pool[row] for row in asked]",
        "learned = setting.pool[: len(asked)]",
        "Whatever was chosen, the first pairs are learned from.",
    ),
    (
        "asked, n - len(asked), models)",
        "asked, n, models)",
        "More pairs are asked about than the table says.",
    ),
    (
        'count = args.members if way == "disagreement" and n < args.labels else 1',
        "count = 1",
        "The ensemble has one member.",
    ),
    (
        "reward.score_comparisons(models[0], setting.tokenizer, setting.held_out)",
        "reward.score_comparisons(models[-1], setting.tokenizer, setting.held_out)",
        "Another member of the ensemble is measured.",
    ),
    (
        "== 1 for row in asked])",
        "== 1 for row in range(len(asked))])",
        "The share of tied totals is that of the first pairs.",
    ),
    (
        "seed=setting.args.seed + 1000 * member",
        "seed=setting.args.seed",
        "All members of the ensemble are the same model.",
    ),
    (
        "seed=setting.args.seed + 1000 * member",
        "seed=1 + 1000 * member",
        "The reward models start and learn the same way for every seed.",
    ),
    (
        "with config.torch_seed(seed, config.REWARD_HEAD_WEIGHTS):",
        "with config.torch_seed(1, config.REWARD_HEAD_WEIGHTS):",
        "Every reward model begins with the same head.",
    ),
    (
        "order = data.stream(n, 0, end, seed)",
        "order = data.stream(n, 0, end, 1)",
        "Every reward model learns in the same order.",
    ),
    (
        "end = max(args.epochs * n, FEWEST_STEPS * BATCH)",
        "end = args.epochs * n",
        "Few labels are learned in fewer than 32 steps.",
    ),
    (
        "range(len(setting.pool)) if row not in taken]",
        "range(len(setting.pool))]",
        "A pair is asked about again.",
    ),
    (
        'if way == "random" or not (models or way == "once"):',
        'if way == "random" or not models:',
        "The first 64 pairs of `once` are random.",
    ),
    (
        "optimal(setting, reward.RewardModel(setting.sft), asked, count)",
        "optimal(setting, (models or [reward.RewardModel(setting.sft)])[0], asked, count)",
        "`once` looks at the states of a model that has learned.",
    ),
    (
        'weighted=way == "fisher")',
        'weighted=way == "optimal")',
        "`optimal` and `fisher` are swapped.",
    ),
    (
        'choice.nearest_half(margins[0]) if way == "half" else choice.disagreement(margins)',
        'choice.disagreement(margins) if way == "half" else choice.nearest_half(margins[0])',
        "`half` and `disagreement` are swapped.",
    ),
    (
        "return [left[place] for place in order[:count]]",
        "return [int(place) for place in order[:count]]",
        "The places among the rest are taken for places in the pool.",
    ),
    (
        ".order(rows, asked, count)",
        ".order(rows, [], count)",
        "The design forgets what was asked.",
    ),
    (
        'measured.all_rows(args, WAYS, ("ways",), sft)',
        'measured.all_rows(args, WAYS, ("ways",))',
        "Numbers of another SFT model stand in the table.",
    ),
    (
        '"labels", sizes(args), "random", "tied")',
        '"labels", sizes(args), "half", "tied")',
        "The differences are from another way.",
    ),
    (
        "if FEWEST * 2**k <= args.labels]",
        "if FEWEST * 2**k < args.labels]",
        "The largest number of labels is left out.",
    ),
    (
        "for row in asked])\n        row = {",
        "for row in asked])\n        numbers = agreement.ranking_numbers(learned, "
        "reward.score_comparisons(models[0], setting.tokenizer, learned), "
        "[setting.totals[r] for r in asked])\n        row = {",
        "Agreement is measured on the pairs that were learned.",
    ),
]

JUDGEMENTS = [
    (
        "for part, rest in ((learned, held_out), (records, [])):",
        "for part, rest in ((records, held_out), (records, [])):",
        "The prediction is of a model that has learned what it predicts.",
    ),
    ("(records, [])):", "(learned, [])):", "The saved model has not learned all labels."),
    (
        "data.split_by_prompt(records, args.seed)",
        "data.split_by_prompt(records, 1)",
        "The split is the same for every seed.",
    ),
    (
        "teach(setting, asked, args.seed, NAMES, len(labellers))",
        "teach(setting, asked, 1, NAMES, len(labellers))",
        "The reward model of people's labels learns the same way for every seed.",
    ),
    (
        "[x.prompt for x in part[:128]]",
        "[x.prompt for x in records[:1]]",
        "The axes are normalised on the responses to one prompt.",
    ),
    (
        "setting, model, len(asked), data=records)",
        "setting, model, len(asked))",
        "The run does not record which labels it has learned.",
    ),
    (
        '"config.json").exists() and not args.overwrite:',
        '"config.json").exists() and False:',
        "All is learned before the folder is refused.",
    ),
    (
        "comparison = Comparison(record.prompt, record.responses, record.ranks)",
        "comparison = Comparison(record.prompt, record.responses[:1], record.ranks)",
        "A second response that does not fit goes unnoticed.",
    ),
    ("biases[n % len(biases)]", "biases[0]", "All labellers have one bias."),
    (
        "rating_rng = rng(args.seed,",
        "rating_rng = rng(1,",
        "The ratings have the same noise for every seed.",
    ),
    (
        "return rng(args.seed, config.ASKED_LABELS, 11)",
        "return rng(1, config.ASKED_LABELS, 11)",
        "The labellers are the same for every seed.",
    ),
    (
        "stream = rng(args.seed, config.ASKED_LABELS, 12)",
        "stream = rng(1, config.ASKED_LABELS, 12)",
        "The flags have the same noise for every seed.",
    ),
    (
        "behaviour(c.prompt, c.responses[0])",
        "behaviour(c.prompt, c.responses[1])",
        "The flags are those of the other response.",
    ),
    (
        "stream, args.miss, args.false_alarm)",
        "stream, args.false_alarm, args.miss)",
        "Two flags of the command are swapped.",
    ),
    ("count = n // 2 if second else n", "count = n", "Of two kinds, one alone is learned."),
    (
        "(flags[count:] if second",
        "(flags[:count] if second",
        "The flags are on the pairs that were compared already.",
    ),
    ("rated(pool[:count], 1)", "rated(pool[:count], args.labellers)", "Nothing is pooled."),
    ("c.ratings[0], n % labellers", "c.ratings[1], n % labellers", "The rating is another's."),
    ("c.ratings[0], n % labellers", "c.ratings[0], 0", "All ratings count as one person's."),
    ('float(kind != "flags")', "1.0", "A head that nothing has taught counts."),
    ("*[-flag_weight * with_flags]", "*[flag_weight * with_flags]", "Flags raise the reward."),
    (
        "teach(setting, asked, args.seed, NAMES, args.labellers)",
        "teach(setting, asked, 1, NAMES, args.labellers)",
        "The reward models learn the same way for every seed.",
    ),
    (
        "sum(len(x.responses) for x in asked)",
        "len(asked)",
        "The number of responses is that of judgements.",
    ),
    (
        'write(args, f"{args.out}/{args.seed}/{kind}", True',
        'write(args, f"{args.out}/{kind}", True',
        "A seed overwrites the reward models of another.",
    ),
    (
        "rng(args.seed, config.PPO_PROMPTS)",
        "rng(1, config.PPO_PROMPTS)",
        "The prompts of the normalisation are the same for every seed.",
    ),
    (
        "label.Config(seed=args.seed, responses=4,",
        "label.Config(seed=1, responses=4,",
        "The responses of the normalisation are the same for every seed.",
    ),
    (
        "if len(c.responses) == 4]",
        "if c.responses]",
        "The axes are normalised on groups of several sizes.",
    ),
    (
        "missing_end_score=MISSING_END)",
        "missing_end_score=0.0)",
        "Another missing-end score is stored with the reward model.",
    ),
    (
        '"choices", "responses")',
        '"ratings", "responses")',
        "The differences are from another kind.",
    ),
    (
        "dict.fromkeys(EXPERIMENT, reason)",
        "dict.fromkeys(EXPERIMENT[:1], reason)",
        "Flags of the experiment beside --data go unnoticed.",
    ),
    (
        'measured.all_rows(args, KINDS, ("kinds",), sft)',
        'measured.all_rows(args, KINDS, ("kinds",))',
        "Numbers of another SFT model stand in the table.",
    ),
]

REWARDS = [
    (
        "str(1000 * n + args.seed)",
        "str(args.seed)",
        "All members of the ensemble are the same model.",
    ),
    ("str(1000 * n + args.seed)", "str(1000 * n)", "The members are the same for every seed."),
    ("range(2, args.members + 1)", "range(2, args.members)", "The ensemble lacks a member."),
    ("else ensemble[:1]", "else ensemble[-1:]", "A row with one model has another one."),
    (
        "str(KL_COEF[args.compare])",
        'str(KL_COEF["robust"])',
        "Credit is compared without a KL penalty.",
    ),
    (
        'str(args.seed), "--threads", str(args.threads)]\n    if checkpoint',
        '"1", "--threads", str(args.threads)]\n    if checkpoint',
        "PPO has the same seed for every seed.",
    ),
    (
        'if checkpoint.stored_step(out / "ppo", "ppo") < args.updates:',
        'if not (out / "ppo" / "checkpoint.pt").exists():',
        "An interrupted run of PPO is taken for a finished one.",
    ),
    (
        'if not any("held_out_accuracy" in record for record in read_metrics(out / "rm")):',
        'if not (out / "rm" / "checkpoint.pt").exists():',
        "An interrupted reward model is taken for a finished one.",
    ),
    (
        '["--resume"] if begun else',
        '["--resume"] if False else',
        "An interrupted run begins anew.",
    ),
    (
        '"--updates", str(args.updates), "--held-out", str(args.held_out)',
        '"--updates", str(args.updates)',
        "--held-out is not handed on.",
    ),
    (
        '"--data", str(comparisons), "--mix-data"',
        '"--mix-data"',
        "The members learn from other comparisons.",
    ),
    (
        '"only", "total")',
        '"only", "total", "seed")',
        "Runs of another seed are taken for those of this one.",
    ),
    ("args, FREE, **models)", "args, FREE)", "Runs from another SFT model are taken for these."),
    ('least = min(lines[-1]["eval_kl"]', 'least = max(lines[-1]["eval_kl"]', "No equal KL."),
    ("[known[0], float(", "[known[-1], float(", "The first disagreement is the last."),
    ("np.mean(known[-10:])", "np.mean(known)", "The last disagreement is the mean of all."),
    (
        'last["eval_score"], last["eval_harmless"]]',
        'last["eval_harmless"], last["eval_score"]]',
        "Two columns are swapped.",
    ),
    (
        'last["eval_total"], last["eval_total_half"]]',
        'last["eval_total_half"], last["eval_total"]]',
        "The total and its interval are swapped.",
    ),
    ('str(x["step"] + 1)', 'str(x["step"])', "The number of updates is one too small."),
    ('x["eval_total"] >= total', 'x["eval_total"] > total', "Who is there has not arrived."),
    (
        "int(np.argmax(kls >= kl))",
        "len(kls) - 1 - int(np.argmax((kls < kl)[::-1])) + 1",
        "The total is where a run last came to a KL.",
    ),
    ("part = slice(place - 1, place + 1)", "part = slice(place, place + 1)", "No interpolation."),
]

META = [
    (
        "reward.score_comparisons(model, tokenizer, norm)",
        "reward.score_comparisons(model, tokenizer, comparisons)",
        "The scores are normalised on the responses of the new policy too.",
    ),
    (
        'parts["missing_end_score"] = missing_end_score',
        'parts["missing_end_score"] = 0.0',
        "The missing-end score of the old reward model is lost.",
    ),
    (
        "data.stream(len(comparisons), start, stop, args.seed)",
        "data.stream(len(comparisons), start, stop, 1)",
        "The order of the comparisons is the same for every seed.",
    ),
    (
        "(step + 1) * args.meta_batch, args.seed\n",
        "(step + 1) * args.meta_batch, 1\n",
        "The order of the meta steps is the same for every seed.",
    ),
    (
        "step * args.meta_batch, (step + 1) * args.meta_batch",
        "0, args.meta_batch",
        "Every meta step has the same prompts.",
    ),
    (
        "measured = step % args.measure_every == 0",
        "measured = (step + 1) % args.measure_every == 0",
        "The measurement comes a step too early.",
    ),
    (
        '"difference": values[0], "meta_norm": length',
        '"difference": length, "meta_norm": values[0]',
        "Two metrics are swapped.",
    ),
    (
        'args.eta, args.step == "normalised"',
        'args.eta, args.step == "published"',
        "The two kinds of step are swapped.",
    ),
    (
        "meta.change(plain, [p.grad for p in parameters])",
        "meta.change([p.grad for p in parameters], plain)",
        "The change is in units of the changed gradient.",
    ),
    (
        " * len(rows) / len(groups)\n",
        "\n",
        "J grows with the number of microbatches.",
    ),
    ("parts[1] >= 0)", "parts[1] >= -9)", "Responses that are not there count in J."),
    (
        "checkpoint.load_gpt(args.policy, device",
        "checkpoint.load_gpt(args.sft, device",
        "The responses are those of the SFT model.",
    ),
    (
        "tokenizer, args.policy, other)",
        "tokenizer, args.policy, tokenizer)",
        "A policy of another vocabulary goes unnoticed.",
    ),
    (
        "comparisons = collected[replaced:] +",
        "comparisons = collected +",
        "Fresh labels are additional ones.",
    ),
    (
        "replaced = -(-args.fresh // (len(collected[0].responses) - 1))",
        "replaced = args.fresh",
        "Fresh pairs replace comparisons of several choices.",
    ),
    ("if replaced >= len(collected):", "if False:", "Nothing may be left of the comparisons."),
    (
        "config.torch_seed(args.seed, config.REWARD_HEAD_WEIGHTS)",
        "config.torch_seed(1, config.REWARD_HEAD_WEIGHTS)",
        "The head is the same for every seed.",
    ),
    (
        '"sft": sft, "policy": policy}',
        '"sft": sft}',
        "A resumed run may have another policy.",
    ),
    ("rng(args.seed, streams[0])", "rng(1, streams[0])", "The same prompts for every seed."),
    ("rng(args.seed, streams[1])", "rng(1, streams[1])", "The same noise for every seed."),
    (
        "[prompt for prompt in prompts for _ in range(k)]",
        "list(prompts) * k",
        "Responses are tied to other prompts.",
    ),
    (
        "list(dict.fromkeys(c.responses))",
        "c.responses",
        "Equal responses count in J.",
    ),
    (
        "rng(args.seed, config.FRESH_LABELS)",
        "rng(1, config.FRESH_LABELS)",
        "Fresh labels have the same noise for every seed.",
    ),
    (
        "if len(set(pair.responses)) == 2]",
        "]",
        "Pairs of one text are labelled.",
    ),
    ("    if len(pairs) < args.fresh:\n", "    if not pairs:\n", "Too few fresh labels are made."),
    (
        'streams, "validation")',
        'streams, "train")',
        "The report is on prompts of the training split.",
    ),
    (
        "rng(args.seed, config.SHIFTED_LABELS)",
        "rng(1, config.SHIFTED_LABELS)",
        "The report's labels have the same noise for every seed.",
    ),
    (
        '{"before": old, "after": model}',
        '{"before": model, "after": old}',
        "Before and after are swapped.",
    ),
    ('**columns["after"])', '**columns["before"])', "The old reward model's numbers are logged."),
    ("np.var(scores, axis=1, ddof=1)", "np.var(scores, axis=0, ddof=1)", "Spread over prompts."),
    ("if judged[i] == judged[j]", "if judged[i] != judged[j]", "The gap is that of no ties."),
]

DEMONSTRATIONS = [
    (
        "rng(args.seed, config.DEMONSTRATIONS)",
        "rng(1, config.DEMONSTRATIONS)",
        "The demonstrations are the same for every seed.",
    ),
    (
        'demonstrations = inputs["demonstrations"] = load_demonstrations(',
        "demonstrations = load_demonstrations(",
        "Another file of demonstrations is taken for the same experiment.",
    ),
    (
        "inputs[name] = checkpoint.load_gpt(path)[0]",
        "inputs[name] = sft",
        "Another chosen or rejected policy is taken for the same experiment.",
    ),
    (
        "demonstrations = parts.hold_out(",
        "_ = parts.hold_out(",
        "The demonstrations that are held out are learned from.",
    ),
    (
        "args.prompts, args.seed, folder)",
        "args.prompts, 1, folder)",
        "The same demonstrations are held out for every seed.",
    ),
    (
        "collect(args, place, policy, n, demonstrations)",
        "collect(args, place, args.sft, n, demonstrations)",
        "In every round the SFT model's responses are rejected.",
    ),
    (
        "comparisons[-2:]",
        "comparisons[-1:]",
        "The comparisons of the round before are not learned from.",
    ),
    ("comparisons[-2:]", "comparisons", "The comparisons of all rounds are learned from."),
    (
        "policy = step(args, place, policy, n, learned)",
        "policy = step(args, place, args.sft, n, learned)",
        "Every round starts from the SFT model.",
    ),
    (
        "parts.compare_with_sft(args, folder, policy,",
        "parts.compare_with_sft(args, folder, args.sft,",
        "The SFT model is compared with itself.",
    ),
    (
        'if args.method == "gaf" and args.updates < rounds:',
        "if False:",
        "A round without an update goes unnoticed.",
    ),
    (
        "[record for record in records if room(record.prompt)]",
        "records",
        "Prompts that leave no room for a response are responded to.",
    ),
    (
        "data.Demonstration(d.prompt, text) for d, text in pairs]",
        "data.Demonstration(d.prompt, d.response) for d, text in pairs]",
        "--chosen is ignored.",
    ),
    ("args.rejected or policy", "policy", "--rejected is ignored."),
    (
        'n + SEEDS, "rejected")',
        'n, "rejected")',
        "The chosen and the rejected responses have one noise.",
    ),
    (
        "comparisons = compare(chosen, rejected)",
        "comparisons = compare(chosen, rejected[1:] + rejected[:1])",
        "A demonstration meets the response to another prompt.",
    ),
    (
        "    if not path.exists():\n        chosen",
        "    if True:\n        chosen",
        "The comparisons of a round are sampled again while it goes on.",
    ),
    ("if len(comparisons) < 2:", "if False:", "Nothing to learn from goes unnoticed."),
    (
        "rng(args.seed, config.DEMONSTRATED_RESPONSES, step)",
        "rng(1, config.DEMONSTRATED_RESPONSES, step)",
        "The responses have the same noise for every seed.",
    ),
    (
        "rng(args.seed, config.DEMONSTRATED_RESPONSES, step)",
        "rng(args.seed, config.DEMONSTRATED_RESPONSES)",
        "The responses have the same noise in every round.",
    ),
    (
        "updates = args.updates * n // rounds - args.updates * (n - 1) // rounds",
        "updates = args.updates // rounds",
        "The rounds have fewer updates than --updates.",
    ),
    (
        '"seed": args.seed + SEEDS * (n - 1)',
        '"seed": args.seed',
        "PPO has the same prompts and noise in every round.",
    ),
    (
        'script("train_ppo").main, folder, "ppo", flags)',
        'script("train_ppo").main, folder, "ppo", flags | {"sft": args.sft})',
        "The reference of every round is the SFT model.",
    ),
    ('"kl_coef": args.kl_coef / std', '"kl_coef": args.kl_coef', "The unit of --kl-coef is lost."),
    (
        "load_reward_model(discriminator)[0].std)",
        "load_reward_model(discriminator)[0].std) ** -1",
        "--kl-coef is multiplied by the standard deviation.",
    ),
    (
        'folder.parent / PROMPTS if args.data else ""',
        'folder.parent / parts.HELD_OUT if args.data else ""',
        "PPO learns on the held-out prompts.",
    ),
    (
        '    flags["data"] = learned\n',
        '    flags["data"] = learned.split(",")[0]\n',
        "The discriminator learns from the earlier round alone.",
    ),
    ('"batch_size": args.batch_size, ', "", "--batch-size is not handed on."),
    (
        '{"sft": policy, "data": learned, "beta": args.beta}',
        '{"sft": policy, "data": learned}',
        "--beta is not handed on.",
    ),
    (
        '{"sft": policy, "data": learned, "beta": args.beta}',
        '{"sft": args.sft, "data": learned, "beta": args.beta}',
        "SPIN's reference and start are the SFT model in every round.",
    ),
]

REJECTION = [
    (
        "evaluate.model_scores(model, missing_end_score)",
        "evaluate.model_scores(model, 0.0)",
        "A response that was cut off has another score.",
    ),
    ('{"rm": model, "sft": checkpoint', '{"sft": checkpoint', "The RM may be another one."),
    (
        'place, path = folder / f"round-{n}", policy',
        'place, path = folder / f"round-{n}", args.sft',
        "Every round begins with the SFT model.",
    ),
    ('"init": path', '"init": args.sft', "Every round trains the SFT model."),
    (
        "checkpoint.same_vocabulary(path, other, args.rm, tokenizer)",
        "checkpoint.same_vocabulary(path, other, args.rm, other)",
        "A reward model of another vocabulary goes unnoticed.",
    ),
    ("context = min(", "context = max(", "A prompt may be too long for one of the models."),
    (', "epochs": args.epochs}', "}", "--epochs is not handed on."),
    ('{"lr": args.lr, ', "{", "--lr is not handed on."),
    (
        "parts.compare_with_sft(args, folder, policy,",
        "parts.compare_with_sft(args, folder, args.sft,",
        "The SFT model is compared with itself.",
    ),
    (
        "prompts = parts.hold_out(",
        "_ = parts.hold_out(",
        "The prompts that are held out are learned from.",
    ),
    (
        "args.held_out, args.seed, folder)",
        "args.held_out, 1, folder)",
        "The same prompts are held out for every seed.",
    ),
    (
        "rng(args.seed + SEEDS * (n - 1), config.PPO_PROMPTS)",
        "rng(args.seed, config.PPO_PROMPTS)",
        "Every round has the same prompts.",
    ),
    (
        "rng(args.seed + SEEDS * (n - 1), config.PPO_PROMPTS)",
        "rng(1 + SEEDS * (n - 1), config.PPO_PROMPTS)",
        "The prompts are the same for every seed.",
    ),
    (
        "writers.prompts(args.prompts, stream)",
        'writers.prompts(args.prompts, stream, "validation")',
        "The policy learns on prompts of the validation split.",
    ),
    (
        "    seed = args.seed + SEEDS * (n - 1)\n",
        "    seed = args.seed\n",
        "Every round has the same noise.",
    ),
    (
        "    seed = args.seed + SEEDS * (n - 1)\n",
        "    seed = 1 + SEEDS * (n - 1)\n",
        "The noise is the same for every seed.",
    ),
    (
        "Settings(1, args.best_of, 1.0, seed",
        "Settings(args.best_of, 1, 1.0, seed",
        "All responses are kept, not the best.",
    ),
    (
        "tokenizer, score, prompts, settings, done=done)",
        "tokenizer, lambda *x: -score(*x), prompts, settings, done=done)",
        "The worst response is kept.",
    ),
    (
        'inputs, rows = {"policy": gpt, "prompts": prompts}',
        'inputs, rows = {"policy": gpt}',
        "Samples of other prompts are gone on with.",
    ),
    ("settings, done=done)", "settings)", "A killed command samples its responses again."),
    ('for row in rows if row["ended"]]', "for row in rows]", "The policy learns to be cut off."),
]

PTX = [
    (
        "itertools.count(step * self.steps)",
        "itertools.count()",
        "Every iteration has the same documents.",
    ),
    (
        "start = next(numbers) * self.batch_size",
        "start = next(numbers)",
        "Neighbouring steps have all documents but one in common.",
    ),
    (
        "start + self.batch_size, self.seed)",
        "start + self.batch_size, 1)",
        "The order of the documents is the same for every seed.",
    ),
    (
        "total = sft.response_tokens(batch)",
        "total = len(batch)",
        "The loss is a mean over documents.",
    ),
    (
        "loss += part.detach()",
        "loss += coef * part.detach()",
        "The logged loss is in another unit.",
    ),
    (
        'if args.ptx_coef and args.algorithm != "ppo":',
        "if False:",
        "--ptx-coef beside another algorithm goes unnoticed.",
    ),
    (
        "if args.ptx_coef and args.data and not args.text:",
        "if False:",
        "The world's documents stand beside the user's prompts.",
    ),
    (
        "(args.text or args.ptx_batch != PtxFlags.ptx_batch):",
        "args.text:",
        "--ptx-batch without --ptx-coef goes unnoticed.",
    ),
    (
        "steps = args.epochs * args.minibatches",
        "steps = args.epochs",
        "Two iterations have documents in common.",
    ),
    (
        "rng(seed, config.PTX_DOCUMENTS)",
        "rng(1, config.PTX_DOCUMENTS)",
        "The documents are the same for every seed.",
    ),
    (
        "if len(example.tokens) <= context]",
        "if len(example.tokens) < context]",
        "A document that just fits is left out.",
    ),
    (
        "return examples[n:], examples[:n]",
        "return examples, examples[:n]",
        "The held-out documents are learned from.",
    ),
    (
        "Loss(gpt, documents, steps, args.seed, *limits), documents, held_out",
        "Loss(gpt, documents, steps, args.seed, *limits), documents, documents[:len(held_out)]",
        "The loss is measured on documents that are learned from.",
    ),
]

AXES = [
    (
        "zip((model.head, *model.flag_heads), weights, strict=True)",
        "zip((model.head, *reversed(model.flag_heads)), weights, strict=True)",
        "A weight is that of another flag.",
    ),
    (
        "for row in rows], groups) / len(batch)",
        "for row in rows], groups) / len(rows)",
        "The gradient grows with the number of microbatches.",
    ),
    (
        "loss = loss + len(same) * kind_loss(",
        "loss = loss + kind_loss(",
        "Every kind of judgement has the same weight.",
    ),
    (
        "ordinal_loss(values[:, 0, 0] + biases,",
        "ordinal_loss(values[:, 0, 0],",
        "A labeller's bias is learned as reward.",
    ),
    (
        "flag_loss(values[:, 0, 1:], flags)",
        "flag_loss(values[:, 0, :-1], flags)",
        "The flags teach the head of another axis.",
    ),
    (
        "        optimizer.zero_grad()\n",
        "",
        "The gradients of all steps add up.",
    ),
    (
        "weight += factor / result.std * head.weight",
        "weight += factor * head.weight",
        "An axis counts by how wide its numbers are.",
    ),
    (
        "            result.head.load_state_dict(head.state_dict())\n",
        "",
        "Every axis is normalised by the numbers of the score.",
    ),
    (
        'result.head.load_state_dict({"weight": weight, "bias": bias})\n    result.normalise(',
        'result.head.load_state_dict({"weight": weight, "bias": bias})\n    RewardModel('
        "model.gpt).normalise(",
        "The sum is not normalised.",
    ),
    (
        "        if factor:\n",
        "        if factor > 0:\n",
        "Axes with a negative weight are left out.",
    ),
    (
        "    with torch.random.fork_rng(devices=[]):  # the head that it draws is replaced\n"
        "        result",
        "    if True:\n        result",
        "The noise of what comes later depends on this draw.",
    ),
]

ENSEMBLE = [
    (
        "sum(float(model.std) for model in models) / len(models)",
        "float(models[0].std)",
        "PAR's unit is that of the first model.",
    ),
    (
        "win_rate(self.unit * scores, self.unit * self.compared(prompts))",
        "win_rate(scores, self.compared(prompts))",
        "PAR's scores are not in log-odds.",
    ),
    (
        "return combine(scores, self.args.combine)",
        "return combine(scores, EnsembleFlags.combine)",
        "--combine is ignored when scores are made one.",
    ),
    (
        "self.disagreement = float(disagreement(scores)) if len(members) > 1 else math.nan",
        "self.disagreement = float(scores.std(1).mean()) if len(members) > 1 else math.nan",
        "The disagreement is over responses.",
    ),
    (
        "        self.disagreement = known\n",
        "",
        "The logged disagreement is that of the SFT responses.",
    ),
    (
        "noise = [uniforms(self.args.seed, prompt, M, width)",
        "noise = [uniforms(1, prompt, M, width)",
        "The compared responses are the same for every seed.",
    ),
    (
        "self.combined(repeated, replies).view(-1, M)",
        "self.combined(repeated, replies).view(M, -1).T",
        "A response is compared with responses to another prompt.",
    ),
    (
        "repeated = [prompt for prompt in prompts for _ in range(n)]",
        "repeated = list(prompts) * n",
        "The responses are in another order than their scores are read.",
    ),
    (
        "noise, self.args.temperature)",
        "noise)",
        "--temperature does not reach the compared responses.",
    ),
    (
        "[finish(reply, self.tokenizer.end_token) for reply in replies]",
        "replies",
        "The score of a cut-off response is read in mid-sentence.",
    ),
    (
        "rng(self.args.seed, config.NORM_RESPONSES)",
        "rng(1, config.NORM_RESPONSES)",
        "The normalisation is the same for every seed.",
    ),
    (
        ".var(dim=1, correction=1)",
        ".var(dim=0, correction=1)",
        "The unit is the spread between prompts.",
    ),
    (
        "config.COMPARED_RESPONSES, digest).random",
        "config.COMPARED_RESPONSES).random",
        "All prompts have the same noise.",
    ),
    (
        "    if len(files) < len(members):\n",
        "    if False:\n",
        "A reward model that is named twice goes unnoticed.",
    ),
    (
        "if len(members) < 2 and args.combine",
        "if not members and args.combine",
        "--combine with one reward model goes unnoticed.",
    ),
    ("if args.par and args.reward:", "if False:", "--par beside --reward goes unnoticed."),
    (
        'if len(members) > 1 and args.critic == "separate":',
        "if False:",
        "A critic of several reward models goes unnoticed.",
    ),
    (
        'checkpoint.same_vocabulary("the policy", tokenizer, name, other)',
        'checkpoint.same_vocabulary("the policy", tokenizer, name, loaded[0][1])',
        "A second reward model of another vocabulary goes unnoticed.",
    ),
    ("loaded[0][2]", "loaded[-1][2]", "The missing-end score is that of the last model."),
    (
        "if len(models) < 2 and not args.par:",
        "if len(models) < 2:",
        "PAR with one reward model is ignored.",
    ),
    (
        "    robust_score.normalise(prompts)\n",
        "",
        "The combined score has another zero and unit.",
    ),
    (
        "nn.ModuleList(models) if len(models) > 1 else next(iter(models), None)",
        "next(iter(models), None)",
        "A resumed run may have another second reward model.",
    ),
]

CREDIT = [
    (
        "distributed.total(result)[:, 1:]",
        "distributed.total(result)[:, :-1]",
        "A reward is a token too late.",
    ),
    (
        "distributed.total(result)[:, 1:]",
        "result[:, 1:]",
        "With several processes each knows its own rows only.",
    ),
    (
        "    earned = torch.where(samples.ended, scores, 0.0)\n",
        "    earned = scores\n",
        "`uniform` shares out a score that a cut-off response does not have.",
    ),
    (
        "redistribute(torch.where(samples.ended, scores, 0.0), weights,",
        "redistribute(scores, weights,",
        "`attention` shares out a score that a cut-off response does not have.",
    ),
    ("shaping(share * potentials, mask)", "shaping(potentials, mask)", "The share is ignored."),
    (
        "return (raw - reward_model.mean) / reward_model.std",
        "return raw",
        "The scores of prefixes are raw.",
    ),
    ("    if args.gamma != 1:\n", "    if False:\n", "--gamma beside --credit goes unnoticed."),
    (
        "        if members != 1:\n",
        "        if members > 1:\n",
        "--credit without a reward model goes unnoticed.",
    ),
    (
        "if args.credit_share != CreditFlags.credit_share:",
        "if False:",
        "--credit-share without --credit goes unnoticed.",
    ),
    (
        "part = function(tokens[rows, :columns], lengths[rows].to(tokens.device))\n"
        "        result[rows, :columns]",
        "part = function(tokens[rows, :columns], lengths[rows].to(tokens.device))\n"
        "        result[sorted(rows), :columns]",
        "The credit of a response is another's.",
    ),
]

FUNCTION = [
    (
        "[prompt.columns[column] for prompt in prompts]",
        "[prompts[0].columns[column] for prompt in prompts]",
        "Every response is judged by the first prompt's columns.",
    ),
    (
        "x.kind in named and x.default is x.empty)",
        "x.kind in named)",
        "A parameter with a default is taken for a column.",
    ),
    (
        "first, second, limit=1)",
        "first, second)",
        "A judge may answer with any number.",
    ),
    (
        "function, prompts, first, second, limit=1)",
        "function, prompts, second, first, limit=1)",
        "The judge is asked about the second response.",
    ),
    (
        "values is None or values.shape != (n,) or",
        "values is None or",
        "Too few scores go unnoticed.",
    ),
    (
        "finite & (values >= 0) & (values <= limit)",
        "finite & (values <= limit)",
        "A negative probability goes unnoticed.",
    ),
    (
        "        with kept_state():\n            result",
        "        if True:\n            result",
        "A user's function changes the type of everything after it.",
    ),
    (
        "hashlib.sha256(Path(path).read_bytes())",
        "hashlib.sha256(path.encode())",
        "A resumed run may have a changed function.",
    ),
    (
        'scores = numbers("--reward", name, function, prompts, texts, fields=fields)',
        'scores = numbers("--reward", name, function, texts, prompts, fields=fields)',
        "Prompts and responses are swapped.",
    ),
    (
        "[r.text for r in distributed.mine(replies)]",
        "[r.text.strip() for r in distributed.mine(replies)]",
        "A reward sees another text than was written.",
    ),
]

OPINIONS = [
    (
        'data.encode(tokenizer, "", text).tokens[:-1]',
        'data.encode(tokenizer, "", text).tokens',
        "The model is asked what comes after the end of a document.",
    ),
    (
        "logprobs[places, k] = table",
        "logprobs[sorted(places), k] = table",
        "An opinion is that of another response.",
    ),
    (
        "(document + stem)[-gpt.config.context :]",
        "(document + stem)[: gpt.config.context]",
        "Of a long document the beginning counts.",
    ),
    (
        "logprobs[:, columns] = label_logprobs(",
        "logprobs[:, sorted(columns, reverse=True)] = label_logprobs(",
        "A log-probability is that of another ending.",
    ),
    ("texts, CAREFUL + CARELESS)", "texts, CARELESS + CAREFUL)", "Careless is good."),
    (
        "question.format(statement=y)",
        "question.format(statement=x)",
        "The quiz is about the prompt.",
    ),
    (
        "self.opinions |= dict(zip(new, opinions, strict=True))",
        "self.opinions |= dict(zip(asked, opinions, strict=False))",
        "An opinion is that of another response, if one is asked about twice.",
    ),
    (
        "asked = list(zip(prompts, responses, strict=True))",
        "asked = list(zip([prompts[0]] * len(responses), responses, strict=True))",
        "Every response is asked about after the first prompt.",
    ),
    ("if self.name in COMPETING else", "if self.name not in COMPETING else", "Another mass."),
    ("rating(opinions[:, 0].flip(1))", "rating(opinions[:, 0])", "The careless are rewarded."),
    ("OPINIONS[self.name](", 'OPINIONS["ai"](', "Every labeller asks about the giveaway."),
]

SOFT = [
    (
        "for n, i, j in questions if differ(comparisons[n].responses, i, j)]",
        "for n, i, j in questions]",
        "The labeller is asked about identical texts.",
    ),
    (
        "right = [comparisons[n].responses[j] for n, _, j in asked]",
        "right = [comparisons[n].responses[-1] for n, _, j in asked]",
        "Of three responses another one is asked about.",
    ),
    ("int((sums > own).sum())", "int((sums < own).sum())", "The ranks are reversed."),
    ("!= (swapped < 0.5)", "!= (swapped > 0.5)", "Flips are counted where there are none."),
    ("(first + swapped).mean() / 2", "(first + 1 - swapped).mean() / 2", "Another bias."),
    ("np.abs(2 * probabilities - 1)", "np.abs(2 * first - 1)", "Sure before both orders."),
    (
        "1 - len(first) / max(questions, 1)",
        "len(first) / max(questions, 1)",
        "The share of the same text is that of the others.",
    ),
    (
        "ranks, None, table.tolist())",
        "ranks, None, table.T.tolist())",
        "The table of probabilities is transposed.",
    ),
]

SIMULATED = [
    ("np.asarray(totals) + bias +", "np.asarray(totals) +", "No labeller has a bias."),
    (
        "np.where(behaviour, draws >= miss, draws < false_alarm)",
        "np.where(behaviour, draws >= false_alarm, draws < miss)",
        "What is overlooked and what is made up are swapped.",
    ),
    (
        "draws = rng.random(np.shape(behaviour))",
        "draws = rng.random(np.shape(behaviour)[-1:])",
        "All responses have the same errors of a flag.",
    ),
    (
        "rng.logistic(scale=LABEL_NOISE, size=len(totals))",
        "rng.logistic(scale=LABEL_NOISE)",
        "The two ratings of a pair have the same noise.",
    ),
]

BASELINES = [
    (
        "BagOfWords(pairs_of(training))",
        "BagOfWords(pairs_of(held_out))",
        "The bag of words has learned the held-out pairs.",
    ),
    (
        "prompts.append(comparison.prompt)",
        "prompts.append(len(prompts))",
        "The standard error is not clustered.",
    ),
    (
        "prompts.append(comparison.prompt)",
        "prompts.append(comparison.prompt.split()[0])",
        "The standard error is clustered by the first word.",
    ),
    (
        "correct.append(row[better] > row[worse])",
        "correct.append(row[0] > row[-1])",
        "The standard error is that of another pair.",
    ),
    ("[len(worse) - len(better) for", "[len(better) - len(worse) for", "The longer wins."),
    (
        '{numbers["shorter_wins"]:.3f}',
        '{numbers["bag_of_words"]:.3f}',
        "One printed baseline is the other.",
    ),
    ("for word in better | worse:", "for word in better:", "Words of the worse text only."),
    (
        "np.sign(margins)) / 2 + 0.5",
        "np.array(margins) > 0)",
        "Ties count nothing.",
    ),
]

SECTIONS = {
    "minirlhf/tools/ai.py": AI,
    "minirlhf/tools/labeller.py": LABELLER,
    "minirlhf/tools/choice.py": CHOICE,
    "minirlhf/tools/judgements.py": JUDGEMENTS,
    "minirlhf/tools/rewards.py": REWARDS,
    "minirlhf/tools/meta.py": META,
    "minirlhf/tools/demonstrations.py": DEMONSTRATIONS,
    "minirlhf/tools/rejection.py": REJECTION,
    "minirlhf/tools/ptx.py": PTX,
    "minirlhf/rewards/axes.py": AXES,
    "minirlhf/rewards/ensemble.py": ENSEMBLE,
    "minirlhf/rewards/credit.py": CREDIT,
    "minirlhf/rewards/function.py": FUNCTION,
    "minirlhf/feedback/ai.py": OPINIONS,
    "minirlhf/feedback/soft.py": SOFT,
    "minirlhf/feedback/simulated.py": SIMULATED,
    "minirlhf/feedback/baselines.py": BASELINES,
}

FLAGS = {  # those that the file itself reads; what a mutant does with one is in `scripts.ignored`
    "minirlhf/tools/ai.py": "seed labeller labeller_model comparisons data records contrasts to "
    "device",
    "minirlhf/tools/choice.py": "seed sft labels pool held_out epochs lr max_new_tokens ways "
    "members",
    "minirlhf/tools/judgements.py": "seed sft max_new_tokens out kinds labellers bias miss "
    "false_alarm flag_weight data overwrite",
    "minirlhf/tools/rewards.py": "out compare only members updates total held_out seed threads",
    "minirlhf/tools/meta.py": "seed sft rm policy step eta comparisons fresh meta_prompts "
    "meta_responses meta_batch batch_size lr warmup max_new_tokens held_out measure_every "
    "save_every max_grad_norm resume",
    "minirlhf/tools/demonstrations.py": "drop_long seed out method sft data demonstrations chosen "
    "rejected rounds updates kl_coef beta batch_size max_new_tokens prompts",
    "minirlhf/tools/rejection.py": "drop_long seed out sft rm data rounds prompts best_of epochs "
    "lr max_new_tokens held_out device",
}

METHODS, PAIRS = "runs/test_whole_commands.py", "runs/test_whole_pairs.py"
QUICK = "whole_pairs or cannot_be or sft_model"
KILLERS = {
    "minirlhf/tools/ai.py": [
        "runs/test_ai_labels.py",
        METHODS,
        "-k",
        "ai_labels or gate or label or agreement",
    ],
    "minirlhf/tools/labeller.py": [
        METHODS,
        "unit/test_ai.py",
        "runs/test_ai_labels.py",
        "runs/test_rounds.py",
        "-k",
        "label or comparisons or sampled or flags and not gaf and not rejection",
    ],
    "minirlhf/tools/choice.py": [PAIRS, "runs/test_pairs.py", "-k", QUICK],
    "minirlhf/tools/judgements.py": [PAIRS, "runs/test_pairs.py", "-k", QUICK],
    "minirlhf/tools/rewards.py": ["runs/test_rewards.py"],
    "minirlhf/tools/meta.py": [
        "unit/test_meta.py",
        METHODS,
        "runs/test_meta_run.py",
        "-k",
        "meta or policy or fresh",
    ],
    "minirlhf/tools/demonstrations.py": [
        METHODS,
        "runs/test_demonstrations_run.py",
        "-k",
        "gaf or spin or room or demonstrations_run and not interrupted",
    ],
    "minirlhf/tools/rejection.py": [
        METHODS,
        "runs/test_rejection.py",
        "-k",
        "rejection or room",
    ],
    "minirlhf/tools/ptx.py": [METHODS, "runs/test_train_ptx.py", "-k", "ptx"],
    "minirlhf/rewards/axes.py": ["unit/test_axes.py"],
    "minirlhf/rewards/ensemble.py": [
        "unit/test_ensemble.py",
        "runs/test_robust_rewards.py",
        "-k",
        "not learns and not resumes and not finished",
    ],
    "minirlhf/rewards/credit.py": [
        "unit/test_ensemble.py",
        "runs/test_robust_rewards.py",
        "-k",
        "credit or processes or refused or attention or prefixes",
    ],
    "minirlhf/rewards/function.py": ["unit/test_function.py"],
    "minirlhf/feedback/ai.py": ["unit/test_ai.py"],
    "minirlhf/feedback/soft.py": ["unit/test_ai.py"],
    "minirlhf/feedback/simulated.py": ["unit/test_judgements.py"],
    "minirlhf/feedback/baselines.py": ["unit/test_baselines.py"],
}
for flag in ("epochs", "lr"):
    KILLERS["minirlhf/tools/choice.py", flag] = ["runs/test_pairs.py", "-k", "as_long"]
for flag in ("sft", "overwrite"):
    KILLERS["minirlhf/tools/judgements.py", flag] = ["runs/test_pairs.py", "-k", "person"]
DROPS = {"demonstrations": "demonstrations_run", "rejection": "rejection"}
for name, stem in DROPS.items():
    words = [f"runs/test_{stem}.py", "-k", "too_long"]
    KILLERS[f"minirlhf/tools/{name}.py", "drop_long"] = words
