"""Muon on the matrices of the hidden layers and AdamW on all else, as one optimizer."""

from typing import Any

import torch

from kdkit.config.recipe.settings import MuonConfig
from kdkit.errors import UserError

Groups = list[dict[str, Any]]


def check_muon() -> None:
    """Refuse Muon where torch has none.

    Raises:
        UserError: torch before 2.9.
    """
    if not hasattr(torch.optim, "Muon"):
        raise UserError(
            f"train.optimizer: expected torch 2.9 or newer for muon, got {torch.__version__}; "
            "pip install -U torch, or set train.optimizer=adamw"
        )


def hidden_matrices(model: torch.nn.Module) -> set[torch.nn.Parameter]:
    """Return the parameters that Muon is made for: two-dimensional, and neither embeddings nor the output head."""
    return {parameter for parameter in model.parameters() if parameter.ndim == 2} - tables_of(model)


def tables_of(model: torch.nn.Module) -> set[torch.nn.Parameter]:
    """Return the parameters of embeddings and of the output head, whose rows are tokens."""
    tables = {p for module in model.modules() if isinstance(module, torch.nn.Embedding) for p in module.parameters()}
    head = model.get_output_embeddings()
    return tables | (set() if head is None else set(head.parameters()))


def split_groups(groups: Groups, chosen: set[torch.nn.Parameter], lr_multiplier: float = 1.0) -> tuple[Groups, Groups]:
    """Sort optimizer groups into those of chosen parameters, as Muon's, and all others; both keep the order.

    Args:
        groups: with `params`, `lr` and `weight_decay`.
        lr_multiplier: the chosen ones learn by this factor faster.
    """
    chosen_groups, others = [], []
    for group in groups:
        inside = [p for p in group["params"] if p in chosen]
        outside = [p for p in group["params"] if p not in chosen]
        if inside:
            chosen_groups.append(group | {"params": inside, "lr": group["lr"] * lr_multiplier})
        if outside:
            others.append(group | {"params": outside})
    return chosen_groups, others


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimizers of torch behind one face: a schedule, a checkpoint and GradScaler see a single one.

    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; the size of its updates as in Liu et al. 2025,
    arXiv:2502.16982, so that AdamW's learning rate and weight decay serve both.
    """

    def __init__(self, for_muon: Groups, for_adamw: Groups, settings: MuonConfig, adamw_options: dict[str, Any]):
        """Prepare both.

        Args:
            for_muon: groups of two-dimensional parameters; at least one.
            for_adamw: groups of all others; at least one.
            adamw_options: such as `lr`, `betas` and `eps`.
        """
        # AdamW's groups first: the rate of the first one is logged
        self._parts = [torch.optim.AdamW(for_adamw, **adamw_options), _muon(for_muon, settings, adamw_options)]
        # some schedules ask for the rate of the whole
        rate = {"lr": adamw_options["lr"]}
        super().__init__([group for part in self._parts for group in part.param_groups], rate)
        self._share()

    def _share(self) -> None:
        """Let both parts work on the groups and the state of the whole, which schedules and checkpoints change."""
        first = len(self._parts[0].param_groups)
        self._parts[0].param_groups, self._parts[1].param_groups = self.param_groups[:first], self.param_groups[first:]
        for part in self._parts:
            part.state = self.state

    def step(self, closure: None = None) -> None:
        """Take a step with both."""
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of both, as `state_dict` returned it."""
        super().load_state_dict(state_dict)
        self._share()


def make_muon(
    model: torch.nn.Module, groups: Groups, settings: MuonConfig, adamw_options: dict[str, Any]
) -> torch.optim.Optimizer:
    """Make the optimizer of a model.

    Args:
        groups: of all parameters that learn.
        adamw_options: for the part that is AdamW.

    Raises:
        UserError: torch has no Muon, or no matrix of a hidden layer learns.
    """
    check_muon()
    for_muon, for_adamw = split_groups(groups, hidden_matrices(model), settings.lr_multiplier)
    if not for_muon:
        raise UserError(
            "train.optimizer: expected matrices of hidden layers that learn for muon, got none; set "
            "train.optimizer=adamw, or change train.parameter_lr_multipliers"
        )
    if not for_adamw:  # all but the matrices is frozen
        return _muon(for_muon, settings, adamw_options)
    return MuonWithAdamW(for_muon, for_adamw, settings, adamw_options)


def _muon(groups: Groups, settings: MuonConfig, adamw_options: dict[str, Any]) -> torch.optim.Optimizer:
    return torch.optim.Muon(groups, lr=adamw_options["lr"], momentum=settings.momentum, adjust_lr_fn="match_rms_adamw")
