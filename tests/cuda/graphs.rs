//! CUDA graphs of the raw tier: captured once, replayed with new data in the same memory.
