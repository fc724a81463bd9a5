"""The verb that asks an endpoint for vectors: embed."""

from typing import Annotated

import typer

from kdkit.cli.options import Debug, interruptible

embed_app = typer.Typer(rich_markup_mode=None)


@embed_app.command()
def embed(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Sentences: .txt, .csv, .jsonl, .parquet, python-docs.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="The file of vectors, OUT.parquet; it is added to.")],
    url: Annotated[str, typer.Option(help="An endpoint in OpenAI's form, without /embeddings.")],
    model: Annotated[str, typer.Option(metavar="NAME", help="The model that it is asked for.")],
    key_variable: Annotated[
        str, typer.Option(metavar="NAME", help="Environment variable that holds the key, if there is one.")
    ] = "OPENAI_API_KEY",
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences in a request.")] = 64,
    debug: Debug = False,
) -> None:
    """Ask a teacher behind an endpoint for the vectors of sentences, and keep them for `teacher.vectors`.

    What is in OUT is not asked for again: call it for each file, and call it again after an interruption. Examples:

    python -m kdkit embed sentences.csv teacher.parquet --url http://localhost:8000/v1 --model NAME

    python -m kdkit run configs/embedding_demo.yaml -p data.path=sentences.csv -p teacher.vectors=teacher.parquet
    -p method=cosine -p compare=[] -p student.path=ENCODER
    """
    from kdkit.workflow.vectors.endpoint import EmbedRequest, embed_file

    with interruptible("what was answered is kept, and the same command goes on"):
        print(embed_file(EmbedRequest(file, out, url, model, key_variable, batch_size)))
