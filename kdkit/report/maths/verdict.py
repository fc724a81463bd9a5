"""What a report says first about a run of language models: of maths the right answers, then bits per byte."""

from typing import Any

from kdkit.report.maths.tables import maths_headline
from kdkit.report.tables import language_verdict


def run_verdict(evaluation: dict[str, Any]) -> str:
    """State what distillation was worth by the measure that the data are for, intervals (95 %) in brackets."""
    headline, language = maths_headline(evaluation), language_verdict(evaluation)
    if not headline:
        return language
    return f"{headline} In bits per byte, which says little about right answers: {language[0].lower()}{language[1:]}"
