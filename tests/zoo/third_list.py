"""A third list of semantic mutants, written after the survivors of the second list had got tests.

It was written and committed before anybody ran it. Its first part, of 56, was by somebody who had
seen neither a test nor an entry of the first two lists: most of it was there already, and is taken
off. The rest was written with the sentences of these lists in hand, but without the tests. So the
share that was killed at once, in mutants.md, says what the tests catch of a list that is new.
"""

SFT, RM, PPO = "train_sft.py", "train_rm.py", "train_ppo.py"
EVALUATE, REPORT, RESULTS, GATES = (
    f"minirlhf/tools/{name}.py" for name in ("evaluate", "report", "results", "gates")
)

THIRD_LIST = [  # (file, the text that is right, the text in its place, what that breaks)
    (
        SFT,
        "if example.prompt_length <= room]",
        "if example.prompt_length < room]",
        "A prompt that leaves just enough room is not among the samples.",
    ),
    (
        SFT,
        "jsonl.holds_comparisons(args.data, **names)",
        "jsonl.holds_comparisons(args.data)",
        "The next command looks for comparisons without --form and --map.",
    ),
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
        'parts["missing_end_score"] = args.missing_end_score',
        'parts["missing_end_score"] = args.missing_end_score or Config.missing_end_score',
        "A missing-end score of 0 counts as not given.",
    ),
    (
        RM,
        "chain.refuse_mixed(args, path)",
        'chain.refuse_mixed(args, f"{args.out}/sft")',
        "Whether own data and the world are mixed is asked of OUT/sft, and not of --sft.",
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
        "if args.microscope and (not step or progress.due(args.eval_every)):",
        "if args.microscope and (step == first or progress.due(args.eval_every)):",
        "A run that goes on records the tokens of its first update once more.",
    ),
    (
        PPO,
        'sft = reference if args.critic == "shared" else None',
        "sft = reference",
        "A separate critic may share the trunk that the reference has.",
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
        "{name: side[n].text for name, side in replies.items()}",
        "{name: evaluate.finished(side)[n] for name, side in replies.items()}",
        "A reply that was cut off is an empty text in the file.",
    ),
    (
        EVALUATE,
        'if args.data and args.reward_model == "out/rm" and not Path("out/rm").exists():',
        'if args.data and not Path("out/rm").exists():',
        "A reward model that stands elsewhere is refused.",
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
        "Memoriser(MEMORISED, rng(args.seed, config.PPO_PROMPTS))",
        "Memoriser(args.prompts, rng(args.seed, config.PPO_PROMPTS))",
        "The memoriser knows as many prompts as are asked, not 10,000.",
    ),
    (
        REPORT,
        "tables.show_examples(prompts, ",
        "tables.show_examples(prompts[::-1], ",
        "The examples stand beside other prompts.",
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
        'print(f"{name} is left out: {error}", file=sys.stderr)',
        "pass",
        "A policy is left out, and nothing is said.",
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
        RESULTS,
        '"|---" * (len(header) + 1)',
        '"|---" * len(header)',
        "The line below a table's header has a column too few.",
    ),
    (
        RESULTS,
        "names = dict.fromkeys(name for column in columns.values() for name in column)",
        "names = next(iter(columns.values()))",
        "What the first seed has not measured is told of no seed.",
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
        "gain, half_width = evaluate.interval(best - single)",
        "gain, half_width = (best - single).mean(), evaluate.interval(best)[1]",
        "The interval of the gain is that of best-of-n alone.",
    ),
    (
        GATES,
        '{"sft_facts": single.mean(), "best_of_n_gain": gain',
        '{"sft_facts": best.mean(), "best_of_n_gain": gain',
        "The number of single samples is that of best-of-n.",
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

# The tests that kill each: a file, what -k selects of it, and sentences of the list.
KILLED_BY = [
    (
        "runs/test_train_sft.py",
        "just_enough",
        ["A prompt that leaves just enough room is not among the samples."],
    ),
    (
        "runs/test_chain.py",
        "names_of_your_own",
        ["The next command looks for comparisons without --form and --map."],
    ),
    (
        "runs/test_idle_flags.py",
        "a_flag_that_nobody_reads_is_refused",
        [
            "--context beside --init is read by nobody, and nothing is said.",
            "--kl-horizon without --kl-target is read by nobody, and nothing is said.",
        ],
    ),
    (
        "runs/test_chain.py",
        "pipe",
        ["The next command looks for comparisons in what is no file: a folder, a pipe."],
    ),
    (
        "runs/test_whole_sft.py",
        "on_own_data",
        ["The columns of samples.txt have each other's name."],
    ),
    (
        "runs/test_train_sft.py",
        "a_record_that_just_fits_the_context_is_kept",
        ["Records that do not fit the context are dropped without --drop-long."],
    ),
    (
        "runs/test_whole_sft.py",
        "the_held_out_loss_is_the_models_per_token_on_what_it_did_not_learn_from",
        ["A step is complete before it was made."],
    ),
    (
        "runs/test_train_sft.py",
        "a_run_does_not_go_on_from_other_weights_of_init",
        ["The file of a checkpoint is not known as a run of ours."],
    ),
    (
        "runs/test_divergence.py",
        "gradient",
        ["A step with an infinite gradient is made."],
    ),
    (
        "runs/test_train_rm.py",
        "stored_with",
        ["A missing-end score of 0 counts as not given."],
    ),
    (
        "runs/test_chain.py",
        "every_stage_after_your_own_data_refuses_the_embedded_world",
        ["Whether own data and the world are mixed is asked of OUT/sft, and not of --sft."],
    ),
    (
        "runs/test_rounds.py",
        "a_round_in_which_all_responses_are_equal_is_one_line",
        ["That all responses are alike is never noticed."],
    ),
    (
        "unit/test_margin.py",
        "ratings_that_do_not_fit_the_responses_are_refused_where_they_count",
        ["--margin without ratings is ignored."],
    ),
    (
        "runs/test_train_rm.py",
        "responses_that_do_not_fit_once_they_are_text_are_left_out",
        ["A response that does not fit when it is encoded again is kept."],
    ),
    (
        "runs/test_train_rm.py",
        "before_anything_is_sampled",
        ["Held-out prompts that do not fit are an error after hours."],
    ),
    (
        "runs/test_whole_rm.py",
        "serves_the",
        ["A comparison that fits, but leaves no room for a sample, stops the run."],
    ),
    (
        "runs/test_chain.py",
        "the_printed_commands_lead_through_all_stages",
        ["The next command lacks --out and --sft."],
    ),
    (
        "runs/test_microscope.py",
        "undisturbed",
        ["A run that goes on records the tokens of its first update once more."],
    ),
    (
        "runs/test_lora_run.py",
        "a_trunk_is_in_memory_once",
        ["A separate critic may share the trunk that the reference has."],
    ),
    (
        "runs/test_train_ppo.py",
        "the_optimiser_has_all_that_is_trained_and_an_eps_of_1e_5",
        ["A resumed run has a new value head."],
    ),
    (
        "runs/test_train_ppo.py",
        "three_updates_a_stop_and_three_more_are_six_to_the_bit",
        ["The checkpoint forgets the separate critic."],
    ),
    (
        "runs/test_whole_ppo.py",
        "the_kl_coefficient_follows_the_kl_of_each_rollout",
        ["With --lora the separate critic is trained whole."],
    ),
    (
        "runs/test_own_columns.py",
        "a_table_of_questions_and_answers_trains_a_policy_on_its_own_answers",
        ["The columns that the reward function asks for are not read."],
    ),
    (
        "runs/test_resume.py",
        "the_code_of_a_reward_may_be_repaired_and_that_is_said",
        ["A resumed run does not notice that the reward function has changed."],
    ),
    (
        "runs/test_whole_ppo.py",
        "rollouts_are_sampled_by_the_policy_at_the_temperature",
        ["The learning rate is that of the next update."],
    ),
    (
        "runs/test_robust_rewards.py",
        "evaluation_scores",
        ["The evaluation's score is the first reward model's, not the robust one."],
    ),
    (
        "runs/test_whole_evaluate.py",
        "the_results_are_written_to_a_file_with_the_judge_and_all_responses",
        ["A reply that was cut off is an empty text in the file."],
    ),
    (
        "runs/test_whole_evaluate.py",
        "on_own_prompts_the_score_judges_and_the_first_prompts_are_asked",
        ["A reward model that stands elsewhere is refused."],
    ),
    (
        "runs/test_whole_evaluate.py",
        "results_are_written",
        ["The file has policy and baseline under each other's name."],
    ),
    (
        "runs/test_whole_evaluate.py",
        "file_of_a_comparison",
        [
            "The file does not say that the prompts are the world's.",
            "That --to cannot be written shows after sampling.",
        ],
    ),
    (
        "runs/test_chain.py",
        "training_evaluation_and_report_give_a_policy_one_score",
        ["The missing-end score that is printed is the reward model's, not the one in use."],
    ),
    (
        "runs/test_chain.py",
        "an_evaluation_by_your_own_reward_takes_what_the_policy_was_trained_with",
        ["A reward function without a missing-end score is never refused."],
    ),
    (
        "runs/test_whole_evaluate.py",
        "greedy",
        ["The KL of greedy replies is infinite or not a number."],
    ),
    (
        "runs/test_whole_evaluate.py",
        "neither",
        ["A baseline of own data is judged by the world."],
    ),
    (
        "runs/test_whole_report.py",
        "every_number_of_a_report_is_that_of_the_replies_of_its_policy",
        [
            "The memoriser knows as many prompts as are asked, not 10,000.",
            "The examples stand beside other prompts.",
        ],
    ),
    (
        "runs/test_report.py",
        "a_response_that_no_model_sampled_is_one_that_ended_behind_its_prompt",
        ["The responses of the memoriser count as cut off."],
    ),
    (
        "runs/test_report.py",
        "figure_beside",
        ["The figure is of the reward model's training."],
    ),
    (
        "runs/test_report.py",
        "a_run_on_own_data_gets_a_page_and_the_command_that_compares_it",
        ["The command names a reward model that there is not."],
    ),
    (
        "runs/test_report.py",
        "a_policy_of_another_vocabulary_is_left_out_with_a_line",
        ["A policy is left out, and nothing is said."],
    ),
    (
        "runs/test_results.py",
        "one_seed_alone",
        [
            "A policy that the first seed lacks has no row.",
            "What the first seed has not measured is told of no seed.",
        ],
    ),
    (
        "runs/test_results.py",
        "claims",
        [
            "A share of 0 of the way is shown as missing.",
            "A gain whose interval is not known ends in a traceback.",
        ],
    ),
    (
        "runs/test_results.py",
        "every_table_has_as_many_cells_in_each_row_as_in_its_header",
        ["The line below a table's header has a column too few."],
    ),
    (
        "runs/test_results.py",
        "damaged",
        ["A report that lacks a part is read."],
    ),
    (
        "runs/test_results.py",
        "it_writes_the_tables_and_both_figures",
        ["The file lacks the table of the KL coefficients."],
    ),
    (
        "runs/test_results.py",
        "both_figures",
        ["The learning curves are those of the first seed."],
    ),
    (
        "runs/test_whole_gates.py",
        "gain_of_best",
        [
            "The interval of the gain is that of best-of-n alone.",
            "The number of single samples is that of best-of-n.",
            "The console shows the whole width of the interval of the gain.",
        ],
    ),
    (
        "runs/test_whole_gates.py",
        "statements",
        ["The statements begin with a small letter, as no answer does."],
    ),
    (
        "runs/test_gates.py",
        "the_probe_finds_a_planted_direction_of_truth_and_none_in_noise",
        ["The probe learns the wrong answers."],
    ),
    (
        "runs/test_gates.py",
        "a_run_on_own_data_has_no_gates",
        ["Only the probe refuses a run on own data."],
    ),
    (
        "runs/test_gates.py",
        "a_reward_model_that_likes_every_answer_alike_does_not_pass",
        ["The console says of every gate that it passed."],
    ),
    (
        "runs/test_whole_gates.py",
        "the_worst_misconceptions_are_shown_and_a_majority_is_more_than_half",
        ["Half of the wordings count as most of them."],
    ),
]
FILES = {breaks: file for file, _, _, breaks in THIRD_LIST}
THIRD_KILLERS = {
    (FILES[breaks], breaks): [path, "-k", word]
    for path, word, sentences in KILLED_BY
    for breaks in sentences
}
