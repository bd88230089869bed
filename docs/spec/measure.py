"""Records in libraries.json which sentences hold in a library:

    python -m pytest tests/spec --impl tests/spec/adapters/trl.py --junitxml out/trl.xml
    python docs/spec/measure.py TRL out/trl.xml --date 2026-11-21

The first line runs in the virtual environment of the library, which its adapter describes.
"""

import argparse
import json
import xml.etree.ElementTree as ElementTree
from collections import defaultdict

from sources import HERE, id_order, libraries

VERDICTS = {"failure": "does not hold", "holds": "holds", "skipped": "not offered"}


def verdicts(xml):
    """{id: verdict} from a JUnit report, with the cases that it is about if cases differ."""
    cases = defaultdict(lambda: defaultdict(list))  # id -> outcome -> parameters
    for case in ElementTree.parse(xml).iter("testcase"):
        properties = {x.get("name"): x.get("value") for x in case.iter("property")}
        if "id" in properties:
            outcome = next((x for x in VERDICTS if case.find(x) is not None), "holds")
            parameters = case.get("name").partition("[")[2].removesuffix("]")
            cases[properties["id"]][outcome].append(parameters)
    return {key: verdict(cases[key]) for key in sorted(cases, key=id_order)}


def verdict(outcomes):
    outcome = next(x for x in VERDICTS if x in outcomes)
    partial = len(outcomes) > 1 and outcome != "skipped"
    return VERDICTS[outcome] + (f" ({', '.join(outcomes[outcome])})" if partial else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", choices=libraries()["libraries"])
    parser.add_argument("xml", help="what pytest wrote with --junitxml")
    parser.add_argument("--date", required=True, help="of the measurement, as 2026-11-21")
    args = parser.parse_args()
    record = libraries()
    record["date"] = args.date
    record["libraries"][args.library]["verdicts"] = verdicts(args.xml)
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    (HERE / "libraries.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
