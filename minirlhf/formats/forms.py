"""The forms of a row that are known: a table of name, fields, and the function that reads it.

A row has the first form all of whose fields it has; a field that is null does not count. `a|b` is
either of two fields. --form names one instead, and --map gives fields other names before.
"""

from typing import NamedTuple

from minirlhf.formats import chats, choices, instructions, rows, scored
from minirlhf.formats.context import in_context
from minirlhf.formats.fields import Unusable, field_names, transposed
from minirlhf.formats.unread import refuse_unread
from minirlhf.run.config import InputError

LISTS = "|".join(chats.LISTS)
ANSWERS = "|".join(instructions.ANSWERS)
QUESTIONS = "|".join(instructions.QUESTIONS)
BETTER, WORSE = "|".join(instructions.BETTER), "|".join(instructions.WORSE)
FIRST = "|".join(dict.fromkeys(first for first, _ in choices.PAIRS))
SECOND = "|".join(dict.fromkeys(second for _, second in choices.PAIRS))
GROUPS = "|".join(scored.LISTS)
CAPTIONS = {  # how a list of the forms names alternatives that are many
    "QUESTION": QUESTIONS,
    "ANSWER": ANSWERS,
    "TURNS": LISTS,
    "BETTER": BETTER,
    "WORSE": WORSE,
    "FIRST": FIRST,
    "SECOND": SECOND,
    "CHOICE": "|".join(choices.CHOICES),
    "RESPONSES": GROUPS,
    "CANDIDATES": "|".join(choices.LISTS),
    "BEST": "|".join(choices.BEST),
    "JUDGEMENTS": "|".join((*scored.RATINGS, *scored.RANKS)),
    "GOOD": "|".join(scored.GOOD),
}


class Form(NamedTuple):
    name: str
    fields: str
    read: object  # row -> Judged, or a list of them
    of: str  # whose form it is
    holds: object = bool  # row -> whether its fields are of the right kind

    def has(self, row):
        """Whether a row has the fields."""
        words = self.fields.split()
        return all(any(x in row for x in word.split("|")) for word in words) and self.holds(row)


def dialogues(row):
    """{"chosen", "rejected"}: two whole dialogues, turns or text with marks."""
    if "chosen" not in row:  # torchtune's
        row = {name.removesuffix("_conversations"): value for name, value in row.items()}
    texts = [row["chosen"], row["rejected"]]
    if all(isinstance(text, str) and rows.ASSISTANT not in text for text in texts):
        return chats.marked_pair(*texts) or rows.pair(row)
    return rows.pair(row)


def alone(row):
    """Whether a row has nothing but a prompt, as far as our own forms go."""
    return not find(row, NEAREST[:-1])


FORMS = (
    # Two responses or more, of which some are better.
    Form(
        "openai-preference",
        "input preferred_output non_preferred_output",
        chats.openai_preference,
        "OpenAI, preference fine-tuning",
    ),
    Form(
        "vertex-preference",
        "input_text|prompt candidate_0 candidate_1 choice",
        choices.vertex,
        "Vertex AI, preferences",
    ),
    Form(
        "gemini-preference",
        "contents completions",
        chats.gemini_preference,
        "Gemini, preference tuning",
    ),
    Form(
        "helpsteer-preference",
        f"{FIRST} {SECOND} preference_strength|overall_preference",
        choices.helpsteer,
        "HelpSteer 2 and 3, preferences",
    ),
    Form("shp", "history human_ref_A human_ref_B labels", choices.shp, "SHP"),
    Form(
        "summaries",
        "info summaries choice",
        choices.summaries,
        "summarize-from-feedback, comparisons",
    ),
    Form(
        "summary-rating",
        "info summary",
        choices.rated_summary,
        "summarize-from-feedback, ratings by axis",
    ),
    Form(
        "arena",
        "conversation_a conversation_b winner",
        choices.arena,
        "Chatbot Arena, MT-Bench judgments",
    ),
    Form(
        "arena-table",
        "prompt response_a response_b winner_model_a winner_model_b",
        choices.arena_table,
        "Chatbot Arena, the table with a column an outcome",
    ),
    Form(
        "choice",
        f"{FIRST} {SECOND} {'|'.join(choices.CHOICES)}",
        choices.choice,
        "two responses and a choice: SafeRLHF, AlpacaFarm, Prometheus",
    ),
    Form(
        "two-scores",
        "question|prompt|instruction answer_0|answer_a|response_0|response_a|response_1 "
        "answer_1|answer_b|response_1|response_b|response_2 "
        "score_0|score_a|score_1|rating_0|rating_a|rating_1",
        scored.two_scores,
        "two answers with a score each: WebGPT",
    ),
    Form("prodigy", "text options accept", choices.prodigy, "Prodigy: options, and those accepted"),
    Form(
        "label-studio", "data annotations", choices.label_studio, "Label Studio, pairwise, as JSON"
    ),
    Form("tree", "message_tree_id prompt", chats.tree, "OpenAssistant, trees of messages"),
    Form(
        "chat-pair",
        f"{LISTS} chosen rejected",
        chats.chat_pair,
        "turns and two replies: LLaMA-Factory, axolotl",
        chats.list_name,
    ),
    Form(
        "chat-rejected",
        f"{LISTS} {'|'.join(chats.REJECTED)}",
        chats.chat_rejected,
        "turns, and a worse last reply: ms-swift",
        chats.list_name,
    ),
    Form(
        "pair",
        "prompt chosen rejected",
        rows.pair,
        "minirlhf, TRL, UltraFeedback binarized, RewardBench",
    ),
    Form(
        "question-pair",
        f"{QUESTIONS} {BETTER} {WORSE}",
        instructions.question_pair,
        "a question under another name, a better and a worse answer: Orca, StackExchange",
    ),
    Form(
        "prompt-pair",
        f"prompt {BETTER} {WORSE}",
        instructions.question_pair,
        "a prompt, a better and a worse answer under other names",
    ),
    Form(
        "answer-rejected",
        f"prompt|{QUESTIONS} {ANSWERS} rejected|rejected_response|response_rejected",
        instructions.question_pair,
        "an answer, and a worse one: ms-swift",
    ),
    Form(
        "dialogues",
        "chosen|chosen_conversations rejected|rejected_conversations",
        dialogues,
        "HH-RLHF, TRL, Skywork: two whole dialogues",
    ),
    Form(
        "ranking", "prompt responses ranks|ratings", rows.ranking, "minirlhf: with ranks or ratings"
    ),
    Form(
        "scored",
        f"prompt|{QUESTIONS} {GROUPS}",
        scored.scored,
        "objects with a text and a score or rank: UltraFeedback, Nectar, StackExchange",
        scored.objects,
    ),
    Form(
        "scored-list",
        f"prompt|{QUESTIONS} {GROUPS} {CAPTIONS['JUDGEMENTS']}",
        scored.parallel,
        "responses, and a list of ratings or ranks: distilabel, RRHF",
    ),
    Form(
        "ranked-list",
        f"prompt|{QUESTIONS} ranked_responses|ranked_completions|ranked_answers",
        scored.ranked_list,
        "responses, the best first",
    ),
    Form(
        "chosen-of-list",
        f"prompt|{QUESTIONS} {'|'.join(choices.LISTS)} {'|'.join(choices.BEST)}",
        choices.chosen_of_list,
        "responses, and the number or the text of the best one",
    ),
    Form("flagged-list", "prompt responses flags", rows.ranking, "responses, and flags of each"),
    # One response, perhaps with a judgement.
    Form(
        "rated",
        f"prompt|{QUESTIONS} {ANSWERS} {'|'.join(scored.ASPECTS)}",
        scored.rated,
        "a response rated by an aspect: HelpSteer, Feedback Collection",
    ),
    Form(
        "approved",
        f"prompt|{QUESTIONS} {ANSWERS} {'|'.join(scored.GOOD)}",
        scored.approved,
        "a response that is good or not: BeaverTails",
    ),
    Form(
        "single",
        "prompt response|completion",
        rows.single,
        "minirlhf, OpenAI, TRL, KTO: with label, rating or flags if there are some",
    ),
    Form("vertex", "input_text output_text", instructions.vertex, "Vertex AI, fine-tuning"),
    Form("gemini", "contents", chats.contents, "Gemini, fine-tuning"),
    Form(
        "chat",
        LISTS,
        chats.chat,
        "OpenAI, TRL, ShareGPT, Capybara, UltraChat: a list of turns",
        chats.list_name,
    ),
    Form(
        "instruction",
        f"prompt|{QUESTIONS} {ANSWERS}",
        instructions.instruction,
        "Alpaca, Dolly, OpenOrca, GSM8K: a question and its answer",
    ),
    Form(
        "instances",
        "instruction instances",
        instructions.instances,
        "self-instruct: an instruction with its inputs and outputs",
    ),
    Form(
        "summary",
        f"{'|'.join(instructions.DOCUMENTS)} {'|'.join(instructions.SUMMARIES)}",
        instructions.summary,
        "a document and its summary: CNN/DailyMail, TL;DR",
    ),
    Form(
        "label-text",
        "prompt label",
        instructions.label_text,
        "a prompt, and a label that is the response: TL;DR",
        instructions.is_response,
    ),
    Form(
        "text",
        "|".join(chats.TEXTS),
        chats.marked_text,
        "text with marks of turns: guanaco, Llama 2, ChatML",
        chats.has_marks,
    ),
    # Prompts.
    Form("prompt", "prompt", rows.only_prompt, "minirlhf, TRL: a prompt", alone),
    Form("question", QUESTIONS, instructions.only_question, "a question, as a prompt", alone),
)
# Found by name alone: a second reading of the same fields.
OTHERS = (
    Form(
        "safer",
        "prompt response_0 response_1 safer_response_id",
        choices.safe,
        "SafeRLHF, by its other choice",
    ),
)
# The forms that a row was meant to have which lacks a field of it: their functions say which.
NEAREST = (
    Form("ranking", "responses", rows.ranking, ""),
    Form("pair", "chosen|rejected", rows.pair, ""),
    Form("single", "response|completion", rows.single, ""),
    Form("prompt", "prompt", rows.only_prompt, ""),
)
OWN = [form.name for form in FORMS if form.read in (rows.pair, rows.single, rows.ranking)]
NAMES = {form.name: form for form in (*FORMS, *OTHERS)}
LIST = f"the forms are {', '.join(NAMES)} (minirlhf formats shows them; --map names other fields)"


def get_form(name):
    """A form by its name; None without one."""
    if name and name not in NAMES:
        raise InputError(
            f"--form {name} is none of {', '.join(NAMES)}; minirlhf formats shows them"
        )
    return NAMES.get(name)


def judged(row, form=None, prompts=False):
    """A row -> list of Judged, in the form that is named or found. With `prompts`, a row of our own
    needs a prompt only: PPO answers it, whatever its responses are."""
    if form and not form.has(row):
        raise ValueError(f"the form {form.name!r} has the fields {form.fields}; {field_names(row)}")
    known = {name: transposed(value) for name, value in row.items() if value is not None}
    named, form = form, form or find(known)
    if form is None:  # a spreadsheet's names, such as Prompt
        lower = {name.strip().lower(): value for name, value in known.items()}
        form = find(lower)
        known = lower if form else row
    form = form or find(row, NEAREST)
    if form is None:
        raise ValueError(f"no field 'prompt'; {field_names(row)}")
    try:
        found = form.read(known)
    except (ValueError, Unusable):
        if not (prompts and form.name in OWN and isinstance(row.get("prompt"), str)):
            raise
        found = rows.only_prompt(row)
    found = found if isinstance(found, list) else [found]
    if not (named or prompts):
        refuse_unread(known, form.name, found)
    return [in_context(known, one) for one in found]


def find(row, table=FORMS):
    """The first form of a table that a row has; None if it has none."""
    return next((form for form in table if form.has(row)), None)
