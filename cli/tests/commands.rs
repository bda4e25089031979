//! `underpin log`, `features` and `passthru`: what a device remembers, is set to, and is told.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod support;

use serde_json::{Value, json};
use support::{command, run};
use underpin::spec::log::SmartLog;

fn names(object: &Value) -> Vec<&str> {
    object
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

/// The health page by name, every field of the specification; the same page as bytes.
#[test]
fn the_health_log_has_every_field() {
    let found = run(["log", "smart", "emu:size=4m", "--json"])
        .ends(0)
        .json();
    let fields: Vec<_> = SmartLog::FIELDS.iter().map(|field| field.name).collect();
    assert_eq!(names(&found)[2..], fields);
    assert_eq!(
        (&found["url"], &found["log"]),
        (&json!("emu:size=4m"), &json!("smart"))
    );
    let text = run(["log", "smart", "emu:size=4m"]).ends(0).stdout;
    for field in fields {
        let shown = |line: &str| line.split_whitespace().next() == Some(field);
        assert!(text.lines().any(shown), "{field} in\n{text}");
    }
    let raw = ["log", "--raw", "0x02", "--len", "512", "emu:size=4m"];
    let output = command(raw.iter().chain(&["--binary"])).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 512));
    let found = run(raw.iter().chain(&["--json"])).ends(0).json();
    assert_eq!(found["name"], "SMART / Health Information");
    assert_eq!(found["data"].as_str().unwrap().len(), 1024);
    let text = run(raw).ends(0).stdout;
    assert!(text.starts_with("00000000  "), "{text}");
}

/// Errors that the device remembers; none is said in words.
#[test]
fn the_error_log_is_a_list() {
    let found = run(["log", "error", "emu:size=4m", "--json"])
        .ends(0)
        .json();
    assert!(found["entries"].is_array(), "{found}");
    let text = run(["log", "error", "emu:size=4m"]).ends(0).stdout;
    assert!(!text.is_empty());
}

/// What cannot be meant is refused before a device is opened; a device's refusal has its status.
#[test]
fn logs_that_cannot_be_read_are_refused() {
    for args in [
        &["emu:size=4m"][..],
        &["--raw", "2", "emu:size=4m"],
        &["smart", "--raw", "2", "--len", "4", "emu:size=4m"],
        &["--raw", "0x100", "--len", "4", "emu:size=4m"],
        &["firmware", "emu:size=4m?ns=1"],
        &["weather", "emu:size=4m"],
        &["smart", "emu:size=4m", "--binary"],
    ] {
        let run = run([&["log"][..], args].concat()).ends(2);
        assert!(run.stdout.is_empty() && !run.stderr.is_empty(), "{args:?}");
    }
    let refused = run([
        "log",
        "--raw",
        "0xc5",
        "--len",
        "512",
        "emu:size=4m",
        "--json",
    ])
    .ends(1);
    assert_eq!(refused.json()["error"]["code"], "status");
    let odd = run(["log", "--raw", "2", "--len", "3", "emu:size=4m", "--json"]).ends(1);
    assert_eq!(odd.json()["error"]["code"], "request");
}

/// By name or by number, one or all; set and read back what was answered.
#[test]
fn features_are_read_and_set_by_name_and_number() {
    let url = "emu:size=4m,vwc=on";
    let all = run(["features", url, "--json"]).ends(0).json();
    let all = all["features"].as_array().unwrap();
    let cache = all.iter().find(|feature| feature["feature"] == 6).unwrap();
    assert_eq!(
        (&cache["value"], &cache["meaning"]),
        (&json!(1), &json!("on"))
    );
    assert!(
        run(["features", url])
            .ends(0)
            .stdout
            .contains("volatile-write-cache")
    );
    for name in ["6", "0x06", "volatile-write-cache", "Volatile-Write-Cache"] {
        let one = run(["features", url, "get", name, "--json"]).ends(0).json();
        assert_eq!(one["value"], 1);
        assert_eq!(one["name"], "Volatile Write Cache");
    }
    let supported = ["features", url, "get", "6", "--select", "supported"];
    assert!(run(supported).ends(0).stdout.contains("changeable"));
    let set = [
        "features",
        url,
        "set",
        "volatile-write-cache",
        "--value",
        "0",
    ];
    assert!(run(set).ends(0).stdout.contains("is set"));
    let found = run(set.iter().chain(&["--json"])).ends(0).json();
    assert_eq!((&found["feature"], &found["set"]), (&json!(6), &json!([0])));

    for args in [
        &["set", "6"][..],
        &["get", "6", "--value", "1"],
        &["get"],
        &["set", "--value", "1"],
        &["get", "cache"],
        &["set", "6", "--value", "0x100000000"],
    ] {
        run([&["features", url][..], args].concat()).ends(2);
    }
    // The number of queues is the driver's business.
    let refused = run(["features", url, "set", "7", "--value", "0", "--json"]).ends(1);
    assert_eq!(refused.json()["error"]["code"], "refused");
    let lacking = run(["features", url, "get", "0xc0", "--json"]).ends(1);
    assert_eq!(lacking.json()["error"]["code"], "status");
    let lacking = run(["features", "emu:size=4m,vwc=off", "get", "6", "--json"]).ends(1);
    assert_eq!(lacking.json()["error"]["code"], "unsupported");
}

/// An admin command brings the very page that identify shows; blocks go to the medium and come
/// back from it.
#[test]
fn any_command_can_be_sent() {
    let page = command(["identify", "emu:size=4m,serial=S", "--raw"])
        .output()
        .unwrap()
        .stdout;
    let identify =
        "passthru emu:size=4m,serial=S admin --opcode 6 --cdw10 1 --data-in 4096 --binary";
    let sent = command(identify.split(' ')).output().unwrap();
    assert_eq!(sent.stdout, page);

    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let block: Vec<u8> = (0..512).map(|at| (at % 251) as u8).collect();
    std::fs::write(at("block"), &block).unwrap();
    let url = format!("emu:size=1m,file={}", at("disk"));
    // Block 3: dwords 10 and 11; one block: dword 12 is 0.
    let write = ["passthru", &url, "io", "--opcode", "1", "--cdw10", "3"];
    let block_path = at("block");
    run(write.iter().copied().chain(["--data-out", &block_path])).ends(0);
    assert_eq!(std::fs::read(at("disk")).unwrap()[1536..2048], block);
    let read = [
        "passthru",
        &url,
        "io",
        "--opcode",
        "2",
        "--cdw10",
        "3",
        "--data-in",
        "512",
    ];
    let sent = command(read.iter().copied().chain(["--binary"]))
        .output()
        .unwrap();
    assert_eq!(sent.stdout, block);
    let found = run(read.iter().copied().chain(["--json"])).ends(0).json();
    assert_eq!(
        (&found["name"], &found["dword"]),
        (&json!("Read"), &json!(0))
    );
    assert!(found["data"].as_str().unwrap().starts_with("000102030405"));
    let flush = run(["passthru", &url, "io", "--opcode", "0", "--json"])
        .ends(0)
        .json();
    assert_eq!(flush["data"], Value::Null);
}

/// What would break the driver is not sent without being told so; what the device refuses is told
/// with its status; what makes no sense is no command.
#[test]
fn commands_that_should_not_be_sent() {
    let admin = |more: &str| {
        let line = format!("passthru emu:size=4m admin --json {more}");
        run(line.split(' ').map(str::to_owned))
    };
    let delete = "--opcode 0x00 --cdw10 1";
    assert_eq!(admin(delete).ends(1).json()["error"]["code"], "refused");
    let sent = admin(&format!("{delete} --dangerous")).ends(1).json();
    assert_eq!(sent["error"]["status"]["name"], "Invalid Queue Identifier");
    let wrong_way = admin("--opcode 0x06 --cdw10 1 --data-out Cargo.toml").ends(1);
    assert_eq!(wrong_way.json()["error"]["code"], "request");
    let wrong_way = "passthru emu:size=4m io --opcode 2 --data-out Cargo.toml --json";
    let wrong_way = run(wrong_way.split(' ')).ends(1).json();
    assert_eq!(wrong_way["error"]["code"], "request");
    for line in [
        "passthru emu:size=4m admin",
        "passthru emu:size=4m --opcode 6",
        "passthru emu:size=4m admin --opcode 256",
        "passthru emu:size=4m admin --opcode 6 --data-in 4 --data-out x",
        "passthru emu:size=4m?ns=1 io --opcode 0 --nsid 2",
        "passthru emu:size=4m io --opcode 2 --data-in 99999999999",
        "passthru emu:size=4m io --opcode 2 --data-in 512 --timeout-ms 5",
    ] {
        run(line.split(' ')).ends(2);
    }
    let missing = "passthru emu:size=4m io --opcode 1 --data-out /nonexistent --json";
    assert_eq!(
        run(missing.split(' ')).ends(1).json()["error"]["code"],
        "file"
    );
    let beyond = "passthru emu:size=4m io --opcode 2 --cdw10 99999 --data-in 512 --json";
    let beyond = run(beyond.split(' ')).ends(1).json();
    assert_eq!(beyond["error"]["status"]["name"], "LBA Out of Range");
    let no_namespace = "passthru emu:size=4m?ns=2 io --opcode 0 --json";
    assert_eq!(
        run(no_namespace.split(' ')).ends(1).json()["error"]["code"],
        "no-namespace"
    );
}

/// What was learnt is right, but the device is not: both are told, as one object on standard output.
#[test]
fn a_device_that_does_not_close_fails_the_command_after_its_answer() {
    let url = "emu:size=4m,to_ms=500,fault=never-disabled@op=disable";
    for args in [
        &["identify", url][..],
        &["log", "smart", url],
        &["list", url],
    ] {
        let run = run(args.iter().chain(&["--json"])).ends(1);
        run.json();
        assert!(
            run.stderr.contains("did not become disabled"),
            "{}",
            run.stderr
        );
    }
}

/// An option that would do nothing is a mistake, not a surprise: whoever gives it believes that
/// something was set, or left as it is.
#[test]
fn options_without_effect_are_refused() {
    for line in [
        "features emu:size=4m --value 0",
        "log changed-ns --retain emu:size=4m",
        "log smart emu:size=4m --offset 8",
        "log smart emu:size=4m --lsp 1",
        "log smart emu:size=4m --lsi 1",
    ] {
        run(line.split(' ')).ends(2);
    }
    for rest in ["", " get 6", " set 6 --value 0"] {
        let line = format!("features emu:size=4m?ns=7 --json{rest}");
        let error = run(line.split(' ')).ends(1).json();
        assert_eq!(error["error"]["code"], "no-namespace", "{line}");
    }
}

/// JSON tells as much as the text does: what is missing, which values there are.
#[test]
fn mistakes_in_json_are_whole() {
    for (line, told) in [
        ("identify --json", "<URL>"),
        ("log --json --raw 2 emu:size=4m", "--len <BYTES>"),
        ("log --json bogus emu:size=4m", "smart"),
    ] {
        let error = run(line.split(' ')).ends(2).json();
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(told), "{line}: {message}");
        assert!(!message.contains("Usage"), "{line}: {message}");
    }
}

/// Standard error that is full, as on a disk of logs, changes neither answer nor exit status.
#[test]
fn a_full_standard_error_changes_nothing() {
    for (line, status, json) in [
        ("identify --json emu:size=4m?ns=2", 1, true),
        ("identify nvme0", 2, false),
        ("list emu:size=4m", 0, false),
    ] {
        let full = std::fs::File::options().write(true).open("/dev/full");
        let ended = command(line.split(' '))
            .env("RUST_LOG", "debug")
            .stderr(full.unwrap())
            .output()
            .unwrap();
        assert_eq!(ended.status.code(), Some(status), "{line}");
        if json {
            let answer: Value = serde_json::from_slice(&ended.stdout).unwrap();
            assert_eq!(answer["error"]["code"], "no-namespace");
        }
    }
}

/// Help, version, manual and completions that a full disk does not take are lost, and that is said
/// once, with the status of a closed output. An answer of a device that is lost is the machine's
/// failure.
#[test]
fn a_full_standard_output_is_an_error() {
    let ended = |line: &str| {
        let full = std::fs::File::options().write(true).open("/dev/full");
        let run = command(line.split(' ')).stdout(full.unwrap()).output();
        let run = run.unwrap();
        (run.status.code(), String::from_utf8(run.stderr).unwrap())
    };
    let help = run(["--help"]).ends(0).stdout;
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let list = list.take_while(|line| !line.is_empty());
    // What a name says may go on in the next line, further in.
    let names = list.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let names: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    assert!(names.len() >= 11 && names.contains(&"doctor"), "{names:?}");
    let mut lines: Vec<String> = ["--help", "-h", "--version", "-V", "help", "man"]
        .map(str::to_owned)
        .to_vec();
    lines.extend(["bash", "zsh", "fish"].map(|shell| format!("completions {shell}")));
    for name in names.iter().filter(|name| **name != "help") {
        lines.extend([format!("{name} --help"), format!("help {name}")]);
    }
    for line in &lines {
        let (status, stderr) = ended(line);
        assert_eq!(status, Some(2), "{line}: {stderr}");
        let said = stderr.matches("could not be written").count();
        assert!(said == 1 && stderr.lines().count() == 2, "{line}: {stderr}");
    }
    for line in ["list", "identify emu:size=1m", "doctor"] {
        let (status, stderr) = ended(line);
        assert_eq!(status, Some(1), "{line}: {stderr}");
        assert!(stderr.contains("could not be written"), "{line}: {stderr}");
    }
}

/// Without a standard output the answer would be lost: that is an error, and nothing is asked of
/// the device, or changed in it, before. What is sent to /dev/null was meant to be.
#[test]
fn a_closed_standard_output_is_an_error() {
    let program = command([""; 0]).get_program().to_owned();
    let run = |line: &str| {
        let mut shell = std::process::Command::new("sh");
        let script = format!("exec \"$0\" {line}");
        let ended = shell.arg("-c").arg(script).arg(&program).output().unwrap();
        (
            ended.status.code(),
            String::from_utf8(ended.stderr).unwrap(),
        )
    };
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("a.img");
    let device = format!("emu:size=1m,file={}", image.display());
    for line in [
        &format!("identify {device}"),
        &format!("identify --json {device}"),
        "list",
        "completions bash",
        "man",
        "--help",
        "serve --help",
        "--version",
    ] {
        let (status, stderr) = run(&format!("{line} >&-"));
        assert_eq!(status, Some(2), "{line}: {stderr}");
        assert!(
            stderr.contains("standard output is closed"),
            "{line}: {stderr}"
        );
        assert!(!image.exists(), "{line}: no device was opened");
        assert_eq!(run(&format!("{line} >/dev/null")).0, Some(0), "{line}");
        let made = std::fs::remove_file(&image).is_ok();
        assert_eq!(made, line.contains("emu:"), "{line}");
    }
    // Pages that go to a folder need none.
    let to_folder = format!("man --dir {} >&-", folder.path().display());
    assert_eq!(run(&to_folder).0, Some(0));
    assert!(folder.path().join("underpin.1").exists());
}

/// Where the language of faults is told, for whoever reads the help alone.
#[test]
fn the_help_of_serve_names_the_language_of_faults() {
    let help = run(["serve", "--help"]).ends(0).stdout;
    assert!(help.contains("driver/emulator/FAULTS.md"), "{help}");
}
