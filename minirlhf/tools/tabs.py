"""The page of `minirlhf web`: what its three tabs show, and what their buttons and keys do. What
they mean is in desk.py."""

import os

from minirlhf.feedback import person
from minirlhf.run import chain
from minirlhf.run.config import InputError, one_line
from minirlhf.tools import chat, desk, label, templates

CSS = """
.gradio-container { width: 100%; max-width: 1180px !important;
  margin: 0 auto !important; }
.html-container { padding: 0 !important; }
.text, .you, .it, .note { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 16px;
  line-height: 1.5; }
.text { max-height: 45vh; overflow-y: auto; min-height: 3em; padding: .6em .9em;
  border: 1px solid var(--border-color-primary); border-radius: 8px;
  background: var(--background-fill-secondary); }
.heading { opacity: .75; white-space: pre-wrap; }
.note { color: var(--color-accent); font-weight: 600; }
.talk { height: 42vh; overflow-y: auto; }
.you, .it { width: fit-content; max-width: 90%; padding: .4em .8em; margin: .4em 0;
  border-radius: 10px; background: var(--background-fill-secondary); }
.you { margin-left: auto; background: var(--color-accent-soft); }
iframe { width: 100%; height: 82vh; border: 1px solid var(--border-color-primary); }
"""
# A key presses the button with its name. Repeated keys and double clicks, which would answer a
# question that nobody has read, do not count.
KEYS = """() => {
  let word = -1;
  const visible = (id) => {
    const found = document.getElementById(id);
    return found && found.offsetParent ? found : null;
  };
  document.addEventListener("click", (event) => {
    if (event.detail > 1 && event.target.closest("[id^=press-], [id^=rate-]"))
      event.stopImmediatePropagation();
  }, true);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !visible("sheet")) return;
    if (event.target.matches("textarea, input:not([type=checkbox])")) {
      if (event.key === "Escape" || event.key === "Enter") event.target.blur();
      return;
    }
    const key = event.key.toLowerCase(), flags = visible("flags-" + key);
    if (word >= 0 && flags) flags.querySelectorAll("input")[word].click();
    else if (key === "w") document.querySelector("#written textarea").focus();
    else (visible("rate-" + key) || visible("press-" + key))?.click();
    word = key.length === 1 ? "ruh".indexOf(key) : -1;
    if (key.length === 1) event.preventDefault();
  });
}"""
HELP = (
    "Keys: 1 2 better; t tie; s skip; z undo; r u h and a number: that response is rude, untrue, "
    "harmful; w write a better answer, Enter ends it. Every answer is saved at once, and the same "
    "name goes on where it stopped."
)
OTHERS = {"t": "tie", "s": "skip", "z": "undo"}
NOBODY = "nobody"  # in place of a second checkpoint


def build(gr, args):
    """The page. `gr` is Gradio, `args` the flags of web.py."""
    with gr.Blocks(title="minirlhf", analytics_enabled=False) as page:
        with gr.Tab("Label"):
            LabelTab(gr, args)
        with gr.Tab("Chat") as tab:
            ChatTab(gr, args, tab)
        with gr.Tab("Run") as tab:
            run_tab(gr, args, tab)
    return page


def line(gr, text, kind):
    """The update that shows a line, which takes no place if there is nothing to say."""
    return gr.update(value=desk.shown(text, kind), visible=bool(text))


def names(paths, folder):
    """The choices of a list: paths of runs, by their places in a folder."""
    return [(os.path.relpath(path, folder).replace("\\", "/"), path) for path in paths]


# ---- label


class LabelTab:
    """The labeller's name, then a question with its answers; the state is a Desk."""

    def __init__(self, gr, args):
        self.gr, self.args = gr, args
        self.state = gr.State()
        with gr.Row(equal_height=True) as self.entrance:
            name = gr.Textbox(label.labeller_name(args), label="Your name", scale=4)
            start = gr.Button("Start", variant="primary")
        self.heading = gr.HTML(elem_id="heading", visible=False)
        self.note = gr.HTML(elem_id="note", visible=False)
        with gr.Column(visible=False, elem_id="sheet") as self.sheet:
            self.prompt = gr.HTML(elem_id="prompt")
            with gr.Row():
                self.sides = [Side(gr, k) for k in range(1, person.MOST_RESPONSES + 1)]
            self.written = gr.Textbox(label="A better answer", elem_id="written", max_lines=6)
        with gr.Row(visible=False) as self.answers:
            others = [gr.Button(f"{k}: {w}", elem_id=f"press-{k}") for k, w in OTHERS.items()]
        with gr.Row(visible=False) as self.scale:
            ratings = [gr.Button(k, elem_id=f"rate-{k}") for k in desk.RATINGS]
        gr.HTML(desk.shown(HELP, "heading"))
        outputs = [self.state, self.entrance, self.heading, self.note, self.sheet, self.prompt]
        outputs += [self.written, self.answers, self.scale]
        outputs += [part for side in self.sides for part in side.parts]
        gr.on([start.click, name.submit], self.begin, name, outputs)
        buttons = [*(side.button for side in self.sides), *others, *ratings]
        inputs = [self.state, self.written, *(side.flags for side in self.sides)]
        clicks = [button.click for button in buttons]
        gr.on(clicks, self.press_function(), inputs, outputs, show_progress="hidden")

    def begin(self, name):
        try:
            return self.view(desk.Desk(self.args, name))
        except (InputError, OSError) as error:
            return {self.note: line(self.gr, one_line(error), "note")}

    def press_function(self):
        """What a button does, as a function whose annotation Gradio reads."""

        def press(event: self.gr.EventData, state, written, *flags):
            K = len(state.question.responses) if state.question else 0
            kind, key = event.target.elem_id.split("-")
            try:
                state.press(key, flags[:K], written, rating=kind == "rate")
            except (InputError, OSError) as error:
                state.note = one_line(error)
            return self.view(state)

        return press

    def view(self, state):
        """The updates that show a Desk."""
        gr, question, rating = self.gr, state.question, state.draft is not None
        updates = {
            self.state: state,
            self.entrance: gr.update(visible=False),
            self.heading: line(gr, state.heading, "heading"),
            self.note: line(gr, state.note, "note"),
            self.sheet: gr.update(visible=question is not None),
            self.answers: gr.update(visible=not rating),
            self.scale: gr.update(visible=rating),
        }
        if rating or question == state.seen or not question:
            return updates
        state.seen = question
        updates |= {self.prompt: desk.shown(question.prompt), self.written: ""}
        missing = [None] * (len(self.sides) - len(question.responses))
        pairs = zip(self.sides, [*question.responses, *missing], strict=True)
        return updates | {x: update for side, text in pairs for x, update in side.view(gr, text)}


class Side:
    """One response, with its flags and the button that chooses it."""

    def __init__(self, gr, number):
        with gr.Column(visible=False, min_width=320) as column:
            text = gr.HTML(elem_id=f"response-{number}")
            words = list(person.FLAGS.values())
            self.flags = gr.CheckboxGroup(
                words, show_label=False, container=False, elem_id=f"flags-{number}"
            )
            caption, name = f"{number}: better", f"press-{number}"
            self.button = gr.Button(caption, variant="primary", elem_id=name)
        self.parts = column, text, self.flags

    def view(self, gr, text):
        """The updates that show a text; None: there is no such response."""
        column, shown, flags = self.parts
        yield column, gr.update(visible=text is not None)
        if text is not None:
            yield from [(shown, desk.shown(text)), (flags, [])]


# ---- chat


class ChatTab:
    """One or two checkpoints side by side; the state is a Talk."""

    def __init__(self, gr, args, tab):
        self.gr, self.args = gr, args
        self.state = gr.State()
        paths = desk.policies(args.runs)
        with gr.Row():
            first = gr.Dropdown(
                self.choices(), value=paths[0] if paths else None, label="Checkpoint"
            )
            second = gr.Dropdown([NOBODY, *self.choices()], value=NOBODY, label="Beside it")
            template = gr.Dropdown(templates.TEMPLATES, value="auto", label="Template")
        with gr.Row():
            temperature = gr.Number(1, label="Temperature", minimum=0)
            limit = gr.Number(0, label="Most tokens (0: as trained)", minimum=0, precision=0)
            seed = gr.Number(args.seed, label="Seed", minimum=0, precision=0)
        with gr.Row():
            self.columns = [gr.HTML(elem_id=f"talk-{k}", autoscroll=True) for k in range(2)]
        self.note = gr.HTML(elem_id="talk-note", visible=False)
        self.message = gr.Textbox(label="Your message, then Enter", max_lines=6, elem_id="message")
        with gr.Row():
            send, stop, new = (
                gr.Button("Send", variant="primary"),
                gr.Button("Stop"),
                gr.Button("New"),
            )
        if any(chain.trained_on(path) == chain.WORLD for path in paths):
            texts = [[text.strip()] for text in chat.examples().values()]
            gr.Examples(texts, self.message, label="What the embedded world can be asked")
        settings = [first, second, template, temperature, limit, seed]
        gr.on(
            [self.message.submit, send.click],
            self.take,
            [self.state, self.message],
            [self.state, self.message],
            show_progress="hidden",
        ).then(
            self.say, [self.state, *settings], [*self.columns, self.note], show_progress="hidden"
        )
        stop.click(self.stop, self.state, None, queue=False)
        new.click(lambda: (None, "", ""), None, [self.state, *self.columns])
        tab.select(self.look, None, [first, second])

    def take(self, talk, message):
        """The message leaves its box, so that the next one can be typed meanwhile."""
        talk = talk or desk.Talk()
        talk.message = message.strip()
        return talk, ""

    def say(self, talk, *values):
        """The updates after each token. Each has all there is to show: a browser that is slower
        than the tokens leaves some out."""
        talks, note = [self.gr.skip()] * 2, ""
        try:
            for sides in talk.say(talk.message, self.settings(*values)):
                talks = [desk.dialogue(*side) for side in zip(talk.names(), sides, strict=True)]
                talks += [""] * (2 - len(talks))
                yield *talks, line(self.gr, "", "note")
            note = "; ".join(talk.notes)
        except (InputError, OSError) as error:
            note = one_line(error)
        yield *talks, line(self.gr, note, "note")

    def settings(self, first, second, template, temperature, limit, seed):
        """A chat.Config."""
        if not first:
            raise InputError(f"--runs {self.args.runs} has no checkpoint to talk to")
        shared = {name: getattr(self.args, name) for name in ("device", "precision", "threads")}
        return chat.Config(
            policy=first,
            baseline="" if second in (NOBODY, None) else second,
            template=template,
            temperature=1.0 if temperature is None else float(temperature),
            max_new_tokens=limit or 0,
            seed=seed or 0,
            **shared,
        )

    def stop(self, talk):
        if talk:
            talk.stopped = True

    def look(self):
        """The checkpoints that there are by now."""
        choices = self.choices()
        return self.gr.update(choices=choices), self.gr.update(choices=[NOBODY, *choices])

    def choices(self):
        return names(desk.policies(self.args.runs), self.args.runs)


# ---- run


def run_tab(gr, args, tab):
    run = gr.Dropdown([], label="Run")
    again = gr.Button("Refresh", size="sm")
    view = gr.HTML(elem_id="view")

    def look(place):
        """The runs that there are by now, and one of them."""
        paths = list(desk.runs(args.runs))
        place = place or next(iter(paths), None)
        update = gr.update(choices=names(paths, args.runs), value=place)
        none = desk.shown(f"{args.runs} holds no run yet", "note")
        return update, desk.frame(place) if place else none

    gr.on([tab.select, again.click, run.input], look, run, [run, view])
