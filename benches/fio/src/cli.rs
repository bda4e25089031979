//! The command line: switches of the program, job options, job files. Written by
//! hand because the order of arguments has meaning: `--name` opens a job.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use crate::options::ini::{self, entry_from};
use crate::options::manual;
use crate::options::suggest;
use crate::options::table::{self, Kind, Known};
use crate::options::units;
use crate::options::{Entry, OptionError, Origin, Section};
use crate::report::status::Eta;

/// A form of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Normal,
    Json,
    JsonPlus,
}

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// Print this and end.
    Print(String),
    Run(Box<RunRequest>),
    /// Measure what pins cost.
    Pins {
        quick: bool,
    },
}

/// A run, or the check of one.
#[derive(Debug)]
pub(crate) struct RunRequest {
    pub(crate) formats: Vec<Format>,
    pub(crate) output: Option<PathBuf>,
    pub(crate) eta: Eta,
    pub(crate) status_interval_ns: Option<u64>,
    pub(crate) parse_only: bool,
    pub(crate) read_only: bool,
    pub(crate) warnings_fatal: bool,
    pub(crate) only_sections: Vec<String>,
    pub(crate) sections: Vec<Section>,
}

/// Reads the arguments (without the program's name).
pub(crate) fn parse(arguments: &[String]) -> Result<Invocation, Vec<OptionError>> {
    // A job file of this name is ./pins.
    if let Some((first, rest)) = arguments.split_first()
        && first == manual::PINS
    {
        return pins(rest).map_err(|error| vec![error]);
    }
    let mut parser = Parser {
        request: RunRequest {
            formats: vec![Format::Normal],
            output: None,
            eta: Eta::Auto,
            status_interval_ns: None,
            parse_only: false,
            read_only: false,
            warnings_fatal: false,
            only_sections: Vec::new(),
            sections: Vec::new(),
        },
        files: Vec::new(),
        print: None,
    };
    let mut index = 0;
    while index < arguments.len() {
        let used = parser
            .argument(arguments, index)
            .map_err(|error| vec![error])?;
        if let Some(text) = parser.print.take() {
            return Ok(Invocation::Print(text));
        }
        index += used;
    }
    let mut errors = Vec::new();
    for (number, path) in parser.files.iter().enumerate() {
        match ini::read_job_file(path, number + 1) {
            Ok(sections) => parser.request.sections.extend(sections),
            Err(found) => errors.extend(found),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    if parser.files.is_empty() && !parser.request.sections.iter().any(|s| !s.global) {
        return Err(vec![OptionError::Usage(
            "no job: name a job file, or open a job with --name=JOB; --help explains".to_owned(),
        )]);
    }
    Ok(Invocation::Run(Box::new(parser.request)))
}

/// The arguments behind `pins`.
fn pins(arguments: &[String]) -> Result<Invocation, OptionError> {
    let mut quick = false;
    for (index, argument) in (2..).zip(arguments) {
        match argument.as_str() {
            "--quick" => quick = true,
            "--help" | "-h" => return Ok(Invocation::Print(crate::options::help::pins())),
            other => {
                return Err(OptionError::Grammar {
                    origin: Origin::Argument { index },
                    text: format!("'{other}': pins takes --quick and nothing else"),
                });
            }
        }
    }
    Ok(Invocation::Pins { quick })
}

struct Parser {
    request: RunRequest,
    files: Vec<PathBuf>,
    print: Option<String>,
}

impl Parser {
    /// Handles the argument at `index`; returns how many were used.
    fn argument(&mut self, arguments: &[String], index: usize) -> Result<usize, OptionError> {
        let origin = Origin::Argument { index: index + 1 };
        let Some(argument) = arguments.get(index) else {
            return Ok(1);
        };
        if matches!(argument.as_str(), "-h" | "-v") {
            return self
                .switch(
                    if argument == "-h" { "help" } else { "version" },
                    None,
                    &origin,
                )
                .map(|_| 1);
        }
        let Some(text) = argument.strip_prefix("--").filter(|text| !text.is_empty()) else {
            if argument.starts_with('-') && argument.len() > 1 {
                return Err(OptionError::Grammar {
                    origin,
                    text: format!("'{argument}': options are written --name=value"),
                });
            }
            self.files.push(Path::new(argument).to_owned());
            return Ok(1);
        };
        let mut entry = entry_from(text, origin.clone());
        let mut used = 1;
        let takes_value = takes_value(&entry.key);
        if entry.value.is_none()
            && takes_value
            && let Some(next) = arguments.get(index + 1)
            && !next.starts_with("--")
        {
            entry.value = Some(next.clone());
            used = 2;
        }
        if manual::switches().any(|switch| switch == entry.key) {
            self.switch(&entry.key, entry.value.as_deref(), &origin)?;
        } else {
            self.job_option(entry)?;
        }
        Ok(used)
    }

    fn switch(
        &mut self,
        name: &str,
        value: Option<&str>,
        origin: &Origin,
    ) -> Result<(), OptionError> {
        let request = &mut self.request;
        let bad = |accepted: &str| OptionError::Grammar {
            origin: origin.clone(),
            text: format!("--{name}={}: {accepted}", value.unwrap_or("")),
        };
        match name {
            "output" => {
                let path = value.filter(|path| !path.is_empty());
                request.output = Some(path.ok_or_else(|| bad("name a file"))?.into());
            }
            "output-format" => {
                let list = value.unwrap_or("");
                request.formats = list
                    .split(',')
                    .map(|word| match word.trim() {
                        "normal" => Some(Format::Normal),
                        "json" => Some(Format::Json),
                        "json+" => Some(Format::JsonPlus),
                        _ => None,
                    })
                    .collect::<Option<_>>()
                    .ok_or_else(|| bad("accepted are normal, json, json+, separated by commas"))?;
            }
            "section" => {
                let section = value.filter(|name| !name.is_empty());
                let section = section.ok_or_else(|| bad("name a section"))?;
                request.only_sections.push(section.to_owned());
            }
            "eta" => {
                request.eta = match value {
                    Some("auto") => Eta::Auto,
                    Some("always") => Eta::Always,
                    Some("never") => Eta::Never,
                    _ => return Err(bad("accepted are auto, always, never")),
                };
            }
            "status-interval" => {
                let interval = value
                    .and_then(units::parse_time_ns)
                    .filter(|interval| *interval >= 10_000_000);
                let interval = interval.ok_or_else(|| bad("accepted are times from 10ms up"))?;
                request.status_interval_ns = Some(interval);
            }
            "parse-only" => request.parse_only = true,
            "readonly" => request.read_only = true,
            "warnings-fatal" => request.warnings_fatal = true,
            "help" => self.print = Some(crate::options::help::overview()),
            "version" => self.print = Some(format!("underpin-fio-{}\n", env!("UNDERPIN_VERSION"))),
            "man" => self.print = manual::page(),
            "completions" => {
                let accepted = || format!("accepted are {}", manual::SHELLS.join(", "));
                let script = value.and_then(manual::completions);
                self.print = Some(script.ok_or_else(|| bad(&accepted()))?);
            }
            "enghelp" => {
                self.print = crate::options::help::option(Some("ioengine")).ok();
            }
            _ => {
                let text = crate::options::help::option(value);
                self.print = Some(text.map_err(OptionError::Usage)?);
            }
        }
        Ok(())
    }

    fn job_option(&mut self, entry: Entry) -> Result<(), OptionError> {
        if table::find(&entry.key).is_none() {
            let names = table::suggestible().chain(manual::switches());
            return Err(OptionError::Unknown {
                nearest: suggest::nearest(&entry.key, names),
                origin: entry.origin,
                name: format!("--{}", entry.key),
            });
        }
        if entry.key == "name" {
            let name = entry.value.clone().unwrap_or_default();
            self.request.sections.push(Section {
                name,
                global: false,
                origin: entry.origin.clone(),
                entries: vec![entry],
                source: 0,
            });
            return Ok(());
        }
        match self.request.sections.last_mut() {
            Some(section) => section.entries.push(entry),
            None => self.request.sections.push(Section {
                name: "global".to_owned(),
                global: true,
                origin: entry.origin.clone(),
                entries: vec![entry],
                source: 0,
            }),
        }
        Ok(())
    }
}

/// Whether `--name value` is meant where no `=` follows the name.
fn takes_value(name: &str) -> bool {
    match table::find(name) {
        Some(Known::Option(def)) => def.kind != Kind::Switch,
        _ => manual::takes_value(name),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn run(arguments: &[&str]) -> Result<RunRequest, String> {
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        match parse(&arguments) {
            Ok(Invocation::Run(request)) => Ok(*request),
            Ok(Invocation::Print(text)) => Err(text),
            Ok(Invocation::Pins { quick }) => Err(format!("pins, quick: {quick}")),
            Err(errors) => Err(errors[0].to_string()),
        }
    }

    /// Options before the first --name are for all jobs.
    #[test]
    fn names_open_jobs() {
        let request = run(&[
            "--bs=8k",
            "--name=a",
            "--rw=read",
            "--name",
            "b",
            "--rw",
            "write",
        ])
        .unwrap();
        let seen: Vec<_> = request
            .sections
            .iter()
            .map(|s| (s.name.as_str(), s.global, s.entries.len()))
            .collect();
        assert_eq!(
            seen,
            [("global", true, 1), ("a", false, 2), ("b", false, 2)]
        );
    }

    /// Bare switches do not swallow what follows them.
    #[test]
    fn bare_keys_take_no_value() {
        let request = run(&[
            "--name=a",
            "--time_based",
            "--runtime=5",
            "--thread",
            "--eta=never",
        ])
        .unwrap();
        assert_eq!(request.sections[0].entries.len(), 4);
        assert_eq!(request.eta, Eta::Never);
    }

    /// Mistakes are named with the nearest right thing.
    #[test]
    fn mistakes_are_explained() {
        for (arguments, word) in [
            (&["--nam=a"][..], "'name'"),
            (&["--ouput=x", "--name=a"], "'output'"),
            (&["--output-format=xml", "--name=a"], "json+"),
            (&["--eta=soon", "--name=a"], "always"),
            (&["-x"], "--name=value"),
            (&[], "--help"),
            (&["--bs=4k"], "--name"),
            (&["/nonexistent.fio"], "/nonexistent.fio"),
        ] {
            let text = run(arguments).unwrap_err();
            assert!(text.contains(word), "{arguments:?}: {text}");
        }
        assert!(run(&["--help"]).unwrap_err().contains("Usage:"));
        assert!(
            run(&["--version"])
                .unwrap_err()
                .starts_with("underpin-fio-")
        );
        assert!(run(&["--cmdhelp=bs"]).unwrap_err().starts_with("bs"));
    }

    /// `pins` is a word of its own in front, and a job file elsewhere.
    #[test]
    fn pins_is_no_job_file() {
        assert_eq!(run(&["pins"]).unwrap_err(), "pins, quick: false");
        assert_eq!(run(&["pins", "--quick"]).unwrap_err(), "pins, quick: true");
        assert!(run(&["pins", "--help"]).unwrap_err().contains("ratio"));
        let refused = run(&["pins", "--quik"]).unwrap_err();
        assert!(refused.contains("argument 2") && refused.contains("--quick"));
        assert!(run(&["./pins"]).unwrap_err().contains("cannot read"));
    }

    /// Several formats in one run.
    #[test]
    fn formats_are_a_list() {
        let request = run(&["--output-format=normal,json+", "--name=a"]).unwrap();
        assert_eq!(request.formats, [Format::Normal, Format::JsonPlus]);
    }
}
