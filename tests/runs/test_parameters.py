"""Parameters of a notebook: what papermill injects is checked before anything runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kdkit.errors import UserError
from kdkit.runs.parameters import NEEDED, as_overrides, check_parameters

ROOT = Path(__file__).parents[2]

DECLARED = (
    'CONFIG: str = "configs/quick.yaml"\nTEMPERATURE: float = None  # help\nMAX_STEPS: int = None\nRESUME: bool = False'
)


def cells(injected):
    """Return what IPython has run: the first cell, the parameters, what papermill put behind them, this one."""
    return ["", "import sys", DECLARED, f"# Parameters\n{injected}\n", "check_parameters(In)"]


@pytest.mark.parametrize(
    "injected",
    [
        "TEMPERATURE = 2",
        "TEMPERATURE = 2.5",
        "TEMPERATURE = None",
        "MAX_STEPS = 3\nRESUME = True",
        'CONFIG = "a.yaml"',
        "",
    ],
)
def test_what_the_notebook_has_passes(injected):
    check_parameters(cells(injected))


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        ("TEMPRATURE = 2", "got 'TEMPRATURE'; did you mean 'TEMPERATURE'?"),
        ('TEMPERATURE = "hot"', "expected TEMPERATURE to be of type float, got 'hot' (str)"),
        ("MAX_STEPS = 2.5", "expected MAX_STEPS to be of type int, got 2.5 (float)"),
        ("MAX_STEPS = True", "expected MAX_STEPS to be of type int, got True (bool)"),
        ('RESUME = "no"', "expected RESUME to be of type bool"),
        ("max_steps = 3", "got 'max_steps'"),
    ],
)
def test_what_it_does_not_have_stops(injected, message):
    with pytest.raises(UserError) as error:
        check_parameters(cells(injected))
    assert message in str(error.value)


def test_a_notebook_without_injected_parameters_is_left_alone():
    check_parameters(["", "import sys", DECLARED, "check_parameters(In)"])
    check_parameters([""])


def test_the_last_injection_counts_where_cells_were_run_again():
    check_parameters([*cells("TEMPRATURE = 2"), *cells("TEMPERATURE = 2")])


def test_only_settings_with_a_value_become_overrides():
    settings = {"distill.loss": "alm", "distill.temperature": 2.0, "train.max_steps": None, "cache.enabled": True}
    assert as_overrides(settings) == ["distill.loss=alm", "distill.temperature=2", "cache.enabled=true"]


def bare_python(*words):
    """Run Python without any installed package, as another environment's kernel is."""
    return subprocess.run([sys.executable, "-S", *words], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_kernel_without_our_packages_is_told_so_in_one_line():
    code = "from kdkit.runs.parameters import check_parameters\ntry: check_parameters(In := [''])\n"
    done = bare_python("-c", f"{code}except ValueError as error: print(error)")
    assert done.stderr == "" and done.stdout.count("\n") == 1
    assert done.stdout.startswith("kernel: expected kdkit's packages in this notebook's Python")
    assert "torch, transformers" in done.stdout and f"{sys.executable} -m pip install -r" in done.stdout


def test_the_command_line_without_our_packages_says_so_in_one_line():
    done = bare_python("-m", "kdkit", "doctor")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "got no typer" in done.stderr and "pip install -r requirements.txt" in done.stderr


def test_what_a_kernel_needs_is_what_our_requirements_install():
    required = re.findall(r"^[a-z0-9-]+", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE)
    assert {{"yaml": "pyyaml"}.get(name, name) for name in NEEDED} <= set(required)
