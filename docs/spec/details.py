"""The 74 details that decide whether RLHF with PPO works: the rule, the tests that pin it, and what
was chosen where implementations differ.

They come from the code of Ziegler et al. 2019 and its successors, and from threads in which people
ask why their run does not learn. Where only one way is right, a test pins it. Where it is a
matter of taste, `choice` says what minirlhf does. A detail may have both. The numbers are published
(docs/SPEC.md#detail-17) and never change; tests/unit/test_spec.py checks numbers and tests.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Detail:
    number: int
    rule: str
    tests: tuple = ()  # names, with "test_file::" where two files have a test of that name
    choice: str = ""


DETAILS = {  # by topic, as in tests/spec/sentences.py
    "MASK": [
        Detail(
            1,
            "A prompt and the longest response it may get fit into the context. One that does not "
            "is found before anything runs.",
            (
                "test_a_response_that_may_not_fit_is_refused_before_anything_runs",
                "test_a_prompt_without_room_for_its_response_is_one_line",
                "test_a_record_that_does_not_fit_is_an_error_unless_dropping_is_asked_for",
            ),
            "Nothing is truncated, neither at a sentence nor at a token: a record fits, is "
            "dropped on request, or is an error.",
        ),
        Detail(
            2,
            "Prompt and response are tokenized separately and joined as ids, in the same way in "
            "every stage.",
            ("test_prompt_and_response_are_encoded_apart_and_joined_as_ids",),
        ),
        Detail(
            3,
            "The end of a response is a stored length. It is never inferred from padding ids.",
            (
                "test_what_lies_right_of_a_rows_end_changes_nothing",
                "test_nothing_follows_the_end_token_and_lengths_include_it",
                "test_collate_puts_every_row_at_column_zero_with_its_two_lengths",
            ),
            "There is no padding id: any id may stand right of the end of a row.",
        ),
        Detail(
            4,
            "Neither the amount of padding nor its side changes a result.",
            (
                "test_more_columns_on_the_right_change_nothing",
                "test_the_score_does_not_see_what_is_appended",
                "test_the_amount_of_padding_reaches_nothing",
            ),
            "Padding is on the right only: every row starts at column 0, in sampling too.",
        ),
        Detail(
            5,
            "The position of a token counts from the first token of its own row, also when "
            "decoding with a cache.",
            (
                "test_cached_decoding_gives_the_logits_of_a_full_pass",
                "test_a_ragged_batch_gives_each_row_the_logits_it_has_alone",
            ),
        ),
        Detail(
            6,
            "No token attends to a column outside its row, and no such column turns a result into "
            "NaN.",
            (
                "test_a_row_sees_the_columns_up_to_its_position",
                "test_the_columns_of_a_cache_beyond_the_rows_ends_change_nothing",
                "test_a_cache_starts_with_zeros",
            ),
        ),
        Detail(
            9,
            "Prompts come in a new order in every epoch, each of them once before any comes twice.",
            (
                "test_the_stream_brings_every_record_once_an_epoch_in_an_order_of_its_own",
                "test_the_stream_does_not_depend_on_where_it_is_cut",
                "test_held_out_prompts_are_not_trained_on",
            ),
            "There is one process, so there are no shards. A ragged last batch is filled from the "
            "next epoch, not dropped.",
        ),
        Detail(
            19,
            "Nothing is learned from what follows the end of a response.",
            (
                "test_what_follows_the_end_has_no_gradient",
                "test_outside_the_mask_everything_is_zero_and_has_no_gradient",
                "test_what_a_rollout_holds_outside_the_mask_reaches_neither_metric_nor_gradient",
            ),
        ),
    ],
    "SAMPLE": [
        Detail(
            7,
            "An embedding may have more rows than the vocabulary has ids. The surplus is neither "
            "sampled nor part of a softmax.",
            (
                "test_no_id_outside_the_vocabulary_is_ever_chosen",
                "test_probabilities_sum_to_one_over_the_real_ids",
                "test_there_are_exactly_as_many_logits_as_ids",
            ),
        ),
        Detail(
            8,
            "Scores and gradients are computed from the ids that were sampled, not from their "
            "text tokenized again.",
            (
                "test_the_sampled_tokens_are_the_prompts_continued",
                "test_scores_are_of_the_ids_that_were_sampled",
            ),
            "A reward function supplied by the user does receive text.",
        ),
        Detail(
            10,
            "One temperature applies to sampling, to old, new and reference log-probabilities, "
            "and to the entropy.",
            (
                "test_the_sampler_draws_from_what_the_scorer_scores",
                "test_policy_and_reference_are_read_at_the_temperature_that_sampled",
                "test_at_any_temperature_the_first_ratio_is_one_and_oneself_is_no_distance_away",
                "test_the_first_ratio_shows_a_temperature_that_was_forgotten",
            ),
        ),
        Detail(
            11,
            "Samples come from the whole distribution: no top-k, no top-p, no suppressed and no "
            "forced token.",
            (
                "test_samples_follow_the_models_distribution",
                "test_a_temperature_that_is_off_by_a_tenth_is_seen_in_the_samples",
                "test_responses_are_sampled_as_often_as_their_logprobs_say",
            ),
        ),
        Detail(
            12,
            "A token is scored by the logits of the state before it.",
            (
                "test_logprobs_are_those_of_a_token_by_token_loop_over_prefixes",
                "test_the_mask_is_true_in_the_columns_that_choose_a_response_token",
            ),
        ),
        Detail(
            13,
            "There is no dropout in reinforcement learning, neither in sampling nor in training.",
            (
                "test_there_is_no_dropout",
                "test_an_update_is_a_function_of_its_rollout",
            ),
        ),
        Detail(
            14,
            "Old log-probabilities are computed once, under the policy that sampled, and are "
            "constants.",
            (
                "test_nothing_in_a_rollout_has_a_gradient",
                "test_scored_tokens_are_those_of_policy_reference_and_critic",
                "test_the_first_update_starts_at_the_policy_that_sampled",
            ),
            "They are recomputed by the training forward pass, in the microbatches of the first "
            "epoch: the first ratios are 1 to the bit.",
        ),
        Detail(
            15,
            "Log-softmax is computed in float32, whatever the precision of the trunk.",
            ("test_log_probabilities_are_float32_when_the_trunk_computes_in_bf16",),
        ),
        Detail(
            16,
            "Sampling may stop once all rows have ended. The tokens of a row do not depend on it.",
            (
                "test_sampling_stops_when_every_row_has_ended",
                "test_compaction_does_not_change_anything",
                "test_with_one_seed_a_row_does_not_depend_on_its_neighbours",
            ),
            "Rows that have ended leave the batch: it holds exactly the unfinished ones.",
        ),
        Detail(
            17,
            "A response is what was sampled up to and including its first end token.",
            (
                "test_nothing_follows_the_end_token_and_lengths_include_it",
                "test_a_finished_row_stays_at_its_end_token",
            ),
            "Only the end token ends a response: no cut at a full stop or a line break.",
        ),
    ],
    "RM": [
        Detail(
            25,
            "The reward model is a copy of the SFT model with a scalar head in place of the "
            "logits.",
            (
                "test_the_trunk_is_a_copy_of_the_sft_model",
                "test_the_trunk_starts_as_the_sft_models",
                "test_the_score_is_the_head_of_the_state_at_the_last_real_token",
            ),
        ),
        Detail(
            26,
            "The weights of its head have variance 1 / (width + 1), and its bias is 0.",
            (
                "test_the_heads_weights_have_variance_one_over_width_plus_one",
                "test_a_reward_head_turns_unit_variance_features_into_unit_variance_scores",
            ),
        ),
        Detail(
            27,
            "The score is read at the last real token, by one function in training, evaluation "
            "and PPO.",
            (
                "test_the_score_is_the_head_of_the_state_at_the_last_real_token",
                "test_the_score_of_a_response_is_that_of_the_response_alone",
                "test_scores_are_the_normalised_ones_read_at_the_end_token",
            ),
        ),
        Detail(
            28,
            "A scored text ends in the end token, in training, evaluation and PPO.",
            (
                "test_scores_of_texts_are_read_at_the_end_token_of_each",
                "test_a_response_ends_in_one_end_token_and_holds_no_other",
                "test_a_response_without_end_gets_the_stored_score_and_not_its_own",
            ),
        ),
        Detail(
            29,
            "The loss of a pair is −log σ(better − worse), finite for any difference.",
            (
                "test_preference_loss_is_worked_by_hand",
                "test_loss_and_gradient_are_finite_at_any_margin",
                "test_adding_a_number_to_the_scores_of_a_prompt_changes_no_loss",
            ),
        ),
        Detail(
            30,
            "Whether the responses of a pair go through the trunk together or separately changes "
            "no gradient.",
            (
                "test_reward::test_the_gradient_is_that_of_a_loop_over_prompts_whatever_the_microbatches",
            ),
            "Microbatches hold responses of similar length, whichever prompt they belong to.",
        ),
        Detail(
            31,
            "K ranked responses take K forward passes, with all their pairs in one loss. Every "
            "prompt has the same weight, and ties form no pair.",
            (
                "test_ranking_three_is_worked_by_hand",
                "test_ranking_loss_is_that_of_a_loop_over_prompts_and_pairs",
                "test_train_rm::test_each_response_goes_through_the_trunk_once",
                "test_prompts_with_four_and_with_nine_responses_weigh_the_same",
                "test_equal_ranks_form_no_pair",
            ),
        ),
        Detail(
            32,
            "A margin for how much better a response was rated is subtracted inside the sigmoid.",
            (
                "test_preference_loss_is_worked_by_hand",
                "test_a_margin_may_differ_from_pair_to_pair",
            ),
            "The function exists, a flag does not: the embedded labellers rank and do not rate.",
        ),
        Detail(
            33,
            "After training, the scores are shifted so that 0 has a meaning. That changes no "
            "preference.",
            (
                "test_scores_of_the_sft_models_samples_have_mean_zero_and_spread_one",
                "test_normalised_scores_have_mean_zero_and_variance_one_within_a_prompt",
                "test_normalising_shifts_and_scales_and_changes_no_preference",
            ),
            "Mean 0 over samples of the SFT model, and a spread of 1 within a prompt. N+ sets "
            "mean 0 over demonstrations.",
        ),
        Detail(
            34,
            "A reward model sees each comparison once and is evaluated on held-out ones.",
            ("test_held_out_numbers_are_the_models_on_records_it_did_not_train_on",),
            "One epoch is the default of a flag. No test pins that default.",
        ),
        Detail(
            35,
            "A tie is not a pair in the right order, and the report states the number of ties.",
            (
                "test_accuracy_is_strict",
                "test_held_out_numbers_are_the_models_on_records_it_did_not_train_on",
                "test_calibration_error_is_worked_by_hand",
            ),
            "Reported beside the best accuracy that is possible against noisy labellers, and axis "
            "by axis.",
        ),
        Detail(
            36,
            "In PPO the reward model is frozen, and its scores are float32.",
            (
                "test_the_reward_model_and_the_reference_are_what_they_were",
                "test_reference_and_reward_model_stay_as_they_were",
                "test_a_scalar_head_gives_one_float32_number_a_position",
            ),
            "Scores are not clipped.",
        ),
    ],
    "KL": [
        Detail(
            40,
            "The reference is a frozen copy of the SFT model, read by the same forward pass at "
            "the same temperature.",
            (
                "test_reference_and_reward_model_stay_as_they_were",
                "test_scored_tokens_are_those_of_policy_reference_and_critic",
                "test_ppo::test_kl_is_zero_against_oneself",
            ),
        ),
        Detail(
            41,
            "Every token pays kl_coef times its log(policy / reference), a constant of the "
            "rollout.",
            (
                "test_rewards_are_the_kl_penalty_and_the_score_at_the_end",
                "test_rewards_add_up_to_the_score_minus_the_kl",
                "test_the_loops_rewards_are_the_kl_penalty_and_the_score_at_the_last_token",
            ),
        ),
        Detail(
            42,
            "The KL in the reward is k1, whose policy gradient is that of the KL. With k2 or k3 "
            "there is no such force towards the reference; k3 is for logging.",
            (
                "test_k1_in_the_reward_is_the_kl_gradient",
                "test_k3_in_the_reward_is_not_the_kl_gradient",
                "test_k1_and_k3_both_average_to_the_kl",
                "test_with_k3_in_the_reward_ppo_does_not_find_the_optimum",
            ),
        ),
        Detail(
            43,
            "The KL of a token may be negative: this bonus pulls a rare token back.",
            (
                "test_a_token_rarer_than_in_the_reference_earns_a_bonus",
                "test_with_a_kl_clamped_at_zero_ppo_does_not_find_the_optimum",
            ),
        ),
        Detail(
            47,
            "An adaptive kl_coef changes by the relative error of the KL of a response, clipped "
            "to a fifth, after the update.",
            (
                "test_the_controller_moves_the_coefficient_by_the_clipped_error",
                "test_kl_coef_adapts_to_the_target_after_each_rollout",
                "test_kl_coef_stays_where_it_is_without_a_target",
            ),
            "Fixed unless `--kl-target` is given.",
        ),
        Detail(
            48,
            "The KL is reported in nats per response: summed over its tokens, averaged over "
            "responses.",
            (
                "test_rollout_metrics_are_worked_by_hand",
                "test_kl_is_summed_over_the_response_token_by_token",
            ),
        ),
    ],
    "REWARD": [
        Detail(
            18,
            "A response without an end token gets a fixed score in place of its own. Only the "
            "response is searched for the end token, and one in the last column counts.",
            (
                "test_an_unfinished_response_gets_the_fixed_score_instead_of_its_own",
                "test_an_end_token_in_the_last_slot_has_ended_and_one_in_the_prompt_has_not",
                "test_an_end_token_in_the_last_slot_is_an_end",
                "test_a_response_that_was_cut_off_gets_the_missing_end_score_instead_of_its_own",
            ),
            "Replaced, not lowered: −3 in normalised scores, stored with the reward model.",
        ),
        Detail(
            44,
            "The score lands on the last token of the response, which is its end token if it has "
            "one.",
            (
                "test_the_score_lands_on_the_last_response_token",
                "test_an_end_token_in_the_very_last_slot_gets_the_score",
                "test_gae_matches_a_hand_worked_episode",
            ),
        ),
        Detail(
            45,
            "Whitening that keeps the mean divides by the standard deviation around the mean and "
            "adds the mean again.",
            (
                "test_whitening_without_shift_keeps_the_mean",
                "test_whitening_does_not_see_what_is_outside_the_mask",
            ),
            "Rewards are not whitened: kl_coef would mean something else in every batch.",
        ),
        Detail(
            46,
            "Whatever is done to scores, the scores of the reward model itself are logged.",
            ("test_rollout_metrics_are_worked_by_hand",),
            "Nothing is done beyond one normalisation after training: no running statistics.",
        ),
    ],
    "ADV": [
        Detail(
            37,
            "The value function is a head on the trunk of the policy with initial output 0, or a "
            "separate network that starts as the reward model.",
            (
                "test_values_are_zero_at_first_with_the_shared_head",
                "test_a_separate_critic_says_the_reward_models_normalised_score_at_the_end_token",
                "test_a_separate_critic_starts_as_the_reward_model",
            ),
            "The head on the trunk; `--critic separate` for the other.",
        ),
        Detail(
            38,
            "A value is that of the state before the token. After the last token it is 0.",
            (
                "test_a_value_does_not_see_the_token_that_is_being_chosen",
                "test_values_that_enter_the_loop_are_those_of_the_states_before_the_tokens",
                "test_gae_with_lambda_zero_is_the_one_step_error_and_the_value_after_the_end_is_zero",
            ),
        ),
        Detail(
            39,
            "Values after the end of a response count as 0 and are not trained.",
            (
                "test_the_value_loss_does_not_see_what_is_outside_the_mask",
                "test_advantages_do_not_see_what_is_outside_the_mask",
                "test_a_response_that_fills_its_slots_has_no_value_after_its_end",
            ),
        ),
        Detail(
            49,
            "Advantages are sums of (γ λ)^k δ within a response. What lies beyond its end reaches "
            "none of them.",
            (
                "test_gae_matches_a_hand_worked_episode",
                "test_gae_is_the_sum_of_discounted_deltas",
                "test_junk_after_the_end_does_not_leak_into_the_advantages",
                "test_a_perfect_critic_leaves_no_advantage",
            ),
        ),
        Detail(
            50,
            "The targets of the critic are advantages before whitening plus the values of the "
            "rollout.",
            (
                "test_returns_are_taken_before_whitening",
                "test_the_loops_returns_are_values_plus_advantages_before_whitening",
            ),
        ),
        Detail(
            51,
            "Whitened advantages have mean 0 and variance 1 over response tokens.",
            (
                "test_whitened_tokens_have_mean_zero_and_variance_one",
                "test_whitening_does_not_see_what_is_outside_the_mask",
                "test_the_loops_advantages_have_mean_zero_over_response_tokens",
                "test_a_higher_score_gives_its_tokens_a_higher_advantage",
            ),
            "Once, over the whole rollout, with the biased variance.",
        ),
        Detail(
            52,
            "Rewards are not discounted, and λ is below 1: less variance for some of the bias of "
            "the critic.",
            ("test_gamma_is_one_and_lambda_is_point_95_by_default",),
            "γ = 1 and λ = 0.95 in `gae`, as in Ziegler et al. train_ppo.py has λ = 1, as has "
            "AlpacaFarm: its critic is too weak to bootstrap from.",
        ),
    ],
    "LOSS": [
        Detail(
            20,
            "Supervised fine-tuning learns from response tokens.",
            ("test_a_prompt_token_is_no_label_and_every_response_token_is_one",),
            "Prompt tokens are no labels, as in Llama 2 and AlpacaFarm; N+ learns from prompts as "
            "well.",
        ),
        Detail(
            21,
            "In supervised fine-tuning the end token is a label, and padding is not.",
            (
                "test_a_prompt_token_is_no_label_and_every_response_token_is_one",
                "test_a_response_ends_in_one_end_token_and_holds_no_other",
            ),
        ),
        Detail(
            22,
            "The loss of a supervised batch is the mean over all its response tokens, however it "
            "is split into microbatches.",
            (
                "test_the_loss_is_the_mean_over_response_tokens_of_a_loop_over_rows",
                "test_train_sft::test_the_gradient_does_not_depend_on_the_microbatches",
            ),
        ),
        Detail(
            23,
            "Logits are shifted against labels exactly once.",
            (
                "test_the_loss_is_the_mean_over_response_tokens_of_a_loop_over_rows",
                "test_gradients_of_logprobs_are_those_of_cross_entropy",
            ),
        ),
        Detail(
            53,
            "The log ratio is masked before the exponential: nothing outside can overflow, and no "
            "sentinel has to cancel.",
            (
                "test_the_policy_loss_does_not_see_what_is_outside_the_mask",
                "test_no_policy_metric_sees_what_is_outside_the_mask",
            ),
        ),
        Detail(
            54,
            "The clip stops a gradient only where a step would take the ratio further out of the "
            "range.",
            (
                "test_clipping_stops_the_gradient_only_when_it_would_overshoot",
                "test_the_clip_fraction_counts_the_tokens_whose_gradient_is_stopped",
            ),
        ),
        Detail(
            55,
            "The clipped value loss takes the larger of two squared errors, with the factor ½.",
            (
                "test_value_clipping_stops_the_gradient_only_when_it_would_overshoot",
                "test_values_are_clipped_around_their_old_value",
                "test_without_clipping_the_value_loss_is_half_the_mean_squared_error",
            ),
            "Clipped at 0.2, with vf_coef 0.1.",
        ),
        Detail(
            56,
            "Entropy is logged and is no part of the loss.",
            (
                "test_the_gradient_is_that_of_a_loop_over_tokens_whatever_the_microbatches",
                "test_the_first_loss_is_the_value_loss_alone",
            ),
            "No entropy bonus, as in Ziegler et al.",
        ),
        Detail(
            57,
            "Every token of a minibatch has the same weight, also when the minibatch is split.",
            (
                "test_every_token_of_a_minibatch_weighs_the_same",
                "test_microbatches_add_up_if_they_know_the_minibatchs_tokens",
                "test_how_a_minibatch_is_split_reaches_nothing",
            ),
            "Neither a mean over responses nor a sum.",
        ),
    ],
    "UPDATE": [
        Detail(
            24,
            "A few demonstrations can be memorised.",
            (
                "test_it_memorises_eight_demonstrations",
                "test_the_learning_rate_warms_up_and_falls_along_a_cosine",
            ),
            "One epoch, a cosine to a tenth of the learning rate, batches of 16: found by "
            "experiment.",
        ),
        Detail(
            58,
            "Before the first optimiser step every ratio is 1, and approx_kl and clip fraction "
            "are 0.",
            (
                "test_the_first_ratio_is_one",
                "test_the_first_update_starts_at_the_policy_that_sampled",
                "test_the_loops_ratio_and_clip_are_those_of_the_first_policy",
            ),
        ),
        Detail(
            60,
            "Pretraining text may be mixed into PPO, and weights may be averaged over updates.",
            (),
            "Neither is here: InstructGPT did it to preserve benchmark results, and there are no "
            "benchmarks to preserve.",
        ),
        Detail(
            61,
            "A rollout takes epochs times minibatches optimiser steps, which are counted. Each "
            "epoch shuffles anew.",
            (
                "test_there_are_as_many_optimiser_steps_as_epochs_times_minibatches",
                "test_the_optimiser_steps_epochs_times_minibatches_times",
                "test_every_row_comes_once_an_epoch",
                "test_every_epoch_has_its_own_permutation_and_the_generator_decides_it",
                "test_minibatches_are_not_sorted_by_length",
            ),
        ),
        Detail(
            62,
            "A microbatch is weighted by its share of the tokens of its minibatch. Only a "
            "minibatch is a step.",
            (
                "test_the_gradient_is_that_of_a_loop_over_tokens_whatever_the_microbatches",
                "test_gradients_are_clipped_and_their_mean_norm_before_that_is_logged",
            ),
            "Written out, without a library for accumulation.",
        ),
        Detail(
            63,
            "Adam gets the ε and the betas that were asked for.",
            ("test_adamw_has_the_betas_and_eps_it_is_given",),
            "1e-5 and (0.9, 0.999) in PPO, no weight decay, as in Ziegler et al. That "
            "train_ppo.py passes them is not pinned.",
        ),
        Detail(
            64,
            "The norm of the gradient is clipped once per optimiser step, after the last backward "
            "pass, and logged before it is clipped.",
            (
                "test_the_gradient_norm_is_clipped_once_an_optimiser_step",
                "test_gradients_are_clipped_and_their_mean_norm_before_that_is_logged",
            ),
            "At 1, as in Llama 2. Ziegler et al. and N+ do not clip.",
        ),
        Detail(
            65,
            "The learning rate warms up and falls linearly, to more than 0 at the last update.",
            ("test_the_learning_rate_warms_up_and_falls_linearly_and_never_to_zero",),
            "16 updates of 96 warm up, as 10 do in InstructGPT.",
        ),
        Detail(
            66,
            "Every parameter that is to be trained is in the optimiser exactly once.",
            (
                "test_only_matrices_decay",
                "test_reference_and_reward_model_stay_as_they_were",
                "test_the_reward_model_and_the_reference_are_what_they_were",
            ),
            "One optimiser for policy and critic, the value head at 10 times the rate, and no "
            "critic-only start.",
        ),
        Detail(
            67,
            "A seed determines a run to the bit, and no shared generator is seeded.",
            (
                "test_randomness_is_a_function_of_seed_stream_and_step",
                "test_train_ppo::test_a_seed_decides_everything_and_no_global_generator_is_touched",
                "test_the_seed_decides_the_samples_and_no_global_generator_is_touched",
            ),
        ),
        Detail(
            68,
            "Weights are float32, also where the trunk computes in 16 bits. So are heads and "
            "log-probabilities.",
            (
                "test_the_trunk_computes_in_bf16_and_its_parameters_stay_float32",
                "test_a_scalar_head_gives_one_float32_number_a_position",
                "test_log_probabilities_are_float32_when_the_trunk_computes_in_bf16",
                "test_a_pass_without_gradient_takes_none_from_the_next",
            ),
        ),
        Detail(
            69,
            "A resumed run equals the run that was never stopped: policy, critic, optimiser, "
            "kl_coef, data, noise.",
            (
                "test_three_updates_a_stop_and_three_more_are_six_to_the_bit",
                "test_with_a_shared_critic_it_resumes_to_the_bit_too",
                "test_restore_puts_modules_and_optimizers_back_to_the_bit",
            ),
        ),
        Detail(
            70,
            "Over several processes, statistics and token counts are summed, not averaged.",
            (),
            "There is one process.",
        ),
    ],
    "METRIC": [
        Detail(
            59,
            "What a guard rail would look at is logged: approx_kl, ratios, the share of clipped "
            "tokens.",
            ("test_policy_stats_are_worked_by_hand",),
            "None acts by itself: no early stopping, no skipped batch, no second clip.",
        ),
        Detail(
            71,
            "Every metric has one definition, is logged at every update, and is explained.",
            (
                "test_every_metric_is_logged_and_finite",
                "test_rollout_metrics_are_worked_by_hand",
                "test_policy_stats_are_worked_by_hand",
                "test_the_glossary_explains_every_metric_of_a_stage_and_no_other",
            ),
        ),
        Detail(
            72,
            "Metrics are over response tokens. Padding dilutes none of them.",
            (
                "test_padding_changes_neither_metric_nor_gradient",
                "test_padding_changes_no_metric_of_the_loop",
                "test_the_identities_between_metrics_hold",
            ),
        ),
        Detail(
            73,
            "A policy is judged by something it was not trained on, and compared with best-of-n "
            "at its KL.",
            (
                "test_on_the_world_the_judge_has_its_say",
                "test_the_kl_of_best_of_n_is_that_of_an_enumeration",
                "test_a_checkpoint_against_itself_wins_exactly_half",
            ),
            "Length is reported beside every score and not controlled for.",
        ),
        Detail(
            74,
            "The responses of the policy to the same prompts can be read before and after "
            "training.",
            (
                "test_the_evaluation_shows_prompts_before_and_after",
                "test_the_noise_is_a_function_of_the_seed",
            ),
            "No list of single tokens with a high KL. The glossary of metrics says what a healthy "
            "number looks like.",
        ),
    ],
}
