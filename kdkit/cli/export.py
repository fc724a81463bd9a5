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
    file: Annotated[str, typer.Argument(metavar="OUT", help="The new file: OUT.gguf.")],
    format: Annotated[Literal["gguf"], typer.Option(help="gguf: for llama.cpp, in fp32.")] = "gguf",
    model: Annotated[str, typer.Option(help="Of a run: student, baseline, teacher.")] = "student",
    runs_dir: RunsDir = "runs",
    debug: Debug = False,
) -> None:
    """Write a model with its tokenizer as one file that other programs run.

    A dense Llama or Qwen3 with a byte-level BPE becomes a GGUF file; what llama.cpp computes otherwise is refused with
    the reason. Examples:

    python -m kdkit export minillm minillm.gguf

    python -m kdkit generate minillm.gguf --prompt "The module"
    """
    from kdkit.workflow.export import ExportRequest, export_model

    with interruptible("nothing is kept"):
        print(export_model(ExportRequest(source, file, model, runs_dir)))
