/* What the programs need of the CUDA driver, by its name: memory, copies, streams and captures. Where there
   is no driver, or no device, they go without. */
#ifndef HYPERSCATTER_TEST_DRIVER_H
#define HYPERSCATTER_TEST_DRIVER_H

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t device_address;
typedef void* device_stream;

typedef struct driver {
    void* library;
    void* context;
    device_stream stream;
    int (*allocate)(device_address*, size_t);
    int (*free)(device_address);
    int (*to_device)(device_address, const void*, size_t);
    int (*to_host)(void*, device_address, size_t);
    int (*synchronize)(device_stream);
    int (*destroy_stream)(device_stream);
    int (*begin_capture)(device_stream, int);
    int (*end_capture)(device_stream, void**);
    int (*destroy_graph)(void*);
    int (*release)(int);
    int (*get_current)(void**);
    int (*set_current)(void*);
} driver;

static void expect_success(int result, const char* what) {
    if (result != 0) {
        fprintf(stderr, "%s gives %d\n", what, result);
        exit(1);
    }
}

/* Function pointers are no pointers to objects, so they are copied. */
static void look_up(const driver* of, const char* name, void* function) {
    void* found = dlsym(of->library, name);
    expect_success(found == NULL, name);
    memcpy(function, &found, sizeof found);
}

/* 1 where there is a device, whose context is current then. */
static int open_driver(driver* d) {
    int (*initialize)(unsigned);
    int (*retain)(void**, int);
    int (*create)(device_stream*, unsigned);
    memset(d, 0, sizeof *d);
    d->library = dlopen("libcuda.so", RTLD_NOW);
    if (d->library == NULL) {
        return 0;
    }
    look_up(d, "cuInit", &initialize);
    look_up(d, "cuDevicePrimaryCtxRetain", &retain);
    look_up(d, "cuDevicePrimaryCtxRelease_v2", &d->release);
    look_up(d, "cuCtxGetCurrent", &d->get_current);
    look_up(d, "cuCtxSetCurrent", &d->set_current);
    look_up(d, "cuStreamCreate", &create);
    look_up(d, "cuStreamDestroy_v2", &d->destroy_stream);
    look_up(d, "cuStreamSynchronize", &d->synchronize);
    look_up(d, "cuStreamBeginCapture_v2", &d->begin_capture);
    look_up(d, "cuStreamEndCapture", &d->end_capture);
    look_up(d, "cuGraphDestroy", &d->destroy_graph);
    look_up(d, "cuMemAlloc_v2", &d->allocate);
    look_up(d, "cuMemFree_v2", &d->free);
    look_up(d, "cuMemcpyHtoD_v2", &d->to_device);
    look_up(d, "cuMemcpyDtoH_v2", &d->to_host);
    if (initialize(0) != 0 || retain(&d->context, 0) != 0) {
        return 0;
    }
    expect_success(d->set_current(d->context), "cuCtxSetCurrent");
    expect_success(create(&d->stream, 1), "cuStreamCreate");
    return 1;
}

static void close_driver(driver* d) {
    expect_success(d->destroy_stream(d->stream), "cuStreamDestroy_v2");
    expect_success(d->release(0), "cuDevicePrimaryCtxRelease_v2");
    /* The library stays loaded, since hyperscatter keeps what it found in it. */
}

#endif
