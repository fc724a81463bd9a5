"""Spoils configuration files as people and accidents do: in their values, and in their text."""

import copy

import yaml

WORDS = [
    "", " ", "\n", "two\nlines", "a\r\nb", "\t", "\u2028", "\x85", "na\u00efve \u4e2d\u6587 \U0001f600", "x" * 100_000,
    "nan", "null", "true", "-1", "1e3", "auto", "build", "none", "~", "..", "../..", "/", "a/b", "*.yaml", "{}",
    "[1, 2]", "%s", "{x}", "\\n", "'", '"', "python:missing:Name", "package:nothing", "missing.gguf", "missing.json",
    "C:\\data", "$HOME", "<script>alert(1)</script>", "\u202e", "\ufeff", "a" * 300 + ".json", "nul\0.json",
]  # fmt: skip
NUMBERS = [
    0, -0.0, 1, -1, 2, 7, 1.5, -3.25, 255, 256, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400, 1e308, -1e308, 1e-320,
    float("nan"), float("inf"), float("-inf"),
]  # fmt: skip
OTHERS = [None, True, False, [], {}, [[]], [None], {"": None}, {None: None}, {1: 2}, {True: 1}, {2.5: "x"}, b"\xff\x00"]
MARKS = ["{", "}", "[", ":", "&a ", "*a ", "!", "'", '"', "#", "\t", "\0", "|", ">", "-"]
LINES = [
    "a: &a [*a]", "b: &b {c: *b}", "!!python/object/apply:os.system ['true']", "seed: 2001-99-99", "seed: !!set {a, b}",
    "train: *missing", "seed: 0b11", "seed: 1_0", "seed: 1:30", "? [a, b]\n: c", "<<: {seed: 1}", "<<: 1", "%YAML 9.9",
    "---", "...", "\tseed: 1", "seed: 1", "seed: 2\nseed: 3", "train:", "data: text", "- train", "'", "{",
    "seed: !!binary x", "seed: !!float x", "seed: !!int x", "seed: !!timestamp x", "seed: !!omap x", "seed: !!bool x",
    "seed: 9" + "9" * 5000,
    "deep: " + "[" * 400 + "]" * 400, "deep: " + "[" * 5000 + "]" * 5000, "deep: " + "{a: " * 300 + "1" + "}" * 300,
    "train: &t {max_steps: 1}\nstudent: *t", "data: &d {path: x}\nmaths: *d", "\u2028", "\0", "a\x07b: 1",
    "\ufeffseed: 1", "distill: {layer_map: &a {x: *a}}", "train: {lr_schedule_options: &a {x: *a}}",
    "variants: &a {a: *a, b: {}}", "variants: {a: {train.lr_schedule_options: &a [*a]}, b: {}}",
]  # fmt: skip


def spoil(text, draw):
    """Return another text of a YAML file: one to four of its values, or of its lines, are changed.

    Args:
        text: a whole file.
        draw: a seeded `random.Random`.
    """
    values = yaml.safe_load(text)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        _spoil_value(values, draw)
    text = yaml.safe_dump(values, allow_unicode=draw.random() < 0.5)
    for _ in range(draw.choice([0, 0, 0, 1, 2])):
        text = _spoil_text(text, draw)
    return text


def garbage(draw, depth=0):
    """Draw a value of any kind, nested or not."""
    kind = draw.random()
    if kind < 0.35:
        return draw.choice(WORDS)
    if kind < 0.7:
        return draw.choice(NUMBERS)
    if kind < 0.85 or depth == 3:
        return copy.deepcopy(draw.choice(OTHERS))
    if kind < 0.92:
        return [garbage(draw, depth + 1) for _ in range(draw.randrange(4))]
    return {draw.choice(WORDS): garbage(draw, depth + 1) for _ in range(draw.randrange(4))}


def _places(values):
    """Yield every `(container, key)` in nested values."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in list(items):
        yield values, key
        yield from _places(value)


def _spoil_value(values, draw):
    places = list(_places(values))
    if not places:
        return
    container, key = draw.choice(places)
    value = container[key]
    kind = draw.randrange(6)
    if kind == 0:
        del container[key]
    elif kind == 1:
        container[key] = _like(value, draw)
    elif kind == 2 and isinstance(container, dict):
        container[_misspelt(key, draw)] = value
    elif kind == 3 and isinstance(container, dict):
        del container[key]
        container[_misspelt(key, draw)] = value
    elif kind == 4:
        other, place = draw.choice(places)
        container[key] = copy.deepcopy(other[place])  # a value of another setting, or a whole section
    else:
        container[key] = garbage(draw)


def _like(value, draw):
    """Change a value and keep its type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draw.choice([value * -1, value + 1, value * 10**6, value // 2, 0, 10**25])
    if isinstance(value, float):
        return draw.choice([-value, value * 1e30, value / 1e30, 0.0, float("nan"), float("inf"), 1 - value])
    if isinstance(value, str):
        return draw.choice([value[::-1], value * 1000, value.upper(), f" {value}", f"{value}\n", value[1:]])
    if isinstance(value, list):
        return draw.choice([value * 2, value[:1], [value], value[::-1]])
    return {} if isinstance(value, dict) else garbage(draw)


def _misspelt(key, draw):
    key = str(key)
    at = draw.randrange(len(key) + 1)
    longer = key[:at] + draw.choice(["x", *WORDS[:10]]) + key[at:]
    return draw.choice([key[:at] + key[at + 1 :], longer, key.upper()])


def _spoil_text(text, draw):
    lines = text.splitlines(keepends=True)
    at = draw.randrange(len(lines) + 1)
    kind = draw.randrange(6)
    if kind == 0:
        return "".join([*lines[:at], f"{draw.choice(LINES)}\n", *lines[at:]])
    if kind == 1:
        return "".join(lines[:at] + lines[at + 1 :])
    if kind == 2:
        return "".join(lines[:at] + lines[at : at + 1] + lines[at:])
    if kind == 3:
        return "".join(lines[:at] + [" " + line for line in lines[at : at + 1]] + lines[at + 1 :])
    place = draw.randrange(len(text) + 1)
    return text[:place] if kind == 4 else text[:place] + draw.choice(MARKS) + text[place:]
