//! The line that moves while a run is on, drawn on terminals only.

#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write};
use std::sync::atomic::Ordering;

use super::number::short;
use crate::control::{Progress, ThreadState};
use crate::job::{JobSpec, Mix};

/// When to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Eta {
    /// On a terminal.
    Auto,
    Always,
    Never,
}

/// Distance of two drawings.
const INTERVAL_NS: u64 = 1_000_000_000;

/// The line.
#[derive(Debug)]
pub(crate) struct StatusLine {
    enabled: bool,
    last_ns: u64,
    last: [[u64; 2]; 2],
    drawn_columns: usize,
}

impl StatusLine {
    /// `shares_output` says that the report is JSON on standard output, which a
    /// status line would spoil.
    pub(crate) fn new(eta: Eta, shares_output: bool) -> Self {
        let enabled = match eta {
            Eta::Never => false,
            Eta::Always => !shares_output,
            Eta::Auto => !shares_output && std::io::stdout().is_terminal(),
        };
        Self {
            enabled,
            last_ns: 0,
            last: [[0; 2]; 2],
            drawn_columns: 0,
        }
    }

    /// Draws it if it is time to.
    pub(crate) fn draw<'a>(
        &mut self,
        now: u64,
        threads: impl Iterator<Item = (&'a JobSpec, &'a Progress)>,
    ) {
        if !self.enabled || now.saturating_sub(self.last_ns) < INTERVAL_NS {
            return;
        }
        let views: Vec<View> = threads
            .map(|(spec, progress)| view(spec, progress, now))
            .collect();
        let total = |pick: fn(&View) -> [u64; 2]| {
            [0, 1].map(|direction: usize| views.iter().map(|view| pick(view)[direction]).sum())
        };
        let totals: [[u64; 2]; 2] = [total(|view| view.bytes), total(|view| view.ios)];
        let elapsed = now - self.last_ns;
        let rates = [0, 1].map(|what| {
            [0, 1].map(|direction| {
                let moved = totals[what][direction] - self.last[what][direction];
                (u128::from(moved) * 1_000_000_000 / u128::from(elapsed)) as u64
            })
        });
        self.last_ns = now;
        self.last = totals;
        let line = compose(&views, rates, now);
        let columns = line.chars().count();
        let blanks = " ".repeat(self.drawn_columns.saturating_sub(columns));
        self.drawn_columns = columns;
        let mut out = std::io::stdout();
        let _ = write!(out, "{line}{blanks}\r");
        let _ = out.flush();
    }

    /// Wipes the line, so that what follows starts clean.
    pub(crate) fn clear(&mut self) {
        if self.drawn_columns > 0 {
            let mut out = std::io::stdout();
            let _ = write!(out, "{}\r", " ".repeat(self.drawn_columns));
            let _ = out.flush();
            self.drawn_columns = 0;
        }
    }
}

/// What the line needs of one thread.
#[derive(Debug, Clone, Copy)]
struct View {
    state: ThreadState,
    letter: char,
    files: u32,
    bytes: [u64; 2],
    ios: [u64; 2],
    /// Seconds to go, if that can be said.
    left_s: Option<u64>,
    waits_for_others: bool,
}

fn view(spec: &JobSpec, progress: &Progress, now: u64) -> View {
    let (bytes, ios) = progress.totals();
    let state = progress.state();
    View {
        state,
        letter: letter(spec, state),
        files: progress.files.load(Ordering::Relaxed),
        bytes,
        ios,
        left_s: seconds_left(spec, progress, now),
        waits_for_others: spec.stonewall,
    }
}

/// fio's letters: small for random, capital for sequential.
fn letter(spec: &JobSpec, state: ThreadState) -> char {
    match state {
        ThreadState::NotStarted => 'P',
        ThreadState::Setup => 'I',
        ThreadState::Ramp => '/',
        ThreadState::Verifying => 'V',
        ThreadState::Syncing => 'F',
        ThreadState::Ended => '_',
        ThreadState::Failed => 'X',
        ThreadState::Running => {
            let letter = match (spec.pattern.mix, spec.mix_read) {
                (Mix::Read, _) | (Mix::Both, 100) => 'r',
                (Mix::Write, _) | (Mix::Both, 0) => 'w',
                (Mix::Both, _) => 'm',
            };
            if spec.pattern.random {
                letter
            } else {
                letter.to_ascii_uppercase()
            }
        }
    }
}

fn seconds_left(spec: &JobSpec, progress: &Progress, now: u64) -> Option<u64> {
    let limit_s = spec
        .runtime_ns
        .map(|runtime| runtime.saturating_add(spec.ramp_ns) / 1_000_000_000);
    match progress.state() {
        ThreadState::Ended | ThreadState::Failed => return Some(0),
        ThreadState::NotStarted | ThreadState::Setup => return limit_s,
        _ => {}
    }
    let elapsed_s = now.saturating_sub(progress.began_ns.load(Ordering::Relaxed)) / 1_000_000_000;
    let by_time = limit_s.map(|limit| limit.saturating_sub(elapsed_s));
    let target = progress.target_bytes.load(Ordering::Relaxed);
    let done: u64 = progress.totals().0.iter().sum();
    let by_bytes = if spec.time_based || target == 0 || done == 0 {
        None
    } else {
        let left = u128::from(target.saturating_sub(done));
        Some((left * u128::from(elapsed_s.max(1)) / u128::from(done)) as u64)
    };
    match (by_time, by_bytes) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn compose(views: &[View], rates: [[u64; 2]; 2], now: u64) -> String {
    let running = views.iter().filter(|view| view.state.is_active()).count();
    let files: u32 = views
        .iter()
        .filter(|view| view.state.is_active())
        .map(|view| view.files)
        .sum();
    // Jobs behind a stonewall come on top, the others run side by side.
    let mut eta = Some(0u64);
    let mut walls = 0;
    for view in views {
        let waits = view.state == ThreadState::NotStarted && view.waits_for_others;
        match (view.left_s, eta) {
            (Some(left), Some(_)) if waits => walls += left,
            (Some(left), Some(so_far)) => eta = Some(so_far.max(left)),
            _ => eta = None,
        }
    }
    let eta = eta.map(|seconds| seconds + walls);
    let elapsed_s = now / 1_000_000_000;
    let percent = match eta {
        Some(left) if elapsed_s + left > 0 => {
            format!(
                "{:.1}%",
                elapsed_s as f64 * 100.0 / (elapsed_s + left) as f64
            )
        }
        _ => "-.-%".to_owned(),
    };
    let mut line = format!(
        "Jobs: {running} (f={files}): [{}][{percent}]",
        condensed(views.iter().map(|view| view.letter))
    );
    let present = |direction: usize| rates[0][direction] > 0 || rates[1][direction] > 0;
    let part = |what: usize, format: &dyn Fn(u64) -> String| {
        let shown: Vec<String> = [(0, 'r'), (1, 'w')]
            .into_iter()
            .filter(|(direction, _)| present(*direction))
            .map(|(direction, name)| format!("{name}={}", format(rates[what][direction])))
            .collect();
        shown.join(",")
    };
    if present(0) || present(1) {
        let bandwidth = part(0, &|rate| short(rate, 4, true, "B/s"));
        let iops = part(1, &|rate| short(rate, 4, false, ""));
        line.push_str(&format!("[{bandwidth}][{iops} IOPS]"));
    }
    let eta = eta.map_or("--".to_owned(), duration);
    line.push_str(&format!("[eta {eta}]"));
    line
}

/// `rrrV` as `r(3),V(1)`.
fn condensed(letters: impl Iterator<Item = char>) -> String {
    let mut runs: Vec<(char, usize)> = Vec::new();
    for letter in letters {
        match runs.last_mut() {
            Some((last, count)) if *last == letter => *count += 1,
            _ => runs.push((letter, 1)),
        }
    }
    let parts: Vec<String> = runs
        .iter()
        .map(|(letter, count)| format!("{letter}({count})"))
        .collect();
    parts.join(",")
}

/// `01h:02m:03s`, days and hours only if there are any.
fn duration(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let mut text = String::new();
    if days > 0 {
        text.push_str(&format!("{days:02}d:"));
    }
    if days > 0 || hours > 0 {
        text.push_str(&format!("{hours:02}h:"));
    }
    text.push_str(&format!("{:02}m:{:02}s", seconds / 60 % 60, seconds % 60));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view_of(state: ThreadState, letter: char, left_s: Option<u64>, wall: bool) -> View {
        View {
            state,
            letter,
            files: 1,
            bytes: [0; 2],
            ios: [0; 2],
            left_s,
            waits_for_others: wall,
        }
    }

    /// The line of fio's manual.
    #[test]
    fn the_line_looks_as_in_fio() {
        let views = [view_of(ThreadState::Running, 'r', Some(31), false)];
        let rates = [[21_495_808, 0], [5253, 0]];
        assert_eq!(
            compose(&views, rates, 10_200_000_000),
            "Jobs: 1 (f=1): [r(1)][24.4%][r=20.5MiB/s][r=5253 IOPS][eta 00m:31s]"
        );
    }

    /// Jobs behind a stonewall add their time; unknown times are not guessed.
    #[test]
    fn stonewalls_add_up_and_unknown_is_unknown() {
        let running = view_of(ThreadState::Running, 'W', Some(5), false);
        let waiting = view_of(ThreadState::NotStarted, 'P', Some(10), true);
        let line = compose(&[running, waiting], [[0; 2]; 2], 5_000_000_000);
        assert_eq!(line, "Jobs: 1 (f=1): [W(1),P(1)][25.0%][eta 00m:15s]");
        let unknown = view_of(ThreadState::NotStarted, 'P', None, true);
        assert!(compose(&[running, unknown], [[0; 2]; 2], 0).ends_with("[-.-%][eta --]"));
    }

    /// Long runs show hours and days.
    #[test]
    fn durations() {
        assert_eq!(duration(59), "00m:59s");
        assert_eq!(duration(3600), "01h:00m:00s");
        assert_eq!(duration(90_061), "01d:01h:01m:01s");
        assert_eq!(condensed("rrrV_".chars()), "r(3),V(1),_(1)");
    }
}
