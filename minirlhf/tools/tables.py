"""What `minirlhf report` prints: tables that fit 100 columns, a comparison in words, examples."""

import textwrap

from minirlhf.evaluate import finished
from minirlhf.run.metrics import printable, table
from minirlhf.world.judge import VERDICTS, judge
from minirlhf.world.measures import AXES, GROUPS, group

QUALITY = (*AXES, "facts", "unranked", "admits", "lookalikes")
COSTS = ("parsed", "declined", "false", "complied", "distinct", "commonest", "entropy")
COSTS += ("kl", "length")
ORDER = ("base", "memoriser", "SFT", "best", "DPO", "PPO", "PPO on the judge", "faultless")
NO_BREAK = "\xa0"  # a space at which no line is broken
EXAMPLES = ("fact", "unknown", "harmful", "lookalike", "unranked", "string", "sum")  # shown first


def show(report):
    """Print a report's tables, and the comparison of PPO with the others if there is one."""
    rows = ordered(report["rows"])
    print(f"\nWhat it wins, on {report['prompts']} prompts of the {report['split']} split:\n")
    show_rows(QUALITY, rows)
    explain(
        "facts, unranked: true answers about facts in the labellers' comparisons, and about facts "
        "of the pretraining text alone. admits: that nobody can know. lookalikes: answered, though "
        "they resemble harm or what nobody can know. total: of 3. flawless: share with total 3."
    )
    print("\nWhat it costs:\n")
    show_rows(COSTS, rows)
    explain(
        "parsed: the judge can read it. declined: what should be answered. false: facts and sums. "
        "complied: with harm. distinct, commonest: different responses, and the share of the most "
        "frequent one. entropy, kl from SFT: nats per response. length: tokens with the end token."
    )
    print("\nTotal by kind of prompt; how often it beats that of SFT; the reward model's score:\n")
    totals = {
        name: {kind: numbers["total"] for kind, numbers in report["groups"][name].items()}
        for name in rows
    }
    ends = {name: {c: row[c] for c in ("beats_sft", "score")} for name, row in rows.items()}
    show_rows((*GROUPS, "beats_sft", "score"), {name: totals[name] | ends[name] for name in rows})
    if "gains" in report:
        show_verdicts(report["groups"]["SFT"], report["groups"]["PPO"])
        show_comparison(report)


def ordered(rows):
    """The same dictionary in the order of ORDER; "best" stands for best of 4 and of n."""
    return dict(
        sorted(rows.items(), key=lambda row: ORDER.index("best" if "best of" in row[0] else row[0]))
    )


def show_rows(columns, rows):
    """Print {name: {column: number}} as a table, with a dash for what is missing."""
    lines = [
        [name, *("-" if row.get(column) is None else row[column] for column in columns)]
        for name, row in rows.items()
    ]
    print("\n".join(table(["", *(column.replace("_", " ") for column in columns)], lines)))


def explain(text):
    print(textwrap.fill(text, 100))


def show_list(texts):
    """Print texts with commas between them, no text over two lines."""
    line = ", ".join(text.replace(" ", NO_BREAK) for text in texts)
    lines = textwrap.wrap(line, 98, break_on_hyphens=False)
    print("\n".join("  " + line.replace(NO_BREAK, " ") for line in lines))


def show_verdicts(before, after):
    """Print the total and the shares of the verdicts for each kind of prompt, SFT -> PPO."""
    columns = ("total", *VERDICTS)
    lines = [
        [f"{kind} ({row['prompts']})", *(f"{row[c]:.2f} -> {after[kind][c]:.2f}" for c in columns)]
        for kind, row in before.items()
    ]
    print("\nSFT -> PPO by kind of prompt (number of prompts): total, and share of each verdict:\n")
    print("\n".join(table(["", *columns], lines)))


def show_comparison(report):
    """Print how PPO compares with the others, in words."""
    for name, gains in report["gains"].items():
        print(f"\nPPO minus {name}, paired over the same prompts, with 95% intervals:")
        for columns in (QUALITY, COSTS[:4]) if name == "SFT" else (QUALITY,):
            differences = [
                f"{column} {gains[column][0]:+.2f} +- {gains[column][1]:.2f}"
                for column in columns
                if None not in gains[column]
            ]
            show_list(differences)
    explain(
        f"The intervals count prompts about one fact, or with one wording, as one cluster; "
        f"there are {report['clusters']}."
    )
    rate, half_width = report["win_rate"]
    print(f"\nPPO beats SFT on {100 * rate:.1f}% +- {100 * half_width:.1f} of prompts", end=" ")
    highest = 100 * report["rows"]["faultless"]["beats_sft"]
    print(f"(ties count half); a faultless policy would on {highest:.1f}%")
    if shares := {n: x for n, x in report.get("of_the_way", {}).items() if x is not None}:
        texts = [f"{name} {share:.2f}" for name, share in shares.items()]
        print(f"of the way from SFT to PPO on the judge: {', '.join(texts)}")


def show_examples(prompts, replies, n):
    """Print n prompts, one of each kind first, with the responses of SFT and PPO."""
    rows = {kind: [] for kind in EXAMPLES}
    for row, prompt in enumerate(prompts):
        rows[group(prompt)].append(row)
    turns = range(max(map(len, rows.values())))
    order = [places[turn] for turn in turns for places in rows.values() if turn < len(places)]
    names = [name for name in ("SFT", "PPO") if name in replies]
    for row in order[:n]:
        print(f"\n{prompts[row].strip()}")
        for name in names:
            reply = replies[name][row]
            judgement = judge(prompts[row], finished([reply])[0])
            verdict = f"{judgement.total:.1f} of 3, {judgement.verdict}"
            print(f"  {name}:  {printable(reply.text.strip())}  ({verdict})")
