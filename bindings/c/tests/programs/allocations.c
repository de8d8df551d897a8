/* Prints what calls on the CPU allocate, on whichever thread, and how many threads there are: the functions
   of malloc are this program's own, also for the library.

       allocations THREADS TOKENS */
#include <hyperscatter.h>

#include <dirent.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);

static atomic_size_t allocations;

void* malloc(size_t bytes) {
    allocations++;
    return __libc_malloc(bytes);
}

void* calloc(size_t n, size_t bytes) {
    allocations++;
    return __libc_calloc(n, bytes);
}

void* realloc(void* memory, size_t bytes) {
    allocations++;
    return __libc_realloc(memory, bytes);
}

void* memalign(size_t alignment, size_t bytes) {
    allocations++;
    return __libc_memalign(alignment, bytes);
}

void* aligned_alloc(size_t alignment, size_t bytes) { return memalign(alignment, bytes); }

int posix_memalign(void** memory, size_t alignment, size_t bytes) {
    *memory = memalign(alignment, bytes);
    return *memory == NULL ? ENOMEM : 0;
}

#define CHECK(call) \
    do { \
        if ((call) != HS_OK) { \
            fprintf(stderr, "line %d: %s\n", __LINE__, #call); \
            exit(1); \
        } \
    } while (0)

enum { EXPERTS = 8, PAIRS = 28, TOKENS = 300, FEATURES = 4, VALUES = TOKENS * EXPERTS * FEATURES };
enum { CALLS = 6000 };

static float x[VALUES], y[VALUES], grad_x[VALUES], w[PAIRS], grad_w[PAIRS];
static float bias[FEATURES], grad_bias[FEATURES];

/* Those of this process, or 0 where that cannot be told. */
static size_t threads(void) {
    size_t found = 0;
    DIR* tasks = opendir("/proc/self/task");
    if (tasks != NULL) {
        for (struct dirent* task = readdir(tasks); task != NULL; task = readdir(tasks)) {
            found += task->d_name[0] != '.';
        }
        closedir(tasks);
    }
    return found;
}

int main(int count, char** arguments) {
    if (count != 3) {
        return 2;
    }
    size_t tokens = (size_t)atoi(arguments[2]);
    hs_incidence* pairs = NULL;
    hs_batch* batch = NULL;
    hs_plan* plan = NULL;
    hs_workspace* workspace = NULL;
    hs_plan_options options = HS_PLAN_OPTIONS_INIT;
    hs_workspace_options room = HS_WORKSPACE_OPTIONS_INIT;
    for (size_t i = 0; i < VALUES; i++) {
        x[i] = (float)(i % 17) - 8.0f;
    }
    for (size_t i = 0; i < PAIRS; i++) {
        w[i] = 1.0f;
    }
    options.features = FEATURES;
    options.normalization = HS_NORMALIZATION_SYMMETRIC;
    room.max_instances = TOKENS;
    room.operators = HS_OPERATORS_ALL;
    CHECK(hs_set_num_threads((uint32_t)atoi(arguments[1])));
    CHECK(hs_incidence_subsets(EXPERTS, 2, &pairs));
    CHECK(hs_batch_copies(pairs, &batch));
    CHECK(hs_plan_create(batch, &options, &plan));
    CHECK(hs_workspace_create(plan, &room, &workspace));

    hs_rows from = {x, tokens, EXPERTS, FEATURES, FEATURES, EXPERTS * FEATURES};
    hs_rows g = {y, tokens, EXPERTS, FEATURES, FEATURES, EXPERTS * FEATURES};
    hs_out_rows to = {y, tokens, EXPERTS, FEATURES, FEATURES, EXPERTS * FEATURES, HS_OVERWRITE};
    hs_out_rows to_x = {grad_x, tokens, EXPERTS, FEATURES, FEATURES, EXPERTS * FEATURES, HS_OVERWRITE};
    hs_weights by = {{w, PAIRS}, HS_WINDOWS_SHARED, NULL};
    hs_out_values to_w = {grad_w, PAIRS, HS_OVERWRITE}, to_bias = {grad_bias, FEATURES, HS_OVERWRITE};
    hs_values of_bias = {bias, FEATURES};
    hs_epilogue epilogue = {HS_GELU, &of_bias};
    hs_epilogue_gradients gradients = {&to_x, &to_w, &to_bias, NULL};
    size_t before = 0;
    for (int round = 0; round < 2; round++) {
        before = allocations;
        for (int i = 0; i < CALLS / 4; i++) {
            CHECK(hs_conv(workspace, NULL, &from, &by, &to));
            CHECK(hs_conv_backward(workspace, NULL, &from, &by, &g, &to_x, &to_w));
            CHECK(hs_conv_epilogue(workspace, NULL, &from, &by, &epilogue, NULL, &to));
            CHECK(hs_conv_epilogue_backward(workspace, NULL, &from, &by, &epilogue, &g, &gradients));
        }
        if (round == 0 && before == 0) {
            fprintf(stderr, "nothing is counted\n");
            return 1;
        }
    }
    size_t made = allocations - before;
    printf("%d calls, %zu allocations, %zu threads\n", CALLS, made, threads());
    hs_workspace_free(workspace);
    hs_plan_free(plan);
    hs_batch_free(batch);
    hs_incidence_free(pairs);
    return 0;
}
