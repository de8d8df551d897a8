//! Learnable hyperedge weights at work: experts that each see a part of a handwritten digit, coupled by a
//! hypergraph convolution.
//!
//! `cargo run --release --example digits` trains three times (no coupling, frozen weights, learned weights),
//! prints the comparison and draws the learning curves; `-- --help` lists what can be changed.

#![forbid(unsafe_code)]

mod args;
mod compare;
mod data;
mod model;
mod plot;
mod progress;
mod random;
mod report;
mod train;
mod weights;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use clap::Parser;
use hyperscatter::Incidence;

use crate::args::{Args, Execution, Settings, Task};
use crate::data::{Digits, TRAINING_IMAGES};
use crate::model::{Coupling, LAYERS};

/// What a shell expects of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    let settings = match Args::parse().check() {
        Ok(settings) => settings,
        Err(sentence) => {
            eprintln!("error: {sentence}");
            return ExitCode::from(REFUSED);
        }
    };
    run(&settings).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(settings: &Settings) -> Result<ExitCode> {
    let stop = stop_on_ctrl_c()?;
    let digits = Digits::new(settings)?;
    let incidence = Incidence::subsets(settings.cut.experts, settings.hyperedges.size())?;
    let code = match &settings.task {
        Task::Ablation { execution, plot } => {
            let plot = match plot::prepare(plot.as_deref()) {
                Ok(path) => path,
                Err(sentence) => {
                    eprintln!("error: {sentence:#}");
                    return Ok(ExitCode::from(REFUSED));
                }
            };
            introduce(settings, &digits, &incidence);
            ablation(settings, &digits, &incidence, *execution, &plot, &stop)?;
            ExitCode::SUCCESS
        }
        Task::Comparison { steps } => {
            introduce(settings, &digits, &incidence);
            let found = compare::compare(settings, &digits, &incidence, *steps, &stop)?;
            print!("{}", found.report(settings));
            if found.agrees() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    };
    Ok(if stop.load(Ordering::Relaxed) { ExitCode::from(INTERRUPTED) } else { code })
}

/// The first Ctrl-C asks to stop after the current step, a second one stops at once.
fn stop_on_ctrl_c() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
    })?;
    Ok(stop)
}

fn introduce(settings: &Settings, digits: &Digits, incidence: &Incidence) {
    println!("device: CPU, {} threads", candle_core::utils::get_num_threads());
    println!(
        "images: {TRAINING_IMAGES} to train on, {} to test on, seed {}",
        digits.test_images(),
        settings.seed
    );
    let noisy: Vec<String> = digits.noisy().iter().map(|expert| (expert + 1).to_string()).collect();
    let noise = match noisy.is_empty() {
        true => "no noise".to_owned(),
        false => format!("noise in place of {} {}", settings.cut.name, noisy.join(", ")),
    };
    println!("experts: {}, {noise}", title(settings));
    let plural = if incidence.n_hyperedges() == 1 { "" } else { "s" };
    println!(
        "coupling: {LAYERS} layers over {} {}{plural}\n",
        incidence.n_hyperedges(),
        settings.hyperedges.name()
    );
}

fn title(settings: &Settings) -> String {
    format!("one for each of {} {} of the image", settings.cut.experts, settings.cut.name)
}

fn ablation(
    settings: &Settings,
    digits: &Digits,
    incidence: &Incidence,
    execution: Execution,
    plot: &Path,
    stop: &AtomicBool,
) -> Result<()> {
    let mut runs = Vec::new();
    for coupling in Coupling::ALL {
        if !stop.load(Ordering::Relaxed) {
            runs.push(train::run(settings, digits, incidence, coupling, execution, stop)?);
        }
    }
    println!("\n{}", report::ablation(settings, &runs));
    let learned = runs.iter().find(|run| run.coupling == Coupling::Learned);
    if let Some(text) = learned.and_then(|run| report::learned_weights(settings, run)) {
        println!("{text}");
    }
    if let Some(text) = report::degrees(settings, &runs) {
        println!("{text}");
    }
    plot::draw(plot, &format!("Experts, {}", title(settings)), &runs)?;
    println!("learning curves: {}", plot.display());
    Ok(())
}
