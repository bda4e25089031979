//! The instructions of one pin, the read of its IOVA, and its unpin, as they were compiled: of the
//! locked ones there are two.
use crate::arms::pin_one;
use std::error::Error;
use std::hint::black_box;
use std::process::Command;
use underpin::dma::frame::Frames;

/// What is looked at. In a function of its own, so that it can be found.
#[inline(never)]
fn pin_and_unpin_one_page(frames: &Frames, frame: u32, generation: u16) -> u64 {
    pin_one(frames, frame, generation).map_or(0, |pin| pin.iova().get())
}

/// Prints it, and fails when there are more or fewer locked instructions than two.
pub(crate) fn print() -> Result<(), Box<dyn Error>> {
    let (frames, generation) = crate::cache::pages(1)?;
    black_box(pin_and_unpin_one_page(&frames, 0, generation));
    let program = std::env::current_exe()?;
    let output = Command::new("objdump")
        .args([
            "--disassemble",
            "--demangle",
            "--no-show-raw-insn",
            "--section=.text",
        ])
        .arg(program)
        .output()
        .map_err(|error| format!("objdump cannot be run ({error}); apt-get install binutils"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text
        .lines()
        .skip_while(|line| !line.contains("pin_and_unpin_one_page>:"));
    let body: Vec<&str> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    for line in &body {
        println!("{line}");
    }
    let locked = body.iter().filter(|line| line.contains("lock ")).count();
    let adds = body
        .iter()
        .filter(|line| line.contains("lock xadd"))
        .count();
    println!(
        "{} instructions, {locked} of them locked, {adds} of these `lock xadd`",
        body.len().saturating_sub(1)
    );
    if (locked, adds) != (2, 2) {
        return Err(
            "a pin and an unpin are one `lock xadd` each, and nothing else is locked".into(),
        );
    }
    Ok(())
}
