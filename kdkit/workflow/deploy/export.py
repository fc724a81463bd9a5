"""The verb `export`: a model of a run, or of a folder, in a format that other programs run, measured beside torch."""

import copy
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel

from kdkit.alignment.tokenizers import load_tokenizer
from kdkit.config.values import expand_home
from kdkit.errors import UserError
from kdkit.evaluate.compression import SIZE_DTYPE, count_bytes
from kdkit.machine.gguf_files import INSTALL
from kdkit.models.gguf.write import Quantisation
from kdkit.models.heads import find_head
from kdkit.models.loading import check_fits, load_causal_lm, read_model_config
from kdkit.models.quantised.model import check_full_precision, release_weights, round_weights
from kdkit.models.shared_core.expand import make_plain, plain_config
from kdkit.report.deployment import FILE, deployment_table
from kdkit.report.page import write_page
from kdkit.report.terminal import to_text
from kdkit.workflow.deploy.formats import BITS, check_format, write_few_bits, write_gguf_file, write_onnx
from kdkit.workflow.deploy.measure import Opened, judge, measure
from kdkit.workflow.deploy.recover import recover
from kdkit.workflow.deploy.text import RunText, find_text
from kdkit.workflow.writers import model_folder

Format = Literal["gguf", "onnx", "int8", "int4"]


@dataclass(frozen=True)
class ExportRequest:
    """What the command asks for."""

    source: str
    """A run, or a model's folder, package or hub name."""
    file: str
    """To be written: a file for gguf, a folder for all other formats."""
    model: str
    """Of a run."""
    runs_dir: str
    format: Format = "gguf"
    quantise: Quantisation = "none"
    """Of a GGUF file."""
    recover: int = 0
    """Steps of training before the weights are rounded for good; 0: none."""

    @property
    def bits(self) -> int | None:
        """Of the matrices; None: they stay in fp32, or onnxruntime rounds them."""
        return BITS.get(self.quantise if self.format == "gguf" else self.format)


def export_model(request: ExportRequest) -> str:
    """Write a language model in a format, and measure it beside the one that it was made from, in fp32 on the CPU.

    Of a run, what was measured is added to its `export.json`: by model and format what `measure` returns, with `file`
    (its name) and, where it was recovered, `recovery_steps` and `unrecovered_bits_per_byte`.

    Returns:
        What was written, the table, and the command that uses it.

    Raises:
        UserError: OUT is there already or has another ending; options that do not go together; a model or tokenizer
            that cannot stand in the format.
        RuntimeError: an ONNX graph that gives other logits than torch.
    """
    out = check_out(request)
    _check_options(request)
    source, key = model_folder(request.source, request.model, request.runs_dir)
    config = plain_config(read_model_config(source, key))
    check_full_precision(config, key)
    check_format(request.format, request.quantise, config, key)  # before its weights are read
    text = find_text(request.source, request.model, request.runs_dir)
    if request.recover and text is None:
        raise UserError(
            f"--recover: expected a run whose text the model learns on, got {request.source!r}; name a trained run, or "
            "leave --recover out"
        )
    tokenizer, model = load_tokenizer(source, key), make_plain(load_causal_lm(source, key))
    check_fits(model, len(tokenizer), 1, key, key)
    find_head(model, len(tokenizer))  # before anything is written: its measures take the head alone
    full_bytes = count_bytes(model, SIZE_DTYPE)
    written, facts = copy.deepcopy(model), {}
    if request.recover:
        facts = _recover(written, model, text, request)
    if request.format == "gguf":
        name = Path(request.source).name
        opened = write_gguf_file(written, tokenizer, out, name, key, request.quantise)
    elif request.format == "onnx":
        opened = write_onnx(written, tokenizer, out, key)
    else:
        opened = write_few_bits(written, tokenizer, out, request.format)
    return _tell(request, out, model, _measure_all(request, model, full_bytes, opened, text, facts))


def check_out(request: ExportRequest) -> Path:
    """Return the file or folder that will be written.

    Raises:
        UserError: it exists, its folder does not, or a GGUF file has another ending.
    """
    out = expand_home(request.file)
    kind = "file" if request.format == "gguf" else "folder"
    if kind == "file" and out.suffix != ".gguf":
        wanted = out.with_suffix(".gguf")
        raise UserError(
            f"OUT: expected a name that ends in .gguf, got {request.file!r}; write {wanted}, or another --format"
        )
    if out.exists():
        raise UserError(f"OUT: expected a new {kind}, got {request.file!r}, which exists; name another one")
    if not out.absolute().parent.is_dir():
        raise UserError(f"OUT: expected a {kind} in a folder that exists, got {request.file!r}; make the folder first")
    return out


def _check_options(request: ExportRequest) -> None:
    """Refuse options that do nothing in a format."""
    if request.quantise != "none" and request.format != "gguf":
        raise UserError(
            f"--quantise: expected it with --format gguf, got --format {request.format}; leave it out, or write a GGUF "
            "file"
        )
    if request.recover and request.bits is None:
        raise UserError(
            f"--recover: expected weights that are rounded, got --format {request.format} in fp32; add --format int4, "
            "or --format gguf --quantise q4_0"
        )


def _recover(written: PreTrainedModel, model: PreTrainedModel, text: RunText, request: ExportRequest) -> dict[str, Any]:
    """Train a copy of the model for its rounding; return what it was worth without."""
    round_weights(written, request.bits)
    before = judge(written, text)
    release_weights(written)
    recover(written, model, text, request.bits, request.recover)
    return {"recovery_steps": request.recover, "unrecovered_bits_per_byte": before}


def _measure_all(
    request: ExportRequest,
    model: PreTrainedModel,
    full_bytes: int,
    opened: dict[str, Opened],
    text: RunText | None,
    facts: dict[str, Any],
) -> dict[str, dict[str, Any]]:
    """Measure every file that was written; return all formats of the model that the run knows of."""
    name = Path(request.file).name
    rows = {format: measure(model, full_bytes, each, text) | facts | {"file": name} for format, each in opened.items()}
    if text is None:
        return rows
    record = text.run.read_json(FILE) if (text.run.path / FILE).is_file() else {}
    record[request.model] = record.get(request.model, {}) | rows
    text.run.write_json(FILE, record)
    if (text.run.path / "report.html").is_file():  # its page shows the table too; what was copied elsewhere does not
        write_page(text.run)
    return record[request.model]


def _tell(request: ExportRequest, out: Path, model: PreTrainedModel, rows: dict[str, dict[str, Any]]) -> str:
    """Say what was written, how good it is, and how it is used."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    own = next(row for row in rows.values() if row["file"] == out.name)
    form = "fp32" if request.bits is None else f"{request.bits} bits"
    first = f"{out}: {type(model).__name__}, {parameters:,} parameters in {form}, {own['bytes'] / 1e6:.2f} MB"
    use = f'python -m kdkit generate {request.file} --prompt "The module"'
    if request.format == "gguf" and importlib.util.find_spec("llama_cpp") is None:
        use += f"  # first: {INSTALL}"
    return f"{first}\n\n{to_text(deployment_table(rows))}\n\n{use}"
