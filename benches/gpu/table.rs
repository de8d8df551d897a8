//! What was measured, beside what it could be.

use crate::loaded::{Bytes, Call};

/// The rows of one run.
pub struct Measured {
    pub run: String,
    pub rows: Vec<Row>,
}

pub struct Row {
    pub call: Call,
    pub seconds: f64,
    pub bytes: Bytes,
}

/// Prints the rows of all runs. The floor is the time that the copy of the same run takes for as many bytes
/// as are compulsory.
pub fn print(table: &[Measured]) {
    println!(
        "{:<22} {:>11} {:>11} {:>11} {:>9} {:>9} {:>13} {:>13}",
        "call", "time", "floor", "% of copy", "MB", "GB/s", "uncached MB", "uncached GB/s"
    );
    for Measured { run, rows } in table {
        println!("{run}");
        let copy = rows.iter().find(|row| row.call == Call::Copy);
        let bytes_per_second = copy.map(|copy| copy.bytes.compulsory as f64 / copy.seconds);
        for Row { call, seconds, bytes: Bytes { compulsory, uncached } } in rows {
            // The command line may have left the copy out.
            let floor = bytes_per_second.map(|rate| *compulsory as f64 / rate);
            let microseconds = |seconds: f64| format!("{:.1} us", seconds * 1e6);
            let rate = |bytes: u128| format!("{:.0}", bytes as f64 / seconds / 1e9);
            let megabytes = |bytes: u128| format!("{:.1}", bytes as f64 / 1e6);
            println!(
                "  {:<20} {:>11} {:>11} {:>11} {:>9} {:>9} {:>13} {:>13}",
                call.name(),
                microseconds(*seconds),
                floor.map_or("-".into(), microseconds),
                floor.map_or("-".into(), |floor| format!("{:.0}", 100.0 * floor / seconds)),
                megabytes(*compulsory),
                rate(*compulsory),
                megabytes(*uncached),
                rate(*uncached),
            );
        }
    }
}
