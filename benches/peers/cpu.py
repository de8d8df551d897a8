#!/usr/bin/env python3
"""The convolution on the CPU beside what PyTorch users have: torch's dense product, torch CSR, PyTorch
Geometric.

    python3 benches/peers/cpu.py            needs torch and torch_geometric, and cargo

Each round times the peers and then runs `cargo bench --bench cpu` for the same cases; the medians of all
rounds are printed. Everything uses all threads of the machine. Two cases, `f32`, 256 features:

    A    3,072 x (8 vertices, 28 pairs)        B    512 x (16 vertices, 560 triples)

Row normalization, documented weights: y = D^-1 H W B^-1 H^T x. Forward under no_grad; forward + backward
with the gradients of x and of the weights, by torch.autograd (torch CSR: of x alone, by hand, since its
autograd has no gradient of the values between two sparse products). With own weights each instance has
its own, and the operator of each is formed in the call. Each peer but PyTorch Geometric, which ships
another convention, is compared with the dense operator in float64 on the last instance before it is
timed.
"""

import argparse
import itertools
import json
import pathlib
import platform
import statistics
import subprocess
import time
import warnings

warnings.filterwarnings("ignore")

import torch  # noqa: E402

FEATURES = 256
CASES = {"A": (3_072, 8, 2), "B": (512, 16, 3)}
ROOT = pathlib.Path(__file__).resolve().parents[2]


class Case:
    def __init__(self, copies: int, n: int, k: int):
        self.copies, self.n, self.k = copies, n, k
        edges = list(itertools.combinations(range(n), k))
        self.m = len(edges)
        self.incidence = torch.zeros(n, self.m)
        for e, vertices in enumerate(edges):
            self.incidence[list(vertices), e] = 1
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(copies, n, FEATURES, generator=generator)
        self.g = torch.randn(copies, n, FEATURES, generator=generator)
        self.w = torch.rand(self.m, generator=generator) + 0.5
        self.own = torch.rand(copies, self.m, generator=generator) + 0.5

    def operator(self, w: torch.Tensor) -> torch.Tensor:
        """M of weights [..., m]."""
        h = self.incidence.to(w.dtype)
        degree = w @ h.T
        return (h * (w / self.k).unsqueeze(-2)) @ h.T / degree.unsqueeze(-1)

    def expected(self, w: torch.Tensor) -> torch.Tensor:
        """y of the last instance."""
        return self.operator(w.double()) @ self.x[-1].double()


def dense(case: Case, own: bool):
    """torch.matmul with the operator, which is formed in the call."""
    w = case.own if own else case.w

    def forward():
        with torch.no_grad():
            return case.operator(w) @ case.x

    def both():
        x, weights = case.x.detach().requires_grad_(), w.detach().requires_grad_()
        y = case.operator(weights) @ x
        torch.autograd.grad(y, [x, weights], case.g)
        return y

    return forward, both, w[-1] if own else w


def csr(case: Case):
    """Two products with a block-diagonal sparse matrix of all instances, and scalings between."""
    block = case.incidence.nonzero()
    offsets = torch.arange(case.copies)[:, None]
    rows = (block[:, 0] + offsets * case.n).flatten()
    columns = (block[:, 1] + offsets * case.m).flatten()
    size = (case.copies * case.n, case.copies * case.m)
    h = torch.sparse_coo_tensor(torch.stack([rows, columns]), torch.ones(len(rows)), size).to_sparse_csr()
    transposed = h.t().to_sparse_csr()
    x, g = case.x.view(-1, FEATURES), case.g.view(-1, FEATURES)
    scale = (case.w / case.k).repeat(case.copies)[:, None]
    inverse = (1 / (case.incidence @ case.w)).repeat(case.copies)[:, None]

    def forward():
        with torch.no_grad():
            return (inverse * (h @ (scale * (transposed @ x)))).view(case.x.shape)

    def both():
        y = forward()
        with torch.no_grad():
            h @ (scale * (transposed @ (inverse * g)))
        return y

    return forward, both, case.w


def geometric(case: Case):
    """HypergraphConv without its linear layer, on the index of all instances: U = 1."""
    from torch_geometric.nn import HypergraphConv

    conv = HypergraphConv(FEATURES, FEATURES, bias=False)
    conv.lin = torch.nn.Identity()
    block = case.incidence.nonzero().T
    offsets = torch.arange(case.copies)[:, None]
    index = torch.stack([(block[0] + offsets * case.n).flatten(), (block[1] + offsets * case.m).flatten()])
    w = case.w.repeat(case.copies)

    def forward():
        with torch.no_grad():
            return conv(case.x.view(-1, FEATURES), index, w).view(case.x.shape)

    def both():
        x, weights = case.x.view(-1, FEATURES).detach().requires_grad_(), w.detach().requires_grad_()
        y = conv(x, index, weights)
        torch.autograd.grad(y, [x, weights], case.g.view(-1, FEATURES))
        return y.view(case.x.shape)

    return forward, both, None


def seconds(call, budget: float) -> list[float]:
    """Times of calls, as many as the budget has, and three at least."""
    call()
    times = []
    while sum(times) < budget or len(times) < 3:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return times


def ours() -> dict[str, float]:
    """The medians of `cargo bench --bench cpu` for the cases, in seconds, by what criterion calls them."""
    bench = ["cargo", "bench", "--bench", "cpu", "--locked", "--", r"^[AB]: .*dense operator"]
    subprocess.run(bench, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    medians = {}
    for estimates in (ROOT / "target" / "criterion").glob("*/*/new/estimates.json"):
        benchmark = json.loads((estimates.parent / "benchmark.json").read_text())
        if time.time() - estimates.stat().st_mtime < 600:
            median = json.loads(estimates.read_text())["median"]["point_estimate"]
            medians[benchmark["full_id"]] = median / 1e9
    return medians


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=2, help="seconds for each peer, pass and round")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    all_times: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        for name, shape in CASES.items():
            case = Case(*shape)
            peers = {"matmul": dense(case, False), "operator + bmm, own": dense(case, True), "CSR": csr(case)}
            try:
                peers["PyG"] = geometric(case)
            except ImportError as error:
                print(f"without PyTorch Geometric: {error}")
            for peer, (forward, both, w) in peers.items():
                if w is not None:
                    error = (forward()[-1].double() - case.expected(w)).abs().max()
                    assert error < 1e-4, f"{name}, {peer}: {error}"
                for what, call in [("forward", forward), ("both", both)]:
                    all_times.setdefault(f"{name} {peer}, {what}", []).extend(seconds(call, arguments.budget))
        for id, median in ours().items():
            all_times.setdefault(id, []).append(median)
    for id, times in sorted(all_times.items()):
        median = statistics.median(times)
        print(f"{id:<80} {median * 1e3:10.2f} ms   ({len(times)} times, from {min(times) * 1e3:.2f})")


if __name__ == "__main__":
    main()
