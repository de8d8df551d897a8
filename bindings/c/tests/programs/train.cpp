// A small layer in C++ on each backend: the convolution with bias, activation and residual in `double`,
// weights of its own for each token, features laid out expert by expert; a readout; and a step that the
// convolution is made of.
#include <hyperscatter.h>

#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "driver.h"

namespace {

constexpr size_t experts = 4, pairs = 6, tokens = 3, features = 2, values = tokens * experts * features;

void check(int32_t status) {
    if (status != HS_OK) {
        hs_error error = HS_ERROR_INIT;
        hs_last_error(&error);
        throw std::runtime_error(std::string(error.name) + ": " + error.message);
    }
}

void expect(bool condition, const char* what) {
    if (!condition) {
        throw std::runtime_error(what);
    }
}

struct Free {
    void operator()(hs_incidence* handle) const { hs_incidence_free(handle); }
    void operator()(hs_batch* handle) const { hs_batch_free(handle); }
    void operator()(hs_windows* handle) const { hs_windows_free(handle); }
    void operator()(hs_plan* handle) const { hs_plan_free(handle); }
    void operator()(hs_workspace* handle) const { hs_workspace_free(handle); }
    void operator()(hs_device* handle) const { hs_device_free(handle); }
};

template <typename T>
using Handle = std::unique_ptr<T, Free>;

template <typename T, typename Make, typename... Arguments>
Handle<T> made(Make make, Arguments... arguments) {
    T* handle = nullptr;
    check(make(arguments..., &handle));
    return Handle<T>(handle);
}

// Numbers in the memory of a backend.
class Numbers {
public:
    Numbers(const driver* device, std::vector<double> numbers) : device(device), host(std::move(numbers)) {
        if (device != nullptr) {
            expect_success(device->allocate(&address, bytes()), "cuMemAlloc");
            expect_success(device->to_device(address, host.data(), bytes()), "cuMemcpyHtoD");
        }
    }
    Numbers(const Numbers&) = delete;
    Numbers& operator=(const Numbers&) = delete;
    ~Numbers() {
        if (device != nullptr) {
            device->free(address);
        }
    }

    void* data() { return device != nullptr ? reinterpret_cast<void*>(address) : host.data(); }

    const std::vector<double>& read() {
        if (device != nullptr) {
            expect_success(device->synchronize(device->stream), "cuStreamSynchronize");
            expect_success(device->to_host(host.data(), address, bytes()), "cuMemcpyDtoH");
        }
        return host;
    }

private:
    size_t bytes() const { return host.size() * sizeof(double); }

    const driver* device;
    std::vector<double> host;
    device_address address = 0;
};

std::vector<double> some(size_t n, double scale) {
    std::vector<double> numbers(n);
    for (size_t i = 0; i < n; i++) {
        numbers[i] = scale * (static_cast<double>((i * 29) % 13) - 5.0) + 0.01;
    }
    return numbers;
}

// [experts, tokens, features], read and written in place.
hs_rows expert_major(Numbers& numbers) {
    return {numbers.data(), tokens, experts, features, tokens * features, features};
}

hs_out_rows to_expert_major(Numbers& numbers, uint32_t mode) {
    return {numbers.data(), tokens, experts, features, tokens * features, features, mode};
}

// Everything that the layer computes, one behind the other.
std::vector<double> layer(const hs_batch* batch, const hs_device* gpu, const driver* device) {
    hs_plan_options options = HS_PLAN_OPTIONS_INIT;
    options.device = gpu;
    options.element = HS_F64;
    options.features = features;
    options.checks = HS_CHECKS_ON;
    auto plan = made<hs_plan>(hs_plan_create, batch, static_cast<const hs_plan_options*>(&options));
    hs_workspace_options room = HS_WORKSPACE_OPTIONS_INIT;
    room.max_instances = tokens;
    room.operators = HS_OPERATORS_ALL;
    auto workspace = made<hs_workspace>(hs_workspace_create, static_cast<const hs_plan*>(plan.get()),
                                        static_cast<const hs_workspace_options*>(&room));
    const std::vector<int32_t> starts = {0, 3, 1};
    const hs_indices offsets = {starts.data(), starts.size(), HS_INT32};
    auto windows =
        made<hs_windows>(hs_windows_create, static_cast<const hs_plan*>(plan.get()), HS_HYPEREDGE, &offsets);
    void* stream = device != nullptr ? device->stream : nullptr;

    Numbers x(device, some(values, 0.1)), y(device, some(values, 0.0)), grad_x(device, some(values, 1.0));
    Numbers residual(device, some(values, 0.3)), w(device, std::vector<double>(tokens * pairs, 0.5));
    Numbers grad_w(device, some(tokens * pairs, 1.0)), bias(device, some(features, 0.2));
    Numbers grad_bias(device, some(features, 1.0)), grad_residual(device, some(values, 0.0));
    Numbers readout(device, some(tokens * features, 0.0)), z(device, some(tokens * pairs * features, 0.0));
    const hs_rows from = expert_major(x), added = expert_major(residual);
    const hs_weights own = {{w.data(), tokens * pairs}, HS_WINDOWS_CONSECUTIVE, nullptr};
    const hs_values of_bias = {bias.data(), features};
    const hs_epilogue epilogue = {HS_GELU, &of_bias};
    const hs_out_rows to = to_expert_major(y, HS_OVERWRITE);
    check(hs_conv_epilogue(workspace.get(), stream, &from, &own, &epilogue, &added, &to));
    const std::vector<double> first = y.read();

    // With the residual as the gradient of y.
    const hs_out_rows to_x = to_expert_major(grad_x, HS_OVERWRITE);
    const hs_out_rows to_residual = to_expert_major(grad_residual, HS_OVERWRITE);
    const hs_out_values to_w = {grad_w.data(), tokens * pairs, HS_OVERWRITE};
    const hs_out_values to_bias = {grad_bias.data(), features, HS_OVERWRITE};
    const hs_epilogue_gradients gradients = {&to_x, &to_w, &to_bias, &to_residual};
    check(hs_conv_epilogue_backward(workspace.get(), stream, &from, &own, &epilogue, &added, &gradients));

    // The gradient of a residual is that of y.
    expect(grad_residual.read() == residual.read(), "the gradient of the residual");

    const hs_out_values to_readout = {readout.data(), tokens * features, HS_OVERWRITE};
    check(hs_conv_readout(workspace.get(), stream, &from, &own, &epilogue, &added, &to_readout));
    for (size_t i = 0; i < tokens * features; i++) {
        double mean = 0.0;
        for (size_t v = 0; v < experts; v++) {
            mean += first[v * tokens * features + i] / experts;
        }
        expect(std::abs(readout.read()[i] - mean) < 1e-12, "a readout is the mean over the vertices");
    }

    // To add an output to itself doubles it.
    const hs_out_rows more = to_expert_major(y, HS_ACCUMULATE);
    check(hs_conv_epilogue(workspace.get(), stream, &from, &own, &epilogue, &added, &more));
    for (size_t i = 0; i < values; i++) {
        expect(y.read()[i] == first[i] + first[i], "what is added to");
    }

    // Windows that overlap. The mean over a pair is half the sum of both.
    const hs_weights scale = {{w.data(), tokens * pairs}, HS_WINDOWS_TABLE, windows.get()};
    const hs_step step = {HS_MEAN, nullptr, &scale};
    const hs_out_rows to_pairs = {z.data(), tokens,           pairs,       features,
                                  features, pairs * features, HS_OVERWRITE};
    check(hs_vertex_to_hyperedge(workspace.get(), stream, &step, &from, &to_pairs));
    const double of_first_pair = 0.5 * 0.5 * (x.read()[0] + x.read()[tokens * features]);
    expect(std::abs(z.read()[0] - of_first_pair) < 1e-12, "the mean of a pair");
    check(hs_workspace_check(workspace.get(), stream));

    std::vector<double> all;
    for (Numbers* numbers : {&y, &grad_x, &grad_w, &grad_bias, &readout, &z}) {
        all.insert(all.end(), numbers->read().begin(), numbers->read().end());
    }
    return all;
}

void run() {
    auto incidence = made<hs_incidence>(hs_incidence_subsets, experts, size_t(2));
    auto batch = made<hs_batch>(hs_batch_copies, static_cast<const hs_incidence*>(incidence.get()));
    incidence.reset();
    const std::vector<double> on_host = layer(batch.get(), nullptr, nullptr);
    driver device;
    if (open_driver(&device) == 0) {
        std::printf("the layer ran on the CPU\n");
        return;
    }
    {
        auto gpu = made<hs_device>(hs_device_open, 0u);
        expect(layer(batch.get(), gpu.get(), &device) == on_host, "the device has the bits of the CPU");
    }
    batch.reset();
    close_driver(&device);
    std::printf("the layer ran on the CPU and on a device\n");
}

}  // namespace

int main() {
    try {
        run();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
