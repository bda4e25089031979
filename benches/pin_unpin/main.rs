//! What pins cost, through the public API, beside the two bare atomics that they are made of and
//! beside what the kernel takes to pin a page. Prints `ratio NAME VALUE` lines for scripts.
//!
//! ```text
//! cargo bench --bench pin_unpin              everything, held to its bars if the machine is quiet
//! cargo bench --bench pin_unpin -- --quick   fewer rounds, no verdict
//! cargo bench --bench pin_unpin -- --asm     the instructions of a pin and an unpin
//! ```
#![deny(unsafe_code)]
// What a round reads from the other's module is not all used here.
#![allow(dead_code)]

mod arms;
mod asm;
mod cache;
mod kernel;
#[path = "../driver_cost/machine.rs"]
mod machine;
#[path = "../driver_cost/rounds.rs"]
mod rounds;
mod table;

use std::error::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let held = match words[..] {
        [] => all(false),
        ["--quick"] => all(true),
        ["--asm"] => asm::print().map(|()| true),
        _ => {
            eprintln!("usage: pin_unpin [--quick | --asm]");
            return ExitCode::from(2);
        }
    };
    match held {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("pin_unpin: {error}");
            ExitCode::FAILURE
        }
    }
}

fn all(quick: bool) -> Result<bool, Box<dyn Error>> {
    machine::print_facts();
    table::print(quick, &mut std::io::stdout())
}
