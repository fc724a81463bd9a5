from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

from kdkit.alignment.characters import NO_GROUP, Ragged, TokenGroups, align_by_offsets
from kdkit.alignment.spelling import align_by_spelling, importance_weights, spell
from kdkit.alignment.warping import warp
from kdkit.embeddings.data.token_pairs import pair_tokens, tokenize_texts
from kdkit.embeddings.models.embedder import tokenize
from kdkit.errors import UserError


def spans(text, *tokens):
    """Return the offsets of tokens that stand in a text one after the other."""
    found, start = [], 0
    for token in tokens:
        start = text.index(token, start) if token else start
        found.append((start, start + len(token)))
        start += len(token)
    return np.array(found).reshape(-1, 2)


def align(text, student, teacher):
    """Align two lists of tokens, given as they stand in the text; empty ones cover nothing."""
    groups = align_by_offsets(text, spans(text, *student), spans(text, *teacher))
    return [group.tolist() for group in groups]


def reference_groups(text, student, teacher):
    """Join tokens that share a letter, transitively, one pair at a time; number components with both sides."""
    letters = [
        [frozenset(i for i in range(*span) if not text[i].isspace()) for span in side] for side in (student, teacher)
    ]
    nodes = [(side, i) for side in (0, 1) for i in range(len(letters[side]))]
    component = {node: node for node in nodes}
    for i, j in product(range(len(student)), range(len(teacher))):
        if letters[0][i] & letters[1][j]:
            old, new = component[1, j], component[0, i]
            component = {node: new if value == old else value for node, value in component.items()}
    members = {}
    for node, value in component.items():
        members.setdefault(value, []).append(node)
    groups = [group for group in members.values() if {side for side, _ in group} == {0, 1}]
    groups.sort(key=lambda group: min(min(letters[side][i]) for side, i in group))
    result = [[NO_GROUP] * len(student), [NO_GROUP] * len(teacher)]
    for number, group in enumerate(groups):
        for side, i in group:
            result[side][i] = number
    return result


def test_equal_tokens_are_aligned_one_by_one():
    assert align("a man sings", ["a", " man", " sings"], ["a", "man", "sings"]) == [[0, 1, 2], [0, 1, 2]]


def test_tokens_are_joined_until_both_sides_have_a_boundary():
    text = "I don't know"
    assert align(text, ["I", "don", "'", "t", "know"], ["I", " don", "'t", " know"]) == [[0, 1, 2, 2, 3], [0, 1, 2, 3]]


def test_tokens_that_cross_each_other_are_one_group():
    assert align("abcd ef", ["ab", "cd", "ef"], ["a", "bcd", " ef"]) == [[0, 0, 1], [0, 0, 1]]


def test_tokens_without_text_are_in_no_group():
    assert align("ab", ["", "ab", ""], ["ab", ""]) == [[NO_GROUP, 0, NO_GROUP], [0, NO_GROUP]]


def test_a_token_of_spaces_is_in_no_group():
    assert align("a  b", ["a", " ", " b"], ["a", "b"]) == [[0, NO_GROUP, 1], [0, 1]]


def test_text_that_one_tokenizer_drops_is_in_no_group():
    assert align("a-b", ["a", "b"], ["a", "-", "b"]) == [[0, 1], [0, NO_GROUP, 1]]


def test_text_that_one_tokenizer_cut_off_is_in_no_group():
    assert align("one two three", ["one"], ["one", "two", "three"]) == [[0], [0, NO_GROUP, NO_GROUP]]


def test_several_tokens_inside_one_character_are_one_group():
    text, inside = "x 😀", [(0, 1), (2, 3), (2, 3), (2, 3)]
    groups = align_by_offsets(text, np.array(inside), np.array([(0, 1), (2, 3)]))
    assert [group.tolist() for group in groups] == [[0, 1, 1, 1], [0, 1]]


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_text_has_no_groups(text):
    nothing = np.zeros((0, 2), int)
    groups = align_by_offsets(text, np.zeros((2, 2), int), nothing)
    assert [group.tolist() for group in groups] == [[NO_GROUP, NO_GROUP], []]


def test_random_cuts_give_the_groups_of_a_search_over_all_pairs():
    draw = np.random.default_rng(0)
    for _ in range(200):
        text = "".join(draw.choice(list("ab  "), size=draw.integers(1, 14)))
        sides = []
        for _side in range(2):
            cuts = np.flatnonzero(draw.random(len(text) + 1) < 0.5)
            pairs = np.stack([cuts[:-1], cuts[1:]], axis=1) if len(cuts) > 1 else np.zeros((0, 2), int)
            sides.append(np.concatenate([[[0, 0]], pairs[draw.random(len(pairs)) < 0.8]]))
        found = [group.tolist() for group in align_by_offsets(text, *sides)]
        assert found == reference_groups(text, *sides), (text, sides)


def test_offsets_of_both_kinds_of_tokenizers_are_understood(small_pair):
    texts = ["Remember the café, naïve teacher.", "", "x=1 😀"]
    tokens = [tokenize_texts(tokenizer, texts, 64, "") for tokenizer in small_pair]
    groups = pair_tokens("offsets", texts, *tokens)
    for row, text in enumerate(texts):
        student_ids, _, student_group, teacher_group = groups[row]
        assert set(student_group) - {NO_GROUP} == set(teacher_group) - {NO_GROUP}
        for number in range(student_group.max(initial=-1) + 1):
            covered = [
                {i for k in np.flatnonzero(group == number) for i in range(*side.offsets[row][k])}
                for group, side in zip((student_group, teacher_group), tokens, strict=True)
            ]
            letters = [{i for i in part if not text[i].isspace()} for part in covered]
            assert letters[0] == letters[1] != set()
        assert [bool(word) for word in spell(text, tokens[0].offsets[row])] == (student_group != NO_GROUP).tolist()
        assert student_ids.tolist() == small_pair[0](text).input_ids


def test_the_prompt_is_in_no_group(small_pair):
    student, teacher = small_pair
    text, prompt = "quiet river", "Instruct: "
    tokens = tokenize_texts(student, [text], 64, ""), tokenize_texts(teacher, [text], 64, prompt)
    _, teacher_ids, _, teacher_group = pair_tokens("offsets", [text], *tokens)[0]
    aligned = teacher.decode(teacher_ids[teacher_group != NO_GROUP])
    assert aligned.strip() == text and prompt.strip() in teacher.decode(teacher_ids)


def test_texts_are_cut_at_the_longest_input(small_pair):
    tokens = tokenize_texts(small_pair[0], ["river " * 50, "a"], 7, "")
    assert [len(ids) for ids in tokens.ids] == [7, 1] == [len(offsets) for offsets in tokens.offsets]


def test_ragged_rows_come_back_from_disk(tmp_path):
    rows = [[1, 2, 3], [], [4]]
    Ragged.of(rows).save(tmp_path, "ids")
    loaded = Ragged.load(tmp_path, "ids")
    assert [row.tolist() for row in loaded] == rows
    assert (len(loaded), loaded[-1].tolist(), loaded[np.int64(2)].tolist()) == (3, [4], [4])
    with pytest.raises(IndexError):
        loaded[3]


def test_no_rows_are_a_ragged_array_too():
    assert len(Ragged.of([])) == 0


def test_groups_come_back_from_disk(tmp_path, small_pair):
    texts = ["slowly over the bridge", "castle"]
    groups = pair_tokens("offsets", texts, *(tokenize_texts(tokenizer, texts, 64, "") for tokenizer in small_pair))
    groups.save(tmp_path)
    loaded = TokenGroups.load(tmp_path)
    assert (len(loaded), loaded.share_aligned) == (2, groups.share_aligned)
    for row in range(2):
        assert all(np.array_equal(a, b) for a, b in zip(groups[row], loaded[row], strict=True))


def test_the_share_of_single_pairs_counts_aligned_student_tokens():
    ids = [Ragged.of([[5, 6, 7, 8], [5]]), Ragged.of([[5, 6, 7], [5, 6]])]
    groups = TokenGroups(*ids, Ragged.of([[-1, 0, 1, 1], [0]]), Ragged.of([[0, 1, -1], [0, 0]]), 0.8)
    assert groups.share_one_to_one() == 0.25


def test_time_warping_keeps_only_single_pairs_of_equal_spelling():
    student, teacher = ["", "i", "don", "'", "t", "know", "him"], ["i", "don", "'t", "know", "her", ""]
    groups = align_by_spelling("dtw", student, teacher)
    assert groups[0].tolist() == [-1, 0, 1, -1, -1, 2, -1]
    assert groups[1].tolist() == [0, 1, -1, 2, -1, -1]


def test_a_token_that_time_warping_joins_with_two_is_in_no_group():
    for student, teacher in ((["a"], ["a", "b"]), (["a", "b"], ["a"])):
        assert {*np.concatenate(align_by_spelling("dtw", student, teacher))} == {NO_GROUP}


def test_weighted_time_warping_joins_what_its_path_joins():
    groups = align_by_spelling("weighted_dtw", ["do", "n't", "go"], ["don't", "", "go"])
    assert [group.tolist() for group in groups] == [[0, 0, 1], [0, -1, 1]]


def test_the_weights_of_time_warping_decide_between_paths():
    student, teacher = ["ab", "x", "cd"], ["ab", "cd"]
    cheap_first = align_by_spelling("weighted_dtw", student, teacher, np.ones(3), np.array([1.0, 5.0]))
    cheap_last = align_by_spelling("weighted_dtw", student, teacher, np.ones(3), np.array([5.0, 1.0]))
    assert (cheap_first[0].tolist(), cheap_last[0].tolist()) == ([0, 0, 1], [0, 1, 1])


def test_nearest_spellings_are_paired_where_both_agree():
    groups = align_by_spelling("edit_distance", ["running", "dogs", "bark"], ["dog", "barks", "runs", "quietly"])
    assert [group.tolist() for group in groups] == [[-1, 0, 1], [0, 1, -1, -1]]


def test_of_equal_spellings_the_one_at_the_same_place_is_nearest():
    words = ["the", "cat", "the", "dog", "the"]
    groups = align_by_spelling("edit_distance", words, words)
    assert [group.tolist() for group in groups] == [[0, 1, 2, 3, 4]] * 2


@pytest.mark.parametrize("kind", ["dtw", "weighted_dtw", "edit_distance"])
def test_without_text_on_one_side_nothing_is_aligned(kind):
    groups = align_by_spelling(kind, ["a", "b"], ["", ""])
    assert [group.tolist() for group in groups] == [[-1, -1], [-1, -1]]


def test_an_unknown_kind_of_alignment_is_refused():
    with pytest.raises(UserError, match="align_by_spelling: expected dtw, weighted_dtw, edit_distance, got 'offset'"):
        align_by_spelling("offset", ["a"], ["a"])


def test_spelling_is_the_text_in_lower_case_without_spaces():
    assert spell("A Café x", np.array([(0, 0), (0, 1), (1, 6), (6, 8)])) == ["", "a", "café", "x"]


def test_importance_runs_from_the_least_to_the_most_surprising_token():
    weights = importance_weights(np.array([2.0, 6.0, 4.0]))
    assert weights == pytest.approx([3 + 3 / (1 + np.e**2), 3 + 3 / (1 + np.e**-2), 4.5])
    assert len(set(importance_weights(np.full(3, 7.0)))) == 1
    assert len(importance_weights(np.zeros(0))) == 0


def test_warping_finds_the_cheapest_of_all_paths():
    draw = np.random.default_rng(1)
    for _ in range(20):
        costs = draw.integers(0, 5, size=draw.integers(1, 5, size=2)).astype(float)

        def cheapest(i, j, costs=costs):
            before = [cheapest(a, b) for a, b in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if a >= 0 and b >= 0]
            return costs[i, j] + min(before, default=0.0)

        rows, columns, total = warp(costs)
        assert total == cheapest(costs.shape[0] - 1, costs.shape[1] - 1) == costs[rows, columns].sum()


@pytest.fixture(scope="module")
def sts_tokens(test_data, tmp_path_factory):
    """STS-B's development sentences in WordPiece and in Qwen's BPE."""
    from transformers import AutoTokenizer

    from kdkit.embeddings.data.sentences import load_sentences

    file = str(test_data / "sts" / "stsb_dev.csv")
    texts = load_sentences(file, tmp_path_factory.mktemp("cache"), key="data.path").texts()[::3]
    names = "bert-base-uncased", "qwen1.5"
    tokenizers = [AutoTokenizer.from_pretrained(test_data / "tokenizers" / name) for name in names]
    return SimpleNamespace(texts=texts, sides=[tokenize_texts(tokenizer, texts, 128, "") for tokenizer in tokenizers])


@pytest.mark.parametrize(
    ("alignment", "low", "high"),
    # measured before: .845 for dtw and .952 for groups with one token on either side
    [("offsets", 1.0, 1.0), ("dtw", 0.8, 0.9), ("weighted_dtw", 1.0, 1.0), ("edit_distance", 0.9, 1.0)],
)
def test_real_tokenizers_share_what_was_measured(sts_tokens, alignment, low, high):
    assert low <= pair_tokens(alignment, sts_tokens.texts, *sts_tokens.sides).share_aligned <= high


def test_a_tokenizer_is_left_as_it_was(small_pair):
    texts, tokenizer = ["a long text of more tokens than two"], small_pair[0]
    before = tokenizer.backend_tokenizer.encode(texts[0]).ids
    assert len(tokenize_texts(tokenizer, texts, 2, "").ids[0]) == len(tokenize(tokenizer, texts, 2)[0]) == 2
    assert tokenizer.backend_tokenizer.encode(texts[0]).ids == before
