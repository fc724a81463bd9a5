"""The documentation tells the truth about what can be checked: links, headings, settings, the pages of the site."""

import re
from pathlib import Path

import pytest
import yaml

from kdkit.config.describe import describe_settings
from kdkit.config.embeddings import ALIASES as EMBEDDING_ALIASES
from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.language import ALIASES, Config
from kdkit.config.losses import loss_options
from kdkit.config.methods import method_options
from kdkit.config.values import flatten

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
WITH_LINKS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def prose_of(path):
    """Return a page without its blocks of code."""
    return re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors_of(path):
    """Return the anchors of a page's headings, as GitHub makes them."""
    anchors = []
    for title in re.findall(r"^#+ (.+)$", prose_of(path), re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        count = sum(1 for other in anchors if re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", other))
        anchors.append(f"{anchor}-{count}" if count else anchor)
    return anchors


def pages_in(navigation):
    """Yield the files that the site's menu names."""
    for entry in navigation:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        if isinstance(value, list):
            yield from pages_in(value)
        else:
            yield value


@pytest.mark.parametrize("page", WITH_LINKS, ids=name_of)
def test_every_relative_link_points_at_something(page):
    broken = []
    for target in LINK.findall(prose_of(page)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if not path.exists() or (anchor and anchor not in anchors_of(path)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", WITH_LINKS, ids=name_of)
def test_no_line_stands_for_a_table_still_to_be_written(page):
    assert re.findall(r"^[A-Z]+_[A-Z_]+$|\bTODO\b|\bTBD\b", prose_of(page), re.MULTILINE) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_of_the_site_links_to_nothing_outside_it(page):
    paths = [link.partition("#")[0] for link in LINK.findall(prose_of(page)) if "://" not in link]
    outside = [path for path in paths if not (page.parent / path).resolve().is_relative_to(ROOT / "docs")]
    assert outside == []


def test_the_menu_of_the_site_names_every_page_once():
    site = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=Tagless)
    assert sorted(pages_in(site["nav"])) == sorted(path.relative_to(ROOT / "docs").as_posix() for path in PAGES)


class Tagless(yaml.SafeLoader):
    """Reads a site's `!!python/name:...` as the name."""


Tagless.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda loader, name, node: name)


def test_the_settings_page_is_what_the_schemas_say():
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == describe_settings()


@pytest.mark.parametrize("schema", [Config, EmbeddingConfig])
def test_the_settings_page_has_every_setting(schema):
    page, keys = describe_settings(), flatten(schema().model_dump())
    below_choices = ("distill.loss.", "method.")
    assert [key for key in keys if not key.startswith(below_choices) and f"| `{key}` |" not in page] == []


def test_the_settings_page_has_every_loss_and_method_with_its_options():
    page = describe_settings()
    for name, options in [*loss_options().items(), *method_options().items()]:
        part = "".join(re.findall(rf"^### {name}\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL))
        assert [option for option in options if f"| `{option}` |" not in part] == [], name


def test_the_settings_that_the_page_of_features_names_exist():
    text = (ROOT / "docs" / "seed_features.md").read_text(encoding="utf-8")
    sections = "|".join(sorted({*Config.model_fields, *EmbeddingConfig.model_fields}))
    named = set(re.findall(rf"`((?:{sections})(?:\.[a-z_]+)+)`", text))
    known = {*flatten(Config().model_dump()), *flatten(EmbeddingConfig().model_dump()), *ALIASES, *EMBEDDING_ALIASES}
    assert len(named) > 60, "the page names its settings in full"
    assert sorted(named - known) == []
    options = {option for names in method_options().values() for option in names}
    of_methods = re.findall(r"options? ((?:`[a-z_]+`(?:, | and )?)+)", text)
    assert of_methods and {name for names in of_methods for name in re.findall(r"`([a-z_]+)`", names)} <= options


def test_every_setting_says_what_it_takes_and_what_it_is():
    rows = re.findall(r"^\| `[^|]+` \| (.*)\|$", describe_settings(), re.MULTILINE)
    cells = [re.split(r"(?<!\\)\|", row) for row in rows]
    assert [row for row in cells if len(row) == 3 and not (row[0].strip() and row[2].strip())] == []


def test_the_limits_of_numbers_are_on_the_settings_page():
    page = describe_settings()
    assert "| `distill.kd_ratio` | number ≥ 0, ≤ 1 | `0.5` |" in page
    assert "| `cache.num_samples` | whole number ≥ 1, ≤ 255 | `50` |" in page


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=name_of)
def test_configurations_and_notebooks_that_a_page_names_exist(page):
    text = re.sub(r"https?://\S+", "", page.read_text())
    named = re.findall(r"(?:configs|notebooks|benchmarks|tests|kdkit)/[\w/.]*\w\.(?:yaml|ipynb|py|json)", text)
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_command_that_makes_the_settings_page_can_be_run(capsys):
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    code = re.search(r'python -c "(.*)" > docs/settings.md', text).group(1)
    exec(code, {})
    assert capsys.readouterr().out == text
