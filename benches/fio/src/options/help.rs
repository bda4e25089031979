//! `--help` and `--cmdhelp`, written for reading.

#![forbid(unsafe_code)]

use super::suggest;
use super::table::{self, Known, OPTIONS, OptionDef};
use std::fmt::Write;

const WIDTH: usize = 88;

/// `--help`.
pub(crate) fn overview() -> String {
    let mut text = String::from(
        "underpin-fio: run fio job files on Underpin's NVMe driver, io_uring or pread/pwrite

Usage:
  underpin-fio [SWITCHES] JOBFILE...
  underpin-fio [SWITCHES] --name=JOB [--OPTION[=VALUE]]... [--name=JOB ...]...
  underpin-fio pins [--quick]      what a pin of a page costs on this machine

Examples:
  underpin-fio benches/jobs/quickstart.fio
  underpin-fio benches/jobs/pinned.fio
  underpin-fio --name=r --ioengine=underpin --filename=emu:size=1g --rw=randread \\
               --bs=4k --iodepth=32 --runtime=10 --time_based
  underpin-fio --output-format=json+ --output=run.json job.fio

Switches:
  --output-format=LIST   normal, json, json+, or several with commas
  --output=FILE          write the report there instead of to standard output
  --section=NAME         run only this section of the job files (may be repeated)
  --parse-only           check the job files, run nothing
  --eta=WHEN             status line: auto (on a terminal), always, never
  --status-interval=TIME print a report of the run so far every so often
  --readonly             refuse jobs that write
  --warnings-fatal       treat warnings as errors
  --cmdhelp[=OPTION]     explain one job option, or list all
  --completions=SHELL    print the completion script of bash, elvish, fish, powershell or zsh
  --man                  print the manual page: underpin-fio --man | man -l -
  --help, --version

A job file (- for standard input) is a list of sections:

  [global]               # defaults for the jobs below
  ioengine=underpin
  filename=emu:file=/tmp/disk.img,size=64m
  bs=16k
  verify=crc32c
  [fill]
  rw=write
  [check]
  stonewall              ; wait for the jobs above
  rw=randread
  iodepth=32

Numbers take k, m, g, t (powers of 1024 unless kb_base=1000) and %; times take us, ms,
s, m, h, d. ${NAME} is replaced from the environment.

Ctrl-C ends the run and reports what was measured; a second one leaves at once.
Exit status: 0 fine, 1 an I/O failed, a block did not verify or a device did not close,
2 the command line or job file is wrong, 130 interrupted. RUST_LOG=debug shows on
standard error what the driver does.

Job options (--cmdhelp=OPTION for more):
",
    );
    for def in OPTIONS {
        let first = def.help.split(". ").next().unwrap_or(def.help);
        let first = first.trim_end_matches('.');
        let short: String = if first.chars().count() > 56 {
            first.chars().take(55).chain(['…']).collect()
        } else {
            first.to_owned()
        };
        let _ = writeln!(text, "  {:<28} {short}", def.name);
    }
    text
}

/// `pins --help`.
pub(crate) fn pins() -> String {
    "underpin-fio pins [--quick]

Measures what it costs to pin a page for a device and to unpin it: one page after the other, many
at random, one page by two threads; what it costs to begin and to end a writeback; each beside the
bare atomics that it is made of, and beside what the kernel takes to pin a page for io_uring. It
takes half a minute, two processors and 200 MiB.

Prints lines `ratio NAME VALUE` and what each is held to. Bars count on a quiet machine only, and
whether it was quiet is said. --quick takes fewer rounds and holds nothing to its bar.

Exit status: 0 fine, 1 a bar was missed on a quiet machine, or it could not be measured. A job file
that is called pins is ./pins.
"
    .to_owned()
}

/// `--cmdhelp=NAME`, or all of them without a name. The error is the message.
pub(crate) fn option(name: Option<&str>) -> Result<String, String> {
    let mut text = String::new();
    match name {
        None | Some("" | "all") => {
            for def in OPTIONS {
                describe(&mut text, def);
            }
        }
        Some(name) => match table::find(name) {
            Some(Known::Option(def)) => describe(&mut text, def),
            Some(Known::WithoutEffect(_)) => {
                let _ = writeln!(text, "{name}: accepted for fio's sake, without effect");
            }
            Some(Known::Refused) => {
                let _ = writeln!(
                    text,
                    "{name}: an option of fio that underpin-fio does not have"
                );
            }
            None => {
                return Err(match suggest::nearest(name, table::suggestible()) {
                    Some(near) => format!("no option '{name}'; did you mean '{near}'?"),
                    None => format!("no option '{name}'; --cmdhelp lists all"),
                });
            }
        },
    }
    Ok(text)
}

fn describe(text: &mut String, def: &OptionDef) {
    let _ = write!(text, "{}", def.name);
    for alias in def.aliases {
        let _ = write!(text, ", {alias}");
    }
    let _ = writeln!(text);
    wrap(text, def.help);
    let accepted = def.kind.accepted();
    let value = ["accepted are ", "accepted is "]
        .iter()
        .find_map(|head| accepted.strip_prefix(head))
        .unwrap_or(&accepted);
    wrap(text, &format!("Value: {value}."));
    wrap(text, &format!("Default: {}.", def.default));
    text.push('\n');
}

fn wrap(text: &mut String, paragraph: &str) {
    let mut column = 0;
    for word in paragraph.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            text.push('\n');
            column = 0;
        }
        if column == 0 {
            text.push_str("    ");
            column = 4;
        } else {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Help mentions every option, and no line is too wide for a terminal.
    #[test]
    fn help_is_complete_and_narrow() {
        let all = overview() + &option(None).unwrap();
        for def in OPTIONS {
            assert!(all.contains(def.name));
        }
        for line in all.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }

    /// A misspelt name is answered with the nearest.
    #[test]
    fn a_misspelt_name_is_corrected() {
        assert!(option(Some("iodpeth")).unwrap_err().contains("'iodepth'"));
        assert!(option(Some("timeout")).unwrap().starts_with("runtime"));
    }
}
