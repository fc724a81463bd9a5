"""The verb `export`: a model of a run, or of a folder, as one file that other programs run."""

from dataclasses import dataclass
from pathlib import Path

from kdkit.alignment.tokenizers import load_tokenizer
from kdkit.config.values import expand_home
from kdkit.errors import UserError
from kdkit.models.gguf.write import check_convertible, write_gguf
from kdkit.models.loading import check_fits, load_causal_lm, read_model_config
from kdkit.workflow.writers import model_folder


@dataclass(frozen=True)
class ExportRequest:
    """What the command asks for."""

    source: str
    """A run, or a model's folder, package or hub name."""
    file: str
    """To be written."""
    model: str
    """Of a run."""
    runs_dir: str


def export_model(request: ExportRequest) -> str:
    """Write a model as a GGUF file in fp32.

    Returns:
        What was written, in one line.

    Raises:
        UserError: a file that is there already or has another ending; a model or tokenizer that cannot be converted.
    """
    file = expand_home(request.file)
    if file.suffix != ".gguf":
        wanted = file.with_suffix(".gguf")
        raise UserError(f"OUT: expected a name that ends in .gguf, got {request.file!r}; write {wanted}")
    if file.exists():
        raise UserError(f"OUT: expected a new file, got {request.file!r}, which exists; name another one")
    if not file.absolute().parent.is_dir():
        raise UserError(f"OUT: expected a file in a folder that exists, got {request.file!r}; make the folder first")
    source, key = model_folder(request.source, request.model, request.runs_dir)
    check_convertible(read_model_config(source, key), key)  # before its weights are read
    tokenizer, model = load_tokenizer(source, key), load_causal_lm(source, key)
    check_fits(model, len(tokenizer), 1, key, key)
    size = write_gguf(model, tokenizer, file, Path(request.source).name, key)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"{file}: {type(model).__name__}, {parameters:,} parameters in fp32, {size / 1e6:.1f} MB"
