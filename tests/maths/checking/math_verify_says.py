"""Write what math-verify says of every case, with its defaults, beside the cases.

python -m tests.maths.checking.math_verify_says

Only new cases are asked about: delete the file for another version.
"""

import json
import logging

from math_verify import parse, verify

from tests.maths.checking.case_table import OTHER_VERDICTS, Case, read_cases


def ask(case: Case) -> str:
    """Return `right`, `wrong` or `unreadable`, as math-verify's quick start uses it."""
    gold, answer = (parse(f"${text}$") for text in (case.gold, case.answer))
    if not gold or not answer:
        return "unreadable"
    return "right" if verify(gold, answer) else "wrong"


def main() -> None:
    """Ask for every case."""
    logging.disable(logging.CRITICAL)
    known = {}
    if OTHER_VERDICTS.exists():
        known = {(row["gold"], row["answer"]): row["says"] for row in json.loads(OTHER_VERDICTS.read_text())}
    rows = []
    for case in read_cases():
        says = known.get((case.gold, case.answer)) or ask(case)
        rows.append({"gold": case.gold, "answer": case.answer, "says": says})
    OTHER_VERDICTS.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
