"""A person as the labeller: a question on the screen, and an answer by single keys."""

from dataclasses import dataclass, field

from minirlhf.feedback.screen import clear, width, wrapped

FLAGS = {"r": "rude", "u": "untrue", "h": "harmful"}
MOST_RESPONSES, BEST_RATING = 9, 5  # keys 1 to 9
UNDO, QUIT = "undo", "quit"
HELP = """1 to {K}: that response is the better one; of several, the best one
t: a tie, no response is better
s: skip the question, without an answer
z: take the last answer back; its question is asked again
r, u, h and a number: that response is rude, untrue, harmful; again: it is not
w: write a better answer than all that are shown
q: quit; every answer is saved already, and the same command goes on here"""


@dataclass(frozen=True)
class Answer:
    """An answer to a question. `choice` is the index of the better response, None if there is none;
    `written` is a better one, "" if there is none."""

    kind: str  # "better", "tie", "skip"
    choice: int | None = None
    flags: tuple = ()  # a tuple of words for each response
    ratings: tuple = ()
    written: str = ""


@dataclass
class Draft:
    """What has been said about a question before it is answered."""

    flags: list  # a list of words for each response
    written: str = ""
    ratings: list = field(default_factory=list)


class Person:
    """Asks on a terminal. `keys` is a keyboard; with `rate` each response gets a rating."""

    def __init__(self, keys, rate=False):
        self.keys, self.rate, self.note = keys, rate, ""
        self.first = True  # what stands on the screen before the first question stays there

    def answer(self, question, heading):
        """An Answer, UNDO or QUIT."""
        draft = Draft([[] for _ in question.responses])
        numbers = [str(i + 1) for i in range(len(question.responses))]
        while True:
            self.show(question, draft, heading, self.note)
            self.note = ""
            key = self.keys.key().lower()
            if key in ("", "q"):
                return QUIT
            if key == "z":
                return UNDO
            if key in (*numbers, "t", "s"):
                choice = numbers.index(key) if key in numbers else None
                kind = {"t": "tie", "s": "skip"}.get(key, "better")
                if answer := self.complete(question, draft, heading, kind, choice):
                    return answer
            else:
                self.note = self.remark(key, question, draft, numbers)

    def show(self, question, draft, heading, note):
        """The question on a cleared screen, with all that has been said about it."""
        if not self.first:
            clear()
        self.first = False
        lines = ["", *wrapped(heading), "-" * width(), "", *wrapped(question.prompt), ""]
        for number, text in enumerate(question.responses, start=1):
            lines += [*wrapped(text, f"{number}   "), *remarks(draft, number), ""]
        if draft.written:
            number = len(question.responses) + 1
            lines += [*wrapped(draft.written, "you "), *remarks(draft, number), ""]
        lines += keys_line(len(question.responses))
        print("\n".join([*lines, "", *(wrapped(note) if note else [])]), flush=True)

    def complete(self, question, draft, heading, kind, choice):
        """The Answer; None if the ratings were broken off."""
        texts = [*question.responses, *filter(None, [draft.written])]
        while self.rate and kind != "skip" and len(draft.ratings) < len(texts):
            number = len(draft.ratings) + 1
            last = "the one you wrote" if number > len(question.responses) else f"response {number}"
            self.show(question, draft, heading, f"rate {last}: 1 (bad) to {BEST_RATING} (good)")
            key = self.keys.key()
            if key and key in "12345":
                draft.ratings.append(int(key))
            else:
                draft.ratings.clear()
                self.note = "no rating from 1 to 5, so the question is not answered yet"
                return None
        flags = [tuple(words) for words in draft.flags]
        flags += [()] * (len(texts) - len(flags))
        ratings = () if kind == "skip" else tuple(draft.ratings)
        return Answer(kind, choice, tuple(flags), ratings, draft.written)

    def remark(self, key, question, draft, numbers):
        """What a key that is no answer does to the draft. Returns what is to be said about it."""
        if key in FLAGS:
            return self.toggle(FLAGS[key], draft, numbers)
        if key == "w":
            text = self.keys.line("a better answer, then Enter (nothing: none): ")
            if " ".join(text.split()) in (" ".join(r.split()) for r in question.responses):
                return "that is one of the responses: press its number"
            draft.written = text
            return "now say which of the others is better" if text else ""
        if key == "?":
            return HELP.format(K=len(numbers))
        return f"{key!r} is no key here; ? shows all keys"

    def toggle(self, word, draft, numbers):
        print(f"{word}: which response, {' or '.join(numbers)}? ", end="", flush=True)
        key = self.keys.key()
        if key not in numbers:
            return "no such response: no flag"
        words = draft.flags[int(key) - 1]
        (words.remove if word in words else words.append)(word)
        return ""


def remarks(draft, number):
    """The line of a response's flags and rating, if it has any."""
    words = draft.flags[number - 1] if number <= len(draft.flags) else []
    rating = [f"rated {draft.ratings[number - 1]}"] if number <= len(draft.ratings) else []
    return [f"    [{', '.join([*words, *rating])}]"] if words or rating else []


def keys_line(K):
    better = " ".join(str(i + 1) for i in range(K))
    return [
        f"{better} better   t tie   s skip   z undo   w write   q quit   ? help",
        "r rude   u untrue   h harmful, then a number",
    ]
