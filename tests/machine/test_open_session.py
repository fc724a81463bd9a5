import pytest

from kdkit.config.language import Config
from kdkit.errors import UserError
from kdkit.machine import hardware
from kdkit.machine.hardware import CudaFacts
from kdkit.machine.open_session import open_embedding_session, open_session
from kdkit.runs.disk import write_text


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a configuration of either kind, which is the current folder."""
    write_text(tmp_path / "notebooks" / "01_data.ipynb", "{}")
    write_text(tmp_path / "configs" / "small.yaml", "seed: 3\n")
    write_text(tmp_path / "configs" / "sentences.yaml", "method: cosine\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("opened", "file"), [(open_session, "small"), (open_embedding_session, "sentences")])
def test_a_session_holds_configuration_run_folder_and_the_hardware_asked_for(project, opened, file):
    session = opened(f"configs/{file}.yaml", "train.device=cpu train.precision=bf16 seed=5", "mine")
    assert isinstance(session.config, Config) is (opened is open_session)
    assert session.config.seed == 5
    assert session.run.path == project / "runs" / "mine"
    assert session.run.path.is_dir()
    assert (session.hardware.device, session.hardware.precision) == ("cpu", "bf16")


def test_hardware_that_is_not_there_is_refused(project, monkeypatch):
    monkeypatch.setattr(hardware, "read_cuda", CudaFacts)
    with pytest.raises(UserError, match=r"train\.device: expected a CUDA GPU"):
        open_session("configs/small.yaml", "train.device=cuda")
