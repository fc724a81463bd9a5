"""Answers of every model to held-out prompts, beside the reference answers: what a conversation's scores measure.

All figures are means over prompts, with intervals over them. Answers are greedy, so they are the same every time.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdkit.config.tasks import EvaluateConfig
from kdkit.data.conversations import Conversation
from kdkit.data.text.duplicates import UNIT, WORDS, copy_rate, ngrams
from kdkit.errors import UserError
from kdkit.evaluate.significance import paired_t_test
from kdkit.models.generation import Sampling
from kdkit.models.writer import Writer, Written

MEASURES = ("rouge_l", "exact_match", "length", "stop_rate", "copied_from_prompt", "copied_from_training")
"""Of each answer: ROUGE-L (F1), whether it is the reference word for word, its words, whether the model ended it, and
the shares of its word 5-grams that stand in the prompt and in the training answers."""


def score_answers(
    writers: Mapping[str, Writer],
    conversations: Sequence[Conversation],
    training: Sequence[Conversation],
    settings: EvaluateConfig,
) -> dict[str, Any]:
    """Let every model answer the prompts of held-out conversations.

    Args:
        writers: by the model's name, the student among them.
        training: conversations whose answers could have been learnt by heart.

    Returns:
        `num_prompts`, `max_new_tokens`, `ngram` (words); `models`: per model a mean and its `interval_95` for every
        one of `MEASURES`, and `reference`: the same of the reference answers where it has a meaning; `differences`:
        per other model, student - model in ROUGE-L, in pairs of one prompt; `prompts`: the last message of each;
        `answers`: per prompt the reference and every model's text; `rouge_l`: per model one value a prompt.

        A teacher that cannot write is left out.

    Raises:
        UserError: no package rouge-score.
    """
    score_rouge = _rouge_scorer()
    sampling = Sampling(temperature=0.0, max_new_tokens=settings.max_answer_tokens)
    known = ngrams(each.answer for each in training)
    written = {}
    for name, writer in writers.items():
        try:
            written[name] = [row[0] for row in writer.write([each.prompt for each in conversations], sampling)]
        except UserError as error:
            if name != "teacher":
                raise
            print(f"answers: the teacher writes none: {error}")
    texts = {"reference": [Written(each.answer, 0, True) for each in conversations], **written}
    values = {
        name: [_measure(*pair, known, score_rouge) for pair in zip(conversations, answers, strict=True)]
        for name, answers in texts.items()
    }
    rouge = {name: [each["rouge_l"] for each in values[name]] for name in written}
    return {
        "num_prompts": len(conversations),
        "max_new_tokens": settings.max_answer_tokens,
        "ngram": WORDS,
        "models": {
            name: {key: _mean([each[key] for each in rows], key != "length") for key in MEASURES}
            for name, rows in values.items()
        },
        "differences": {name: _difference(rouge, name) for name in rouge if name not in ("student", "teacher")},
        "prompts": [each.prompt[-1].content for each in conversations],
        "answers": [{name: answers[i].text for name, answers in texts.items()} for i in range(len(conversations))],
        "rouge_l": rouge,
    }


def check_rouge(is_needed: bool) -> None:
    """Check that ROUGE can be measured if it is needed, before anything else is.

    Raises:
        UserError: no package rouge-score.
    """
    if is_needed:
        _rouge_scorer()


def _measure(
    conversation: Conversation, answer: Written, known: Any, score_rouge: Callable[[str, str], float]
) -> dict[str, float]:
    """Measure one answer."""
    prompt = "\n\n".join(message.content for message in conversation.prompt)
    units = _words(answer.text)
    return {
        "rouge_l": score_rouge(conversation.answer, answer.text),
        "exact_match": float(units == _words(conversation.answer)),
        "length": float(len(units)),
        "stop_rate": float(answer.stopped),
        "copied_from_prompt": copy_rate(answer.text, prompt),
        "copied_from_training": copy_rate(answer.text, known),
    }


def _words(text: str) -> list[str]:
    """Cut a text into words as ROUGE does, letters of every script included."""
    return [word for unit in UNIT.findall(text.lower()) for word in unit.split("_") if word]


def _rouge_scorer() -> Callable[[str, str], float]:
    """Return a function that gives ROUGE-L (F1) of a reference and an answer.

    Source: Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries; Google's implementation, but for its
    words: that drops every letter that is not ASCII.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import Tokenizer
    except ImportError as error:
        raise UserError(
            f"evaluate: expected the package rouge-score for answers to prompts, got {error}; pip install rouge-score, "
            "or set evaluate.num_answers=0"
        ) from None

    class Words(Tokenizer):
        def tokenize(self, text: str) -> list[str]:
            return _words(text)

    scorer = RougeScorer(["rougeL"], tokenizer=Words())
    return lambda reference, answer: scorer.score(reference, answer)["rougeL"].fmeasure


def _mean(values: list[float], is_share: bool) -> dict[str, Any]:
    """Return a mean and the interval of it, by Student's t, cut at what is possible."""
    test = paired_t_test(values)
    if test.interval is None:
        return {"mean": test.mean, "interval_95": None}
    low, high = test.interval
    return {"mean": test.mean, "interval_95": (max(low, 0.0), min(high, 1.0) if is_share else high)}


def _difference(rouge: Mapping[str, list[float]], name: str) -> dict[str, Any]:
    """Compare the student with another model, prompt by prompt."""
    test = paired_t_test([ours - theirs for ours, theirs in zip(rouge["student"], rouge[name], strict=True)])
    return {"mean": test.mean, "interval_95": test.interval}
