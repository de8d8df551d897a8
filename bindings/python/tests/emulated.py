"""The package's calls on a CUDA device, with the emulated driver in the real one's place.

PyTorch sees no device here. So tensors that lie in the emulated device's memory say that they are on the
CPU, and what the package asks of PyTorch's CUDA (the current stream, memory, whether a graph is captured) is
answered by the driver. Each operator's results are compared with those on the CPU, bit for bit.
`test_cuda.py` runs this.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import hyperscatter as hs
from hyperscatter import _calls, _devices, _layers
from hyperscatter._library import lib

driver = ctypes.CDLL("libcuda.so")


def drive(name: str, *arguments: Any) -> None:
    result = getattr(driver, name)(*arguments)
    assert result == 0, f"{name} gives {result}"


def orders(tensor: Tensor) -> tuple[list[int], list[int]]:
    """The dimensions of a tensor in the order that they have in memory, and the way back from it."""
    order = sorted(range(tensor.dim()), key=lambda i: -tensor.stride(i))
    return order, [order.index(i) for i in range(tensor.dim())]


class Emulated(_devices.Cuda):
    """The emulated device, as PyTorch would have it."""

    capturing = False

    def __init__(self) -> None:
        super().__init__(0)
        context = ctypes.c_void_p()
        drive("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        drive("cuCtxSetCurrent", context)
        self.context = context.value
        self.streams = [ctypes.c_void_p() for _ in range(2)]
        for stream in self.streams:
            drive("cuStreamCreate", ctypes.byref(stream), 1)
        self.current = 0
        self.allocations = 0

    def stream(self) -> int:
        value = self.streams[self.current].value
        assert value is not None
        return value

    def synchronize(self) -> None:
        drive("cuStreamSynchronize", self.streams[self.current])

    def is_capturing(self) -> bool:
        return self.capturing

    def new(self, shape: Any, dtype: torch.dtype) -> Tensor:
        """A tensor in the device's memory, which only the device may touch. It is never freed."""
        self.allocations += 1
        count = torch.Size(shape).numel()
        address = ctypes.c_uint64()
        bytes_ = max(count * dtype.itemsize, 1)
        drive("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(bytes_))
        if count == 0:
            return torch.empty(shape, dtype=dtype)
        memory = (ctypes.c_char * bytes_).from_address(address.value)
        return torch.frombuffer(memory, dtype=dtype).reshape(shape)

    def empty(self, bytes_: int) -> Tensor:
        return self.new((bytes_,), torch.uint8)

    def ones(self, length: int, dtype: torch.dtype) -> Tensor:
        return self.to_device(torch.ones(length, dtype=dtype))

    def to_device(self, tensor: Tensor) -> Tensor:
        if tensor.dim() > 1 and not tensor.is_contiguous():
            order, back = orders(tensor)
            return self.to_device(tensor.permute(order).contiguous()).permute(back)
        tensor = tensor.contiguous()
        new = self.new(tensor.shape, tensor.dtype)
        bytes_ = ctypes.c_size_t(tensor.numel() * tensor.element_size())
        drive("cuMemcpyHtoD_v2", ctypes.c_uint64(new.data_ptr()), ctypes.c_void_p(tensor.data_ptr()), bytes_)
        return new

    def to_host(self, tensor: Tensor) -> Tensor:
        self.synchronize()
        if not tensor.is_contiguous():
            order, back = orders(tensor)
            return self.to_host(tensor.permute(order)).permute(back)
        new = torch.empty(tensor.shape, dtype=tensor.dtype)
        bytes_ = ctypes.c_size_t(new.numel() * new.element_size())
        if new.numel():
            drive(
                "cuMemcpyDtoH_v2", ctypes.c_void_p(new.data_ptr()), ctypes.c_uint64(tensor.data_ptr()), bytes_
            )
        return new


class OnDevice(TorchFunctionMode):
    """New tensors are the device's."""

    def __init__(self, device: Emulated) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty:
            shape = args[0] if len(args) == 1 and not isinstance(args[0], int) else args
            return self.device.new(shape, kwargs["dtype"])
        if func is torch.empty_permuted:
            shape, order = args
            return self.strewn(shape, order, kwargs["dtype"])
        if func is torch.empty_like:
            return self.strewn(args[0].shape, orders(args[0])[0], args[0].dtype)
        if func is Tensor.new_empty:
            return self.device.new(args[1:], args[0].dtype)
        if func is Tensor.contiguous and not args[0].is_contiguous():
            return self.device.to_device(self.device.to_host(args[0]).contiguous())
        if func is Tensor.to and args[0].dtype != args[1]:
            return self.device.to_device(self.device.to_host(args[0]).to(args[1]))
        return func(*args, **kwargs)

    def strewn(self, shape: Any, order: Any, dtype: torch.dtype) -> Tensor:
        """A tensor whose dimensions lie in memory in an order."""
        memory = self.device.new([shape[i] for i in order], dtype)
        return memory.permute([list(order).index(i) for i in range(len(order))])


def run(device: Emulated, function: Callable[..., Any], *arguments: Any) -> list[Tensor]:
    """Calls a function with its tensors on the device. Structure stays on the host."""
    hosted = {id(of) for of in arguments if isinstance(of, Tensor) and of.dtype == torch.int64}
    moved = [
        device.to_device(of) if isinstance(of, Tensor) and id(of) not in hosted else of for of in arguments
    ]
    on_cpu = _devices.of
    _devices.of = lambda tensor: device
    try:
        with OnDevice(device):
            results = function(*moved)
    finally:
        _devices.of = on_cpu
    results = results if isinstance(results, tuple) else (results,)
    current = ctypes.c_void_p()
    drive("cuCtxGetCurrent", ctypes.byref(current))
    assert current.value == device.context, "the current context is another"
    return [device.to_host(of) for of in results]


def compare(device: Emulated, function: Callable[..., Any], *arguments: Any) -> None:
    wanted = function(*arguments)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    for got, want in zip(run(device, function, *arguments), wanted, strict=True):
        assert got.dtype == want.dtype and torch.equal(got, want), function.__name__


def operators(device: Emulated, dtype: torch.dtype) -> None:
    wide = _calls.accumulation(dtype)
    triples, drawn = hs.Incidence.subsets(6, 3), hs.Incidence([[0, 1, 2], [], [1, 3, 3], [4]], 70)
    for topology in (triples, drawn):
        n, m, packed = topology.n_vertices, topology.n_hyperedges, topology.packed
        x, g = torch.randn(2, n, 8).to(dtype), torch.randn(2, n, 8).to(dtype)
        z = torch.randn(2, m, 8).to(dtype)
        bias, readout = torch.randn(8).to(wide), torch.randn(2, 8).to(dtype)
        scales = torch.rand(n).to(wide), torch.rand(2, m).to(wide)
        compare(device, _calls.step, x, packed, *scales, True, m, True)
        compare(device, _calls.step, z, packed, *scales, False, n, False)
        compare(device, _calls.step_backward, z, x, packed, *scales, True, [True] * 3, True)
        compare(device, _calls.step_backward, g, z, packed, *scales, False, [True] * 3, False)
        nothing = None, packed, None
        compare(device, _calls.conv, x, *nothing, None, None, 0, 0, 0, False)
        compare(device, _calls.conv_backward, g, x, *nothing, None, 0, 0, 0, False, [True] + [False] * 3)
        for w in (torch.rand(m).to(wide) + 0.5, torch.rand(2, m).to(wide) + 0.5):
            conventions = 2, 0, 0
            compare(device, _calls.conv, x, w, packed, None, None, None, 0, 0, 0, False)
            compare(device, _calls.conv, x, w, packed, None, bias, g, *conventions, False)
            compare(device, _calls.conv, x, w, packed, None, bias, g, *conventions, True)
            backward = _calls.conv_backward
            compare(device, backward, g, x, w, packed, None, None, 0, 0, 0, False, [True, True, False, False])
            compare(
                device, backward, g, x, w, packed, None, None, 0, 1, 0, False, [True, False, False, False]
            )
            compare(device, backward, g, x, w, packed, None, bias, *conventions, False, [True] * 3 + [False])
            compare(device, backward, readout, x, w, packed, None, bias, *conventions, True, [True] * 4)
            if n <= 64 and dtype in (torch.float32, torch.float64):
                matrices = torch.randn(w.numel() // m, n, n).to(wide)
                compare(device, _calls.operator, w, packed, None, matrices.shape[0], n, 0, 0)
                compare(device, _calls.operator_backward, matrices, w, packed, None, 0, 0)
        if n <= 64:
            compare(device, _calls.gram, x, packed)
            compare(device, _calls.gram_backward, torch.randn(2, n, n).to(wide), x, packed)
    batch = hs.Batch([triples, hs.Incidence.pairs(4)], [1, 0, 1])
    x = torch.randn(batch.n_vertices, 8).to(dtype)
    w = torch.rand(batch.n_hyperedges).to(wide)
    compare(device, _calls.conv, x, w, batch.packed, None, None, None, 0, 0, 0, False)
    offsets = hs.Windows([0, 3, 1]).packed
    compare(
        device, _calls.conv, x, torch.rand(30).to(wide), batch.packed, offsets, None, None, 0, 0, 0, False
    )


def refused_in_a_capture(device: Emulated, function: Callable[..., Any], *arguments: Any) -> None:
    device.capturing = True
    try:
        run(device, function, *arguments)
    except hs.Error as error:
        assert "captured" in str(error)
    else:
        raise AssertionError("the first call was captured")
    finally:
        device.capturing = False


def near(device: Emulated, bound: float, operands: tuple[Any, ...], how: tuple[Any, ...]) -> list[Tensor]:
    """What a layer gives on the device, forward and backward, which is near the same in float64."""
    g, residual, x, theta, weight, topology, windows, bias = operands
    numbers, wanted = how
    forward = x, theta, weight, topology, windows, bias, residual, *numbers
    backward = g, x, theta, weight, topology, windows, bias, *numbers, wanted
    got, expected = [], []
    for function, arguments in ((_layers.layer, forward), (_layers.layer_backward, backward)):
        got += run(device, function, *arguments)
        is_wide = [isinstance(of, Tensor) and of.is_floating_point() for of in arguments]
        wide = [of.double() if is_it else of for of, is_it in zip(arguments, is_wide, strict=True)]
        results = function(*wide)
        expected += results if isinstance(results, tuple) else [results]
    for what, a, b in zip(("y", "x", "theta", "weight", "bias"), got, expected, strict=True):
        assert a.shape == b.shape
        error = 0.0 if a.numel() == 0 else float((a.double() - b).abs().max() / b.abs().max())
        # t, which the backward rounds, has jumps where y begins to be 0.
        assert error < bound * (1 if what == "y" else 4), (what, x.dtype, numbers, error)
    return got


def layers_are_one_pass(device: Emulated) -> None:
    """Tensor cores multiply: what is computed is near the same in float64."""
    batch = hs.Batch([hs.Incidence.subsets(6, 3), hs.Incidence.pairs(4)], [1, 0, 1])
    copies = hs.Incidence([[0, 1, 2], [1, 3, 3], [4]], 6)
    for dtype, precision, bound in (
        (torch.float32, "three_bf16", 1e-5),
        (torch.float32, "tf32", 2e-3),
        (torch.float16, "tf32", 2e-3),
        (torch.bfloat16, "tf32", 1.5e-2),
    ):
        for topology, shape, wide_theta in (
            (copies, (3, 6), False),
            (batch, (batch.n_vertices,), True),
            (batch, (3, 6), False),
        ):
            x, theta = torch.randn(*shape, 12).to(dtype), torch.randn(20, 12).to(dtype)
            theta = theta.float() if wide_theta else theta
            g, residual = torch.randn(*shape, 20).to(dtype), torch.randn(*shape, 20).to(dtype)
            w, bias = torch.rand(topology.n_hyperedges) + 0.5, torch.randn(20)
            operands = g, residual, x, theta, w, topology.packed, None, bias
            numbers = 1, 0, 0, _layers.number_of(precision)
            got = near(device, bound, operands, (numbers, [True] * 4))
            types = [dtype, dtype, theta.dtype, torch.float32, torch.float32]
            assert [of.dtype for of in got] == types
            if topology is batch and len(shape) == 2:
                assert all(of[0::2, 4:].abs().sum() == 0 for of in got[:2]), "the padding is zero"
            if wide_theta and dtype == torch.bfloat16:
                assert not torch.equal(got[2], got[2].bfloat16().float()), "the gradient of theta is rounded"
    assert any(plan.has(lib.HS_LAYER) for plan in batch._structure.plans.values())


def layers_take_operands_of_all_kinds(device: Emulated) -> None:
    pairs, bf16 = hs.Incidence.pairs(6), torch.bfloat16
    x, g, theta = torch.randn(3, 6, 12).to(bf16), torch.randn(3, 6, 20).to(bf16), torch.randn(20, 12).to(bf16)
    vertex_major = torch.randn(6, 3, 12).to(bf16).transpose(0, 1)
    # Without weights, bias and residual, and with dimensions in another order.
    operands = g, None, vertex_major, theta, None, pairs.packed, None, None
    y, grad_x, *_ = near(device, 1.5e-2, operands, ((0, 1, 0, 0), [True, True, False, False]))
    assert y.transpose(0, 1).is_contiguous() and grad_x.transpose(0, 1).is_contiguous()
    # Each instance's own weights, and those of a table's windows.
    own, some = torch.rand(3, 15) + 0.5, torch.rand(20) + 0.5
    windows = hs.Windows([0, 5, 2]).packed
    for weight, table, conventions in ((own, None, (0, 1)), (some, windows, (1, 2))):
        bias = torch.randn(20)
        operands = g, g, x, theta, weight, pairs.packed, table, bias
        near(device, 1.5e-2, operands, ((2, *conventions, 0), [False, False, True, True]))
    # Θ that is another one's transpose.
    operands = g, None, x, torch.randn(12, 20).to(bf16).T, own[0], pairs.packed, None, None
    near(device, 1.5e-2, operands, ((1, 0, 0, 0), [True, True, True, False]))
    # The first call of a layer is not captured.
    nothing = None, pairs.packed, None, None, None
    refused_in_a_capture(device, _layers.layer, x, theta[:8], *nothing, 0, 0, 0, 0)


def streams_share_workspaces(device: Emulated) -> None:
    topology = hs.Incidence.pairs(5)
    x, w = torch.randn(3, 5, 8), torch.rand(10)
    wanted = _calls.conv(x, w, topology.packed, None, None, None, 0, 0, 0, False)
    arguments = x, w, topology.packed, None, None, None, 0, 0, 0, False
    run(device, _calls.conv, *arguments)
    before = hs.cache_info()
    for device.current in (1, 0):
        assert torch.equal(run(device, _calls.conv, *arguments)[0], wanted)
    more = torch.randn(4000, 5, 8)
    run(device, _calls.conv, more, *arguments[1:])
    after = hs.cache_info()
    assert (before.plans_built, before.workspaces_built) == (after.plans_built, after.workspaces_built)


def first_calls_are_not_captured(device: Emulated) -> None:
    topology = hs.Incidence.pairs(3)
    arguments = torch.randn(2, 3, 8), torch.rand(3), topology.packed, None, None, None, 0, 0, 0, False
    refused_in_a_capture(device, _calls.conv, *arguments)
    run(device, _calls.conv, *arguments)
    device.capturing = True
    run(device, _calls.conv, *arguments)
    device.capturing = False
    # What a graph may replay stays when the topology goes.
    retired = len(device._retired)
    del topology, arguments
    assert (len(device._captured), len(device._retired)) == (1, retired)


def weights_of_one_are_made_once_for_each_stream(device: Emulated) -> None:
    topology = hs.Incidence([[0, 1, 2], [1, 2]], 3)
    arguments = torch.randn(2, 3, 8), None, topology.packed, None, None, None, 0, 0, 0, False
    # x, y and scratch memory of each call are new.
    counts = []
    for stream, capturing in (
        (0, False),
        (0, False),
        (1, False),
        (1, False),
        (1, True),
        (1, True),
        (1, False),
    ):
        device.current, device.capturing, before = stream, capturing, device.allocations
        run(device, _calls.conv, *arguments)
        counts.append(device.allocations - before)
    device.current, device.capturing = 0, False
    least = min(counts)
    assert [count - least for count in counts] == [1, 0, 1, 0, 1, 1, 0]


def errors_of_kernels_are_told_once(device: Emulated) -> None:
    topology = hs.Incidence.pairs(4)
    x = torch.randn(2, 4, 8)

    def conv(sign: int) -> list[Tensor]:
        w = sign * torch.ones(6)
        return run(device, _calls.conv, x, w, topology.packed, None, None, None, 0, 1, 0, False)

    good = conv(1)
    conv(-1)  # which a kernel finds
    try:
        conv(1)
    except hs.Error as error:
        assert error.status == "HS_ERROR_NEGATIVE_DEGREE" and error.degree == -3
    else:
        raise AssertionError("no error")
    assert torch.equal(conv(1)[0], good[0])
    conv(-1)
    try:
        hs.check()
    except hs.Error as error:
        assert error.status == "HS_ERROR_NEGATIVE_DEGREE"
    else:
        raise AssertionError("no error")
    hs.check()


def failures_keep_workspaces_and_errors(device: Emulated) -> None:
    topology = hs.Incidence.pairs(6)
    x, w, packed = torch.randn(2, 6, 8), torch.ones(15), topology.packed

    def conv(x: Tensor, w: Tensor) -> list[Tensor]:
        return run(device, _calls.conv, x, w, packed, None, None, None, 0, 1, 0, False)

    conv(x, w)
    workspaces = hs.cache_info().workspaces_built
    lend = device.lend

    def no_memory(*arguments: Any) -> Any:
        raise MemoryError

    device.lend = no_memory
    try:
        conv(x, w)
    except MemoryError:
        pass
    else:
        raise AssertionError("there was memory")
    finally:
        device.lend = lend
    conv(x, -w)
    try:
        conv(torch.randn(2, 5, 8), w)  # which forgets nothing
    except hs.Error as error:
        assert error.status == "HS_ERROR_ROWS_MISMATCH", error.status
    else:
        raise AssertionError("no error")
    try:
        hs.check()
    except hs.Error as error:
        assert error.status == "HS_ERROR_NEGATIVE_DEGREE"
    else:
        raise AssertionError("the error was forgotten")
    conv(x, w)
    assert hs.cache_info().workspaces_built == workspaces


def plans_are_freed_behind_their_work(device: Emulated) -> None:
    topology = hs.Incidence.pairs(7)
    arguments = torch.randn(2, 7, 8), torch.rand(21), topology.packed, None, None, None, 0, 0, 0, False
    run(device, _calls.conv, *arguments)
    retired = len(device._retired)
    del topology, arguments
    assert len(device._retired) == retired + 1


def main() -> None:
    torch.manual_seed(0)
    device = Emulated()
    device.sweep = lambda: None  # events are PyTorch's
    assert lib.hs_abi_version() == lib.HS_ABI_VERSION
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        operators(device, dtype)
    for scenario in (
        layers_are_one_pass,
        layers_take_operands_of_all_kinds,
        streams_share_workspaces,
        first_calls_are_not_captured,
        weights_of_one_are_made_once_for_each_stream,
        errors_of_kernels_are_told_once,
        failures_keep_workspaces_and_errors,
        plans_are_freed_behind_their_work,
    ):
        scenario(device)
        print(scenario.__name__)
    print("done")


if __name__ == "__main__":
    main()
