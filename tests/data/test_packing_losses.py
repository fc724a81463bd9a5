"""Text that a tokenizer loses is listed in the windows, however the packer divides its work."""

import numpy as np
import pytest

from kdkit.alignment.bytes import overlap_vocabularies
from kdkit.alignment.fidelity import CHANGED, UNKNOWN, find_losses
from kdkit.alignment.tokenizers import encode_with_ends, end_token_id, token_bytes, unknown_id
from kdkit.data.packing import Packer, pack_windows
from kdkit.data.windows import PAD, Windows
from tests.lossy import train_unigram, train_wordpiece

TEXTS = [
    "The apple \u4e2d\u6587 and a River",
    "",
    "caf\u00e9 \u4e2d stands",
    "plain words",
    "  ",
    "A \u6587 quick Zebra",
] * 7


@pytest.fixture(scope="module")
def packer():
    latin = ["the apple and a river stand beside quick zebras jumping over fox vows in plain words"] * 30
    pair = train_unigram(latin), train_wordpiece(latin)
    overlap = overlap_vocabularies(*map(token_bytes, pair), tuple(map(end_token_id, pair)))
    return Packer(*pair, overlap, max_length=24, teacher_max_length=24)


def pack(packer):
    pair = packer.student_tokenizer, packer.teacher_tokenizer
    return pack_windows(TEXTS, *pair, packer.overlaps[0], packer.max_length, packer.teacher_max_length)


def test_all_losses_of_all_documents_are_in_the_windows(packer):
    windows, lost = pack(packer)
    described = windows.describe()
    assert lost == 0
    for side, tokenizer in enumerate((packer.student_tokenizer, packer.teacher_tokenizer)):
        table = token_bytes(tokenizer)
        texts = [text for text in TEXTS if text.strip()]  # the teacher leaves nothing of the others
        losses = np.concatenate([find_losses(t, *encode_with_ends(tokenizer, table, t), table) for t in texts])
        unknown, changed = (int(losses[losses[:, 2] == kind, 1].sum()) for kind in (UNKNOWN, CHANGED))
        assert unknown > 0
        listed = windows.unknown[windows.unknown[:, :, 0] == side]
        assert listed[:, 2].sum() == unknown
        assert windows.changed_bytes[:, side].sum() == changed
        name = ("student", "teacher")[side]
        assert described[f"{name}_unknown_share"] == pytest.approx(unknown / windows.num_bytes.sum())
        assert described[f"{name}_changed_share"] == pytest.approx(changed / windows.num_bytes.sum())


def test_unknown_tokens_stand_where_the_windows_say(packer):
    windows, _ = pack(packer)
    sides = (packer.student_tokenizer, windows.student_ids), (packer.teacher_tokenizer, windows.teacher_ids)
    for side, (tokenizer, ids) in enumerate(sides):
        rows, columns = np.nonzero(windows.unknown[:, :, 0] == side)
        places = windows.unknown[rows, columns, 1]
        found = sorted(zip(rows.tolist(), (places + 1).tolist(), strict=True))
        assert found == list(zip(*(axis.tolist() for axis in np.nonzero(ids == unknown_id(tokenizer))), strict=True))


@pytest.mark.parametrize("batch", [1, 40, 10_000])
def test_windows_written_in_parts_are_those_packed_at_once(packer, monkeypatch, tmp_path, batch):
    expected, lost = pack(packer)
    monkeypatch.setattr("kdkit.data.streams.BATCH_CHARACTERS", batch)
    described = packer.write(TEXTS, tmp_path)
    assert described == expected.describe() | {"bytes_left_out": lost}
    written = Windows.load(tmp_path)
    for name, array in vars(expected).items():
        assert getattr(written, name).dtype == array.dtype
        np.testing.assert_array_equal(getattr(written, name), array)
    assert (written.unknown[:, -1, 0] == PAD).any()
