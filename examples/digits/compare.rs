//! `--compare`: the same training with the coupling called once for a batch and once for each image.
//!
//! Both trainers see the same batches and start each step from the same parameters, so losses and parameters
//! may differ by rounding only: the gradients of shared parameters are summed in another order. (Left to
//! themselves, the two may part: Adam divides a gradient by its own size, which makes a visible step of a
//! rounding error where the gradient is next to nothing. The losses of one step are equal to the bit, as the
//! coupling's outputs are.)

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use candle_core::{DType, Device, Var};
use hyperscatter::Incidence;

use crate::args::{Execution, Settings};
use crate::data::Digits;
use crate::model::{Coupling, LAYERS};
use crate::train::Trainer;

/// Largest accepted difference of a loss.
const LOSS_TOLERANCE: f64 = 1e-5;
/// Largest accepted difference of a parameter: a sixtieth of the default step. Adam divides a gradient by its
/// own size, which magnifies the rounding error of a gradient that is almost zero; 7e-6 was seen.
const PARAMETER_TOLERANCE: f64 = 5e-5;
/// Timed passes through the coupling alone.
const PASSES: usize = 10;

/// What the comparison found.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) steps: usize,
    pub(crate) loss_difference: f64,
    pub(crate) parameter_difference: f64,
    /// The parameter with the largest difference.
    pub(crate) parameter: String,
    /// Training steps: batched, sequential.
    pub(crate) step_time: [Duration; 2],
    /// Coupling layers alone, forward and backward: batched, sequential.
    pub(crate) coupling_time: [Duration; 2],
}

/// Trains both ways for `steps` steps, or until `stop` is set.
pub(crate) fn compare(
    settings: &Settings,
    digits: &Digits,
    incidence: &Incidence,
    steps: usize,
    stop: &AtomicBool,
) -> Result<Comparison> {
    let trainer = |execution| Trainer::new(settings, incidence, Coupling::Learned, execution);
    let mut trainers = [trainer(Execution::Batched)?, trainer(Execution::Sequential)?];
    let mut found = Comparison {
        steps: 0,
        loss_difference: 0.0,
        parameter_difference: 0.0,
        parameter: String::new(),
        step_time: [Duration::ZERO; 2],
        coupling_time: [Duration::ZERO; 2],
    };
    for batch in (1..).flat_map(|epoch| digits.epoch(epoch)).take(steps) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let batch = batch?;
        let mut losses = [0.0; 2];
        for (i, trainer) in trainers.iter_mut().enumerate() {
            let start = Instant::now();
            losses[i] = f64::from(trainer.step(&batch)?.loss);
            found.step_time[i] += start.elapsed();
        }
        found.steps += 1;
        let difference = (losses[0] - losses[1]).abs();
        if exceeds(difference, found.loss_difference) {
            found.loss_difference = difference;
        }
        let [batched, sequential] = &trainers;
        for ((name, a), (_, b)) in batched.parameters.iter().zip(sequential.parameters.iter()) {
            let difference = (a.as_tensor() - b.as_tensor())?.abs()?.max_all()?.to_scalar::<f32>()?.into();
            if exceeds(difference, found.parameter_difference) || found.parameter.is_empty() {
                (found.parameter_difference, found.parameter) = (difference, name.to_owned());
            }
            b.set(a)?;
        }
    }
    let shape = (settings.cut.experts, settings.batch_size, settings.width);
    // A variable, as features have a gradient in training too.
    let features = Var::ones(shape, DType::F32, &Device::Cpu)?;
    for (i, trainer) in trainers.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        for _ in 0..PASSES {
            let start = Instant::now();
            trainer.model.couple(&features.transpose(0, 1)?)?.sum_all()?.backward()?;
            found.coupling_time[i] += start.elapsed();
        }
    }
    Ok(found)
}

/// Whether `difference` takes the place of the largest one so far. NaN is the largest of all and stays.
fn exceeds(difference: f64, largest: f64) -> bool {
    !largest.is_nan() && (difference.is_nan() || difference > largest)
}

impl Comparison {
    /// Whether the differences are rounding.
    pub(crate) fn agrees(&self) -> bool {
        self.loss_difference <= LOSS_TOLERANCE && self.parameter_difference <= PARAMETER_TOLERANCE
    }

    /// The findings in lines.
    pub(crate) fn report(&self, settings: &Settings) -> String {
        if self.steps == 0 {
            return "Stopped before the first step: there is nothing to compare.\n".to_owned();
        }
        let milliseconds = |time: Duration, count: usize| time.as_secs_f64() * 1e3 / count as f64;
        let line = |what: &str, [batched, sequential]: [Duration; 2], count| {
            if sequential.is_zero() {
                return format!("{what}: not measured, stopped before\n");
            }
            format!(
                "{what}: {:.2} ms batched, {:.2} ms image by image, {:.1} times as long\n",
                milliseconds(batched, count),
                milliseconds(sequential, count),
                sequential.as_secs_f64() / batched.as_secs_f64()
            )
        };
        let verdict = if self.agrees() { "Both ways agree to rounding." } else { "The two ways DISAGREE." };
        format!(
            "{} steps of {} images, each step both ways from the same parameters\n\
             largest difference of a loss: {:.1e} (accepted: {LOSS_TOLERANCE:.0e})\n\
             largest difference of a parameter: {:.1e} in {} (accepted: {PARAMETER_TOLERANCE:.0e})\n\
             {}{}{verdict}\n",
            self.steps,
            settings.batch_size,
            self.loss_difference,
            self.parameter_difference,
            self.parameter,
            line("a training step", self.step_time, self.steps),
            line(
                &format!("the {LAYERS} coupling layers alone, forward and backward"),
                self.coupling_time,
                PASSES
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::WeightKind;

    #[test]
    fn batched_and_image_by_image_agree() {
        for (weights, size) in [(WeightKind::Softplus, 2), (WeightKind::Raw, 3)] {
            let settings = Settings { weights, batch_size: 16, ..Settings::for_tests() };
            let incidence = Incidence::subsets(settings.cut.experts, size).unwrap();
            let digits = Digits::new(&settings).unwrap();
            let found = compare(&settings, &digits, &incidence, 5, &AtomicBool::new(false)).unwrap();
            assert_eq!(found.steps, 5);
            assert!(found.agrees(), "{found:?}");
        }
    }

    #[test]
    fn a_difference_beyond_rounding_or_a_nan_is_no_agreement() {
        let found = |loss_difference, parameter_difference| Comparison {
            steps: 1,
            loss_difference,
            parameter_difference,
            parameter: String::new(),
            step_time: [Duration::ZERO; 2],
            coupling_time: [Duration::ZERO; 2],
        };
        assert!(found(0.0, 0.0).agrees());
        assert!(!found(0.01, 0.0).agrees());
        assert!(!found(0.0, 0.01).agrees());
        assert!(!found(f64::NAN, 0.0).agrees());
        assert!(exceeds(f64::NAN, 1.0) && !exceeds(2.0, f64::NAN) && exceeds(2.0, 1.0) && !exceeds(1.0, 1.0));
    }
}
