"""Options of the learning rate's schedules: which each one takes, and what they may be."""

from collections.abc import Mapping

from kdkit.errors import UserError

SCHEDULE_OPTIONS: dict[str, tuple[str, ...]] = {
    "cosine": ("num_cycles",),
    "cosine_with_restarts": ("num_cycles",),
    "cosine_with_min_lr": ("min_lr", "min_lr_rate", "num_cycles"),
    "linear": (),
    "polynomial": ("lr_end", "power"),
    "inverse_sqrt": ("timescale",),
    "constant": (),
    "constant_with_warmup": (),
    "warmup_stable_decay": ("decay_share", "decay_type", "warmup_type", "min_lr_ratio", "num_cycles"),
}
"""Options of the schedules: transformers', but for `decay_share`, a share of the steps for `num_decay_steps`: trainings
of other lengths, as a baseline of equal time, keep the shape."""

SHAPES = ("linear", "cosine", "1-sqrt")
"""Values of `decay_type` and `warmup_type`."""

POSITIVE = {"num_cycles": 1, "power": 2, "timescale": 100, "decay_share": 0.2}
"""Options above 0, each with a value that works; `decay_share` is at most 1."""

LR_END = 1e-7
"""Where `polynomial` ends by default."""

Options = Mapping[str, float | str]


def check_schedule(name: str, options: Options, learning_rate: float, rate_key: str = "train.learning_rate") -> None:
    """Refuse options that a schedule does not take, or under which the rate would rise, turn negative or be no number.

    Args:
        options: `train.lr_schedule_options`.
        learning_rate: the peak.
        rate_key: what it is called, for messages.

    Raises:
        UserError: naming the option.
    """
    allowed = SCHEDULE_OPTIONS[name]
    if unknown := [option for option in options if option not in allowed]:
        takes = ", ".join(allowed) or "none"
        raise UserError(
            f"train.lr_schedule_options: expected {takes} for {name}, got {unknown[0]!r}; {_instead(unknown[0])}"
        )
    if name == "cosine_with_min_lr" and len(options.keys() & {"min_lr", "min_lr_rate"}) != 1:
        raise UserError(
            "train.lr_schedule_options: expected either min_lr or min_lr_rate for cosine_with_min_lr, got "
            f"{', '.join(options) or 'none'}; set train.lr_schedule_options={{min_lr_rate: 0.1}}"
        )
    for option in ("decay_type", "warmup_type"):
        if (shape := options.get(option, "linear")) not in SHAPES:
            _refuse(option, "linear, cosine or 1-sqrt", shape, "linear")
    for option, otherwise in POSITIVE.items():
        value = _number(options, option, otherwise)
        if value <= 0.0 or (option == "decay_share" and value > 1.0):
            _refuse(option, f"above 0{' and at most 1' * (option == 'decay_share')}", value, otherwise)
    if name == "cosine_with_restarts" and _number(options, "num_cycles", 1) % 1:
        _refuse("num_cycles", f"a whole number for {name}", options["num_cycles"], 2)
    for option in ("min_lr_rate", "min_lr_ratio"):
        if not 0.0 <= (share := _number(options, option, 0.1)) <= 1.0:
            _refuse(option, f"a share of {rate_key}, from 0 to 1", share, 0.1)
    end = "lr_end" if name == "polynomial" else "min_lr"
    if not 0.0 <= (last := _number(options, end, LR_END if end == "lr_end" else 0.0)) < learning_rate:
        _refuse(end, f"from 0 to below {rate_key}, {learning_rate:g}", last, f"{learning_rate / 10:g}")


def _number(options: Options, option: str, otherwise: float) -> float:
    """Return an option that is a number, or what it is where it is not given."""
    value = options.get(option, otherwise)
    if isinstance(value, str):
        _refuse(option, "a number", value, otherwise)
    return float(value)


def _refuse(option: str, expected: str, value: float | str, instead: float | str) -> None:
    """Say what an option may be, and a value that works."""
    key = f"train.lr_schedule_options.{option}"
    got = repr(value) if isinstance(value, str) else f"{value:g}"
    raise UserError(f"{key}: expected {expected}, got {got}; set {key}={instead}")


def _instead(option: str) -> str:
    """Name the schedules that take an option, or this package's own name of it."""
    if option == "num_decay_steps":
        return "write decay_share, a share of the steps"
    takers = [name for name, options in SCHEDULE_OPTIONS.items() if option in options]
    return f"set train.lr_schedule={takers[0]}, or leave it out" if takers else "leave it out"
