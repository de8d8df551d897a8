"""Which layers are computed in one pass, by tensors that only say that they are on a device.

`test_layers.py` runs each part in a process of its own. Once there was such a tensor, PyTorch starts threads
for devices that are not there, and a process with those cannot be forked.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import hyperscatter as hs
from hyperscatter import _devices, _layers

F32, BF16 = torch.float32, torch.bfloat16


def is_one_pass(dtype: torch.dtype, n: int, inputs: int, outputs: int, precision: str | None) -> bool:
    with FakeTensorMode():
        x = torch.empty(3, n, inputs, dtype=dtype, device="cuda:0")
        theta = torch.empty(outputs, inputs, device="cuda:0")
        return _layers.is_one_pass(x, theta, hs.Incidence.pairs(n), precision)


def rule() -> None:
    capability = (8, 0)
    _devices.capability = lambda _: capability
    allows_tf32 = False
    _layers._multiplies_by_tf32 = lambda: allows_tf32
    assert is_one_pass(BF16, 16, 512, 512, None) and is_one_pass(torch.float16, 1, 1, 1, None)
    assert not is_one_pass(BF16, 17, 8, 8, None)
    assert not is_one_pass(BF16, 8, 513, 8, None) and not is_one_pass(BF16, 8, 8, 513, None)
    assert not is_one_pass(BF16, 8, 0, 8, None) and not is_one_pass(BF16, 8, 8, 0, None)
    assert not is_one_pass(torch.float64, 8, 8, 8, "tf32")
    assert is_one_pass(F32, 8, 256, 256, "three_bf16") and is_one_pass(F32, 8, 256, 256, "tf32")
    assert not is_one_pass(F32, 8, 257, 8, "tf32") and not is_one_pass(F32, 8, 8, 8, None)
    allows_tf32 = True
    assert is_one_pass(F32, 8, 8, 8, None)
    capability = (7, 5)
    assert not is_one_pass(BF16, 8, 8, 8, None)
    on_cpu = torch.empty(3, 4, 8), torch.empty(8, 8)
    assert not _layers.is_one_pass(*on_cpu, hs.Incidence.pairs(4), "tf32")


def compiled() -> None:
    """A compiled graph chooses as a call does."""
    _devices.capability = lambda _: (9, 0)
    topology = hs.Incidence.pairs(4)
    graphs: list[str] = []

    def keep(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph.code)
        return graph.forward

    def function(x: Tensor, theta: Tensor) -> Tensor:
        return hs.layer(x, theta, topology, activation="relu")

    # float32 is not multiplied by TF32 unless that is allowed.
    for dtype, one_pass in ((BF16, True), (F32, False)):
        torch._dynamo.reset()
        with FakeTensorMode(allow_non_fake_inputs=True):
            x = torch.empty(3, 4, 8, dtype=dtype, device="cuda:0")
            torch.compile(function, fullgraph=True, backend=keep)(x, torch.empty(8, 8, device="cuda:0"))
        assert ("hyperscatter.layer" in graphs.pop()) == one_pass, dtype


def legacy() -> None:
    """TF32 as it was allowed before PyTorch 2.9."""
    assert not _layers._multiplies_by_tf32()
    for word, wanted in (("high", True), ("highest", False), ("medium", True)):
        torch.set_float32_matmul_precision(word)
        assert _layers._multiplies_by_tf32() == wanted, word


def precision() -> None:
    """TF32 as it is allowed since."""
    backends: Any = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):
        return
    assert not _layers._multiplies_by_tf32()
    backends.fp32_precision = "tf32"
    assert _layers._multiplies_by_tf32()
    backends.cuda.matmul.fp32_precision = "ieee"
    assert not _layers._multiplies_by_tf32()
    backends.cuda.matmul.fp32_precision, backends.fp32_precision = "tf32", "ieee"
    assert _layers._multiplies_by_tf32()


def fakes() -> None:
    """Fake kernels say what real ones give."""
    topology = hs.Incidence([[0, 1, 2], [1, 2], [0, 2], [2]], 4)
    b, w, packed = torch.randn(7), torch.rand(4), topology.packed
    vertex_major, thin = torch.randn(4, 6, 5).transpose(0, 1), torch.randn(1, 4, 6).permute(2, 1, 0)
    for rows in (vertex_major, vertex_major.contiguous(), thin):
        for dtype in (torch.float32, torch.bfloat16):
            x, theta = rows.to(dtype), torch.randn(7, rows.shape[-1])
            numbers = 1, 0, 0, 4, False, 0
            operands = x, theta, w, packed, None, b
            torch.library.opcheck(
                torch.ops.hyperscatter.layer.default,
                (*operands, None, *numbers),
                test_utils=("test_schema", "test_faketensor"),
            )
            g = torch.randn(*x.shape[:-1], 7).to(dtype)
            for wanted in ([True] * 4, [False, False, True, False], [False, True, False, False]):
                torch.library.opcheck(
                    torch.ops.hyperscatter.layer_backward.default,
                    (g, *operands, *numbers, wanted),
                    test_utils=("test_schema", "test_faketensor"),
                )


if __name__ == "__main__":
    parts = {"rule": rule, "compiled": compiled, "legacy": legacy, "precision": precision, "fakes": fakes}
    parts[sys.argv[1]]()
    print(f"{sys.argv[1]}: done")
