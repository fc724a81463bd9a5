"""What stands in the training data is found, and what only looks alike is not."""

from kdkit.evaluate.maths.contamination import measure_contamination

LONG = "A farmer has 12 cows and sells 5 of them for 300 coins each, then buys 2 horses. How many coins are left?"
TRAINING = ["Solve $3x + 4 = 10$.", "Solve $5x + 2 = 12$.", LONG]


def test_the_same_problem_is_found_whatever_its_case_and_spaces():
    found = measure_contamination(["solve  $3x + 4 = 10$.", "Solve $3x + 5 = 11$."], TRAINING)
    assert found["same_text"] == 0.5 and found["near_copies"] == 0.5 and found["training_texts"] == 3


def test_the_same_numbers_under_other_letters_and_signs_are_found():
    found = measure_contamination(["Solve: $3y+4=10$", "Solve $3x - 4 = 10$.", "Solve $10x + 4 = 3$."], TRAINING)
    assert found["same_text"] == 0.0 and found["same_numbers"] == 1 / 3


def test_numbers_alone_are_counted_where_there_are_three():
    found = measure_contamination(["Is $3 + 4 = 10$?", "Solve $x = 3$."], TRAINING)
    assert found["only_numbers"] == 1.0 and found["same_numbers"] == 0.0
    assert measure_contamination(["Solve $x = 3$."], TRAINING)["only_numbers"] is None


def test_long_problems_are_compared_by_13_words():
    copied = measure_contamination([LONG.replace("cows", "goats"), LONG + " Say why."], TRAINING)
    # 23 words: 11 runs of 13, 4 of them hold the fourth word; with two more words 11 of 13 runs stand there
    assert copied["ngram_problems"] == 2 and 0.6 < copied["ngrams"] < 0.9
    other = "A river has 12 bridges and 5 of them are made of stone that is 300 years old, so how many are not?"
    assert measure_contamination([other], TRAINING)["ngrams"] == 0.0
    assert measure_contamination(["Solve $3x + 4 = 10$."], TRAINING)["ngrams"] is None


def test_without_training_texts_nothing_is_said():
    assert measure_contamination(["Solve $x = 1$."], []) == {"training_texts": 0}


def test_a_term_in_x_is_not_the_same_problem_as_a_number():
    training = ["Find the derivative of $f(x) = 3x^{2} - 2$."]
    found = measure_contamination(["Find the derivative of $f(x) = 3x^{2} - 2x$."], training)
    assert found["same_numbers"] == 0.0
    again = measure_contamination(["Find the derivative of $g(t) = 3t^{2} - 2$."], training)
    assert again["same_numbers"] == 1.0
