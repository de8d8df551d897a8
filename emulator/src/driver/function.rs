//! The names of the exported functions, for counting calls. Each exists in the driver of CUDA 12.0;
//! `symbols-12.0.txt` in the tests lists what that driver exports.

macro_rules! functions {
    ($($name:ident)*) => {
        /// An exported function.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(non_camel_case_types, reason = "the names are those of the C interface")]
        #[expect(clippy::enum_variant_names, reason = "as above")]
        pub(crate) enum Function {
            $($name),*
        }

        /// The names, by number.
        pub(crate) const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

functions! {
    cuInit cuDriverGetVersion cuGetErrorName cuGetErrorString
    cuDeviceGet cuDeviceGetCount cuDeviceGetName cuDeviceGetAttribute cuDeviceGetUuid cuDeviceGetUuid_v2
    cuDeviceTotalMem_v2
    cuDevicePrimaryCtxRetain cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxSetFlags_v2
    cuDevicePrimaryCtxGetState cuDevicePrimaryCtxReset_v2
    cuCtxGetCurrent cuCtxSetCurrent cuCtxPushCurrent_v2 cuCtxPopCurrent_v2 cuCtxGetDevice cuCtxSynchronize
    cuCtxGetLimit cuCtxSetLimit cuCtxGetCacheConfig cuCtxSetCacheConfig cuCtxGetStreamPriorityRange
    cuMemAlloc_v2 cuMemFree_v2 cuMemAllocAsync cuMemFreeAsync cuMemHostAlloc cuMemAllocHost_v2 cuMemFreeHost
    cuMemHostGetDevicePointer_v2 cuMemGetInfo_v2 cuPointerGetAttribute
    cuMemcpyHtoD_v2 cuMemcpyDtoH_v2 cuMemcpyDtoD_v2 cuMemcpyHtoDAsync_v2 cuMemcpyDtoHAsync_v2
    cuMemcpyDtoDAsync_v2
    cuMemsetD8_v2 cuMemsetD16_v2 cuMemsetD32_v2 cuMemsetD8Async cuMemsetD16Async cuMemsetD32Async
    cuStreamCreate cuStreamCreateWithPriority cuStreamDestroy_v2 cuStreamSynchronize cuStreamQuery
    cuStreamWaitEvent cuStreamGetCtx cuStreamGetFlags cuStreamGetPriority cuLaunchHostFunc
    cuStreamBeginCapture_v2 cuStreamEndCapture cuStreamIsCapturing
    cuEventCreate cuEventRecord cuEventQuery cuEventSynchronize cuEventDestroy_v2 cuEventElapsedTime
    cuModuleLoad cuModuleLoadData cuModuleLoadDataEx cuModuleUnload cuModuleGetFunction cuModuleGetGlobal_v2
    cuFuncGetAttribute cuFuncSetAttribute cuFuncSetCacheConfig
    cuOccupancyMaxActiveBlocksPerMultiprocessor cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags
    cuOccupancyAvailableDynamicSMemPerBlock
    cuLaunchKernel
    cuGraphInstantiateWithFlags cuGraphLaunch cuGraphUpload cuGraphDestroy cuGraphExecDestroy cuGraphGetNodes
    cuProfilerStart cuProfilerStop
}
