"""The convolution as a layer."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from . import _layers, functional
from ._calls import accumulation
from ._library import Error
from ._packed import on_host
from .functional import (
    ACTIVATIONS,
    NORMALIZATIONS,
    WEIGHT_USES,
    Activation,
    Normalization,
    Precision,
    WeightUse,
)
from .topology import Batch, Incidence, SelfLoops, Windows, choice

__all__ = ["HypergraphConv"]


class HypergraphConv(nn.Module):
    """A hypergraph convolution, `y = act(D⁻¹ H W B⁻¹ Hᵀ X Θ + b) + x` (Bai, Zhang and Torr 2019).

    Args:
        in_channels: features of x.
        out_channels: features of y.
        topology: the hypergraph of each instance; without one each call brings its own.
        weight: of hyperedges: all 1, or brought by the call (`None`), a parameter (`"learned"`), or the
            softplus of one, which is never negative (`"softplus"`). Both begin as 1, and need a topology.
        weight_use: as in `hyperscatter.conv`. A model that was trained in PyTorch Geometric wants
            `"degree_only"`.
        normalization: as in `hyperscatter.conv`.
        self_loops: hyperedges of one vertex each that are added to the topology, behind its own: for no
            vertex, for those without a hyperedge, or for all. They have weights like others.
        isolated: what a vertex without a hyperedge gets: 0, or its own row of XΘ (`"keep"`).
        bias: whether a bias is learned.
        activation: of what the convolution gives with its bias.
        residual: whether x is added in the end. Both numbers of channels must be the same then.
        precision: as in `hyperscatter.layer`, which computes a layer in one pass where it can. `lin` is
            called where something was hung on it: hooks, a parametrization, another `forward`, a weight of
            another kind of tensor, another module in its place.

    The state holds the topology's fingerprint and the conventions. Loading that of another convention is an
    error, and so is that of another topology where there are weights for its hyperedges; else it is a
    warning. After such an error layers before this one have been loaded.

    Shapes:
        x `[..., n, in_channels]` to `[..., n, out_channels]`; with a `Batch` as in `hyperscatter.functional`.
    """

    precision: Precision | None = None
    """Of modules, too, that were saved as a whole before it was there."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        topology: Incidence | None = None,
        weight: Literal["learned", "softplus"] | None = None,
        *,
        weight_use: WeightUse = "documented",
        normalization: Normalization = "row",
        self_loops: SelfLoops = "none",
        isolated: Literal["zero", "keep"] = "zero",
        bias: bool = True,
        activation: Activation | None = None,
        residual: bool = False,
        precision: Precision | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        choice("weight_use", weight_use, WEIGHT_USES)
        choice("normalization", normalization, NORMALIZATIONS)
        choice("self_loops", self_loops, ("none", "isolated", "all"))
        choice("isolated", isolated, ("zero", "keep"))
        if activation is not None:
            choice("activation", activation, ACTIVATIONS)
        _layers.number_of(precision)
        if weight not in (None, "learned", "softplus"):
            raise ValueError(f"weight must be None, 'learned' or 'softplus', and is {weight!r}")
        if weight is not None and topology is None:
            raise ValueError(
                f"weight={weight!r} needs a topology: a parameter has a value for each hyperedge"
            )
        if topology is not None and not isinstance(topology, Incidence):
            raise TypeError("the topology of a layer is an Incidence; give a Batch to forward")
        if residual and in_channels != out_channels:
            raise ValueError(
                f"residual=True adds x to y: in_channels is {in_channels}, and out_channels is {out_channels}"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.weight_use: WeightUse = weight_use
        self.normalization: Normalization = normalization
        self.self_loops: SelfLoops = self_loops
        self.isolated = isolated
        self.activation: Activation | None = activation
        self.residual = residual
        self.precision = precision
        self.weight_kind = weight
        self._topology, self._n_weights = (None, 0) if topology is None else self._looped(topology)
        self.lin = nn.Linear(in_channels, out_channels, bias=False, device=device, dtype=dtype)
        self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        self.weight = None
        if topology is not None and weight is not None:
            m = self._n_weights
            wide = accumulation(dtype or torch.get_default_dtype())
            self.weight = nn.Parameter(torch.empty(m, device=device, dtype=wide))
        self.reset_parameters()

    @property
    def topology(self) -> Incidence | None:
        """The hypergraph of each instance, with its self-loops; None if calls bring theirs. It is that of the
        layer's weights, and does not change."""
        return self._topology

    def _looped(self, topology: Incidence) -> tuple[Incidence, int]:
        """The topology with its self-loops, those of kept vertices last, and how many have weights."""
        if self.self_loops != "none":
            topology = topology.with_self_loops(self.self_loops)
        n_weights = topology.n_hyperedges
        return (topology.with_self_loops("isolated") if self.isolated == "keep" else topology), n_weights

    def reset_parameters(self) -> None:
        """Θ as in Glorot and Bengio 2010, the bias 0, the weights 1."""
        nn.init.xavier_uniform_(self.lin.weight)
        with torch.no_grad():
            if self.bias is not None:
                self.bias.zero_()
            if self.weight is not None:
                self.weight.fill_(math.log(math.e - 1) if self.weight_kind == "softplus" else 1)

    def hyperedge_weight(self) -> Tensor | None:
        """The weights of the layer's hyperedges, without those of kept vertices."""
        if self.weight is None:
            return None
        return nn.functional.softplus(self.weight) if self.weight_kind == "softplus" else self.weight

    def forward(
        self,
        x: Tensor,
        topology: Incidence | Batch | None = None,
        weight: Tensor | None = None,
        windows: Windows | None = None,
    ) -> Tensor:
        """As `hyperscatter.conv`.

        Args:
            x: rows of `in_channels` features.
            topology: where the layer has none.
            weight: where the layer has none; for the layer's topology with its self-loops.
            windows: where each instance's weights begin.
        """
        if (topology is None) == (self.topology is None):
            raise ValueError(
                "a layer without a topology needs one in each call"
                if topology is None
                else "this layer has a topology of its own"
            )
        if weight is not None and self.weight is not None:
            raise ValueError("this layer has weights of its own")
        if self.topology is not None:
            topology = self.topology
            n_kept = topology.n_hyperedges - self._n_weights
        else:
            n_kept = 0
            if self.self_loops != "none" or self.isolated == "keep":
                topology, n_kept = self._with_loops(topology)
        assert topology is not None
        weight = self.hyperedge_weight() if weight is None else weight
        if weight is not None and n_kept:
            if windows is not None:
                raise ValueError("isolated='keep' adds hyperedges that a table of windows does not know")
            weight = torch.cat([weight, weight.new_ones(*weight.shape[:-1], n_kept)], -1)
        conventions: Any = {
            "windows": windows,
            "normalization": self.normalization,
            "weight_use": self.weight_use,
            "bias": self.bias,
            "activation": self.activation,
        }
        theta, residual = _layers.theta_of(self.lin), x if self.residual else None
        if theta is not None:
            return functional.layer(
                x, theta, topology, weight, residual=residual, precision=self.precision, **conventions
            )
        h = self.lin(x)
        residual = None if residual is None else residual.to(h.dtype)
        return functional.conv(h, topology, weight, residual=residual, **conventions)

    @functional.eager
    def _with_loops(self, topology: Incidence | Batch | None) -> tuple[Incidence, int]:
        if not isinstance(topology, Incidence):
            raise ValueError(
                "self-loops of a Batch are added to its hypergraphs: Incidence.with_self_loops, "
                "before the Batch is "
                "made"
            )
        looped, n_weights = self._looped(topology)
        return looped, looped.n_hyperedges - n_weights

    def _conventions(self) -> dict[str, Any]:
        return {
            "topology": None if self.topology is None else self.topology.fingerprint,
            "weight_use": self.weight_use,
            "normalization": self.normalization,
            "weight": self.weight_kind,
            "self_loops": self.self_loops,
            "isolated": self.isolated,
        }

    def get_extra_state(self) -> Tensor:
        """The fingerprint and the conventions: the bytes of JSON, since what saves states wants tensors."""
        with on_host():
            return torch.tensor(list(json.dumps(self._conventions()).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Nothing is left to do: it was checked before parameters were copied."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        state = state_dict.get(f"{prefix}_extra_state")
        # A state on the meta device tells shapes alone, and so does a fake one.
        has_values = not (isinstance(state, Tensor) and (state.is_meta or isinstance(state, FakeTensor)))
        if state is not None and has_values:
            layer = prefix.rstrip(".") or "the layer"
            self._check_state(_conventions_of(state, layer), layer)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _check_state(self, state: dict[str, Any], layer: str) -> None:
        own = self._conventions()
        for name in ("weight_use", "normalization", "weight", "self_loops", "isolated"):
            if state.get(name) != own[name]:
                raise Error(
                    f"the state of {layer} was saved with {name}={state.get(name)!r}, and the layer has "
                    f"{own[name]!r}: the same parameters would give other numbers. Make the layer with what "
                    "the state was saved with"
                )
        if state.get("topology") != own["topology"]:
            saved, mine = state.get("topology"), own["topology"]
            message = f"the state of {layer} was saved for the topology {saved}, and the layer's is {mine}"
            if self.weight is not None:
                raise Error(f"{message}: its weights belong to other hyperedges")
            warnings.warn(message, stacklevel=2)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}"]
        if self.topology is not None:
            parts.append(f"topology={self.topology!r}")
        if self.weight_kind is not None:
            parts.append(f"weight={self.weight_kind!r}")
        parts += [f"weight_use={self.weight_use!r}", f"normalization={self.normalization!r}"]
        if self.activation is not None:
            parts.append(f"activation={self.activation!r}")
        if self.residual:
            parts.append("residual=True")
        if self.precision is not None:
            parts.append(f"precision={self.precision!r}")
        return ", ".join(parts)


def _conventions_of(state: Any, layer: str) -> dict[str, Any]:
    """What `get_extra_state` gave, also if it was cast since, as all tensors of a state may be."""
    if isinstance(state, dict):
        return state
    try:
        return json.loads(bytes(map(int, state.tolist())))
    except (ValueError, OverflowError, TypeError, AttributeError):
        raise Error(f"the extra state of {layer} is not that of a HypergraphConv") from None
