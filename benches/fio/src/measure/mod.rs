//! `underpin-fio pins`: what pins cost on this machine, measured by the code of
//! `cargo bench --bench pin_unpin`, which is linked here.
// What only the project's own benchmarks read is not used here.
#![allow(dead_code)]

mod arms;
mod cache;
mod kernel;
mod machine;
mod rounds;
mod table;

use std::error::Error;
use std::io::Write;

/// Measures and prints; `quick` is fewer rounds and no verdict. False when a bar is missed on a
/// quiet machine.
pub(crate) fn print(quick: bool, out: &mut dyn Write) -> Result<bool, Box<dyn Error>> {
    for fact in machine::facts() {
        writeln!(out, "{fact}")?;
    }
    // A build for finding mistakes is ten times slower, and not alike in both arms.
    let checked = cfg!(debug_assertions);
    if checked {
        writeln!(
            out,
            "this is a debug build: its figures say nothing; build with --release"
        )?;
    }
    Ok(table::print(quick || checked, out)? || checked)
}
