//! The learning curves as an SVG picture.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;

use crate::model::Coupling;
use crate::train::Run;

/// Told apart by readers with any colour vision, and in grey.
fn colour(coupling: Coupling) -> RGBColor {
    match coupling {
        Coupling::None => RGBColor(136, 136, 136),
        Coupling::Frozen => RGBColor(0, 114, 178),
        Coupling::Learned => RGBColor(213, 94, 0),
    }
}

/// The path asked for, or `digits.svg` beside the program. Fails now, before the training, if nothing can be
/// written there.
pub(crate) fn prepare(asked: Option<&Path>) -> Result<PathBuf> {
    let path = match asked {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()
            .context("Where this program lies is unknown: name a --plot.")?
            .with_file_name("digits.svg"),
    };
    let existed = path.exists();
    let opened: std::io::Result<File> =
        OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    opened.map_err(|error| {
        anyhow!(
            "The picture cannot be written to {}: {error}. Name another path with --plot.",
            path.display()
        )
    })?;
    if !existed {
        // Only a trial: an interrupted program leaves no empty picture.
        std::fs::remove_file(&path)?;
    }
    Ok(path)
}

/// Draws test accuracy over epochs, a line for each run.
pub(crate) fn draw(path: &Path, title: &str, runs: &[Run]) -> Result<()> {
    let last_epoch = runs.iter().map(|run| run.curve.len() - 1).max().unwrap_or(0).max(1);
    let area = SVGBackend::new(path, (800, 480)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(0f64..last_epoch as f64, 0f64..100f64)?;
    chart
        .configure_mesh()
        .x_desc("epoch")
        .y_desc("test accuracy of the experts that see the image, %")
        .x_label_formatter(&|epoch| format!("{epoch:.0}"))
        .y_label_formatter(&|accuracy| format!("{accuracy:.0}"))
        .x_labels(last_epoch.min(10) + 1)
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .axis_style(BLACK.mix(0.5))
        .label_style(("sans-serif", 14))
        .draw()?;
    for run in runs {
        let style = colour(run.coupling).stroke_width(2);
        let points = run.curve.iter().enumerate().map(|(epoch, accuracy)| (epoch as f64, accuracy * 100.0));
        chart
            .draw_series(LineSeries::new(points, style))?
            .label(run.coupling.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .legend_area_size(32)
        .label_font(("sans-serif", 14))
        .background_style(WHITE.mix(0.9))
        .margin(10)
        .draw()?;
    area.present().with_context(|| format!("drawing {}", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_cannot_be_written_is_refused_before_training() {
        let path = std::env::temp_dir().join("no-such-folder-for-digits").join("digits.svg");
        let error = prepare(Some(&path)).unwrap_err().to_string();
        assert!(error.starts_with("The picture cannot be written to "), "{error}");
        assert!(error.ends_with("Name another path with --plot."), "{error}");
    }

    #[test]
    fn a_trial_leaves_nothing_behind_and_spares_an_older_picture() {
        let path = std::env::temp_dir().join(format!("digits-{}.svg", std::process::id()));
        prepare(Some(&path)).unwrap();
        assert!(!path.exists());
        std::fs::write(&path, "older").unwrap();
        prepare(Some(&path)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "older");
        std::fs::remove_file(&path).unwrap();
    }
}
