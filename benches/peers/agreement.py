"""Whether what a contestant computes is what it should: y and gradients, beside float64."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from contestants import Call, Contestant, Layer

# ‖y − y₆₄‖ / ‖y₆₄‖, and the same of gradients. In f32 the farthest off is PyTorch Geometric's ∂x of a power
# law of 2 million incidences, with 2.4e-5: it adds rows of vertices that are in many hyperedges one by one.
# f16 is eight times as exact as bf16.
TOLERANCE = {"f32": 5e-5, "tf32": 1e-2, "bf16": 3e-2, "f16": 4e-3}
# What one rounding may change, relatively.
EPSILON = {"f32": 2.0**-23, "tf32": 2.0**-10, "bf16": 2.0**-7, "f16": 2.0**-10}
# What is timed: what agrees, and what says of itself that its sums are not exact enough to.
TIMED = ("ok", "inexact")


def tolerance_of(c: Contestant | type[Contestant], dtype: str) -> float:
    """What it may differ from float64: its own bound, where it has one."""
    return c.tolerance.get(dtype, TOLERANCE[dtype])


def distance(got: Tensor, wanted: Tensor, floor: float = 0.0) -> float:
    scale = max(wanted.norm().item(), floor)
    return (got.double() - wanted).norm().item() / (scale or 1.0)


def errors_of(
    c: Contestant, x: Tensor, y: Tensor, leaves: dict[str, Tensor], g: Tensor, gradients: dict[str, Tensor]
) -> dict[str, float]:
    """Of y and of the gradients that are given, of "x" and of leaves by their names. x, y and g, the gradient
    of y, are [G, n, F]."""
    x64 = x.detach().double().requires_grad_()
    wide = {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}
    if isinstance(c, Layer):
        # Rounding may decide what is 0: gradients enter where the contestant's own ReLU lets them.
        before, g = c.before_relu(x64, wide), g * (y > 0)
        y64 = torch.relu(before.detach())
    else:
        before = c.expected(x64, wide)
        y64 = before.detach()
    errors = {"y": distance(y, y64)}
    if gradients:
        by = {"x": x64} | wide
        wanted = torch.autograd.grad(before, [by[name] for name in gradients], g.double())
        for (name, got), want in zip(gradients.items(), wanted, strict=True):
            # The terms of ∂w may cancel, to 0 where each vertex is in one hyperedge: that error is allowed
            # which rounding leaves in terms of this size.
            floor = 0.0
            if name == "w":
                terms = g.double().norm() * y64.norm() / wide["w"].detach().norm()
                floor = terms.item() * EPSILON[c.p.dtype] / tolerance_of(c, c.p.dtype)
            errors[f"∂{name}"] = distance(got, want, floor)
    return errors


def few_instances(c: Contestant, calls: dict[str, Call], name: str, x: Tensor, g: Tensor) -> dict[str, float]:
    """Of a call that is timed, by itself; x and g are in the contestant's format."""
    x, g = c.give(x), c.give(g)
    if name == "forward":
        return errors_of(c, x, c.give(calls[name](0)), c.parameters, g, {})
    y, gradients = calls[name](0)
    named = dict(zip(["x", *c.parameters], [c.give(gradients[0]), *gradients[1:]], strict=True))
    errors = errors_of(c, x, c.give(y.detach()), c.parameters, g, named)
    return {"y, both": errors.pop("y")} | errors


def last_instance(c: Contestant, name: str, result: Any, x: Tensor, g: Tensor) -> dict[str, float]:
    """Of the last instance of what is timed, of what that has to itself."""
    y, gradients = (result, ()) if name == "forward" else result
    x, g, y = (c.give(rows.detach())[-1:] for rows in (x, g, y))
    leaves, of_it = dict(c.parameters), {}
    if gradients:
        of_it["x"] = c.give(gradients[0])[-1:]
    if "w" in leaves and leaves["w"].dim() == 2:
        leaves["w"] = leaves["w"][-1]
        if gradients:
            of_it["w"] = gradients[1 + list(leaves).index("w")][-1]
    errors = errors_of(c.on(c.p.of(1)), x, y, leaves, g, of_it)
    of_call = "" if name == "forward" else ", both"
    return {f"last y{of_call}": errors.pop("y")} | {f"last {name}": error for name, error in errors.items()}


def judgement(c: type[Contestant], dtype: str, errors: dict[str, float]) -> str:
    """The status that errors lead to. NaN does not agree."""
    tolerance = tolerance_of(c, dtype)
    if all(error <= tolerance for error in errors.values()):
        return "ok"
    if c.sums_in_dtype and dtype in ("bf16", "f16") and all(map(math.isfinite, errors.values())):
        return "inexact"
    told = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    return f"DISAGREES with float64: {told}; allowed are {tolerance:.0e}"
