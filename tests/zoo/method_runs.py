"""Semantic mutants of what runs the methods of RLHF side by side and measures them: the commands
methods, rounds and overoptimisation, and what they and others of the kind have in common.

A section has the form of those in scripts.py: a text that stands once in a file, the text that
replaces it, and what it breaks. The list was written before any test was read; the tests that kill
are named at the end.
"""

METHODS = [
    (
        'f"{MEMBER} --out {{run}}/{n} --seed {n}00" for n in (2, 3, 4)',
        'f"{MEMBER} --out {{run}}/{n} --seed 200" for n in (2, 3, 4)',
        "The further reward models of the ensemble are one model three times.",
    ),
    (
        'MEMBER = "rm --sft {base}/sft --data {base}/rm/comparisons.jsonl --mix-data"',
        'MEMBER = "rm --sft {base}/sft --prompts 4096 --mix-data"',
        "The members of the ensemble learn from comparisons of their own.",
    ),
    (
        'OTHERS = ",".join(f"{{run}}/{n}/rm" for n in (2, 3, 4))',
        'OTHERS = ",".join(f"{{run}}/{n}/rm" for n in (2, 3))',
        "The worst of four is the worst of three.",
    ),
    (
        "{seed} --kl-coef 0 --rm {base}/rm",
        "{seed} --rm {base}/rm",
        "The runs without a penalty have one.",
    ),
    (
        'PPO = "ppo --out {run} --sft {base}/sft --rm {base}/rm --seed {seed}"',
        'PPO = "ppo --out {run} --sft {base}/sft --rm {base}/rm --seed 1"',
        "Every run of PPO and its relatives has seed 1.",
    ),
    (
        'DPO = "dpo --out {run} --sft {base}/sft --seed {seed}"',
        'DPO = "dpo --out {run} --sft {base}/sft --seed 1"',
        "Every run of the direct losses has seed 1.",
    ),
    (
        'ROUNDS = "rounds --out {run} --sft {base}/sft --seed {seed} --updates 48"',
        'ROUNDS = "rounds --out {run} --sft {base}/sft --seed 1 --updates 48"',
        "Every run of rounds has seed 1.",
    ),
    (
        '(f"{ROUNDS} --rounds 4 --prompts 1024",),\n        "round-4/ppo"',
        '(f"{ROUNDS} --rounds 4 --prompts 1024",),\n        "round-3/ppo"',
        "Four rounds are judged after three.",
    ),
    (
        '(f"{ROUNDS} --rounds 4 --prompts 1024",)',
        '(f"{ROUNDS} --rounds 4 --prompts 4096",)',
        "Four rounds have four times the labels of the one round beside them.",
    ),
    (
        'tuple(f"gaf/round-{n}/ppo" for n in (1, 2, 3, 4))',
        'tuple(f"gaf/round-{n}/ppo" for n in (4, 3, 2, 1))',
        "The curve of GAF runs backwards.",
    ),
    (
        '"grpo": Method("without a critic", RANKINGS, (f"{PPO} --algorithm grpo",))',
        '"grpo": Method("without a critic", RANKINGS, (f"{PPO} --algorithm rloo",))',
        "The row of GRPO is one of RLOO.",
    ),
    (
        "found = {seed: found[seed] for seed in sorted(found)}",
        "found = {seed: found[seed] for seed in sorted(found, key=str)}",
        "The first three seeds are those in the order of text: 1, 10, 2.",
    ),
    (
        'found = {int(chain.stored_flags(out / "sft").get("seed", 1)): out}',
        "found = {1: out}",
        "A folder with models of another seed counts as seed 1.",
    ),
    (
        "or list(found)[:3]",
        "or list(found)",
        "Without --seeds all seeds are run, not three.",
    ),
    (
        "return {seed: found[seed] for seed in seeds}",
        "return dict(zip(seeds, found.values()))",
        "The models of a seed are those of another one that comes first in the folder.",
    ),
    (
        "return [name for name in METHODS if name in names]",
        "return [name for name in METHODS if name not in names]",
        "--only makes all methods but these.",
    ),
    (
        'if args.only == "none" else words',
        'if args.only == "nothing" else words',
        "--only none is refused.",
    ),
    (
        "marks = frontier.measure(policy, sft, place.seed, *limits, file)",
        "marks = frontier.measure(sft, sft, place.seed, *limits, file)",
        "The SFT model is judged in place of every policy.",
    ),
    (
        "marks = frontier.measure(policy, sft, place.seed, *limits, file)",
        "marks = frontier.measure(policy, sft, 1, *limits, file)",
        "Policies of all seeds are judged on the prompts of seed 1.",
    ),
    (
        'rows["sft"][place.seed] = frontier.measure(sft, sft, place.seed, *limits, sft_file)',
        'rows["sft"][place.seed] = frontier.measure(sft, sft, 1, *limits, sft_file)',
        "The SFT models of all seeds are judged on the prompts of seed 1.",
    ),
    (
        'if not runs.missing(place) and (policy / "checkpoint.pt").exists():',
        'if (policy / "checkpoint.pt").exists():',
        "A run that has not ended is judged.",
    ),
    (
        "limits = min(args.prompts, BEST_OF_PROMPTS), args.max_new_tokens, folder",
        "limits = args.prompts, args.max_new_tokens, folder",
        "Best-of-n samples all prompts, not 512.",
    ),
    (
        'proxies = frontier.score_samples(place.base / "rm", samples, folder / "scores.json")',
        "proxies = samples.golds",
        "Best of n chooses by the judge.",
    ),
    (
        'samples = frontier.sample_sft(place.base / "sft", place.seed, *limits)',
        'samples = frontier.sample_sft(place.base / "sft", 1, *limits)',
        "The samples of best-of-n have the prompts and the noise of seed 1.",
    ),
    (
        'folder = place.run.parents[1] / "best-of-n" / str(place.seed)',
        'folder = place.run.parents[1] / "best-of-n"',
        "The samples of all seeds are in one folder, and overwrite each other.",
    ),
    (
        "column, kl = frontier.NS.index(BEST_OF), evaluate.best_of_n_kl(BEST_OF)",
        "column, kl = frontier.NS.index(BEST_OF) + 1, evaluate.best_of_n_kl(BEST_OF)",
        "The row of best of 16 is that of best of 32.",
    ),
    (
        "column, kl = frontier.NS.index(BEST_OF), evaluate.best_of_n_kl(BEST_OF)",
        "column, kl = frontier.NS.index(BEST_OF), evaluate.best_of_n_kl(frontier.NS[-1])",
        "The KL of best of 16 is that of best of 64.",
    ),
    (
        'frontier.difference(marks.totals, rows["ppo"][seed].totals, prompts[seed])',
        'frontier.difference(rows["ppo"][seed].totals, marks.totals, prompts[seed])',
        "The difference is PPO minus the method.",
    ),
    (
        'frontier.difference(marks.totals, rows["ppo"][seed].totals, prompts[seed])',
        'frontier.difference(marks.totals, rows["sft"][seed].totals, prompts[seed])',
        "The difference is that from the SFT model.",
    ),
    (
        'frontier.difference(marks.totals, rows["ppo"][seed].totals, prompts[seed])',
        'frontier.difference(marks.totals, min(rows["ppo"].items())[1].totals, prompts[seed])',
        "All seeds are compared with PPO of the first one.",
    ),
    (
        "[results.cell([gain for gain, _ in gains])] if len(gains) > 2 else []",
        "[results.cell([half for _, half in gains])] if len(gains) > 2 else []",
        "Over seeds stands the mean of the intervals.",
    ),
    (
        "if len(gains) > 2 else []",
        "if len(gains) > 1 else []",
        "Two seeds get an interval over seeds.",
    ),
    (
        '[f"{marks.kl:.2f}" for marks in row.values()]',
        '[f"{marks.length:.2f}" for marks in row.values()]',
        "The column KL has the mean length.",
    ),
    (
        '"minus PPO", "over seeds", "KL", "distinct"',
        '"minus PPO", "over seeds", "distinct", "KL"',
        "The headings of KL and distinct are swapped.",
    ),
    (
        "prompts = {seed: frontier.validation_prompts(args.prompts, seed) for seed in",
        "prompts = {seed: frontier.validation_prompts(args.prompts, 1) for seed in",
        "The clusters of the intervals are those of the prompts of seed 1.",
    ),
    (
        "start = np.mean([(0, marks.totals.mean()) for marks in rows",
        "start = np.min([(0, marks.totals.mean()) for marks in rows",
        "The curves start at the worst SFT model.",
    ),
    (
        "if place.name == name and place.seed in row",
        "if place.seed in row",
        "The curve of a method is a mean over all methods' runs.",
    ),
    (
        "[*points, np.mean(ends, axis=0)], ends",
        "[*points, ends[-1]], ends",
        "A curve ends at the last seed, not at the mean.",
    ),
    (
        "ends = [(marks.kl, marks.totals.mean()) for marks in row.values()]",
        "ends = [(marks.totals.mean(), marks.kl) for marks in row.values()]",
        "KL and total of the end points are swapped.",
    ),
    (
        "for folder in method.curve or (method.policy,):",
        "for folder in (method.policy,):",
        "The curve of GAF has the last round only.",
    ),
    (
        "np.mean([totals.mean(0) for totals in best.values()], axis=0)], 1)",
        "np.mean([totals.mean(0) for totals in list(best.values())[:1]], axis=0)], 1)",
        "The curve of best-of-n is that of the first seed.",
    ),
    (
        "level = np.mean([frontier.writers_total(args.prompts, seed) for seed in seeds])",
        "level = np.mean([frontier.writers_total(args.prompts, 1) for seed in seeds])",
        "The level of the writers is that of seed 1.",
    ),
    (
        "    runs.require_models(places)\n",
        "",
        "Runs that were made from other models are judged as if from these.",
    ),
    (
        "runs.make([place for place in places if place.name in names])",
        "runs.make(places)",
        "All methods are made, whatever --only says.",
    ),
]

RUNS = [
    (
        'WHATEVER = resume.CHANGEABLE - {"updates"} | {',
        "WHATEVER = resume.CHANGEABLE | {",
        "A run of the base with other --updates counts as the method's.",
    ),
    (
        '| {"seed", "sft", "rm", "precision", "missing_end_score"}',
        '| {"seed", "sft", "rm", "precision", "missing_end_score", "kl_coef", "beta"}',
        "A run of the base with another coefficient counts as the method's.",
    ),
    (
        'BASE_RUNS = ("ppo", "dpo")',
        'BASE_RUNS = ("ppo", "dpo", "rloo", "kto", "par")',
        "A plain run of the base may stand for another method.",
    ),
    (
        "and not made(place.run, policy)",
        "",
        "A run of one's own is passed over for that of the base.",
    ),
    (
        "    if not made(place.base, place.method.policy):\n        return False\n",
        "",
        "The base's run of PPO counts while it still goes on.",
    ),
    (
        "line_of(place, place.method.commands[-1])",
        "line_of(place, place.method.commands[-1].split(' --sft')[0])",
        "The base's run is compared with the defaults, not with the flags of the method.",
    ),
    (
        "all(stored.get(x, wanted[x]) == wanted[x] for x in wanted if x not in WHATEVER)",
        "any(stored.get(x, wanted[x]) == wanted[x] for x in wanted if x not in WHATEVER)",
        "One flag in common makes the base's run the method's.",
    ),
    (
        "all(stored.get(x, wanted[x]) == wanted[x] for x in wanted if x not in WHATEVER)",
        "all(stored.get(x) == wanted[x] for x in wanted if x not in WHATEVER)",
        "A run that is older than a flag does not count as plain.",
    ),
    (
        'return not updates or checkpoint.stored_step(folder, "ppo") >= updates',
        "return True",
        "A run of PPO counts as made from its first checkpoint on.",
    ),
    (
        'return not updates or checkpoint.stored_step(folder, "ppo") >= updates',
        'return not updates or checkpoint.stored_step(folder, "ppo") > updates',
        "A whole run of PPO never counts as made.",
    ),
    (
        'return run.with_name(f"{run.name}.json")',
        'return run.with_name("seconds.json")',
        "The runs of all seeds of a method have one record.",
    ),
    (
        "origins(run / place.method.policy if run == place.base else run)",
        "origins(run)",
        "What else is in the base vouches for an older policy.",
    ),
    (
        "for stage, model in models[place.base].items() if found else ():",
        "for stage, model in ():",
        "A run from another SFT model is not noticed.",
    ),
    (
        'asked = stage == "sft" or any("--rm {base}/rm " in line for line in lines)',
        'asked = stage == "sft"',
        "A run with another reward model is not noticed.",
    ),
    (
        'asked = stage == "sft" or any("--rm {base}/rm " in line for line in lines)',
        "asked = True",
        "A run without a reward model is refused after a new one.",
    ),
    (
        'and not chain.stored_flags(base / "rm").get("lora"):',
        "and True:",
        "A reward model with adapters is known by another fingerprint than its runs know.",
    ),
    (
        'run, lines = folder_of(place), [f"{line} " for line in place.method.commands]',
        'run, lines = place.run, [f"{line} " for line in place.method.commands]',
        "The base's own PPO is not looked at for a change of models.",
    ),
    (
        "known += [parts.read(path) for path in run.rglob(parts.EXPERIMENT)]",
        "known += []",
        "What experiment.json says of the models is not read.",
    ),
    (
        "    if made(run, place.method.policy) and seconds is None:\n        return []\n",
        "",
        "A run that was made by hand is made again.",
    ),
    (
        "    if made(run, place.method.policy) and seconds is None:\n",
        "    if made(run, place.method.policy):\n",
        "A run whose last command was interrupted counts as ended.",
    ),
    (
        "if command not in (seconds or {})]",
        "]",
        "Commands that have ended are run again.",
    ),
    (
        "totals.setdefault(place.name, []).append(sum(seconds.values()))",
        "totals.setdefault(place.name, []).append(list(seconds.values())[-1])",
        "The seconds of a run of several commands are those of the last one.",
    ),
    (
        'f"{np.mean(values):.0f}" for name, values in totals.items()',
        'f"{np.sum(values):.0f}" for name, values in totals.items()',
        "Seconds are the sum over seeds.",
    ),
    (
        "clock = time.process_time()",
        "clock = start",
        "Seconds are not those of the processor.",
    ),
    (
        "seconds = dict(ended(place.run) or {})",
        "seconds = {}",
        "Only the last command of a run is recorded, and the others are run again.",
    ),
    (
        "        write_json(record_path(place.run), seconds)\n        clock",
        "        clock",
        "A run of one's own that was interrupted has no record, and counts as made by hand.",
    ),
    (
        'shutil.copyfile(place.base / "rm" / COMPARISONS, target)',
        'target.exists() or shutil.copyfile(place.base / "rm" / COMPARISONS, target)',
        "DPO learns from comparisons of before that lie in its folder.",
    ),
    (
        'STAGES = ("sft", "rm", "ppo", "dpo")',
        'STAGES = ("sft", "rm", "ppo")',
        "A run of a direct loss that was interrupted is not resumed.",
    ),
    (
        'Path(flags[flags.index("--out") + 1]) / name',
        "place.run / name",
        "A further reward model that was interrupted is not resumed.",
    ),
]

FRONTIER = [
    (
        'return writers.prompts(n, rng(seed, config.HELD_OUT_PROMPTS), "validation")',
        'return writers.prompts(n, rng(1, config.HELD_OUT_PROMPTS), "validation")',
        "All seeds are measured on the same prompts.",
    ),
    (
        'return writers.prompts(n, rng(seed, config.HELD_OUT_PROMPTS), "validation")',
        'return writers.prompts(n, rng(seed, config.HELD_OUT_PROMPTS), "train")',
        "Policies are judged on prompts of training.",
    ),
    (
        'if content["key"] == key:',
        'if content["key"]:',
        "Stale numbers of another model are taken for new ones.",
    ),
    (
        'if content["key"] == key:',
        'if content["key"][2:] == key[2:]:',
        "Numbers of another policy on as many prompts are taken for new ones.",
    ),
    (
        "evaluate.noise(seed, n, max_new_tokens)\n        replies",
        "evaluate.noise(1, n, max_new_tokens)\n        replies",
        "All seeds have the noise of seed 1.",
    ),
    (
        "evaluate.noise(seed, n, max_new_tokens)\n        replies",
        "np.random.default_rng().random((n, max_new_tokens), dtype=np.float32)\n        replies",
        "Every policy is judged under fresh noise.",
    ),
    (
        "replies = evaluate.respond(policy, tokenizer, prompts, uniforms, progress",
        "replies = evaluate.respond(sft, tokenizer, prompts, uniforms, progress",
        "The reference is judged.",
    ),
    (
        'totals = measures.values(prompts, replies)["total"].tolist()',
        'totals = measures.values(prompts, replies)["helpful"].tolist()',
        "The total is one axis of three.",
    ),
    (
        'totals = measures.values(prompts, replies)["total"].tolist()',
        'totals = measures.values(prompts[::-1], replies)["total"].tolist()',
        "Responses are judged under the prompts of other rows.",
    ),
    (
        "kl = float(evaluate.kl(policy, sft, replies).mean())",
        "kl = float(evaluate.kl(sft, policy, replies).mean())",
        "The KL is taken the wrong way round.",
    ),
    (
        "kl = float(evaluate.kl(policy, sft, replies).mean())",
        "kl = float(evaluate.kl(policy, sft, replies).sum() / sum(r.length for r in replies))",
        "The KL is per token.",
    ),
    (
        "    key = [resume.fingerprint(policy), resume.fingerprint(sft), seed, n, max_new_tokens]",
        "    key = [resume.fingerprint(policy), seed, n, max_new_tokens]",
        "A KL from another SFT model is taken for a new one.",
    ),
    (
        "resume.fingerprint(sft), seed, n, max_new_tokens]",
        "resume.fingerprint(sft), seed, n]",
        "Numbers of responses of another length are taken for new ones.",
    ),
    (
        "    checkpoint.same_vocabulary(path, tokenizer, sft_path, other)\n",
        "",
        "A policy with another tokenizer is measured against the SFT model.",
    ),
    (
        "evaluate.noise(seed, len(repeated), max_new_tokens, config.CANDIDATE_NOISE)",
        "evaluate.noise(1, len(repeated), max_new_tokens, config.CANDIDATE_NOISE)",
        "The candidates of all seeds are sampled under the same noise.",
    ),
    (
        "evaluate.noise(seed, len(repeated), max_new_tokens, config.CANDIDATE_NOISE)",
        "np.repeat(evaluate.noise(seed, n, max_new_tokens), size, axis=0)",
        "The candidates of a prompt are one response 64 times.",
    ),
    (
        "repeated = [prompt for prompt in prompts for _ in range(size)]",
        "repeated = [prompt for _ in range(size) for prompt in prompts]",
        "The candidates of a prompt are responses to other prompts.",
    ),
    (
        "key = [resume.fingerprint(sft), seed, n, size, max_new_tokens]",
        "key = [seed, n, size, max_new_tokens]",
        "Samples of another SFT model are taken for its own.",
    ),
    (
        "evaluate.Reply(tokenizer.decode(tokens[start:]), Example(tokens, start), ended)",
        "evaluate.Reply(tokenizer.decode(tokens[start:]), Example(tokens, start), True)",
        "Stored candidates that were cut off count as ended.",
    ),
    (
        "golds = np.array([row[-1] for row in rows], dtype=float).reshape(n, size)",
        "golds = np.array([row[-1] for row in rows], dtype=float).reshape(size, n).T",
        "The totals belong to other prompts' candidates.",
    ),
    (
        "score = evaluate.model_scores(reward_model, missing_end_score)",
        "score = evaluate.model_scores(reward_model, None)",
        "Responses without an end are scored as if they had one.",
    ),
    (
        "[*samples.key, resume.fingerprint(reward_model)]",
        "[*samples.key]",
        "Scores of another reward model are taken for its own.",
    ),
    (
        "stored(file, [*samples.key, resume.fingerprint(reward_model)], compute)",
        "stored(file, [resume.fingerprint(reward_model)], compute)",
        "Scores of other samples are taken for theirs.",
    ),
    (
        '    checkpoint.same_vocabulary("the SFT model", samples.tokenizer, path, other)\n',
        "",
        "A reward model with another tokenizer scores the ids of this one.",
    ),
    (
        "for share in (writers.CAREFUL, writers.POLITE)",
        "for share in (writers.POLITE, writers.CAREFUL)",
        "The writers are as often careful as they should be polite.",
    ),
    (
        "prompts, draw = validation_prompts(n, seed), rng(seed, config.WRITERS_RESPONSES)",
        "prompts, draw = validation_prompts(n, seed), rng(1, config.WRITERS_RESPONSES)",
        "The writers of all seeds make the same choices.",
    ),
    (
        "return evaluate.interval(totals[:n] - others[:n], clusters)",
        "return evaluate.interval(totals[:n] - others[:n])",
        "The interval takes prompts of one subject for independent.",
    ),
    (
        "return evaluate.interval(totals[:n] - others[:n], clusters)",
        "return evaluate.interval(totals[:n] - others[-n:], clusters)",
        "Best-of-n is compared with PPO on other prompts.",
    ),
    (
        "return evaluate.interval(totals[:n] - others[:n], clusters)",
        "return evaluate.interval(np.sort(totals[:n]) - np.sort(others[:n]), clusters)",
        "The differences are not paired.",
    ),
    (
        "sorted(set.intersection(*map(set, runs)))[:-1]",
        "sorted(set.intersection(*map(set, runs)))",
        "The curve has its end twice, by two measurements.",
    ),
    (
        "sorted(set.intersection(*map(set, runs)))[:-1]",
        "sorted(set(runs[0]))[:-1]",
        "The curve asks for evaluations that a run does not have.",
    ),
    (
        'names = "eval_kl", "eval_total"',
        'names = "eval_kl", "eval_score"',
        "The curve has the reward model's score.",
    ),
    (
        "return [np.mean([[run[step][n] for n in names] for run in runs], axis=0)",
        "return [np.mean([[run[step][n] for n in names] for run in runs[:1]], axis=0)",
        "The curve is that of the first seed.",
    ),
    (
        "side.plot(*best.T, label",
        "side.plot(*best.T[::-1], label",
        "The axes of the curve of best-of-n are swapped.",
    ),
    (
        "if len(curve.points) > 2:",
        "if len(curve.points) > 1:",
        "A line stands where nothing was measured between start and end.",
    ),
    (
        'side.plot(*curve.points[-1], "o", color=color, markersize=6)',
        'side.plot(*curve.points[0], "o", color=color, markersize=6)',
        "The large point is the SFT model.",
    ),
    (
        "side.axhline(writers_total, **level)",
        "side.axhline(best.T[1][0], **level)",
        "The level of the writers is that of the SFT model.",
    ),
    (
        "spots[order] = np.concatenate(columns)",
        "spots = np.concatenate(columns)",
        "Names stand beside other methods' points.",
    ),
]

ROUNDS = [
    (
        '{"seed": config.round_seed(args.seed, n)}',
        '{"seed": args.seed}',
        "Every round draws the same prompts and noise.",
    ),
    (
        '{"seed": config.round_seed(args.seed, n)}',
        '{"seed": config.round_seed(1, n)}',
        "The rounds of all seeds draw the same.",
    ),
    (
        '"policy": policy_before(args, n),\n',
        '"policy": args.sft,\n',
        "Every round samples from the SFT model.",
    ),
    (
        '"more": folder(args, n - 1) / "rm" / COMPARISONS,',
        '"more": folder(args, 0) / "rm" / COMPARISONS,',
        "A reward model learns from the first round's comparisons and its own.",
    ),
    (
        '            "more": folder(args, n - 1) / "rm" / COMPARISONS,\n',
        "",
        "A reward model learns from its own round's comparisons only.",
    ),
    (
        'flags = shared(args, n) | {"sft": args.sft, "prompts": args.prompts}',
        'flags = shared(args, n) | {"sft": policy_before(args, n), "prompts": args.prompts}',
        "The reward model starts from the policy before.",
    ),
    (
        'flags = shared(args, n) | {"sft": args.sft, "prompts": args.prompts}',
        'flags = shared(args, n) | {"sft": args.sft, "prompts": args.prompts * (n + 1)}',
        "Later rounds have more labels.",
    ),
    (
        'flags |= {"labeller": args.labeller, "human_share": args.human_share}',
        'flags |= {"labeller": args.labeller}',
        "People rank nothing beside a model.",
    ),
    (
        '{"labeller": "ai", "labeller_model": policy_before(args, n)}',
        '{"labeller": "ai", "labeller_model": args.sft}',
        "The labeller of self-feedback is the SFT model in every round.",
    ),
    (
        'flags["labeller_model"] = args.labeller_model or Path(args.sft).with_name("pretrain")',
        'flags["labeller_model"] = Path(args.sft).with_name("pretrain")',
        "Another model than that of --labeller-model labels.",
    ),
    (
        "reference = policy_before(args, n) if args.moving_reference else args.sft",
        "reference = policy_before(args, n)",
        "The reference always moves.",
    ),
    (
        "reference = policy_before(args, n) if args.moving_reference else args.sft",
        "reference = args.sft",
        "The reference never moves.",
    ),
    (
        'return parts.words(flags) + split("--ppo", args.ppo)',
        'return parts.words(flags) + split("--rm", args.rm)',
        "PPO gets the flags of the reward model.",
    ),
    (
        'return parts.words(flags) + split("--rm", args.rm)',
        "return parts.words(flags)",
        "--rm is read by nobody.",
    ),
    (
        'return folder(args, n - 1) / "ppo" if n else args.sft',
        'return folder(args, max(0, n - 2)) / "ppo" if n else args.sft',
        "From the third round on the policy of two rounds before is sampled from.",
    ),
    (
        "        if name in GIVEN[option]:",
        "        if False:",
        "Flags in quotes override what a round gives.",
    ),
    (
        "    check_flags(args)\n    inputs",
        "    inputs",
        "Flags that PPO refuses are found after the reward model is trained.",
    ),
    (
        '[*words, "--resume"] if (run / "config.json").exists() else words',
        "words",
        "A round that was interrupted is not resumed.",
    ),
    (
        "for n in range(len(rows), args.rounds):",
        "for n in range(args.rounds):",
        "The same command repeats the rounds that are finished.",
    ),
    (
        "write_text(Path(args.out) / COMPARISONS, numbered_comparisons(args, n))",
        "write_text(Path(args.out) / COMPARISONS, numbered_comparisons(args, 0))",
        "The file of all comparisons has those of the first round.",
    ),
    (
        'row = json.loads(jsonl.write_record(record)) | {"round": k + 1}',
        'row = json.loads(jsonl.write_record(record)) | {"round": n + 1}',
        "All comparisons are of the last round.",
    ),
    (
        "resume.fingerprints(sft=checkpoint.load_gpt(args.sft)[0], labeller=asked)",
        "resume.fingerprints(labeller=asked)",
        "Rounds go on with another SFT model.",
    ),
    (
        "resume.fingerprints(sft=checkpoint.load_gpt(args.sft)[0], labeller=asked)",
        "resume.fingerprints(sft=checkpoint.load_gpt(args.sft)[0])",
        "Rounds go on with another labeller.",
    ),
    (
        "        resume.refuse_changed_inputs(inputs, before, path)\n",
        "",
        "A change of the inputs is never refused.",
    ),
    (
        "parts.require_same(path, flags, now | {name: flags.get(name) for name in CHANGEABLE})",
        "pass",
        "Rounds go on with other flags.",
    ),
    (
        'CHANGEABLE = ("out", "rounds", "device", "threads")',
        'CHANGEABLE = ("out", "device", "threads")',
        "No round can be added.",
    ),
    (
        'policy, tokenizer = checkpoint.load_gpt(here / "ppo", device=device, precision=precision)',
        "policy, tokenizer = checkpoint.load_gpt(args.sft, device=device, precision=precision)",
        "The SFT model is measured after every round.",
    ),
    (
        "sft, _ = checkpoint.load_gpt(args.sft, device=device, precision=precision)",
        "sft, _ = checkpoint.load_gpt(policy_before(args, n), device=device, precision=precision)",
        "The KL is from the policy before.",
    ),
    (
        'reward.load_reward_model(here / "rm", device, precision)',
        'reward.load_reward_model(folder(args, 0) / "rm", device, precision)',
        "The score is that of the first reward model.",
    ),
    (
        'rng(args.seed, config.HELD_OUT_PROMPTS), "validation")',
        'rng(args.seed + n, config.HELD_OUT_PROMPTS), "validation")',
        "Every round is measured on other prompts.",
    ),
    (
        'rng(args.seed, config.HELD_OUT_PROMPTS), "validation")',
        'rng(args.seed, config.HELD_OUT_PROMPTS), "train")',
        "Rounds are measured on prompts of training.",
    ),
    (
        "uniforms = evaluate.noise(args.seed, len(repeated), args.max_new_tokens)",
        "uniforms = evaluate.noise(1, len(repeated), args.max_new_tokens)",
        "All seeds are measured under the same noise.",
    ),
    (
        'if name == "own":',
        'if name == "sft":',
        "The axes, KL and score are those of the SFT model's responses.",
    ),
    (
        'row["kl"] = float(evaluate.kl(gpt, sft, replies).mean())',
        'row["kl"] = float(evaluate.kl(sft, gpt, replies).mean())',
        "The KL is taken the wrong way round.",
    ),
    (
        'for name, gpt in (("own", policy), ("sft", sft)):',
        'for name, gpt in (("own", policy), ("sft", policy)):',
        "Both agreements are on the policy's responses.",
    ),
    (
        "judge_agreement(*groups(texts, scores.tolist(), totals))",
        "judge_agreement(*groups(texts, sorted(scores.tolist()), totals))",
        "The agreement is that of other responses' scores.",
    ),
    (
        "score = evaluate.model_scores(model, missing_end_score)",
        "score = evaluate.model_scores(model, None)",
        "The score of a response that was cut off is that of a whole one.",
    ),
    (
        "return [[x[i : i + SAMPLES] for i in range(0, len(x), SAMPLES)] for x in columns]",
        "return [[x[i :: len(x) // SAMPLES] for i in range(len(x) // SAMPLES)] for x in columns]",
        "Responses to different prompts are compared.",
    ),
    (
        "new = records[len(before) :]",
        "new = records[: len(before) or None]",
        "The labels of the earlier rounds are measured.",
    ),
    (
        "new = records[len(before) :]",
        "new = records",
        "The labels of all rounds are measured.",
    ),
    (
        "likings = [[-rank for rank in c.ranks] for c in new]",
        "likings = [[rank for rank in c.ranks] for c in new]",
        "A label's last is taken for its first.",
    ),
    (
        '"same_text": 1 - different / pairs,',
        '"same_text": different / pairs,',
        "The share of equal texts is that of different ones.",
    ),
    (
        '"comparisons": len(records),',
        '"comparisons": len(new),',
        "The comparisons are those of the round, not how many there are by now.",
    ),
    (
        'best = int(np.argmax([row["total"] for row in rows[: args.rounds]]))',
        'best = int(np.argmax([row["score"] for row in rows[: args.rounds]]))',
        "The best round is the reward model's, not the judge's.",
    ),
    (
        "likes round {best + 1} best",
        "likes round {best} best",
        "The best round is another.",
    ),
]

OVEROPTIMISATION = [
    (
        'rm = "rm --out {run} --sft {base}/sft --seed {seed}" + limits',
        'rm = "rm --out {run} --sft {base}/sft --seed 1" + limits',
        "The further reward models have seed 1.",
    ),
    (
        'base, seed = Path(args.out), chain.stored_flags(f"{args.out}/sft").get("seed", 1)',
        "base, seed = Path(args.out), 1",
        "The runs have seed 1.",
    ),
    (
        "warmup = max(1, min(20, n // 128))",
        "warmup = 20",
        "A small reward model warms up for longer than it learns.",
    ),
    (
        'commands = (f"{rm} --prompts {n} --warmup {warmup}",)',
        'commands = (f"{rm} --prompts {numbers[0]} --warmup {warmup}",)',
        "All further reward models have as many rankings.",
    ),
    (
        "{limits} --kl-coef 0 --updates",
        "{limits} --updates",
        "PPO has a penalty.",
    ),
    (
        "--eval-every {args.eval_every} --microscope",
        "--eval-every {args.updates} --microscope",
        "PPO is judged at its end alone.",
    ),
    (
        '    seed = chain.stored_flags(base / "sft").get("seed", 1)\n    limits',
        "    seed = 1\n    limits",
        "Best-of-n has the prompts of seed 1.",
    ),
    (
        "proxies = frontier.score_samples(path, samples, file)",
        'proxies = frontier.score_samples(base / "rm", samples, file)',
        "Every reward model chooses as OUT/rm does.",
    ),
    (
        "proxies = frontier.score_samples(path, samples, file)",
        "proxies = samples.golds",
        "The judge chooses.",
    ),
    (
        'Gain(title, "best-of-n", kls, totals - totals[:, :1], clusters)',
        'Gain(title, "best-of-n", kls, totals, clusters)',
        "The totals are not those beyond the SFT model.",
    ),
    (
        'Gain(title, "best-of-n", kls, totals - totals[:, :1], clusters)',
        'Gain(title, "rl", kls, totals - totals[:, :1], clusters)',
        "The form of best-of-n is that of RL.",
    ),
    (
        'for name in ("kls", "totals", "sft_totals")',
        'for name in ("kls", "scores", "sft_totals")',
        "The gain of PPO is the reward model's.",
    ),
    (
        'Gain("PPO, kl_coef 0", "rl", kls, totals - sft, clusters)',
        'Gain("PPO, kl_coef 0", "rl", kls, totals - totals[:, :1], clusters)',
        "The gain of PPO is counted from its first evaluation.",
    ),
    (
        'Gain("PPO, kl_coef 0", "rl", kls, totals - sft, clusters)',
        'Gain("PPO, kl_coef 0", "rl", kls, totals - sft.mean(), clusters)',
        "The gain of PPO is not paired with the SFT model's.",
    ),
    (
        "prompts = frontier.validation_prompts(held_out, seed)",
        "prompts = frontier.validation_prompts(held_out, 1)",
        "The clusters of PPO's prompts are those of seed 1.",
    ),
    (
        'gains.append(ppo_gain(ppo.run / "ppo", args.held_out, ppo.seed))',
        'gains.append(ppo_gain(base / "ppo", args.held_out, ppo.seed))',
        "The base's PPO, with a penalty, stands for the one without.",
    ),
    (
        "return np.sqrt(np.maximum(kls.mean(0), 0)), totals.mean(0)",
        "return np.sqrt(np.maximum(kls, 0)).mean(0), totals.mean(0)",
        "d is the mean of the roots.",
    ),
    (
        "return np.sqrt(np.maximum(kls.mean(0), 0)), totals.mean(0)",
        "return np.maximum(kls.mean(0), 0), totals.mean(0)",
        "d is the KL.",
    ),
    (
        "totals = self.totals if rows is None else self.totals[rows]",
        "totals = self.totals",
        "An interval does not resample the totals.",
    ),
    (
        "kls = self.kls if rows is None or len(self.kls) == 1 else self.kls[rows]",
        "kls = self.kls",
        "An interval does not resample the KL with the totals.",
    ),
    (
        "low, high = gao.bootstrap(estimate, gain.clusters, rng(1, config.BOOTSTRAP), draws)",
        "low, high = gao.bootstrap(estimate, range(len(gain.clusters)), rng(1, config.BOOTSTRAP), "
        "draws)",
        "The interval takes prompts of one subject for independent.",
    ),
    (
        "residual = (squares / points) ** 0.5 if points",
        "residual = squares**0.5 if points",
        "The residual is not a mean.",
    ),
    (
        'return numbers | {"residual": residual, "peak_kl": d * d, "peak": R}',
        'return numbers | {"residual": residual, "peak_kl": d, "peak": R}',
        "The peak is at d, not at its square.",
    ),
    (
        "key=lambda form, own=gain.form: form != own",
        "key=lambda form, own=gain.form: form == own",
        "The other form stands first.",
    ),
    (
        'reached = x["peak_kl"] <= d.max() ** 2',
        'reached = x["peak_kl"] <= d.max()',
        "A peak inside the data is called beyond them.",
    ),
    (
        'reached = x["peak_kl"] <= d.max() ** 2',
        "reached = True",
        "A peak that was never measured is told as one.",
    ),
    (
        'zip(("alpha", "beta"), x["low"], x["high"], strict=True)',
        'zip(("alpha", "beta"), x["high"], x["low"], strict=True)',
        "The ends of the intervals are swapped.",
    ),
    (
        'zip(("alpha", "beta"), x["low"], x["high"], strict=True)',
        'zip(("alpha", "beta"), x["low"][::-1], x["high"][::-1], strict=True)',
        "The intervals of alpha and beta are swapped.",
    ),
    (
        'reward_models = {place.name: place.run / "rm" for place in others}',
        'reward_models = {place.name: base / "rm" for place in others}',
        "The further reward models are OUT/rm.",
    ),
    (
        "    runs.require_models(needed)\n",
        "",
        "Runs from other models are measured as if from these.",
    ),
    (
        'side.plot(d, R, "o", color',
        'side.plot(d**2, R, "o", color',
        "The points are drawn against the KL, the lines against its root.",
    ),
    (
        'side = sides[int(gain.form == "rl")]',
        'side = sides[int(gain.form != "rl")]',
        "Best-of-n is right and PPO left.",
    ),
    (
        'line = "-" if form == gain.form else ":"',
        'line = ":" if form == gain.form else "-"',
        "The dotted lines are the fits of the own form.",
    ),
]

MEASURED = [
    (
        'ELSEWHERE = ("out", "device", "threads", "sft", "seed")',
        'ELSEWHERE = ("out", "device", "threads", "sft")',
        "A table of two seeds is refused.",
    ),
    (
        'ELSEWHERE = ("out", "device", "threads", "sft", "seed")',
        'ELSEWHERE = ("out", "device", "threads", "sft", "seed", "labels", "epochs")',
        "Parts with other flags are compared.",
    ),
    (
        'return Path(args.out) / str(args.seed) / f"{name}.json"',
        'return Path(args.out) / "1" / f"{name}.json"',
        "A further seed is taken for the first one's file.",
    ),
    (
        "    if not path.exists():\n        content",
        "    if True:\n        content",
        "A part that is there is made again.",
    ),
    (
        '"inputs": resume.fingerprints(sft=sft), "rows"',
        '"inputs": {}, "rows"',
        "A part does not say which SFT model it is about.",
    ),
    (
        '            parts.require_same(path, stored["flags"], own_flags(args, leave_out))\n',
        "",
        "Parts of other flags are in one table.",
    ),
    (
        "            if path == path_of(args, name):\n",
        "            if True:\n",
        "The parts of another seed are refused for their SFT model.",
    ),
    (
        "                resume.refuse_changed_inputs(inputs, stored, path)\n",
        "                pass\n",
        "A part of another SFT model is shown.",
    ),
    (
        'found.setdefault(name, {})[int(path.parent.name)] = stored["rows"]',
        'found.setdefault(name, {})[args.seed] = stored["rows"]',
        "Of several seeds the last is shown.",
    ),
    (
        "means = [mean(column(found, name, (key, n))) for n in numbers]",
        "means = [mean(column(found, name, (key, n))) for n in numbers[::-1]]",
        "The columns of the numbers are in reverse order.",
    ),
    (
        "largest = (key, numbers[-1])",
        "largest = (key, numbers[0])",
        "The last column is about the smallest number.",
    ),
    (
        "rows.append([name, len(seeds), *means, mean(column(found, name, largest, last))])",
        "rows.append([name, len(found), *means, mean(column(found, name, largest, last))])",
        "The number of seeds is that of the parts.",
    ),
    (
        "if name != baseline\n        ]",
        "if name == baseline\n        ]",
        "The baseline is compared with itself.",
    ),
    (
        "rows if row[key] == wanted}",
        "rows if row[key] <= wanted}",
        "A number is that of the last row up to it.",
    ),
    (
        'f"{np.mean(list(numbers.values())):.{digits}f}"',
        'f"{np.max(list(numbers.values())):.{digits}f}"',
        "The mean over seeds is the best seed.",
    ),
    (
        "first, second = (column(found, x, size) for x in (name, baseline))",
        "second, first = (column(found, x, size) for x in (name, baseline))",
        "The difference has the wrong sign.",
    ),
    (
        "pairs = [first[seed] - second[seed] for seed in first if seed in second]",
        "pairs = [x - y for x, y in zip(first.values(), second.values())]",
        "The differences pair other seeds.",
    ),
    (
        "pairs = [first[seed] - second[seed] for seed in first if seed in second]",
        "pairs = [first[seed] - np.mean(list(second.values())) for seed in first if second]",
        "The differences are unpaired.",
    ),
]

PARTS = [
    (
        'FREE = ("out", "threads", "device")',
        'FREE = ("out", "threads", "device", "seed", "prompts", "rounds", "beta")',
        "An experiment goes on with other flags.",
    ),
    (
        "    content |= resume.fingerprints(**inputs)\n",
        "",
        "An experiment goes on with other models.",
    ),
    (
        "    check(folder, content)  # before a file is made\n",
        "",
        "A folder that is refused has got a lock file.",
    ),
    (
        "    elif folder.exists() and {x.name for x in folder.iterdir()} - {LOCK}:",
        "    elif False:",
        "An experiment is begun among other files.",
    ),
    (
        "            write_json(folder / EXPERIMENT, content)\n",
        "            pass\n",
        "An experiment does not say what it was made with.",
    ),
    (
        "for name in sorted({*before, *now}):",
        "for name in sorted({*before} & {*now}):",
        "A flag or an input that only one of the two has is not compared.",
    ),
    (
        "    if not mark.exists():\n        started",
        '    if not (out / "checkpoint.pt").exists():\n        started',
        "A run that was interrupted after a checkpoint counts as finished.",
    ),
    (
        "    if not mark.exists():\n        started",
        "    if True:\n        started",
        "A run that is finished is begun again.",
    ),
    (
        '{"resume": True} if started else argv',
        "{} if started else argv",
        "A run that was interrupted is not resumed.",
    ),
    (
        '{"resume": True} if started else argv',
        "argv",
        "A run that was interrupted gets its flags again, not --resume.",
    ),
    (
        "learned, held_out = data.hold_out(records, count, seed)",
        "held_out, learned = data.hold_out(records, count, seed)",
        "It learns from what is held out.",
    ),
    (
        "learned, held_out = data.hold_out(records, count, seed)",
        "learned, held_out = data.hold_out(records, count, 1)",
        "All seeds hold out the same records.",
    ),
    (
        "    return learned\n",
        "    return records\n",
        "It learns from what it is compared on, too.",
    ),
    (
        "write_prompts(folder / HELD_OUT, held_out or learned[:1])",
        "write_prompts(folder / HELD_OUT, learned)",
        "The policy is compared on prompts that it has learned from.",
    ),
    (
        '{"policy": policy, "baseline": args.sft, "mix_data": True}',
        '{"policy": args.sft, "baseline": policy, "mix_data": True}',
        "The SFT model is compared with the policy.",
    ),
    (
        'flags |= {"data": folder / HELD_OUT if args.data else ""}',
        'flags |= {"data": args.data}',
        "The policy is compared on all prompts of --data.",
    ),
    (
        'flags |= {"data": folder / HELD_OUT if args.data else ""}',
        'flags |= {"data": ""}',
        "The policy is compared on the world's prompts, whatever it has learned from.",
    ),
    (
        'flags |= {"max_new_tokens": args.max_new_tokens, "to"',
        'flags |= {"to"',
        "--max-new-tokens does not reach the comparison.",
    ),
    (
        'names = "seed", "device", "precision", "threads"',
        'names = "device", "precision", "threads"',
        "--seed reaches no stage.",
    ),
    (
        'names = "seed", "device", "precision", "threads"',
        'names = "seed", "device", "threads"',
        "--precision reaches no stage.",
    ),
    (
        '"--" + name.replace("_", "-"): value for name, value in flags.items()',
        '"--" + name.split("_")[0]: value for name, value in flags.items()',
        "Flags are handed on under other names.",
    ),
    (
        'prompts = [str(getattr(record, "prompt", record)) for record in records]',
        'prompts = [str(getattr(record, "response", record)) for record in records]',
        "The file of prompts has the responses.",
    ),
]

GAO = [
    (
        "math.comb(below, n - 1) / math.comb(N, n) for below in range(N)",
        "math.comb(below + 1, n) / math.comb(N, n) for below in range(N)",
        "A response counts for all subsets of those up to it.",
    ),
    (
        "math.comb(below, n - 1) / math.comb(N, n) for below in range(N)",
        "math.comb(N - 1 - below, n - 1) / math.comb(N, n) for below in range(N)",
        "The worst of n.",
    ),
    (
        "math.comb(below, n - 1) / math.comb(N, n) for below in range(N)",
        "((below + 1) ** n - below**n) / N**n for below in range(N)",
        "Subsets are drawn with replacement, and the best of 64 is biased.",
    ),
    (
        'order = np.argsort(proxies, axis=1, kind="stable")',
        'order = np.argsort(golds, axis=1, kind="stable")',
        "The best are those of the judge.",
    ),
    (
        'order = np.argsort(proxies, axis=1, kind="stable")',
        'order = np.argsort(np.argsort(proxies, axis=1, kind="stable"), axis=1)',
        "Golds are put in the order of the ranks.",
    ),
    (
        "return np.diff(np.cumsum(law) ** n, prepend=0.0)",
        "return np.diff(np.cumsum(law[::-1]) ** n, prepend=0.0)[::-1]",
        "The law is that of the worst of n.",
    ),
    (
        "np.unique(row, return_counts=True)[1] / len(row)",
        "np.ones(len(row)) / len(row)",
        "Ties do not count.",
    ),
    (
        "return float(np.mean([(b * np.log(b / a)).sum() for",
        "return float(np.mean([(a * np.log(a / b)).sum() for",
        "The KL is taken the wrong way round.",
    ),
    (
        'BENDS = {"best-of-n": lambda d: d, "rl": np.log}',
        'BENDS = {"best-of-n": np.log, "rl": lambda d: d}',
        "The two forms are swapped.",
    ),
    (
        "return d * (alpha - beta * BENDS[form](d))",
        "return d * (alpha + beta * BENDS[form](d))",
        "The sign of beta in a prediction.",
    ),
    (
        "[np.asarray(d) >= NEAREST] for x in (d, R))",
        "[np.asarray(d) > -1] for x in (d, R))",
        "Points near 0 are in the fits.",
    ),
    (
        "columns = np.stack([d, -d * BENDS[form](d)], 1)",
        "columns = np.stack([d, d * BENDS[form](d)], 1)",
        "The sign of beta in a fit.",
    ),
    (
        "columns = np.stack([d, -d * BENDS[form](d)], 1)",
        "columns = np.stack([-d * BENDS[form](d), d], 1)",
        "alpha and beta are swapped.",
    ),
    (
        "float(residuals @ residuals)",
        "float(np.abs(residuals).sum())",
        "The residuals are not squared.",
    ),
    (
        'd = alpha / (2 * beta) if form == "best-of-n"',
        'd = alpha / beta if form == "best-of-n"',
        "The peak of best-of-n is where the gain is 0 again.",
    ),
    (
        "else math.exp(alpha / beta - 1)",
        "else math.exp(alpha / beta)",
        "The peak of RL is where the gain is 0 again.",
    ),
    (
        "    if not beta > 0:\n",
        "    if beta == 0:\n",
        "A form that only rises has a peak.",
    ),
    (
        "_, numbers = np.unique(clusters, return_inverse=True)",
        "numbers = np.arange(len(clusters))",
        "Prompts are drawn, not clusters.",
    ),
    (
        "rng.integers(len(members), size=len(members))",
        "rng.permutation(len(members))",
        "Clusters are drawn without replacement.",
    ),
    (
        "np.quantile(np.array(values), (0.025, 0.975), axis=0)",
        "np.quantile(np.array(values), (0.05, 0.95), axis=0)",
        "The interval is one of 90%.",
    ),
    (
        "np.quantile(np.array(values), (0.025, 0.975), axis=0)",
        "np.quantile(np.array(values), (0.025, 0.975))",
        "The interval is over alpha and beta together.",
    ),
]

SECTIONS = {
    "minirlhf/tools/methods.py": METHODS,
    "minirlhf/tools/runs.py": RUNS,
    "minirlhf/tools/frontier.py": FRONTIER,
    "minirlhf/tools/rounds.py": ROUNDS,
    "minirlhf/tools/overoptimisation.py": OVEROPTIMISATION,
    "minirlhf/tools/measured.py": MEASURED,
    "minirlhf/tools/parts.py": PARTS,
    "minirlhf/tools/gao.py": GAO,
}

FLAGS = {  # those that the file itself reads; what a mutant does with one is in `scripts.ignored`
    "minirlhf/tools/methods.py": "out runs only seeds prompts max_new_tokens",
    "minirlhf/tools/rounds.py": "out sft seed rounds prompts labeller labeller_model human_share "
    "kl_coef updates moving_reference max_new_tokens rm ppo held_out precision device",
    "minirlhf/tools/overoptimisation.py": "out rankings prompts held_out eval_every updates "
    "max_new_tokens draws",
}

# The tests that kill the mutants of a file, of a flag in it or of a text, as in scripts.py.
WHOLE = {
    name: f"runs/test_whole_{name}.py"
    for name in ("methods", "frontier", "rounds", "overoptimisation")
}
KILLERS = {
    "minirlhf/tools/methods.py": [WHOLE["methods"]],
    "minirlhf/tools/runs.py": ["runs/test_method_runs.py"],
    "minirlhf/tools/frontier.py": [
        *(WHOLE["frontier"], WHOLE["methods"], "runs/test_methods.py"),
        *("-k", "not commands_of_each and (whole or at_the_height or pushed)"),
    ],
    "minirlhf/tools/rounds.py": [WHOLE["rounds"]],
    ("minirlhf/tools/rounds.py", "device"): [WHOLE["rounds"], "-k", "on_the_device"],
    "minirlhf/tools/overoptimisation.py": [
        *(WHOLE["overoptimisation"], "runs/test_overoptimisation.py"),
        *("-k", "whole or figure_has_the_points"),
    ],
    "minirlhf/tools/measured.py": ["unit/test_experiments.py"],
    "minirlhf/tools/parts.py": ["unit/test_experiments.py"],
    "minirlhf/tools/gao.py": ["unit/test_gao.py"],
}
# Single mutants that only the tests kill whose runs are trained.
TRAINED = {"methods": ["runs/test_methods.py", "-k"], "rounds": ["runs/test_rounds.py", "-k"]}
STAGES = [*TRAINED["rounds"], "bad_flags_of_a_stage"]
RECORD = [*TRAINED["rounds"], "other_flags or another_sft_model or repaired"]
KILLERS |= {
    "        if name in GIVEN[option]:": STAGES,
    "    check_flags(args)\n    inputs": STAGES,
    '[*words, "--resume"] if (run / "config.json").exists() else words': [
        *TRAINED["rounds"],
        "inside_a_round",
    ],
    "resume.fingerprints(sft=checkpoint.load_gpt(args.sft)[0], labeller=asked)": RECORD,
    "        resume.refuse_changed_inputs(inputs, before, path)\n": RECORD,
    "parts.require_same(path, flags, now | {name: flags.get(name) for name in CHANGEABLE})": RECORD,
    "or list(found)[:3]": [*TRAINED["methods"], "first_three_seeds"],
    "    runs.require_models(places)\n": [*TRAINED["methods"], "of_another_model"],
    'if not runs.missing(place) and (policy / "checkpoint.pt").exists():': [
        *TRAINED["methods"],
        "not_at_its_end",
    ],
}
