"""`make spec` writes docs/SPEC.md and docs/BEHAVIOUR.md from the tests, lists new ids, and counts
the lines of code in the README's table anew.

python docs/spec/write.py
"""

import behaviour
import readme
import specification
from sources import HERE, ROOT, id_problems, listed_ids, portable_tests

DOCUMENTS = {  # file: what has to stand in it
    ROOT / "docs" / "SPEC.md": specification.document,
    ROOT / "docs" / "BEHAVIOUR.md": behaviour.document,
}


def publish(ids):
    """Adds new ids to published_ids.txt, from which nothing is ever removed. An abuse of an id is
    an error, before anything is written."""
    published = listed_ids("published_ids.txt")
    new = [identifier for identifier in dict.fromkeys(ids) if identifier not in published]
    problems = id_problems(ids, published + new, listed_ids("retired_ids.txt"))
    if problems:
        raise SystemExit("\n".join(problems))
    with open(HERE / "published_ids.txt", "a", encoding="utf-8") as file:
        file.writelines(f"{identifier}\n" for identifier in new)


def main():
    publish([test.sentence.id for test in portable_tests()])
    for path, document in DOCUMENTS.items():
        path.write_text(document(), encoding="utf-8")
    page = ROOT / "README.md"
    page.write_text(readme.with_counts(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
