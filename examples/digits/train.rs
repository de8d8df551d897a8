//! Training: one step, one run, and what is kept of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use candle_core::backprop::GradStore;
use candle_core::{D, Tensor, Var};
use candle_nn::loss::cross_entropy;
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use hyperscatter::Incidence;

use crate::args::{Execution, Settings, WeightKind};
use crate::data::{Batch, CLASSES, Digits};
use crate::model::{Coupling, Model, Parameters};
use crate::progress::Progress;
use crate::weights::{self, SmallestDegree};

/// Raw weights can bring a degree close to zero, and then gradients are huge: their joint norm is cut to
/// this.
const LARGEST_GRADIENT_NORM: f64 = 1.0;

/// Added to the size of a gradient before Adam divides by it. The customary 1e-8 is the size of rounding
/// errors here, which would then move parameters whose true gradient is zero.
const ADAM_EPSILON: f64 = 1e-6;

/// A network with its parameters and optimisers.
pub(crate) struct Trainer {
    pub(crate) model: Model,
    pub(crate) parameters: Parameters,
    network: AdamW,
    hyperedge_weights: Option<AdamW>,
    clips: bool,
}

/// What a step saw before it changed the parameters.
pub(crate) struct Step {
    pub(crate) loss: f32,
    /// Share of right answers for each expert.
    pub(crate) accuracy: Vec<f64>,
}

impl Trainer {
    pub(crate) fn new(
        settings: &Settings,
        incidence: &Incidence,
        coupling: Coupling,
        execution: Execution,
    ) -> Result<Self> {
        let parameters = Parameters::new(settings, incidence.n_hyperedges())?;
        let model = Model::new(settings, incidence, &parameters, coupling, execution)?;
        let adam_w = |vars: Vec<Var>, lr, weight_decay| {
            AdamW::new(vars, ParamsAdamW { lr, weight_decay, eps: ADAM_EPSILON, ..ParamsAdamW::default() })
        };
        let network =
            adam_w(parameters.select(false), settings.learning_rate, ParamsAdamW::default().weight_decay)?;
        // No decay: the scale of the weights cancels out of the layer, only their ratios count.
        let hyperedge_weights = match coupling {
            Coupling::Learned => Some(adam_w(parameters.select(true), settings.weight_learning_rate, 0.0)?),
            Coupling::None | Coupling::Frozen => None,
        };
        Ok(Self { model, parameters, network, hyperedge_weights, clips: settings.weights == WeightKind::Raw })
    }

    /// Forward, backward and one update.
    pub(crate) fn step(&mut self, batch: &Batch) -> Result<Step> {
        let logits = self.model.forward(&batch.parts)?;
        let loss = loss(&logits, &batch.labels)?;
        let mut gradients = loss.backward()?;
        if self.clips {
            clip(&mut gradients, &self.parameters)?;
        }
        self.network.step(&gradients)?;
        if let Some(optimizer) = &mut self.hyperedge_weights {
            optimizer.step(&gradients)?;
        }
        Ok(Step { loss: loss.to_scalar()?, accuracy: accuracy(&logits, &batch.labels)? })
    }

    /// Share of right answers for each expert on the test images.
    fn test(&self, digits: &Digits, epoch: usize) -> Result<Vec<f64>> {
        let batch = digits.test(epoch)?;
        accuracy(&self.model.forward(&batch.parts)?.detach(), &batch.labels)
    }
}

/// Cross entropy, averaged over experts and images.
fn loss(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let experts = logits.dim(0)?;
    let labels = Tensor::from_vec(labels.repeat(experts), experts * labels.len(), logits.device())?;
    Ok(cross_entropy(&logits.reshape(((), CLASSES))?, &labels)?)
}

fn accuracy(logits: &Tensor, labels: &[u32]) -> Result<Vec<f64>> {
    let answers = logits.argmax(D::Minus1)?.to_vec2::<u32>()?;
    let right = |given: Vec<u32>| given.iter().zip(labels).filter(|(answer, label)| answer == label).count();
    Ok(answers.into_iter().map(|given| right(given) as f64 / labels.len() as f64).collect())
}

fn clip(gradients: &mut GradStore, parameters: &Parameters) -> Result<()> {
    let mut squares = 0.0;
    for (_, var) in parameters.iter() {
        if let Some(gradient) = gradients.get(var) {
            squares += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
    }
    let norm = squares.sqrt();
    if norm > LARGEST_GRADIENT_NORM {
        for (_, var) in parameters.iter() {
            if let Some(gradient) = gradients.remove(var) {
                gradients.insert(var, (gradient * (LARGEST_GRADIENT_NORM / norm))?);
            }
        }
    }
    Ok(())
}

/// Mean over `experts`.
pub(crate) fn mean_over(accuracy: &[f64], experts: &[usize]) -> f64 {
    experts.iter().map(|&expert| accuracy[expert]).sum::<f64>() / experts.len() as f64
}

/// One row of the ablation.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) coupling: Coupling,
    /// Mean test accuracy of the experts that see the image: untrained, then after each epoch.
    pub(crate) curve: Vec<f64>,
    /// Training loss of each step.
    pub(crate) losses: Vec<f32>,
    pub(crate) steps_per_epoch: usize,
    /// Norm of the change of all effective hyperedge weights; `None` without coupling.
    pub(crate) weight_change: Option<f64>,
    /// Effective weights of each layer, averaged over the hyperedges with 0, 1, 2, … noisy members.
    pub(crate) mean_weights: Vec<Vec<Option<f64>>>,
    /// Only with raw weights: the smallest |D_v| of any step.
    pub(crate) smallest_degree: Option<SmallestDegree>,
    /// Time spent in training steps.
    pub(crate) training: Duration,
    /// Images that went through training steps.
    pub(crate) images: usize,
    /// Whether all epochs were done.
    pub(crate) finished: bool,
}

/// Trains once from the initial parameters, until the last epoch or until `stop` is set.
pub(crate) fn run(
    settings: &Settings,
    digits: &Digits,
    incidence: &Incidence,
    coupling: Coupling,
    execution: Execution,
    stop: &AtomicBool,
) -> Result<Run> {
    let mut trainer = Trainer::new(settings, incidence, coupling, execution)?;
    let initial = trainer.model.hyperedge_weights()?;
    let watches_degrees = coupling != Coupling::None && settings.weights == WeightKind::Raw;
    let good = digits.good();
    let progress = Progress::new(coupling.name(), settings.epochs, digits.steps_per_epoch());
    let mut run = Run {
        coupling,
        curve: vec![mean_over(&trainer.test(digits, 0)?, &good)],
        losses: Vec::new(),
        steps_per_epoch: digits.steps_per_epoch(),
        weight_change: None,
        mean_weights: Vec::new(),
        smallest_degree: None,
        training: Duration::ZERO,
        images: 0,
        finished: false,
    };
    'training: for epoch in 1..=settings.epochs {
        for batch in digits.epoch(epoch) {
            if stop.load(Ordering::Relaxed) {
                break 'training;
            }
            let batch = batch?;
            if watches_degrees {
                run.watch_degrees(trainer.model.degrees()?);
            }
            let start = Instant::now();
            let step = trainer.step(&batch)?;
            run.training += start.elapsed();
            run.images += batch.labels.len();
            run.losses.push(step.loss);
            progress.step(step.loss, mean_over(&step.accuracy, &good), run.instances_per_second());
        }
        run.curve.push(mean_over(&trainer.test(digits, epoch)?, &good));
        progress.epoch(epoch, &run);
    }
    progress.finish();
    run.finished = run.curve.len() == settings.epochs + 1;
    if coupling != Coupling::None {
        let weights = trainer.model.hyperedge_weights()?;
        run.weight_change = Some(weights::distance(&initial.concat(), &weights.concat()));
        let means =
            weights.iter().map(|layer| weights::mean_by_noisy_members(incidence, layer, digits.noisy()));
        run.mean_weights = means.collect();
    }
    Ok(run)
}

impl Run {
    /// An instance is the hypergraph of one image.
    pub(crate) fn instances_per_second(&self) -> f64 {
        self.images as f64 / self.training.as_secs_f64()
    }

    /// Mean test accuracy after the last finished epoch.
    pub(crate) fn accuracy(&self) -> f64 {
        *self.curve.last().expect("the curve starts before the first epoch")
    }

    /// Mean loss of as many steps as an epoch has, the latest ones.
    pub(crate) fn recent_loss(&self) -> Option<f64> {
        let recent = &self.losses[self.losses.len().saturating_sub(self.steps_per_epoch)..];
        let sum: f64 = recent.iter().map(|&loss| f64::from(loss)).sum();
        (!recent.is_empty()).then(|| sum / recent.len() as f64)
    }

    fn watch_degrees(&mut self, layers: Vec<Vec<f64>>) {
        for (layer, degrees) in layers.into_iter().enumerate() {
            for (expert, degree) in degrees.into_iter().enumerate() {
                if self.smallest_degree.is_none_or(|smallest| degree.abs() < smallest.degree.abs()) {
                    let step = self.losses.len();
                    self.smallest_degree = Some(SmallestDegree { degree, layer, expert, step });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses(settings: &Settings) -> Vec<f32> {
        let incidence = Incidence::subsets(settings.cut.experts, settings.hyperedges.size()).unwrap();
        let digits = Digits::new(settings).unwrap();
        let stop = AtomicBool::new(false);
        run(settings, &digits, &incidence, Coupling::Learned, Execution::Batched, &stop).unwrap().losses
    }

    #[test]
    fn a_seed_fixes_every_loss_to_the_bit_and_another_seed_gives_others() {
        for weights in [WeightKind::Softplus, WeightKind::Raw] {
            let settings = Settings { weights, ..Settings::for_tests() };
            let first = losses(&settings);
            assert_eq!(first.len(), Digits::new(&settings).unwrap().steps_per_epoch());
            assert_eq!(first, losses(&settings));
            assert_ne!(first, losses(&Settings { seed: settings.seed + 1, ..settings }));
        }
    }

    #[test]
    fn frozen_weights_stay_and_learned_weights_move() {
        let settings = Settings::for_tests();
        let incidence = Incidence::subsets(8, 2).unwrap();
        let digits = Digits::new(&settings).unwrap();
        let change = |coupling| {
            let stop = AtomicBool::new(false);
            run(&settings, &digits, &incidence, coupling, Execution::Batched, &stop).unwrap().weight_change
        };
        assert_eq!(change(Coupling::None), None);
        assert_eq!(change(Coupling::Frozen), Some(0.0));
        assert!(change(Coupling::Learned).unwrap() > 0.0);
    }

    #[test]
    fn a_stopped_run_reports_what_it_has() {
        let settings = Settings::for_tests();
        let incidence = Incidence::subsets(8, 2).unwrap();
        let digits = Digits::new(&settings).unwrap();
        let stop = AtomicBool::new(true);
        let run = run(&settings, &digits, &incidence, Coupling::Learned, Execution::Batched, &stop).unwrap();
        assert_eq!((run.finished, run.losses.len(), run.curve.len()), (false, 0, 1));
    }

    #[test]
    fn clipping_leaves_the_direction_and_cuts_the_norm() {
        let settings = Settings { weights: WeightKind::Raw, ..Settings::for_tests() };
        let incidence = Incidence::subsets(8, 2).unwrap();
        let digits = Digits::new(&settings).unwrap();
        let trainer = Trainer::new(&settings, &incidence, Coupling::Learned, Execution::Batched).unwrap();
        let batch = digits.test(0).unwrap();
        let large =
            (loss(&trainer.model.forward(&batch.parts).unwrap(), &batch.labels).unwrap() * 1e4).unwrap();
        let mut gradients = large.backward().unwrap();
        clip(&mut gradients, &trainer.parameters).unwrap();
        let squares = trainer.parameters.iter().map(|(_, var)| {
            gradients.get(var).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()
        });
        assert!((squares.sum::<f32>() - 1.0).abs() < 1e-3);
    }
}
