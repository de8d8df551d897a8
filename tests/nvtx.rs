//! Each call of an operator is a range of NVTX that ends, whatever becomes of the call; without NVTX nothing
//! is different.
//!
//! The library is loaded once in a process, so each case runs in a process of its own, with a library made
//! here that prints what it is asked for.
//!
//! A test binary of its own: with the feature `nvtx`, which not all builds have.

use std::path::Path;
use std::process::Command;

use hyperscatter::cuda::cudarc::driver::{DevicePtr, DevicePtrMut};
use hyperscatter::cuda::{Checks, Device, DevicePointer, Plan};
use hyperscatter::{
    Activation, Batch, Epilogue, EpilogueGradients, Error, Incidence, LayerGradients, Operator, Out, Rows,
    Step, StepGradients, Weights,
};

const CHILD: &str = "HYPERSCATTER_TEST_RANGES";

const FAKE: &str = r#"
#include <cstdio>
extern "C" int nvtxRangePushA(const char* name) { return std::printf("push %s\n", name), std::fflush(stdout); }
extern "C" int nvtxRangePop() { return std::printf("pop\n"), std::fflush(stdout); }
"#;

/// What the child prints, with these folders before others for its libraries.
fn ranges(libraries: &Path) -> Vec<String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "call_in_this_process", "--nocapture"]);
    command.env_remove("HYPERSCATTER_GPU").env(CHILD, "").env("LD_LIBRARY_PATH", libraries);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let is_of_a_range = |line: &&str| ["call ", "push ", "pop"].iter().any(|start| line.starts_with(start));
    text.lines().filter(is_of_a_range).map(str::to_string).collect()
}

fn folder(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("hyperscatter-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn each_call_is_a_range_of_its_name_also_where_it_fails() {
    let folder = folder("nvtx");
    let source = folder.join("fake.cpp");
    std::fs::write(&source, FAKE).unwrap();
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    for library in ["libnvtx3interop.so.1", "libnvToolsExt.so.1"] {
        let library = folder.join(library);
        let built =
            Command::new(&compiler).args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
        assert!(built.unwrap().success());
        let printed = ranges(&folder);
        std::fs::remove_file(&library).unwrap();
        let calls: Vec<_> = printed.chunks(3).collect();
        for call in &calls {
            let name = call[0].strip_prefix("call ").unwrap();
            assert_eq!(call[1..], [format!("push hyperscatter::{name}"), "pop".into()], "{printed:#?}");
        }
        for &operator in Operator::ALL {
            let times = calls.iter().filter(|call| call[0] == format!("call {}", operator.name())).count();
            assert!(times >= 2, "{}: {times} calls", operator.name());
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn without_the_library_there_are_no_ranges() {
    let folder = folder("no-nvtx");
    let printed = ranges(&folder);
    std::fs::remove_dir_all(&folder).unwrap();
    if printed.iter().any(|line| line.starts_with("push")) {
        println!("SKIPPED: this machine has an NVTX library that prints");
        return;
    }
    assert!(printed.len() >= 2 * Operator::ALL.len(), "{printed:#?}");
}

/// The child: calls each operator in both tiers, and once so that it fails.
#[test]
fn call_in_this_process() {
    const F: usize = 4;
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    // The line begins with the name of the test.
    println!();
    hyperscatter_emulator::control::install().unwrap();
    let device = Device::open(0).unwrap();
    let stream = device.context().default_stream();
    let batch = device.upload(&Batch::replicate(Incidence::subsets(3, 2).unwrap())).unwrap();
    let plan = Plan::<f32>::builder(&batch, F).checks(Checks::On).build().unwrap();
    let mut all = plan.workspace_for(&stream, 1, Operator::ALL).unwrap();
    let mut none = plan.workspace_for(&stream, 1, &[Operator::VertexToHyperedge]).unwrap();
    let x = stream.clone_htod(&[1.0f32; 3 * F]).unwrap();
    let w = stream.clone_htod(&[1.0f32; 3]).unwrap();
    let mut y = stream.alloc_zeros::<f32>(3 * F).unwrap();
    let mut z = stream.alloc_zeros::<f32>(3 * F).unwrap();
    let mut grad_w = stream.alloc_zeros::<f32>(3).unwrap();
    let theta = stream.clone_htod(&[1.0f32; F * F]).unwrap();

    // Of one row too many, for calls that fail.
    let long = stream.alloc_zeros::<f32>(4 * F).unwrap();
    for (x, succeeds) in [(&x, true), (&long, false)] {
        let called = |operator: Operator| println!("call {}", operator.name());
        let read = || Rows::contiguous(x.as_view(), F);
        let tell = |result: hyperscatter::Result<()>| match result {
            Ok(()) => assert!(succeeds),
            Err(Error::PartialInstance { .. } | Error::PartialMatrix { .. }) => assert!(!succeeds),
            Err(error) => panic!("{error}"),
        };
        let weights = || Weights::shared(w.as_view());
        called(Operator::VertexToHyperedge);
        tell(all.vertex_to_hyperedge(
            &Step::sum(),
            read(),
            Out::Overwrite(Rows::contiguous(y.as_view_mut(), F)),
        ));
        called(Operator::HyperedgeToVertex);
        tell(all.hyperedge_to_vertex(
            &Step::sum(),
            read(),
            Out::Overwrite(Rows::contiguous(y.as_view_mut(), F)),
        ));
        called(Operator::VertexToHyperedgeBackward);
        tell(all.vertex_to_hyperedge_backward(&Step::sum(), read(), read(), StepGradients::default()));
        called(Operator::HyperedgeToVertexBackward);
        tell(all.hyperedge_to_vertex_backward(&Step::sum(), read(), read(), StepGradients::default()));
        called(Operator::Conv);
        tell(all.conv(read(), weights(), Out::Overwrite(Rows::contiguous(y.as_view_mut(), F))));
        called(Operator::ConvSavingZ);
        tell(all.conv_saving_z(read(), weights(), Rows::contiguous(z.as_view_mut(), F), Out::Skip));
        called(Operator::ConvBackward);
        let out = Out::Overwrite(grad_w.as_view_mut());
        tell(all.conv_backward(read(), weights(), read(), Out::Skip, out));
        called(Operator::ConvBackwardFromZ);
        let (saved, out) = (Rows::contiguous(z.as_view(), F), Out::Overwrite(grad_w.as_view_mut()));
        tell(all.conv_backward_from_z(read(), saved, weights(), read(), Out::Skip, out));
        let epilogue = Epilogue::new(Activation::Gelu);
        let rows = long.slice(..F);
        called(Operator::ConvEpilogue);
        let out = Out::Overwrite(Rows::contiguous(y.as_view_mut(), F));
        tell(all.conv_epilogue(read(), weights(), &epilogue, None, out));
        called(Operator::ConvEpilogueBackward);
        let gradients = EpilogueGradients::none().weights(Out::Overwrite(grad_w.as_view_mut()));
        tell(all.conv_epilogue_backward(read(), weights(), &epilogue, read(), gradients));
        called(Operator::ConvReadout);
        tell(all.conv_readout(read(), weights(), &epilogue, None, Out::Overwrite(z.slice_mut(..F))));
        called(Operator::ConvReadoutBackward);
        let gradients = EpilogueGradients::none().weights(Out::Overwrite(grad_w.as_view_mut()));
        tell(all.conv_readout_backward(read(), weights(), &epilogue, rows, gradients));
        // Matrices of one entry too many.
        let entries = if succeeds { 9 } else { 10 };
        called(Operator::ConvMatrix);
        tell(all.conv_matrix(weights(), Out::Overwrite(z.slice_mut(..entries))));
        called(Operator::ConvMatrixBackward);
        let out = Out::Overwrite(grad_w.as_view_mut());
        tell(all.conv_matrix_backward(weights(), long.slice(..entries), out));
        called(Operator::Gram);
        tell(all.gram(read(), Out::Overwrite(z.slice_mut(..9))));
        called(Operator::GramBackward);
        let out = Out::Overwrite(Rows::contiguous(y.as_view_mut(), F));
        tell(all.gram_backward(read(), long.slice(..9), out));
        called(Operator::Layer);
        let out = Out::Overwrite(Rows::contiguous(y.as_view_mut(), F));
        tell(all.layer(read(), theta.as_view(), weights(), &epilogue, None, out));
        called(Operator::LayerBackward);
        let gradients = LayerGradients::none().weights(Out::Overwrite(grad_w.as_view_mut()));
        tell(all.layer_backward(read(), theta.as_view(), weights(), &epilogue, read(), gradients));
    }
    println!("call {}", Operator::Conv.name());
    let y_rows = Out::Overwrite(Rows::contiguous(y.as_view_mut(), F));
    let error = none.conv(Rows::contiguous(x.as_view(), F), Weights::shared(w.as_view()), y_rows);
    assert!(matches!(error, Err(Error::NotMadeFor { .. })));

    // The raw tier, on the default stream as before.
    let pointer = |address, len| DevicePointer::new(address, len);
    let x = Rows::contiguous(pointer(x.device_ptr(&stream).0, 3 * F), F);
    let w = Weights::shared(pointer(w.device_ptr(&stream).0, 3));
    let y = Rows::contiguous(pointer(y.device_ptr_mut(&stream).0, 3 * F), F);
    let saved = Rows::contiguous(pointer(z.device_ptr_mut(&stream).0, 3 * F), F);
    let theta = pointer(theta.device_ptr(&stream).0, F * F);
    let queue = stream.cu_stream();
    let (of_instance, matrix) = (pointer(x.buffer.address, F), pointer(x.buffer.address, 9));
    let epilogue = Epilogue::new(Activation::Gelu);
    for &operator in Operator::ALL {
        println!("call {}", operator.name());
        let y = Out::Overwrite(y);
        // SAFETY: the buffers live until the end of this function, which waits, and only this stream uses
        // them.
        let done = unsafe {
            match operator {
                Operator::VertexToHyperedge => all.vertex_to_hyperedge_raw(queue, &Step::sum(), x, y),
                Operator::HyperedgeToVertex => all.hyperedge_to_vertex_raw(queue, &Step::sum(), x, y),
                Operator::VertexToHyperedgeBackward => {
                    all.vertex_to_hyperedge_backward_raw(queue, &Step::sum(), x, x, StepGradients::default())
                }
                Operator::HyperedgeToVertexBackward => {
                    all.hyperedge_to_vertex_backward_raw(queue, &Step::sum(), x, x, StepGradients::default())
                }
                Operator::Conv => all.conv_raw(queue, x, w, y),
                Operator::ConvSavingZ => all.conv_saving_z_raw(queue, x, w, saved, y),
                Operator::ConvBackward => all.conv_backward_raw(queue, x, w, x, y, Out::Skip),
                Operator::ConvBackwardFromZ => {
                    all.conv_backward_from_z_raw(queue, x, saved, w, x, y, Out::Skip)
                }
                Operator::ConvEpilogue => all.conv_epilogue_raw(queue, x, w, &epilogue, None, y),
                Operator::ConvEpilogueBackward => {
                    let gradients = EpilogueGradients::none().x(y);
                    all.conv_epilogue_backward_raw(queue, x, w, &epilogue, x, gradients)
                }
                Operator::ConvReadout => {
                    let readout = Out::Overwrite(pointer(saved.buffer.address, F));
                    all.conv_readout_raw(queue, x, w, &epilogue, None, readout)
                }
                Operator::ConvReadoutBackward => {
                    let gradients = EpilogueGradients::none().x(y);
                    all.conv_readout_backward_raw(queue, x, w, &epilogue, of_instance, gradients)
                }
                Operator::ConvMatrix => {
                    all.conv_matrix_raw(queue, w, Out::Overwrite(pointer(saved.buffer.address, 9)))
                }
                Operator::ConvMatrixBackward => all.conv_matrix_backward_raw(queue, w, matrix, Out::Skip),
                Operator::Gram => all.gram_raw(queue, x, Out::Overwrite(pointer(saved.buffer.address, 9))),
                Operator::GramBackward => all.gram_backward_raw(queue, x, matrix, y),
                Operator::Layer => all.layer_raw(queue, x, theta, w, &epilogue, None, y),
                Operator::LayerBackward => {
                    let gradients = LayerGradients::none().x(y);
                    all.layer_backward_raw(queue, x, theta, w, &epilogue, x, gradients)
                }
                _ => unreachable!("all operators are above"),
            }
        };
        done.unwrap();
    }
    all.check().unwrap();
}
