"""`kaggle_kernel.json`: what is rendered, and what Kaggle would refuse or, worse, take for something else."""

import json
import os
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kdkit.config.values import suggest_key
from kdkit.errors import UserError

FILE = "kaggle_kernel.json"
SHAPES = (
    "NvidiaTeslaT4",
    "NvidiaTeslaP100",
    "NvidiaL4",
    "NvidiaL4X1",
    "NvidiaTeslaA100",
    "NvidiaH100",
    "NvidiaRtxPro6000",
)
"""GPUs that Kaggle's documentation names; its client sends any text, and only the session shows what was made of it."""
RETIRED = {"NvidiaTeslaP100": "retired by Kaggle on 2026-09-15: the session runs on T4 x2"}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""Of owners, of data sets and kernels, and of the folders that are rendered."""
TITLE_LENGTH = (5, 50)

Model = TypeVar("Model", bound=BaseModel)


class Kernel(BaseModel):
    """One notebook on Kaggle; what an entry leaves out stands in `defaults`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    notebook: str = ""
    """A file of notebooks/, without its ending; empty: named as the entry."""
    config: str = "configs/t4x2.yaml"
    overrides: list[str] = []
    run: str = ""
    """Name of the run folder; empty: named after the configuration."""
    parameters: dict[str, str | bool | int | float | None] = {}
    """More parameters of the notebook: `{"MAX_STEPS": 100}`."""
    num_processes: int = Field(default=1, ge=1, le=8)
    """Processes that train an embedding model together, one on each GPU."""
    title: str = ""
    """Its slug must be the kernel's; empty: made from it."""
    is_private: bool = True
    enable_gpu: bool = True
    enable_internet: bool = True
    machine_shape: str = "NvidiaTeslaT4"
    dataset_sources: list[str] = []
    kernel_sources: list[str] = []
    """Entries of this file, or OWNER/SLUG."""
    competition_sources: list[str] = []
    model_sources: list[str] = []
    keywords: list[str] = []
    docker_image_pinning_type: str | None = None

    @field_validator("machine_shape")
    @classmethod
    def _known(cls, shape: str) -> str:
        if shape not in SHAPES:
            raise ValueError(f"expected one of {', '.join(SHAPES)}, got {shape!r}; {suggest_key(shape, list(SHAPES))}")
        return shape


class Source(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    owner: str = ""
    slug_prefix: str = "kdkit"
    package: str = "kdkit-package"
    """Slug of the data set that carries the package."""
    notebooks: dict[str, Kernel]

    @model_validator(mode="after")
    def _check(self) -> "Source":
        for name, kernel in self.notebooks.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"notebooks: expected letters, digits, '_' and '-' in a name, got {name!r}; rename it")
            check_slug(self.slug(name), f"notebooks.{name}")
            title, slug = self.title(name), self.slug(name)
            if not TITLE_LENGTH[0] <= len(title) <= TITLE_LENGTH[1] or slug_of(title) != slug:
                raise ValueError(
                    f"notebooks.{name}.title: expected 5 to 50 characters whose slug is {slug!r}, got {title!r} "
                    f"({slug_of(title)!r}, which Kaggle would make another kernel of); leave the title out"
                )
            for source in kernel.kernel_sources:
                if source not in self.notebooks and source.count("/") != 1:
                    hint = suggest_key(source, list(self.notebooks))
                    raise ValueError(
                        f"notebooks.{name}.kernel_sources: expected an entry of this file or OWNER/SLUG, "
                        f"got {source!r}; {hint}"
                    )
        check_slug(self.package, "package", shortest=6)
        return self

    def slug(self, name: str) -> str:
        """Return the slug of an entry's kernel: `kdkit-01-data`."""
        return slug_of(f"{self.slug_prefix} {name}")

    def title(self, name: str) -> str:
        """Return the title of an entry's kernel."""
        return self.notebooks[name].title or self.slug(name).replace("-", " ")

    def sources_of(self, name: str) -> list[str]:
        """Return the kernels whose output an entry reads, as Kaggle names them."""
        sources = self.notebooks[name].kernel_sources
        return [f"{self.owner}/{self.slug(source)}" if source in self.notebooks else source for source in sources]


def read_source(path: Path, owner: str = "") -> Source:
    """Read and check `kaggle_kernel.json`.

    Args:
        owner: the name at Kaggle; empty: as in the file, or in KAGGLE_USERNAME.

    Raises:
        UserError: no such file, or something in it that Kaggle does not take.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"kaggle: expected {FILE}, got no such file at {path}; go to the repository, or name one: --source FILE"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"kaggle: expected JSON in {path}, got another ({error}); correct the file") from None
    if not isinstance(values, dict) or not isinstance(values.get("notebooks"), dict) or not values["notebooks"]:
        raise UserError(f"{path.name}: expected `notebooks`, with an entry for each kernel, got none; see {FILE}")
    values, defaults = dict(values), values.get("defaults", {})
    values.pop("defaults", None)
    values["owner"] = owner or values.get("owner") or os.environ.get("KAGGLE_USERNAME", "")
    values["notebooks"] = {
        name: {**defaults, **entry} if isinstance(defaults, dict) and isinstance(entry, dict) else entry
        for name, entry in values["notebooks"].items()
    }
    source = _validate(Source, values, path.name)
    if not NAME.fullmatch(source.owner):
        raise UserError(
            f"{path.name}: expected your name at Kaggle as owner, got {source.owner!r}; write it there, "
            "or: --owner NAME"
        )
    return source


def slug_of(title: str) -> str:
    """Return what Kaggle makes of a title for its address: `kdkit 01_data` is `kdkit-01-data`."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def check_slug(slug: str, key: str, shortest: int = 5) -> str:
    """Return a slug that Kaggle takes.

    Raises:
        ValueError: it is too short or too long, or is no slug.
    """
    if slug != slug_of(slug) or not shortest <= len(slug) <= 50:
        raise ValueError(
            f"{key}: expected a slug of {shortest} to 50 small letters, digits and '-', got {slug!r}; "
            "change slug_prefix or the name"
        )
    return slug


def _validate(model: type[Model], values: Any, file: str) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = list((Kernel if len(first["loc"]) > 1 else Source).model_fields)
            key = str(first["loc"][-1])
            raise UserError(f"{file}: expected a known key, got {where!r}; {suggest_key(key, known)}") from None
        said = first["msg"].removeprefix("Value error, ")
        if first["type"] == "value_error":
            raise UserError(f"{file}: {where}{': ' if where else ''}{said}") from None
        raise UserError(
            f"{file}: {where}: expected another value ({said}), got {first['input']!r:.60}; see {FILE} of kdkit"
        ) from None
