/* A training step in C on each backend, and each error that a caller in C can get. */
#include <hyperscatter.h>

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <sys/wait.h>
#include <unistd.h>

#include "driver.h"

enum { EXPERTS = 8, PAIRS = 28, TOKENS = 5, FEATURES = 4, INPUTS = 12, VALUES = TOKENS * EXPERTS * FEATURES };

static void fail(int line, const char* what, int32_t status) {
    hs_error error = HS_ERROR_INIT;
    hs_last_error(&error);
    fprintf(stderr, "line %d: %s gives %s: %s\n", line, what, hs_status_name(status), error.message);
    exit(1);
}

#define CHECK(call) \
    do { \
        int32_t status_ = (call); \
        if (status_ != HS_OK) { \
            fail(__LINE__, #call, status_); \
        } \
    } while (0)

#define EXPECT(condition) \
    do { \
        if (!(condition)) { \
            fail(__LINE__, #condition, HS_OK); \
        } \
    } while (0)

/* That a call fails with a status, and that the last error tells it, with this word for what is at fault. The
   caller of this program compares what is printed with the list of all. */
static hs_error failed(int line, const char* call, int32_t status, int32_t expected, const char* what) {
    hs_error error = HS_ERROR_INIT;
    EXPECT(hs_last_error(&error) == HS_OK);
    if (status != expected || error.status != expected ||
        strcmp(error.what == NULL ? "" : error.what, what)) {
        fprintf(stderr, "line %d: %s gives %s, and the last error is %s of %s: %s\n", line, call,
                hs_status_name(status), error.name, error.what == NULL ? "nothing" : error.what,
                error.message);
        exit(1);
    }
    EXPECT(strlen(error.message) > 10);
    EXPECT(strcmp(error.name, hs_status_name(status)) == 0);
    printf("provoked %s\n", error.name);
    return error;
}

#define FAILS(call, status, what) failed(__LINE__, #call, call, status, what)

/* Memory of either backend: a copy of host memory, or that memory itself. */
typedef struct place {
    const driver* device;
} place;

static void* put(place at, const void* from, size_t bytes) {
    device_address address;
    void* copy;
    if (at.device == NULL) {
        copy = malloc(bytes);
        EXPECT(copy != NULL);
        memcpy(copy, from, bytes);
        return copy;
    }
    expect_success(at.device->allocate(&address, bytes), "cuMemAlloc");
    expect_success(at.device->to_device(address, from, bytes), "cuMemcpyHtoD");
    return (void*)(uintptr_t)address;
}

static void get(place at, void* to, const void* from, size_t bytes) {
    if (at.device == NULL) {
        memcpy(to, from, bytes);
        return;
    }
    expect_success(at.device->synchronize(at.device->stream), "cuStreamSynchronize");
    expect_success(at.device->to_host(to, (device_address)(uintptr_t)from, bytes), "cuMemcpyDtoH");
}

static void drop(place at, void* memory) {
    if (at.device == NULL) {
        free(memory);
    } else {
        expect_success(at.device->free((device_address)(uintptr_t)memory), "cuMemFree");
    }
}

static hs_rows rows(const void* data) {
    hs_rows operand = {NULL, TOKENS, EXPERTS, FEATURES, FEATURES, EXPERTS * FEATURES};
    operand.data = data;
    return operand;
}

static hs_out_rows out_rows(void* data) {
    hs_out_rows operand = {NULL, TOKENS, EXPERTS, FEATURES, FEATURES, EXPERTS * FEATURES, HS_OVERWRITE};
    operand.data = data;
    return operand;
}

static hs_weights weights(const void* data, size_t len) {
    hs_weights operand = {{NULL, 0}, HS_WINDOWS_SHARED, NULL};
    operand.values.data = data;
    operand.values.len = len;
    return operand;
}

static hs_out_values out_values(void* data, size_t len) {
    hs_out_values operand = {NULL, 0, HS_OVERWRITE};
    operand.data = data;
    operand.len = len;
    return operand;
}

static hs_values numbers(const void* data, size_t len) {
    hs_values operand = {NULL, 0};
    operand.data = data;
    operand.len = len;
    return operand;
}

static float input(size_t i) { return (float)((i * 37) % 19) / 19.0f - 0.4f; }

static hs_batch* pairs_of_experts(void) {
    hs_incidence* pairs = NULL;
    hs_incidence_sizes sizes;
    hs_batch* batch = NULL;
    CHECK(hs_incidence_subsets(EXPERTS, 2, &pairs));
    CHECK(hs_incidence_get_sizes(pairs, &sizes));
    EXPECT(sizes.vertices == EXPERTS && sizes.hyperedges == PAIRS && sizes.incidences == 2 * PAIRS);
    CHECK(hs_batch_copies(pairs, &batch));
    hs_incidence_free(pairs);
    return batch;
}

/* Half the sum of the squares of y, whose gradient is y. */
static double loss_of(const float* y) {
    double sum = 0.0;
    for (size_t i = 0; i < VALUES; i++) {
        sum += 0.5 * (double)y[i] * (double)y[i];
    }
    return sum;
}

/* Two steps of gradient descent by the weights; the losses before each, and the last weights. The scratch
   memory is this function's own. */
static void train(const hs_batch* batch, const hs_device* device, place at, double losses[2],
                  float w[PAIRS]) {
    hs_plan_options options = HS_PLAN_OPTIONS_INIT;
    hs_workspace_options room = HS_WORKSPACE_OPTIONS_INIT;
    hs_plan* plan = NULL;
    hs_workspace* workspace = NULL;
    float x[VALUES], y[VALUES], gradient[PAIRS];
    void* stream = at.device == NULL ? NULL : at.device->stream;
    size_t bytes = 0, more = 0;
    options.device = device;
    options.features = FEATURES;
    CHECK(hs_plan_create(batch, &options, &plan));
    room.max_instances = TOKENS;
    room.scratch = HS_SCRATCH_LENT;
    CHECK(hs_workspace_create(plan, &room, &workspace));
    CHECK(hs_workspace_scratch_bytes(workspace, HS_CONV, TOKENS, &bytes));
    CHECK(hs_workspace_scratch_bytes(workspace, HS_CONV_BACKWARD, TOKENS, &more));
    EXPECT((at.device == NULL) == (bytes == 0));
    bytes = more > bytes ? more : bytes;

    for (size_t i = 0; i < VALUES; i++) {
        x[i] = input(i);
    }
    for (size_t i = 0; i < PAIRS; i++) {
        w[i] = 0.5f + 0.01f * (float)i;
    }
    char* garbage = (char*)malloc(bytes + 1);
    EXPECT(garbage != NULL);
    memset(garbage, 0xa5, bytes + 1);
    void* scratch = put(at, garbage, bytes + 1);
    CHECK(hs_workspace_lend_scratch(workspace, scratch, bytes));
    void *at_x = put(at, x, sizeof x), *at_y = put(at, x, sizeof x), *at_grad_x = put(at, x, sizeof x);
    void* at_gradient = put(at, x, sizeof gradient);
    for (int step = 0; step < 2; step++) {
        void* at_w = put(at, w, PAIRS * sizeof *w);
        hs_rows from = rows(at_x), g = rows(at_y);
        hs_weights by = weights(at_w, PAIRS);
        hs_out_rows to = out_rows(at_y), grad_x = out_rows(at_grad_x);
        hs_out_values grad_w = out_values(at_gradient, PAIRS);
        CHECK(hs_conv(workspace, stream, &from, &by, &to));
        CHECK(hs_conv_backward(workspace, stream, &from, &by, &g, &grad_x, &grad_w));
        CHECK(hs_workspace_check(workspace, stream));
        get(at, y, at_y, sizeof y);
        get(at, gradient, at_gradient, sizeof gradient);
        losses[step] = loss_of(y);
        for (size_t i = 0; i < PAIRS; i++) {
            w[i] -= 0.05f * gradient[i];
        }
        drop(at, at_w);
    }
    drop(at, at_x);
    drop(at, at_y);
    drop(at, at_grad_x);
    drop(at, at_gradient);
    hs_workspace_free(workspace);
    hs_plan_free(plan);
    drop(at, scratch);
    free(garbage);
}

/* A layer with more inputs than outputs: y and the gradient of Theta, with y as that of y. */
static void run_layer(const hs_batch* batch, const hs_device* device, place at, float y[VALUES],
                      float grad_theta[FEATURES * INPUTS]) {
    enum { OF_X = TOKENS * EXPERTS * INPUTS };
    hs_plan_options options = HS_PLAN_OPTIONS_INIT;
    hs_workspace_options room = HS_WORKSPACE_OPTIONS_INIT;
    hs_plan* plan = NULL;
    hs_workspace* workspace = NULL;
    float x[OF_X], theta[FEATURES * INPUTS], w[PAIRS], bias[FEATURES];
    void* stream = at.device == NULL ? NULL : at.device->stream;
    options.device = device;
    options.features = FEATURES;
    options.inputs = INPUTS;
    CHECK(hs_plan_create(batch, &options, &plan));
    CHECK(hs_plan_check_operator(plan, HS_LAYER));
    CHECK(hs_plan_check_operator(plan, HS_LAYER_BACKWARD));
    room.max_instances = TOKENS;
    room.operators = HS_OPERATORS_LAYERS;
    CHECK(hs_workspace_create(plan, &room, &workspace));
    for (size_t i = 0; i < OF_X; i++) {
        x[i] = input(i);
    }
    for (size_t i = 0; i < FEATURES * INPUTS; i++) {
        theta[i] = input(i + 7);
    }
    for (size_t i = 0; i < PAIRS; i++) {
        w[i] = 0.5f + 0.01f * (float)i;
    }
    for (size_t i = 0; i < FEATURES; i++) {
        bias[i] = input(i + 3);
    }
    void *at_x = put(at, x, sizeof x), *at_theta = put(at, theta, sizeof theta), *at_w = put(at, w, sizeof w);
    void *at_bias = put(at, bias, sizeof bias), *at_y = put(at, x, VALUES * sizeof *y);
    void *at_grad_x = put(at, x, sizeof x), *at_grad_theta = put(at, theta, sizeof theta);
    hs_rows from = {at_x, TOKENS, EXPERTS, INPUTS, INPUTS, EXPERTS * INPUTS}, g = rows(at_y);
    hs_values by = numbers(at_theta, FEATURES * INPUTS), of_bias = numbers(at_bias, FEATURES);
    hs_weights shared = weights(at_w, PAIRS);
    hs_epilogue epilogue = {HS_RELU, NULL};
    epilogue.bias = &of_bias;
    hs_out_rows to = out_rows(at_y);
    hs_out_rows to_x = {at_grad_x, TOKENS, EXPERTS, INPUTS, INPUTS, EXPERTS * INPUTS, HS_OVERWRITE};
    hs_out_values to_theta = out_values(at_grad_theta, FEATURES * INPUTS);
    hs_layer_gradients gradients = {NULL, NULL, NULL, NULL, NULL};
    gradients.x = &to_x;
    gradients.theta = &to_theta;
    CHECK(hs_layer(workspace, stream, &from, &by, &shared, &epilogue, NULL, &to));
    CHECK(hs_layer_backward(workspace, stream, &from, &by, &shared, &epilogue, &g, &gradients));
    CHECK(hs_workspace_check(workspace, stream));
    get(at, y, at_y, VALUES * sizeof *y);
    get(at, grad_theta, at_grad_theta, sizeof theta);
    drop(at, at_x);
    drop(at, at_theta);
    drop(at, at_w);
    drop(at, at_bias);
    drop(at, at_y);
    drop(at, at_grad_x);
    drop(at, at_grad_theta);
    hs_workspace_free(workspace);
    hs_plan_free(plan);
}

/* Tensor cores multiply on a device. */
static int is_near(const float* a, const float* b, size_t n) {
    float largest = 0.0f, difference = 0.0f;
    for (size_t i = 0; i < n; i++) {
        largest = fmaxf(largest, fabsf(a[i]));
        difference = fmaxf(difference, fabsf(a[i] - b[i]));
    }
    return largest > 0.01f && difference <= 1e-5f * largest;
}

/* A forked process has none of its parent's threads, and does not wait for them. Handles from before the fork
   are its own. Not under AddressSanitizer: a lock of its allocator that a thread of the parent holds during
   the fork stays locked in the child. */
#ifndef __SANITIZE_ADDRESS__
static void fork_and_call(const hs_batch* batch) {
    /* So wide that calls do not run on this thread alone. */
    enum { WIDE = 512, WIDE_VALUES = TOKENS * EXPERTS * WIDE };
    static float x[WIDE_VALUES], y[WIDE_VALUES], again[WIDE_VALUES];
    double before[2], losses[2];
    float w[PAIRS];
    place host = {NULL};
    hs_plan_options options = HS_PLAN_OPTIONS_INIT;
    hs_workspace_options room = HS_WORKSPACE_OPTIONS_INIT;
    hs_plan* plan = NULL;
    hs_workspace* workspace = NULL;
    CHECK(hs_set_num_threads(3));
    EXPECT(hs_num_threads() == 3);
    train(batch, NULL, host, before, w);
    options.features = WIDE;
    room.max_instances = TOKENS;
    CHECK(hs_plan_create(batch, &options, &plan));
    CHECK(hs_workspace_create(plan, &room, &workspace));
    for (size_t i = 0; i < WIDE_VALUES; i++) {
        x[i] = input(i);
    }
    hs_rows from = {x, TOKENS, EXPERTS, WIDE, WIDE, EXPERTS * WIDE};
    hs_weights by = weights(w, PAIRS);
    hs_out_rows to = {y, TOKENS, EXPERTS, WIDE, WIDE, EXPERTS * WIDE, HS_OVERWRITE};
    hs_out_rows more = {again, TOKENS, EXPERTS, WIDE, WIDE, EXPERTS * WIDE, HS_OVERWRITE};
    CHECK(hs_conv(workspace, NULL, &from, &by, &to));
    pid_t child = fork();
    EXPECT(child >= 0);
    if (child == 0) {
        alarm(60);
        CHECK(hs_conv(workspace, NULL, &from, &by, &more));
        EXPECT(memcmp(y, again, sizeof y) == 0);
        train(batch, NULL, host, losses, w);
        _exit(losses[1] == before[1] ? 0 : 1);
    }
    int status = 0;
    EXPECT(waitpid(child, &status, 0) == child);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(hs_conv(workspace, NULL, &from, &by, &more));
    hs_workspace_free(workspace);
    hs_plan_free(plan);
    CHECK(hs_set_num_threads(0));
    EXPECT(hs_num_threads() > 0);
}
#endif

static hs_indices indices(const int64_t* data, size_t len) {
    hs_indices operand = {NULL, 0, HS_INT64};
    operand.data = data;
    operand.len = len;
    return operand;
}

static void wrong_topologies(void) {
    static const int64_t pointers[] = {0, 2, 4}, members[] = {0, 1, 1, 2}, far[] = {0, 1, 1, 3};
    static const int64_t decreasing[] = {0, 3, 2, 4}, late[] = {1, 2, 4}, twice[] = {0, 0, 1, 2};
    static const int64_t edges[] = {0, 0, 1, 1}, far_edges[] = {0, 0, 1, 2}, negative[] = {3, -1};
    static const int64_t crossing[] = {0, 1, 2, 3}, all_zero[] = {0, 0, 0, 0}, counts[] = {2, 2},
                         ones[] = {1, 1};
    static const int32_t narrow[] = {0, 1};
    hs_indices ptr = indices(pointers, 3), ids = indices(members, 4), none = indices(NULL, 0);
    hs_indices wrong = indices(far, 4), e = indices(edges, 4), short_ids = indices(members, 2);
    hs_incidence* incidence = (hs_incidence*)&ptr;
    hs_batch* batch = NULL;
    hs_error error;

    error = FAILS(hs_incidence_from_csr(3, &ptr, &wrong, HS_REPEATS_KEEP, &incidence),
                  HS_ERROR_VERTEX_OUT_OF_RANGE, "edge_vertices");
    EXPECT(incidence == NULL);
    EXPECT(error.facts == (HS_FACT_POSITION | HS_FACT_VALUE | HS_FACT_BOUND));
    EXPECT(error.position == 3 && error.value == 3 && error.bound == 3);
    FAILS(hs_incidence_from_csr(3, &none, &ids, HS_REPEATS_KEEP, &incidence), HS_ERROR_NO_POINTERS,
          "edge_ptr");
    hs_indices unsorted = indices(decreasing, 4), starts = indices(late, 3), repeat = indices(twice, 4);
    error = FAILS(hs_incidence_from_csr(3, &unsorted, &ids, HS_REPEATS_KEEP, &incidence),
                  HS_ERROR_POINTERS_NOT_MONOTONE, "edge_ptr");
    EXPECT(error.position == 2 && error.value == 2 && error.bound == 3);
    FAILS(hs_incidence_from_csr(3, &starts, &ids, HS_REPEATS_KEEP, &incidence),
          HS_ERROR_FIRST_POINTER_NOT_ZERO, "edge_ptr");
    error = FAILS(hs_incidence_from_csr(3, &ptr, &short_ids, HS_REPEATS_KEEP, &incidence),
                  HS_ERROR_LAST_POINTER, "edge_ptr");
    EXPECT(strcmp(error.other, "edge_vertices") == 0);
    FAILS(hs_incidence_from_csr(3, &ptr, &repeat, HS_REPEATS_REJECT, &incidence), HS_ERROR_REPEATED_INCIDENCE,
          "edge_vertices");
    FAILS(hs_incidence_from_csr(3, &ptr, &ids, 3, &incidence), HS_ERROR_ARGUMENT, "repeats");
    FAILS(hs_incidence_from_csr(3, NULL, &ids, HS_REPEATS_KEEP, &incidence), HS_ERROR_NULL, "edge_ptr");
    FAILS(hs_incidence_from_csr(3, &ptr, &ids, HS_REPEATS_KEEP, NULL), HS_ERROR_NULL, "incidence");
    hs_indices nowhere = indices(NULL, 3), odd = indices(members, 4), of_no_type = indices(members, 4);
    FAILS(hs_incidence_from_csr(3, &nowhere, &ids, HS_REPEATS_KEEP, &incidence), HS_ERROR_NULL, "edge_ptr");
    odd.data = (const char*)members + 1;
    FAILS(hs_incidence_from_csr(3, &ptr, &odd, HS_REPEATS_KEEP, &incidence), HS_ERROR_MISALIGNED,
          "edge_vertices");
    of_no_type.integers = 77;
    FAILS(hs_incidence_from_csr(3, &ptr, &of_no_type, HS_REPEATS_KEEP, &incidence), HS_ERROR_ARGUMENT,
          "integers");
    hs_indices endless = indices(members, SIZE_MAX);
    FAILS(hs_incidence_from_csr(3, &ptr, &endless, HS_REPEATS_KEEP, &incidence), HS_ERROR_TOO_LARGE,
          "edge_vertices");
    FAILS(hs_incidence_from_coo(3, 2, &short_ids, &e, HS_REPEATS_KEEP, &incidence), HS_ERROR_LENGTH_MISMATCH,
          "hyperedges");
    hs_indices wrong_e = indices(far_edges, 4);
    FAILS(hs_incidence_from_coo(3, 2, &ids, &wrong_e, HS_REPEATS_KEEP, &incidence),
          HS_ERROR_HYPEREDGE_OUT_OF_RANGE, "hyperedges");
    FAILS(hs_incidence_subsets(1000, 500, &incidence), HS_ERROR_TOO_LARGE,
          "the number of hyperedges (it may be even larger)");

    hs_incidence* pair = NULL;
    CHECK(hs_incidence_subsets(2, 2, &pair));
    FAILS(hs_incidence_with_self_loops(pair, 9, &incidence), HS_ERROR_ARGUMENT, "self_loops");
    CHECK(hs_incidence_with_self_loops(pair, HS_SELF_LOOPS_ALL, &incidence));
    hs_incidence_sizes sizes;
    CHECK(hs_incidence_get_sizes(incidence, &sizes));
    EXPECT(sizes.hyperedges == 3 && sizes.incidences == 4);
    int64_t edge_ptr[4], edge_vertices[4];
    const int64_t pointers_of_loops[] = {0, 2, 3, 4}, vertices_of_loops[] = {0, 1, 0, 1};
    CHECK(hs_incidence_get_csr(incidence, edge_ptr, edge_vertices));
    EXPECT(memcmp(edge_ptr, pointers_of_loops, sizeof edge_ptr) == 0);
    EXPECT(memcmp(edge_vertices, vertices_of_loops, sizeof edge_vertices) == 0);
    FAILS(hs_incidence_get_csr(incidence, edge_ptr, NULL), HS_ERROR_NULL, "edge_vertices");
    FAILS(hs_incidence_get_csr(NULL, edge_ptr, edge_vertices), HS_ERROR_NULL, "incidence");
    hs_incidence_free(incidence);
    const hs_incidence* const list[] = {pair, NULL};
    hs_indices of_table = indices(edges, 4);
    error = FAILS(hs_batch_from_table(list, 1, &of_table, &batch), HS_ERROR_TOPOLOGY_OUT_OF_RANGE,
                  "topology_ids");
    EXPECT(error.instance == 2 && error.value == 1 && error.bound == 1);
    FAILS(hs_batch_concat(list, 2, &batch), HS_ERROR_NULL, "incidences[]");
    hs_indices v = indices(crossing, 4), zero = indices(all_zero, 4), n = indices(counts, 2),
               m = indices(ones, 2);
    hs_indices below = indices(negative, 2), one = indices(ones, 1);
    hs_indices of_int32 = {NULL, 2, HS_INT32};
    of_int32.data = narrow;
    static const int64_t swapped[] = {0, 1, 0, 1};
    hs_indices other = indices(swapped, 4);
    FAILS(hs_batch_from_batched_coo(2, &v, &other, &n, &m, 0, 0, &batch), HS_ERROR_CROSS_GRAPH_INCIDENCE,
          "hyperedges");
    FAILS(hs_batch_from_batched_coo(2, &other, &zero, &n, &m, 0, HS_ALL_IN_FIRST_REJECT, &batch),
          HS_ERROR_ALL_IN_FIRST_GRAPH, "vertices");
    FAILS(hs_batch_from_batched_coo(2, &v, &zero, &below, &m, 0, 0, &batch), HS_ERROR_NEGATIVE_COUNT,
          "vertex_owners");
    FAILS(hs_batch_from_batched_coo(2, &v, &zero, &one, &m, 0, 0, &batch), HS_ERROR_COUNTS_LENGTH,
          "vertex_owners");
    FAILS(hs_batch_from_batched_coo(2, &v, &zero, &of_int32, &m, 0, 0, &batch), HS_ERROR_ARGUMENT,
          "integers");
    FAILS(hs_batch_from_batched_coo(2, &v, &zero, &n, &m, 0, 2, &batch), HS_ERROR_ARGUMENT, "all_in_first");
    hs_incidence_free(pair);
}

static void wrong_plans(const hs_batch* batch, const hs_device* device) {
    hs_plan_options right = HS_PLAN_OPTIONS_INIT, options;
    hs_workspace_options room = HS_WORKSPACE_OPTIONS_INIT, request;
    hs_plan *plan = NULL, *other = NULL;
    hs_workspace* workspace = NULL;
    hs_windows* windows = NULL;
    static const uint32_t paths[] = {HS_PATH_DENSE, HS_PATH_GATHER}, no_path[] = {5};
    static const int64_t offsets[] = {0, 28, 56, 84, -1};
    char text[8192];
    size_t needed = 0, start = 0;
    hs_error error;
    right.device = device;
    right.features = FEATURES;
    options = right;
    options.abi.version = HS_ABI_VERSION + 1;
    error = FAILS(hs_plan_create(batch, &options, &plan), HS_ERROR_ABI, "abi.version");
    EXPECT(error.value == HS_ABI_VERSION + 1 && error.bound == HS_ABI_VERSION);
    EXPECT(hs_abi_version() == HS_ABI_VERSION);
    options = right;
    options.abi.rows -= 8;
    FAILS(hs_plan_create(batch, &options, &plan), HS_ERROR_ABI, "abi.rows");
    FAILS(hs_plan_create(NULL, &right, &plan), HS_ERROR_NULL, "batch");
    FAILS(hs_plan_create(batch, NULL, &plan), HS_ERROR_NULL, "options");
    FAILS(hs_plan_create(batch, (const hs_plan_options*)((const char*)&right + 2), &plan),
          HS_ERROR_MISALIGNED, "options");
    options = right;
    options.element = 4;
    FAILS(hs_plan_create(batch, &options, &plan), HS_ERROR_ARGUMENT, "element");
    options = right;
    options.normalization = 3;
    FAILS(hs_plan_create(batch, &options, &plan), HS_ERROR_ARGUMENT, "normalization");
    options = right;
    options.paths = paths;
    options.n_paths = 2;
    FAILS(hs_plan_create(batch, &options, &plan), HS_ERROR_PATHS_MISMATCH, "paths");
    options.paths = no_path;
    options.n_paths = 1;
    FAILS(hs_plan_create(batch, &options, &plan), HS_ERROR_ARGUMENT, "paths[]");
    EXPECT(plan == NULL);

    hs_incidence* large = NULL;
    hs_batch* of_large = NULL;
    CHECK(hs_incidence_subsets(70, 2, &large));
    CHECK(hs_batch_copies(large, &of_large));
    options.paths = paths;
    error = FAILS(hs_plan_create(of_large, &options, &plan), HS_ERROR_PATH_UNAVAILABLE, "dense operator");
    EXPECT(error.position == 0 && error.value == 70 && error.bound == 32);
    CHECK(hs_plan_create(of_large, &right, &other));
    request = room;
    request.max_instances = 1;
    request.operators = HS_OPERATORS_ALL;
    CHECK(hs_workspace_create(other, &request, &workspace));
    hs_weights nothing = {{NULL, 0}, HS_WINDOWS_SHARED, NULL};
    FAILS(hs_conv_matrix(workspace, NULL, &nothing, NULL), HS_ERROR_MATRIX_UNAVAILABLE, "conv_matrix");
    hs_workspace_free(workspace);
    FAILS(hs_plan_check_operator(other, HS_CONV_MATRIX), HS_ERROR_MATRIX_UNAVAILABLE, "conv_matrix");
    FAILS(hs_plan_check_operator(other, HS_LAYER_BACKWARD + 1), HS_ERROR_ARGUMENT, "operator");
    CHECK(hs_plan_check_operator(other, HS_CONV_EPILOGUE));
    if (device == NULL) {
        CHECK(hs_plan_check_operator(other, HS_LAYER));
    } else {
        error = FAILS(hs_plan_check_operator(other, HS_LAYER), HS_ERROR_LAYER_UNAVAILABLE, "layer");
        EXPECT(error.value == 70 && error.bound == 16 && strstr(error.other, "vertices") != NULL);
    }

    CHECK(hs_plan_create(batch, &right, &plan));
    error = FAILS(hs_plan_explain(plan, TOKENS, text, 3, &needed), HS_ERROR_CAPACITY, "text");
    EXPECT(error.value == 3 && (size_t)error.bound == needed && needed < sizeof text);
    CHECK(hs_plan_explain(plan, TOKENS, text, needed, &needed));
    EXPECT(strlen(text) + 1 == needed && strstr(text, "4 features of f32") != NULL);
    FAILS(hs_plan_explain(plan, TOKENS, text, needed, NULL), HS_ERROR_NULL, "needed");
    FAILS(hs_batch_get_start(batch, 2, 1, &start), HS_ERROR_ARGUMENT, "axis");
    CHECK(hs_batch_get_start(batch, HS_HYPEREDGE, TOKENS, &start));
    EXPECT(start == TOKENS * PAIRS);
    FAILS(hs_batch_get_start(batch, HS_HYPEREDGE, SIZE_MAX, &start), HS_ERROR_TOO_LARGE, "start");
    EXPECT(start == TOKENS * PAIRS);

    hs_indices table = indices(offsets, 5);
    error = FAILS(hs_windows_create(plan, HS_HYPEREDGE, &table, &windows), HS_ERROR_OFFSET_OUT_OF_RANGE,
                  "offsets");
    EXPECT(error.instance == 4 && error.value == -1);

    request = room;
    request.abi.options++;
    FAILS(hs_workspace_create(plan, &request, &workspace), HS_ERROR_ABI, "abi.options");
    request = room;
    request.operators = 1u << 18;
    FAILS(hs_workspace_create(plan, &request, &workspace), HS_ERROR_ARGUMENT, "operators");
    request = room;
    request.scratch = 2;
    FAILS(hs_workspace_create(plan, &request, &workspace), HS_ERROR_ARGUMENT, "scratch");
    FAILS(hs_workspace_create(NULL, &room, &workspace), HS_ERROR_NULL, "plan");
    FAILS(hs_set_num_threads(1u << 16), HS_ERROR_ARGUMENT, "threads");
    hs_plan_free(other);
    hs_plan_free(plan);
    hs_batch_free(of_large);
    hs_incidence_free(large);
}

static void wrong_calls(const hs_batch* batch, const hs_device* device, place at) {
    hs_plan_options options = HS_PLAN_OPTIONS_INIT;
    hs_workspace_options room = HS_WORKSPACE_OPTIONS_INIT;
    hs_plan *plan = NULL, *elsewhere = NULL;
    hs_workspace *workspace = NULL, *few = NULL;
    hs_windows *windows = NULL, *of_vertices = NULL, *of_other = NULL;
    hs_batch* other = NULL;
    float numbers[4 * VALUES];
    size_t bytes = 0;
    void* stream = at.device == NULL ? NULL : at.device->stream;
    static const int64_t offsets[] = {0, 28, 56, 84, 112};
    hs_error error;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        numbers[i] = -1.0f;
    }
    float *memory = (float*)put(at, numbers, sizeof numbers), *x = memory, *y = memory + VALUES;
    float *w = memory + 2 * VALUES, *grad_w = memory + 3 * VALUES;
    options.device = device;
    options.features = FEATURES;
    options.normalization = HS_NORMALIZATION_SYMMETRIC;
    room.max_instances = TOKENS;
    room.operators = HS_OPERATORS_ALL;
    CHECK(hs_plan_create(batch, &options, &plan));
    CHECK(hs_workspace_create(plan, &room, &workspace));
    hs_indices table = indices(offsets, TOKENS), few_offsets = indices(offsets, 2);
    CHECK(hs_windows_create(plan, HS_HYPEREDGE, &few_offsets, &windows));
    CHECK(hs_windows_create(plan, HS_VERTEX, &table, &of_vertices));

    hs_rows from = rows(x), wrong;
    hs_weights by = weights(w, PAIRS), other_weights;
    hs_out_rows to = out_rows(y), wrong_out;
    hs_out_values grad = out_values(grad_w, PAIRS), short_grad = out_values(grad_w, PAIRS - 1);
#define CONV(rows_, weights_, out_) hs_conv(workspace, stream, rows_, weights_, out_)
    FAILS(hs_conv(NULL, stream, &from, &by, &to), HS_ERROR_NULL, "workspace");
    FAILS(CONV(NULL, &by, &to), HS_ERROR_NULL, "x");
    error = FAILS(CONV((const hs_rows*)((const char*)&from + 1), &by, &to), HS_ERROR_MISALIGNED, "x");
    EXPECT(error.value == (int64_t)(intptr_t)&from + 1 && error.bound == sizeof(size_t));
    FAILS(CONV(&from, (const hs_weights*)((const char*)&by + 4), &to), HS_ERROR_MISALIGNED, "weights");
    FAILS(CONV(&from, &by, (const hs_out_rows*)((const char*)&to + 2)), HS_ERROR_MISALIGNED, "y");
    FAILS(hs_conv((hs_workspace*)((char*)workspace + 1), stream, &from, &by, &to), HS_ERROR_MISALIGNED,
          "workspace");
    FAILS(CONV(&from, NULL, &to), HS_ERROR_NULL, "weights");
    wrong = rows(NULL);
    FAILS(CONV(&wrong, &by, &to), HS_ERROR_NULL, "x");
    wrong = rows((char*)x + 2);
    error = FAILS(CONV(&wrong, &by, &to), HS_ERROR_MISALIGNED, "x");
    EXPECT(error.bound == 4);
    wrong = from;
    wrong.features = 3;
    FAILS(CONV(&wrong, &by, &to), HS_ERROR_FEATURES_MISMATCH, "x");
    wrong = from;
    wrong.rows = 7;
    error = FAILS(CONV(&wrong, &by, &to), HS_ERROR_ROWS_MISMATCH, "x");
    EXPECT(error.value == 7 && error.bound == EXPERTS && strcmp(error.other, "vertices") == 0);
    wrong = from;
    wrong.instances = 3;
    FAILS(CONV(&wrong, &by, &to), HS_ERROR_INSTANCES_MISMATCH, "y");
    wrong = from;
    wrong.instance_stride = SIZE_MAX - 1;
    FAILS(CONV(&wrong, &by, &to), HS_ERROR_TOO_LARGE, "x");
    wrong_out = to;
    wrong_out.row_stride = 2;
    FAILS(CONV(&from, &by, &wrong_out), HS_ERROR_OVERLAP, "y");
    wrong_out = to;
    wrong_out.mode = 3;
    FAILS(CONV(&from, &by, &wrong_out), HS_ERROR_ARGUMENT, "mode");
    wrong_out = out_rows(x + VALUES - 1);
    error = FAILS(CONV(&from, &by, &wrong_out), HS_ERROR_SHARED_MEMORY, "y");
    EXPECT(strcmp(error.other, "x") == 0);
    other_weights = weights(w, PAIRS - 1);
    FAILS(CONV(&from, &other_weights, &to), HS_ERROR_WINDOW_OUT_OF_RANGE, "weights");
    other_weights = weights(w, PAIRS + 1);
    FAILS(CONV(&from, &other_weights, &to), HS_ERROR_UNREAD_WEIGHTS, "weights");
    other_weights = by;
    other_weights.windows = 3;
    FAILS(CONV(&from, &other_weights, &to), HS_ERROR_ARGUMENT, "windows");
    other_weights.windows = HS_WINDOWS_TABLE;
    FAILS(CONV(&from, &other_weights, &to), HS_ERROR_NULL, "table");
    other_weights.table = windows;
    error = FAILS(CONV(&from, &other_weights, &to), HS_ERROR_WINDOW_TABLE_LENGTH, "weights");
    EXPECT(error.value == 2 && error.bound == TOKENS);
    other_weights.table = of_vertices;
    FAILS(CONV(&from, &other_weights, &to), HS_ERROR_WINDOW_TABLE_AXIS, "weights");
    other = pairs_of_experts();
    CHECK(hs_plan_create(other, &options, &elsewhere));
    CHECK(hs_windows_create(elsewhere, HS_HYPEREDGE, &table, &of_other));
    other_weights.table = of_other;
    FAILS(CONV(&from, &other_weights, &to), HS_ERROR_WINDOW_TABLE_MISMATCH, "weights");
    hs_windows_free(of_other);
    hs_plan_free(elsewhere);
    hs_batch_free(other);
    FAILS(hs_conv_backward(workspace, stream, &from, &by, &from, NULL, &short_grad),
          HS_ERROR_GRADIENT_MISMATCH, "grad_weights");
    hs_out_rows skipped = out_rows(y);
    skipped.mode = HS_SKIP;
    FAILS(hs_conv_saving_z(workspace, stream, &from, &by, &skipped, &to), HS_ERROR_ARGUMENT, "z");
    hs_values part = {NULL, 65};
    part.data = y;
    FAILS(hs_conv_matrix_backward(workspace, stream, &by, &part, &grad), HS_ERROR_PARTIAL_MATRIX,
          "grad_matrix");
    hs_values bias = {NULL, FEATURES + 1};
    bias.data = y;
    hs_epilogue epilogue = {HS_RELU, NULL};
    epilogue.bias = &bias;
    FAILS(hs_conv_epilogue(workspace, stream, &from, &by, &epilogue, NULL, NULL), HS_ERROR_LENGTH_MISMATCH,
          "bias");
    epilogue.activation = 5;
    FAILS(hs_conv_epilogue(workspace, stream, &from, &by, &epilogue, NULL, NULL), HS_ERROR_ARGUMENT,
          "activation");
    hs_step step = {2, NULL, NULL};
    FAILS(hs_vertex_to_hyperedge(workspace, stream, &step, &from, NULL), HS_ERROR_ARGUMENT, "reduce");
    FAILS(hs_vertex_to_hyperedge(workspace, stream, NULL, &from, NULL), HS_ERROR_NULL, "step");
    FAILS(hs_workspace_scratch_bytes(workspace, 18, 1, &bytes), HS_ERROR_ARGUMENT, "operator");
    FAILS(hs_workspace_scratch_bytes(workspace, HS_CONV, 1, (size_t*)((char*)&bytes + 1)),
          HS_ERROR_MISALIGNED, "bytes");
    FAILS(hs_workspace_lend_scratch(workspace, NULL, 0), HS_ERROR_OWNS_SCRATCH, "memory");
    FAILS(hs_workspace_check(NULL, stream), HS_ERROR_NULL, "workspace");

    /* All weights are negative. The CPU tells at once, a device when it is asked. */
    int32_t status = CONV(&from, &by, &to);
    if (at.device != NULL) {
        EXPECT(status == HS_OK);
        status = hs_workspace_check(workspace, stream);
    }
    error = failed(__LINE__, "a negative degree", status, HS_ERROR_NEGATIVE_DEGREE, "weights");
    EXPECT(error.facts == (HS_FACT_INSTANCE | HS_FACT_POSITION | HS_FACT_DEGREE) && error.degree == -7.0);
    CHECK(hs_workspace_check(workspace, stream));

    room.operators = HS_OPERATORS_TRAINING;
    room.max_instances = 2;
    room.scratch = HS_SCRATCH_LENT;
    CHECK(hs_workspace_create(plan, &room, &few));
    error = FAILS(hs_conv(few, stream, &from, &by, &to), HS_ERROR_TOO_MANY_INSTANCES, "instances");
    EXPECT(error.value == TOKENS && error.bound == 2);
    FAILS(hs_workspace_scratch_bytes(few, HS_CONV, 3, &bytes), HS_ERROR_TOO_MANY_INSTANCES, "instances");
    FAILS(hs_workspace_scratch_bytes(few, HS_GRAM, 1, &bytes), HS_ERROR_NOT_MADE_FOR, "gram");
    FAILS(hs_gram(few, stream, &from, NULL), HS_ERROR_NOT_MADE_FOR, "gram");
    if (at.device != NULL) {
        from.instances = to.instances = 2;
        error = FAILS(hs_conv(few, stream, &from, &by, &to), HS_ERROR_NO_SCRATCH, "conv");
        CHECK(hs_workspace_scratch_bytes(few, HS_CONV, 2, &bytes));
        EXPECT(error.bound > 0 && (size_t)error.bound <= bytes);
        char* scratch = (char*)put(at, numbers, sizeof numbers);
        FAILS(hs_workspace_lend_scratch(few, scratch + 128, 1024), HS_ERROR_SCRATCH_MISALIGNED, "memory");
        CHECK(hs_workspace_lend_scratch(few, scratch, (size_t)error.bound - 1));
        FAILS(hs_conv(few, stream, &from, &by, &to), HS_ERROR_SCRATCH_TOO_SMALL, "conv");
        drop(at, scratch);
        void* graph = NULL;
        expect_success(at.device->begin_capture(stream, 2), "cuStreamBeginCapture");
        FAILS(hs_workspace_check(workspace, stream), HS_ERROR_CAPTURING, "check");
        expect_success(at.device->end_capture(stream, &graph), "cuStreamEndCapture");
        expect_success(at.device->destroy_graph(graph), "cuGraphDestroy");
        /* Windows of a plan on the CPU. */
        options.device = NULL;
        CHECK(hs_plan_create(batch, &options, &elsewhere));
        CHECK(hs_windows_create(elsewhere, HS_HYPEREDGE, &table, &of_other));
        other_weights.table = of_other;
        other_weights.values.len = offsets[TOKENS - 1] + PAIRS;
        FAILS(CONV(&from, &other_weights, &to), HS_ERROR_BACKEND, "table");
        hs_windows_free(of_other);
        hs_plan_free(elsewhere);
        hs_device* missing = NULL;
        FAILS(hs_device_open(10000, &missing), HS_ERROR_NO_DEVICE, "ordinal");
        hs_device* second = NULL;
        if (hs_device_open(1, &second) == HS_OK) {
            options.device = second;
            CHECK(hs_plan_create(batch, &options, &elsewhere));
            CHECK(hs_windows_create(elsewhere, HS_HYPEREDGE, &table, &of_other));
            other_weights.table = of_other;
            FAILS(CONV(&from, &other_weights, &to), HS_ERROR_WRONG_CONTEXT, "the window table");
            hs_windows_free(of_other);
            hs_plan_free(elsewhere);
            hs_device_free(second);
        }
    }
    hs_workspace_free(few);
    hs_workspace_free(workspace);
    hs_windows_free(windows);
    hs_windows_free(of_vertices);
    hs_plan_free(plan);
    drop(at, memory);
}

static void expect_current(const driver* d, void* expected, int line) {
    void* current = NULL;
    expect_success(d->get_current(&current), "cuCtxGetCurrent");
    if (current != expected) {
        fail(line, "another context is current", HS_OK);
    }
}

/* The thread's current context belongs to other frameworks: whatever is made and freed, it stays. */
static void keep_the_current_context(const hs_batch* batch, const driver* d) {
    void* currents[2] = {NULL, NULL};
    currents[0] = d->context;
    for (int i = 0; i < 2; i++) {
        hs_plan_options options = HS_PLAN_OPTIONS_INIT;
        hs_workspace_options room = HS_WORKSPACE_OPTIONS_INIT;
        hs_device* second = NULL;
        hs_plan* plan = NULL;
        hs_workspace* workspace = NULL;
        size_t bytes = 0;
        void* current = currents[i];
        expect_success(d->set_current(current), "cuCtxSetCurrent");
        if (hs_device_open(1, &second) != HS_OK) {
            return;
        }
        expect_current(d, current, __LINE__);
        hs_device_free(second);
        expect_current(d, current, __LINE__);
        CHECK(hs_device_open(1, &second));
        options.device = second;
        options.features = FEATURES;
        CHECK(hs_plan_create(batch, &options, &plan));
        expect_current(d, current, __LINE__);
        hs_device_free(second);
        expect_current(d, current, __LINE__);
        room.max_instances = TOKENS;
        CHECK(hs_workspace_create(plan, &room, &workspace));
        expect_current(d, current, __LINE__);
        CHECK(hs_workspace_scratch_bytes(workspace, HS_CONV, TOKENS, &bytes));
        expect_current(d, current, __LINE__);
        hs_workspace_free(workspace);
        expect_current(d, current, __LINE__);
        hs_plan_free(plan);
        expect_current(d, current, __LINE__);
    }
    expect_success(d->set_current(d->context), "cuCtxSetCurrent");
}

int main(void) {
    double on_host[2], on_device[2];
    float w[PAIRS], device_w[PAIRS], y[VALUES], device_y[VALUES];
    float grad_theta[FEATURES * INPUTS], device_grad_theta[FEATURES * INPUTS];
    place host = {NULL};
    hs_error error = HS_ERROR_INIT;
    driver d;
    place device = {NULL};
    hs_device* gpu = NULL;

    EXPECT(hs_last_error(&error) == HS_OK && error.status == HS_OK && strcmp(error.message, "") == 0);
    EXPECT(hs_last_error(NULL) == HS_ERROR_NULL);
    error.size = 8;
    EXPECT(hs_last_error(&error) == HS_ERROR_ABI);
    EXPECT(hs_last_error((hs_error*)((char*)&error + 1)) == HS_ERROR_MISALIGNED);
    EXPECT(hs_status_name(-1) == NULL && strcmp(hs_status_name(HS_OK), "HS_OK") == 0);
    hs_incidence_free(NULL);
    hs_batch_free(NULL);
    hs_windows_free(NULL);
    hs_plan_free(NULL);
    hs_workspace_free(NULL);
    hs_device_free(NULL);

    hs_batch* batch = pairs_of_experts();
#ifndef __SANITIZE_ADDRESS__
    fork_and_call(batch);
    puts("a forked process called");
#endif
    train(batch, NULL, host, on_host, w);
    EXPECT(on_host[1] < on_host[0]);
    run_layer(batch, NULL, host, y, grad_theta);
    wrong_topologies();
    wrong_plans(batch, NULL);
    wrong_calls(batch, NULL, host);
    if (open_driver(&d)) {
        device.device = &d;
        CHECK(hs_device_open(0, &gpu));
        train(batch, gpu, device, on_device, device_w);
        EXPECT(on_device[0] == on_host[0] && on_device[1] == on_host[1]);
        EXPECT(memcmp(w, device_w, sizeof w) == 0);
        run_layer(batch, gpu, device, device_y, device_grad_theta);
        EXPECT(is_near(y, device_y, VALUES));
        EXPECT(is_near(grad_theta, device_grad_theta, FEATURES * INPUTS));
        wrong_plans(batch, gpu);
        wrong_calls(batch, gpu, device);
        hs_batch* other = pairs_of_experts();
        keep_the_current_context(other, &d);
        hs_batch_free(other);
        expect_current(&d, d.context, __LINE__);
        hs_device_free(gpu);
        hs_batch_free(batch);
        close_driver(&d);
        printf("trained on the CPU and on a device\n");
    } else {
        FAILS(hs_device_open(0, &gpu), HS_ERROR_DRIVER_UNAVAILABLE, "libcuda.so");
        hs_batch_free(batch);
        printf("trained on the CPU\n");
    }
    return 0;
}
