//! The committed instruction counts, and the gate that holds changes to them.
use std::error::Error;
use std::fs;
use std::path::PathBuf;

/// How much more than the baseline passes.
const SLACK: f64 = 1.03;

/// The figures of `benches/baselines/driver_cost.toml`.
#[derive(Debug, Default)]
pub(crate) struct Baseline {
    rustc: String,
    arch: String,
    figures: Vec<(String, f64)>,
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/baselines/driver_cost.toml")
}

impl Baseline {
    /// Of what was counted now.
    pub(crate) fn new(rustc: String, figures: &[(&str, f64)]) -> Self {
        Self {
            rustc,
            arch: std::env::consts::ARCH.to_owned(),
            figures: figures
                .iter()
                .map(|&(name, value)| (name.to_owned(), value))
                .collect(),
        }
    }

    pub(crate) fn read() -> Result<Self, Box<dyn Error>> {
        let path = path();
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("{}: {error}; make it with --bless", path.display()))?;
        let mut baseline = Self::default();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, value) = line
                .split_once('=')
                .ok_or_else(|| format!("{}: {line:?} is no `key = value`", path.display()))?;
            let (key, value) = (key.trim(), value.trim());
            match key {
                "rustc" => baseline.rustc = value.trim_matches('"').to_owned(),
                "arch" => baseline.arch = value.trim_matches('"').to_owned(),
                _ => baseline.figures.push((key.to_owned(), value.parse()?)),
            }
        }
        Ok(baseline)
    }

    /// Makes these figures the committed ones.
    pub(crate) fn bless(&self) -> Result<(), Box<dyn Error>> {
        let mut text = String::from(
            "# Instructions of the driver per 4 KiB read: submit, ring and poll, counted by callgrind.\n\
             # `cargo bench --bench driver_cost -- --gate` fails above these by more than 3 %;\n\
             # `cargo bench --bench driver_cost -- --bless` writes this file.\n",
        );
        text += &format!("rustc = \"{}\"\narch = \"{}\"\n", self.rustc, self.arch);
        for (name, value) in &self.figures {
            text += &format!("{name} = {value:.2}\n");
        }
        fs::write(path(), text)?;
        println!("blessed: {}", path().display());
        Ok(())
    }

    /// Compares what was counted `now` with the baseline; every excess is told in words.
    pub(crate) fn excesses(&self, now: &Self) -> Vec<String> {
        let mut found = Vec::new();
        if self.arch != now.arch {
            found.push(format!(
                "the baseline is of {} and this is {}: counts do not compare; make one with --bless",
                self.arch, now.arch
            ));
            return found;
        }
        if self.rustc != now.rustc {
            println!(
                "note: the baseline is by {:?}, this is {:?}",
                self.rustc, now.rustc
            );
        }
        for (name, was) in &self.figures {
            let Some((_, is)) = now.figures.iter().find(|(other, _)| other == name) else {
                found.push(format!("{name} is in the baseline and was not counted"));
                continue;
            };
            println!(
                "gate: {name} {is:.2}, baseline {was:.2} ({:+.1} %)",
                (is / was - 1.0) * 100.0
            );
            if *is > was * SLACK {
                found.push(format!(
                    "{name} is {is:.2}, more than 3 % above the baseline of {was:.2}. Find what \
                     made it longer; if it must be, `cargo bench --bench driver_cost -- --bless` \
                     and commit benches/baselines/driver_cost.toml with the reason"
                ));
            } else if *is * SLACK < *was {
                println!("note: {name} has improved by more than 3 %: --bless holds it there");
            }
        }
        found
    }
}
