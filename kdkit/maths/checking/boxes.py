r"""The answer inside a solution: `\boxed{}`, or behind the four hashes of GSM8K."""

import re

from kdkit.config.maths.settings import PolicyConfig

BOX = re.compile(r"\\(?:boxed|fbox)\s*(\{|[^\s{}])")
HASHES = "####"


def find_answer(text: str, policies: PolicyConfig) -> str | None:
    r"""Find the final answer of a solution.

    Args:
        text: of the solution.
        policies: `several_boxes` says what two boxes mean.

    Returns:
        The LaTeX in the box; without one what follows `####` on its line; None where there is neither, where it is
        empty, where a brace is never closed, and where the policy refuses several boxes.
    """
    boxes = _find_boxes(text)
    if not boxes:
        if HASHES not in text:
            return None
        line = text.rsplit(HASHES, 1)[1].strip().splitlines()
        return line[0].strip() if line else None
    chosen = boxes[0] if policies.several_boxes == "first" else boxes[-1]
    if policies.several_boxes == "refuse" and len(boxes) > 1:
        return None
    if policies.several_boxes == "agree" and len({"".join(box.split()) for box in boxes}) > 1:
        return None
    return chosen.strip() or None


def _find_boxes(text: str) -> list[str]:
    """List what stands in boxes; a box inside a box is part of the outer one."""
    found, start = [], 0
    while match := BOX.search(text, start):
        if match[1] != "{":
            found.append(match[1])
            start = match.end()
            continue
        end = _find_end(text, match.end())
        if end is None:
            start = match.end()
            continue
        found.append(text[match.end() : end])
        start = end
    return found


def _find_end(text: str, start: int) -> int | None:
    """Find the brace that closes the one before `start`."""
    depth, position = 1, start
    while position < len(text):
        letter = text[position]
        if letter == "\\":
            position += 1  # what follows is no brace of ours
        elif letter in "{}":
            depth += 1 if letter == "{" else -1
            if not depth:
                return position
        position += 1
    return None
