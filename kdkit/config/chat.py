"""Settings of instruction and chat data: a part of `data`, and of both models."""

from typing import Annotated, Literal

from pydantic import Field

from kdkit.config.types import Section


class ChatDataConfig(Section):
    """How the rows of a data set are read as conversations, and what of them is learnt."""

    format: Literal["auto", "text", "chat", "problems"] = "auto"
    """`chat`: rows are conversations (`messages`, `conversations`, prompt/response, instruction/input/output);
    `problems`: maths problems with answers (problem/solution/answer, or as in GSM8K and MATH); `text`: one column is
    the text; `auto`: problems or chat where the columns say so and `text_column` is none of them."""
    loss_on: Literal["answers", "last", "all"] = "answers"
    """What of a conversation is in the loss: all `answers`, the `last` one, or the contents of `all` messages. What
    the chat template writes around them is in none, the end of a turn aside."""
    prompt_template: Annotated[str, Field(min_length=1)] | None = None
    """The user's message, with columns in braces: `Summarise this: {article}`; null: by the columns' names. Of maths
    problems it is made of `{problem}`, to ask a chat model for the answer's form: `{problem} Box the answer.`"""
    answer_column: str | None = None
    """Column with the answer; null: `output`, `response`, `completion`, `answer` or `solution`."""
    skip_rows_where: str | None = None
    """Column of true and false; rows in which it is true are left out and counted."""
    bad_rows: Literal["refuse", "skip"] = "refuse"
    """Rows that are no conversation (an empty answer, roles out of order): stop at the first, or leave them out and
    count them."""


class ChatModelConfig(Section):
    """How a model reads conversations."""

    chat_template: str | None = None
    """Chat template (Jinja), as text or the name of a file, or `short`: a token that ends a turn and nothing else, for
    a tokenizer that is trained here; null: the tokenizer's own. One that is trained here gets ChatML."""
