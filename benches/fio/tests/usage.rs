//! The program as a command: exit statuses, messages, signals.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use common::{folder, ours, output, stock, succeed, write};
use serde_json::Value;

/// Exit status 2, and a message with file, line, option and the way out.
#[test]
fn mistakes_in_a_job_file_are_named() {
    let at = folder();
    for (job, words) in [
        (
            "[a]\nsize=1m\nrwmixred=3\n",
            &["x.fio:3:", "rwmixred", "'rwmixread'"][..],
        ),
        ("[a]\nsize=1m\nbs=4q\n", &["x.fio:3:", "'bs'", "'4q'", "4k"]),
        ("bs=4k\n[a]\n", &["x.fio:1:", "[global]"]),
        ("[a]\nbssplit=4k/50\n", &["x.fio:2:", "bssplit"]),
        ("[a]\nsize=1k\n", &["x.fio:1", "'a'", "block"]),
        ("[global]\nbs=4k\n", &["no job"]),
    ] {
        write(at.path(), "x.fio", job);
        let (result, stdout, stderr) = output(ours().current_dir(at.path()).arg("x.fio"));
        assert_eq!(result.status.code(), Some(2), "{job}: {stderr}");
        assert_eq!(stdout, "");
        for word in words {
            assert!(stderr.contains(word), "{job}: {stderr}");
        }
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

/// All mistakes at once, not one per run.
#[test]
fn all_mistakes_are_reported() {
    let at = folder();
    write(
        at.path(),
        "x.fio",
        "[global]\niodpeth=3\n[a]\nbs=4q\n[b]\nrw=sideways\n",
    );
    let (_, _, stderr) = output(ours().current_dir(at.path()).arg("x.fio"));
    for line in ["x.fio:2:", "x.fio:4:", "x.fio:6:"] {
        assert_eq!(stderr.matches(line).count(), 1, "{stderr}");
    }
}

/// A job file named `-` is read from standard input, with errors that say so; it is no file of that
/// name, and cannot be included.
#[test]
fn a_job_can_come_from_standard_input() {
    use std::io::Write;
    let at = folder();
    write(at.path(), "-", "[wrong]\nsize=1m\n");
    for (job, status, words) in [
        ("[piped]\nsize=1m\nrw=read\n", 0, "piped: (g=0)"),
        ("[piped]\nsize=1m\niodpeth=2\n", 2, "<stdin>:3:"),
        ("[piped]\nsize=1m\ninclude -\n", 2, "cannot be included"),
    ] {
        let mut command = ours();
        command
            .current_dir(at.path())
            .args(["--parse-only", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(job.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert_eq!(output.status.code(), Some(status), "{text:?}");
        assert!(text.concat().contains(words), "{text:?}");
    }
}

/// Without a standard output the report would be lost: refused before anything is written, unless
/// it goes to a file. What is merely sent to /dev/null was meant to be.
#[test]
fn a_closed_standard_output_is_an_error() {
    let at = folder();
    let run = |end: &str| {
        let program = ours().get_program().to_owned();
        let script = format!("exec \"$0\" --name=a --size=64k --rw=write {end}");
        let mut shell = Command::new("sh");
        shell
            .current_dir(at.path())
            .arg("-c")
            .arg(script)
            .arg(program);
        let (result, _, stderr) = output(&mut shell);
        (result.status.code(), stderr)
    };
    let (status, stderr) = run(">&-");
    assert_eq!(status, Some(2), "{stderr}");
    assert!(stderr.contains("standard output is closed"), "{stderr}");
    assert!(!at.path().join("a.0.0").exists(), "nothing was written");
    assert_eq!(run("--help >&-").0, Some(2));
    assert_eq!(run("--output=report >&-").0, Some(0));
    assert!(at.path().join("report").metadata().unwrap().len() > 0);
    assert_eq!(run(">/dev/null").0, Some(0));
    assert_eq!(run("1<>/dev/null").0, Some(0));
}

/// The version names the commit; scripts and manual are printed, and a shell that has none is told
/// which have.
#[test]
fn the_program_describes_itself() {
    let version = succeed(ours().arg("--version"));
    let start = format!("underpin-fio-{} (", env!("CARGO_PKG_VERSION"));
    let commit = version
        .trim()
        .strip_prefix(&start)
        .and_then(|rest| rest.strip_suffix(')'));
    let is_commit = |id: &str| id.len() == 7 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
    assert!(commit.is_some_and(is_commit), "{version}");
    assert!(succeed(ours().arg("--man")).contains(".TH underpin-fio 1"));
    let script = succeed(ours().args(["--completions", "bash"]));
    let ask = "COMP_WORDS=(underpin-fio --iodep); COMP_CWORD=1; \
               _underpin__fio underpin-fio --iodep underpin-fio; echo \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    let words = succeed(bash.args(["-c", &format!("{script}\n{ask}")]));
    assert!(
        words.split_whitespace().any(|word| word == "--iodepth"),
        "{words}"
    );
    let (result, _, stderr) = output(ours().arg("--completions=csh"));
    assert_eq!(result.status.code(), Some(2));
    assert!(stderr.contains("zsh"), "{stderr}");
}

/// `--parse-only` checks and touches nothing; `--readonly` refuses writers.
#[test]
fn checks_without_a_run() {
    let at = folder();
    write(at.path(), "x.fio", "[a]\nsize=1m\nrw=write\n");
    let text = succeed(
        ours()
            .current_dir(at.path())
            .args(["--parse-only", "x.fio"]),
    );
    assert!(text.starts_with("a: (g=0): rw=write"), "{text}");
    assert!(!at.path().join("a.0.0").exists());
    let (result, _, stderr) = output(ours().current_dir(at.path()).args(["--readonly", "x.fio"]));
    assert_eq!(result.status.code(), Some(2));
    assert!(stderr.contains("'a' writes"), "{stderr}");
}

/// A harmless option of fio: one note, and the run goes on.
#[test]
fn options_without_effect_are_noted_once() {
    let at = folder();
    let job = "[global]\nsize=64k\nhipri=1\ngtod_reduce=1\n[a]\n[b]\nhipri=1\n";
    write(at.path(), "x.fio", job);
    let (result, _, stderr) = output(ours().current_dir(at.path()).arg("x.fio"));
    assert!(result.status.success());
    assert_eq!(stderr.matches("hipri").count(), 1, "{stderr}");
    assert_eq!(stderr.matches("gtod_reduce").count(), 1, "{stderr}");
}

/// Help and version do not need a job.
#[test]
fn help_is_there() {
    let text = succeed(ours().arg("--help"));
    assert!(text.contains("Examples:") && text.contains("iodepth"));
    assert!(succeed(ours().arg("--cmdhelp=rwmixread")).contains("Default: 50"));
    assert!(succeed(ours().arg("--cmdhelp")).contains("verify_fatal"));
    assert!(succeed(ours().arg("--version")).starts_with("underpin-fio-"));
    let (result, _, stderr) = output(ours().arg("--cmdhelp=rwmixred"));
    assert_eq!(result.status.code(), Some(2));
    assert!(stderr.contains("'rwmixread'"), "{stderr}");
}

/// `${NAME}` comes from the environment.
#[test]
fn the_environment_reaches_the_job() {
    let at = folder();
    write(
        at.path(),
        "x.fio",
        "[a]\nsize=${SIZE}\nrw=write\nfilename=${NAME}.img\n",
    );
    let mut command = ours();
    command.current_dir(at.path()).arg("x.fio");
    succeed(command.env("SIZE", "64k").env("NAME", "file"));
    assert_eq!(
        std::fs::metadata(at.path().join("file.img")).unwrap().len(),
        65_536
    );
}

/// What cannot be done is exit status 1 with the file's name.
#[test]
fn failures_name_the_file() {
    let at = folder();
    let job = ["--name=a", "--size=64k", "--filename=/nonexistent/f"];
    for engine in ["--ioengine=psync", "--ioengine=io_uring"] {
        let (result, _, stderr) = output(ours().current_dir(at.path()).args(job).arg(engine));
        assert_eq!(result.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("/nonexistent/f"), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
    let job = [
        "--name=a",
        "--filename=/dev/full",
        "--size=64k",
        "--rw=write",
    ];
    let (result, _, stderr) = output(ours().current_dir(at.path()).args(job));
    assert_eq!(result.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("/dev/full"), "{stderr}");
}

fn interrupted(extra: &[&str], signals: &[&str]) -> (Option<i32>, String) {
    let at = folder();
    let mut child = ours()
        .current_dir(at.path())
        .args([
            "--name=a",
            "--size=64k",
            "--rw=randread",
            "--time_based",
            "--runtime=600",
        ])
        .args(["--output-format=json", "--eta=never"])
        .args(extra)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The file is laid out before the handlers matter: I/O is on soon after.
    while !at.path().join("a.0.0").exists() {
        std::hint::spin_loop();
    }
    succeed(Command::new("sleep").arg("0.5"));
    for signal in signals {
        succeed(Command::new("kill").arg(signal).arg(child.id().to_string()));
        succeed(Command::new("sleep").arg("0.05"));
    }
    let mut text = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    (child.wait().unwrap().code(), text)
}

/// The first signal ends the run with a valid report and status 130.
#[test]
fn an_interrupted_run_reports_what_it_measured() {
    for signal in ["-INT", "-TERM"] {
        let (code, text) = interrupted(&[], &[signal]);
        assert_eq!(code, Some(130));
        let report: Value = serde_json::from_str(&text).unwrap();
        assert!(report["jobs"][0]["read"]["total_ios"].as_u64().unwrap() > 0);
    }
    // A job that has not begun its I/O is stopped too.
    let (code, text) = interrupted(&["--startdelay=600"], &["-INT"]);
    assert_eq!(code, Some(130));
    let _: Value = serde_json::from_str(&text).unwrap();
}

/// The first signal is answered at once though a command is never completed, and a second one
/// does not wait for it.
#[test]
fn a_second_signal_leaves_at_once() {
    let at = folder();
    let mut child = ours()
        .current_dir(at.path())
        .args([
            "--name=a",
            "--size=64k",
            "--rw=read",
            "--ioengine=underpin",
            "--filename=emu:size=1m,fault=drop@op=read",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let id = child.id().to_string();
    let signal = || succeed(Command::new("kill").args(["-INT", &id]));
    succeed(Command::new("sleep").arg("0.4"));
    signal();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let told = lines.find(|line| line.as_ref().unwrap().contains("terminating on signal"));
    assert!(told.unwrap().unwrap().contains("second signal"));
    assert_eq!(child.try_wait().unwrap(), None);
    signal();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

/// A signal while a file is filled ends that, however long the file is to be.
#[test]
fn a_signal_ends_the_layout() {
    let at = folder();
    let mut child = ours()
        .current_dir(at.path())
        .args([
            "--name=a",
            "--size=512t",
            "--rw=read",
            "--output-format=json",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !at.path().join("a.0.0").exists() {
        std::hint::spin_loop();
    }
    succeed(Command::new("kill").args(["-INT", &child.id().to_string()]));
    let mut text = String::new();
    let mut out = child.stdout.take().unwrap();
    out.read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let _: Value = serde_json::from_str(&text).unwrap();
}

/// Pipes, folders and character devices are refused by name and kind; opening a pipe to see
/// would wait for somebody else to open it.
#[test]
fn only_files_and_block_devices_are_opened() {
    let at = folder();
    succeed(Command::new("mkfifo").current_dir(at.path()).arg("pipe"));
    std::fs::create_dir(at.path().join("folder")).unwrap();
    for engine in ["psync", "io_uring"] {
        for (file, kind) in [
            ("pipe", "named pipe"),
            ("folder", "directory"),
            ("/dev/zero", "character device"),
        ] {
            let (result, _, stderr) = output(ours().current_dir(at.path()).args([
                "--name=a",
                "--size=4k",
                "--rw=read",
                &format!("--ioengine={engine}"),
                &format!("--filename={file}"),
            ]));
            assert_eq!(result.status.code(), Some(1), "{stderr}");
            assert!(stderr.contains(file) && stderr.contains(kind), "{stderr}");
        }
    }
}

/// A name that is not UTF-8 is an error, not another name.
#[test]
fn names_are_never_changed() {
    let at = folder();
    let name = OsStr::from_bytes(b"--output=x\xff");
    let job = ["--name=a", "--size=64k", "--rw=write"];
    let (result, _, stderr) = output(ours().current_dir(at.path()).args(job).arg(name));
    assert_eq!(result.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("argument 4") && stderr.contains("UTF-8"),
        "{stderr}"
    );
    let job = b"[a]\nsize=64k\nrw=write\nfilename=x\xff\n";
    std::fs::write(at.path().join("x.fio"), job).unwrap();
    let (result, _, stderr) = output(ours().current_dir(at.path()).arg("x.fio"));
    assert_eq!(result.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("x.fio:4:") && stderr.contains("UTF-8"),
        "{stderr}"
    );
    assert_eq!(std::fs::read_dir(at.path()).unwrap().count(), 1);
    // The mark with which some editors begin a file is no part of it.
    write(at.path(), "x.fio", "\u{feff}[a]\nsize=64k\nrw=write\n");
    succeed(ours().current_dir(at.path()).arg("x.fio"));
}

/// What io_uring cannot have in flight is refused with the limit.
#[test]
fn a_ring_has_its_limit() {
    let at = folder();
    let job = [
        "--name=a",
        "--size=64k",
        "--ioengine=io_uring",
        "--iodepth=32769",
    ];
    let (result, _, stderr) = output(ours().current_dir(at.path()).args(job));
    assert_eq!(result.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("iodepth=32769") && stderr.contains("32768"),
        "{stderr}"
    );
}

/// Help, version and manual that could not be written are a wrong command line, as with a closed
/// output, and told in one line.
#[test]
fn help_that_is_lost_is_a_failure() {
    for asked in ["--help", "--version", "--man", "--completions=bash"] {
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let (result, _, stderr) = output(ours().arg(asked).stdout(full));
        assert_eq!(result.status.code(), Some(2), "{asked}: {stderr}");
        let is_one = stderr.lines().count() == 1 && stderr.contains("cannot write the answer");
        assert!(is_one, "{asked}: {stderr}");
    }
}

/// Standard error that is full, as on a disk of logs, costs neither the report nor the exit status,
/// whichever thread has something to say.
#[test]
fn a_full_standard_error_changes_nothing() {
    for fault in ["status:0x281@op=read+nth=9", "cfs@op=read+nth=9"] {
        let full = std::fs::File::options().write(true).open("/dev/full");
        let mut program = ours();
        program.env("RUST_LOG", "debug").args([
            "--name=a",
            "--ioengine=underpin",
            "--rw=read",
            "--size=1m",
            "--output-format=json",
            &format!("--filename=emu:size=1m,fault={fault}"),
        ]);
        let (result, stdout, _) = output(program.stderr(full.unwrap()));
        assert_eq!(result.status.code(), Some(1), "{fault}");
        let report: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(report["jobs"][0]["error"], 5, "{fault}");
    }
    let full = std::fs::File::options().write(true).open("/dev/full");
    let (result, _, _) = output(ours().arg("--bogus=1").stderr(full.unwrap()));
    assert_eq!(result.status.code(), Some(2));
}

/// Stock fio's options that job files in the wild use are all known here, one
/// way or another: no option of fio is answered with "unknown".
#[test]
fn every_option_of_fio_is_known() {
    let list = succeed(stock().arg("--cmdhelp=all"));
    let names: Vec<&str> = list
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(|name| name.trim_end_matches(':'))
        .collect();
    assert!(names.len() > 150, "{}", names.len());
    let unknown: Vec<&str> = names
        .into_iter()
        .filter(|name| {
            let (result, _, _) = output(ours().arg(format!("--cmdhelp={name}")));
            !result.status.success()
        })
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
