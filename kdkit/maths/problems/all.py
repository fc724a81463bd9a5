"""Every kind of problem, and the choice of a run."""

import difflib
from collections.abc import Iterable, Sequence

from kdkit.config.maths.settings import ProblemsConfig
from kdkit.errors import UserError
from kdkit.maths.problems.algebra import linear_equations
from kdkit.maths.problems.calculus.derivatives import DerivativePolynomial
from kdkit.maths.problems.template import Template

TEMPLATES: tuple[type[Template], ...] = (*linear_equations.TEMPLATES, DerivativePolynomial)


def find_templates(settings: ProblemsConfig) -> tuple[list[Template], list[Template]]:
    """Return the kinds of problems to train on, and those that are only judged on.

    Raises:
        UserError: a name is unknown, or nothing is left to train on.
    """
    known = {template.name: template() for template in TEMPLATES}
    _check("maths.problems.templates", settings.templates or [], known)
    _check("maths.problems.held_out_templates", settings.held_out_templates or [], known)
    chosen = [each for each in known.values() if each.domain in settings.domains]
    if settings.templates is not None:
        chosen = [known[name] for name in dict.fromkeys(settings.templates)]
    chosen = [each for each in chosen if set(each.levels) & set(settings.levels)]
    if settings.held_out_templates is None:
        held_out = _last_of_each_domain(chosen)
    else:
        held_out = [known[name] for name in dict.fromkeys(settings.held_out_templates)]
    trained = [each for each in chosen if each not in held_out]
    if not trained:
        raise UserError(
            f"maths.problems: expected a kind of problem to train on, got none of levels {settings.levels} in"
            f" {settings.templates or settings.domains} but those held out; add levels or templates"
        )
    return trained, held_out


def _last_of_each_domain(templates: Sequence[Template]) -> list[Template]:
    """Return one template of each domain that has several."""
    by_domain: dict[str, list[Template]] = {}
    for template in templates:
        by_domain.setdefault(template.domain, []).append(template)
    return [several[-1] for several in by_domain.values() if len(several) > 1]


def _check(setting: str, names: Sequence[str], known: Iterable[str]) -> None:
    """Refuse a name that is not known, with the nearest one that is."""
    known = list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"choose of {', '.join(sorted(known))}"
        raise UserError(f"{setting}: expected a name of kdkit's, got {unknown[0]}; {hint}")
