//! `--man` and `--completions`: made from the tables of options and switches, so that they cannot
//! say anything else than the program does. The program itself is read by hand (`cli.rs`).

#![forbid(unsafe_code)]

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, Command, ValueHint};

use super::table::{Kind, OPTIONS, OptionDef};

/// What a switch is followed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    None,
    Words(&'static [&'static str]),
    File,
    Text(&'static str),
}

/// Shells with completion scripts.
pub(crate) const SHELLS: &[&str] = &["bash", "elvish", "fish", "powershell", "zsh"];

/// The word that asks for a measurement of pins instead of a run.
pub(crate) const PINS: &str = "pins";

/// The program's switches, as `--help` has them.
const SWITCHES: &[(&str, Value, &str)] = &[
    (
        "output-format",
        Value::Words(&["normal", "json", "json+"]),
        "Forms of the report, separated by commas",
    ),
    (
        "output",
        Value::File,
        "Write the report there instead of to standard output",
    ),
    (
        "section",
        Value::Text("NAME"),
        "Run only this section of the job files; may be repeated",
    ),
    (
        "parse-only",
        Value::None,
        "Check the job files, run nothing",
    ),
    (
        "eta",
        Value::Words(&["auto", "always", "never"]),
        "Status line: auto is on a terminal",
    ),
    (
        "status-interval",
        Value::Text("TIME"),
        "Print a report of the run so far every so often",
    ),
    ("readonly", Value::None, "Refuse jobs that write"),
    ("warnings-fatal", Value::None, "Treat warnings as errors"),
    (
        "cmdhelp",
        Value::Text("OPTION"),
        "Explain one job option, or list all",
    ),
    ("enghelp", Value::None, "Explain the engines"),
    (
        "completions",
        Value::Words(SHELLS),
        "Print a shell's completion script",
    ),
    ("man", Value::None, "Print the manual page"),
    ("help", Value::None, "Print help"),
    ("version", Value::None, "Print the version"),
];

/// The names of all switches.
pub(crate) fn switches() -> impl Iterator<Item = &'static str> {
    SWITCHES.iter().map(|&(name, ..)| name)
}

/// Whether `--name value` is meant where no `=` follows a switch's name.
pub(crate) fn takes_value(name: &str) -> bool {
    // An option to be explained is optional, so it has to follow a `=`.
    let value = SWITCHES.iter().find(|&&(switch, ..)| switch == name);
    value.is_some_and(|&(name, value, _)| value != Value::None && name != "cmdhelp")
}

/// The command line as clap describes one. It is never used to read one.
fn command() -> Command {
    let mut command = Command::new("underpin-fio")
        .about("Run fio job files on Underpin's NVMe driver, io_uring or pread/pwrite")
        .version(env!("UNDERPIN_VERSION"))
        .disable_help_flag(true)
        .disable_version_flag(true)
        .after_help(
            "Options before the first --name are for all jobs; each --name opens a job. A job \
             file named - is standard input. Exit status: 0 fine, 1 an I/O failed, a block did not \
             verify or a device did not close, 2 the command line or a job file is wrong, 130 \
             interrupted. RUST_LOG=debug shows on standard error what the driver does.",
        )
        .arg(
            Arg::new("JOBFILE")
                .num_args(0..)
                .value_hint(ValueHint::FilePath)
                .help("Job files; - is standard input"),
        );
    for &(name, value, help) in SWITCHES {
        let arg = Arg::new(name).long(name).help(help);
        command = command.arg(match value {
            Value::None => arg.action(ArgAction::SetTrue),
            Value::Words(words) => arg.value_parser(PossibleValuesParser::new(words)),
            Value::File => arg.value_name("FILE").value_hint(ValueHint::FilePath),
            Value::Text(name) => arg.value_name(name),
        });
    }
    for def in OPTIONS {
        command = command.arg(option(def));
    }
    command
}

fn option(def: &'static OptionDef) -> Arg {
    let help = format!("{} Default: {}.", def.help, def.default);
    let arg = Arg::new(def.name)
        .long(def.name)
        .visible_aliases(def.aliases.iter().copied())
        .help_heading("Job options")
        .help(help);
    match def.kind {
        Kind::Choice(words) => arg.value_parser(PossibleValuesParser::new(words)),
        Kind::Switch => arg.num_args(0..=1).require_equals(true).value_name("0|1"),
        Kind::Text if def.name == "filename" => {
            arg.value_name("FILE|URL").value_hint(ValueHint::FilePath)
        }
        Kind::Text if def.name == "target" => {
            arg.value_name("FILE").value_hint(ValueHint::FilePath)
        }
        Kind::Text => arg.value_name("TEXT"),
        Kind::Count => arg.value_name("NUMBER"),
        Kind::Amount | Kind::Amounts => arg.value_name("SIZE"),
        Kind::Time => arg.value_name("TIME"),
    }
}

/// The completion script for a shell; nothing for a shell that has none.
pub(crate) fn completions(shell: &str) -> Option<String> {
    use clap_complete::Shell;
    let shell: Shell = SHELLS.contains(&shell).then(|| shell.parse().ok())??;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "underpin-fio", &mut script);
    String::from_utf8(script).ok()
}

/// The manual page.
pub(crate) fn page() -> Option<String> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command()).render(&mut page).ok()?;
    String::from_utf8(page).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// clap checks its own rules: no two options of one name.
    #[test]
    fn the_description_is_well_formed() {
        command().debug_assert();
    }

    /// Every option and switch is in the manual and in each script, and the switches are those
    /// that --help explains.
    #[test]
    fn the_manual_and_the_scripts_know_every_option() {
        let page = page().unwrap();
        let help = crate::options::help::overview();
        for name in switches() {
            assert!(
                help.contains(&format!("--{name}")) || name == "enghelp",
                "{name}"
            );
        }
        let names = OPTIONS.iter().map(|def| def.name).chain(switches());
        let scripts: Vec<_> = SHELLS
            .iter()
            .map(|shell| completions(shell).unwrap())
            .collect();
        for name in names {
            assert!(page.contains(&name.replace('-', "\\-")), "{name}");
            assert!(scripts.iter().all(|script| script.contains(name)), "{name}");
        }
        assert!(completions("csh").is_none());
    }
}
