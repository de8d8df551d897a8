//! The closing tables.

use std::fmt::Write;

use crate::args::{Settings, WeightKind};
use crate::train::Run;

/// A degree this close to zero multiplies messages by ten and more: worth a word.
const SMALL_DEGREE: f64 = 0.1;

/// A share as a percentage.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Columns as wide as their widest cell, the first aligned left, the others right.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell: &String| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let cell = if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
            line.push_str(&cell);
        }
        writeln!(text, "{}", line.trim_end()).expect("a string takes every line");
        if number == 0 {
            let rule = widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1);
            writeln!(text, "{}", "─".repeat(rule)).expect("a string takes every line");
        }
    }
    text
}

fn cells<const N: usize>(row: [&str; N]) -> Vec<String> {
    row.map(str::to_owned).to_vec()
}

/// The ablation, one row for each run, and what there is to say about it.
pub(crate) fn ablation(settings: &Settings, runs: &[Run]) -> String {
    let mut rows =
        vec![cells(["coupling", "epochs", "test accuracy", "‖Δw‖", "loss", "time", "instances/s"])];
    for run in runs {
        rows.push(vec![
            run.coupling.name().to_owned(),
            (run.curve.len() - 1).to_string(),
            percent(run.accuracy()),
            run.weight_change.map_or("–".to_owned(), |change| format!("{change:.2}")),
            run.recent_loss().map_or("–".to_owned(), |loss| format!("{loss:.6}")),
            format!("{:.1} s", run.training.as_secs_f64()),
            if run.images == 0 { "–".to_owned() } else { format!("{:.0}", run.instances_per_second()) },
        ]);
    }
    let mut text = table(&rows);
    text.push_str(
        "\nTest accuracy: mean over the heads of the experts that see the image, after the last epoch.\n",
    );
    text.push_str("Loss: mean over the training steps of the last epoch, noisy experts included.\n");
    text.push_str("Time: training steps only. An instance is the hypergraph of one image.\n");
    if runs.iter().any(|run| !run.finished) {
        text.push_str("Interrupted: not every run had all its epochs.\n");
    }
    if settings.cut.experts == settings.hyperedges.size() {
        text.push_str(
            "With a single hyperedge its weight cancels out: learned and frozen weights are the same.\n",
        );
    }
    text
}

/// Where the learned weights went: their means by the number of noisy members. `None` where nothing was
/// learned.
pub(crate) fn learned_weights(settings: &Settings, run: &Run) -> Option<String> {
    if settings.noisy == 0 || run.losses.is_empty() {
        return None;
    }
    let mut header = vec![format!("mean weight of {}s", settings.hyperedges.name())];
    let members = 0..=settings.hyperedges.size();
    header.extend(members.map(|members| match members {
        0 => "without noisy experts".to_owned(),
        _ => format!("with {members}"),
    }));
    let mut rows = vec![header];
    for (layer, means) in run.mean_weights.iter().enumerate() {
        let mut row = vec![format!("layer {}", layer + 1)];
        row.extend(means.iter().map(|mean| mean.map_or("–".to_owned(), |mean| format!("{mean:.3}"))));
        rows.push(row);
    }
    Some(table(&rows))
}

/// How close to zero the degrees came; `None` where weights cannot be negative.
pub(crate) fn degrees(settings: &Settings, runs: &[Run]) -> Option<String> {
    if settings.weights != WeightKind::Raw {
        return None;
    }
    let mut text = String::new();
    for run in runs {
        if let Some(smallest) = run.smallest_degree {
            let size = smallest.degree.abs();
            let verdict = match size < SMALL_DEGREE {
                true => format!(
                    "below {SMALL_DEGREE}: messages to this expert were multiplied by {:.0}",
                    1.0 / size
                ),
                false => format!("never below {SMALL_DEGREE}"),
            };
            writeln!(
                text,
                "Smallest |D_v| with {}: {size:.2e} (layer {}, expert {}, step {}), {verdict}.",
                run.coupling.name(),
                smallest.layer + 1,
                smallest.expert + 1,
                smallest.step + 1,
            )
            .expect("a string takes every line");
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::Coupling;
    use crate::weights::SmallestDegree;

    fn run(coupling: Coupling, weight_change: Option<f64>) -> Run {
        Run {
            coupling,
            curve: vec![0.1, 0.9],
            losses: vec![9.0, 2.0, 0.25],
            steps_per_epoch: 2,
            weight_change,
            mean_weights: vec![vec![Some(1.5), Some(0.25), None]],
            smallest_degree: None,
            training: Duration::from_secs(2),
            images: 3000,
            finished: true,
        }
    }

    #[test]
    fn the_ablation_is_a_table_with_a_row_for_each_run() {
        let settings = Settings::for_tests();
        let text = ablation(&settings, &[run(Coupling::None, None), run(Coupling::Learned, Some(1.234))]);
        let lines: Vec<&str> = text.lines().take(4).collect();
        assert_eq!(
            lines,
            [
                "coupling         epochs  test accuracy  ‖Δw‖      loss   time  instances/s",
                "──────────────────────────────────────────────────────────────────────────",
                "no coupling           1         90.0 %     –  1.125000  2.0 s         1500",
                "learned weights       1         90.0 %  1.23  1.125000  2.0 s         1500",
            ]
        );
        assert!(!text.contains("Interrupted"));
    }

    #[test]
    fn an_interrupted_run_is_named() {
        let stopped = Run { finished: false, images: 0, losses: Vec::new(), ..run(Coupling::None, None) };
        let text = ablation(&Settings::for_tests(), &[stopped]);
        assert!(text.contains("Interrupted"));
        assert!(!text.contains("NaN"));
    }

    #[test]
    fn the_learned_weights_are_a_table_with_a_row_for_each_layer() {
        let text = learned_weights(&Settings::for_tests(), &run(Coupling::Learned, Some(1.0))).unwrap();
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                "mean weight of pairs  without noisy experts  with 1  with 2",
                "───────────────────────────────────────────────────────────",
                "layer 1                               1.500   0.250       –",
            ]
        );
    }

    #[test]
    fn small_degrees_are_reported_for_raw_weights_only() {
        let smallest = SmallestDegree { degree: -0.002, layer: 1, expert: 3, step: 9 };
        let runs = [Run { smallest_degree: Some(smallest), ..run(Coupling::Learned, Some(1.0)) }];
        let settings = Settings::for_tests();
        assert_eq!(degrees(&settings, &runs), None);
        let text = degrees(&Settings { weights: WeightKind::Raw, ..settings }, &runs).unwrap();
        assert_eq!(
            text,
            "Smallest |D_v| with learned weights: 2.00e-3 (layer 2, expert 4, step 10), below 0.1: messages \
             to this expert were multiplied by 500.\n"
        );
    }
}
