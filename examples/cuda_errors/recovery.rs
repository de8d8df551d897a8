//! A wrong index on the device, and how a program goes on.

use std::error::Error as StdError;

use hyperscatter::cuda::cudarc::driver::CudaSlice;
use hyperscatter::cuda::{Checks, Device, DeviceBatch, Plan, Table, Workspace};
use hyperscatter::{Batch, Error, Incidence, Out, Rows, Weights, cpu};

const TOKENS: usize = 3;
const EXPERTS: usize = 4;
const FEATURES: usize = 8;

/// The operands, on the host.
struct Inputs {
    x: Vec<f32>,
    weights: Vec<f32>,
}

/// A plan with checked kernels, and its workspace.
fn workspace(device: &Device, batch: &DeviceBatch) -> hyperscatter::Result<Workspace<f32>> {
    let plan = Plan::builder(batch, FEATURES).checks(Checks::On).build()?;
    plan.workspace(&device.context().default_stream(), TOKENS)
}

/// Runs a convolution, and waits for its check.
fn conv(
    workspace: &mut Workspace<f32>,
    inputs: &Inputs,
    y: &mut CudaSlice<f32>,
) -> Result<hyperscatter::Result<()>, Box<dyn StdError>> {
    let stream = workspace.stream().clone();
    let (x, weights) = (stream.clone_htod(&inputs.x)?, stream.clone_htod(&inputs.weights)?);
    let to = Out::Overwrite(Rows::contiguous(y, FEATURES));
    workspace.conv(Rows::contiguous(&x, FEATURES), Weights::shared(&weights), to)?;
    Ok(workspace.check())
}

/// The same on the CPU.
fn expected(batch: &Batch, Inputs { x, weights }: &Inputs) -> hyperscatter::Result<Vec<f32>> {
    let mut y = vec![0.0; x.len()];
    let plan = cpu::Plan::<f32>::builder(batch, FEATURES).build()?;
    let to = Out::Overwrite(Rows::contiguous(&mut y, FEATURES));
    plan.workspace(TOKENS)?.conv(Rows::contiguous(x, FEATURES), Weights::shared(weights), to)?;
    Ok(y)
}

pub fn show(device: &Device) -> Result<(), Box<dyn StdError>> {
    let batch = Batch::replicate(Incidence::subsets(EXPERTS, 2)?);
    let inputs = Inputs {
        x: (0..TOKENS * EXPERTS * FEATURES).map(|i| (i % 23) as f32 / 10.0 - 1.0).collect(),
        weights: vec![0.5, 1.0, 1.5, 2.0, 2.5, 3.0],
    };
    let stream = device.context().default_stream();
    let mut y = stream.alloc_zeros::<f32>(inputs.x.len())?;

    let mut broken = device.upload(&batch)?;
    // The lists of the pairs of experts: of the first with itself its 3 hyperedges, then of the first two
    // theirs.
    let (table, position, n) = (Table::PairLists, 7, inputs.weights.len());
    broken.overwrite_table(table, position, &[9])?;
    println!("{}[{position}] on the device is now hyperedge 9, of {n} hyperedges.", table.name());
    match Plan::<f32>::builder(&broken, FEATURES).checks(Checks::Off).build() {
        Err(Error::UncheckedTables) => {
            println!("Without checks there is no plan for it: {}.", Error::UncheckedTables)
        }
        other => return Err(format!("a plan without checks on broken tables: {other:?}").into()),
    }
    let mut workspace_of_broken = workspace(device, &broken)?;
    match conv(&mut workspace_of_broken, &inputs, &mut y)? {
        Err(error @ Error::IndexOutOfBounds { .. }) => println!("With checks, `check` says: {error}."),
        other => return Err(format!("a wrong index was not reported: {other:?}").into()),
    }

    let right = device.upload(&batch)?;
    conv(&mut workspace(device, &right)?, &inputs, &mut y)??;
    let y = stream.clone_dtoh(&y)?;
    stream.synchronize()?;
    let expected = expected(&batch, &inputs)?;
    println!("The right tables, in the same context and into the same memory, give for the first expert:");
    println!("  GPU {:?}", &y[..FEATURES]);
    println!("  CPU {:?}", &expected[..FEATURES]);
    if y.iter().map(|y| y.to_bits()).ne(expected.iter().map(|y| y.to_bits())) {
        return Err("the results of GPU and CPU differ".into());
    }
    println!("All {} numbers have the same bits on both.", y.len());
    Ok(())
}
