"""Students that are cut out of teachers with several poolings, a chain of modules, or an encoder of T5."""

import numpy as np
import pytest
import torch
from transformers import T5Config, T5EncoderModel

from kdkit.embeddings.data.prepare import prepare_sentences
from kdkit.embeddings.models.embedder import encode, load_embedding_model
from kdkit.embeddings.models.export import save_embedding_model
from kdkit.embeddings.models.modules import Dense, Normalize
from kdkit.embeddings.teacher.probe import probe_embedding_teacher
from kdkit.embeddings.training.train import distill_all
from kdkit.errors import UserError
from kdkit.runs.open_run import open_embedding_run
from tests.embedders import TEACHER_WIDTH, WORDS, make_session, save_teacher, write_sentences

library = pytest.importorskip("sentence_transformers")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with sentences and two teachers: BERT pooled by mean and first token, and a T5 pooled by maximum."""
    path = tmp_path_factory.mktemp("chains")
    write_sentences(path / "plain.csv", 40)
    (path / "run.yaml").write_text("method: cosine\n")
    torch.manual_seed(0)
    for name, pooling, width in (("joined", "mean+cls", 2 * TEACHER_WIDTH), ("t5", "max", TEACHER_WIDTH)):
        save_teacher(path / "plain", pooling=pooling)
        model = load_embedding_model(str(path / "plain"), "teacher.path")
        if name == "t5":
            shape = {"d_model": width, "d_kv": 8, "d_ff": 32, "num_layers": 4, "num_heads": 3}
            model.backbone = T5EncoderModel(T5Config(vocab_size=40, **shape)).eval()
        dense = Dense(torch.nn.Linear(width, 20), torch.nn.Tanh())
        model.head = torch.nn.Sequential(dense, Normalize(), Dense(torch.nn.Linear(20, 12)))
        save_embedding_model(model, path / name)
    return path


def distil(folder, teacher, method):
    values = [
        f"method={method}",
        f"data.path={folder / 'plain.csv'}",
        f"teacher.path={folder / teacher}",
        f"cache_dir={folder / 'cache'}",
        "data.max_length=16",
        "student.layers=[0,3]",
        "train={per_device_train_batch_size: 8, max_steps: 3, warmup_steps: 0}",
    ]
    name = f"{teacher}-{len(list(folder.glob('runs/*')))}"
    session = make_session(*open_embedding_run(str(folder / "run.yaml"), values, name, str(folder / "runs")))
    data = prepare_sentences(session, None)
    probe = probe_embedding_teacher(session, data)
    assert probe["width"] == 12
    distill_all(session, data)
    return session.run.path / "student"


@pytest.mark.parametrize(
    ("teacher", "method", "width"),
    [
        ("joined", "leaf", 12),
        ("joined", "rkd", 2 * TEACHER_WIDTH),
        ("joined", "{name: talas, layer_pooling: own}", 2 * TEACHER_WIDTH),
        ("t5", "leaf", 12),
        ("t5", "dskd", TEACHER_WIDTH),
        ("t5", "emo", TEACHER_WIDTH),
    ],
)
def test_a_student_is_trained_and_read_by_the_library(folder, teacher, method, width):
    student = distil(folder, teacher, method)
    ours = load_embedding_model(str(student), "student.path")
    assert (ours.num_layers, ours.width) == (2, width)
    assert ours.reading.pooling == {"joined": "mean+cls", "t5": "max"}[teacher]
    texts = [" ".join(WORDS[n : n + 5]) for n in range(0, 20, 5)]
    theirs = library.SentenceTransformer(str(student), device="cpu").encode(texts)
    np.testing.assert_allclose(encode(ours, texts, 2), theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("dskd", r"method: dskd expected states of tokens, got a teacher pooled by mean\+cls, whose vectors"),
        ("emo", "method: emo expected states of tokens, got a teacher"),
        ("{name: talas, layer_pooling: cls}", r"got a student pooled by mean\+cls; set student\.pooling=mean"),
    ],
)
def test_methods_that_compare_tokens_are_refused_for_joined_poolings(folder, method, expected):
    with pytest.raises(UserError, match=expected):
        distil(folder, "joined", method)
