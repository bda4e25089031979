//! The table: each arm beside its bare one in interleaved rounds, `ratio NAME VALUE` lines, and bars
//! that count on a quiet machine only. `cargo bench --bench pin_unpin` prints it, and so does
//! `underpin-fio pins` on a user's machine.
use super::machine::{Others, Watch};
use super::rounds::{Spread, interleave};
use super::{arms, kernel};
use std::error::Error;
use std::io::Write;

/// What each ratio is held to: its name, and the most or the least that is wanted.
const BARS: [(&str, Bar); 5] = [
    ("pin_hot", Bar::Most(1.10)),
    ("pin_random_batched", Bar::Most(1.15)),
    ("pin_two_threads", Bar::Most(1.15)),
    ("writeback_begin_end", Bar::Most(1.2)),
    ("pin_vs_kernel", Bar::Least(20.0)),
];

#[derive(Clone, Copy)]
enum Bar {
    Most(f64),
    Least(f64),
}

type Ratio = (&'static str, f64);

/// Measures everything and prints it; `quick` is fewer rounds and no verdict. False when a bar is
/// missed and nothing else on the machine is to blame.
pub(crate) fn print(quick: bool, out: &mut dyn Write) -> Result<bool, Box<dyn Error>> {
    let watch = Watch::start();
    let rounds = if quick { 5 } else { 31 };
    let mut ratios = Vec::new();
    let hot = arms::Hot::new()?;
    let (ours, bare) = (&mut || hot.ours(), &mut || hot.bare());
    ratios.push(ratio("pin_hot", rounds, ours, bare, out)?);
    let pages = if quick { 1 << 18 } else { 8 << 20 };
    let random = arms::Random::new(pages)?;
    writeln!(out, "{pages} pages:")?;
    let (ours, bare) = (&mut || random.ours(), &mut || random.bare());
    ratios.push(ratio("pin_random_batched", rounds, ours, bare, out)?);
    drop(random);
    let shared = arms::Shared::new()?;
    let (ours, bare) = (&mut || shared.ours(), &mut || shared.bare());
    ratios.push(ratio("pin_two_threads", rounds, ours, bare, out)?);
    let writeback = arms::Writebacks::new()?;
    let (ours, bare) = (&mut || writeback.ours(), &mut || writeback.bare());
    ratios.push(ratio("writeback_begin_end", rounds, ours, bare, out)?);
    match kernel::Registration::new() {
        Ok(kernel) => ratios.push(beside_the_kernel(&kernel, &hot, rounds, out)?),
        Err(why) => writeln!(
            out,
            "pin_vs_kernel: not measured: io_uring cannot be had ({why})"
        )?,
    }
    for (name, value) in &ratios {
        writeln!(out, "ratio {name} {value:.3}")?;
    }
    let quiet = tell_noise(watch.verdict(), out)?;
    let held = hold(&ratios, quiet, out)?;
    Ok(held || quick || !quiet)
}

fn beside_the_kernel(
    kernel: &kernel::Registration,
    hot: &arms::Hot,
    rounds: usize,
    out: &mut dyn Write,
) -> Result<Ratio, Box<dyn Error>> {
    let (pages, huge) = (kernel.per_page_of_512()?, kernel.per_page_of_huge());
    writeln!(out, "the kernel, 512 pages at a time: {pages:.1} ns a page")?;
    match huge {
        Ok(huge) => writeln!(out, "the kernel, a 2 MiB page: {huge:.1} ns per 4 KiB")?,
        Err(why) => writeln!(out, "the kernel, a 2 MiB page: not to be had ({why})")?,
    }
    let [theirs, ours] = interleave(rounds, [&mut || kernel.one_page(), &mut || hot.ours()])?;
    let (theirs, ours) = (Spread::of(theirs), Spread::of(ours));
    writeln!(
        out,
        "pin_vs_kernel: the kernel's register + unregister of a page {theirs} ns, ours {ours} ns"
    )?;
    Ok(("pin_vs_kernel", theirs.median / ours.median))
}

/// Ours against the bare arm, round by round: the median of the rounds' ratios.
fn ratio(
    name: &'static str,
    rounds: usize,
    ours: &mut dyn FnMut() -> Result<f64, Box<dyn Error>>,
    bare: &mut dyn FnMut() -> Result<f64, Box<dyn Error>>,
    out: &mut dyn Write,
) -> Result<Ratio, Box<dyn Error>> {
    let [ours, bare] = interleave(rounds, [ours, bare])?;
    let of_rounds = Spread::of(ours.iter().zip(&bare).map(|(ours, bare)| ours / bare));
    let (ours, bare) = (Spread::of(ours), Spread::of(bare));
    writeln!(
        out,
        "{name}: ours {ours:.2} ns, bare {bare:.2} ns, ours / bare {of_rounds:.3}"
    )?;
    Ok((name, of_rounds.median))
}

/// Says whether the machine did anything else meanwhile; true when it did not.
fn tell_noise(others: Option<Others>, out: &mut dyn Write) -> Result<bool, Box<dyn Error>> {
    let Some(others) = others else {
        writeln!(out, "quiet: unknown, as /proc does not tell")?;
        return Ok(false);
    };
    writeln!(
        out,
        "others used {:.1} % of a processor, {:.1} % were withheld; quiet: {}",
        others.busy_percent,
        others.stolen_percent,
        match others.quiet() {
            true => "yes",
            false =>
                "no, so these figures are of the noise, too: try again with nothing else running",
        }
    )?;
    Ok(others.quiet())
}

/// One line a bar; false when one is missed.
fn hold(ratios: &[Ratio], quiet: bool, out: &mut dyn Write) -> Result<bool, Box<dyn Error>> {
    let mut held = true;
    for (name, bar) in BARS {
        let value = ratios.iter().find(|(of, _)| *of == name);
        let (good, wanted) = match (bar, value) {
            (Bar::Most(most), value) => (
                value.is_some_and(|(_, value)| *value <= most),
                format!("at most {most:.2}"),
            ),
            (Bar::Least(least), value) => (
                value.is_some_and(|(_, value)| *value >= least),
                format!("at least {least:.2}"),
            ),
        };
        let verdict = match (good, value, quiet) {
            (true, ..) => "held",
            (false, None, _) => "not measured",
            (false, Some(_), true) => "missed",
            (false, Some(_), false) => "missed (not quiet)",
        };
        writeln!(out, "bar {name} {wanted}: {verdict}")?;
        held &= good;
    }
    Ok(held)
}
