"""Who computes the convolution, and how.

A contestant is made for a problem, and what it makes then is not in its times. It takes x in a format of its
own, of the same numbers. Its weights, and Θ and the bias of a layer, are parameters with gradients.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from cases import Hypergraph, Problem, reference, safe_inverse

try:
    import hyperscatter
except ImportError as error:
    hyperscatter, no_hyperscatter = None, str(error)
try:
    import torch_geometric.nn as geometric
except ImportError as error:
    geometric, no_geometric = None, str(error)
try:
    import dhg
except Exception as error:  # it is old, and may fail in other ways
    dhg, no_dhg = None, f"{type(error).__name__}: {error}"

# Of a dense H, and of what makes M from weights: more elements than that are left out.
MOST_DENSE = 1 << 25
# DHG makes tuples of Python of its incidences.
MOST_IN_PYTHON = 4_000_000
# Of more incidences calls take so long that launches cost nothing.
MOST_GRAPHED = 1_000_000

# Those of contestants that have a matrix product in them.
OF_PRODUCTS = ("f32", "tf32", "bf16", "f16")

Call = Callable[[int], Any]


class Contestant:
    """x [G, n, F] to y of the same shape, in the contestant's format."""

    label: str
    note: str
    """What is made before, and what is in the timed call."""
    convention = "documented"
    """Where weights are: see `cases.reference`. An empty one computes no convolution."""
    reads = "[G, n, F]"
    dtypes = ("f32", "bf16", "f16")
    """tf32 is one of those that have a matrix product of f32 in them."""
    tolerance: ClassVar[dict[str, float]] = {}
    """By types, where it has to be closer to float64 than all others: see `agreement.TOLERANCE`."""
    sums_in_dtype = False
    """Sums of bf16 are in bf16, and of f16 in f16: what they lose in it is no fault, and is shown."""
    most_elements = math.inf
    """Of all hyperedges' rows: of more instances fewer are computed, and times are scaled."""
    lacks = ""
    """What others compute, and it does not."""
    starts_slowly = False
    """The first call makes what later ones use."""
    is_copy = False
    """What others are measured by: it always takes part."""
    may_be_refused = False
    """Of the package: nothing is wrong where it cannot run, since it is not everywhere."""

    def __init__(self, p: Problem) -> None:
        self.p = p
        self.parameters = {"w": p.w.clone().requires_grad_()}

    @classmethod
    def refuses(cls, p: Problem) -> str | None:
        """Why it cannot run this."""
        return None

    def take(self, x: Tensor) -> Tensor:
        """x in the contestant's format."""
        return x

    def give(self, y: Tensor) -> Tensor:
        """And back."""
        return y

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def expected(self, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """In float64."""
        return reference(self.p, x, parameters["w"], self.convention)

    def on(self, p: Problem) -> Contestant:
        """The same for what is expected of another number of instances."""
        other = copy.copy(self)
        other.p = p
        return other

    def bind(self, xs: list[Tensor], gs: list[Tensor]) -> dict[str, Call]:
        """What is timed, of the i-th input: it gives y, and y with the gradients of x and the parameters."""
        k = len(xs)

        def forward(i: int) -> Tensor:
            with torch.no_grad():
                return self.forward(xs[i % k])

        def both(i: int) -> tuple[Tensor, tuple[Tensor, ...]]:
            y = self.forward(xs[i % k])
            return y, torch.autograd.grad(y, [xs[i % k], *self.parameters.values()], gs[i % k])

        return {"forward": forward, "both": both}


class Copy(Contestant):
    label = "copy of x"
    note = "into memory that is there"
    convention = ""
    is_copy = True

    def __init__(self, p: Problem) -> None:
        self.p, self.parameters = p, {}

    def bind(self, xs: list[Tensor], gs: list[Tensor]) -> dict[str, Call]:
        ys = [torch.empty_like(x) for x in xs]

        def forward(i: int) -> Tensor:
            with torch.no_grad():
                return ys[i % len(xs)].copy_(xs[i % len(xs)])

        return {"forward": forward}

    def expected(self, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        return x.clone()


# ----------------------------------------------------------------------------------------------- hyperscatter


def incidence_of(h: Hypergraph) -> Any:
    return hyperscatter.Incidence.from_csr(h.pointers, h.vertices, h.n)


class Ours(Contestant):
    label = "hyperscatter"
    note = "one hypergraph; degrees and all that hangs on weights in the call"

    def __init__(self, p: Problem) -> None:
        super().__init__(p)
        self.topology = incidence_of(p.hypergraph)

    @classmethod
    def refuses(cls, p: Problem) -> str | None:
        return None if hyperscatter else f"no package hyperscatter: {no_hyperscatter}"

    def forward(self, x: Tensor) -> Tensor:
        return hyperscatter.conv(x, self.topology, self.parameters["w"], weight_use=self.convention)


class OursDegreeOnly(Ours):
    label = "hyperscatter, degree_only"
    note = "the same with PyTorch Geometric's convention"
    convention = "degree_only"


class OursExpertMajor(Ours):
    label = "hyperscatter, expert-major"
    note = "the same, rows read where they are"
    reads = "[n, G, F]"

    def take(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1).contiguous()

    def give(self, y: Tensor) -> Tensor:
        return y.transpose(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(0, 1)).transpose(0, 1)


class OursOwnWeights(Ours):
    label = "hyperscatter, own w"
    note = "weights [G, m], of each instance's own"

    def __init__(self, p: Problem) -> None:
        super().__init__(p)
        self.parameters = {"w": p.own.clone().requires_grad_()}


# ----------------------------------------------------------------------------------------------------- sparse


class Geometric(Contestant):
    label = "PyG HypergraphConv"
    note = "as shipped, Θ the identity; num_edges given; weights repeated for all instances in the call"
    convention = "degree_only"
    reads = "[G n, F]"
    sums_in_dtype = True

    def __init__(self, p: Problem) -> None:
        self.p, self.index = p, p.index
        self.parameters = {"w": p.w.to(p.element).requires_grad_()}
        self.conv = geometric.HypergraphConv(p.F, p.F, bias=False)
        self.conv.lin = torch.nn.Identity()

    @classmethod
    def refuses(cls, p: Problem) -> str | None:
        return None if geometric else f"no torch_geometric: {no_geometric}"

    def forward(self, x: Tensor) -> Tensor:
        p, w = self.p, self.parameters["w"].repeat(self.p.G)
        return self.conv(x.view(p.N, p.F), self.index, w, num_edges=p.M).view(x.shape)


def scatter_conv(x: Tensor, w: Tensor, index: Tensor, by_size: Tensor, by_degree: Tensor, g: int) -> Tensor:
    """x is [G n, F]; weights and inverses are those of one instance, f32."""
    f, (vertices, edges) = x.shape[1], index
    z = x.new_zeros(g * w.shape[0], f).index_add_(0, edges, x.index_select(0, vertices))
    z = (z.view(g, -1, f) * (w * by_size).to(x.dtype)[:, None]).view(-1, f)
    y = torch.zeros_like(x).index_add_(0, vertices, z.index_select(0, edges))
    return (y.view(g, -1, f) * by_degree.to(x.dtype)[:, None]).view(-1, f)


class Scatter(Contestant):
    label = "index_add"
    note = "index_select and index_add_; 1/B before, and 1/D before where nothing is differentiated"
    reads = "[G n, F]"
    sums_in_dtype = True
    function = staticmethod(scatter_conv)

    def __init__(self, p: Problem) -> None:
        super().__init__(p)
        self.index, self.by_size = p.index, p.inverse_sizes
        with torch.no_grad():
            self.by_degree = safe_inverse(p.degrees(self.parameters["w"]))

    def forward(self, x: Tensor) -> Tensor:
        p, w = self.p, self.parameters["w"]
        by_degree = safe_inverse(p.degrees(w)) if torch.is_grad_enabled() else self.by_degree
        y = self.function(x.view(p.N, p.F), w, self.index, self.by_size, by_degree, p.G)
        return y.view(x.shape)


class Compiled(Scatter):
    label = "index_add, torch.compile"
    note = "the same through torch.compile(dynamic=False), which compiles before"
    starts_slowly = True

    def __init__(self, p: Problem) -> None:
        super().__init__(p)
        torch.compiler.reset()  # behind a few shapes torch would go on without compiling
        self.function = torch.compile(scatter_conv, dynamic=False)


class SparseProducts(torch.autograd.Function):
    """Two products with sparse matrices, and the gradient of x by two with their transposes."""

    @staticmethod
    def forward(context: Any, x: Tensor, csr: Csr) -> Tensor:
        context.csr = csr
        return csr.second @ (csr.first @ x)

    @staticmethod
    def backward(context: Any, g: Tensor) -> Any:
        first, second = context.csr.back
        return second @ (first @ g), None


class Csr(Contestant):
    label = "torch CSR x2"
    note = (
        "values (w/D, 1/B) and transposes before; no gradient of w, which torch has not between two products"
    )
    lacks = "no ∂w"
    starts_slowly = True
    reads = "[G n, F]"
    most_elements = 2**31 - 1  # so that no offset inside of the libraries needs 64 bits

    def __init__(self, p: Problem) -> None:
        self.p, self.parameters = p, {}
        try:
            self.first, self.second = self._matrices(torch.int32, False)
            # Whether indices of this type are taken.
            self.second @ torch.zeros(p.M, 4, device=p.device, dtype=p.element)
        except RuntimeError as error:
            if "memory" in str(error).lower():
                raise
            self.first, self.second = self._matrices(torch.int64, False)

    @cached_property
    def back(self) -> list[Tensor]:
        """The transposes, of second and of first."""
        return self._matrices(self.first.crow_indices().dtype, True)

    def _matrices(self, index_type: torch.dtype, transposed: bool) -> list[Tensor]:
        """1/B Hᵀ and w/D H, or the transposes of both, in the order of products."""
        p = self.p
        w, by_degree = p.w.repeat(p.G), safe_inverse(p.degrees(p.w)).repeat(p.G)
        by_size = p.inverse_sizes.repeat(p.G)

        def matrix(by_vertex: bool, of_row: Tensor | None, of_column: Tensor | None) -> Tensor:
            """With a value for each row, and one for each column."""
            ends, ids = p.csr(index_type, by_vertex)
            values = torch.ones(ids.numel(), device=p.device)
            if of_row is not None:
                values *= torch.repeat_interleave(of_row, ends.diff().long(), output_size=ids.numel())
            if of_column is not None:
                values *= of_column.index_select(0, ids)
            size = (p.N, p.M) if by_vertex else (p.M, p.N)
            return torch.sparse_csr_tensor(ends, ids, values.to(p.element), size, check_invariants=False)

        if transposed:
            return [matrix(False, w, by_degree), matrix(True, None, by_size)]
        return [matrix(False, by_size, None), matrix(True, by_degree, w)]

    def forward(self, x: Tensor) -> Tensor:
        return SparseProducts.apply(x.view(self.p.N, self.p.F), self).view(x.shape)

    def expected(self, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        return reference(self.p, x, self.p.w.double(), self.convention)


class Dhg(Contestant):
    label = "DHG v2v"
    note = "given each hyperedge once, without repeated vertices; sparse matrices before"
    convention = "message_only"
    reads = "[G n, F]"
    dtypes = ("f32",)

    def __init__(self, p: Problem) -> None:
        distinct, kept = p.hypergraph.deduplicated()
        self.p = p
        self.q = Problem(distinct, p.G, p.F, p.dtype, p.device)
        lists = distinct.lists()
        of_all = [[v + g * p.n for v in vertices] for g in range(p.G) for vertices in lists]
        self.of = dhg.Hypergraph(p.N, of_all, device=torch.device(p.device))
        self.parameters = {"w": p.w[kept.to(p.device)].clone().requires_grad_()}

    @classmethod
    def refuses(cls, p: Problem) -> str | None:
        if not dhg:
            return f"no dhg: {no_dhg}"
        nnz = p.G * p.hypergraph.nnz
        if nnz > MOST_IN_PYTHON:
            return f"makes tuples of Python of its {nnz:,} incidences: minutes, and more memory than there is"
        return None

    def forward(self, x: Tensor) -> Tensor:
        p, w = self.p, self.parameters["w"].repeat(self.p.G)
        return self.of.v2v(x.view(p.N, p.F), "mean", e_weight=w).view(x.shape)

    def expected(self, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        return reference(self.q.of(self.p.G), x, parameters["w"], self.convention)


# ------------------------------------------------------------------------------------------------------ dense


class Matmul(Contestant):
    label = "torch.matmul(M, x)"
    note = "M from w in the call, by one product with a table of pairs that is made before"
    dtypes = OF_PRODUCTS

    def __init__(self, p: Problem) -> None:
        super().__init__(p)
        h = p.incidence
        pairs = torch.einsum("ue,ve->euv", h, h) * p.inverse_sizes[:, None, None]
        self.table = torch.cat([pairs.reshape(p.m, -1), h.T], 1).contiguous()

    @classmethod
    def refuses(cls, p: Problem) -> str | None:
        size = p.m * p.n * (p.n + 1)
        return None if size <= MOST_DENSE else f"what makes M from w has {size:.1e} elements"

    def operator(self) -> Tensor:
        """M, [n, n] or [G, n, n]."""
        n = self.p.n
        m, degrees = (self.parameters["w"] @ self.table).split([n * n, n], -1)
        return (m.unflatten(-1, (n, n)) * safe_inverse(degrees).unsqueeze(-1)).to(self.p.element)

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(self.operator(), x)


class Bmm(Matmul):
    label = "torch.bmm(M.expand, x)"
    note = "the same M, expanded over all instances"

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(self.operator().expand(self.p.G, -1, -1), x)


class ExpertMajor(Matmul):
    label = "M @ x, expert-major"
    note = "the same M, and one product for all instances"
    reads = "[n, G, F]"
    take, give = OursExpertMajor.take, OursExpertMajor.give

    def forward(self, x: Tensor) -> Tensor:
        return (self.operator() @ x.view(self.p.n, -1)).view(x.shape)


class OwnWeights(Matmul):
    label = "GEMM and bmm, own w"
    note = "weights [G, m]: all M by one product, then bmm"

    def __init__(self, p: Problem) -> None:
        super().__init__(p)
        self.parameters = {"w": p.own.clone().requires_grad_()}

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(self.operator(), x)


class DenseIncidence(Contestant):
    label = "dense H x2"
    note = "two products with H as a matrix; degrees in the call"
    dtypes = OF_PRODUCTS

    def __init__(self, p: Problem) -> None:
        super().__init__(p)
        self.h32, self.by_size = p.incidence, p.inverse_sizes
        self.h = self.h32.to(p.element)

    @classmethod
    def refuses(cls, p: Problem) -> str | None:
        size = p.n * p.m
        return None if size <= MOST_DENSE else f"H would have {size:.1e} elements"

    def forward(self, x: Tensor) -> Tensor:
        w = self.parameters["w"]
        by_degree = safe_inverse(self.h32 @ w)
        z = (self.h.T @ x) * (w * self.by_size).to(x.dtype)[:, None]
        return (self.h @ z) * by_degree.to(x.dtype)[:, None]


# ----------------------------------------------------------------------------------------------------- layers


class Layer(Contestant):
    """relu(conv(x Θ) + b), and a step of plain gradient descent behind the backward."""

    operator: type[Contestant]
    learning_rate = 1e-9  # so that numbers stay what they are

    def __init__(self, p: Problem) -> None:
        self.p = p
        self.inner = self.operator(p)
        self.own = {"theta": p.theta.clone().requires_grad_(), "b": p.bias.clone().requires_grad_()}
        self.parameters = self.own | self.inner.parameters

    def take(self, x: Tensor) -> Tensor:
        return self.inner.take(x)

    def give(self, y: Tensor) -> Tensor:
        return self.inner.give(y)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.nn.functional.linear(x, self.own["theta"])
        return torch.relu(self.inner.forward(h) + self.own["b"])

    def on(self, p: Problem) -> Contestant:
        other = super().on(p)
        other.inner = self.inner.on(p)
        return other

    def before_relu(self, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        h = x @ parameters["theta"].T
        return self.inner.expected(h, parameters) + parameters["b"]

    def expected(self, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        return torch.relu(self.before_relu(x, parameters))

    def bind(self, xs: list[Tensor], gs: list[Tensor]) -> dict[str, Call]:
        calls = super().bind(xs, gs)
        both, leaves = calls["both"], list(self.parameters.values())
        optimiser = torch.optim.SGD(leaves, lr=self.learning_rate)

        def step(i: int) -> tuple[Tensor, tuple[Tensor, ...]]:
            y, gradients = both(i)
            for leaf, gradient in zip(leaves, gradients[1:], strict=True):
                leaf.grad = gradient
            optimiser.step()
            return y, gradients

        return {"forward": calls["forward"], "both": step}


def layer(of: type[Contestant]) -> type[Layer]:
    """The layer around an operator."""

    class Made(Layer):
        operator = of
        label, note, convention, reads = of.label, of.note, of.convention, of.reads
        sums_in_dtype, most_elements = of.sums_in_dtype, of.most_elements
        lacks, starts_slowly = of.lacks, of.starts_slowly
        # Θ is a matrix product.
        dtypes = OF_PRODUCTS if "bf16" in of.dtypes else ("f32", "tf32")
        refuses = of.refuses

    return Made


class CompiledLayer(layer(Scatter)):
    label = "index_add, torch.compile"
    note = "the whole layer through torch.compile(dynamic=False), which compiles before"
    starts_slowly = True

    def __init__(self, p: Problem) -> None:
        super().__init__(p)
        torch.compiler.reset()
        self.forward = torch.compile(super().forward, dynamic=False)


class OursExpertMajorLayer(layer(OursExpertMajor)):
    note = "rows read where they are, bias and ReLU in the convolution's pass"

    def forward(self, x: Tensor) -> Tensor:
        h, b = torch.nn.functional.linear(x, self.own["theta"]), self.own["b"]
        w, topology = self.parameters["w"], self.inner.topology
        y = hyperscatter.conv(h.transpose(0, 1), topology, w, bias=b, activation="relu")
        return y.transpose(0, 1)


class OursTwoPasses(layer(Ours)):
    label = "hyperscatter.conv behind Linear"
    note = "bias and ReLU in the convolution's pass"

    def forward(self, x: Tensor) -> Tensor:
        h, b = torch.nn.functional.linear(x, self.own["theta"]), self.own["b"]
        return hyperscatter.conv(h, self.inner.topology, self.parameters["w"], bias=b, activation="relu")


class OursOwnWeightsLayer(OursTwoPasses):
    label = OursOwnWeights.label
    operator = OursOwnWeights
    note = "weights [G, m], bias and ReLU in the convolution's pass"


class OnePass(layer(Ours)):
    label = "hyperscatter.layer, in one pass"
    note = "x Θ, convolution, bias and ReLU in one pass of tensor cores, which multiply f32 as three bf16"
    dtypes = OF_PRODUCTS
    # A few times what kernels/LAYER.md has, less than others are allowed.
    tolerance: ClassVar = {"f32": 3e-5, "tf32": 2e-3, "bf16": 8e-3, "f16": 2e-3}
    may_be_refused = True

    @classmethod
    def refuses(cls, p: Problem) -> str | None:
        """Where `hyperscatter.layer` would be something else, a product and the convolution behind it."""
        most = 512 if p.element.itemsize == 2 else 256
        if refused := Ours.refuses(p):
            return refused
        if p.device == "cpu":
            return "on the CPU it is two passes, those of hyperscatter.HypergraphConv"
        if torch.cuda.get_device_capability() < (8, 0):
            return "not on devices before compute capability 8.0"
        if p.n > 16:
            return f"{p.n} vertices, and one pass has 16 at most"
        return None if most >= p.F else f"{p.F} features, and of {p.dtype} one pass has {most} at most"

    def forward(self, x: Tensor) -> Tensor:
        return hyperscatter.layer(
            x,
            self.own["theta"],
            self.inner.topology,
            self.parameters["w"],
            weight_use=self.convention,
            bias=self.own["b"],
            activation="relu",
            # Given, so that no setting of torch chooses two passes. 16-bit types have no use for it.
            precision="tf32" if self.p.dtype == "tf32" else "three_bf16",
        )


class OnePassOwnWeights(OnePass):
    label = "hyperscatter.layer, in one pass, own w"
    note = "the same with weights [G, m]"
    operator = OursOwnWeights


class Theta(Layer):
    label = "Θ, bias and ReLU alone"
    note = "torch's Linear without a convolution: one product with its bias, and ReLU in place"
    convention = ""
    dtypes = OF_PRODUCTS

    def __init__(self, p: Problem) -> None:
        self.p = p
        self.parameters = {"theta": p.theta.clone().requires_grad_(), "b": p.bias.clone().requires_grad_()}

    take, give, on = Contestant.take, Contestant.give, Contestant.on

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, *self.parameters.values()).relu_()

    def before_relu(self, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        return x @ parameters["theta"].T + parameters["b"]


class ModuleLayer(Layer):
    """A layer that is a module: `module`, its parameters, and ReLU behind it where it has none."""

    dtypes = OF_PRODUCTS

    def __init__(self, p: Problem) -> None:
        self.p = p
        self.module, self.parameters = self.build(p)
        given = {"theta": p.theta, "b": p.bias, "w": p.w}
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(given[name])

    def build(self, p: Problem) -> tuple[torch.nn.Module, dict[str, Tensor]]:
        raise NotImplementedError

    take, give, on = Contestant.take, Contestant.give, Contestant.on

    def before_relu(self, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        h = x @ parameters["theta"].T
        return reference(self.p, h, parameters["w"], self.convention) + parameters["b"]


class OursLayer(ModuleLayer):
    label = "hyperscatter.HypergraphConv"
    note = (
        "as shipped: in one pass on CUDA, of f32 if TF32 is allowed; else bias and ReLU in the convolution's"
    )
    refuses = Ours.refuses

    def build(self, p: Problem) -> tuple[torch.nn.Module, dict[str, Tensor]]:
        module = hyperscatter.HypergraphConv(
            p.F,
            p.F,
            incidence_of(p.hypergraph),
            "learned",
            weight_use=self.convention,
            activation="relu",
            device=p.device,
            dtype=p.element,
        )
        return module, {"theta": module.lin.weight, "b": module.bias, "w": module.weight}

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


class OursLayerDegreeOnly(OursLayer):
    label = "hyperscatter.HypergraphConv, degree_only"
    note = "the same with PyTorch Geometric's convention"
    convention = "degree_only"


class IndexLayer(ModuleLayer):
    """A module that has PyTorch Geometric's interface."""

    convention = "degree_only"
    reads = "[G n, F]"
    make: Callable[[int, int], Any]

    def build(self, p: Problem) -> tuple[torch.nn.Module, dict[str, Tensor]]:
        self.index = p.index
        module = type(self).make(p.F, p.F).to(p.device, p.element)
        w = torch.empty(p.m, device=p.device, dtype=p.element, requires_grad=True)
        return module, {"theta": module.lin.weight, "b": module.bias, "w": w}

    def forward(self, x: Tensor) -> Tensor:
        p, w = self.p, self.parameters["w"].repeat(self.p.G)
        y = self.module(x.view(p.N, p.F), self.index, w, num_edges=p.M)
        return torch.relu(y).view(x.shape)


class OursDropInLayer(IndexLayer):
    label = "hyperscatter.pyg.HypergraphConv"
    note = "in PyG's place, on its index: all instances are one large hypergraph"
    refuses = Ours.refuses

    @staticmethod
    def make(inputs: int, outputs: int) -> Any:
        from hyperscatter import pyg

        return pyg.HypergraphConv(inputs, outputs)


class GeometricLayer(IndexLayer):
    label = "PyG HypergraphConv"
    note = "as shipped; num_edges given; weights repeated for all instances in the call"
    sums_in_dtype = True
    refuses = Geometric.refuses

    @staticmethod
    def make(inputs: int, outputs: int) -> Any:
        return geometric.HypergraphConv(inputs, outputs)


# ------------------------------------------------------------------------------------------------ CUDA graphs


def graphed(of: type[Contestant]) -> type[Contestant]:
    """The same calls as replays of CUDA graphs, one for each call and input."""

    class Graphed(of):
        label = f"{of.label} [graph]"
        note = "its calls as replays of CUDA graphs, captured before"
        is_copy = False

        @classmethod
        def refuses(cls, p: Problem) -> str | None:
            if p.device == "cpu":
                return "no CUDA graphs on the CPU"
            few = p.hypergraph.nnz <= MOST_GRAPHED
            return super().refuses(p) if few else "launches take no part of its time"

        def bind(self, xs: list[Tensor], gs: list[Tensor]) -> dict[str, Call]:
            calls = super().bind(xs, gs)
            return {name: capture(call, len(xs)) for name, call in calls.items()}

    return Graphed


def capture(call: Call, inputs: int) -> Call:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for i in range(3):
            call(i)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graphs, outputs, pool = [], [], torch.cuda.graph_pool_handle()
    for i in range(inputs):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            outputs.append(call(i))
        graphs.append(graph)

    def replay(i: int) -> Any:
        graphs[i % inputs].replay()
        return outputs[i % inputs]

    return replay


OURS = [Ours, OursExpertMajor, OursDegreeOnly, OursOwnWeights]
GRAPHED = [graphed(of) for of in (Copy, Ours, OursDegreeOnly, DenseIncidence, Csr, Scatter)]
SPARSE = [Csr, Scatter, Compiled, Geometric, Dhg]
LAYERS = [
    Copy,
    Theta,
    OnePass,
    OnePassOwnWeights,
    OursTwoPasses,
    OursLayer,
    OursExpertMajorLayer,
    OursLayerDegreeOnly,
    OursOwnWeightsLayer,
    OursDropInLayer,
    *[layer(of) for of in (Matmul, Bmm, ExpertMajor, OwnWeights, Csr, Scatter)],
    CompiledLayer,
    GeometricLayer,
    layer(Dhg),
]


def contestants_of(table: str, instances: int) -> list[type[Contestant]]:
    """Those of a case."""
    if table == "layers":
        return LAYERS
    if instances == 1:
        return [Copy, Ours, OursDegreeOnly, DenseIncidence, Matmul, *SPARSE, *GRAPHED]
    return [Copy, *OURS, Matmul, Bmm, ExpertMajor, OwnWeights, *SPARSE]


def labels() -> set[str]:
    """Of all contestants."""
    kinds = [("operators", 1), ("operators", 2), ("layers", 2)]
    return {of.label for kind in kinds for of in contestants_of(*kind)}
