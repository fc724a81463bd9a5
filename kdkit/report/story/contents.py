"""The contents of a page: every heading gets an anchor, and the list of them stands at the top."""

import html
import re

from markupsafe import Markup

HEADING = re.compile(r"<h2>(.*?)</h2>", re.DOTALL)
ANCHORED = re.compile(r'<h2 id="([^"]+)">(.*?)</h2>', re.DOTALL)
MARKUP = re.compile(r"<[^>]*>")


def anchored(body: str) -> Markup:
    """Give every `<h2>` of a rendered body an anchor made of its words; text of a run has no tags in it."""
    taken: set[str] = set()

    def with_anchor(heading: re.Match[str]) -> str:
        """Number an anchor that another heading has."""
        words = re.findall(r"[a-z0-9]+", html.unescape(MARKUP.sub("", heading[1])).lower())
        name = anchor = "-".join(words) or "section"
        count = 1
        while anchor in taken:
            count += 1
            anchor = f"{name}-{count}"
        taken.add(anchor)
        return f'<h2 id="{anchor}">{heading[1]}</h2>'

    return Markup(HEADING.sub(with_anchor, str(body)))


def contents(body: str) -> list[tuple[str, str]]:
    """Return anchor and words of every heading of an anchored body, in order."""
    return [(anchor, html.unescape(MARKUP.sub("", words))) for anchor, words in ANCHORED.findall(str(body))]
