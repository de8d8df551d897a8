//! Feature operands: where in a buffer the rows of a batch lie.

use crate::axis::Axis;
use crate::batch::Batch;
use crate::buffer::Buffer;
use crate::error::{Error, Result};

/// Where the rows of an operand lie. Strides are in elements.
///
/// The F elements of a row are contiguous. A row stride places the rows of an instance, and an instance
/// stride places the instances. So expert-major `[E, T, F]` and multi-head `[T, E, H, d]` tensors are read
/// and written in place:
///
/// | tensor | layout of `E` vertices and `T` instances |
/// |---|---|
/// | `[T, E, F]` | `contiguous(F)` |
/// | `[E, T, F]` | `contiguous(F).row_stride(T * F).instance_stride(F).instances(T)` |
/// | head `h` of `[T, E, H, d]` | `contiguous(d).row_stride(H * d)`, the buffer from element `h * d` on |
/// | `[T, E_max, F]`, padded | `contiguous(F).instance_stride(E_max * F).instances(T)` |
///
/// Elements that no row is placed on (gaps between rows, padding, what follows the last row) are not read. In
/// an output they stay as they are, also under [`Out::Overwrite`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RowLayout {
    features: usize,
    row_stride: usize,
    instance_stride: Option<usize>,
    instances: Option<usize>,
}

impl RowLayout {
    /// Rows of `features` elements without gaps, those of an instance behind those of the instance before it.
    pub fn contiguous(features: usize) -> Self {
        Self { features, row_stride: features, instance_stride: None, instances: None }
    }

    /// The distance from one vertex (or hyperedge) of an instance to the next.
    pub fn row_stride(self, row_stride: usize) -> Self {
        Self { row_stride, ..self }
    }

    /// The distance from the first row of an instance to the first row of the next. Without it, instances are
    /// packed: all rows of the batch lie at the row stride. With it, every instance needs room for as many
    /// rows as the largest topology has.
    pub fn instance_stride(self, instance_stride: usize) -> Self {
        Self { instance_stride: Some(instance_stride), ..self }
    }

    /// The number of instances. Without it, the buffer's length tells the number of copies of a replicated
    /// batch, if rows are packed. It is enough that one operand of a call tells the number.
    pub fn instances(self, instances: usize) -> Self {
        Self { instances: Some(instances), ..self }
    }

    /// The number of elements of a row, F.
    pub fn features(&self) -> usize {
        self.features
    }
}

/// A feature operand: a buffer, and the layout of its rows. `B` is `&[T]` or `&mut [T]` for the CPU
/// operators, and a `CudaView` or `CudaViewMut` for those on a GPU. The constructors take any [`Buffer`]:
///
/// ```
/// # use hyperscatter::Rows;
/// let (x, mut y) = (vec![1.0f32; 12], [0.0f32; 12]);
/// let (x, y): (Rows<&[f32]>, Rows<&mut [f32]>) = (Rows::contiguous(&x, 4), Rows::contiguous(&mut y, 4));
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Rows<B> {
    /// The elements.
    pub buffer: B,
    /// Where the rows lie.
    pub layout: RowLayout,
}

impl<B> Rows<B> {
    /// Rows at the places that `layout` gives.
    pub fn new(buffer: impl Buffer<View = B>, layout: RowLayout) -> Self {
        Self { buffer: buffer.view(), layout }
    }

    /// Rows of `features` elements without gaps: `[rows, F]`.
    pub fn contiguous(buffer: impl Buffer<View = B>, features: usize) -> Self {
        Self::new(buffer, RowLayout::contiguous(features))
    }
}

/// What happens to an output.
///
/// Only the rows of the call's instances are written. Elements that the [`RowLayout`] places no row on stay
/// as they are: padding that must be zero has to be made so by the caller. A gradient of weights or scales
/// has no such gaps: under `Overwrite`, what no window covers becomes 0.
///
/// This list is complete: who hands outputs on has to say what becomes of each.
#[derive(Debug)]
pub enum Out<B> {
    /// The result replaces what the rows held; nothing of that is read.
    Overwrite(B),
    /// The result is added to what the rows hold.
    Accumulate(B),
    /// The result is not wanted; what only it needs is not computed.
    Skip,
}

impl<B> Out<B> {
    /// Whether the result is wanted.
    pub fn is_wanted(&self) -> bool {
        !matches!(self, Self::Skip)
    }

    /// The buffer, if there is one, and whether results are added to it.
    pub(crate) fn as_parts(&mut self) -> Option<(&mut B, bool)> {
        match self {
            Self::Overwrite(buffer) => Some((buffer, false)),
            Self::Accumulate(buffer) => Some((buffer, true)),
            Self::Skip => None,
        }
    }
}

/// Which of a plan's numbers of features the rows of an operand have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Features,
    /// Those of a layer's x and of its gradient.
    Inputs,
}

/// A plan's numbers of features.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Widths {
    pub(crate) features: usize,
    pub(crate) inputs: usize,
}

impl Widths {
    pub(crate) fn of(self, width: Width) -> usize {
        match width {
            Width::Features => self.features,
            Width::Inputs => self.inputs,
        }
    }
}

/// One operand of a call, before its number of instances is known.
#[derive(Clone, Copy)]
pub(crate) struct Operand {
    pub(crate) name: &'static str,
    pub(crate) axis: Axis,
    /// What its layout must have.
    pub(crate) width: Width,
    pub(crate) layout: RowLayout,
    pub(crate) len: usize,
}

/// Where the rows of one operand lie, checked against its length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    pub(crate) features: usize,
    row_stride: usize,
    /// `None`: packed, by the batch's starts of `axis`.
    instance_stride: Option<usize>,
    axis: Axis,
}

impl Placement {
    /// A row of `features` elements for each instance, without gaps, whichever of its rows is meant.
    #[cfg(feature = "cuda")]
    pub(crate) fn of_instances(features: usize) -> Self {
        Self { features, row_stride: 0, instance_stride: Some(features), axis: Axis::Vertex }
    }

    /// The position of row 0 of `instance`. The other rows follow at [`row_stride`](Self::row_stride).
    #[inline]
    pub(crate) fn base(&self, batch: &Batch, instance: usize) -> usize {
        match self.instance_stride {
            Some(stride) => instance * stride,
            None => batch.start(self.axis, instance) * self.row_stride,
        }
    }

    /// The elements of the rows of so many instances, without what lies between them.
    pub(crate) fn elements(&self, batch: &Batch, instances: usize) -> usize {
        batch.start(self.axis, instances).saturating_mul(self.features)
    }

    #[inline]
    pub(crate) fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// The distance between instances; `None` where the batch's starts place them.
    #[cfg(feature = "cuda")]
    pub(crate) fn instance_stride(&self) -> Option<usize> {
        self.instance_stride
    }
}

impl Operand {
    /// The number of instances that this operand tells: given, or from its length. `None` where it tells
    /// nothing.
    fn instances(&self, batch: &Batch) -> Result<Option<usize>> {
        let RowLayout { features, row_stride, instance_stride, instances } = self.layout;
        if instances.is_some() {
            return Ok(instances);
        }
        if let Some(instances) = batch.n_instances() {
            return Ok(Some(instances));
        }
        let per_instance = batch.largest(self.axis);
        if instance_stride.is_some() || features == 0 || row_stride == 0 || per_instance == 0 {
            return Ok(None);
        }
        let operand = self.name;
        let rows = match self.len {
            len if row_stride == features && !len.is_multiple_of(features) => None,
            0 => Some(0),
            len => len.checked_sub(features).map(|rest| rest / row_stride + 1),
        };
        let rows = rows.ok_or(Error::PartialRow { operand, value: self.len, bound: features })?;
        if !rows.is_multiple_of(per_instance) {
            let what = self.axis.plural();
            return Err(Error::PartialInstance { operand, value: rows, bound: per_instance, what });
        }
        Ok(Some(rows / per_instance))
    }

    /// Checks that all rows of `instances` instances lie within the operand, and, where `written`, that they
    /// are disjoint.
    pub(crate) fn place(&self, batch: &Batch, instances: usize, written: bool) -> Result<Placement> {
        let RowLayout { features, row_stride, instance_stride, instances: given } = self.layout;
        let axis = self.axis;
        // (count, stride) of the rows within an instance, and of the instances
        let (rows, outer) = match instance_stride {
            Some(stride) => (batch.largest(axis), (instances, stride)),
            None => (batch.total(axis, instances)?, (1, 0)),
        };
        let used = rows > 0 && outer.0 > 0 && features > 0;
        let last = |count: usize, stride: usize| count.saturating_sub(1) as u128 * stride as u128;
        let span =
            last(rows, row_stride).saturating_add(last(outer.0, outer.1)).saturating_add(features as u128);
        let span = if used { span } else { 0 };
        if instance_stride.is_none() && row_stride == features && given.is_none() {
            self.check_contiguous(rows)?;
        }
        if span > self.len as u128 {
            return Err(Error::Stride {
                operand: self.name,
                instances,
                rows,
                row_stride,
                instance_stride,
                value: span,
                bound: self.len,
            });
        }
        if written && used {
            self.check_disjoint((rows, row_stride), outer)?;
        }
        if !used {
            // Nothing bounds these strides, and nothing is read or written.
            return Ok(Placement { features, row_stride: 0, instance_stride: Some(0), axis });
        }
        // A replicated batch has no starts to look up.
        let stride =
            instance_stride.or(batch.is_replicated().then(|| batch.largest(axis).saturating_mul(row_stride)));
        Ok(Placement { features, row_stride, instance_stride: stride, axis })
    }

    /// Checks that the operand is `bound` rows without gaps, and nothing else.
    fn check_contiguous(&self, bound: usize) -> Result<()> {
        let (operand, features) = (self.name, self.layout.features);
        if (self.len as u128) == bound as u128 * features as u128 {
            return Ok(());
        }
        match self.len.checked_rem(features) {
            Some(0) => {
                let (value, what) = (self.len / features, self.axis.plural());
                Err(Error::RowsMismatch { operand, value, bound, what })
            }
            _ => Err(Error::PartialRow { operand, value: self.len, bound: features }),
        }
    }

    /// Rows are disjoint where the smaller stride steps over a row and the larger over all that the smaller
    /// spans.
    fn check_disjoint(&self, rows: (usize, usize), instances: (usize, usize)) -> Result<()> {
        let mut steps = [("row", rows), ("instance", instances)];
        steps.sort_by_key(|&(_, (_, stride))| stride);
        let mut span = self.layout.features as u128;
        for (what, (count, stride)) in steps {
            if count <= 1 {
                continue;
            }
            if (stride as u128) < span {
                return Err(Error::Overlap { operand: self.name, what, value: stride, bound: span });
            }
            span = span.saturating_add((count - 1) as u128 * stride as u128);
        }
        Ok(())
    }
}

/// The number of instances of a call, which every operand that tells it must agree on; the first is named
/// otherwise. Where none does, `others` may tell it. Also checks that each operand has as many features as
/// the plan has for it.
pub(crate) fn agree_on_instances<'a>(
    batch: &Batch,
    widths: Widths,
    operands: impl Iterator<Item = &'a Operand> + Clone,
    others: impl FnOnce() -> Result<Option<(usize, &'static str)>>,
) -> Result<usize> {
    let mut agreed = batch.n_instances().map(|instances| (instances, "the batch"));
    for operand in operands.clone() {
        let name = operand.name;
        let (value, bound) = (operand.layout.features, widths.of(operand.width));
        if value != bound {
            return Err(Error::FeaturesMismatch { operand: name, value, bound });
        }
        match (agreed, operand.instances(batch)?) {
            (Some((bound, bound_of)), Some(value)) if value != bound => {
                return Err(Error::InstancesMismatch { operand: name, value, bound, bound_of });
            }
            (None, Some(told)) => agreed = Some((told, name)),
            _ => {}
        }
    }
    if agreed.is_none() {
        agreed = others()?;
    }
    match (agreed, operands.clone().find(|o| o.len > 0)) {
        (Some((instances, _)), _) => Ok(instances),
        (None, Some(x)) => Err(Error::UnknownInstances { operand: x.name }),
        // Nothing tells the number and nothing has elements: there is nothing to do.
        (None, None) => Ok(0),
    }
}
