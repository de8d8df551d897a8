//! How far a run has come: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use crate::report::percent;
use crate::train::Run;

/// Lines of a run when there is no terminal to draw a bar on.
const LINES: usize = 4;

/// Progress of one run, on the standard error.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    name: &'static str,
    epochs: usize,
}

impl Progress {
    pub(crate) fn new(name: &'static str, epochs: usize, steps_per_epoch: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix:16} {wide_bar} {pos}/{len} steps  {msg}");
            let bar = ProgressBar::new((epochs * steps_per_epoch) as u64);
            bar.with_style(style.expect("the template is valid")).with_prefix(name)
        });
        Self { bar, name, epochs }
    }

    /// After each step.
    pub(crate) fn step(&self, loss: f32, accuracy: f64, instances_per_second: f64) {
        if let Some(bar) = &self.bar {
            let accuracy = percent(accuracy);
            bar.set_message(format!(
                "loss {loss:.3}  accuracy {accuracy}  {instances_per_second:.0} instances/s"
            ));
            bar.inc(1);
        }
    }

    /// After each epoch.
    pub(crate) fn epoch(&self, epoch: usize, run: &Run) {
        let every = self.epochs.div_ceil(LINES);
        if self.bar.is_none() && (epoch.is_multiple_of(every) || epoch == self.epochs) {
            eprintln!(
                "{}: epoch {epoch} of {}, loss {:.3}, test accuracy {}, {:.0} instances/s",
                self.name,
                self.epochs,
                run.recent_loss().unwrap_or(f64::NAN),
                percent(run.accuracy()),
                run.instances_per_second(),
            );
        }
    }

    /// After the last step; leaves the bar where it is.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}
