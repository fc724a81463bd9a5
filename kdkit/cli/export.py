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
    file: Annotated[str, typer.Argument(metavar="OUT", help="The new file, OUT.gguf; for other formats a new folder.")],
    format: Annotated[
        Literal["gguf", "onnx", "int8", "int4"],
        typer.Option(help="gguf: for llama.cpp. onnx: for onnxruntime, in fp32 and INT8. int8, int4: for kdkit."),
    ] = "gguf",
    quantise: Annotated[
        Literal["none", "q8_0", "q4_0"], typer.Option(help="Of gguf: weights in 8 or 4 bits; none: fp32.")
    ] = "none",
    recover: Annotated[
        int, typer.Option(min=0, help="Steps of a run's text on which weights of few bits learn from the full ones.")
    ] = 0,
    model: Annotated[str, typer.Option(help="Of a run: student, baseline, teacher.")] = "student",
    runs_dir: RunsDir = "runs",
    debug: Debug = False,
) -> None:
    """Write a model with its tokenizer for other programs to run, and measure it beside torch in fp32.

    A dense Llama or Qwen3 with a byte-level BPE becomes a GGUF file; what llama.cpp computes otherwise is refused with
    the reason. Any causal language model whose layers keep keys and values becomes an ONNX folder, or a folder with
    weights in 8 or 4 bits. The student of a run of embedding models becomes a folder for onnxruntime and
    sentence-transformers. Examples:

    python -m kdkit export minillm minillm.gguf --quantise q4_0

    python -m kdkit export demo demo_onnx --format onnx

    python -m kdkit export demo demo_int4 --format int4 --recover 100

    python -m kdkit generate demo_int4 --prompt "The module"

    python -m kdkit export embedding_demo embedding_onnx --format onnx
    """
    from kdkit.workflow.deploy.export import ExportRequest, export_model
    from kdkit.workflow.vectors.onnx import export_onnx, is_embedding_model

    request = ExportRequest(source, file, model, runs_dir, format, quantise, recover)
    with interruptible("nothing is kept"):
        print(export_onnx(request) if is_embedding_model(request) else export_model(request))
