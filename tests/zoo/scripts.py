"""Semantic mutants of what joins the mathematics together: the scripts and the commands.

Mutation tools change a + into a -. What goes wrong in a script is of another kind: a response that
meets another row's prompt, an evaluation that judges the reference, a seed that reaches three
streams of four, a flag that nobody reads. Each mutant here is one such mistake: a text that stands
once in a file, the text that replaces it, and what it breaks. They were written before the tests
that kill them. run_scripts.py makes them one at a time and runs the tests in `KILLERS`; those that
survive are in mutants.md.
"""

from dataclasses import dataclass

import method_commands
import method_runs
from second_list import SECOND_KILLERS, SECOND_LIST
from third_list import THIRD_KILLERS, THIRD_LIST


@dataclass(frozen=True)
class Mutant:
    file: str  # below the root of the repository
    right: str  # a text that stands there exactly once
    wrong: str  # the text that replaces it
    breaks: str  # one sentence
    flag: str = ""  # the flag that is ignored
    everywhere: bool = False  # `right` may stand more than once, and every one is replaced
    second: bool = False  # of second_list.py
    third: bool = False  # of third_list.py


def ignored(file, names):
    """Mutants in which a file reads the defaults of flags instead of their values: `right` stands
    for every reading."""
    return [
        Mutant(file, f"args.{name}", f"Config.{name}", f"--{name} is ignored.", name, True)
        for name in names.split()
    ]


TRAIN_SFT = [
    (
        "batch = [examples[i] for i in data.stream(len(examples), start, stop, args.seed)]",
        "batch = [examples[i] for i in data.stream(len(examples), start, stop, 1)]",
        "The order of the records is the same for every seed.",
    ),
    (
        "examples, held_out = splits\n    steps",
        "examples, held_out = both(splits), splits[1]\n    steps",
        "The held-out records are trained on as well.",
    ),
    (
        "examples, held_out = splits\n    steps",
        "held_out, examples = splits\n    steps",
        "It trains on the held-out records and measures the loss on the others.",
    ),
    (
        'stats["held_out_loss"] = mean_loss(gpt, held_out, args.microbatch_tokens)',
        'stats["held_out_loss"] = mean_loss(gpt, examples[: len(held_out)], '
        "args.microbatch_tokens)",
        "The held-out loss is measured on records that were trained on.",
    ),
    (
        'stats["held_out_loss"] = mean_loss(gpt, held_out, args.microbatch_tokens)',
        'stats["held_out_loss"] = mean_loss(gpt, batch, args.microbatch_tokens)',
        "The held-out loss is that of the last batch.",
    ),
    (
        'stats["held_out_loss"] = mean_loss(gpt, held_out, args.microbatch_tokens)',
        'stats["held_out_loss"] = loss',
        "The held-out loss is the training loss.",
    ),
    (
        "return sum(losses) / response_tokens(examples)",
        "return sum(losses) / len(examples)",
        "The held-out loss is in nats per record, not per token.",
    ),
    (
        "return sum(losses) / response_tokens(examples)",
        "return sum(losses) / sum(len(example.tokens) for example in examples)",
        "The tokens of the prompts count in the mean of the held-out loss.",
    ),
    (
        "return examples[n:], examples[:n]",
        "return examples, examples[:n]",
        "The world's held-out records are trained on.",
    ),
    (
        "return examples[n:], examples[:n]",
        "return examples[n:], examples[n : 2 * n]",
        "The world's held-out loss is measured on records that were trained on.",
    ),
    (
        "n = min(args.held_out, len(examples) // 10)",
        "n = len(examples) // 10",
        "A tenth of the world's records is held out, whatever --held-out says.",
    ),
    (
        "data.hold_out(records, args.held_out, args.seed)))",
        "data.hold_out(records, args.held_out, 1)))",
        "The same prompts are held out for every seed, so that intervals over seeds share them.",
    ),
    (
        "data.hold_out(records, args.held_out, args.seed)))",
        "(records[:-6], records[-6:])))",
        "The last records are held out instead of some prompts, which other stages learn on.",
    ),
    (
        "data.hold_out(records, args.held_out, args.seed)))",
        "data.hold_out(records, args.held_out, args.seed)[::-1]))",
        "It learns on what is held out.",
    ),
    (
        "rng(args.seed, config.DOCUMENTS)",
        "rng(1, config.DOCUMENTS)",
        "Every seed pretrains on the same documents.",
    ),
    (
        "rng(args.seed, config.DEMONSTRATIONS)",
        "rng(1, config.DEMONSTRATIONS)",
        "Every seed has the same demonstrations.",
    ),
    (
        "with config.torch_seed(args.seed, config.GPT_WEIGHTS):",
        "with config.torch_seed(1, config.GPT_WEIGHTS):",
        "Every seed starts from the same weights.",
    ),
    (
        "prompts = writers.prompts(256, rng(args.seed, config.HELD_OUT_PROMPTS)",
        "prompts = writers.prompts(256, rng(1, config.HELD_OUT_PROMPTS)",
        "The policy is judged on the same prompts for every seed.",
    ),
    (
        'rng(args.seed, config.HELD_OUT_PROMPTS), split="validation")',
        'rng(args.seed, config.HELD_OUT_PROMPTS), split="train")',
        "The policy is judged on wordings that it was trained on.",
    ),
    (
        "uniforms = evaluate.noise(args.seed, len(prompts), args.max_new_tokens)",
        "uniforms = evaluate.noise(1, len(prompts), args.max_new_tokens)",
        "The samples that are judged have the same noise for every seed.",
    ),
    (
        "for example in held_out or learned if",
        "for example in learned or held_out if",
        "The samples shown at the end are of prompts that were trained on.",
    ),
    (
        "for prompt, reply in zip(prompts[:8], replies[:8], strict=True)]",
        "for prompt, reply in zip(prompts[:8], replies[:8][::-1], strict=True)]",
        "samples.txt ties a response to another row's prompt.",
    ),
    (
        "measures.describe(measures.judgements(prompts, replies))",
        "measures.describe(measures.judgements(prompts[::-1], replies))",
        "A response is judged by another row's prompt.",
    ),
    (
        "measures.describe(measures.judgements(prompts, replies))",
        "measures.describe(measures.judgements(prompts[:8], replies[:8]))",
        "Eight of the prompts are judged, and the line says all.",
    ),
    (
        "replies = evaluate.respond(gpt, tokenizer, prompts, uniforms)",
        "replies = evaluate.respond(gpt, tokenizer, prompts, uniforms, 0.0)",
        "The greedy policy is judged, which no later stage samples from.",
    ),
    (
        "documents, epochs=1, lr=args.pretrain_lr)",
        "documents, epochs=args.epochs, lr=args.pretrain_lr)",
        "Pretraining sees each document as often as fine-tuning its demonstrations.",
    ),
    (
        "train(args, *stage, gpt, tokenizer, documents,",
        "train(args, *stage, gpt, tokenizer, demonstrations,",
        "Pretraining learns from the demonstrations.",
    ),
    (
        'train(args, "sft", folder, gpt, tokenizer, demonstrations, args',
        'train(args, "sft", folder, gpt, tokenizer, documents or demonstrations, args',
        "Fine-tuning goes on with the documents.",
    ),
    (
        "return [data.encode(tokenizer, record.prompt, record.response) for record in records]",
        "return [data.encode(tokenizer, a.prompt, b.response) "
        "for a, b in zip(records, records[1:] + records[:1], strict=True)]",
        "A demonstration's response follows the prompt of its neighbour.",
    ),
    (
        "return [data.encode(tokenizer, record.prompt, record.response) for record in records]",
        'return [data.encode(tokenizer, "", record.prompt + record.response) '
        "for record in records]",
        "The prompts are trained on like responses.",
    ),
    (
        '[data.encode(tokenizer, "", document) for document in documents]',
        "[data.encode(tokenizer, document[:9], document[9:]) for document in documents]",
        "The beginning of a document is not trained on.",
    ),
    (
        "lr * optim.cosine(step, steps, args.warmup)",
        "args.lr * optim.cosine(step, steps, args.warmup)",
        "Pretraining has the learning rate of fine-tuning.",
    ),
    (
        '"lr": optim.learning_rate(optimizer)}',
        '"lr": lr}',
        "The peak learning rate is logged in place of the one that was used.",
    ),
    (
        'inputs = {"data": both(demonstrations), "init"',
        'inputs = {"data": demonstrations[0], "init"',
        "A resumed run does not notice that held-out records have changed.",
    ),
    (
        'inputs["text"] = documents and both(documents)',
        'inputs["text"] = None',
        "A resumed run does not notice that the text to pretrain on has changed.",
    ),
    (
        "tokenizer.decode(example.tokens[: example.prompt_length])",
        "tokenizer.decode(example.tokens)",
        "The policy is shown demonstrations with their responses, as if they were prompts.",
    ),
    (
        "total = response_tokens(batch)",
        "total = response_tokens(batch) / len(batch)",
        "The loss is a sum over the records of a batch.",
    ),
    (
        "steps = -(-len(examples) * epochs // args.batch_size)",
        "steps = len(examples) * epochs // args.batch_size",
        "The last records of a pass are never trained on.",
    ),
]

TRAIN_RM = [
    (
        "len(comparisons), start, min(stop, len(comparisons) * args.epochs), args.seed\n",
        "len(comparisons), start, min(stop, len(comparisons) * args.epochs), 1\n",
        "The order of the comparisons is the same for every seed.",
    ),
    (
        "        train(args, folder, reward_model, tokenizer, comparisons, norm)",
        "        train(args, folder, reward_model, tokenizer, comparisons + held_out, norm)",
        "The held-out comparisons are trained on.",
    ),
    (
        "        train(args, folder, reward_model, tokenizer, comparisons, norm)",
        "        train(args, folder, reward_model, tokenizer, held_out, norm)",
        "It trains on the held-out comparisons alone.",
    ),
    (
        "        report(args, folder, reward_model, tokenizer, held_out, comparisons)",
        "        report(args, folder, reward_model, tokenizer, comparisons[:6], comparisons)",
        "The accuracy is that on comparisons that were trained on.",
    ),
    (
        '"validation": (config.RANKED_HELD_OUT_RESPONSES, config.HELD_OUT_LABELS)',
        '"validation": (config.RANKED_RESPONSES, config.HELD_OUT_LABELS)',
        "Held-out responses have the noise of the training responses.",
    ),
    (
        '"validation": (config.RANKED_HELD_OUT_RESPONSES, config.HELD_OUT_LABELS)',
        '"validation": (config.RANKED_HELD_OUT_RESPONSES, config.LABELS)',
        "Held-out labels have the noise of the training labels.",
    ),
    (
        '"validation": (args.held_out, config.RANKED_HELD_OUT_PROMPTS)',
        '"validation": (args.prompts, config.RANKED_HELD_OUT_PROMPTS)',
        "As many prompts are held out as are trained on.",
    ),
    (
        '"validation": (args.held_out, config.RANKED_HELD_OUT_PROMPTS)',
        '"validation": (args.held_out, config.RANKED_PROMPTS)',
        "Held-out prompts are drawn with the numbers of the training prompts.",
    ),
    (
        "writers.prompts(n, rng(args.seed, stream), split)",
        "writers.prompts(n, rng(1, stream), split)",
        "Every seed ranks the same prompts.",
    ),
    (
        "writers.prompts(n, rng(args.seed, stream), split)",
        'writers.prompts(n, rng(args.seed, stream), "train")',
        "The held-out prompts are worded like those that were trained on.",
    ),
    (
        'held_out = rank(args, sft, tokenizer, "validation"',
        'held_out = rank(args, sft, tokenizer, "train"',
        "The held-out comparisons are the training comparisons.",
    ),
    (
        "label_rng = rng(args.seed, label_stream)",
        "label_rng = rng(1, label_stream)",
        "The labellers err in the same way for every seed.",
    ),
    (
        "uniforms = rng(args.seed, stream).random(shape, dtype=np.float32)",
        "uniforms = rng(1, stream).random(shape, dtype=np.float32)",
        "Every seed samples with the same noise.",
    ),
    (
        "ranks=simulated.rank(totals(c), label_rng)",
        "ranks=simulated.rank(totals(c)[::-1], label_rng)",
        "A response has the rank of another response to its prompt.",
    ),
    (
        "ranks=simulated.rank(totals(c), label_rng)",
        "ranks=simulated.rank(totals(unranked[0]), label_rng)",
        "Every prompt is labelled by the responses to the first one.",
    ),
    (
        "ranks=simulated.rank(totals(c), label_rng)",
        "ranks=simulated.rank([-x for x in totals(c)], label_rng)",
        "Labellers prefer the worse response.",
    ),
    (
        "ranks=simulated.rank(totals(c), label_rng)",
        "ranks=simulated.rank(totals(c), rng(args.seed, label_stream))",
        "All labellers err in the same way.",
    ),
    (
        "groups = [texts[i : i + K] for i in range(0, len(texts), K)]",
        "groups = [texts[i :: len(prompts)] for i in range(len(prompts))]",
        "Responses are compared as answers to another prompt than theirs.",
    ),
    (
        "repeated = [prompt for prompt in prompts for _ in range(K)]",
        "repeated = [prompt for _ in range(K) for prompt in prompts]",
        "Each group holds responses to different prompts.",
    ),
    (
        "unranked = [Comparison(p, group, [0] * K) for p, group in zip(prompts, groups,",
        "unranked = [Comparison(p, group, [0] * K) for p, group in zip(prompts[::-1], groups,",
        "A group of responses is tied to another row's prompt.",
    ),
    (
        "norm = comparisons[: args.norm_prompts]",
        "norm = held_out[: args.norm_prompts]",
        "The scores are normalised on the held-out comparisons.",
    ),
    (
        "norm = comparisons[: args.norm_prompts]",
        "norm = comparisons[-args.norm_prompts :]",
        "The scores are normalised on other samples than the flag says.",
    ),
    (
        "norm = sample(args, sft, tokenizer, prompts, config.NORM_RESPONSES, caption)",
        "norm = [c for c in comparisons if len(c.responses) == 2]",
        "The scores are normalised on the users' answers, not on the SFT model's.",
    ),
    (
        "norm = sample(args, sft, tokenizer, prompts, config.NORM_RESPONSES, caption)",
        "norm = sample(args, sft, tokenizer, [c.prompt for c in held_out], "
        "config.NORM_RESPONSES, caption)",
        "The scores are normalised on held-out prompts.",
    ),
    (
        "norm = sample(args, sft, tokenizer, prompts, config.NORM_RESPONSES, caption)",
        "norm = sample(args, reward_model.gpt, tokenizer, prompts, config.RANKED_RESPONSES, "
        "caption)",
        "The samples to normalise on have the noise of the ranked responses.",
    ),
    (
        "        normalise(reward_model, tokenizer, norm)\n",
        "        if done == steps:\n            normalise(reward_model, tokenizer, norm)\n",
        "Every checkpoint but the last gives raw scores.",
    ),
    (
        "        normalise(reward_model, tokenizer, norm)\n",
        "        if done < steps:\n            normalise(reward_model, tokenizer, norm)\n",
        "The last checkpoint is normalised for the weights of an earlier one.",
    ),
    (
        "truth = None if args.data else [totals(c) for c in held_out]",
        "truth = None if args.data else [totals(c) for c in held_out[1:] + held_out[:1]]",
        "The judge's totals belong to another row.",
    ),
    (
        "truth = None if args.data else [totals(c) for c in held_out]",
        "truth = None if args.data else scores",
        "The reward model is its own judge.",
    ),
    (
        "scores = reward.score_comparisons(reward_model, tokenizer, held_out)\n",
        "scores = reward.score_comparisons(reward_model, tokenizer, held_out)[::-1]\n",
        "The scores belong to another row.",
    ),
    (
        'numbers["score_spread"] = float(reward_model.std)',
        'numbers["score_spread"] = float(reward_model.mean)',
        "The mean of the scores is reported as their spread.",
    ),
    (
        "baselines.baseline_numbers(comparisons, held_out, scores)",
        "baselines.baseline_numbers(held_out, held_out, scores)",
        "The bag of words has learned the held-out comparisons by heart.",
    ),
    (
        "measures.contrast_numbers(reward_model, tokenizer, args.seed)",
        "measures.contrast_numbers(reward_model, tokenizer, 1)",
        "The contrasts are the same for every seed.",
    ),
    (
        'step = int(checkpoint.load(folder, ("rm",))["step"])',
        "step = 0",
        "The held-out numbers replace the metrics of the training.",
    ),
    (
        "data.hold_out(comparisons, args.held_out, args.seed)",
        "data.hold_out(comparisons, args.held_out, 1)",
        "The same prompts are held out for every seed, and not those of the other stages.",
    ),
    (
        "if args.resume and collected.exists() else None",
        "if collected.exists() else None",
        "With --overwrite the comparisons of the old run are trained on.",
    ),
    (
        "write_text(folder / COMPARISONS, jsonl.write_records(comparisons))",
        "write_text(folder / COMPARISONS, jsonl.write_records(comparisons[::-1]))",
        "The file of the comparisons is not what was trained on, and a resumed run has another "
        "order.",
    ),
    (
        "with config.torch_seed(args.seed, config.REWARD_HEAD_WEIGHTS):",
        "with config.torch_seed(1, config.REWARD_HEAD_WEIGHTS):",
        "The head starts from the same weights for every seed.",
    ),
    (
        "return [judge.judge(comparison.prompt, response).total for response in texts]",
        "return [judge.judge(comparison.prompt, texts[0]).total for response in texts]",
        "All responses to a prompt have the total of the first.",
    ),
    (
        "return [judge.judge(comparison.prompt, response).total for response in texts]",
        "return [judge.judge(comparison.prompt, response).helpful for response in texts]",
        "The labellers rank by one axis of the judge.",
    ),
    (
        "replies = evaluate.respond(sft, tokenizer, repeated, uniforms, progress=caption)",
        "replies = evaluate.respond(sft, tokenizer, repeated, uniforms, 0.7, progress=caption)",
        "What is ranked comes from a colder policy than PPO will sample from.",
    ),
    (
        'inputs = {"data": comparisons, "sft": sft}',
        'inputs = {"data": comparisons}',
        "A resumed run does not notice that the SFT model has changed.",
    ),
    (
        "    resume.add_inputs(folder, data=comparisons)\n",
        "",
        "A resumed run does not notice that its comparisons have changed.",
    ),
    (
        'title = f"the reward model on {len(held_out)} held-out prompts"',
        'title = f"the reward model on {len(comparisons)} held-out prompts"',
        "The report names the number of training comparisons.",
    ),
    (
        'stats["lr"] = optim.learning_rate(optimizer)',
        'stats["lr"] = args.lr',
        "The peak learning rate is logged in place of the one that was used.",
    ),
    (
        "for text in comparison.responses]\n        lengths",
        "for text in comparison.responses[:1]]\n        lengths",
        "Long rejected answers are not warned of.",
    ),
    (
        "group_ranks = [encoded[row] for row in rows], [batch[row].ranks for row in rows]",
        "group_ranks = [encoded[row] for row in rows], [batch[row].ranks for row in sorted(rows)]",
        "The ranks of a microbatch belong to other rows than its responses.",
    ),
    (
        "part = mean_loss(members, scores, ranks, wanted) * share",
        "part = mean_loss(members, scores, ranks, wanted)",
        "The loss grows with the number of microbatches.",
    ),
]

TRAIN_PPO = [
    (
        "data.stream(len(prompts), step * n, (step + 1) * n, args.seed)",
        "data.stream(len(prompts), step * n, (step + 1) * n, 1)",
        "The order of the prompts is the same for every seed.",
    ),
    (
        "train(args, folder, models, prompts, monitor)\n    print",
        "train(args, folder, models, held_out, monitor)\n    print",
        "It trains on the held-out prompts.",
    ),
    (
        "monitor = Monitor(args, tokenizer, held_out, final_score, reference, held_out_text)",
        "monitor = Monitor(args, tokenizer, prompts[: len(held_out)], final_score, reference)",
        "The evaluations are on prompts that are trained on.",
    ),
    (
        "monitor = Monitor(args, tokenizer, held_out, final_score, reference, held_out_text)",
        "monitor = Monitor(args, tokenizer, held_out, final_score, policy)",
        "The KL of the evaluations is that of the policy from itself.",
    ),
    (
        "monitor = Monitor(args, tokenizer, held_out, final_score, reference, held_out_text)",
        "monitor = Monitor(args, tokenizer, held_out, score, reference)",
        "The evaluations score what was cut off as if it had ended.",
    ),
    (
        "monitor.evaluate(updates, actor_critic.gpt, folder)",
        "monitor.evaluate(updates, models.reference, folder)",
        "The evaluation judges the reference.",
    ),
    (
        "Models(actor_critic, reference, score, missing_end_score, tokenizer, *others)",
        "Models(actor_critic, policy, score, missing_end_score, tokenizer, *others)",
        "The policy is its own reference, so that KL costs nothing.",
    ),
    (
        "draw = rng(args.seed, config.ROLLOUTS, step).random",
        "draw = rng(1, config.ROLLOUTS, step).random",
        "The rollouts have the same noise for every seed.",
    ),
    (
        "draw = rng(args.seed, config.ROLLOUTS, step).random",
        "draw = rng(args.seed, config.ROLLOUTS).random",
        "Every update samples with the same noise.",
    ),
    (
        "rng(args.seed, config.MINIBATCHES, step)",
        "rng(1, config.MINIBATCHES, step)",
        "The minibatches are the same for every seed.",
    ),
    (
        "rng(args.seed, config.MINIBATCHES, step)",
        "rng(args.seed, config.MINIBATCHES)",
        "The same rows share a minibatch in every update.",
    ),
    (
        "raw_scores = models.score(prompts, replies).to(samples.tokens.device)",
        "raw_scores = models.score(prompts, replies).flip(0).to(samples.tokens.device)",
        "A response gets the score of another row.",
    ),
    (
        "raw_scores = models.score(prompts, replies).to(samples.tokens.device)",
        "raw_scores = models.score(prompts[::-1], replies).to(samples.tokens.device)",
        "A reward function gets a response with another row's prompt.",
    ),
    (
        "scores = ppo.missing_end_rule(raw_scores, samples.ended, models.missing_end_score)",
        "scores = raw_scores",
        "A response that was cut off keeps its score.",
    ),
    (
        "scores = ppo.missing_end_rule(raw_scores, samples.ended, models.missing_end_score)",
        "scores = ppo.missing_end_rule(raw_scores, ~samples.ended, models.missing_end_score)",
        "A response that ended gets the missing-end score.",
    ),
    (
        'controller.update(stats["kl"], len(prompts))',
        'controller.update(stats["kl_k3"], len(prompts))',
        "The KL coefficient adapts to another estimate than the one that is penalised.",
    ),
    (
        'controller.update(stats["kl"], len(prompts))',
        'controller.update(stats["approx_kl"], len(prompts))',
        "The KL coefficient adapts to the size of the steps, not to the distance.",
    ),
    (
        'controller.update(stats["kl"], len(prompts))',
        'controller.update(stats["kl"], 1)',
        "The KL coefficient adapts as if a rollout were one response.",
    ),
    (
        'kl_coef = state.get("kl_coef", args.kl_coef)',
        "kl_coef = args.kl_coef",
        "A resumed run forgets how its KL coefficient had adapted.",
    ),
    (
        "rewards = ppo.token_rewards(scores, logprobs, ref_logprobs, mask, kl_coef)",
        "rewards = ppo.token_rewards(scores, ref_logprobs, logprobs, mask, kl_coef)",
        "Leaving the reference is rewarded.",
    ),
    (
        "rewards = ppo.token_rewards(scores, logprobs, ref_logprobs, mask, kl_coef)",
        "rewards = ppo.token_rewards(raw_scores, logprobs, ref_logprobs, mask, kl_coef)",
        "The policy is rewarded for the raw score, and the other one is logged.",
    ),
    (
        "mask, kl_coef = samples.mask.to(samples.tokens.device), controller.kl_coef",
        "mask, kl_coef = samples.mask.to(samples.tokens.device), args.kl_coef",
        "The KL coefficient that adapts is used nowhere.",
    ),
    (
        "ppo.gae(rewards, values, mask, args.gamma, args.lam)",
        "ppo.gae(rewards, values, mask, args.lam, args.gamma)",
        "Discount and lambda are swapped.",
    ),
    (
        "advantages = ppo.whiten(raw_advantages, mask)",
        "advantages = raw_advantages",
        "The advantages are not whitened.",
    ),
    (
        "advantages = ppo.whiten(raw_advantages, mask)",
        "advantages = ppo.whiten(raw_advantages, mask, shift_mean=False)",
        "The advantages keep their mean.",
    ),
    (
        "samples, mask, logprobs, ref_logprobs, values, rewards, raw_advantages,",
        "samples, mask, ref_logprobs, logprobs, values, rewards, raw_advantages,",
        "The ratio is to the reference, and the KL is taken the wrong way round.",
    ),
    (
        "raw_advantages, advantages, returns\n",
        "advantages, raw_advantages, returns\n",
        "The policy learns from advantages that are not whitened.",
    ),
    (
        "ppo.rollout_stats(rollout, raw_scores, scores, samples.ended, kl_coef)",
        "ppo.rollout_stats(rollout, scores, raw_scores, samples.ended, kl_coef)",
        "The raw score is logged as the score.",
    ),
    (
        "ppo.rollout_stats(rollout, raw_scores, scores, samples.ended, kl_coef)",
        "ppo.rollout_stats(rollout, raw_scores, scores, ~samples.ended, kl_coef)",
        "The share of the responses that were cut off is logged as that of the finished ones.",
    ),
    (
        "actor_critic, models.reference, samples, plan[0], args.temperature",
        "actor_critic, actor_critic.gpt, samples, plan[0], args.temperature",
        "The policy is its own reference in the rollout.",
    ),
    (
        '"episodes": updates * args.batch_size',
        '"episodes": args.batch_size',
        "The episodes of one update are logged as those so far.",
    ),
    (
        "optim.set_learning_rate(optimizer, args.lr * share)",
        "optim.set_learning_rate(optimizer, args.lr)",
        "The learning rate neither rises nor falls.",
    ),
    (
        '"model": actor_critic.gpt, ',
        '"model": models.reference, ',
        "The checkpoint holds the SFT model.",
    ),
    (
        "data.hold_out(prompts, args.held_out, args.seed)",
        "data.hold_out(prompts, args.held_out, 1)",
        "The same prompts are held out for every seed, and not those of the other stages.",
    ),
    (
        "return prompts, held_out or prompts[:1]",
        "return prompts + held_out, held_out or prompts[:1]",
        "The held-out prompts are trained on.",
    ),
    (
        "return prompts, held_out or prompts[:1]",
        "return prompts, prompts[: len(held_out)]",
        "The evaluations are on prompts that are trained on.",
    ),
    (
        "rng(args.seed, config.PPO_PROMPTS)",
        "rng(1, config.PPO_PROMPTS)",
        "Every seed trains on the same prompts.",
    ),
    (
        "rng(args.seed, config.PPO_PROMPTS)",
        "rng(args.seed, config.RANKED_PROMPTS)",
        "PPO trains on the prompts that the reward model has learned from.",
    ),
    (
        'rng(args.seed, config.HELD_OUT_PROMPTS), "validation")',
        'rng(1, config.HELD_OUT_PROMPTS), "validation")',
        "Every seed is evaluated on the same prompts.",
    ),
    (
        'rng(args.seed, config.HELD_OUT_PROMPTS), "validation")',
        'rng(args.seed, config.HELD_OUT_PROMPTS), "train")',
        "The evaluations are on wordings that are trained on.",
    ),
    (
        "data.fitting_prompts(prompts, *room), data.fitting_prompts(held_out, *room)",
        "data.fitting_prompts(held_out, *room), data.fitting_prompts(held_out, *room)",
        "It trains on the prompts of its own evaluation.",
    ),
    (
        "missing_end_score = stored if math.isnan(args.missing_end_score) else args",
        "missing_end_score = stored if not math.isnan(args.missing_end_score) else args",
        "The flag is ignored where it is given.",
    ),
    (
        'inputs |= {"missing_end_score": missing_end_score, "reward"',
        'inputs |= {"reward"',
        "A resumed run does not notice that the reward model's missing-end score has changed.",
    ),
    (
        'flags = {"policy": folder, "baseline": sft}',
        'flags = {"policy": sft, "baseline": folder}',
        "The printed command compares the SFT model with the policy.",
    ),
    (
        'inputs = {"data": prompts + held_out, "sft": reference',
        'inputs = {"data": held_out, "sft": reference',
        "A resumed run does not notice that the prompts have changed.",
    ),
    (
        "gathered(samples, evaluate.unpack(samples, tokenizer))",
        "gathered(samples, evaluate.unpack(samples, tokenizer)[::-1])",
        "The replies are in another order than the samples.",
    ),
    (
        "gpt, ids, args.max_new_tokens, tokenizer.end_token, args.temperature, uniforms",
        "gpt, ids, args.max_new_tokens, tokenizer.end_token, 1.0, uniforms",
        "It samples at another temperature than it learns at.",
    ),
    (
        "betas=(0.9, 0.999), eps=1e-5",
        "betas=(0.9, 0.99), eps=1e-8",
        "Adam is not that of the sources.",
    ),
    (
        "stats |= to_floats(ppo.update(",
        "stats = to_floats(ppo.update(",
        "What was sampled is not logged.",
    ),
]

EVALUATE = [
    (
        "uniforms = evaluate.noise(args.seed, len(prompts), args.max_new_tokens)",
        "uniforms = evaluate.noise(1, len(prompts), args.max_new_tokens)",
        "The comparison has the same noise for every seed.",
    ),
    (
        "name: evaluate.respond(gpt, tokenizer, prompts, uniforms, args.temperature, name)",
        "name: evaluate.respond(gpt, tokenizer, prompts, evaluate.noise(args.seed + len(name), "
        "len(prompts), args.max_new_tokens), args.temperature, name)",
        "Policy and baseline are sampled with noise of their own.",
    ),
    (
        "name: evaluate.respond(gpt, tokenizer, prompts, uniforms, args.temperature, name)",
        'name: evaluate.respond(policies["baseline"], tokenizer, prompts, uniforms, '
        "args.temperature, name)",
        "The baseline is judged in place of the policy.",
    ),
    (
        "name: evaluate.respond(gpt, tokenizer, prompts, uniforms, args.temperature, name)",
        "name: evaluate.respond(gpt, tokenizer, prompts[::-1], uniforms, "
        "args.temperature, name)[::1]",
        "A response is judged as an answer to another prompt.",
    ),
    (
        'evaluate.kl(*models, replies["policy"], args.temperature or 1.0)',
        'evaluate.kl(*models, replies["baseline"], args.temperature or 1.0)',
        "The KL is estimated on samples of the baseline.",
    ),
    (
        'models = policies["policy"], baseline',
        'models = baseline, policies["policy"]',
        "The KL is taken the wrong way round.",
    ),
    (
        'kls = {"baseline": 0.0, "policy": float(kl)}',
        'kls = {"baseline": float(kl), "policy": 0.0}',
        "The KL stands in the row of the baseline.",
    ),
    (
        "evaluate.best_of_n(baseline, tokenizer, score, prompts, *limits)",
        'evaluate.best_of_n(policies["policy"], tokenizer, score, prompts, *limits)',
        "Best of n samples from the policy.",
    ),
    (
        "kls[name] = evaluate.best_of_n_kl(args.best_of)",
        "kls[name] = math.log(args.best_of)",
        "The KL of best of n lacks its second term.",
    ),
    (
        "limits = args.best_of, args.max_new_tokens, args.seed, args.temperature",
        "limits = args.best_of, args.max_new_tokens, 1, args.temperature",
        "Best of n has the same noise for every seed.",
    ),
    (
        "limits = args.best_of, args.max_new_tokens, args.seed, args.temperature",
        "limits = args.best_of, args.max_new_tokens, args.seed, 1.0",
        "Best of n is sampled at another temperature than the others.",
    ),
    (
        "return evaluate.model_scores(reward_model, missing_end_score), reward_model",
        "return partial(evaluate.score_replies, reward_model), reward_model",
        "What was cut off is scored as if it had ended.",
    ),
    (
        "return partial(evaluate.final_scores, score, missing_end_score), None",
        "return score, None",
        "A reward function scores what was cut off as if it had ended.",
    ),
    (
        "return hold_out(prompts, args.prompts, seed)[1] or prompts[:1]",
        "return hold_out(prompts, args.prompts, seed)[0] or prompts[:1]",
        "The policy is evaluated on prompts that it was trained on.",
    ),
    (
        'seed = chain.stored_flags(path)["seed"]',
        "seed = args.seed",
        "With another --seed the policy is evaluated on prompts that it was trained on.",
    ),
    (
        "for path in (args.policy, args.baseline, args.reward_model):",
        "for path in (args.baseline, args.reward_model):",
        "A policy is evaluated on its own training prompts if the others never saw them.",
    ),
    (
        "for path in (args.policy, args.baseline, args.reward_model):",
        "for path in (args.policy, args.baseline):",
        "A reward model scores the answers to prompts that it was trained on.",
    ),
    (
        "return prompts[: args.prompts]",
        "return prompts",
        "A file is read to its end, whatever --prompts says.",
    ),
    (
        "stream = rng(args.seed, config.HELD_OUT_PROMPTS)",
        "stream = rng(1, config.HELD_OUT_PROMPTS)",
        "Every seed is evaluated on the same prompts.",
    ),
    (
        "stream = rng(args.seed, config.HELD_OUT_PROMPTS)",
        "stream = rng(args.seed, config.PPO_PROMPTS)",
        "The prompts are drawn with the numbers of the training prompts.",
    ),
    (
        'writers.prompts(args.prompts, stream, "validation")',
        'writers.prompts(args.prompts, stream, "train")',
        "The policy is evaluated on wordings that it was trained on.",
    ),
    (
        "texts = evaluate.finished(first), evaluate.finished(second)",
        "texts = evaluate.finished(second), evaluate.finished(first)",
        "Your judge sees the two sides swapped.",
    ),
    (
        "texts = evaluate.finished(first), evaluate.finished(second)",
        "texts = [r.text for r in first], [r.text for r in second]",
        "Your judge sees what was cut off as if it had ended.",
    ),
    (
        "lambda prompts, replies: judge.total(prompts, evaluate.finished(replies))",
        "lambda prompts, replies: judge.total(prompts, [r.text for r in replies])",
        "The world's judge sees what was cut off as if it had ended.",
    ),
    (
        "if not args.data:\n        return evaluate.by_score(",
        "if not args.data and not score:\n        return evaluate.by_score(",
        "On the world the reward model judges the policy that it trained.",
    ),
    (
        'row.append(float(score(prompts, responses).mean()) if score else "-")',
        'row.append(float(score(prompts, replies["policy"]).mean()) if score else "-")',
        "Every row has the score of the policy.",
    ),
    (
        'row.append(float(score(prompts, responses).mean()) if score else "-")',
        'row.append(float(score(prompts, responses).max()) if score else "-")',
        "The best score is reported as the mean.",
    ),
    (
        '*table(["", *names, "score", "kl", "length", "ended"], rows)',
        '*table(["", *names, "kl", "score", "length", "ended"], rows)',
        "The columns of score and KL are swapped.",
    ),
    (
        '*table(["", *names, "score", "kl", "length", "ended"], rows)',
        '*table(["", *names, "score", "kl", "ended", "length"], rows)',
        "The columns of length and ended are swapped.",
    ),
    (
        "row += measures.axes(measures.judgements(prompts, responses)).values()",
        'row += measures.axes(measures.judgements(prompts, replies["baseline"])).values()',
        "Every row has the judge's axes of the baseline.",
    ),
    (
        "row += measures.axes(measures.judgements(prompts, responses)).values()",
        "row += reversed(measures.axes(measures.judgements(prompts, responses)).values())",
        "The judge's axes stand under other names than theirs.",
    ),
    (
        "row.append(float(np.mean([reply.length for reply in responses])))",
        "row.append(float(np.mean([len(reply.example.tokens) for reply in responses])))",
        "The length counts the prompt.",
    ),
    (
        "row.append(float(np.mean([reply.length for reply in responses])))",
        "row.append(float(np.mean([len(reply.text) for reply in responses])))",
        "The length is in characters.",
    ),
    (
        "row.append(float(np.mean([reply.ended for reply in responses])))",
        'row.append(float(np.mean([reply.ended for reply in replies["baseline"]])))',
        "Every row has the baseline's share of finished responses.",
    ),
    (
        "row.append(kls[name])",
        'row.append(kls["policy"])',
        "Every row has the KL of the policy.",
    ),
    (
        'evaluate.win_rate(prefer, prompts, responses, replies["baseline"])',
        'evaluate.win_rate(prefer, prompts, replies["baseline"], responses)',
        "The rate is that of the baseline against the policy.",
    ),
    (
        'evaluate.win_rate(prefer, prompts, responses, replies["baseline"])',
        'evaluate.win_rate(prefer, prompts, replies["policy"], replies["baseline"])',
        "Every row has the win rate of the policy.",
    ),
    (
        'evaluate.win_rate(prefer, prompts, responses, replies["baseline"])',
        'evaluate.win_rate(prefer, prompts[::-1], responses, replies["baseline"])',
        "The judge sees the responses to another prompt.",
    ),
    (
        '{100 * half_width:.1f}"',
        '{half_width:.1f}"',
        "The interval is a hundred times too narrow.",
    ),
    (
        'ending = f"of {len(prompts)} prompts',
        'ending = f"of {2 * len(prompts)} prompts',
        "The two orders of a prompt are counted as two prompts.",
    ),
    (
        '["prompt", "baseline", "policy"], rows)',
        '["prompt", "policy", "baseline"], rows)',
        "The samples of policy and baseline stand under each other's name.",
    ),
    (
        "texts = {name: [reply.text for reply in replies[name]]",
        "texts = {name: [reply.text for reply in replies[name][::-1]]",
        "The samples shown belong to other prompts.",
    ),
    (
        "missing_end_score = load_missing_end_score(args, stored)",
        "missing_end_score = stored",
        "The score differs from that of the training where this had a missing-end score of its "
        "own.",
    ),
    (
        "        chain.refuse_mixed(args, args.policy, args.baseline)\n",
        "        chain.refuse_mixed(args, args.baseline)\n",
        "A policy of one's own data is evaluated on the embedded world, silently.",
    ),
]

DPO = [
    (
        "places = data.stream(len(comparisons), start, stop, args.seed)",
        "places = data.stream(len(comparisons), start, stop, 1)",
        "The order of the comparisons is the same for every seed.",
    ),
    (
        "data.hold_out(records, args.held_out, args.seed)",
        "data.hold_out(records, args.held_out, 1)",
        "The same prompts are held out for every seed, and not those of the other stages.",
    ),
    (
        "comparisons, held_out = data.hold_out(",
        "held_out, comparisons = data.hold_out(",
        "It learns on what is held out.",
    ),
    (
        "train(args, folder, policy, reference.requires_grad_(False), tokenizer, comparisons)",
        "train(args, folder, policy, reference.requires_grad_(False), tokenizer, records)",
        "The held-out comparisons are trained on.",
    ),
    (
        "            report(args, folder, models, held_out, comparisons)",
        "            report(args, folder, models, comparisons, comparisons)",
        "The accuracy is that on comparisons that were trained on.",
    ),
    (
        "            report(args, folder, models, held_out, comparisons)",
        "            report(args, folder, models, held_out, held_out)",
        "The bag of words has learned the held-out comparisons by heart.",
    ),
    (
        "models = policy, reference, tokenizer\n            report",
        "models = reference, policy, tokenizer\n            report",
        "The implicit rewards have the wrong sign.",
    ),
    (
        "models = policy, reference, tokenizer\n            report",
        "models = policy, lora.start(args, policy), tokenizer\n            report",
        "The implicit rewards are all zero.",
    ),
    (
        "models = policy, reference, tokenizer\n            stats",
        "models = policy, lora.start(args, policy), tokenizer\n            stats",
        "The policy of the last step is the reference.",
    ),
    (
        "models = policy, reference, tokenizer\n            stats",
        "models = reference, policy, tokenizer\n            stats",
        "Policy and reference are swapped.",
    ),
    (
        "rewards = iter(values.tolist())",
        "rewards = iter((values / method.strength).tolist())",
        "The implicit reward lacks beta, so that loss and calibration are those of another model.",
    ),
    (
        "rewards = iter(values.tolist())",
        "rewards = iter((method.strength * logprobs).tolist())",
        "The implicit reward is the likelihood of the policy alone.",
    ),
    (
        "for c in comparisons for text in c.responses]",
        "for c in comparisons for text in c.responses[::-1]]",
        "A response has the reward of another response to its prompt.",
    ),
    (
        "return [[next(rewards) for _ in c.responses] for c in comparisons]",
        "return [[next(rewards) for _ in c.responses] for c in comparisons][::-1]",
        "The rewards belong to another comparison.",
    ),
    (
        "examples = [data.encode(tokenizer, c.prompt, text) for c",
        'examples = [data.encode(tokenizer, "", text) for c',
        "The implicit reward is taken without the prompt.",
    ),
    (
        "policy = lora.start(args, reference)",
        "policy = reference",
        "The reference learns along with the policy.",
    ),
    (
        "agreement.ranking_numbers(held_out, scores)",
        "agreement.ranking_numbers(held_out, scores[::-1])",
        "The rewards of one comparison are held against the ranks of another.",
    ),
    (
        'step = int(checkpoint.load(folder, ("dpo",))["step"])',
        "step = 0",
        "The held-out numbers replace the metrics of the training.",
    ),
    (
        'models = {"policy": folder, "baseline": path}',
        'models = {"policy": path, "baseline": folder}',
        "The printed command compares the SFT model with the policy.",
    ),
    (
        "data=records, sft=reference)",
        "data=records)",
        "A resumed run does not notice that the SFT model has changed.",
    ),
    (
        "data=records, sft=reference)",
        "data=comparisons[:1], sft=reference)",
        "A resumed run does not notice that the comparisons have changed.",
    ),
    (
        '"lr": optim.learning_rate(optimizer)}',
        '"lr": args.lr}',
        "The peak learning rate is logged in place of the one that was used.",
    ),
    (
        "stop = min(stop, len(comparisons) * args.epochs)",
        "stop = stop",
        "The last batch is filled with records of one pass more.",
    ),
]

MONITOR = [
    (
        "self.noise = noise(args.seed, len(prompts), args.max_new_tokens)",
        "self.noise = noise(1, len(prompts), args.max_new_tokens)",
        "The evaluations have the same noise for every seed.",
    ),
    (
        "return respond(gpt, self.tokenizer, self.prompts, self.noise, self.args.temperature)",
        "return respond(gpt, self.tokenizer, self.prompts, noise(np.random.randint(1000), "
        "*self.noise.shape), self.args.temperature)",
        "Every evaluation has fresh noise.",
    ),
    (
        "return respond(gpt, self.tokenizer, self.prompts, self.noise, self.args.temperature)",
        "return respond(self.reference, self.tokenizer, self.prompts, self.noise, "
        "self.args.temperature)",
        "The evaluations judge the reference.",
    ),
    (
        "return respond(gpt, self.tokenizer, self.prompts, self.noise, self.args.temperature)",
        "return respond(gpt, self.tokenizer, self.prompts, self.noise)",
        "The evaluations sample at another temperature than the training.",
    ),
    (
        "self.sft_replies = self.respond(reference)",
        "self.sft_replies = respond(reference, tokenizer, prompts, noise(args.seed + 1, "
        "len(prompts), args.max_new_tokens), args.temperature)",
        "The SFT model has other noise than the policy.",
    ),
    (
        "kls = kl(gpt, self.reference, replies, self.args.temperature)",
        "kls = kl(self.reference, gpt, replies, self.args.temperature)",
        "The KL is taken the wrong way round.",
    ),
    (
        "kls = kl(gpt, self.reference, replies, self.args.temperature)",
        "kls = kl(gpt, self.reference, self.sft_replies, self.args.temperature)",
        "The KL is estimated on samples of the SFT model.",
    ),
    (
        "kls = kl(gpt, self.reference, replies, self.args.temperature)",
        "kls = kl(gpt, self.reference, replies)",
        "The KL is that at another temperature than the samples.",
    ),
    (
        "for side in (self.sft_replies, replies)]\n        columns",
        "for side in (replies, self.sft_replies)]\n        columns",
        "The samples of SFT model and policy are swapped.",
    ),
    (
        "columns = self.prompts, *texts, scores.tolist(), kls.tolist()",
        "columns = self.prompts, *texts, kls.tolist(), scores.tolist()",
        "The columns of score and KL are swapped in the table of samples.",
    ),
    (
        "columns = self.prompts, *texts, scores.tolist(), kls.tolist()",
        "columns = self.prompts[::-1], *texts, scores.tolist(), kls.tolist()",
        "The samples are shown with other prompts.",
    ),
    (
        "scores = self.score(self.prompts, replies)",
        "scores = self.score(self.prompts, self.sft_replies)",
        "The score is that of the SFT model.",
    ),
    (
        "scores = self.score(self.prompts, replies)",
        "scores = self.score(self.prompts[::-1], replies)",
        "A reward function gets a response with another row's prompt.",
    ),
    (
        'numbers = {"score": float(scores.mean()), "kl": float(kls.mean()), "length": length}',
        'numbers = {"kl": float(kls.mean()), "score": float(scores.mean()), "length": length}',
        "The columns of score and KL are swapped on the console.",
    ),
    (
        "length = float(np.mean([reply.length for reply in replies]))",
        "length = float(np.mean([reply.length for reply in self.sft_replies]))",
        "The length is that of the SFT model's responses.",
    ),
    (
        'numbers["ended"] = float(np.mean([reply.ended for reply in replies]))',
        'numbers["ended"] = float(np.mean([reply.ended for reply in self.sft_replies]))',
        "The share of finished responses is the SFT model's.",
    ),
    (
        "for side in (replies, self.sft_replies))\n",
        "for side in (self.sft_replies, replies))\n",
        "The judge's numbers are those of the SFT model, and the win rate is against the policy.",
    ),
    (
        'wins(policy["total"], sft["total"])',
        'wins(sft["total"], policy["total"])',
        "The win rate is that of the SFT model.",
    ),
    (
        'wins(policy["total"], sft["total"])',
        '(policy["total"] > sft["total"])',
        "Ties are counted as defeats.",
    ),
    (
        'interval(policy["total"], clusters)[1]',
        'interval(policy["total"], clusters)[0]',
        "The mean is logged as half the width of its interval.",
    ),
    (
        'interval(policy["total"], clusters)[1]',
        'interval(sft["total"], clusters)[1]',
        "The interval is that of the SFT model.",
    ),
    (
        'write_samples(folder, f"after {updates} updates", header, rows)',
        'write_samples(folder, f"after {updates - 1} updates", header, rows)',
        "The samples bear the number of the update before.",
    ),
    (
        'sides = ("eval_", numbers), ("sft_", self.sft_numbers)',
        'sides = ("sft_", numbers), ("eval_", self.sft_numbers)',
        "The numbers of SFT model and policy are logged under each other's names.",
    ),
    (
        'sides = ("eval_", numbers), ("sft_", self.sft_numbers)',
        'sides = ("eval_", numbers), ("sft_", numbers)',
        "The policy's numbers are logged as the SFT model's.",
    ),
    (
        'for name in ("parsed", "declined")}',
        'for name in ("declined", "parsed")} | {"parsed": measures.mean(policy["declined"])}',
        "The share that was declined is logged as the share that could be parsed.",
    ),
    (
        'numbers["distinct"] = measures.diversity(replies)["distinct"]',
        'numbers["distinct"] = measures.diversity(self.sft_replies)["distinct"]',
        "The distinct responses are those of the SFT model.",
    ),
    (
        "interval(scores, clusters)[1]",
        "interval(scores)[1]",
        "The interval of the score takes prompts about one fact for independent.",
    ),
    (
        'interval(policy["total"], clusters)[1]',
        'interval(policy["total"])[1]',
        "The interval of the total takes prompts about one fact for independent.",
    ),
    (
        "self.measure(0, self.sft_replies, torch.zeros(len(prompts)))",
        "self.measure(0, self.respond(reference)[::-1], torch.zeros(len(prompts)))",
        "The first row judges the SFT model's responses as answers to other prompts.",
    ),
]

AGREEMENT = [
    (
        "scores[n][better] - scores[n][worse] for",
        "scores[n][worse] - scores[n][better] for",
        "The margins have the wrong sign.",
    ),
    (
        '"held_out_accuracy": (margins > 0).mean()',
        '"held_out_accuracy": (margins >= 0).mean()',
        "A reward model that ties everything is always right.",
    ),
    (
        '"ties": (margins == 0).mean()',
        '"ties": (margins != 0).mean()',
        "What is not a tie is counted as one.",
    ),
    (
        '"held_out_loss": np.logaddexp(0, -margins).mean()',
        '"held_out_loss": np.logaddexp(0, margins).mean()',
        "The loss is that of the reversed preferences.",
    ),
    (
        "better_totals = np.array([totals[n][better] for n, better, _ in pairs])",
        "better_totals = np.array([totals[0][better] for n, better, _ in pairs])",
        "The totals are those of the first comparison.",
    ),
    (
        "worse_totals = np.array([totals[n][worse] for n, _, worse in pairs])",
        "worse_totals = np.array([totals[n][better] for n, better, _ in pairs])",
        "All pairs seem to be equally good.",
    ),
    (
        "likely = preference_probability(better_totals, worse_totals)",
        "likely = preference_probability(worse_totals, better_totals)",
        "The labellers are taken for people who prefer the worse one.",
    ),
    (
        "if ranks[i] < ranks[j] and texts[i] != texts[j]",
        "if ranks[i] < ranks[j]",
        "Equal texts form pairs, in which nobody can be right.",
    ),
    (
        "if ranks[i] < ranks[j] and texts[i] != texts[j]",
        "if ranks[i] <= ranks[j] and texts[i] != texts[j]",
        "Tied responses form pairs, in both orders.",
    ),
    (
        "np.where(margins > 0, likely, 1 - likely).mean()",
        "np.where(margins > 0, 1.0, 1 - likely).mean()",
        "The expected accuracy takes the labels for the truth where the model agrees.",
    ),
    (
        "np.maximum(likely, 1 - likely).mean()",
        "likely.mean()",
        "The best possible accuracy is that of the labels.",
    ),
    (
        "(margins > 0) == (better_totals > worse_totals)",
        "(margins > 0)",
        "The agreement with the judge is the agreement with the labels.",
    ),
    (
        "calibration_error(margins, likely)}",
        "calibration_error(margins, np.ones(len(margins)))}",
        "Calibration is to the noisy labels where the truth is known.",
    ),
]

GATES = [
    (
        'for question in entry["validation"]',
        'for question in entry["train"]',
        "The statements are worded as in training.",
    ),
    (
        "return gpt.hidden(tokens)[torch.arange(len(tokens)), lengths - 1]",
        "return gpt.hidden(tokens)[torch.arange(len(tokens)), lengths - 2]",
        "The features are those before the end token.",
    ),
    (
        'facts = world_facts("train", "validation")',
        'facts = world_facts("train")',
        "The probe is not asked about facts that nobody ranked.",
    ),
    (
        "for i in rng(seed, config.PROBED_FACTS).permutation(len(facts)):",
        "for i in rng(1, config.PROBED_FACTS).permutation(len(facts)):",
        "The folds of the probe are the same for every seed.",
    ),
    (
        "differences.append(torch.cat([states[0] - state for state in states[1:]]))",
        "differences.append(torch.cat([states[1] - state for state in states[1:]]))",
        "The right answer is left out of the probe.",
    ),
    (
        "for train, test in (folds, folds[::-1]):",
        "for train, test in (folds[:1] * 2, folds[1:] * 2):",
        "The probe is tested on the facts that it was fitted on.",
    ),
    (
        'gpt, tokenizer = checkpoint.load_gpt(f"{args.out}/sft")\n    differences',
        'gpt, tokenizer = checkpoint.load_gpt(f"{args.out}/pretrain")\n    differences',
        "The probe looks at the base model.",
    ),
    (
        "wins = better > scores(entry, subject, answer)",
        "wins = better >= scores(entry, subject, answer)",
        "A reward model that likes all answers alike passes.",
    ),
    (
        'agreement = fact_agreement(reward_model, tokenizer, "train")',
        'agreement = fact_agreement(reward_model, tokenizer, "validation")',
        "The gate of the ranked facts is passed or failed by those that nobody ranked.",
    ),
    (
        'unranked = np.mean(list(fact_agreement(reward_model, tokenizer, "validation").values()))',
        'unranked = np.mean(list(fact_agreement(reward_model, tokenizer, "train").values()))',
        "The facts that nobody ranked seem to be known as well as the others.",
    ),
    (
        "worst = sorted(agreement.items(), key=lambda item: item[1])[:5]",
        "worst = sorted(agreement.items(), key=lambda item: -item[1])[:5]",
        "The best facts are shown as the worst.",
    ),
    (
        "np.mean([share > 0.5 for share in agreement.values()])",
        "np.mean([share > 0.0 for share in agreement.values()])",
        "A misconception counts as beaten if one wording of many is ranked right.",
    ),
    (
        '"passed": mean >= 0.9}',
        '"passed": mean >= 0.5}',
        "The gate of the facts is passed at chance.",
    ),
    (
        '"passed": mean >= 0.9}',
        '"passed": mean > 0.99}',
        "The gate of the facts is not passed at .95.",
    ),
    (
        'writers.draw_question(generator, "validation", {"fact": 1.0})',
        'writers.draw_question(generator, "train", {"fact": 1.0})',
        "The gates ask in wordings of the training.",
    ),
    (
        'writers.draw_question(generator, "validation", {"fact": 1.0})',
        'writers.draw_question(generator, "validation", {"sum": 1.0})',
        "The gates ask for sums.",
    ),
    (
        "generator = rng(args.seed, config.FACT_PROMPTS)",
        "generator = rng(1, config.FACT_PROMPTS)",
        "The prompts are the same for every seed.",
    ),
    (
        "noise = evaluate.noise(args.seed, len(prompts), args.max_new_tokens)",
        "noise = evaluate.noise(1, len(prompts), args.max_new_tokens)",
        "The noise is the same for every seed.",
    ),
    (
        "judgement.honest for judgement in measures.judgements(prompts, replies)",
        "judgement.helpful for judgement in measures.judgements(prompts, replies)",
        "The gates look at helpfulness.",
    ),
    (
        "score = evaluate.model_scores(reward_model, missing_end_score)",
        "score = evaluate.model_scores(reward_model, 3.0)",
        "Best of n prefers what was cut off.",
    ),
    (
        "limits = args.best_of, args.max_new_tokens, args.seed\n",
        "limits = args.best_of, args.max_new_tokens, 1\n",
        "The candidates are the same for every seed.",
    ),
    (
        "evaluate.interval(best - single)",
        "evaluate.interval(single - best)",
        "The gain has the wrong sign.",
    ),
    (
        '"passed": gain >= 0.15}',
        '"passed": gain >= 0.0}',
        "Best of n passes without a gain.",
    ),
    (
        '"passed": gain >= 0.15}',
        '"passed": gain >= 0.3}',
        "Best of n does not pass with a gain of .2.",
    ),
    (
        'gpt, tokenizer = checkpoint.load_gpt(f"{args.out}/on-judge/ppo")',
        'gpt, tokenizer = checkpoint.load_gpt(f"{args.out}/ppo")',
        "The gate of the judge looks at PPO on the reward model.",
    ),
    (
        '"passed": facts.mean() >= 0.9}',
        '"passed": facts.mean() >= 0.6}',
        "The gate of the judge is passed at .7.",
    ),
    (
        '"passed": facts.mean() >= 0.9}',
        '"passed": facts.mean() >= 0.99}',
        "The gate of the judge is not passed at .95.",
    ),
    (
        'sys.exit(0 if measure(argv).get("passed", True) else 1)',
        "measure(argv)",
        "The exit code is 0 where a gate was not passed.",
    ),
]

REPORT = [
    (
        'sft, uniforms = policies["SFT"], evaluate.noise(args.seed, len(prompts),',
        'sft, uniforms = policies["SFT"], evaluate.noise(1, len(prompts),',
        "The noise is the same for every seed.",
    ),
    (
        "replies = evaluate.respond(gpt, tokenizer, prompts, uniforms, progress=name)",
        "replies = evaluate.respond(sft, tokenizer, prompts, uniforms, progress=name)",
        "The SFT model is reported under every name.",
    ),
    (
        "replies = evaluate.respond(gpt, tokenizer, prompts, uniforms, progress=name)",
        "replies = evaluate.respond(gpt, tokenizer, prompts, evaluate.noise(len(name), "
        "*uniforms.shape), progress=name)",
        "Every policy has noise of its own.",
    ),
    (
        "kl = float((logprobs - ref_logprobs).mean())",
        "kl = float((ref_logprobs - logprobs).mean())",
        "The KL has the wrong sign.",
    ),
    (
        "answers[name] = Answers(replies, kl, -float(logprobs.mean()))",
        "answers[name] = Answers(replies, -float(logprobs.mean()), kl)",
        "KL and entropy stand in each other's column.",
    ),
    (
        "limits = args.best_of, args.max_new_tokens, args.seed\n    candidates",
        "limits = args.best_of, args.max_new_tokens, 1\n    candidates",
        "The candidates of best-of-n are the same for every seed.",
    ),
    (
        "candidates = evaluate.candidates(sft, tokenizer,",
        "candidates = evaluate.candidates(gpt, tokenizer,",
        "Best of n is taken from the last policy, not from SFT.",
    ),
    (
        "for n in (4, args.best_of):\n        kl = evaluate.best_of_n_kl(n)",
        "for n in (4, args.best_of):\n        kl = evaluate.best_of_n_kl(args.best_of)",
        "Best of 4 has the KL of best of 16.",
    ),
    (
        "Answers(evaluate.best(*candidates, n), kl)",
        "Answers(evaluate.best(*candidates, args.best_of), kl)",
        "Best of 4 is best of 16.",
    ),
    (
        "memoriser = Memoriser(MEMORISED, rng(args.seed, config.PPO_PROMPTS))",
        "memoriser = Memoriser(MEMORISED, rng(args.seed, config.HELD_OUT_PROMPTS))",
        "The memoriser has learned with the numbers of the held-out prompts.",
    ),
    (
        "memoriser = Memoriser(MEMORISED, rng(args.seed, config.PPO_PROMPTS))",
        "memoriser = Memoriser(MEMORISED, rng(1, config.PPO_PROMPTS))",
        "The memoriser is the same for every seed.",
    ),
    (
        "writers.faultless(prompts, rng(args.seed, config.FAULTLESS_RESPONSES))",
        "writers.faultless(prompts, rng(1, config.FAULTLESS_RESPONSES))",
        "The faultless writer says the same for every seed.",
    ),
    (
        'evaluate.wins(values[name]["total"], sft["total"]).mean())\n        numbers |=',
        'evaluate.wins(sft["total"], values[name]["total"]).mean())\n        numbers |=',
        "How often SFT beats a policy is reported as how often it beats SFT.",
    ),
    (
        '"score": float(scores[name].mean())',
        '"score": float(scores["SFT"].mean())',
        "Every policy has the score of SFT.",
    ),
    (
        '"kl": side.kl, "entropy": side.entropy}',
        '"kl": side.entropy, "entropy": side.kl}',
        "KL and entropy are swapped.",
    ),
    (
        "intervals = {m: interval(column, clusters)[1] for m",
        "intervals = {m: interval(column, np.arange(len(column)))[1] for m",
        "The intervals take prompts about one fact for independent.",
    ),
    (
        "intervals = {m: interval(column, clusters)[1] for m",
        "intervals = {m: interval(column, clusters)[0] for m",
        "The means are reported as half widths.",
    ),
    (
        "for x in interval(ppo[measure] - column, clusters)]",
        "for x in interval(column - ppo[measure], clusters)]",
        "The gains have the wrong sign.",
    ),
    (
        'evaluate.wins(ppo["total"], sft["total"]), clusters)',
        'evaluate.wins(sft["total"], ppo["total"]), clusters)',
        "The win rate is that of SFT.",
    ),
    (
        "return (values[1] - values[0]) / (values[2] - values[0])",
        "return (values[2] - values[1]) / (values[2] - values[0])",
        "The share that is lacking is reported as the share that was won.",
    ),
    (
        "return (values[1] - values[0]) / (values[2] - values[0])",
        "return values[1] / values[2]",
        "The share that SFT had already counts as PPO's.",
    ),
    (
        "return evaluate.interval(column[applies], clusters[applies])",
        "return evaluate.interval(np.nan_to_num(column), clusters)",
        "Prompts to which a measure does not apply count as 0.",
    ),
    (
        "rng(args.seed, config.HELD_OUT_PROMPTS), args.split)",
        "rng(1, config.HELD_OUT_PROMPTS), args.split)",
        "The prompts are the same for every seed.",
    ),
    (
        "rng(args.seed, config.HELD_OUT_PROMPTS), args.split)",
        'rng(args.seed, config.HELD_OUT_PROMPTS), "train")',
        "The report asks in wordings of the training.",
    ),
    (
        'score = evaluate.model_scores(reward_model, chain.missing_end_score(*models, "", stored))',
        "score = evaluate.model_scores(reward_model, stored)",
        "The score is not that of the training, if this had a missing-end score of its own.",
    ),
    (
        "scores = {name: score(prompts, side.replies) for name, side in answers.items()}",
        'scores = {name: score(prompts, answers["SFT"].replies) for name, side in answers.items()}',
        "Every policy has the scores of SFT.",
    ),
    (
        "values = {name: measures.values_of(prompts, results[name]) for",
        'values = {name: measures.values_of(prompts, results["SFT"]) for',
        "Every policy has the judge's numbers of SFT.",
    ),
    (
        "name: measures.by_group(prompts, results[name]) for",
        "name: measures.by_group(prompts[::-1], results[name]) for",
        "The groups are those of other prompts.",
    ),
    (
        "ref_logprobs = evaluate.sequence_logprobs(sft, examples) if gpt is not sft else logprobs",
        "ref_logprobs = evaluate.sequence_logprobs(sft, examples) if gpt is sft else logprobs",
        "Every policy has KL 0.",
    ),
    (
        "                checkpoint.same_sft(path, sft)\n",
        "",
        "A policy of an older run is compared with an SFT model that it never saw.",
    ),
    (
        'last = [{}, *read_metrics(f"{args.out}/rm")][-1]',
        'last = [{}, *read_metrics(f"{args.out}/rm")][1]',
        "The reward model's numbers are those of its first step.",
    ),
]

TABLES = [
    (
        '[name, *("-" if row.get(column) is None else row[column] for column in columns)]',
        '[name, *("-" if row.get(column) is None else row[column] for column in columns[::-1])]',
        "The numbers stand under other names than theirs.",
    ),
    (
        'totals = {\n        name: {kind: numbers["total"]',
        'totals = {\n        name: {kind: numbers["prompts"]',
        "Counts are printed as totals.",
    ),
    (
        'show_verdicts(report["groups"]["SFT"], report["groups"]["PPO"])',
        'show_verdicts(report["groups"]["PPO"], report["groups"]["SFT"])',
        "SFT -> PPO is PPO -> SFT.",
    ),
    (
        "{row[c]:.2f} -> {after[kind][c]:.2f}",
        "{after[kind][c]:.2f} -> {row[c]:.2f}",
        "Before and after are swapped.",
    ),
    (
        "{gains[column][0]:+.2f} +- {gains[column][1]:.2f}",
        "{gains[column][1]:+.2f} +- {gains[column][0]:.2f}",
        "A difference is printed as its interval.",
    ),
    (
        "{100 * rate:.1f}% +- {100 * half_width:.1f} of prompts",
        "{100 * rate:.1f}% +- {half_width:.1f} of prompts",
        "The interval of the win rate is a hundred times too narrow.",
    ),
    (
        'highest = 100 * report["rows"]["faultless"]["beats_sft"]',
        'highest = 100 * report["rows"]["PPO"]["beats_sft"]',
        "A faultless policy seems to be as good as PPO.",
    ),
    (
        "reply = replies[name][row]\n",
        "reply = replies[name][row - 1]\n",
        "The examples show responses to other prompts.",
    ),
    (
        "judgement = judge(prompts[row], finished([reply])[0])",
        "judgement = judge(prompts[row], reply.text)",
        "An example that was cut off is judged as if it had ended.",
    ),
    (
        "rows[group(prompt)].append(row)",
        "rows[group(prompts[0])].append(row)",
        "The examples are not of each kind.",
    ),
]

RESULTS = [
    (
        "paths.sort(key=lambda path: int(path.parent.name))",
        "paths.sort()",
        "Seed 10 stands before seed 2.",
    ),
    (
        "if len(values) < 3:",
        "if len(values) < 2:",
        "Two seeds have an interval of twelve standard errors.",
    ),
    (
        "values = [value for value in values if value is not None]",
        "values = [value or 0.0 for value in values]",
        "A seed without a value counts as 0.",
    ),
    (
        'runs = [run["groups"] for run in reports.values()]',
        'runs = [run["groups"] for run in list(reports.values())[:1]]',
        "The tables by kind are of the first seed.",
    ),
    (
        'runs = [run["rows"] for run in reports.values()]',
        'runs = [run["rows"] for run in list(reports.values())[:1]]',
        "The tables of policies are of the first seed.",
    ),
    (
        "columns = [(policy, verdict) for verdict in VERDICTS]",
        'columns = [("SFT", verdict) for verdict in VERDICTS]',
        "PPO has the verdicts of SFT.",
    ),
    (
        "columns = [(policy, verdict) for verdict in VERDICTS]",
        "columns = [(policy, verdict) for verdict in VERDICTS[::-1]]",
        "The verdicts stand under other names than theirs.",
    ),
    (
        'totals = [(policy, "total") for policy in policies]',
        'totals = [(policy, "total") for policy in sorted(policies)]',
        "The totals stand under other policies than theirs.",
    ),
    (
        'share = (numbers["expected_accuracy"] - 0.5) / best if best else math.nan',
        'share = numbers["expected_accuracy"] / numbers["best_possible_accuracy"]',
        "The share of the best possible accuracy counts from 0.",
    ),
    (
        'lines[f"PPO - {name}, {measure}"] = f"{mean:+.2f} ± {half_width:.2f}"',
        'lines[f"PPO - {name}, {measure}"] = f"{half_width:+.2f} ± {mean:.2f}"',
        "A difference is printed as its interval.",
    ),
    (
        'best = run["rows"]["faultless"]["beats_sft"]',
        'best = run["rows"]["PPO"]["beats_sft"]',
        "A faultless policy seems to be as good as PPO.",
    ),
    (
        "seed = int(run.name)",
        "seed = 1",
        "The curve of best-of-n is of seed 1 for every run.",
    ),
    (
        'rng(seed, config.HELD_OUT_PROMPTS), "validation")',
        'rng(seed, config.HELD_OUT_PROMPTS), "train")',
        "The curve of best-of-n is of prompts of the training.",
    ),
    (
        "score = evaluate.model_scores(reward_model, missing_end_score)",
        "score = evaluate.model_scores(reward_model, 0.0)",
        "What was cut off has score 0 in the curve of best-of-n.",
    ),
    (
        "best = evaluate.best(replies, scores, n)",
        "best = evaluate.best(replies, scores, max(BEST_OF))",
        "Every point of the curve is best of 64.",
    ),
    (
        "points.append((evaluate.best_of_n_kl(n), float(score(prompts, "
        "best).mean()), float(total)))",
        "points.append((evaluate.best_of_n_kl(n), float(total), "
        "float(score(prompts, best).mean())))",
        "Score and total are swapped in the curve.",
    ),
    (
        'max(records, key=lambda r: r["eval_total"]), records[-1]',
        'max(records, key=lambda r: r["eval_score"]), records[-1]',
        "The fall is from the peak of the proxy.",
    ),
    (
        'max(records, key=lambda r: r["eval_total"]), records[-1]',
        'records[-1], max(records, key=lambda r: r["eval_total"])',
        "The fall has the wrong sign.",
    ),
    (
        'half_width = math.hypot(peak["eval_total_half"], end["eval_total_half"])',
        'half_width = end["eval_total_half"]',
        "The interval of a difference is that of its end.",
    ),
    (
        "(total, half_width, score), end = fall(records), records[-1]",
        "(total, half_width, score), end = fall(records), records[0]",
        "The numbers at the end of training are those of the first evaluation.",
    ),
    (
        "row = [name, f\"{end['eval_total']:.2f}",
        "row = [name, f\"{end['eval_score']:.2f}",
        "The reward model's score stands where the judge's total is expected.",
    ),
    (
        "key=lambda path: float(path.parent.name[3:])",
        "key=lambda path: path.parent.name[3:]",
        "Coefficient 10 stands before 2.",
    ),
    (
        'best = best_of_n_curve(args, Path(args.out) / "1")',
        "best = best_of_n_curve(args, Path(args.out) / list(reports)[-1])",
        "The curve of best-of-n is of another seed than the runs beside it.",
    ),
]

FIGURES = [
    (
        'values = [records[0]["sft_" + name], *(record["eval_" + name] for record in records)]',
        'values = [records[0]["eval_" + name], *(record["eval_" + name] for record in records)]',
        "A curve begins at the first evaluation of the policy.",
    ),
    (
        'kls, values = curve(records, "kl"), curve(records, name)',
        'kls, values = curve(records, name), curve(records, "kl")',
        "The axes of the figure of over-optimisation are swapped.",
    ),
    (
        'half_width = records[-1][f"eval_{name}_half"]',
        'half_width = records[-1]["eval_total_half"]',
        "The bar of the score is that of the total.",
    ),
    (
        "side.plot(best[:, 0], best[:, column], **style)",
        "side.plot(best[:, 0], best[:, 1], **style)",
        "The curve of best-of-n shows the score in both panels.",
    ),
    (
        "shared = set.intersection(",
        "shared = set.union(",
        "The mean of runs is taken of updates that not all of them evaluated.",
    ),
]

# ---- flags that are ignored

TRAINING = "seed device precision drop_long microbatch_tokens max_grad_norm resume keep"
FLAGS = [
    *ignored("train_sft.py", TRAINING + " data text init size context tokenizer documents"),
    *ignored("train_sft.py", "demonstrations epochs batch_size pretrain_lr lr warmup weight_decay"),
    *ignored("train_sft.py", "held_out eval_every save_every max_new_tokens"),
    *ignored("train_rm.py", TRAINING + " out sft data prompts responses max_new_tokens epochs"),
    *ignored("train_rm.py", "batch_size lr warmup weight_decay held_out norm_prompts"),
    *ignored("train_rm.py", "missing_end_score save_every margin labeller labeller_model"),
    *ignored("train_rm.py", "human_share policy more"),
    *ignored("train_ppo.py", TRAINING + " out sft rm reward data prompts updates batch_size"),
    *ignored("train_ppo.py", "epochs minibatches max_new_tokens temperature lr value_head_rate"),
    *ignored("train_ppo.py", "warmup clip value_clip vf_coef gamma lam kl_coef kl_target"),
    *ignored("train_ppo.py", "kl_horizon missing_end_score critic held_out eval_every save_every"),
    Mutant(
        "minirlhf/rewards/ensemble.py",
        "combine(scores, self.args.combine)",
        "combine(scores, EnsembleFlags.combine)",
        "--combine is ignored.",
        "combine",
    ),
    Mutant(
        "minirlhf/rewards/ensemble.py",
        "M, width = self.args.par,",
        "M, width = 2,",
        "--par is 2, whatever it says.",
        "par",
    ),
    Mutant(
        "minirlhf/rewards/credit.py",
        "FUNCTIONS[args.credit]",
        'FUNCTIONS["uniform"]',
        "--credit is uniform, whatever it says.",
        "credit",
    ),
    Mutant(
        "minirlhf/rewards/credit.py",
        "None), args.credit_share)",
        "None), CreditFlags.credit_share)",
        "--credit-share is ignored.",
        "credit_share",
    ),
    *ignored("train_ppo.py", "microscope algorithm group"),
    Mutant(
        "minirlhf/tools/ptx.py",
        "limits = args.ptx_coef,",
        "limits = 0.1,",
        "--ptx-coef is .1, whatever it says.",
        "ptx_coef",
    ),
    Mutant(
        "minirlhf/tools/ptx.py",
        "args.ptx_batch, args.microbatch",
        "PtxFlags.ptx_batch, args.microbatch",
        "--ptx-batch is ignored.",
        "ptx_batch",
    ),
    Mutant(
        "minirlhf/tools/ptx.py",
        "load_text(args.text,",
        'load_text("",',
        "--text is ignored.",
        "text",
    ),
    *ignored("minirlhf/tools/dpo.py", TRAINING + " out sft data epochs batch_size lr warmup"),
    *ignored("minirlhf/tools/dpo.py", "held_out save_every loss tau gamma lam"),
    *ignored("minirlhf/tools/dpo.py", "undesirable_weight"),
    *ignored("minirlhf/tools/evaluate.py", "seed device precision drop_long policy"),
    *ignored("minirlhf/tools/evaluate.py", "baseline reward_model reward missing_end_score data"),
    *ignored("minirlhf/tools/evaluate.py", "judge prompts best_of max_new_tokens temperature"),
    *ignored("minirlhf/tools/evaluate.py", "shown to"),
    *ignored("minirlhf/tools/evaluate_rm.py", "seed device drop_long reward_model"),
    *ignored("minirlhf/tools/evaluate_rm.py", "policy reference beta data to"),
    *ignored("minirlhf/tools/sample.py", "seed device drop_long policy data prompt to"),
    *ignored("minirlhf/tools/sample.py", "prompt_template prompts responses reward_model best_of"),
    *ignored("minirlhf/tools/sample.py", "missing_end_score temperature max_new_tokens"),
    *ignored("minirlhf/tools/sample.py", "batch_size resume overwrite"),
    *ignored("minirlhf/tools/chat.py", "seed device policy baseline template temperature"),
    *ignored("minirlhf/tools/chat.py", "max_new_tokens"),
    *ignored("minirlhf/tools/gates.py", "out prompts best_of max_new_tokens seed"),
    *ignored("minirlhf/tools/report.py", "out split prompts best_of max_new_tokens examples seed"),
    *ignored("minirlhf/tools/results.py", "out prompts max_new_tokens"),
    *ignored("minirlhf/tools/world.py", "documents show seed"),
    *ignored("minirlhf/tools/demo.py", "out seed"),
]

# Flags that shared code reads, and one reading of several.
OPTIONS = '("skip_bad", "form", "map", "template", "keep_turns")'
READINGS = [
    *(
        (
            "minirlhf/formats/jsonl.py",
            f"names = {OPTIONS}",
            f"names = {{*{OPTIONS}}} - {{'{name}'}}",
            name,
        )
        for name in ("skip_bad", "form", "map", "template", "keep_turns")
    ),
    *(
        (file, ", **jsonl.flags(args", ", **(lambda *_, **x: x)(args", "skip_bad")
        for file in ("train_sft.py", "train_rm.py", "train_ppo.py")
    ),
    (
        "minirlhf/run/compute.py",
        "torch.set_num_threads(args.threads or torch.get_num_threads())",
        "torch.set_num_threads(torch.get_num_threads())",
        "threads",
    ),
    ("minirlhf/run/compute.py", "pick_precision(args.precision, device)", "'float32'", "precision"),
    ("minirlhf/lora.py", "model = adapt(gpt, args.lora, ", "model = adapt(gpt, 1, ", "lora"),
    ("minirlhf/lora.py", "args.lora_alpha)\n    else", "16.0)\n    else", "lora_alpha"),
    (
        "minirlhf/lora.py",
        "    model.gradient_checkpointing = args.gradient_checkpointing\n",
        "",
        "gradient_checkpointing",
    ),
    (
        "train_sft.py",
        "    gpt.gradient_checkpointing = args.gradient_checkpointing\n",
        "",
        "gradient_checkpointing",
    ),
    (
        "minirlhf/run/compute.py",
        "tokens = pick_microbatch(args.microbatch_tokens, device, vocab_size)",
        "tokens = pick_microbatch(0, device, vocab_size)",
        "microbatch_tokens",
    ),
    (
        "minirlhf/run/folder.py",
        "and not (args.resume or args.overwrite):",
        "and not args.resume:",
        "overwrite",
    ),
    (
        "minirlhf/run/folder.py",
        "and not (args.resume or args.overwrite):",
        "and False:",
        "overwrite",
    ),
    (
        "minirlhf/run/folder.py",
        "        if args.resume:\n            inputs",
        "        if False:\n            inputs",
        "resume",
    ),
    (
        "minirlhf/run/folder.py",
        "        if not args.resume:\n            remove_run",
        "        if True:\n            remove_run",
        "resume",
    ),
    (
        "minirlhf/run/folder.py",
        'getattr(args, "track", trackers.NONE)',
        "trackers.NONE",
        "track",
    ),
    (
        "minirlhf/run/chain.py",
        "if args.mix_data or before is None",
        "if before is None",
        "mix_data",
    ),
    (
        "minirlhf/run/chain.py",
        "if args.mix_data or before is None",
        "if True or before is None",
        "mix_data",
    ),
    (
        "train_rm.py",
        "    chain.refuse_mixed(args, path)\n",
        "",
        "mix_data",
    ),
    (
        "train_ppo.py",
        "    chain.refuse_mixed(args, path, *reward_paths)\n",
        "",
        "mix_data",
    ),
    ("minirlhf/tools/dpo.py", "    chain.refuse_mixed(args, path)\n", "", "mix_data"),
    (
        "minirlhf/tools/monitor.py",
        "noise(args.seed, len(prompts), args.max_new_tokens)",
        "noise(args.seed, len(prompts), 32)",
        "max_new_tokens",
    ),
    (
        "minirlhf/tools/evaluate.py",
        "uniforms = evaluate.noise(args.seed, len(prompts), args.max_new_tokens)",
        "uniforms = evaluate.noise(args.seed, len(prompts), 32)",
        "max_new_tokens",
    ),
    (
        "minirlhf/tools/evaluate.py",
        "limits = args.best_of, args.max_new_tokens, args.seed",
        "limits = args.best_of, 32, args.seed",
        "max_new_tokens",
    ),
    (
        "train_sft.py",
        "uniforms = evaluate.noise(args.seed, len(prompts), args.max_new_tokens)",
        "uniforms = evaluate.noise(args.seed, len(prompts), 32)",
        "max_new_tokens",
    ),
    (
        "train_sft.py",
        "health.long_answers(lengths, args.max_new_tokens)",
        "health.long_answers(lengths, 32)",
        "max_new_tokens",
    ),
    (
        "train_rm.py",
        "health.long_answers(lengths, args.max_new_tokens)",
        "health.long_answers(lengths, 32)",
        "max_new_tokens",
    ),
    (
        "train_rm.py",
        "shape = len(repeated), args.max_new_tokens",
        "shape = len(repeated), 32",
        "max_new_tokens",
    ),
    (
        "train_rm.py",
        "room = sft.config.context, args.max_new_tokens",
        "room = sft.config.context, 32",
        "max_new_tokens",
    ),
    (
        "train_rm.py",
        "*room, drop_long=True)[: args.norm_prompts]",
        "*room, drop_long=True)",
        "norm_prompts",
    ),
    (
        "train_rm.py",
        "norm = comparisons[: args.norm_prompts]",
        "norm = comparisons",
        "norm_prompts",
    ),
    (
        "train_ppo.py",
        "actor_critic, models.reference, samples, plan[0], args.temperature",
        "actor_critic, models.reference, samples, plan[0]",
        "temperature",
    ),
    ("train_ppo.py", '"temperature": args.temperature', '"temperature": 1.0', "temperature"),
    (
        "train_ppo.py",
        "ppo.plan(lengths, args.epochs,",
        "ppo.plan(lengths, 1,",
        "epochs",
    ),
    (
        "train_ppo.py",
        "args.minibatches, args.microbatch_tokens, shuffle",
        "args.minibatches, 2048, shuffle",
        "microbatch_tokens",
    ),
    (
        "train_ppo.py",
        "share = optim.linear(step, args.updates, args.warmup)",
        "share = optim.linear(step, args.updates, 16)",
        "warmup",
    ),
    (
        "train_ppo.py",
        "prompts = writers.prompts(args.prompts, rng",
        "prompts = writers.prompts(20_480, rng",
        "prompts",
    ),
    (
        "train_ppo.py",
        "held_out = writers.prompts(args.held_out, rng",
        "held_out = writers.prompts(256, rng",
        "held_out",
    ),
    (
        "minirlhf/tools/dpo.py",
        "batch, method_of(args), args.microbatch_tokens)",
        "batch, method_of(Config()), args.microbatch_tokens)",
        "beta",
    ),
    (
        "minirlhf/tools/dpo.py",
        "implicit_rewards(*models, held_out, method_of(args))",
        "implicit_rewards(*models, held_out, method_of(Config()))",
        "beta",
    ),
    (
        "minirlhf/tools/dpo.py",
        'if args.data and args.loss == "kto":',
        "if False:",
        "loss",
    ),
    (
        "train_sft.py",
        "optim.adamw(gpt, lr, weight_decay=args.weight_decay)",
        "optim.adamw(gpt, lr)",
        "weight_decay",
    ),
    (
        "train_sft.py",
        "health.short_run(steps, args.warmup)",
        "health.short_run(steps, 20)",
        "warmup",
    ),
    (
        "train_sft.py",
        "fits = data.fits_context(tokenizer, gpt.config.context, drop_long=args.drop_long)",
        "fits = data.fits_context(tokenizer, gpt.config.context)",
        "drop_long",
    ),
    (
        "train_sft.py",
        "if len(kept) < len(examples) and not args.drop_long:",
        "if len(kept) < len(examples):",
        "drop_long",
    ),
    (
        "train_rm.py",
        "fits = data.fits_context(tokenizer, sft.config.context, drop_long=args.drop_long)",
        "fits = data.fits_context(tokenizer, sft.config.context)",
        "drop_long",
    ),
    (
        "train_rm.py",
        "context, args.max_new_tokens, args.drop_long)",
        "context, args.max_new_tokens)",
        "drop_long",
    ),
    (
        "train_ppo.py",
        "fits = data.fits_context(tokenizer, context, args.max_new_tokens, args.drop_long)",
        "fits = data.fits_context(tokenizer, context, args.max_new_tokens)",
        "drop_long",
    ),
    (
        "train_ppo.py",
        "room = tokenizer, context, args.max_new_tokens, args.drop_long",
        "room = tokenizer, context, args.max_new_tokens, False",
        "drop_long",
    ),
]

SECTIONS = {
    "train_sft.py": TRAIN_SFT,
    "train_rm.py": TRAIN_RM,
    "train_ppo.py": TRAIN_PPO,
    "minirlhf/tools/evaluate.py": EVALUATE,
    "minirlhf/tools/dpo.py": DPO,
    "minirlhf/tools/monitor.py": MONITOR,
    "minirlhf/feedback/agreement.py": AGREEMENT,
    "minirlhf/tools/gates.py": GATES,
    "minirlhf/tools/report.py": REPORT,
    "minirlhf/tools/tables.py": TABLES,
    "minirlhf/tools/results.py": RESULTS,
    "minirlhf/tools/figures.py": FIGURES,
    **method_commands.SECTIONS,
}
MUTANTS = [Mutant(file, *parts) for file, section in SECTIONS.items() for parts in section]
MUTANTS += [Mutant(file, *parts) for file, rows in method_runs.SECTIONS.items() for parts in rows]
MUTANTS += FLAGS
for flags in (method_runs.FLAGS, method_commands.FLAGS):
    MUTANTS += [x for file, names in flags.items() for x in ignored(file, names)]
MUTANTS += [
    Mutant(file, right, wrong, f"--{name} is ignored here.", name)
    for file, right, wrong, name in READINGS
]
MUTANTS += [
    Mutant(file, *parts, second=True) for file, section in SECOND_LIST.items() for parts in section
]
MUTANTS += [Mutant(*parts, third=True) for parts in THIRD_LIST]

# The tests that kill the mutants of a file, of a flag in a file, or of a flag anywhere: words for
# pytest, to which "tests/" is added.
RUNS = {stage: f"runs/test_whole_{stage}.py" for stage in ("sft", "rm", "ppo", "dpo", "evaluate")}
STAGES = {
    "train_sft.py": "sft",
    "train_rm.py": "rm",
    "train_ppo.py": "ppo",
    "minirlhf/tools/dpo.py": "dpo",
}
WHOLE = "runs/test_whole_report.py"
REPORT_TESTS = "interval or clustered or summary or memoriser_too or highest or every_number"
RESULTS_TESTS = "students or claims or fall or order_of or every_cell or each_point or beside"
RESULTS_TESTS += " or kl_coefficient"
MONITOR_TESTS = "evaluation or console or your_function or judges_numbers"
KILLERS = {
    "train_sft.py": [RUNS["sft"]],
    "train_rm.py": [RUNS["rm"], "runs/test_rounds.py"],
    "train_ppo.py": [RUNS["ppo"]],
    "minirlhf/tools/dpo.py": [RUNS["dpo"]],
    "minirlhf/tools/evaluate.py": [RUNS["evaluate"]],
    "minirlhf/tools/evaluate_rm.py": ["runs/test_evaluate_rm.py"],
    "minirlhf/tools/sample.py": ["runs/test_sample.py"],
    "minirlhf/tools/chat.py": ["runs/test_chat.py"],
    "minirlhf/tools/monitor.py": [RUNS["ppo"], "-k", MONITOR_TESTS],
    "minirlhf/feedback/agreement.py": ["unit/test_agreement.py"],
    "minirlhf/evaluate.py": ["unit/test_evaluate.py"],
    "minirlhf/run/checkpoint.py": ["unit/test_checkpoint.py", "runs/test_resume.py"],
    "minirlhf/run/resume.py": ["unit/test_record.py", "unit/test_checkpoint.py"],
    "minirlhf/run/health.py": ["unit/test_health.py"],
    "minirlhf/run/progress.py": ["unit/test_progress.py"],
    "minirlhf/run/metrics.py": ["unit/test_metrics.py", "unit/test_lines.py"],
    "minirlhf/run/optim.py": ["unit/test_optim.py"],
    "minirlhf/run/compute.py": ["unit/test_compute.py"],
    "minirlhf/run/folder.py": ["runs/test_train_sft.py", "-k", "existing or three_steps"],
    "minirlhf/run/chain.py": ["runs/test_chain.py", "-k", "would_mix"],
    "minirlhf/tools/gates.py": ["runs/test_whole_gates.py", "runs/test_gates.py"],
    "minirlhf/tools/report.py": ["runs/test_report.py", WHOLE, "-k", REPORT_TESTS],
    "minirlhf/tools/tables.py": [WHOLE, "-k", "printed_number or examples or every_number"],
    "minirlhf/tools/results.py": ["runs/test_results.py", WHOLE, "-k", RESULTS_TESTS],
    "minirlhf/tools/figures.py": [WHOLE, "-k", "figure or updates"],
    "minirlhf/tools/world.py": ["runs/test_whole_flags.py", "-k", "the_world_prints"],
    "minirlhf/tools/demo.py": ["unit/test_demo.py"],
    "drop_long": ["runs/test_whole_flags.py", "-k", "too_long or are_too"],
    "minirlhf/formats/jsonl.py": ["unit/test_forms.py", "-k", "five_flags"],
    "skip_bad": ["runs/test_whole_flags.py", "-k", "told_to_go_on"],
    ("train_rm.py", "margin"): ["unit/test_margin.py"],
    ("minirlhf/formats/jsonl.py", "skip_bad"): ["unit/test_forms.py", "-k", "five_flags"],
    "device": ["runs/test_whole_flags.py", "-k", "device"],
    ("train_sft.py", "init"): ["runs/test_train_sft.py", "-k", "gpt2_folder"],
    ("minirlhf/run/compute.py", "threads"): [RUNS["ppo"], "-k", "told"],
    ("minirlhf/run/folder.py", "track"): ["runs/test_track.py"],
    ("train_ppo.py", "microscope"): ["runs/test_microscope.py"],
    **{
        ("minirlhf/tools/dpo.py", name): ["runs/test_direct_run.py"]
        for name in ("loss", "tau", "gamma", "lam", "undesirable_weight")
    },
    "lora": ["runs/test_lora_run.py"],
    "lora_alpha": ["runs/test_lora_run.py"],
    "gradient_checkpointing": ["runs/test_memory_flags.py"],
    ("train_ppo.py", "algorithm"): ["runs/test_train_grpo.py", "-k", "no_two_methods"],
    **{
        (f"minirlhf/rewards/{file}.py", name): ["runs/test_robust_rewards.py", "-k", "no_two"]
        for file, names in {"ensemble": "combine par", "credit": "credit credit_share"}.items()
        for name in names.split()
    },
    **{
        ("minirlhf/tools/ptx.py", x): ["runs/test_train_ptx.py"]
        for x in ("ptx_coef", "ptx_batch", "text")
    },
    ("train_ppo.py", "group"): ["runs/test_train_grpo.py", "-k", "meaning"],
    ("minirlhf/run/folder.py", "overwrite"): ["runs/test_train_sft.py", "-k", "existing"],
    **method_commands.KILLERS,
}
for file, stage in STAGES.items():
    KILLERS[file, "resume"] = [f"runs/test_train_{stage}.py", "-k", "three and six"]
    KILLERS[file, "mix_data"] = ["runs/test_chain.py", "-k", "world"]
for stage, name in {"rm": "hh_dialogues", "ppo": "kl_coef_stays"}.items():
    KILLERS[f"train_{stage}.py", "out"] = [f"runs/test_train_{stage}.py", "-k", name]
KILLERS["minirlhf/tools/dpo.py", "out"] = ["runs/test_dpo_run.py", "-k", "by_default"]
KILLERS["minirlhf/run/compute.py", "microbatch_tokens"] = [RUNS["ppo"], "-k", "minibatches"]
KILLERS["minirlhf/run/compute.py", "precision"] = [RUNS["ppo"], "-k", "precision"]
KILLERS["train_sft.py", "tokenizer"] = [RUNS["sft"], "-k", "tokenizer"]
# Single mutants, by their text.
KILLERS["        if args.resume:\n            inputs"] = [
    "runs/test_resume.py",
    "-k",
    "another_sft",
]
KILLERS['kl_coef = state.get("kl_coef", args.kl_coef)'] = ["runs/test_train_ppo.py", "-k", "three"]
KILLERS["        chain.refuse_mixed(args, args.policy, args.baseline)\n"] = [
    "runs/test_chain.py",
    "-k",
    "world",
]
KILLERS["                checkpoint.same_sft(path, sft)\n"] = ["runs/test_report.py", "-k", "older"]
KILLERS["minirlhf/tools/dpo.py", "resume"] = ["runs/test_dpo_run.py", "-k", "three_steps"]
KILLERS |= method_runs.KILLERS
KILLERS |= SECOND_KILLERS
KILLERS |= THIRD_KILLERS
