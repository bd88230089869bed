"""What stands behind the page of `minirlhf web`, without a browser: a labeller's questions step by
step, a conversation, and the runs that there are to look at."""

import dataclasses
from html import escape
from pathlib import Path

from minirlhf.feedback import person, questions
from minirlhf.feedback.keyboard import clean
from minirlhf.formats import labels
from minirlhf.run import resume
from minirlhf.run.checkpoint import POLICIES
from minirlhf.run.metrics import printable, read_metrics, shorten
from minirlhf.tools import chat, label, page

RATINGS = [str(number + 1) for number in range(person.BEST_RATING)]
DEPTH = 4  # levels of folders below --runs that are searched


class Desk:
    """One labeller's questions, in the order and with the file of `minirlhf label`.

    `press` does what a key does there: an answer is on the disk before the next question is shown,
    and nothing that was answered is kept in memory alone. `question` is the one that is shown, None
    if there is none left; `heading` and `note` are lines above and below it.
    """

    def __init__(self, args, name):
        args = dataclasses.replace(args, labeller=name)
        self.path, self.seed, self.rate = args.out, args.seed, args.rate
        self.name = label.labeller_name(args)
        answered = labels.read_labels(self.path)
        own = [record for record in answered if record.labeller == self.name]
        self.asked = label.load_questions(args, own)
        self.note, self.seen = "", None  # the question that the page shows
        self.proceed()

    def proceed(self):
        """Go to the first question that is not answered."""
        step = label.next_question(self.path, self.asked, self.name, self.seed)
        done = f"Every question is answered. The answers of {self.name} are in {self.path}."
        self.question, self.heading = step or (None, done)
        self.draft = None  # the key, and the ratings so far, while ratings are asked for

    def press(self, key, flags=(), written="", rating=False):
        """`key` is the number of a response from 1 on, t, s or z; with `rating` it is the rating
        that was asked for. `flags` are the words for each response, `written` a better answer."""
        written = clean(written)
        if key == "z":
            self.undo()
        elif rating:
            if self.draft:
                self.answer(self.draft[0], [*self.draft[1], int(key)], flags, written)
        elif self.question and written in map(questions.visible, self.question.responses):
            self.note = "what you wrote is one of the responses: choose that one"
        elif self.question:
            self.answer(key, [], flags, written)

    def undo(self):
        record = labels.remove_last(self.path, self.name)
        self.proceed()
        self.note = "taken back" if record else "nothing to take back"

    def answer(self, key, ratings, flags, written):
        """Write the answer, if its ratings are complete; else ask for the next one."""
        texts = [*self.question.responses, *filter(None, [written])]
        if self.rate and key != "s" and len(ratings) < len(texts):
            self.draft, number = (key, ratings), len(ratings) + 1
            last = len(self.question.responses)
            which = "the one you wrote" if number > last else f"response {number}"
            self.note = f"rate {which}: 1 (bad) to {person.BEST_RATING} (good)"
            return
        kind = {"t": "tie", "s": "skip"}.get(key, "better")
        choice = int(key) - 1 if kind == "better" else None
        words = tuple(map(tuple, flags)) + ((),) * (len(texts) - len(flags))
        answer = person.Answer(kind, choice, words, tuple(ratings), written)
        self.note = ""
        if questions.unanswered([self.question], labels.read_labels(self.path), self.name):
            labels.add(self.path, label.label_of(self.question, answer, self.name))
        else:  # another tab, or the terminal
            self.note = "that question was answered elsewhere; this is the next one"
        self.proceed()


class Talk:
    """A conversation with one or two checkpoints. `message` is the last one, `notes` say what else
    happened; `stopped` ends an answer after its token."""

    def __init__(self):
        self.settings = self.conversation = None
        self.message, self.notes, self.stopped = "", [], False

    def names(self):
        return [speaker.path for speaker in self.conversation.speakers]

    def prepare(self, settings):
        """`settings` is a chat.Config. Other checkpoints, or another template, begin anew;
        where they cannot be loaded, the conversation is as it was."""
        kept = {"temperature": 1.0, "seed": 1}
        fixed = dataclasses.replace(settings, **kept)
        if self.settings is None or fixed != dataclasses.replace(self.settings, **kept):
            self.conversation = chat.start(settings)
        elif settings.seed != self.settings.seed:
            self.conversation.seed, self.conversation.turn = settings.seed, 0
        self.conversation.temperature, self.settings = settings.temperature, settings

    def say(self, message, settings):
        """Yield after each token the turns (message, answer) of each checkpoint. An empty message
        has no answer."""
        self.notes = []
        if not message:
            return
        self.prepare(settings)
        self.stopped = False
        talk = self.conversation
        answers = talk.answers(message)
        self.notes = list(talk.notes)
        while not self.stopped and not all(answer.over for answer in answers):
            for answer in answers:
                next(answer, None)
            pairs = zip(talk.turns, answers, strict=True)
            yield [[*turns, (message, answer.text)] for turns, answer in pairs]
        self.notes += chat.cut_off(talk, answers)
        talk.add(message, answers)
        yield talk.turns


def shown(text, kind="text"):
    """A text from data or from a model as an element of the page, in which nothing is markup: lines
    stay lines, control characters are shown as such."""
    lines = [printable(line.expandtabs(4)) for line in text.strip("\n").splitlines()]
    visible = "\n".join(lines) if text.strip() else "(an empty text)"
    return f'<div class="{kind}">{escape(visible)}</div>'


def dialogue(name, turns):
    """The turns (message, answer) with a checkpoint as an element."""
    parts = [shown(asked, "you") + shown(answer, "it") for asked, answer in turns]
    return "\n".join([shown(name, "heading"), '<div class="talk">', *parts, "</div>"])


# ---- what there is to look at


def runs(folder):
    """{path: record} of the runs in a folder, the latest stage first."""
    levels = ["*/" * depth + "config.json" for depth in range(DEPTH)]
    places = [path.parent for level in levels for path in Path(folder).glob(level)]
    places.sort(key=lambda place: (place / "config.json").stat().st_mtime, reverse=True)
    records = {str(place): resume.read_record(place) for place in places}
    return {place: record for place, record in records.items() if record}


def policies(folder):
    """The paths of the checkpoints in a folder that answer prompts."""
    return [
        place
        for place, record in runs(folder).items()
        if record.get("stage") in POLICIES and (Path(place) / "checkpoint.pt").exists()
    ]


def sampled_policy(folder):
    """The SFT model of a folder, whose samples are labelled; "" if there is none."""
    records = runs(folder)
    return next((path for path in policies(folder) if records[path]["stage"] == "sft"), "")


def frame(place):
    """The page of a run (see tools/page.py) as an element that shares nothing with the page around
    it. A run without metrics yet says so."""
    records = read_metrics(place)
    if not records:
        return f"<p>{escape(shorten(place, 200))} has no metrics yet.</p>"
    text = page.document(place, page.section(Path(place).name, Path(place), records))
    return f'<iframe title="run" sandbox="allow-scripts" srcdoc="{escape(text)}"></iframe>'
