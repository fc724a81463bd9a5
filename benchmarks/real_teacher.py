"""A pretrained teacher (stories260K on TinyStories): does it pay, with much text and with little?

    KDKIT_TEST_DATA=FOLDER python -m benchmarks.real_teacher [--seeds 0 1 2] [--texts much little] [-p KEY=VALUE ...]

FOLDER holds `models/stories260K` and `lm/tinystories_a.txt`. The student has a tokenizer of its own, three times as
large as the teacher's. `much`: 2.4 MB, 250 steps, the teacher in memory. `little`: 210 stories that are read again and
again; the teacher is asked once, and its answers are kept. See `benchmarks.equal_time` for what is compared. Writes
`benchmarks/results/real_teacher.json` after every seed, and runs no seed again that it holds.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from benchmarks.equal_time import compare, print_table, summary

RESULTS = Path(__file__).parent / "results" / "real_teacher.json"

TEXTS = {
    "much": [],
    "little": [
        "data.subset_size=300",
        "data.evaluation_fraction=0.3",
        "cache.enabled=true",
    ],
}
"""Settings by the name of the text, beside those of the demo."""


def main() -> None:
    """Run every seed that is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--texts", nargs="+", choices=TEXTS, default=list(TEXTS))
    parser.add_argument("--limits", type=int, nargs="*", default=[])
    parser.add_argument("-p", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    folder = os.environ.get("KDKIT_TEST_DATA")
    if not folder:
        print("skipped: KDKIT_TEST_DATA is unset (a folder with models/stories260K and lm/tinystories_a.txt)")
        return
    paths = [
        f"data.path={folder}/lm/tinystories_a.txt",
        f"teacher.path={folder}/models/stories260K",
        "teacher.max_length=256",
    ]
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    for text in arguments.texts:
        for seed in arguments.seeds:
            if any((row["text"], row["seed"]) == (text, seed) for row in rows):
                continue
            settings = [*paths, *TEXTS[text], *arguments.overrides]
            limits = arguments.limits if seed == arguments.seeds[0] else []
            rows.append({"text": text, **compare("configs/demo.yaml", seed, settings, limits)})
            RESULTS.write_text(json.dumps(summary([Path(word).name for word in sys.argv], rows), indent=1))
        print(f"{text} text:")
        print_table([row for row in rows if row["text"] == text])


if __name__ == "__main__":
    main()
