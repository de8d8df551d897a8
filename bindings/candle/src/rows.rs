//! Tensors as the operands of the core: which part of a storage they are, and where their rows lie in it.

use std::ops::Range;

use candle_core::{CpuStorage, Layout, Result, Tensor, WithDType};
use hyperscatter::{Axis, Batch, Buffer, RowLayout, Rows};

use crate::dtype::{is_supported, unsupported_features};
use crate::error::{check_device, from_core};

/// The name of a step's features in messages.
pub(crate) fn features_name(axis: Axis) -> &'static str {
    match axis {
        Axis::Vertex => "x",
        Axis::Hyperedge => "z",
    }
}

/// The rows that one tensor of the batch has along its last dimension but one: those of the topology, or
/// those of all instances of a table.
pub(crate) fn rows_of(batch: &Batch, axis: Axis) -> usize {
    batch.start(axis, batch.n_instances().unwrap_or(1))
}

/// Checks the device, the dtype and the shape of a feature tensor. `features`, where they are given, are the
/// only right number.
pub(crate) fn check_features(
    op: &'static str,
    operand: &'static str,
    batch: &Batch,
    axis: Axis,
    features: Option<usize>,
    tensor: &Tensor,
) -> Result<()> {
    check_device(op, operand, tensor)?;
    if !is_supported(tensor.dtype()) {
        return Err(unsupported_features(op, operand, tensor.dtype()));
    }
    let (rows, name, shape) = (rows_of(batch, axis), axis.plural(), tensor.shape());
    let needed = || {
        let features = features.map_or("features".to_owned(), |features| format!("{features} features"));
        match batch.is_replicated() {
            true => format!("[…, {rows} {name}, {features}] is needed for copies of one topology"),
            false => format!("[{rows} {name}, {features}] is needed for the instances of a table"),
        }
    };
    let (value, found) = match *tensor.dims() {
        [.., value, found] if batch.is_replicated() => (value, found),
        [value, found] => (value, found),
        _ => {
            return Err(candle_core::Error::msg(format!(
                "{op}: {operand} has shape {shape:?}, but {}",
                needed()
            )));
        }
    };
    let mismatch = |error, sentence: String| {
        Err(from_core(op, error, format!("{sentence}: {operand} has shape {shape:?}, but {}", needed())))
    };
    if value != rows {
        let error = hyperscatter::Error::RowsMismatch { operand, value, bound: rows, what: name };
        let sentence = error.to_string();
        return mismatch(error, sentence);
    }
    if let Some(features) = features.filter(|&features| features != found) {
        // The core's sentence is about a plan.
        let sentence = format!("{operand} has {found} features, but lin.weight takes {features}");
        let error = hyperscatter::Error::FeaturesMismatch { operand, value: found, bound: features };
        return mismatch(error, sentence);
    }
    Ok(())
}

/// The tensor itself where its rows can be read in place, and else a contiguous copy.
pub(crate) fn placeable(batch: &Batch, tensor: &Tensor) -> Result<Tensor> {
    match place(batch, tensor.layout()) {
        Some(_) => Ok(tensor.clone()),
        None => tensor.contiguous(),
    }
}

/// The elements of a storage among which the rows lie, and where they lie there. `None` where the features of
/// a row are not contiguous, or the leading dimensions do not collapse into one instance stride.
fn place(batch: &Batch, layout: &Layout) -> Option<(Range<usize>, RowLayout)> {
    let [leading @ .., rows, features] = layout.dims() else { return None };
    let [leading_strides @ .., row_stride, feature_stride] = layout.stride() else { return None };
    let (rows, features) = (*rows, *features);
    let instances: usize = leading.iter().product();
    let start = layout.start_offset();
    if instances == 0 || rows == 0 || features == 0 {
        return Some((start..start, packed(batch, features, instances)));
    }
    if features > 1 && *feature_stride != 1 {
        return None;
    }
    // The stride of a dimension of size 1 means nothing.
    let row_stride = if rows > 1 { *row_stride } else { features };
    let mut collapsed: Option<(usize, usize)> = None;
    for (&size, &stride) in leading.iter().zip(leading_strides).rev().filter(|&(&size, _)| size > 1) {
        collapsed = match collapsed {
            None => Some((size, stride)),
            Some((inner_size, inner)) if stride == inner_size * inner => Some((size * inner_size, inner)),
            Some(_) => return None,
        };
    }
    let instance_stride = collapsed.map_or(rows * row_stride, |(_, stride)| stride);
    let span = (rows - 1) * row_stride + (instances - 1) * instance_stride + features;
    let layout = packed(batch, features, instances).row_stride(row_stride);
    let layout = if batch.is_replicated() { layout.instance_stride(instance_stride) } else { layout };
    Some((start..start + span, layout))
}

/// Rows without gaps. The instances of a table are known to the batch.
fn packed(batch: &Batch, features: usize, instances: usize) -> RowLayout {
    let layout = RowLayout::contiguous(features);
    if batch.is_replicated() { layout.instances(instances) } else { layout }
}

/// The size of a call: the features of a row, and the instances.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) features: usize,
    pub(crate) instances: usize,
}

impl Size {
    /// That of a call with a feature tensor of these dimensions.
    pub(crate) fn of(batch: &Batch, dims: &[usize]) -> Self {
        let (features, leading) = match dims {
            [leading @ .., _, features] => (*features, leading),
            _ => (0, dims),
        };
        Self { features, instances: batch.n_instances().unwrap_or_else(|| leading.iter().product()) }
    }

    /// The rows of a result.
    pub(crate) fn rows<B: Buffer>(self, batch: &Batch, buffer: B) -> Rows<B::View> {
        Rows::new(buffer, packed(batch, self.features, self.instances))
    }
}

/// The rows of a tensor that [`placeable`] let pass.
pub(crate) fn rows<'a, T: WithDType>(
    batch: &Batch,
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<Rows<&'a [T]>> {
    let not_placeable = || candle_core::Error::RequiresContiguous { op: "hyperscatter" };
    let (range, layout) = place(batch, layout).ok_or_else(not_placeable)?;
    Ok(Rows::new(&T::cpu_storage_as_slice(storage)?[range], layout))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use hyperscatter::Incidence;

    fn zeros(shape: &[usize]) -> Tensor {
        Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap()
    }

    fn is_read_in_place(batch: &Batch, tensor: &Tensor) -> bool {
        place(batch, tensor.layout()).is_some()
    }

    #[test]
    fn strided_copies_are_read_in_place_and_only_other_layouts_are_copied() {
        let batch = Batch::replicate(Incidence::subsets(4, 2).unwrap());
        let expert_major = zeros(&[4, 6, 3]).transpose(0, 1).unwrap();
        let head = zeros(&[6, 4, 2, 3]).narrow(2, 1, 1).unwrap().squeeze(2).unwrap();
        let split_copies = zeros(&[4, 2, 3, 5]).permute([1, 2, 0, 3]).unwrap();
        let same_copy = zeros(&[4, 3]).broadcast_left(7).unwrap();
        for tensor in [expert_major, head, split_copies, same_copy] {
            assert!(!tensor.is_contiguous() && is_read_in_place(&batch, &tensor), "{:?}", tensor.layout());
        }
        let feature_major = zeros(&[6, 3, 4]).transpose(1, 2).unwrap();
        let two_copy_strides = zeros(&[3, 2, 4, 5]).transpose(0, 1).unwrap();
        for tensor in [feature_major, two_copy_strides] {
            assert!(!is_read_in_place(&batch, &tensor), "{:?}", tensor.layout());
            assert!(placeable(&batch, &tensor).unwrap().is_contiguous());
        }
    }

    #[test]
    fn the_span_is_exact() {
        let batch = Batch::replicate(Incidence::subsets(4, 2).unwrap());
        let tensor = zeros(&[6, 4, 2, 3]).narrow(2, 1, 1).unwrap().squeeze(2).unwrap();
        let (range, layout) = place(&batch, tensor.layout()).unwrap();
        assert_eq!(range, 3..6 * 4 * 2 * 3);
        assert_eq!(layout, RowLayout::contiguous(3).row_stride(6).instance_stride(24).instances(6));
    }
}
