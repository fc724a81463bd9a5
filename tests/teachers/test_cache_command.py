"""`python -m kdkit cache`: what it says, and that a mistake is one line and leaves nothing behind."""

import shlex
import shutil
import signal
from pathlib import Path

import h5py
import pytest
import yaml

from kdkit import cli
from kdkit.distill import open_teacher as source
from kdkit.teachers.cache_build import SignalMaker
from tests.tiny import make_config, make_data, save_teacher

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("one_thread")


class Commands:
    """The command line in a folder of its own, with a configuration file that is quick to build."""

    def __init__(self, folder: Path):
        self.folder = folder
        data = make_data(make_config(folder), folder)
        self.teacher = save_teacher(data, folder / "teacher")
        values = {
            "cache_dir": str(folder / "cache"),
            "data": {"path": str(folder / "corpus.txt"), "max_length": 24, "evaluation_fraction": 0.2},
            "teacher": {"path": str(self.teacher)},
            "student": {"build": {"vocab_size": 290, "hidden_size": 16, "num_layers": 1, "intermediate_size": 32}},
            "distill": {"loss": "projected_kl"},
            "cache": {"top_k": 8, "samples_per_chunk": 20},
            "train": {"device": "cpu"},
        }
        self.config = folder / "tiny.yaml"
        self.config.write_text(yaml.safe_dump(values))

    def __call__(self, *words: object) -> int:
        with pytest.raises(SystemExit) as stop:
            cli.main(["cache", *map(str, words)])
        return int(stop.value.code or 0)

    def build(self, *words: object, runs: Path | None = None) -> int:
        return self("build", self.config, "--runs-dir", runs or self.folder / "runs", *words)


@pytest.fixture(scope="module")
def command(tmp_path_factory, one_thread) -> Commands:
    return Commands(tmp_path_factory.mktemp("command"))


@pytest.fixture(scope="module")
def built(command) -> Path:
    """A whole cache, which no test may change."""
    assert command.build("--output", command.folder / "whole.h5") == 0
    return command.folder / "whole.h5"


@pytest.fixture
def copy(built, tmp_path) -> Path:
    return Path(shutil.copy(built, tmp_path / "copy.h5"))


@pytest.fixture
def refused(command, tmp_path, capsys, monkeypatch):
    """Return a call that must be answered by one line and exit code 2, without a teacher, and returns the answer."""

    def fail(*_):
        raise AssertionError("the teacher was loaded")

    def call(*words: object, build: bool = False) -> str:
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(source, "prepare_teacher", fail)
            code = command.build(*words, runs=tmp_path.parent / "runs") if build else command(*words)
        answer = capsys.readouterr().err
        assert code == 2
        assert answer.startswith("kdkit: ") and answer.count("\n") == 1 and answer.endswith("\n")
        assert sorted(tmp_path.rglob("*")) == before
        return answer

    return call


def damage(path: Path, number: int = 1) -> Path:
    """Flip a bit in a chunk of a cache."""
    with h5py.File(path) as file:
        offset = file[f"chunks/{number:05d}/gaps"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset + 3] ^= 16
    path.write_bytes(bytes(content))
    return path


def stop_at(monkeypatch, number: int, stop) -> None:
    """Call `stop` at one of the calls of the maker; the first two measure the time."""
    make, calls = SignalMaker.make, []

    def counted(self, keys):
        calls.append(keys)
        if len(calls) == number:
            stop()
        return make(self, keys)

    monkeypatch.setattr(SignalMaker, "make", counted)


# build


def test_build_says_size_and_time_first_then_how_far_it_is_and_where_the_file_is(command, built, tmp_path, capsys):
    assert command.build("--output", tmp_path / "a.h5") == 0
    lines = capsys.readouterr().out.replace("\n    ", " ").splitlines()  # a long line is broken between words
    assert lines[0].startswith("hardware: CPU")
    said = lines[1]
    assert said.startswith(f"cache {tmp_path}/a.h5: 86 of 98 sequences, about ")
    assert "positions, at most " in said and " MB" in said and said.endswith(" s")
    assert [line.rpartition(" · ")[0] for line in lines[2:-1]] == ["cache 1/5", "cache 5/5"], "and the time left"
    assert lines[-1] == f"cache: {tmp_path}/a.h5"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.h5", "a.h5.cost.json"]
    assert (tmp_path / "a.h5").read_bytes() == built.read_bytes()


def test_the_announced_size_is_an_upper_bound_of_the_answers(command, tmp_path, capsys):
    assert command.build("-p", "cache.top_k=256", "--output", tmp_path / "a.h5") == 0
    words = capsys.readouterr().out.split()
    megabytes = float(words[words.index("most") + 1].replace(",", ""))
    with h5py.File(tmp_path / "a.h5") as file:
        num_rows = sum(int(group["lengths"][()].sum()) for group in file["chunks"].values())
        fields = [values for name, values in file["chunks/00000"].items() if name != "lengths"]
        stored = num_rows * sum(values.nbytes // (values.shape[0] * values.shape[1]) for values in fields)
    assert megabytes == pytest.approx(stored / 1e6, rel=0.25)


def test_a_second_build_says_complete_and_loads_no_teacher(command, built, capsys, monkeypatch):
    before = built.stat().st_mtime_ns, built.stat().st_size
    monkeypatch.setattr(source, "prepare_teacher", lambda *_: pytest.fail("the teacher was loaded"))
    assert command.build("--output", built) == 0
    assert f"cache {built}: complete" in " ".join(capsys.readouterr().out.split())
    assert (built.stat().st_mtime_ns, built.stat().st_size) == before


def test_without_output_the_file_lies_in_the_folder_of_caches(command, built, capsys):
    assert command.build() == 0
    path = Path(capsys.readouterr().out.splitlines()[-1].removeprefix("cache: "))
    assert path.parent == command.folder / "cache" / "answers"
    assert path.read_bytes() == built.read_bytes()


def test_output_makes_missing_folders(command, built, tmp_path):
    assert command.build("--output", tmp_path / "new" / "folder" / "a.h5") == 0
    assert (tmp_path / "new" / "folder" / "a.h5").read_bytes() == built.read_bytes()


def test_output_is_relative_to_the_current_folder(command, built, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.build("--output", "here.h5") == 0
    assert (tmp_path / "here.h5").read_bytes() == built.read_bytes()


def test_the_same_run_serves_any_output(command, built, tmp_path):
    """The file is no setting: it must not make the run of these settings another one."""
    assert command.build("--output", built, "--name", "one") == 0
    assert command.build("--output", shutil.copy(built, tmp_path / "b.h5"), "--name", "one") == 0


def test_ctrl_c_is_exit_code_130_with_the_command_that_goes_on(command, built, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_at(patch, 5, lambda: signal.raise_signal(signal.SIGINT))
        assert command.build("--output", tmp_path / "a.h5") == 130
    answer = capsys.readouterr().err
    named = answer.partition("kdkit: stopped; cache: 3 of 5 chunks are saved; to go on: python -m kdkit cache ")[2]
    assert answer.count("\n") == 1 and str(tmp_path / "a.h5") in named
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5.parts"]
    assert len(list(tmp_path.glob("a.h5.parts/*.h5"))) == 3  # the one that was being made is finished
    calls: list[int] = []
    make = SignalMaker.make
    monkeypatch.setattr(SignalMaker, "make", lambda self, keys: make(self, calls.append(1) or keys))
    assert command(*shlex.split(named)) == 0
    assert len(calls) == 2 + 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5", "a.h5.cost.json"]
    assert (tmp_path / "a.h5").read_bytes() == built.read_bytes()


# verify, info, repair


def test_verify_counts_what_it_checked(command, built, capsys):
    assert command("verify", built) == 0
    assert capsys.readouterr().out == f"{built}: 86 sequences in 5 chunks, all as they were written\n"


def test_info_says_what_a_cache_holds_and_what_it_was_made_from(command, built, capsys):
    assert command("info", built) == 0
    lines = capsys.readouterr().out.splitlines()
    facts = {key: value.strip() for key, _, value in (line.partition(" ") for line in lines)}
    expected = {"mode": "top_k", "top_k": "8", "events": "student tokens", "temperature": "1.0", "num_chunks": "5"}
    assert expected.items() <= facts.items()
    assert facts["num_samples"] == "86" and facts["num_bytes"] == str(built.stat().st_size)
    assert facts["data"] == str(command.folder / "corpus.txt")
    assert {"teacher.weights", "teacher_tokenizer", "student_tokenizer", "num_rows", "bytes_per_row"} <= facts.keys()
    assert {"software.torch", "software.transformers"} <= facts.keys() and len(facts["bytes_per_row"]) < 8
    assert not any(key.startswith(("header", "config")) for key in facts)


def test_info_of_a_damaged_cache_still_says_what_it_is(command, copy, capsys):
    assert command("info", damage(copy)) == 0
    assert "mode                     top_k" in capsys.readouterr().out


def test_repair_says_what_was_made_again(command, built, copy, tmp_path, capsys):
    damage(copy, 3)
    assert command("repair", damage(copy, 1), "--runs-dir", tmp_path / "runs") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{copy}: made again: [1, 3]"
    assert copy.read_bytes() == built.read_bytes()


def test_repair_of_a_whole_cache_says_so_and_makes_nothing(command, copy, tmp_path, capsys):
    before = copy.stat().st_mtime_ns, copy.stat().st_size
    assert command("repair", copy, "--runs-dir", tmp_path / "runs") == 0
    assert capsys.readouterr().out == f"{copy}: nothing is damaged\n"
    assert (copy.stat().st_mtime_ns, copy.stat().st_size) == before and list(tmp_path.iterdir()) == [copy]


@pytest.mark.parametrize("name", ["my cache.h5", "-k64.h5", "x" * 120 + ".h5", "caf\u00e9"])
def test_a_cache_of_any_name_can_be_repaired(command, built, copy, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    damage(copy).rename(name)
    assert command("repair", "--runs-dir", tmp_path / "runs", "--", name) == 0
    assert Path(name).read_bytes() == built.read_bytes()


def test_an_interrupted_repair_says_that_the_same_command_goes_on(command, built, copy, tmp_path, monkeypatch, capsys):
    damage(copy, 3)
    damage(copy, 1)
    with monkeypatch.context() as patch:
        stop_at(patch, 2, lambda: signal.raise_signal(signal.SIGINT))
        assert command("repair", copy, "--runs-dir", tmp_path / "runs") == 130
    named = capsys.readouterr().err.partition("mended chunks are kept; to go on: python -m kdkit cache ")[2]
    assert command(*shlex.split(named)) == 0
    assert copy.read_bytes() == built.read_bytes()


# mistakes


@pytest.mark.parametrize("verb", ["verify", "info", "repair"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "expected a cache, got no such file; build it first"),
        ("folder", "expected a cache, got a folder; name the file"),
        ("text", "expected a whole HDF5 file"),
        ("empty", "expected a whole HDF5 file"),
        ("cut", "expected a whole HDF5 file"),
        ("foreign", "another HDF5 file"),
        ("header", "the header that was written"),
        ("format", "format 2, got format 7"),
    ],
)
def test_a_file_that_is_no_cache_is_refused(refused, built, tmp_path, verb, kind, words):
    path = tmp_path / "a.h5"
    content = bytearray(built.read_bytes())
    if kind == "folder":
        path.mkdir()
    elif kind == "foreign":
        with h5py.File(path, "w") as file:
            file["x"] = [1, 2]
    elif kind == "format":
        with h5py.File(shutil.copy(built, path), "r+") as file:
            file.attrs["kdkit_store"] = 7
    elif kind != "missing":
        with h5py.File(built) as file:
            offset = file["header"].id.get_offset()
        content[offset + 20] ^= 1
        path.write_bytes({"text": b"a,b\n1,2\n", "empty": b"", "cut": content[:-100], "header": content}[kind])
    answer = refused(verb, path)
    assert str(path) in answer and words in answer


def test_verify_names_the_damaged_chunk_and_the_command_that_repairs_it(refused, copy):
    damage(copy, 3)
    answer = refused("verify", damage(copy, 1))
    assert answer.endswith(f"others in chunk 1, 3; repair it: python -m kdkit cache repair {copy}\n")


def test_training_from_a_damaged_cache_is_refused_with_the_same_command(refused, copy):
    answer = refused("--output", damage(copy), build=True)
    assert f"python -m kdkit cache repair {copy}" in answer


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["cache.topk=9"], "did you mean 'cache.top_k'?"),
        (["cache.top_k=0"], "cache.top_k: expected greater than or equal to 1, got 0"),
        (["cache.num_samples=256"], "cache.num_samples: expected less than or equal to 255, got 256"),
        (
            ["cache.mode=top"],
            "cache.mode: did you mean 'top_k'? Got 'top', expected 'top_k', ",
        ),
        (
            ["cache.tail=gost"],
            "cache.tail: did you mean 'ghost'? Got 'gost', expected 'ghost', ",
        ),
        (["cache.top_k"], "-p: expected section.key=value"),
        (["distill.loss=uld"], "got 'uld', which needs the teacher's whole row; set cache.enabled=false"),
        (["distill.loss=forward_kl"], "distill.loss: expected one tokenizer for 'forward_kl'"),
        (["distill.loss=alm"], "cache.mode: expected true_token for 'alm', got 'top_k'"),
        (["cache.mode=true_token"], "needs distributions, not true tokens"),
        (
            ["distill.loss={name: projected_kl, divergence: reverse_kl}", "cache.tail=keep_mass"],
            "set cache.tail=ghost",
        ),
        (["teacher.path=/nowhere"], "teacher.path: expected a model folder, got"),
        (["data.path=/nowhere.txt"], "data.path: expected an existing file or folder, got"),
        (["train.device=cuda"], "train.device: expected a CUDA GPU, got none"),
    ],
)
def test_a_wrong_setting_of_a_build_is_refused(refused, tmp_path, monkeypatch, settings, words):
    from kdkit.machine.hardware import CudaFacts

    monkeypatch.setattr("kdkit.machine.hardware.read_cuda", CudaFacts)
    parameters = [word for setting in settings for word in ("-p", setting)]
    answer = refused(*parameters, "--output", tmp_path / "a.h5", build=True)
    assert words in answer


def test_keeping_more_tokens_than_there_are_is_refused(command, tmp_path, capsys):
    code = command.build("-p", "cache.top_k=291", "--output", tmp_path / "a.h5")
    answer = capsys.readouterr().err
    assert code == 2 and answer.count("\n") == 1
    assert "cache.top_k: expected at most 290" in answer and "got 291" in answer
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("cache.top_k=9", "top_k: got 8, expected 9"),
        ("distill.loss=overlap_kl", "events: got 'student tokens', expected 'common tokens'"),
        ("student.build.vocab_size=288", "student_tokenizer: got "),
    ],
)
def test_output_that_holds_another_cache_is_refused_and_left_alone(refused, copy, setting, words):
    before = copy.stat().st_mtime_ns, copy.stat().st_size
    answer = refused("-p", setting, "--output", copy, build=True)
    assert str(copy) in answer and words in answer
    assert (copy.stat().st_mtime_ns, copy.stat().st_size) == before


def test_output_that_is_a_folder_is_refused_before_the_teacher_is_asked(refused, tmp_path):
    (tmp_path / "folder").mkdir()
    assert str(tmp_path / "folder") in refused("--output", tmp_path / "folder", build=True)


def test_output_below_a_file_is_refused_before_the_teacher_is_asked(refused, tmp_path):
    (tmp_path / "file").write_text("x")
    assert str(tmp_path / "file") in refused("--output", tmp_path / "file" / "a.h5", build=True)


def test_a_teacher_whose_numbers_are_none_is_one_line(command, tmp_path, monkeypatch, capsys):
    prepare_teacher = source.prepare_teacher

    def poisoned(*arguments):
        teacher = prepare_teacher(*arguments)
        teacher.model.get_input_embeddings().weight[100:] = float("nan")
        return teacher

    monkeypatch.setattr(source, "prepare_teacher", poisoned)
    assert command.build("--output", tmp_path / "a.h5") == 2
    answer = capsys.readouterr().err
    assert answer.count("\n") == 1 and "NaN or inf for training sequence 0" in answer
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["build"], "Missing argument"),
        (["verify"], "Missing argument"),
        (["bild", "x.yaml"], "bild"),
        (["build", "configs/smoke.yaml", "--outputs", "a.h5"], "--outputs"),
        (["build", "configs/nothing.yaml"], "sweep_top_k, t4x2"),
        (["info", "a.h5", "b.h5"], "b.h5"),
    ],
)
def test_a_mistyped_command_is_one_line(refused, monkeypatch, words, expected):
    monkeypatch.chdir(ROOT)
    assert expected in refused(*words)


def test_help_lists_the_verbs_of_the_cache(command, capsys):
    assert command("--help") == 0
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text for verb in ("build", "verify", "info", "repair"))
