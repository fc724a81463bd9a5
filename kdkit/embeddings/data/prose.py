"""English sentences out of documents that mix prose with code, signatures, lists and tables.

Strict rather than complete: what might be code or half a sentence is left out, since Python's documentation has more
sentences than a small student needs.
"""

import re
from collections.abc import Iterator

MIN_WORDS, MAX_WORDS = 4, 60

_RULER = re.compile(r"\s*([*=~^#+-])\1{2,}\s*$")
_BULLET = re.compile(r"\s*(?:[*+-]|\(?\w\)|\d+\.|\w\.)\s+(?=\S)")
_ROLE = re.compile(r":[a-z:]+:(?=`)")
_MARKS = re.compile(r"``|`(?=\w)|(?<=\w)`_{0,2}|\*\*?(?=\w)|(?<=[\w.])\*\*?")
_END = re.compile(r"(?<=[.!?])(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\betc\.)(?<!\bcf\.)(?<!\bvs\.)\s+(?=[A-Z\"'(])")
_CODE = re.compile(r"[<>{}\[\]=|\\_@#$%^~/]|::|--|->|\w\(|\)\w|\.\.|\d\.\d|\(\)|\w\w\.\w|:\s|\s\s|Copyright")
_WORD = re.compile(r"[\"'(]*[A-Za-z]+(?:[-'][A-Za-z]+)*[.,;:!?\"')]*")
_FUNCTION_WORD = re.compile(r"\b(?:the|an?|is|are|be|was|of|to|in|this|that|it|you|and|or|for|with|not|if)\b")
_COMPLETE = re.compile(r"[A-Z].*[a-z)\"'][.!?]", flags=re.DOTALL)


def cut_sentences(document: str) -> list[str]:
    """Return the complete English sentences of 4 to 60 words of a document, in order, without markup."""
    found = []
    for block in _blocks(document):
        text = _MARKS.sub("", _ROLE.sub("", block))
        found += [sentence for sentence in _END.split(text) if is_prose(sentence)]
    return found


def is_prose(sentence: str) -> bool:
    """Return whether a text is one complete sentence of ordinary words: no code, no list, no heading."""
    words = sentence.split()
    if not MIN_WORDS <= len(words) <= MAX_WORDS or not _COMPLETE.fullmatch(sentence) or _CODE.search(sentence):
        return False
    if sentence.count("(") != sentence.count(")") or sentence.count('"') % 2:
        return False
    ordinary = sum(_WORD.fullmatch(word) is not None for word in words)
    capitals = sum(word[0].isupper() for word in words[1:])
    return ordinary >= 0.9 * len(words) and capitals <= 0.3 * len(words) and bool(_FUNCTION_WORD.search(sentence))


def _blocks(document: str) -> Iterator[str]:
    """Yield stretches of lines with one indentation, each joined to one line; a list's items are blocks."""
    block: list[str] = []
    margin = 0
    for line in [*document.splitlines(), ""]:
        bullet = _BULLET.match(line)
        text = line[bullet.end() :].strip() if bullet else line.strip()
        indent = bullet.end() if bullet else len(line) - len(line.lstrip())
        if block and (not text or bullet or indent != margin or _RULER.match(line)):
            yield " ".join(block)
            block = []
        if text and not _RULER.match(line):
            block.append(text)
            margin = indent
