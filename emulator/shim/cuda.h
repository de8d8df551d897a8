// What a CUDA compiler predefines, for a host compiler: included before every kernel file.
//
// One kernel source compiles under nvcc, NVRTC and, with this header, g++. Nothing here includes a system
// header, so that a kernel cannot come to depend on one.
#pragma once

#include "bridge.h"
#include "qualifiers.h"
#include "vectors.h"

#include "index.h"
#include "math.h"
#include "memory.h"
#include "sync.h"

#include "matrices.h"
