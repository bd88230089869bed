"""The bug zoo: mistakes of real RLHF code, each recreated in one function of minirlhf.

An animal is a text in a function (`right`) and the code of a mistake that replaces it (`wrong`).
test_zoo.py makes one of these changes at a time and runs the test that must fail (`caught_by`).
Most of the mistakes cause no crash and no message: a run ends, its curves look like curves, and the
model has learned something else.

`seen` says where a mistake was found: a file and its line in the project of that name (at the
commit in docs/SPEC.md), an issue (#), a pull request (PR), or a cell (c) of a notebook. Some have
been corrected since. The code of an animal may differ from that of the project, but the mistake is
the same.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Animal:
    name: str
    seen: str  # where the mistake was found
    function: str  # where the mistake is made: module.function, or module.Class.method
    right: str  # a text that stands there exactly once
    wrong: str  # the text that replaces it
    caught_by: str  # a test; test_file::test_name where two files have a test of that name
    why: str = ""  # the effect on training, where the name does not say it
    crash: str = ""  # the exception that it raises; the others must fail an assertion


PROMPTS_AND_PADDING = [
    Animal(
        name="prompt and response are encoded as one text",
        seen="TRL #1702: the ids that the reward model was trained on differ from those that it "
        "gets in PPO",
        function="data.encode",
        right="prompt + tokenizer.encode(response)",
        wrong="tokenizer.encode(tokenizer.decode(prompt) + response)",
        caught_by="test_prompt_and_response_are_encoded_apart_and_joined_as_ids",
        why="Merges across the boundary give ids that a sampler, which continues the ids of the "
        "prompt, cannot produce.",
    ),
    Animal(
        name="no response has an end token",
        seen="RLHF_in_notebooks, notebook 1, c20; LLMs-from-scratch, DPO notebook, c31; "
        "rlhf-book, train_preference_rm.py:57",
        function="data.encode",
        right=" + [tokenizer.end_token]",
        wrong="",
        caught_by="test_scores_of_texts_are_read_at_the_end_token_of_each",
        why="SFT does not teach the model to stop, and the reward model scores the middle of a "
        "sentence.",
    ),
    Animal(
        name="a long response is cut and loses its end token",
        seen="direct-preference-optimization, preference_datasets.py:251",
        function="data.encode",
        right="Example(prompt + tokenizer.encode(response) + [tokenizer.end_token], len(prompt))",
        wrong="Example("
        "(prompt + tokenizer.encode(response) + [tokenizer.end_token])[:6], len(prompt))",
        caught_by="test_scores_of_texts_are_read_at_the_end_token_of_each",
    ),
    Animal(
        name="a prompt is cut to the length of a response",
        seen="lm-human-preference-details, train_policy_accelerate.py:485, which passes one "
        "length as the other",
        function="generate.generate",
        right="lengths = [len(prompt) for prompt in prompts]",
        wrong="prompts = [prompt[-max_new_tokens:] for prompt in prompts]\n"
        "    lengths = [len(prompt) for prompt in prompts]",
        caught_by="test_a_prompt_stays_whole_however_few_tokens_are_sampled",
    ),
    Animal(
        name="padding is on the left, and positions are counted from it",
        seen="minRLHF, actor.py:89 and critic.py:22",
        function="data.collate",
        right="row[: len(example.tokens)]",
        wrong="row[-len(example.tokens) :]",
        caught_by="test_collate_puts_every_row_at_column_zero_with_its_two_lengths",
        why="With learned positions the log-probabilities of a row depend on the longest row of "
        "its batch.",
    ),
    Animal(
        name="during sampling every row has the position of the longest",
        seen="TRL #6800; OpenRLHF #217; summarize_from_feedback_details, ppo.py:284, where "
        "position ids are commented out",
        function="generate.KVCache.begin",
        right="return self.positions[:, None]",
        wrong="return self.positions.max()",
        caught_by="test_cached_decoding_gives_the_logits_of_a_full_pass",
    ),
    Animal(
        name="a token with the id of the padding is taken for padding",
        seen="GRPO-Zero grpo.py:89; TRL PR 5303",
        function="data.collate",
        right="for example in examples]), lengths",
        wrong="for example in examples]), (tokens != 0).sum(1)",
        caught_by="test_an_id_that_also_fills_the_rows_is_a_token_like_any_other",
    ),
    Animal(
        name="length is the number of tokens that are not padding",
        seen="TRL PR 5303 (padding is the end token); GRPO-Zero, grpo.py:89 (the policy may "
        "sample the padding)",
        function="generate.generate",
        right="lengths = prompt_lengths + response_lengths",
        wrong="lengths = (tokens != end_token).sum(1) + ended",
        caught_by="test_nothing_follows_the_end_token_and_lengths_include_it",
    ),
    Animal(
        name="a row that is too long for a batch is left out",
        seen="nanochat, chat_sft.py:194: a hundred of them fill the buffer, and every batch is "
        "padding",
        function="data.microbatches",
        right="sorted(range(len(lengths)), key=lambda row: lengths[row])",
        wrong="sorted((row for row, length in enumerate(lengths) if length <= max_tokens), "
        "key=lambda row: lengths[row])",
        caught_by="test_microbatches_are_a_bounded_partition_of_similar_lengths",
    ),
]

SAMPLING = [
    Animal(
        name="only the likeliest ids are sampled, but all are scored",
        seen="minChatGPT, trainers.py:193; minRLHF, actor.py:48; nanochat, chat_rl.py:49; "
        "PaLM-rlhf-pytorch, palm.py:411",
        function="generate.choose",
        right="cdf =",
        wrong="logits = logits.where(logits >= logits.topk(2).values[:, -1:], -torch.inf)\n"
        "    cdf =",
        caught_by="test_responses_are_sampled_as_often_as_their_logprobs_say",
        why="The policy that samples is not the one whose log-probabilities are trained, and the "
        "KL becomes negative.",
    ),
    Animal(
        name="the least likely 5% are never sampled, but are scored",
        seen="rlhf-book, every configs/*.yaml and utils.py:264: top_p 0.95",
        function="generate.choose",
        right="cdf = torch.softmax(logits / temperature, dim=-1).cumsum(-1)",
        wrong="p, ids = torch.softmax(logits / temperature, dim=-1).sort(descending=True)\n"
        "    cdf = torch.where(p.cumsum(-1) - p < 0.95, p, 0.0)"
        ".gather(-1, ids.argsort()).cumsum(-1)",
        caught_by="test_responses_are_sampled_as_often_as_their_logprobs_say",
    ),
    Animal(
        name="sampling and scoring have different temperatures",
        seen="trlX accelerate_ppo_trainer.py:445; rlhf-book utils.py:264",
        function="train_ppo.sample",
        right="tokenizer.end_token, args.temperature,",
        wrong="tokenizer.end_token, 1.0,",
        caught_by="test_one_temperature_reaches_sampler_scorer_and_update",
    ),
    Animal(
        name="the update lacks the temperature",
        seen="rlhf-book utils.py:264: sampled at .6, trained at 1",
        function="train_ppo.update_flags",
        right='"temperature": args.temperature',
        wrong='"temperature": 1.0',
        caught_by="test_one_temperature_reaches_sampler_scorer_and_update",
    ),
    Animal(
        name="the temperature applies to sampling alone",
        seen="trlX, accelerate_ppo_trainer.py:445; PaLM-rlhf-pytorch, palm.py:435; rlhf-book, "
        "utils.py:264 (0.6)",
        function="model.logprobs_of_hidden",
        right="states.float() / temperature",
        wrong="states.float()",
        caught_by="test_the_sampler_draws_from_what_the_scorer_scores",
    ),
    Animal(
        name="log-probabilities are used as probabilities",
        seen="LLMs-from-scratch, ch07/04 previous_chapters.py:275: multinomial refuses them at "
        "any temperature but 0",
        function="generate.choose",
        right="torch.softmax(",
        wrong="torch.log_softmax(",
        caught_by="test_a_uniform_chooses_the_token_whose_share_it_falls_into",
    ),
    Animal(
        name="the sampler's softmax is in bf16",
        seen="GRPO-Zero, grpo.py:59, which trains on a float32 one (:194)",
        function="generate.choose",
        right="torch.softmax(logits / temperature, dim=-1)",
        wrong="torch.softmax((logits / temperature).bfloat16(), dim=-1)",
        caught_by="test_the_last_share_reaches_to_one_in_a_vocabulary_of_50257",
    ),
    Animal(
        name="ids that stand for no token can be sampled",
        seen="summarize_from_feedback_details and TRL: Pythia's embedding has more rows than "
        "there are tokens",
        function="model.GPT.head",
        right="[..., : self.config.vocab_size]",
        wrong="",
        caught_by="test_no_id_outside_the_vocabulary_is_ever_chosen",
    ),
    Animal(
        name="sampling continues after the end token, and everything is trained on",
        seen="minChatGPT, gpt.py:386; lm-human-preferences, train_policy.py:149, where lengths "
        "are fixed",
        function="generate.decode",
        right="ended[rows] |= next_tokens == end_token",
        wrong="ended[rows] |= False",
        caught_by="test_nothing_follows_the_end_token_and_lengths_include_it",
    ),
    Animal(
        name="the end token is GPT-2's, whatever the vocabulary",
        seen="minRLHF, actor.py:67; TRL #3750: the penalty looks for one token, and generation "
        "stops at another",
        function="generate.decode",
        right="next_tokens == end_token",
        wrong="next_tokens == 50256",
        caught_by="test_nothing_follows_the_end_token_and_lengths_include_it",
    ),
    Animal(
        name="the last token is replaced by an end token",
        seen="OpenRLHF #238",
        function="generate.decode",
        right="torch.where(unfinished, next_tokens, end_token)",
        wrong="torch.where(unfinished & (step + 1 < uniforms.size(1)), next_tokens, end_token)",
        caught_by="test_nothing_follows_the_end_token_and_lengths_include_it",
        why="The policy is trained on end tokens that it did not choose, and no response counts "
        "as unfinished.",
    ),
    Animal(
        name="the choice of the end token is not part of the response",
        seen="nanochat, engine.py:288",
        function="generate.decode",
        right="response_lengths[rows] += unfinished",
        wrong="response_lengths[rows] += unfinished & (next_tokens != end_token)",
        caught_by="test_nothing_follows_the_end_token_and_lengths_include_it",
        why="The one action that decides the length gets no gradient.",
    ),
    Animal(
        name="a response with its end token in the last slot counts as unfinished",
        seen="torchtune, rlhf/rewards.py:41, which infers the end from padding",
        function="generate.generate",
        right="prompt_lengths, lengths, ended)",
        wrong="prompt_lengths, lengths, lengths < prompt_lengths + max_new_tokens)",
        caught_by="test_an_end_token_in_the_last_slot_has_ended_and_one_in_the_prompt_has_not",
        why="A response that ends in the last slot gets the penalty for not ending.",
    ),
    Animal(
        name="an end token in the prompt ends the response",
        seen="TRL #6802: the filter of XPO looks at prompt and response together",
        function="generate.generate",
        right="prompt_lengths, lengths, ended)",
        wrong="prompt_lengths, lengths, (tokens == end_token).any(1))",
        caught_by="test_an_end_token_in_the_last_slot_has_ended_and_one_in_the_prompt_has_not",
    ),
    Animal(
        name="sampling seeds the global generator",
        seen="TRL #1648",
        function="generate.generate",
        right="uniforms = torch.rand(len(prompts), max_new_tokens, generator=generator)",
        wrong="torch.manual_seed(generator.initial_seed())\n"
        "        uniforms = torch.rand(len(prompts), max_new_tokens)",
        caught_by="test_the_seed_decides_the_samples_and_no_global_generator_is_touched",
    ),
]

LOG_PROBABILITIES = [
    Animal(
        name="the end token is masked out",
        seen="minChatGPT, tokenizer.py:14 and rlhf-book, rollout.py:137: the end token is also "
        "the padding",
        function="model.response_mask",
        right="token < lengths[:, None]",
        wrong="token < lengths[:, None] - 1",
        caught_by="test_the_mask_is_true_in_the_columns_that_choose_a_response_token",
    ),
    Animal(
        name="the last token of the prompt counts as part of the response",
        seen="LLMs-from-scratch, DPO notebook, c33: the mask ends before the template's last words",
        function="model.response_mask",
        right="token >= prompt_lengths[:, None]",
        wrong="token >= prompt_lengths[:, None] - 1",
        caught_by="test_the_mask_is_true_in_the_columns_that_choose_a_response_token",
    ),
    Animal(
        name="the rollout is scored without dropout and trained with it",
        seen="TRL 0.11, ppo_trainer.py:1014; TRL #744 and #1066",
        function="model.Block.forward",
        right="self.mlp(self.norm2(x))",
        wrong="F.dropout(self.mlp(self.norm2(x)), 0.1, self.training)",
        caught_by="test_there_is_no_dropout",
        why="The first ratio is not 1, and the clip acts on noise.",
    ),
    Animal(
        name="logits are rounded to bf16",
        seen="OpenRLHF before PR 634; minimind before PR 814",
        function="fast.TokenLogprobs.forward",
        right="F.linear(states[part], weight)",
        wrong="F.linear(states[part].bfloat16(), weight.bfloat16()).float()",
        caught_by="test_log_probabilities_are_float32_when_the_trunk_computes_in_bf16",
    ),
    Animal(
        name="the weights are bf16",
        seen="rlhf-book, utils.py:106; GRPO-Zero, train.py:91 and qwen2_model.py:337",
        function="model.GPT.hidden",
        right="with torch.autocast(",
        wrong="self.to(self.precision)\n    with torch.autocast(",
        caught_by="test_the_trunk_computes_in_bf16_and_its_parameters_stay_float32",
        why="At a learning rate of 1e-6 most steps are rounded away.",
    ),
    Animal(
        name="the entropy is that of another temperature",
        seen="OpenRLHF, models/actor.py:271 before PR 1319",
        function="model.logprobs_of_hidden",
        right="    zeros = log_p.new_zeros",
        wrong="    distribution = torch.distributions.Categorical(logits=gpt.head(states))\n"
        "    entropy = distribution.entropy().detach()\n"
        "    zeros = log_p.new_zeros",
        caught_by="test_logprobs_are_those_of_a_token_by_token_loop_over_prefixes",
    ),
    Animal(
        name="the whole distribution of every token is stored",
        seen="PaLM-rlhf-pytorch, ppo.py:624: 160 MB for one response",
        function="model.logprobs_of_hidden",
        right="log_p, entropy = fast.token_logprobs(gpt, states.float() / temperature, ids)",
        wrong="log_p = F.log_softmax(gpt.head(hidden) / temperature, dim=-1)[rows, columns]\n"
        "    entropy = -(log_p.exp() * log_p).sum(-1).detach()\n"
        "    log_p = log_p.gather(1, ids[:, None]).squeeze(1)",
        caught_by="test_the_head_sees_the_response_tokens_alone",
    ),
    Animal(
        name="a tensor starts with uninitialised memory",
        seen="minRLHF, actor.py:94: torch.empty_like, with a comment that says zeros",
        function="model.logprobs_of_hidden",
        right="zeros = log_p.new_zeros(B * (T - 1))",
        wrong="zeros = log_p.new_full((B * (T - 1),), torch.nan)",
        caught_by="test_outside_the_mask_everything_is_zero_and_has_no_gradient",
    ),
]

SUPERVISED_FINE_TUNING = [
    Animal(
        name="the loss includes the tokens of the prompt",
        seen="minChatGPT, dataset.py:104",
        function="train_sft.summed_loss",
        right="model.response_mask(prompt_lengths,",
        wrong="model.response_mask(torch.ones_like(prompt_lengths),",
        caught_by="test_a_prompt_token_is_no_label_and_every_response_token_is_one",
    ),
    Animal(
        name="the end token is not a label",
        seen="RLHF_in_notebooks, notebook 1, c37 and c39: it is also the padding, which the loss "
        "ignores",
        function="train_sft.summed_loss",
        right="lengths, tokens.size(1))",
        wrong="lengths - 1, tokens.size(1))",
        caught_by="test_a_prompt_token_is_no_label_and_every_response_token_is_one",
    ),
    Animal(
        name="the loss is divided by the responses instead of the tokens",
        seen="direct-preference-optimization, trainers.py:255",
        function="train_sft.accumulate",
        right="/ total",
        wrong="/ len(batch)",
        caught_by="test_the_loss_is_the_mean_over_response_tokens_of_a_loop_over_rows",
    ),
    Animal(
        name="the loss of a batch is the mean of the means of its microbatches",
        seen="summarize_from_feedback_details, sft.py:393; nanochat, chat_rl.py:267, whose "
        "docstring says otherwise",
        function="train_sft.accumulate",
        right="/ total",
        wrong="/ sum(len(batch[row].tokens) - batch[row].prompt_length for row in rows) * "
        "len(rows) / len(batch)",
        caught_by="test_train_sft::test_the_gradient_does_not_depend_on_the_microbatches",
        why="The tokens of a short microbatch have a larger weight, and how much larger depends "
        "on a setting about memory.",
    ),
    Animal(
        name="the logged loss is that of the last microbatch",
        seen="GRPO-Zero, grpo.py:220",
        function="train_sft.accumulate",
        right="loss += part.detach()",
        wrong="loss = part.detach()",
        caught_by="test_train_sft::test_the_gradient_does_not_depend_on_the_microbatches",
    ),
    Animal(
        name="gradients are clipped before they are computed",
        seen="minChatGPT, trainers.py:386, 480, 615 and 828",
        function="train_sft.train",
        right="loss = accumulate(gpt, batch, args.microbatch_tokens)\n"
        "            grad_norm = torch.nn.utils.clip_grad_norm_("
        "gpt.parameters(), args.max_grad_norm)",
        wrong="grad_norm = torch.nn.utils.clip_grad_norm_(gpt.parameters(), args.max_grad_norm)\n"
        "            loss = accumulate(gpt, batch, args.microbatch_tokens)",
        caught_by="test_train_sft::test_gradients_are_clipped_and_their_norm_before_that_is_logged",
    ),
    Animal(
        name="the ragged last batch is dropped",
        seen="direct-preference-optimization, preference_datasets.py:346",
        function="train_sft.train",
        right="steps = -(-len(examples) * epochs // args.batch_size)",
        wrong="steps = len(examples) * epochs // args.batch_size",
        caught_by="test_a_ragged_last_batch_is_trained_on",
    ),
    Animal(
        name="Adam's first beta is passed twice",
        seen="minChatGPT, trainers.py:123",
        function="run.optim.adamw",
        right="betas=betas",
        wrong="betas=(betas[0], betas[0])",
        caught_by="test_adamw_has_the_betas_and_eps_it_is_given",
    ),
    Animal(
        name="the optimiser lacks the embeddings",
        seen="PaLM-rlhf-pytorch, reward.py:74",
        function="run.optim.adamw",
        right="[p for p in model.parameters() if p.requires_grad]",
        wrong="[p for name, p in model.named_parameters() "
        'if p.requires_grad and "embedding" not in name]',
        caught_by="test_only_matrices_decay",
    ),
]

THE_REWARD_MODEL = [
    Animal(
        name="the score is a mean over the row, padding included",
        seen="minChatGPT, gpt.py:501: 0.36 without padding, 0.14 with fifty",
        function="reward.RewardModel.features",
        right="hidden[torch.arange(B, device=tokens.device), lengths - 1]",
        wrong="hidden.mean(dim=1)",
        caught_by="test_the_score_does_not_see_what_is_appended",
        why="A model that was trained on padded rows gives other scores to rows without padding.",
    ),
    Animal(
        name="the score is read at the end of the row, not of the response",
        seen="torchtune, ppo_full_finetune_single_device.py:850, with masks from before the "
        "response was cut at its end",
        function="reward.RewardModel.features",
        right="hidden[torch.arange(B, device=tokens.device), lengths - 1]",
        wrong="hidden[:, -1]",
        caught_by="test_the_score_is_the_head_of_the_state_at_the_last_real_token",
    ),
    Animal(
        name="the score is sampled from a distribution",
        seen="PaLM-rlhf-pytorch, reward.py:66 and 125: 3, 2, 4, 1, 3 for one input; best-of-n "
        "picks the luckiest",
        function="reward.RewardModel.raw",
        right="self.head(self.features(tokens, lengths))",
        wrong="torch.normal(self.head(self.features(tokens, lengths)), 1.0)",
        caught_by="test_scoring_twice_gives_the_same_bits",
    ),
    Animal(
        name="the reward head keeps its random weights",
        seen="minChatGPT, gpt.py:504: LoRA freezes everything else, the head too",
        function="reward.RewardModel.__init__",
        right="std=1 / math.sqrt(gpt.config.width + 1))",
        wrong="std=1 / math.sqrt(gpt.config.width + 1)).requires_grad_(False)",
        caught_by="test_head_and_trunk_are_both_trained",
    ),
    Animal(
        name="a variance is read as a standard deviation",
        seen="OpenRLHF, models/model.py:170",
        function="reward.RewardModel.__init__",
        right="1 / math.sqrt(gpt.config.width + 1)",
        wrong="1 / (gpt.config.width + 1)",
        caught_by="test_the_heads_weights_have_variance_one_over_width_plus_one",
        why="The first scores are too small by the square root of the width, and the first steps "
        "have to enlarge them.",
    ),
    Animal(
        name="the loss of a ranking is divided by its number of pairs twice",
        seen="minChatGPT, loss.py:80",
        function="reward.ranking_loss",
        right="pairs.clamp(min=1)",
        wrong="pairs.clamp(min=1) ** 2",
        caught_by="test_ranking_three_is_worked_by_hand",
    ),
    Animal(
        name="the loss is the logarithm of a sigmoid that may be 0",
        seen="minChatGPT, loss.py:84: NaN even for a pair in the right order, if its scores are "
        "far apart",
        function="reward.ranking_loss",
        right="-F.logsigmoid(difference)",
        wrong="-difference.sigmoid().log()",
        caught_by="test_loss_and_gradient_are_finite_at_any_margin",
    ),
    Animal(
        name="the weight of a prompt grows with its number of pairs",
        seen="AlpacaFarm, reward_modeling_trainer.py:30: 36 for nine responses, 6 for four",
        function="reward.ranking_loss",
        right="pair_losses.sum((1, 2)) / pairs.clamp(min=1)",
        wrong="pair_losses.sum((1, 2)) / pairs.sum() * (pairs > 0).sum()",
        caught_by="test_prompts_with_four_and_with_nine_responses_weigh_the_same",
    ),
    Animal(
        name="a batch of one loses its dimension",
        seen="minRLHF, critic.py:23: squeeze() of everything",
        function="model.ScalarHead.forward",
        right=".squeeze(-1)",
        wrong=".squeeze()",
        caught_by="test_one_response_gets_one_score",
    ),
    Animal(
        name="a change that the saved weights contain is applied again after loading",
        seen="minChatGPT, gpt.py:549: LoRA is merged, saved beside the merged weights, and merged "
        "once more",
        function="reward.load_reward_model",
        right="model.gpt.precision = precision",
        wrong="model.gpt.precision = precision\n    model.head.weight.data.div_(model.std)",
        caught_by="test_a_saved_reward_model_scores_as_before_with_its_normalisation",
    ),
    Animal(
        name="in evaluation, responses have no end token",
        seen="TRL PR 5813; reward-bench PR 94, where it moved results by up to six points",
        function="reward.score",
        right="[encode(tokenizer, prompt, response) for",
        wrong="[(e := encode(tokenizer, prompt, response))._replace(tokens=e.tokens[:-1]) for",
        caught_by="test_scores_of_texts_are_read_at_the_end_token_of_each",
    ),
]

SCORES_AND_KL = [
    Animal(
        name="the score is that of the text, encoded again",
        seen="trlX, accelerate_ppo_trainer.py:343; AlpacaFarm, rl/ppo_trainer.py:155",
        function="evaluate.score_replies",
        right="[reply.example for reply in replies]",
        wrong="[\n"
        "        data.encode(__import__('minirlhf').tokenizer.get_tokenizer(), p, reply.text)\n"
        "        for p, reply in zip(prompts, replies, strict=True)\n"
        "    ]",
        caught_by="test_scores_are_of_the_ids_that_were_sampled",
        why="Ids that were never sampled get the credit.",
    ),
    Animal(
        name="a response that has ended gets a second end token",
        seen="RLHF_in_notebooks, notebook 3, c36: the reward model reads two end tokens, which "
        "are not in its training data",
        function="evaluate.unpack",
        right="data.Example(tokens[:length], prompt_length)",
        wrong="data.Example(tokens[:length] + [tokenizer.end_token], prompt_length)",
        caught_by="test_a_reply_is_the_response_without_prompt_and_end",
    ),
    Animal(
        name="a response that was cut off is scored as if it had ended",
        seen="RLHF_in_notebooks, notebook 3, c36; rlhf-book, train_preference_rm.py:203",
        function="ppo.missing_end_rule",
        right="torch.where(ended, scores, missing_end_score)",
        wrong="scores",
        caught_by="test_an_unfinished_response_gets_the_fixed_score_instead_of_its_own",
        why="A response that never ends has no penalty.",
    ),
    Animal(
        name="there is no reference: KL is measured from the policy that sampled",
        seen="PaLM-rlhf-pytorch, ppo.py:339 and 543",
        function="ppo.logprobs_and_values",
        right="model_logprobs(reference, batch.tokens",
        wrong="model_logprobs(actor_critic.gpt, batch.tokens",
        caught_by="test_scored_tokens_are_those_of_policy_reference_and_critic",
        why="The KL is 0 at every rollout, so nothing keeps the policy near the SFT model.",
    ),
    Animal(
        name="divergence is rewarded",
        seen="rlhf-book, loss.py:49: k1 with the wrong sign",
        function="ppo.token_rewards",
        right="-kl_coef * (logprobs - ref_logprobs)",
        wrong="kl_coef * (logprobs - ref_logprobs)",
        caught_by="test_k1_and_k3_both_average_to_the_kl",
    ),
    Animal(
        name="the ratio in k3 is inverted",
        seen="minChatGPT, trainers.py:175; rlhf-book, loss.py:23, whose own test pins it; "
        "ColossalAI #3696",
        function="ppo.kl_k3",
        right="log_r = ref_logprobs - logprobs",
        wrong="log_r = logprobs - ref_logprobs",
        caught_by="test_k3_of_three_tenths_is_worked_by_hand",
        why="The result is 1.48 where the KL is 0.91, and a few hundred million where one token "
        "is 20 nats away.",
    ),
    Animal(
        name="the penalty in the reward is k3",
        seen="TRL, ppo_trainer.py:774 (kl_estimator) and OpenRLHF, models/utils.py:64, as options",
        function="ppo.token_rewards",
        right="-kl_coef * (logprobs - ref_logprobs)",
        wrong="-kl_coef * kl_k3(logprobs, ref_logprobs)",
        caught_by="test_k1_in_the_reward_is_the_kl_gradient",
        why="k3 is a better estimate of the KL, but its gradient hardly reduces the KL: a token "
        "that became rare gets a penalty, and becomes rarer.",
    ),
    Animal(
        name="the penalty in the reward is k2",
        seen="minRLHF, ppo_trainer.py:94; OpenRLHF, models/utils.py:64, as an option",
        function="ppo.token_rewards",
        right="-kl_coef * (logprobs - ref_logprobs)",
        wrong="-kl_coef * (logprobs - ref_logprobs) ** 2 / 2",
        caught_by="test_k1_in_the_reward_is_the_kl_gradient",
    ),
    Animal(
        name="the KL of a token is clamped at 0",
        seen="AlpacaFarm, rl/ppo_trainer.py:72",
        function="ppo.token_rewards",
        right="(logprobs - ref_logprobs)",
        wrong="(logprobs - ref_logprobs).clamp(min=0)",
        caught_by="test_a_token_rarer_than_in_the_reference_earns_a_bonus",
        why="Without the bonus for rare tokens nothing makes them likelier again, and the policy "
        "collapses.",
    ),
    Animal(
        name="the KL penalty of a response is divided by its length",
        seen="minChatGPT, trainers.py:180",
        function="ppo.token_rewards",
        right="-kl_coef * (logprobs - ref_logprobs)",
        wrong="-kl_coef * (logprobs - ref_logprobs) / mask.sum(1, keepdim=True)",
        caught_by="test_rewards_add_up_to_the_score_minus_the_kl",
    ),
    Animal(
        name="the KL penalty is at the last token, as a mean",
        seen="rlhf-book, utils.py:179",
        function="ppo.token_rewards",
        right="return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))",
        wrong="penalty = rewards.sum(1, keepdim=True) / mask.sum(1, keepdim=True)\n"
        "    return torch.zeros_like(rewards)"
        ".scatter_add(1, last, scores[:, None].to(rewards.dtype) + penalty)",
        caught_by="test_rewards_are_the_kl_penalty_and_the_score_at_the_end",
        why="Every token gets the penalty of all others.",
    ),
    Animal(
        name="the score lands on the token before the last",
        seen="AlpacaFarm, rl/ppo_trainer.py:75; trlX, accelerate_ppo_trainer.py:471; "
        "DeepSpeedExamples #672",
        function="ppo.token_rewards",
        right="scatter_add(1, last,",
        wrong="scatter_add(1, (last - 1).clamp(min=0),",
        caught_by="test_the_score_lands_on_the_last_response_token",
    ),
    Animal(
        name="the score lands on the padding",
        seen="summarize_from_feedback_details, ppo.py:683; TRL, ppo_trainer.py:777; torchtune, "
        "its recipe:881",
        function="ppo.token_rewards",
        right="scatter_add(1, last,",
        wrong="scatter_add(1, (last + 1).clamp(max=mask.size(1) - 1),",
        caught_by="test_the_score_lands_on_the_last_response_token",
        why="No action leads to that slot; if the padding is masked, the score is lost.",
    ),
    Animal(
        name="the KL is multiplied by the coefficient in place",
        seen="slime PR 2114; miles",
        function="ppo.token_rewards",
        right="-kl_coef * (logprobs - ref_logprobs)",
        wrong="logprobs.sub_(ref_logprobs).mul_(-kl_coef)",
        caught_by="test_the_rlhf_reward_is_the_score_minus_the_price_of_the_kl",
        why="The logged KL is not the one in the reward.",
    ),
    Animal(
        name="a whole mask is the condition of an if",
        seen="minChatGPT, trainers.py:176, which has only been called without a mask",
        function="ppo.token_rewards",
        right="if not mask.any(dim=1).all():",
        wrong="if not mask:",
        caught_by="test_rewards_are_the_kl_penalty_and_the_score_at_the_end",
        crash="RuntimeError",
    ),
]

VALUES_AND_ADVANTAGES = [
    Animal(
        name="the value of a token is read after the token",
        seen="minRLHF, buffer.py:161 and ppo_trainer.py:140: a perfect critic leaves an advantage "
        "of 1",
        function="ppo.ActorCritic.forward",
        right="self.value_head(states[:, :-1])",
        wrong="self.value_head(states[:, 1:])",
        caught_by="test_a_value_does_not_see_the_token_that_is_being_chosen",
        why="The reward counts twice, and the value of the prompt is never trained.",
    ),
    Animal(
        name="the value of a token is read from a mean over the whole row",
        seen="PaLM-rlhf-pytorch, ppo.py:202: the baseline depends on the actions, and removes "
        "their credit",
        function="ppo.ActorCritic.forward",
        right="self.value_head(states[:, :-1])",
        wrong="self.value_head(states.mean(1, keepdim=True)).expand(mask.shape)",
        caught_by="test_a_value_does_not_see_the_token_that_is_being_chosen",
    ),
    Animal(
        name="the flag of another model decides whether the critic is trained",
        seen="PaLM-rlhf-pytorch, ppo.py:121, where it is the actor's",
        function="ppo.ActorCritic.__init__",
        right="copy.deepcopy(reward_model.gpt).requires_grad_()",
        wrong="copy.deepcopy(reward_model.gpt)",
        caught_by="test_a_separate_critic_is_a_copy_that_leaves_policy_and_reward_model_alone",
    ),
    Animal(
        name="the columns after the end have a value",
        seen="trlX, modeling_ppo.py:161; AlpacaFarm; rlhf-book PR 216; miles PR 1827; AReaL PR "
        "1346; minRLHF, buffer.py:174",
        function="ppo.gae",
        right="torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)",
        wrong="rewards, values",
        caught_by="test_junk_after_the_end_does_not_leak_into_the_advantages",
    ),
    Animal(
        name="values are shifted along the batch instead of the time",
        seen="PaLM-rlhf-pytorch, ppo.py:603: a row's advantage depends on the row above it",
        function="ppo.gae",
        right="next_value = values[:, t]\n",
        wrong="next_value = values[:, t].roll(1)\n",
        caught_by="test_gae_with_lambda_zero_is_the_one_step_error_and_the_value_after_the_end_is_zero",
    ),
    Animal(
        name="all tokens of a response get one advantage",
        seen="minChatGPT, trainers.py:222 and gpt.py:576; PaLM-rlhf-pytorch, ppo.py:574",
        function="ppo.gae",
        right="return advantages, advantages + values",
        wrong="advantages = torch.where("
        "mask, rewards.sum(1, keepdim=True) - values.mean(1, keepdim=True), 0.0)\n"
        "    return advantages, advantages + values",
        caught_by="test_gae_matches_a_hand_worked_episode",
        why="It is the reward minus the value, and tells no token what it contributed.",
    ),
    Animal(
        name="the returns contain whitened advantages",
        seen="RLHF_in_notebooks, notebook 3, c46: returns of 2.15 and -.23 where 0.96 and 1.0 are "
        "right",
        function="train_ppo.iterate",
        right="advantages = ppo.whiten(raw_advantages, mask)",
        wrong="advantages = ppo.whiten(raw_advantages, mask)\n    returns = advantages + values",
        caught_by="test_returns_are_taken_before_whitening",
    ),
    Animal(
        name="advantages have a gradient",
        seen="PaLM-rlhf-pytorch, ppo.py:548 and 574",
        function="ppo.logprobs_and_values",
        right="logprobs, ref_logprobs, values = "
        "torch.zeros(3, B, T - 1, device=samples.tokens.device)",
        wrong="logprobs, ref_logprobs, values = "
        "(torch.zeros(B, T - 1, device=samples.tokens.device) for _ in range(3))\n"
        "    torch.set_grad_enabled(True)",
        caught_by="test_nothing_in_a_rollout_has_a_gradient",
        why="The loss can fall because the target moves.",
    ),
    Animal(
        name="whitening adds the mean again",
        seen="RLHF_in_notebooks, notebook 3, c46: an option that is meant for rewards",
        function="ppo.whiten",
        right="0.0 if shift_mean else mean",
        wrong="mean",
        caught_by="test_whitened_tokens_have_mean_zero_and_variance_one",
        why="All sampled tokens become likelier, or all less likely.",
    ),
    Animal(
        name="whitening shifts the mean only when it should not",
        seen="torchtune, rlhf/rewards.py:177, whose own tests pin it",
        function="ppo.whiten",
        right="0.0 if shift_mean else mean",
        wrong="mean if shift_mean else 0.0",
        caught_by="test_whitening_without_shift_keeps_the_mean",
    ),
    Animal(
        name="every row is whitened by itself",
        seen="PaLM-rlhf-pytorch, ppo.py:566",
        function="train_ppo.iterate",
        right="advantages = ppo.whiten(raw_advantages, mask)",
        wrong="pairs = zip(raw_advantages.split(1), mask.split(1), strict=True)\n"
        "    advantages = torch.cat([ppo.whiten(*pair) for pair in pairs])",
        caught_by="test_a_higher_score_gives_its_tokens_a_higher_advantage",
        why="A score shifts all advantages of its response by the same number, which whitening "
        "subtracts.",
    ),
    Animal(
        name="every row is whitened by itself, padding included",
        seen="minRLHF, buffer.py:128: rewards of 0.9 and 0.1 give the same advantages",
        function="ppo.whiten",
        right="(x - mean) * torch.rsqrt(masked_var(x, mask) + 1e-8)",
        wrong="(x - x.mean(1, keepdim=True)) * torch.rsqrt(\n"
        "        x.var(1, keepdim=True, correction=0) + 1e-8\n"
        "    )",
        caught_by="test_a_higher_score_gives_its_tokens_a_higher_advantage",
    ),
    Animal(
        name="whitening includes the padding",
        seen="AlpacaFarm and trlX; rlhf-book, chapter 6",
        function="ppo.whiten",
        right="(x - mean) * torch.rsqrt(masked_var(x, mask) + 1e-8)",
        wrong="(x - x.mean()) * torch.rsqrt(x.var(correction=0) + 1e-8)",
        caught_by="test_whitening_does_not_see_what_is_outside_the_mask",
    ),
    Animal(
        name="equal advantages are divided by a standard deviation of 0",
        seen="minRLHF, buffer.py:130: NaN where a row is constant",
        function="ppo.whiten",
        right=" + 1e-8)",
        wrong=")",
        caught_by="test_whitening_a_constant_gives_zeros",
    ),
]

LOSSES_AND_THE_UPDATE = [
    Animal(
        name="the policy loss takes a mask and ignores it",
        seen="minChatGPT, loss.py:17; PaLM-rlhf-pytorch, ppo.py:579",
        function="ppo.policy_loss",
        right="advantages = torch.where(mask, advantages, 0.0)",
        wrong="log_ratio, ratio = logprobs - old_logprobs, (logprobs - old_logprobs).exp()",
        caught_by="test_the_policy_loss_does_not_see_what_is_outside_the_mask",
    ),
    Animal(
        name="the value loss takes a mask and ignores it",
        seen="minChatGPT, loss.py:37",
        function="ppo.value_loss",
        right="torch.where(mask, values - returns, 0.0) ** 2",
        wrong="(values - returns) ** 2",
        caught_by="test_the_value_loss_does_not_see_what_is_outside_the_mask",
    ),
    Animal(
        name="old and new log-probabilities are counted from opposite ends",
        seen="PaLM-rlhf-pytorch, ppo.py:529 and 573: the first ratios were 0.96, 1.22, 0.022",
        function="ppo.logprobs_and_values",
        right="\n        logprobs[index, :columns] = policy_logprobs",
        wrong="\n        logprobs[index, -columns:] = policy_logprobs",
        caught_by="test_the_first_ratio_is_one",
    ),
    Animal(
        name="a rollout is used once, whatever the number of epochs",
        seen="minChatGPT, trainers.py:250: the ratio is always 1, and both clips are dead code",
        function="ppo.plan",
        right="for _ in range(epochs):",
        wrong="for _ in range(1):",
        caught_by="test_every_row_comes_once_an_epoch",
    ),
    Animal(
        name="the number of minibatches has no effect",
        seen="TRL, ppo_trainer.py:458 since PR 2531; TRL #5645",
        function="ppo.plan",
        right=".tensor_split(minibatches)",
        wrong=".tensor_split(1)",
        caught_by="test_there_are_as_many_optimiser_steps_as_epochs_times_minibatches",
    ),
    Animal(
        name="every microbatch is an optimiser step",
        seen="TRL, ppo_trainer.py:799 and summarize_from_feedback_details, ppo.py:721 on the last "
        "prompts; accelerate #1847",
        function="ppo.update",
        right="                loss.backward()\n",
        wrong="                loss.backward()\n                optimizer.step()\n",
        caught_by="test_there_are_as_many_optimiser_steps_as_epochs_times_minibatches",
    ),
    Animal(
        name="rows are chosen from a batch of the nominal size",
        seen="RLHF_in_notebooks, notebook 3, c52: 31,105 prompts in batches of 32 leave one over",
        function="ppo.plan",
        right="rng.permutation(len(lengths))",
        wrong="rng.permutation(32)",
        caught_by="test_every_row_comes_once_an_epoch",
        why="It crashes only in the last batch of an epoch.",
        crash="IndexError",
    ),
    Animal(
        name="gradients remain for the next step",
        seen="minRLHF, ppo_trainer.py:211: the next epoch adds to the gradient of one that "
        "stopped early",
        function="ppo.step",
        right="optimizer.zero_grad()",
        wrong="pass",
        caught_by="test_there_are_as_many_optimiser_steps_as_epochs_times_minibatches",
    ),
    Animal(
        name="the means of microbatches are added up",
        seen="minRLHF, ppo_trainer.py:208 and 237",
        function="ppo.update",
        right="batch.advantages, batch.mask, clip, minibatch_tokens",
        wrong="batch.advantages, batch.mask, clip, batch.mask.sum()",
        caught_by="test_the_gradient_is_that_of_a_loop_over_tokens_whatever_the_microbatches",
        why="The gradient grows with a setting about memory.",
    ),
    Animal(
        name="the means of microbatches are averaged",
        seen="summarize_from_feedback_details, TRL, torchtune; OpenRLHF before its "
        "models/loss.py:11; open-instruct #1161",
        function="ppo.update",
        right="batch.advantages, batch.mask, clip, minibatch_tokens",
        wrong="batch.advantages, batch.mask, clip, batch.mask.sum() * len(minibatch)",
        caught_by="test_the_gradient_is_that_of_a_loop_over_tokens_whatever_the_microbatches",
        why="Responses of 1 and 3 tokens with advantages 1 and -1 should give a loss of 0.5, and "
        "give 0.",
    ),
    Animal(
        name="clipping reads an attribute that does not exist",
        seen="PaLM-rlhf-pytorch, ppo.py:594 and 615",
        function="ppo.step",
        right="torch.nn.utils.clip_grad_norm_(actor_critic.parameters(), max_grad_norm)",
        wrong="actor_critic.accelerator.clip_grad_norm_(actor_critic.parameters(), max_grad_norm)",
        caught_by="test_the_gradient_norm_is_clipped_once_an_optimiser_step",
        crash="AttributeError",
    ),
    Animal(
        name="the controller gets the KL of a token",
        seen="OpenRLHF, trainer/ppo_trainer.py:250",
        function="train_ppo.iterate",
        right='controller.update(stats["kl"], len(prompts))',
        wrong='controller.update(stats["kl"] / stats["length"], len(prompts))',
        caught_by="test_kl_coef_adapts_to_the_target_after_each_rollout",
        why="A target of 6 nats per response is reached at 6 nats per token.",
    ),
    Animal(
        name="the loss on pretraining text has an optimiser step of its own",
        seen="align-anything, with its own backward pass and step, at a coefficient of 16",
        function="ppo.update",
        right="others = auxiliary_loss() if auxiliary_loss else {}\n"
        "            norms.append(step(actor_critic, optimizer, max_grad_norm) | others)",
        wrong="norms.append(step(actor_critic, optimizer, max_grad_norm))\n"
        "            if auxiliary_loss:\n"
        "                norms[-1] |= auxiliary_loss()\n"
        "                optimizer.step()\n"
        "                optimizer.zero_grad()",
        caught_by="test_an_optimiser_step_is_on_the_sum_of_both_gradients",
        why="Under Adam and under the clip two steps are not one step on the sum.",
    ),
    Animal(
        name="every microbatch of pretraining text has its own mean",
        seen="transformers #34191 (the same mistake in gradient accumulation)",
        function="tools.ptx.backpropagate",
        right="[batch[row] for row in rows]) / total",
        wrong="[batch[row] for row in rows]) / sft.response_tokens([batch[row] for row in rows])",
        caught_by="test_the_loss_is_the_mean_over_all_tokens_whatever_the_microbatches",
        why="The weight of the text grows with the number of microbatches.",
    ),
]

METRICS = [
    Animal(
        name="the logged KL coefficient is the initial one",
        seen="lm-human-preferences, train_policy.py:279",
        function="train_ppo.iterate",
        right="samples.ended, kl_coef)",
        wrong="samples.ended, args.kl_coef)",
        caught_by="test_kl_coef_adapts_to_the_target_after_each_rollout",
    ),
    Animal(
        name="the KL of an update has the wrong sign",
        seen="minRLHF, ppo_trainer.py:121 and 223: early stopping acts on the wrong side",
        function="ppo.policy_loss",
        right="masked_mean(log_ratio**2 / 2, mask)",
        wrong="masked_mean(log_ratio, mask)",
        caught_by="test_policy_stats_are_worked_by_hand",
    ),
    Animal(
        name="padding dilutes approx_kl",
        seen="summarize_from_feedback_details, ppo.py:764; TRL, ppo_trainer.py:857",
        function="ppo.policy_loss",
        right="masked_mean(log_ratio**2 / 2, mask)",
        wrong="(log_ratio**2 / 2).mean()",
        caught_by="test_policy_stats_are_worked_by_hand",
    ),
    Animal(
        name="padding dilutes the ratio",
        seen="summarize_from_feedback_details, ppo.py:771; TRL, ppo_trainer.py:868",
        function="ppo.policy_loss",
        right='"ratio_mean": masked_mean(ratio, mask)',
        wrong='"ratio_mean": ratio.mean()',
        caught_by="test_policy_stats_are_worked_by_hand",
    ),
    Animal(
        name="padding dilutes the entropy",
        seen="summarize_from_feedback_details, ppo.py:763; TRL, ppo_trainer.py:856",
        function="ppo.microbatch_stats",
        right="masked_mean(entropy, batch.mask)",
        wrong="entropy.mean()",
        caught_by="test_update_metrics_are_means_over_the_tokens_of_all_epochs",
    ),
    Animal(
        name="every padding token counts as -1 nat of entropy",
        seen="TRL #2022, #2281 and #2496; open-instruct #756: the sentinel for no log-probability "
        "is 1",
        function="ppo.rollout_stats",
        right="-torch.where(mask, rollout.logprobs, 0.0)",
        wrong="-torch.where(mask, rollout.logprobs, 1.0)",
        caught_by="test_rollout_metrics_are_worked_by_hand",
    ),
    Animal(
        name="the logged KL is that of a token",
        seen="trlX before PR 441; OpenRLHF",
        function="ppo.rollout_stats",
        right='"kl": kl.mean()',
        wrong='"kl": kl.sum() / mask.sum()',
        caught_by="test_rollout_metrics_are_worked_by_hand",
    ),
    Animal(
        name="kl_div expects probabilities and gets their logarithms",
        seen="rlhf-book, chapter 15: without log_target=True, so that the result is NaN",
        function="ppo.rollout_stats",
        right="torch.where(mask, rollout.logprobs - rollout.ref_logprobs, 0.0)",
        wrong='nn.functional.kl_div(rollout.ref_logprobs, rollout.logprobs, reduction="none")',
        caught_by="test_rollout_metrics_are_worked_by_hand",
    ),
    Animal(
        name="the logged objective has the wrong sign of the penalty",
        seen="TRL's documentation: rlhf_reward = score - non_score_reward, where the latter is "
        "negative already",
        function="ppo.rollout_stats",
        right="scores.mean() - kl_coef * kl.mean()",
        wrong="scores.mean() + kl_coef * kl.mean()",
        caught_by="test_the_rlhf_reward_is_the_score_minus_the_price_of_the_kl",
    ),
    Animal(
        name="the metrics of the critic are missing",
        seen="minRLHF, ppo_trainer.py:243, which loops over the wrong dictionary",
        function="ppo.update",
        right=" | vf_stats",
        wrong="",
        caught_by="test_the_first_ratio_is_one",
        crash="KeyError",
    ),
]

EVALUATION_AND_CHECKPOINTS = [
    Animal(
        name="the judge always sees the candidate second",
        seen="minChatGPT, evaluate.py:166, 192 and 218: a judge that prefers the last response "
        "says 96%",
        function="evaluate.win_rate",
        right="interval((direct + 1 - reverse) / 2)",
        wrong="interval(direct)",
        caught_by="test_a_judge_who_always_prefers_the_first_gives_one_half",
    ),
    Animal(
        name="a resumed optimiser starts without its state",
        seen="NeMo-RL #3171; direct-preference-optimization, train.py:96, which saves the state "
        "and loads the policy alone",
        function="run.checkpoint.restore",
        right="in parts.items():",
        wrong='in [("model", parts["model"])]:',
        caught_by="test_restore_puts_modules_and_optimizers_back_to_the_bit",
    ),
    Animal(
        name="the critic is not saved",
        seen="TRL #1643 and PR 6120",
        function="train_ppo.train",
        right='parts["critic"] = actor_critic.critic',
        wrong="pass",
        caught_by="test_three_updates_a_stop_and_three_more_are_six_to_the_bit",
    ),
]

DIRECT_PREFERENCE_OPTIMISATION = [
    Animal(
        name="the log-probability of a response is the mean over its tokens",
        seen="LLMs-from-scratch, DPO notebook, c84 and c89, which cites the sum",
        function="dpo.response_logprobs",
        right="logprobs = model.logprobs(policy, tokens, mask)[0].sum(1)",
        wrong="logprobs = model.logprobs(policy, tokens, mask)[0].sum(1) / mask.sum(1)",
        caught_by="test_the_prompt_has_no_part_in_a_responses_logprob",
        why="The meaning of beta depends on the length.",
    ),
    Animal(
        name="policy and reference compute in different precision",
        seen="direct-preference-optimization, config/model/blank_model.yaml",
        function="dpo.response_logprobs",
        right="model.logprobs(reference, tokens, mask)[0].sum(1)",
        wrong="model.logprobs(reference, tokens, mask)[0].half().float().sum(1)",
        caught_by="test_a_batch_at_the_reference_costs_log_two",
        why="Rounding counts as a preference from the first step on.",
    ),
    Animal(
        name="the loss lacks the reference, but the logged rewards have it",
        seen="direct-preference-optimization, trainers.py:73 and 84, with reference_free",
        function="dpo.dpo_loss",
        right="margin = chosen_rewards - rejected_rewards",
        wrong="margin = beta * (chosen - rejected)",
        caught_by="test_the_stats_are_those_of_the_losss_own_margins",
    ),
    Animal(
        name="the logged rewards lack beta",
        seen="LLMs-from-scratch, DPO notebook, c84",
        function="dpo.dpo_loss",
        right="statistics(chosen_rewards, rejected_rewards)",
        wrong="statistics(chosen - ref_chosen, rejected_rewards)",
        caught_by="test_the_rewards_of_one_pair_are_worked_by_hand",
    ),
]

OTHER_DIRECT_LOSSES = [
    Animal(
        name="IPO takes mean log ratios",
        seen="TRL 1.12.0, dpo_trainer.py:1470, and #1265, #1677; HALOs; discussed in "
        "direct-preference-optimization #64",
        function="dpo.method_loss",
        right="    sides = logprobs[better]",
        wrong="    if method.name == 'ipo':\n"
        "        logprobs, ref_logprobs = logprobs / lengths, ref_logprobs / lengths\n"
        "    sides = logprobs[better]",
        caught_by="test_every_loss_of_a_batch_is_that_of_a_loop_whatever_the_microbatches",
        why="The authors' choice, against their equation 17. The margin at the optimum, 1/(2 tau) "
        "nats, is then one a token, and long responses are moved further.",
    ),
    Animal(
        name="KTO subtracts the term of undesirable responses",
        seen="align-anything@3f9decc",
        function="dpo.kto_loss",
        right="(weights * torch.sigmoid(-distance))",
        wrong="(sign * weights * torch.sigmoid(-distance))",
        caught_by="test_an_undesirable_response_is_pushed_down",
        why="Minimising makes bad responses likelier.",
    ),
    Animal(
        name="KTO mismatches a batch by reversing it",
        seen="TRL #1911; LLaMA-Factory #7509",
        function="dpo.mismatched",
        right="prompts[1:] + prompts[:1]",
        wrong="prompts[::-1]",
        caught_by="test_a_response_is_mismatched_with_the_prompt_of_another_record",
        why="In a batch of odd length the middle response meets its own prompt.",
    ),
    Animal(
        name="KTO shifts by response where prompts have several",
        seen="TRL's KTO trainer shifts a batch by one row, whatever prompts stand there",
        function="dpo.mismatched",
        right="list(dict.fromkeys(record.prompt for record in batch))",
        wrong="[record.prompt for record in batch]",
        caught_by="test_a_batch_with_one_prompt_has_the_reference_itself_as_reference_point",
        why="Most responses meet their own prompt, and the reference point is the reward itself.",
    ),
    Animal(
        name="the reference point of KTO is that of the last microbatch",
        seen="align-anything #216",
        function="dpo.estimate_kl",
        right="parts.append(response_logprobs(policy, reference, groups))",
        wrong="parts = [response_logprobs(policy, reference, groups)]",
        caught_by="test_the_reference_point_is_that_of_the_whole_batch",
    ),
    Animal(
        name="log(1 - p) as log1p(-exp(log p))",
        seen="TRL #1473, #2564 and #3237",
        function="dpo.log_odds",
        right="torch.log(-torch.expm1(logprobs))",
        wrong="torch.log1p(-logprobs.exp())",
        caught_by="test_the_orpo_loss_is_finite_where_a_response_is_certain",
        why="The loss is infinite as soon as a response is certain.",
    ),
    Animal(
        name="the logarithm of a sigmoid in ORPO",
        seen="orpo@208d2d6, the reference code",
        function="dpo.orpo_loss",
        right="F.logsigmoid(rewards[0] - rewards[1])",
        wrong="torch.log(torch.sigmoid(rewards[0] - rewards[1]))",
        caught_by="test_the_orpo_loss_is_finite_far_in_the_wrong_order",
    ),
]

OPTIMUM = "test_each_method_finds_the_optimum_of_a_problem_that_can_be_enumerated"
RETURNS_AND_ADVANTAGES = (
    "returns = rewards.sum(1)  # (B,)\n"
    "    advantages = group_advantages(returns.view(-1, args.group), args.algorithm).view(-1, 1)"
)
SCORES_AND_PENALTY = (
    "returns = scores\n"
    "    advantages = group_advantages(returns.view(-1, args.group), args.algorithm).view(-1, 1)\n"
    "    advantages = advantages - kl_coef * "
)

RATINGS_AND_FLAGS = [
    Animal(
        name="the lowest rating is the best one",
        seen="data sets that number their levels from the best down; nothing fails",
        function="rewards.axes.ordinal_loss",
        right="F.logsigmoid(high - scores) + F.logsigmoid(scores - low)",
        wrong="F.logsigmoid(high + scores) + F.logsigmoid(-scores - low)",
        caught_by="test_the_score_moves_with_the_rating",
        why="The policy becomes as bad as it can.",
    ),
    Animal(
        name="the probability of a level is a difference of two sigmoids",
        seen="the formula, written down as it stands",
        function="rewards.axes.ordinal_loss",
        right="return -(F.logsigmoid(high - scores) + F.logsigmoid(scores - low) + width).mean()",
        wrong="return -(torch.sigmoid(high - scores) - torch.sigmoid(low - scores)).log().mean()",
        caught_by="test_the_ordinal_loss_is_finite_at_any_score",
        why="Both are 1 where the score is far off, and the loss is infinite.",
    ),
    Animal(
        name="all labellers have one zero point",
        seen="ratings of several people in one column, as most data sets have them",
        function="rewards.axes.rating_loss",
        right="values[:, 0, 0] + biases",
        wrong="values[:, 0, 0] + 0 * biases",
        caught_by="test_the_loss_is_the_mean_over_judgements_of_any_kind",
        why="Who rates kindly makes what he or she happened to see look good.",
    ),
    Animal(
        name="axes are added as they come",
        seen="a sum of reward models or attributes with weights made by hand",
        function="rewards.axes.combined",
        right="weight += factor / result.std * head.weight",
        wrong="weight += factor * head.weight",
        caught_by="test_no_scale_or_zero_of_an_axis_changes_the_reward",
        why="An axis counts by how wide its numbers happen to be, and not by its weight.",
    ),
    Animal(
        name="a batch is chosen without updating V",
        seen="active learning that takes the top of a batch at once",
        function="feedback.design.Design.order",
        right="gains -= np.square(table @ self.add(direction))",
        wrong="self.add(direction)",
        caught_by="test_each_step_is_the_one_after_which_the_determinant_is_largest",
        why="The next pairs are near-copies of the first.",
    ),
    Animal(
        name="disagreement is the entropy of the mean",
        seen="uncertainty sampling under the name of BALD",
        function="feedback.choice.information",
        right="entropy(probabilities.mean(0)) - entropy(probabilities).mean(0)",
        wrong="entropy(probabilities.mean(0))",
        caught_by="test_information_is_that_of_the_sheet",
        why="It buys ties: pairs of equals, on which all members agree that nothing decides.",
    ),
]

WITHOUT_A_CRITIC = [
    Animal(
        name="k3 is in the loss, for the KL in the reward",
        seen="GRPO (Shao et al. 2024), equation 4; TRL #4967, #4638 and #6503; OpenRLHF #1309",
        function="grpo.iterate",
        right=RETURNS_AND_ADVANTAGES,
        wrong=SCORES_AND_PENALTY + "(1 - (ref_logprobs - logprobs).exp())  # the gradient of k3",
        caught_by=OPTIMUM,
        why="Its gradient is that of the forward KL: the policy settles elsewhere, however long it "
        "trains.",
    ),
    Animal(
        name="k2 is in the loss, for the KL in the reward",
        seen="OpenRLHF, REINFORCE++-baseline",
        function="grpo.iterate",
        right=RETURNS_AND_ADVANTAGES,
        wrong=SCORES_AND_PENALTY + "(logprobs - ref_logprobs)  # the gradient of k2",
        caught_by=OPTIMUM,
        why="It is right for one token. In a response, a token does not pay for the KL of the "
        "tokens that follow because of it.",
    ),
    Animal(
        name="k1 is in the loss",
        seen="OpenRLHF #1309; TRL #4638",
        function="grpo.iterate",
        right=RETURNS_AND_ADVANTAGES,
        wrong=SCORES_AND_PENALTY + "torch.ones_like(logprobs)  # the gradient of k1",
        caught_by=OPTIMUM,
        why="Its expected gradient is 0: nothing holds the policy.",
    ),
    Animal(
        name="the KL is subtracted after the baseline",
        seen="OpenRLHF, where the mean of the group is that of the scores alone",
        function="grpo.iterate",
        right=RETURNS_AND_ADVANTAGES,
        wrong=SCORES_AND_PENALTY + "(logprobs - ref_logprobs).sum(1, keepdim=True)",
        caught_by="test_the_kl_is_part_of_what_the_baseline_is_made_of",
        why="The mean KL stays in every advantage. After a division by the standard deviation of "
        "the scores, kl_coef means something else at each prompt.",
    ),
    Animal(
        name="the rows of a group do not stand together",
        seen="R1-V #67; VLM-R1 #129",
        function="grpo.iterate",
        right="group_advantages(returns.view(-1, args.group), args.algorithm).view(-1, 1)",
        wrong="group_advantages(returns.view(args.group, -1).T, args.algorithm).T.reshape(-1, 1)",
        caught_by="test_every_token_of_a_response_has_the_advantage_of_its_return",
        why="Responses to different prompts are compared with each other.",
    ),
    Animal(
        name="the whole batch is one group",
        seen="grpo-flat #2",
        function="grpo.group_advantages",
        right="mean, others = returns.mean(1, keepdim=True), returns.size(1) - 1",
        wrong="mean, others = returns.mean(), returns.size(1) - 1",
        caught_by="test_a_group_is_a_row",
    ),
    Animal(
        name="the response is part of its own baseline",
        seen="verl and TRL, where it is the default of GRPO; here, under the name of RLOO",
        function="grpo.group_advantages",
        right="(returns.sum(1, keepdim=True) - returns) / others if",
        wrong="mean if",
        caught_by="test_rloo_compares_a_response_with_the_others",
        why="The gradient is (G - 1) / G of what it should be.",
    ),
    Animal(
        name="the standard deviation has an eps of 1e-9",
        seen="OpenRLHF; NeMo-RL #4158",
        function="grpo.group_advantages",
        right="+ STD_EPS",
        wrong="+ 1e-9",
        caught_by="test_rounding_is_no_advantage",
        why="Where all scores are equal, their rounding is learned as if it were the reward.",
    ),
    Animal(
        name="a flag that turns off the standard deviation is a text, and always true",
        seen="axolotl #3731, scale_rewards",
        function="grpo.group_advantages",
        right='if algorithm in ("grpo", "dapo") else 1.0',
        wrong="if str(algorithm in ('grpo', 'dapo')) else 1.0",
        caught_by="test_without_the_standard_deviation_what_is_at_stake_counts",
    ),
    Animal(
        name="the standard deviation divides by G",
        seen="open-instruct",
        function="grpo.group_advantages",
        right="returns.std(1, keepdim=True)",
        wrong="returns.std(1, keepdim=True, correction=0)",
        caught_by="test_grpo_divides_by_the_standard_deviation_of_the_group",
    ),
    Animal(
        name="Dr. GRPO divides by the length of the response",
        seen="GRPO (Shao et al. 2024), equation 3, which Dr. GRPO corrects",
        function="grpo.token_weights",
        right='"dr-grpo": ones / (B * max_new_tokens)',
        wrong='"dr-grpo": ones / (B * lengths)',
        caught_by="test_the_weight_of_a_token_is_worked_by_hand",
        why="A long wrong response is unlearned no more than a short one, so that responses grow.",
    ),
    Animal(
        name="the weights are those of the microbatch",
        seen="transformers #34191 (the same mistake in gradient accumulation)",
        function="grpo.update",
        right="weights[order] = token_weights(response_lengths[order], algorithm, max_new_tokens)",
        wrong="for part in minibatch:\n"
        "            weights[part] = token_weights("
        "response_lengths[part], algorithm, max_new_tokens)",
        caught_by="test_microbatches_change_no_gradient",
    ),
]

REWARDS_FROM_ELSEWHERE = [
    Animal(
        name="the demonstration is the rejected one",
        seen="align-anything, in KTO: its undesirable term has the wrong sign",
        function="rewards.demonstrations.compare",
        right="[demonstration.response, response], [0, 1]",
        wrong="[demonstration.response, response], [1, 0]",
        caught_by="test_the_demonstration_is_chosen_and_the_response_to_the_same_prompt_rejected",
        why="The policy learns to be anything but the writer.",
    ),
    Animal(
        name="the demonstration stands against a response to another prompt",
        seen="a discriminator with positives and negatives from two streams of prompts, which the "
        "abstract of RLGAF (Yu et al. 2023) does not exclude",
        function="rewards.demonstrations.compare",
        right="zip(demonstrations, responses, strict=True)",
        wrong="zip(demonstrations, responses[1:] + responses[:1], strict=True)",
        caught_by="test_the_demonstration_is_chosen_and_the_response_to_the_same_prompt_rejected",
        why="The reward model learns which response belongs to which prompt, and that the policy "
        "knows already.",
    ),
    Animal(
        name="a response that is the demonstration stays",
        seen="SPIN's pairs (uclaml/SPIN), where a short answer is often the same text",
        function="rewards.demonstrations.compare",
        right="if demonstration.response != response",
        wrong="if True",
        caught_by="test_a_response_that_is_the_demonstration_is_left_out",
        why="A pair without a gradient makes the mean of the others smaller.",
    ),
    Animal(
        name="the gradient is applied where it was taken",
        seen="a reading of MetaRM's step (Dou et al. 2024): theta' - alpha g for theta - alpha g",
        function="rewards.meta.meta_gradient",
        right="parameter.copy_(copy)",
        wrong="pass",
        caught_by="test_a_meta_step_is_worked_by_hand",
        why="The model learns J, which has no labels, beside the loss.",
    ),
    Animal(
        name="the meta step is subtracted again in place of a copy",
        seen="the usual way to save memory in first-order meta-learning",
        function="rewards.meta.meta_gradient",
        right="for parameter, copy in zip(parameters, copies, strict=True):\n"
        "            parameter.copy_(copy)",
        wrong="for parameter, step in zip(parameters, steps, strict=True):\n"
        "            parameter -= scale * step",
        caught_by="test_the_weights_stay_what_they_were_to_the_bit",
        why="Each step leaves its rounding in the weights.",
    ),
    Animal(
        name="the gradient of the meta step stays in that of the labels",
        seen="any loop that takes two gradients and clears them once",
        function="rewards.meta.take_gradients",
        right="parameter.grad = None",
        wrong="pass",
        caught_by="test_without_an_ascent_the_gradient_is_that_of_the_labels_to_the_bit",
        why="The optimiser descends on J: the model is taught to tell nothing apart.",
    ),
    Animal(
        name="a prompt with fewer responses is filled up with scores of 0",
        seen="any batch of groups of unequal size",
        function="rewards.meta.score_difference",
        right="pairs = (exists[:, :, None] & exists[:, None, :]).triu(1)",
        wrong="pairs = torch.ones_like(gaps, dtype=torch.bool).triu(1)",
        caught_by="test_j_of_a_batch_is_the_mean_over_prompts_of_any_number_of_responses",
        why="Responses are told apart from one that nobody gave.",
    ),
    Animal(
        name="a response that was cut off becomes a demonstration",
        seen="RAFT and Llama 2, whose papers do not say what becomes of them",
        function="tools.rejection.finished",
        right='for row in rows if row["ended"]]',
        wrong="for row in rows]",
        caught_by="test_a_response_that_was_cut_off_is_no_demonstration",
        why="Imitation puts an end token behind it, and the policy learns to stop in mid-sentence.",
    ),
]

OTHER_REWARDS = [
    Animal(
        name="the members of an ensemble are combined as raw scores",
        seen="llm_optimization #12: the published ensemble has no centring",
        function="rewards.ensemble.RobustScore.combined",
        right="evaluate.score_replies(model, prompts, replies)",
        wrong="reward.score_examples(model, [x.example for x in replies], raw=True)",
        caught_by="test_the_score_is_the_members_scores_combined_and_normalised_once_more",
        why="Raw scores have any zero and unit: the worst is always the member with the lowest "
        "zero, and the mean that of the member with the largest unit.",
    ),
    Animal(
        name="the standard deviation of an ensemble divides by E - 1",
        seen="llm_optimization, in PPO; its best-of-n divides by E, with the same coefficient",
        function="rewards.ensemble.combine",
        right="scores.std(0, correction=0)",
        wrong="scores.std(0)",
        caught_by="test_an_ensemble_has_three_scores",
    ),
    Animal(
        name="the reward model's attention is one token off",
        seen="attention-based-credit: where its text has another number of tokens, the weights are "
        "padded on the left",
        function="rewards.credit.by_rows",
        right="distributed.total(result)[:, 1:]",
        wrong="distributed.total(result)[:, :-1]",
        caught_by="test_credit_by_attention_goes_to_the_response_and_to_the_token_attended_to",
        why="Every token earns what the one before it deserved.",
    ),
    Animal(
        name="a response that was cut off has its fixed score shared out",
        seen="attention-based-credit, which has no rule for such responses",
        function="rewards.credit.attention",
        right="torch.where(samples.ended, scores, 0.0)",
        wrong="scores",
        caught_by="test_credit_by_attention_goes_to_the_response_and_to_the_token_attended_to",
        why="Tokens are blamed for what the reward model never read.",
    ),
    Animal(
        name="the potential of the whole response is kept",
        seen="reward shaping in episodes, before Grzes 2017",
        function="rewards.credit.shaping",
        right="mask & ~last_token(mask)",
        wrong="mask",
        caught_by="test_credit_by_a_potential_of_prefixes_keeps_return_and_gradient",
        why="The score of a response counts twice: as its potential, and as its score.",
    ),
]

LABELS_BY_A_MODEL = [
    Animal(
        name="the second order is not turned round",
        seen="PairS #2, where the plain mean of both orders is asked about",
        function="feedback.soft.both_orders",
        right="0.5 + (first - swapped) / 2",
        wrong="(first + swapped) / 2",
        caught_by="test_a_labeller_who_likes_the_first_says_nothing",
        why="The label is then how much the labeller likes what is shown first, and not a word "
        "about the responses.",
    ),
    Animal(
        name="one order is asked, and the bias stays",
        seen="FastChat #3911: 12.9% of GPT-4's verdicts turn with the order",
        function="feedback.soft.label",
        right="swapped = np.asarray(prefer(prompts, right, left), dtype=float)",
        wrong="swapped = 1 - first",
        caught_by="test_a_labeller_who_likes_the_first_teaches_nothing",
    ),
    Animal(
        name="wordings are averaged as log-odds",
        seen="a mean of logits where Lee et al. 2023 have a mean of probabilities",
        function="feedback.ai.Labeller.__call__",
        right="torch.sigmoid(first - second).mean(1)",
        wrong="torch.sigmoid((first - second).mean(1))",
        caught_by="test_a_labeller_averages_probabilities_over_wordings",
        why="A single wording of which the model is too sure decides the label.",
    ),
    Animal(
        name="the verdict is asked for without the line break before it",
        seen='open-instruct #62: "A" for " A", candidates with almost no mass',
        function="feedback.ai.constitution",
        right='x + y + "\\n"',
        wrong="x + y",
        caught_by="test_the_opinion_is_the_last_line_of_a_document",
        why="What is left of the mass is divided by its sum, and looks confident.",
    ),
    Animal(
        name="a soft label is rounded to a hard one",
        seen="reward models trained on the likelier answer of a judge",
        function="reward.soft_preference_loss",
        right="difference = first - second",
        wrong="difference, likely = first - second, (likely > 0.5).to(first)",
        caught_by="test_the_soft_preference_loss_is_worked_by_hand",
        why="A pair of which the labeller is not sure pulls as much as a clear one.",
    ),
]

SEVERAL_PROCESSES = [
    Animal(
        name="a loss is divided by the tokens of its own process",
        seen="transformers #34242; speculators #942",
        function="ppo.update",
        right="sum(rollout.response_tokens(rows) for rows in minibatch)",
        wrong="sum(rollout.response_tokens(rows) for rows in distributed.own(minibatch)) or 1",
        caught_by="test_an_iteration_is_that_of_one_process",
        why="The weight of a token depends on the process that it comes to.",
    ),
    Animal(
        name="gradients are averaged over processes, of losses that are shares of the whole",
        seen="what DistributedDataParallel does; transformers #34242 multiplies the loss again",
        function="run.distributed.add_gradients",
        right="    call(dist.all_reduce, flat)\n",
        wrong="    call(dist.all_reduce, flat)\n    flat /= world()\n",
        caught_by="test_every_process_has_the_gradient_and_the_numbers_of_the_whole_batch",
    ),
]

ADAPTERS = [
    Animal(
        name="the reference has the adapters on",
        seen="asked of TRL's PPO in ChatGLM-Efficient-Tuning #380",
        function="train_ppo.main",
        right="policy = lora.start(args, reference)",
        wrong="policy = reference = lora.start(args, reference)",
        caught_by="test_the_first_update_of_ppo_has_ratio_1_and_no_kl",
        why="The KL is 0 for ever, and nothing holds the policy.",
    ),
    Animal(
        name="what is no adapter is trained as well, and the reference moves along",
        seen="unsloth-zoo PR #830, review",
        function="lora.adapt",
        right="    gpt.requires_grad_(False)\n",
        wrong="",
        caught_by="test_training_moves_the_policy_and_never_the_reference",
    ),
    Animal(
        name="the reference is the model before supervised fine-tuning",
        seen="TRL #495, #1340 and #3194: SFT with adapters that were not merged",
        function="run.checkpoint.save",
        right="state = {name: part_state(part) for name, part in parts.items()}",
        wrong="state = {\n"
        "        name: {k: v for k, v in part.state_dict().items() "
        "if k.rpartition('.')[2] not in ('A', 'B', 'scale')}\n"
        "        if adapted(part) else part_state(part)\n"
        "        for name, part in parts.items()\n"
        "    }",
        caught_by="test_every_command_takes_the_policy_of_a_run_with_adapters",
        why="The KL of PPO starts at several nats, and its penalty unlearns what SFT has taught.",
    ),
    Animal(
        name="a resumed run has its adapters twice",
        seen="minChatGPT, gpt.py:549: weights are saved merged beside A and B, and merged again",
        function="run.checkpoint.load_adapters",
        right="load_weights(module, state | weights, path)",
        wrong="merged = load(path, (*POLICIES, 'rm'))['model']\n"
        "    load_weights(module, state | merged | weights, path)",
        caught_by="test_two_and_two_updates_are_four",
        why="The policy jumps to twice its distance from the reference, which moves as well.",
    ),
    Animal(
        name="adapters have dropout",
        seen="PEFT's usual lora_dropout of 0.05; TRL PR #3234",
        function="lora.LoRA.forward",
        right="F.linear(x, self.A)",
        wrong="F.linear(F.dropout(x, 0.05), self.A)",
        caught_by="test_a_model_with_adapters_is_a_function",
        why="The policy that is updated is not the one that sampled: the first ratios are not 1.",
    ),
    Animal(
        name="adapters are scaled by alpha and not by alpha / r",
        seen="mlx-vlm #841",
        function="lora.LoRA.__init__",
        right="alpha / rank",
        wrong="alpha",
        caught_by="test_a_layer_adds_alpha_over_r_times_the_low_rank_product",
        why="A learning rate that suits one rank destroys the model at another.",
    ),
    Animal(
        name="merging forgets the scale",
        seen="FastVideo PR #870; verl PR #5337 with an alpha of 0",
        function="lora.merged",
        right="scale * (B @ A)",
        wrong="B @ A",
        caught_by="test_merged_weights_compute_the_same",
    ),
    Animal(
        name="the head of a reward model with adapters stays at its random start",
        seen="minChatGPT, gpt.py:504",
        function="train_rm.main",
        right="reward_model.gpt = lora.start(args, sft)\n",
        wrong="reward_model.gpt = lora.start(args, sft)\n"
        "    for parameter in reward_model.head.parameters():\n"
        "        parameter.register_hook(torch.zeros_like)\n",
        caught_by="test_a_reward_model_learns_its_adapters_and_its_head",
    ),
]

ZOO = [
    *PROMPTS_AND_PADDING,
    *SAMPLING,
    *LOG_PROBABILITIES,
    *SUPERVISED_FINE_TUNING,
    *THE_REWARD_MODEL,
    *SCORES_AND_KL,
    *VALUES_AND_ADVANTAGES,
    *LOSSES_AND_THE_UPDATE,
    *METRICS,
    *EVALUATION_AND_CHECKPOINTS,
    *DIRECT_PREFERENCE_OPTIMISATION,
    *OTHER_DIRECT_LOSSES,
    *RATINGS_AND_FLAGS,
    *WITHOUT_A_CRITIC,
    *REWARDS_FROM_ELSEWHERE,
    *OTHER_REWARDS,
    *LABELS_BY_A_MODEL,
    *ADAPTERS,
    *SEVERAL_PROCESSES,
]
