//! Layers with inputs of their own: the bits of the library, on both backends, and what plans without layers
//! say. `operators` has them among all operators, with as many inputs as outputs.

use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};
use std::sync::Arc;

use hyperscatter::cuda::cudarc::driver::{CudaContext, CudaStream, DevicePtr, DeviceRepr, ValidAsZeroBits};
use hyperscatter::cuda::{self, Checks, Device, DeviceElement, DevicePointer};
use hyperscatter::half::{bf16, f16};
use hyperscatter::{
    Activation, Batch, Element, Epilogue, Incidence, LayerGradients, Operator, Out, Precision, RowLayout,
    Rows, cpu,
};
use hyperscatter_c::*;
use hyperscatter_emulator::control::install;

use super::operators::{abi, made_for, message, numbers, ok};

const INSTANCES: usize = 5;
const N: usize = 6;
const M: usize = 15;
const INPUTS: usize = 24;
const OUTPUTS: usize = 16;

const OPERATORS: [Operator; 2] = [Operator::Layer, Operator::LayerBackward];

/// The operands of a layer and of its backward, outputs last.
#[derive(Clone, PartialEq, Debug)]
struct Operands<T: Element> {
    /// x, Θ, the residual, ∂y, y, ∂x and the gradient of the residual.
    elements: [Vec<T>; 7],
    /// Weights, a bias, and the gradients of Θ and of both.
    sums: [Vec<T::Acc>; 5],
}

const ELEMENTS: [usize; 7] = {
    let (inputs, outputs) = (INSTANCES * N * INPUTS, INSTANCES * N * OUTPUTS);
    [inputs, OUTPUTS * INPUTS, outputs, outputs, outputs, inputs, outputs]
};
const SUMS: [usize; 5] = [M, OUTPUTS, OUTPUTS * INPUTS, M, OUTPUTS];

impl<T: Element> Operands<T> {
    fn new() -> Self {
        let mut seed = 0;
        let mut next = || {
            seed += 1;
            seed
        };
        Self {
            elements: ELEMENTS.map(|len| numbers(next(), len, -0.4)),
            sums: SUMS.map(|len| numbers(next(), len, 0.1)),
        }
    }
}

/// Rows of vertices.
fn rows<B>(buffer: B, features: usize) -> Rows<B> {
    let layout = RowLayout::contiguous(features).instance_stride(N * features).instances(INSTANCES);
    Rows { buffer, layout }
}

/// The library's own calls on the CPU.
fn own_on_cpu<T: Element>(plan: &cpu::Plan<T>, operands: &mut Operands<T>) {
    let mut workspace = plan.workspace_for(INSTANCES, &OPERATORS).unwrap();
    let [x, theta, residual, grad_y, y, grad_x, grad_residual] = &mut operands.elements;
    let [weights, bias, grad_theta, grad_weights, grad_bias] = &mut operands.sums;
    let epilogue = Epilogue::new(Activation::Relu).bias(&bias[..]);
    let weights = cpu::Weights::shared(&weights[..]);
    let (x, residual, grad_y) = (&x[..], rows(&residual[..], OUTPUTS), rows(&grad_y[..], OUTPUTS));
    let y = Out::Overwrite(rows(&mut y[..], OUTPUTS));
    workspace.layer(rows(x, INPUTS), theta, weights, &epilogue, Some(residual), y).unwrap();
    let gradients = LayerGradients::none()
        .x(Out::Overwrite(rows(&mut grad_x[..], INPUTS)))
        .theta(Out::Accumulate(&mut grad_theta[..]))
        .weights(Out::Overwrite(&mut grad_weights[..]))
        .bias(Out::Overwrite(&mut grad_bias[..]))
        .residual(Out::Overwrite(rows(&mut grad_residual[..], OUTPUTS)));
    workspace.layer_backward(rows(x, INPUTS), theta, weights, &epilogue, grad_y, gradients).unwrap();
}

/// Where operands are.
struct At {
    elements: [u64; 7],
    sums: [u64; 5],
}

/// The same calls on a device.
fn own_on_device<T: DeviceElement>(workspace: &mut cuda::Workspace<T>, stream: &Arc<CudaStream>, at: &At) {
    let element = |i: usize| DevicePointer::<T>::new(at.elements[i], ELEMENTS[i]);
    let sum = |i: usize| DevicePointer::<T::Acc>::new(at.sums[i], SUMS[i]);
    let (epilogue, s) = (Epilogue::new(Activation::Relu).bias(sum(1)), stream.cu_stream());
    let weights = || cuda::raw::Weights::shared(sum(0));
    let (residual, y) = (rows(element(2), OUTPUTS), Out::Overwrite(rows(element(4), OUTPUTS)));
    let gradients = LayerGradients::none()
        .x(Out::Overwrite(rows(element(5), INPUTS)))
        .theta(Out::Accumulate(sum(2)))
        .weights(Out::Overwrite(sum(3)))
        .bias(Out::Overwrite(sum(4)))
        .residual(Out::Overwrite(rows(element(6), OUTPUTS)));
    let (x, theta, grad) = (|| rows(element(0), INPUTS), element(1), rows(element(3), OUTPUTS));
    // SAFETY: operands live until the stream has been waited for.
    unsafe {
        workspace.layer_raw(s, x(), theta, weights(), &epilogue, Some(residual), y).unwrap();
        workspace.layer_backward_raw(s, x(), theta, weights(), &epilogue, grad, gradients).unwrap();
    }
}

/// The calls in C: the status of each.
fn in_c(workspace: *mut hs_workspace, stream: *mut c_void, at: &At) -> [i32; 2] {
    let data = |address: u64| address as usize as *mut c_void;
    let rows = |i: usize, features| hs_rows {
        data: data(at.elements[i]),
        instances: INSTANCES,
        rows: N,
        features,
        row_stride: features,
        instance_stride: N * features,
    };
    let out_rows = |i: usize, features| {
        let hs_rows { instances, rows, row_stride, instance_stride, .. } = rows(i, features);
        let (data, mode) = (data(at.elements[i]), HS_OVERWRITE);
        hs_out_rows { data, instances, rows, features, row_stride, instance_stride, mode }
    };
    let values = |i: usize| hs_values { data: data(at.sums[i]), len: SUMS[i] };
    let out_values = |i: usize, mode| hs_out_values { data: data(at.sums[i]), len: SUMS[i], mode };
    let bias = values(1);
    let epilogue = hs_epilogue { activation: HS_RELU, bias: &bias };
    let weights = hs_weights { values: values(0), windows: HS_WINDOWS_SHARED, table: null() };
    let theta = hs_values { data: data(at.elements[1]), len: ELEMENTS[1] };
    let (x, residual, grad_y) = (rows(0, INPUTS), rows(2, OUTPUTS), rows(3, OUTPUTS));
    let (grad_x, grad_residual) = (out_rows(5, INPUTS), out_rows(6, OUTPUTS));
    let (grad_theta, grad_weights, grad_bias) =
        (out_values(2, HS_ACCUMULATE), out_values(3, HS_OVERWRITE), out_values(4, HS_OVERWRITE));
    let gradients = hs_layer_gradients {
        x: &grad_x,
        theta: &grad_theta,
        weights: &grad_weights,
        bias: &grad_bias,
        residual: &grad_residual,
    };
    let (w, s, y) = (workspace, stream, out_rows(4, OUTPUTS));
    // SAFETY: operands and workspace live, and the stream is waited for.
    unsafe {
        [
            hs_layer(w, s, &x, &theta, &weights, &epilogue, &residual, &y),
            hs_layer_backward(w, s, &x, &theta, &weights, &epilogue, &grad_y, &gradients),
        ]
    }
}

/// Copies of all pairs, or triples, of vertices, and a plan for them; freed in the end.
struct Handles {
    batch: *mut hs_batch,
    plan: *mut hs_plan,
}

impl Handles {
    fn new(n: usize, options: hs_plan_options) -> Self {
        let (mut incidence, mut batch, mut plan) = (null_mut(), null_mut(), null_mut());
        // SAFETY: pointers are to what lives here.
        unsafe {
            ok(hs_incidence_subsets(n, 2, &mut incidence));
            ok(hs_batch_copies(incidence, &mut batch));
            hs_incidence_free(incidence);
            ok(hs_plan_create(batch, &options, &mut plan));
        }
        Self { batch, plan }
    }

    fn workspace(&self) -> *mut hs_workspace {
        let (status, workspace) = made_for(self.plan, INSTANCES, HS_OPERATORS_ALL, HS_SCRATCH_OWNED);
        ok(status);
        workspace
    }

    /// The status of asking for each operator of layers.
    fn has_layers(&self) -> [i32; 2] {
        // SAFETY: the plan lives.
        [HS_LAYER, HS_LAYER_BACKWARD].map(|operator| unsafe { hs_plan_check_operator(self.plan, operator) })
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        // SAFETY: nobody uses them any more.
        unsafe {
            hs_plan_free(self.plan);
            hs_batch_free(self.batch);
        }
    }
}

fn options(element: u32, device: *const hs_device) -> hs_plan_options {
    hs_plan_options {
        abi: abi(),
        device,
        element,
        features: OUTPUTS,
        normalization: HS_NORMALIZATION_ROW,
        weight_use: HS_WEIGHTS_DOCUMENTED,
        checks: HS_CHECKS_OFF,
        paths: null(),
        n_paths: 0,
        inputs: INPUTS,
        precision: HS_PRECISION_THREE_BF16,
    }
}

fn batch() -> Batch {
    Batch::replicate(Incidence::subsets(N, 2).unwrap())
}

fn assert_cpu_has_the_bits_of_the_library<T: DeviceElement>(element: u32) {
    let [mut expected, mut found] = [(); 2].map(|()| Operands::<T>::new());
    let plan = cpu::Plan::<T>::builder(&batch(), OUTPUTS).inputs(INPUTS).build().unwrap();
    own_on_cpu(&plan, &mut expected);
    let handles = Handles::new(N, options(element, null()));
    assert_eq!(handles.has_layers(), [HS_OK; 2]);
    let workspace = handles.workspace();
    let at = At {
        elements: found.elements.each_mut().map(|of| of.as_mut_ptr() as usize as u64),
        sums: found.sums.each_mut().map(|of| of.as_mut_ptr() as usize as u64),
    };
    in_c(workspace, null_mut(), &at).into_iter().for_each(ok);
    assert_eq!(found, expected);
    assert_ne!(found, Operands::new());
    // SAFETY: nobody uses it any more.
    unsafe { hs_workspace_free(workspace) };
}

#[test]
fn layers_with_inputs_of_their_own_have_the_bits_of_the_library_on_the_cpu() {
    assert_cpu_has_the_bits_of_the_library::<f32>(HS_F32);
    assert_cpu_has_the_bits_of_the_library::<f64>(HS_F64);
    assert_cpu_has_the_bits_of_the_library::<f16>(HS_F16);
    assert_cpu_has_the_bits_of_the_library::<bf16>(HS_BF16);
}

/// Runs `f` with the emulated driver's device, as the library and as C have it.
fn on_a_device(f: impl FnOnce(&Arc<CudaStream>, *const hs_device)) {
    let lease = install().unwrap_or_else(|error| panic!("no emulated driver: {error}")).lease();
    let context = CudaContext::new(lease.ordinal()).unwrap();
    let stream = context.new_stream().unwrap();
    let mut device = null_mut();
    // SAFETY: the pointer is to what lives here.
    ok(unsafe { hs_device_open(lease.ordinal() as u32, &mut device) });
    f(&stream, device);
    // SAFETY: nobody uses it any more.
    unsafe { hs_device_free(device) };
    drop((stream, context));
    assert_eq!(lease.take_reports(), Vec::<String>::new());
    assert_eq!(lease.live(), Vec::<String>::new());
}

/// What both ways of calling leave on a device.
fn results_on_a_device<T: DeviceElement<Acc: DeviceRepr + ValidAsZeroBits> + DeviceRepr>(
    stream: &Arc<CudaStream>,
    device: *const hs_device,
    (element, precision): (u32, Precision),
) -> Operands<T> {
    let operands = Operands::<T>::new();
    let run = |call: &mut dyn FnMut(&At)| {
        let elements = operands.elements.each_ref().map(|of| stream.clone_htod(of).unwrap());
        let sums = operands.sums.each_ref().map(|of| stream.clone_htod(of).unwrap());
        let at = At {
            elements: elements.each_ref().map(|of| of.device_ptr(stream).0),
            sums: sums.each_ref().map(|of| of.device_ptr(stream).0),
        };
        stream.synchronize().unwrap();
        call(&at);
        stream.synchronize().unwrap();
        let results = Operands {
            elements: elements.each_ref().map(|of| stream.clone_dtoh(of).unwrap()),
            sums: sums.each_ref().map(|of| stream.clone_dtoh(of).unwrap()),
        };
        stream.synchronize().unwrap();
        results
    };
    let uploaded = Device::from_context(stream.context()).unwrap().upload(&batch()).unwrap();
    let plan = cuda::Plan::<T>::builder(&uploaded, OUTPUTS).inputs(INPUTS).precision(precision);
    let plan = plan.checks(Checks::Off).build().unwrap();
    let mut own = plan.workspace_for(stream, INSTANCES, &OPERATORS).unwrap();
    let expected = run(&mut |at| own_on_device(&mut own, stream, at));
    assert_ne!(expected, operands);

    let number = match precision {
        Precision::Tf32 => HS_PRECISION_TF32,
        _ => HS_PRECISION_THREE_BF16,
    };
    let of_precision = hs_plan_options { precision: number, ..options(element, device) };
    let handles = Handles::new(N, of_precision);
    assert_eq!(handles.has_layers(), [HS_OK; 2]);
    let workspace = handles.workspace();
    let found = run(&mut |at| in_c(workspace, stream.cu_stream().cast(), at).into_iter().for_each(ok));
    // SAFETY: nobody uses it any more.
    unsafe { hs_workspace_free(workspace) };
    assert_eq!(found, expected);
    found
}

#[test]
fn layers_have_the_bits_of_the_library_on_a_device() {
    on_a_device(|stream, device| {
        let [three, tf32] = [Precision::ThreeBf16, Precision::Tf32]
            .map(|precision| results_on_a_device::<f32>(stream, device, (HS_F32, precision)));
        assert_ne!(three, tf32, "the precision makes no difference");
        results_on_a_device::<f16>(stream, device, (HS_F16, Precision::default()));
        results_on_a_device::<bf16>(stream, device, (HS_BF16, Precision::default()));
    });
}

/// Plans without layers say why, before and in calls, and have all else.
#[test]
fn plans_without_layers_say_what_is_in_the_way() {
    on_a_device(|stream, device| {
        let of_f32 = options(HS_F32, device);
        let both = [HS_ERROR_LAYER_UNAVAILABLE; 2];
        let backward_alone = [HS_OK, HS_ERROR_LAYER_UNAVAILABLE];
        for (n, options, expected, value) in [
            (N, options(HS_F64, device), both, 8),
            (17, of_f32, both, 17),
            (N, hs_plan_options { inputs: 257, ..of_f32 }, both, 257),
            (N, hs_plan_options { features: 257, ..of_f32 }, backward_alone, 257),
        ] {
            let handles = Handles::new(n, options);
            assert_eq!(handles.has_layers(), expected);
            let mut error = hs_error_of_this_thread();
            assert_eq!((error.status, error.value), (HS_ERROR_LAYER_UNAVAILABLE, value));
            let workspace = handles.workspace();
            // Nothing is read.
            let place = |i: usize| (i as u64 + 1) << 20;
            let at =
                At { elements: std::array::from_fn(place), sums: std::array::from_fn(|i| place(10 + i)) };
            // Rows of other sizes are refused before.
            if expected == both && n == N {
                let statuses = in_c(workspace, stream.cu_stream().cast(), &at);
                assert_eq!(statuses, both, "{}", message());
                error = hs_error_of_this_thread();
                assert_eq!((error.status, error.value), (HS_ERROR_LAYER_UNAVAILABLE, value));
            }
            // SAFETY: nobody uses it any more.
            unsafe { hs_workspace_free(workspace) };
        }
        // On the CPU there is always one.
        assert_eq!(Handles::new(17, options(HS_F64, null())).has_layers(), [HS_OK; 2]);
        // What is no operator is none.
        let handles = Handles::new(N, options(HS_F32, null()));
        // SAFETY: the plan lives.
        assert_eq!(unsafe { hs_plan_check_operator(handles.plan, 18) }, HS_ERROR_ARGUMENT);
        // SAFETY: null is said to be no plan.
        assert_eq!(unsafe { hs_plan_check_operator(null(), HS_LAYER) }, HS_ERROR_NULL);
    });
}

fn hs_error_of_this_thread() -> hs_error {
    let mut error = std::mem::MaybeUninit::<hs_error>::zeroed();
    // SAFETY: the size is set, and the name is a string of this thread's.
    unsafe {
        (*error.as_mut_ptr()).size = size_of::<hs_error>();
        assert_eq!(hs_last_error(error.as_mut_ptr()), HS_OK);
        let error = error.assume_init();
        assert!(!CStr::from_ptr(error.name).is_empty());
        error
    }
}
