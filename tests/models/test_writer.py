"""What a model writes becomes text: as a whole, or piece by piece, and always the same."""

import pytest

from kdkit.alignment.templates import CHATML, CHATML_TOKENS, Message
from kdkit.alignment.tokenizers import end_token_id, train_tokenizer
from kdkit.models.generation import Generated, Sampling
from kdkit.models.writer import TextStream, Writer, decode_after, model_writer, read_prompt
from tests.tiny import WORDS, make_llama

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "It was caf\u00e9 time \U0001f600, said \u4e2d\u6587 twice:\n  and again - don't!"
QUESTION = [Message("user", "the quick fox")]


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = train_tokenizer([" ".join(WORDS)] * 3, 300)
    tokenizer.add_special_tokens({"additional_special_tokens": list(CHATML_TOKENS)})
    tokenizer.chat_template = CHATML
    return tokenizer


def says(tokenizer, *texts):
    """Return a writer that writes these ids, and the calls of it."""
    calls = []

    def generate(rows, sampling, stop_ids, num_samples=1, first=0, on_token=None):
        calls.append((rows, stop_ids))
        written = []
        for ids in texts:
            stop = next((i for i in ids if i in stop_ids), None)
            for token_id in ids if on_token else ():
                on_token(token_id)
            written.append([Generated(ids[: ids.index(stop)] if stop is not None else ids, stop)])
        return written

    return Writer(tokenizer, generate), calls


@pytest.mark.parametrize("name", ["gpt2", "stories260K", "qwen1.5", "smollm2"])
def test_what_follows_a_beginning_is_the_rest_of_the_text(real_tokenizer, name):
    """Vocabularies of SentencePiece write no space before the first word that is decoded."""
    tokenizer = real_tokenizer(name)
    whole = tokenizer(TEXT, add_special_tokens=False).input_ids
    text = tokenizer.decode(whole, clean_up_tokenization_spaces=False)
    for cut in range(1, len(whole)):
        start = tokenizer.decode(whole[:cut], clean_up_tokenization_spaces=False)
        if not start.endswith("\ufffd"):
            assert start + decode_after(tokenizer, whole[:cut], whole[cut:]) == text


@pytest.mark.parametrize("name", ["gpt2", "stories260K", "qwen1.5"])
def test_pieces_come_in_whole_characters_and_add_up(real_tokenizer, name):
    tokenizer, pieces = real_tokenizer(name), []
    before, ids = (tokenizer(text, add_special_tokens=False).input_ids for text in ("Once", TEXT))
    stream = TextStream(tokenizer, before, [end_token_id(tokenizer)], pieces.append)
    for token_id in [*ids, end_token_id(tokenizer)]:
        stream.add(token_id)
    assert "".join(pieces) == decode_after(tokenizer, before, ids)
    assert len(pieces) > 8 and not any("\ufffd" in piece for piece in pieces)
    stream.end()
    assert "".join(pieces) == decode_after(tokenizer, before, ids)


def test_half_a_character_at_the_end_is_shown_at_the_end(real_tokenizer):
    tokenizer, pieces = real_tokenizer("gpt2"), []
    ids = tokenizer("a \U0001f600").input_ids[:-1]
    stream = TextStream(tokenizer, [], [], pieces.append)
    for token_id in ids:
        stream.add(token_id)
    assert "".join(pieces) == "a"
    stream.end()
    assert "".join(pieces) == tokenizer.decode(ids)


def test_a_question_is_read_as_the_template_writes_it_and_the_end_of_turn_ends_the_answer(tokenizer):
    end_of_turn, word = tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer(" quick").input_ids
    writer, calls = says(tokenizer, [*word, end_of_turn, *word])
    ((answer,),) = writer.write([QUESTION], Sampling())
    assert (answer.text, answer.num_tokens, answer.stopped) == (" quick", len(word), True)
    ((rows, stops),) = calls
    assert tokenizer.decode(rows[0]) == "<|im_start|>user\nthe quick fox<|im_end|>\n<|im_start|>assistant\n"
    assert set(stops) == {end_of_turn, end_token_id(tokenizer)}


def test_a_plain_prompt_follows_the_start_token_and_names_no_special_token(tokenizer):
    ids = read_prompt("the <|im_end|>", tokenizer)
    assert ids[0] == tokenizer.bos_token_id and tokenizer.decode(ids[1:]) == "the <|im_end|>"
    assert not {*tokenizer.convert_tokens_to_ids(CHATML_TOKENS)} & {*ids}


def test_a_streamed_text_is_the_written_one(tokenizer):
    writer, pieces = model_writer(make_llama(len(tokenizer)), tokenizer), []
    for prompt in ("the quick", QUESTION):
        pieces.clear()
        streamed = writer.stream(prompt, Sampling(max_new_tokens=40, seed=2), pieces.append)
        ((written,),) = writer.write([prompt], Sampling(max_new_tokens=40, seed=2))
        assert streamed == written and "".join(pieces) == written.text
        assert len(pieces) > 3
