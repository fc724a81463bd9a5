import pytest

from kdkit.embeddings.data.selection import count_near_matches, decontaminate


def test_a_text_is_found_in_a_test_whatever_its_case_and_spaces():
    texts = ["A  man\tsings.", "a man sings", "A dog.", "a dog."]
    kept, removed = decontaminate(texts, {"STS": ["a man SINGS.", "x"], "NLI": ["A DOG.", "a man sings."], "none": []})
    assert (kept, removed) == ([], {"STS": 2, "NLI": 4, "none": 0})


@pytest.mark.parametrize(
    ("training", "test"),
    [
        ('PCCW\'s chief (CEO) said: "no".', "PCCW 's chief -LRB- CEO -RRB- said : `` no '' ."),
        ("It didn't rise 3.5%", "it did n't rise 3.5 % ."),
        ("A well-known name", "A well - known name"),
        ("\uff21 full-width name", "A full-width name"),
        ("?!", "? !"),
    ],
)
def test_a_text_is_found_in_a_test_whatever_its_punctuation_and_tokenisation(training, test):
    assert decontaminate([training, "another"], {"T": [test]}) == (["another"], {"T": 1})


def test_texts_without_letters_are_told_apart():
    assert decontaminate(["?!", "..."], {"T": ["..."]}) == (["?!"], {"T": 1})


def test_near_matches_are_counted_by_task():
    test = "The quick brown fox jumps over the lazy dog near the old river bank today"
    near, far = test.replace(" today", " this morning"), "The lazy dog sleeps near the old river bank all day long"
    found = count_near_matches([near, far, "The quick brown fox jumps"], {"T": [test], "other": ["nothing like it"]})
    assert found == {"T": 1, "other": 0}


def test_nothing_is_removed_without_tests():
    assert decontaminate(["a", "a", ""], {}) == (["a", "a", ""], {})
