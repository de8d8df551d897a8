//! What can be asked for on the command line, and which requests make no sense.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::{Parser, ValueEnum};

use crate::data::{CUTS, Cut, TRAINING_IMAGES};

/// Eight experts read handwritten digits; a hypergraph over the experts lets them talk.
///
/// Each expert sees only its own part of the image, some see nothing but noise, and each must name the digit
/// alone. Two hypergraph convolutions between the encoders and the heads couple the experts. The program
/// trains three times, without coupling, with frozen and with learned hyperedge weights, and compares.
#[derive(Debug, Parser)]
#[command(name = "digits", version)]
pub(crate) struct Args {
    /// Experts: 2 see halves of the image, 4 quadrants, 8 rows, 16 blocks of 2 × 2 pixels
    #[arg(long, default_value_t = 8)]
    experts: usize,

    /// Which experts a hyperedge joins: all pairs or all triples
    #[arg(long, value_enum, default_value_t = Hyperedges::Pairs)]
    hyperedges: Hyperedges,

    /// How many experts see noise in place of their part [default: three of eight]
    #[arg(long)]
    noisy: Option<usize>,

    /// Standard deviation of the noise; the pixels lie between 0 and 1. The louder the noise, the more there
    /// is to gain from turning it down by learned weights
    #[arg(long, default_value_t = 5.0)]
    noise_level: f64,

    /// What the hyperedge weights are: the softplus of their parameters, never negative, or the parameters
    /// themselves, from a normal distribution, with gradient clipping
    #[arg(long, value_enum, default_value_t = WeightKind::Softplus)]
    weights: WeightKind,

    /// Times each run sees all training images
    #[arg(long, default_value_t = 60)]
    epochs: usize,

    /// Images in one training step
    #[arg(long, default_value_t = 64)]
    batch_size: usize,

    /// Features of each expert between encoder and head
    #[arg(long, default_value_t = 128)]
    width: usize,

    /// Learning rate of all parameters but the hyperedge weights
    #[arg(long, default_value_t = 0.003)]
    learning_rate: f64,

    /// Learning rate of the hyperedge weights
    #[arg(long, default_value_t = 0.03)]
    weight_learning_rate: f64,

    /// Fixes split, noisy experts, noise, initial parameters and batch order: equal seeds give equal losses
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Calls the coupling once for each image rather than once for the batch: the same sums, slower
    #[arg(long, conflicts_with = "compare")]
    sequential: bool,

    /// Trains batched and image by image side by side and compares losses, parameters and speed
    #[arg(long)]
    compare: bool,

    /// Training steps of --compare
    #[arg(long, default_value_t = 50, requires = "compare")]
    steps: usize,

    /// Where to draw the learning curves [default: digits.svg beside the program]
    #[arg(long, value_name = "PATH", conflicts_with = "compare")]
    plot: Option<PathBuf>,
}

/// Choice of hyperedges.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum Hyperedges {
    Pairs,
    Triples,
}

impl Hyperedges {
    /// Experts in one hyperedge.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::Pairs => 2,
            Self::Triples => 3,
        }
    }

    /// What one is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pairs => "pair",
            Self::Triples => "triple",
        }
    }
}

/// Choice of hyperedge weights.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum WeightKind {
    Softplus,
    Raw,
}

/// What to do, checked.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) cut: &'static Cut,
    pub(crate) hyperedges: Hyperedges,
    pub(crate) noisy: usize,
    pub(crate) noise_level: f64,
    pub(crate) weights: WeightKind,
    pub(crate) epochs: usize,
    pub(crate) batch_size: usize,
    pub(crate) width: usize,
    pub(crate) learning_rate: f64,
    pub(crate) weight_learning_rate: f64,
    pub(crate) seed: u64,
    pub(crate) task: Task,
}

/// The program's two jobs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Task {
    /// Train three times, tabulate and draw.
    Ablation { execution: Execution, plot: Option<PathBuf> },
    /// Train batched and sequentially and compare.
    Comparison { steps: usize },
}

/// How the coupling is called.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Execution {
    /// Once for the batch.
    Batched,
    /// Once for each image.
    Sequential,
}

impl Args {
    /// Refuses, in a sentence, what cannot work.
    pub(crate) fn check(self) -> Result<Settings> {
        let Some(cut) = Cut::find(self.experts) else {
            let offered: Vec<_> = CUTS.iter().map(|cut| format!("{} ({})", cut.experts, cut.name)).collect();
            bail!(
                "The image cannot be shared out to {} experts: --experts takes {}.",
                self.experts,
                offered.join(", ")
            );
        };
        ensure!(
            self.hyperedges.size() <= cut.experts,
            "A triple joins three experts and there are only {}: choose --hyperedges pairs or more \
             --experts.",
            cut.experts
        );
        let noisy = self.noisy.unwrap_or(cut.experts * 3 / 8);
        ensure!(
            noisy < cut.experts,
            "With {noisy} noisy experts out of {} nobody sees the image: --noisy must be at most {}.",
            cut.experts,
            cut.experts - 1
        );
        ensure!(
            self.noise_level.is_finite() && self.noise_level >= 0.0,
            "A standard deviation cannot be {}: --noise-level must be a number from 0 up.",
            self.noise_level
        );
        at_least_one("--epochs", self.epochs)?;
        at_least_one("--batch-size", self.batch_size)?;
        at_least_one("--width", self.width)?;
        at_least_one("--steps", self.steps)?;
        ensure!(
            self.batch_size <= TRAINING_IMAGES,
            "There are {TRAINING_IMAGES} training images: --batch-size cannot be {}.",
            self.batch_size
        );
        positive("--learning-rate", self.learning_rate)?;
        positive("--weight-learning-rate", self.weight_learning_rate)?;
        let execution = if self.sequential { Execution::Sequential } else { Execution::Batched };
        let task = match self.compare {
            true => Task::Comparison { steps: self.steps },
            false => Task::Ablation { execution, plot: self.plot },
        };
        Ok(Settings {
            cut,
            hyperedges: self.hyperedges,
            noisy,
            noise_level: self.noise_level,
            weights: self.weights,
            epochs: self.epochs,
            batch_size: self.batch_size,
            width: self.width,
            learning_rate: self.learning_rate,
            weight_learning_rate: self.weight_learning_rate,
            seed: self.seed,
            task,
        })
    }
}

fn at_least_one(option: &str, value: usize) -> Result<()> {
    ensure!(value > 0, "Nothing can be trained with {option} 0: it must be at least 1.");
    Ok(())
}

fn positive(option: &str, value: f64) -> Result<()> {
    ensure!(value.is_finite() && value > 0.0, "{option} must be a number above 0, not {value}.");
    Ok(())
}

#[cfg(test)]
impl Settings {
    /// The defaults, but small.
    pub(crate) fn for_tests() -> Self {
        let args = Args::parse_from(["digits", "--width", "8", "--epochs", "1", "--seed", "5"]);
        args.check().expect("valid")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arguments: &str) -> Result<Settings> {
        Args::try_parse_from(["digits"].into_iter().chain(arguments.split_whitespace()))?.check()
    }

    #[test]
    fn what_cannot_work_is_refused_in_a_sentence() {
        for (arguments, sentence) in [
            (
                "--experts 5",
                "The image cannot be shared out to 5 experts: --experts takes 2 (halves), 4 (quadrants), 8 \
                 (rows), 16 (blocks).",
            ),
            (
                "--experts 2 --hyperedges triples",
                "A triple joins three experts and there are only 2: choose --hyperedges pairs or more \
                 --experts.",
            ),
            (
                "--experts 4 --noisy 4",
                "With 4 noisy experts out of 4 nobody sees the image: --noisy must be at most 3.",
            ),
            ("--epochs 0", "Nothing can be trained with --epochs 0: it must be at least 1."),
            ("--batch-size 0", "Nothing can be trained with --batch-size 0: it must be at least 1."),
            ("--width 0", "Nothing can be trained with --width 0: it must be at least 1."),
            ("--compare --steps 0", "Nothing can be trained with --steps 0: it must be at least 1."),
            ("--batch-size 2000", "There are 1437 training images: --batch-size cannot be 2000."),
            ("--learning-rate 0", "--learning-rate must be a number above 0, not 0."),
            ("--weight-learning-rate NaN", "--weight-learning-rate must be a number above 0, not NaN."),
            (
                "--noise-level=-1",
                "A standard deviation cannot be -1: --noise-level must be a number from 0 up.",
            ),
        ] {
            assert_eq!(check(arguments).unwrap_err().to_string(), sentence, "{arguments}");
        }
    }

    #[test]
    fn options_that_exclude_each_other_are_refused() {
        for arguments in ["--sequential --compare", "--steps 3", "--compare --plot x.svg"] {
            assert!(check(arguments).is_err(), "{arguments}");
        }
    }

    #[test]
    fn three_experts_of_eight_are_noisy_by_default() {
        for (experts, noisy) in [(2, 0), (4, 1), (8, 3), (16, 6)] {
            assert_eq!(check(&format!("--experts {experts}")).unwrap().noisy, noisy);
        }
    }
}
