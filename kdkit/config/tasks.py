"""Settings of what models are judged by: a task of embedding models, and the evaluation of language models."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from kdkit.config.types import AnyShare, Count, Positive, Section


def as_label(value: object) -> str:
    """Return a label as text, the same for all ways to write it: `True`, `yes`, `1.0` and 1 are the label `1`.

    Words and numbers are read as YAML reads them, so that a setting names the label of a file in the file's own words.
    """
    text = str(value).strip()
    word = text.lower()
    if word in YES or word in NO:
        return str(int(word in YES))
    whole, dot, rest = text.partition(".")
    return whole if dot and not rest.strip("0") and rest and whole.lstrip("-").isdigit() else text


def _as_text(value: object) -> object:
    """Read numbers and truth values as the label that a data file has for them."""
    return as_label(value) if isinstance(value, str | int | float) else value


YES, NO = ("true", "yes", "on"), ("false", "no", "off")
Label = Annotated[str, BeforeValidator(_as_text)]
"""A label of a data set."""


RANKED = ("retrieval", "reranking")
"""Kinds of tasks that rank documents."""
TaskColumn = Literal["sentence1", "sentence2", "label", "score", "query", "positive", "negative"]
"""What a column of a task can hold; the last three are those of reranking, which may hold lists."""


class Task(Section):
    """A data set that embeddings are judged by."""

    name: str
    """Name in tables."""
    kind: Literal["sts", "classification", "pairs", "retrieval", "reranking"]
    """Spearman of cosines and scores; a linear probe on labels; telling related pairs from others by cosine; nDCG@10 of
    all documents ranked for each query; average precision of each query's own list of documents."""
    path: str
    """A .csv, .tsv, .json, .jsonl or .parquet file, or a hub data set's name; for retrieval a folder with corpus.jsonl,
    queries.jsonl and qrels/SPLIT.tsv, or a hub data set with such configurations."""
    configuration: str | None = None
    """Configuration of a hub data set; for retrieval the one with the judgements."""
    revision: str | None = None
    """Hub revision; pin it."""
    split: str = "test"
    """Split of a hub data set that is scored, or of the judgements of a folder."""
    fit_path: str | None = None
    """File of the texts a probe is fitted on (classification), or on which the threshold is chosen (pairs)."""
    fit_split: str | None = None
    """The same as a split of the hub data set; neither: only what needs no fitting is reported."""
    columns: dict[TaskColumn, str] = Field(default_factory=dict)
    """Names of the columns where they differ."""
    query_prompt: str = "query"
    """Text before every query (retrieval, reranking), or the name of one of the model's prompts; `query`: that prompt,
    where the model has it, else what it always reads."""
    document_prompt: str = "document"
    """The same for documents, where the prompt may also be called `passage` or `corpus`."""
    positive_label: Label = "1"
    """Label of a related pair (pairs)."""
    samples_per_label: Count = 8
    """Texts per label in the n-shot protocol (classification)."""
    max_rows: Count | None = None
    """Rows or queries at most, the first ones; null: all."""
    bad_rows: Literal["refuse", "skip"] = "refuse"
    """Rows without a label or score: stop at the first, or leave them out and count them. Rows without a sentence are
    left out and counted either way."""


class EvaluateConfig(Section):
    """What notebook 04 measures."""

    batch_size: Count = 8
    """Sequences in a batch."""
    max_sequences: Count | None = None
    """Evaluation sequences to score at most; null: all."""
    curve_sequences: Count = 64
    """Evaluation sequences behind each point of a learning curve."""
    top_k: Count = 5
    """Size of the top-k sets whose overlap with the teacher's is reported."""
    num_prompts: Count = 4
    """Held-out openings that every model continues."""
    prompt_length: Count = 24
    """Words of an opening."""
    max_new_tokens: Count = 48
    """Tokens of a continuation."""
    generation_temperature: Positive = 0.8
    """Sampling temperature of continuations, of the whole distribution."""
    num_answers: Annotated[int, Field(ge=0)] = 48
    """Held-out prompts of conversations that every model answers, always with the most likely token; 0: none."""
    max_answer_tokens: Count = 128
    """Tokens of such an answer."""
    calibration_bins: Count = 15
    """Bins of equally many tokens in which confidence is compared with accuracy."""
    frequency_bins: Count = 5
    """Bins of held-out tokens, from those that are rare in the training text to the frequent ones."""
    sliding_sequences: Annotated[int, Field(ge=0)] = 16
    """Held-out sequences whose text is also read by a sliding window, and document by document; 0: none."""
    stride: AnyShare = 0.5
    """How far a sliding window moves on, as a share of its length: 0.25 gives more context, and takes twice as long."""
    diversity_prompts: Annotated[int, Field(ge=0)] = 16
    """Held-out openings whose continuations show how varied a model writes and what it copies; 0: none. Of
    conversations the answers do."""
    minimal_pairs: str | None = None
    """Pairs of sentences of which one breaks a rule of grammar: `kdkit-grammar` (English, made here), or a .jsonl file
    or folder of such files with `sentence_good` and `sentence_bad`, as BLiMP's; null: none are judged."""
