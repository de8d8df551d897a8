//! Graphs: recorded from streams, and replayed.

use std::ffi::{c_int, c_ulonglong};
use std::sync::Arc;

use super::code;
use super::streams::stream_id;
use super::{driver, put};
use crate::handle::{Kind, pack, unpack};
use crate::queue::Operation;
use crate::state::{CURRENT, Capture, current};

driver! {
    fn cuStreamBeginCapture_v2(stream: usize, mode: c_int) {
        let mut state = current()?.lock();
        let origin = stream_id(&mut state, stream)?;
        if origin < 16 {
            // The default streams cannot be captured.
            return Err(code::STREAM_CAPTURE_UNSUPPORTED);
        }
        let known = state.streams.get(&origin).expect("found above");
        if known.capture.is_some() {
            return Err(code::STREAM_CAPTURE_UNMATCHED);
        }
        let id = state.new_id();
        let thread = std::thread::current().id();
        let capture = Capture { origin, thread, mode: mode as u32, operations: Vec::new(), invalid: false };
        state.captures.insert(id, capture);
        state.streams.get_mut(&origin).expect("found above").capture = Some(id);
        Ok(())
    }

    fn cuStreamEndCapture(stream: usize, to: *mut usize) {
        let ordinal = CURRENT.get().ok_or(code::INVALID_CONTEXT)?;
        let mut state = current()?.lock();
        let origin = stream_id(&mut state, stream)?;
        let id = state.streams[&origin].capture.ok_or(code::STREAM_CAPTURE_UNMATCHED)?;
        if state.captures.get(&id).is_none_or(|capture| capture.origin != origin) {
            return Err(code::STREAM_CAPTURE_UNMATCHED);
        }
        let capture = state.captures.remove(&id).expect("found above");
        for stream in state.streams.values_mut() {
            if stream.capture == Some(id) {
                stream.capture = None;
            }
        }
        if capture.invalid {
            put(to, 0)?;
            return Err(code::STREAM_CAPTURE_INVALIDATED);
        }
        let graph = state.new_id();
        state.graphs.insert(graph, capture.operations);
        put(to, pack(Kind::Graph, ordinal, graph))
    }

    fn cuGraphInstantiateWithFlags(to: *mut usize, graph: usize, _flags: c_ulonglong) {
        let mut state = current()?.lock();
        state.create()?;
        let (ordinal, id) = unpack(Kind::Graph, graph)?;
        let operations = Arc::new(state.graphs.get(&id).ok_or(code::INVALID_HANDLE)?.clone());
        let exec = state.new_id();
        state.graph_execs.insert(exec, operations);
        put(to, pack(Kind::GraphExec, ordinal, exec))
    }

    fn cuGraphLaunch(exec: usize, stream: usize) {
        let mut state = current()?.lock();
        state.sticky()?;
        let stream = stream_id(&mut state, stream)?;
        let (_, id) = unpack(Kind::GraphExec, exec)?;
        let operations = state.graph_execs.get(&id).ok_or(code::INVALID_HANDLE)?.clone();
        state.enqueue(stream, Operation::Graph(operations))
    }

    fn cuGraphUpload(exec: usize, _stream: usize) {
        let state = current()?.lock();
        let (_, id) = unpack(Kind::GraphExec, exec)?;
        state.graph_execs.get(&id).map(drop).ok_or(code::INVALID_HANDLE)
    }

    fn cuGraphDestroy(graph: usize) {
        let (_, id) = unpack(Kind::Graph, graph)?;
        current()?.lock().graphs.remove(&id).map(drop).ok_or(code::INVALID_HANDLE)
    }

    fn cuGraphExecDestroy(exec: usize) {
        let (_, id) = unpack(Kind::GraphExec, exec)?;
        current()?.lock().graph_execs.remove(&id).map(drop).ok_or(code::INVALID_HANDLE)
    }

    fn cuGraphGetNodes(graph: usize, _nodes: *mut usize, count: *mut usize) {
        let (_, id) = unpack(Kind::Graph, graph)?;
        let nodes = current()?.lock().graphs.get(&id).map(Vec::len).ok_or(code::INVALID_HANDLE)?;
        put(count, nodes)
    }
}
