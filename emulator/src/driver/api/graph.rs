//! Graphs.

use std::ffi::c_ulonglong;
use std::sync::Arc;

use crate::driver::entry::{Out, exports, release_object, with_object, with_stream};
use crate::driver::handle::{Handle, Kind};
use crate::driver::operation::Operation;
use crate::driver::state::State;
use crate::driver::status::{Outcome, Status};

/// The flags of an instantiation: free on launch, upload, launch from the device, priorities of nodes.
const FLAGS: c_ulonglong = 15;
const FREE_ON_LAUNCH: c_ulonglong = 1;
const DEVICE_LAUNCH: c_ulonglong = 4;

/// Gives a stream an operation made of an executable graph of its device.
fn with_executable(
    executable: Handle,
    stream: Handle,
    work: impl FnOnce(&mut State, u64, Operation) -> Outcome,
) -> Outcome {
    let (ordinal, serial) = executable.open(Kind::Executable)?;
    with_stream(stream, |state, stream| {
        if state.ordinal != ordinal {
            return Err(Status::INVALID_HANDLE);
        }
        let graph = state.executables.get(&serial).cloned().ok_or(Status::INVALID_HANDLE)?;
        work(state, stream, Operation::Graph(graph))
    })
}

exports! {
    /// Makes a graph executable.
    fn cuGraphInstantiateWithFlags(executable: Out<Handle>, graph: Handle, flags: c_ulonglong) {
        if flags & !FLAGS != 0 || flags & (FREE_ON_LAUNCH | DEVICE_LAUNCH) == FREE_ON_LAUNCH | DEVICE_LAUNCH {
            return Err(Status::INVALID_VALUE);
        }
        with_object(graph, Kind::Graph, |state, graph| {
            let graph = Arc::clone(state.graphs.get(&graph).ok_or(Status::INVALID_HANDLE)?);
            state.create()?;
            let serial = state.new_serial();
            state.executables.insert(serial, graph);
            executable.set(state.handle(Kind::Executable, serial))
        })
    }

    /// Runs a graph, in a stream.
    fn cuGraphLaunch(executable: Handle, stream: Handle) {
        with_executable(executable, stream, |state, stream, operation| {
            if !state.options.execute {
                return Ok(());
            }
            state.submit(stream, operation)
        })
    }

    /// Prepares a graph for its first launch, which needs no preparation here.
    fn cuGraphUpload(executable: Handle, stream: Handle) {
        with_executable(executable, stream, |_, _, _| Ok(()))
    }

    /// Destroys a graph.
    fn cuGraphDestroy(graph: Handle) {
        release_object(graph, Kind::Graph, |state, graph| {
            state.graphs.remove(&graph).map(drop).ok_or(Status::INVALID_HANDLE)
        })
    }

    /// Destroys an executable graph; launches that are queued still run.
    fn cuGraphExecDestroy(executable: Handle) {
        release_object(executable, Kind::Executable, |state, executable| {
            state.executables.remove(&executable).map(drop).ok_or(Status::INVALID_HANDLE)
        })
    }

    /// The nodes of a graph, or how many there are.
    fn cuGraphGetNodes(graph: Handle, nodes: Out<Handle>, count: *mut usize) {
        if count.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        with_object(graph, Kind::Graph, |state, graph| {
            let there = state.graphs.get(&graph).ok_or(Status::INVALID_HANDLE)?.nodes.len();
            if !nodes.pointer().is_null() {
                // SAFETY: the caller gives the room that there is in `nodes`.
                let room = unsafe { count.read() };
                for i in 0..room.min(there) {
                    let node = state.handle(Kind::Node, graph << 16 | i as u64);
                    // SAFETY: within the room.
                    unsafe { nodes.pointer().add(i).write(node) };
                }
                for i in there..room {
                    // SAFETY: within the room.
                    unsafe { nodes.pointer().add(i).write(Handle::NULL) };
                }
            }
            // SAFETY: not null, and a place for a number.
            unsafe { count.write(there) };
            Ok(())
        })
    }
}
