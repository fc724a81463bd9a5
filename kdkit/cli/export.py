"""The verb that hands a model on: export."""

from typing import Annotated, Literal

import typer

from kdkit.cli.options import Debug, RunsDir, interruptible

export_app = typer.Typer(rich_markup_mode=None)


@export_app.command()
def export(
    source: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run; or a model's folder, package:NAME or hub name.")
    ],
    file: Annotated[str, typer.Argument(metavar="OUT", help="The new file, OUT.gguf; for onnx a new folder.")],
    format: Annotated[
        Literal["gguf", "onnx"],
        typer.Option(help="gguf: for llama.cpp, in fp32. onnx: embedding models for onnxruntime, in fp32 and INT8."),
    ] = "gguf",
    model: Annotated[str, typer.Option(help="Of a run: student, baseline, teacher.")] = "student",
    runs_dir: RunsDir = "runs",
    debug: Debug = False,
) -> None:
    """Write a model with its tokenizer for other programs to run.

    A dense Llama or Qwen3 with a byte-level BPE becomes a GGUF file; what llama.cpp computes otherwise is refused with
    the reason. The student of a run of embedding models becomes a folder for onnxruntime and sentence-transformers, and
    is measured beside the one in torch. Examples:

    python -m kdkit export minillm minillm.gguf

    python -m kdkit generate minillm.gguf --prompt "The module"

    python -m kdkit export embedding_demo embedding_onnx --format onnx
    """
    from kdkit.workflow.export import ExportRequest, export_model
    from kdkit.workflow.vectors.onnx import export_onnx

    request = ExportRequest(source, file, model, runs_dir)
    with interruptible("nothing is kept"):
        print(export_onnx(request) if format == "onnx" else export_model(request))
