//! The command line: what can be asked, and help that is worth reading.
//! A URL is understood here, so that a misspelt one is refused before any device is touched.
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use underpin::DeviceUrl;
use underpin::emulator::EmulatorConfig;
use underpin::nvme::{DeviceAddress, PciAddress};

pub(crate) const DEVICE_URLS: &str = "\
Device URLs:
  emu:KEY=VALUE,...    an NVMe controller in software, inside this process: no device, no
                       driver and no privilege needed. It ends with the command.
      size=1g          what the namespace holds; in memory unless file= is given
      file=PATH        keep it in this file, which is made when it is missing
      lba=4096         bytes of a block: 512 (default) or 4096
      ns=2,ns2.lba=4096   several namespaces, and options of one of them
  URL?ns=N             namespace N of a device
  vfio-user:SOCKET     a controller that another process serves at a Unix socket; see
                       `underpin help serve`
  pci:0000:01:00.0     a controller on the PCI bus that is bound to vfio-pci; `underpin list`
                       shows them, `underpin bind` gives one to VFIO";

/// Finds and describes NVMe devices for the Underpin userspace driver.
#[derive(Debug, Parser)]
#[command(
    name = "underpin",
    version = env!("UNDERPIN_VERSION"),
    about = "List, describe and command NVMe devices with Underpin's userspace driver",
    arg_required_else_help = true,
    after_help = concat!(
        "Examples:\n",
        "  underpin list                       NVMe controllers on this machine's PCI bus\n",
        "  underpin list emu:size=1g           and one in software\n",
        "  underpin identify emu:size=1g       all that it says of itself, by name\n",
        "  underpin identify emu:size=1g --json | jq .controller.mdts\n",
        "  underpin log smart emu:size=1g      how it is doing\n",
        "\n",
        "Exit status: 0 fine; 1 a device could not be opened or failed, or the answer could not\n",
        "be written; 2 the command line is wrong. With --json an error is an object, too:\n",
        "{\"error\": {\"code\", \"message\", \"hint\"}}. RUST_LOG=debug shows on standard error\n",
        "what the driver does; RUST_LOG=underpin_nvme=trace chooses a part of it.\n",
        "`underpin help identify` explains device URLs."
    )
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the NVMe controllers on the PCI bus, and any device named by URL
    #[command(
        long_about = "Lists the NVMe controllers on the PCI bus as the kernel shows them in sysfs \
            (nothing is opened or changed), and opens every device named by URL to list its \
            namespaces.",
        after_help = concat!(
            "Examples:\n",
            "  underpin list\n",
            "  underpin list 'emu:size=1g' 'emu:ns=2,size=64m,lba=4096'\n",
            "  underpin list --json | jq -r '.pci[] | [.address, .driver] | @tsv'"
        )
    )]
    List(ListArgs),
    /// Take NVMe functions from the kernel's driver, for userspace
    #[command(
        long_about = "Binds NVMe functions to vfio-pci, so that programs can open them as \
            pci:ADDRESS. Needs root. A function is refused as long as one of its block devices is \
            mounted, swapped on, part of a device-mapper or RAID device, or held or opened by a \
            process; the answer names the holder. All functions are looked at before the first is \
            bound, and a step that fails is taken back. sysfs is the only state: nothing is \
            installed, and nothing stays after the next start.",
        after_help = concat!(
            "Examples:\n",
            "  sudo underpin bind 0000:01:00.0\n",
            "  sudo underpin bind 01:00.0 --owner $(id -u)     and this user needs no root\n",
            "  sudo underpin bind 01:00.0 --persist            how to have it at every start\n",
            "  underpin unbind 01:00.0                         gives it back (as root)\n",
            "\n",
            "With --json an error's code says what to do: in-use (its block devices), iommu (its\n",
            "IOMMU group), driver (vfio-pci), sysfs (a write was refused), address (no such one)."
        )
    )]
    Bind(crate::bind::BindArgs),
    /// Give NVMe functions back to the kernel's driver
    #[command(
        long_about = "Gives NVMe functions that are bound to vfio-pci back to the kernel's own \
            driver. Needs root. One that a process has open is refused, as the kernel would wait \
            for that process. A function that the kernel has already is left alone.",
        after_help = concat!(
            "Examples:\n",
            "  sudo underpin unbind 0000:01:00.0\n",
            "  sudo underpin unbind --all                      every NVMe function with vfio-pci"
        )
    )]
    Unbind(crate::unbind::UnbindArgs),
    /// Check whether this machine lets this user drive NVMe devices from userspace
    #[command(
        long_about = "Looks at the IOMMU, interrupt remapping, the kernel's VFIO, each NVMe \
            function's IOMMU group and node in /dev/vfio, and the limits on locked memory, memory \
            and threads. Each line is ok, warn or FAIL with the next step. It changes nothing. Run \
            it as the user, and in the container, that is to drive the device. Exit status: 0 if \
            nothing fails, 1 otherwise.",
        after_help = concat!(
            "Examples:\n",
            "  underpin doctor\n",
            "  underpin doctor --json | jq -r '.checks[] | select(.verdict == \"fail\").hint'"
        )
    )]
    Doctor(crate::doctor::DoctorArgs),
    /// Show what a controller and its namespaces say of themselves, every field by name
    #[command(
        long_about = "Opens a device, brings its controller up, and shows the capabilities \
            register, the Identify Controller page and the Identify Namespace pages, every field \
            by the specification's name with its meaning. Text from the device is escaped: what \
            is not printable ASCII appears as \\x1b.",
        after_help = concat!(
            "Examples:\n",
            "  underpin identify emu:size=1g\n",
            "  underpin identify 'emu:ns=2,size=64m?ns=2'     namespace 2 alone\n",
            "  underpin identify emu:size=1g --json | jq '.namespaces[0].identify.lbaf'\n",
            "  underpin identify emu:size=1g --raw | xxd | head"
        )
    )]
    Identify(IdentifyArgs),
    /// Read a log page: errors, health, firmware, changed namespaces, command effects, or raw
    #[command(
        allow_missing_positional = true,
        after_help = concat!(
            "Examples:\n",
            "  underpin log smart emu:size=1g\n",
            "  underpin log effects emu:size=1g --json | jq '.io[].name'\n",
            "  underpin log --raw 0x02 --len 512 emu:size=1g            as a dump\n",
            "  underpin log --raw 0x02 --len 512 --binary emu:size=1g | xxd"
        )
    )]
    Log(crate::log_page::LogArgs),
    /// Show what a controller is set to, or set it, by name or number
    #[command(
        after_help = concat!(
            "Examples:\n",
            "  underpin features emu:size=1g                                 all that it has\n",
            "  underpin features emu:size=1g get volatile-write-cache\n",
            "  underpin features emu:size=1g get 0x04 --select default --json\n",
            "  underpin features emu:size=1g set volatile-write-cache --value 0\n",
            "\n",
            "An emu: device ends with the command, and its settings with it."
        )
    )]
    Features(crate::features::FeaturesArgs),
    /// Send any admin or I/O command, with data in either direction
    #[command(
        long_about = "Sends a command as it is given. The driver fills in the identifier and where \
            the data lie, and refuses what would change queues, doorbells or blocks behind its \
            back, unless --dangerous is given.",
        after_help = concat!(
            "Examples:\n",
            "  underpin passthru emu:size=1g admin --opcode 0x06 --cdw10 1 --data-in 4096\n",
            "  underpin passthru 'emu:size=1g?ns=1' io --opcode 0x02 --data-in 512 --binary | xxd\n",
            "  underpin passthru emu:size=1g io --opcode 0x01 --data-out block.bin\n",
            "\n",
            "What a command does to the device is between you and the specification."
        )
    )]
    Passthru(crate::passthru::PassthruArgs),
    /// Serve a controller in software to other processes, at a Unix socket (vfio-user)
    #[command(
        long_about = "Makes an NVMe controller in software and serves it over vfio-user: other \
            processes open it as vfio-user:SOCKET. One client at a time; the next is served when \
            it has gone, in whatever way: its memory is let go, the controller is reset, what was \
            written stays. The socket is for the calling user only (mode 0600). When clients can \
            connect, one line is printed on standard output: listening on SOCKET. Ctrl-C and \
            SIGTERM end it, remove the socket and exit with 0.",
        after_help = concat!(
            "Examples:\n",
            "  underpin serve --socket /tmp/nvme.sock --size 1g\n",
            "  underpin identify vfio-user:/tmp/nvme.sock              in another terminal\n",
            "  underpin serve --socket s --file disk.img --lba 4096    a file's blocks\n",
            "  underpin serve --socket s --media null -o queues=4      nothing is stored\n",
            "  underpin serve --socket s --size 64m --fault drop@op=read+nth=100\n\n",
            "The language of faults, and what each of them does: driver/emulator/FAULTS.md in the \
             sources, or FaultKind in the manual (cargo doc -p underpin-emulator --open)."
        )
    )]
    Serve(ServeArgs),
    /// Print a shell's completion script
    #[command(after_help = concat!(
        "Examples:\n",
        "  underpin completions bash > ~/.local/share/bash-completion/completions/underpin\n",
        "  underpin completions fish > ~/.config/fish/completions/underpin.fish"
    ))]
    Completions(CompletionsArgs),
    /// Print the manual page, or write all of them to a folder
    #[command(after_help = concat!(
        "Examples:\n",
        "  underpin man | man -l -\n",
        "  underpin man --dir ~/.local/share/man/man1"
    ))]
    Man(ManArgs),
}

impl Command {
    /// Whether the answer, and so an error, is to be JSON.
    pub(crate) const fn json(&self) -> bool {
        match self {
            Self::List(args) => args.json,
            Self::Bind(args) => args.json,
            Self::Unbind(args) => args.json,
            Self::Doctor(args) => args.json,
            Self::Identify(args) => args.json,
            Self::Log(args) => args.json,
            Self::Features(args) => args.json,
            Self::Passthru(args) => args.json,
            Self::Serve(_) | Self::Completions(_) | Self::Man(_) => false,
        }
    }

    /// Whether what it prints is what it is called for. A server's one line is for whoever waits
    /// for it; pages that go to a folder need no output.
    pub(crate) const fn answers(&self) -> bool {
        match self {
            Self::Serve(_) => false,
            Self::Man(args) => args.dir.is_none(),
            _ => true,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// Write every page there, one for each command
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Devices to open and list as well
    #[arg(
        value_name = "URL",
        value_parser = device_url,
        long_help = format!("Devices to open and list as well\n\n{DEVICE_URLS}")
    )]
    pub(crate) urls: Vec<DeviceUrl>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Where sysfs is mounted
    #[arg(long, value_name = "DIR", default_value = "/sys")]
    pub(crate) sysfs: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct IdentifyArgs {
    /// The device; with ?ns=N that namespace alone
    #[arg(
        value_name = "URL",
        value_parser = device_url,
        long_help = format!("The device; with ?ns=N that namespace alone\n\n{DEVICE_URLS}")
    )]
    pub(crate) url: DeviceUrl,
    /// Print one JSON object, with every field of every page
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the page itself, 4096 bytes: the controller's, or with ?ns=N the namespace's
    #[arg(long, conflicts_with = "json")]
    pub(crate) raw: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// Where to make the socket; one that an ended server left there is replaced
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// What each namespace holds: 512m, 1g [default: the file's length, or 1g]
    #[arg(long, value_name = "BYTES")]
    pub(crate) size: Option<String>,
    /// What keeps the blocks: ram, file or null [default: ram]
    #[arg(long, value_name = "KIND")]
    pub(crate) media: Option<String>,
    /// Keep the blocks in this file, which is made when it is missing
    #[arg(long, value_name = "PATH")]
    pub(crate) file: Option<String>,
    /// Bytes of a block: 512 or 4096 [default: 512]
    #[arg(long, value_name = "BYTES")]
    pub(crate) lba: Option<String>,
    /// How many namespaces [default: 1]
    #[arg(long, value_name = "COUNT")]
    pub(crate) ns: Option<String>,
    /// Something that goes wrong, such as drop@op=read+nth=2 (FAULTS.md); may be given again
    #[arg(long, value_name = "SPEC")]
    pub(crate) fault: Vec<String>,
    /// Any other option of emu: URLs, such as ns2.lba=4096 or dbbuf=off; may be given again
    #[arg(short = 'o', long = "option", value_name = "KEY=VALUE")]
    pub(crate) options: Vec<String>,
    /// Take memory that its owner could shrink, as SPDK and QEMU give it
    #[arg(
        long,
        long_help = "Take memory that its owner could shrink, too: files on tmpfs or hugetlbfs, \
            and memfds without a seal, as SPDK and QEMU give them. A client that shrinks such a \
            file ends this server with SIGBUS; without this option its memory is refused."
    )]
    pub(crate) allow_unsealed: bool,
}

impl ServeArgs {
    /// The controller, as the text of an `emu:` URL has it.
    pub(crate) fn config(&self) -> Result<EmulatorConfig, underpin::emulator::EmulatorError> {
        let named = [
            ("size", &self.size),
            ("media", &self.media),
            ("file", &self.file),
            ("lba", &self.lba),
            ("ns", &self.ns),
        ];
        let named = named
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", value.as_ref()?)));
        let faults = self.fault.iter().map(|fault| format!("fault={fault}"));
        let all: Vec<String> = named.chain(faults).chain(self.options.clone()).collect();
        let config: EmulatorConfig = all.join(",").parse()?;
        Ok(config.named("served"))
    }
}

/// Understands a URL down to the last option of an embedded controller.
pub(crate) fn device_url(text: &str) -> Result<DeviceUrl, String> {
    let url: DeviceUrl = text
        .parse()
        .map_err(|error: underpin::nvme::DeviceUrlError| {
            format!("{}\n\n{DEVICE_URLS}", error.why)
        })?;
    if let DeviceAddress::Embedded(body) = &url.device {
        body.parse::<EmulatorConfig>()
            .map_err(|error| format!("{error}\n\n{DEVICE_URLS}"))?;
    }
    Ok(url)
}

/// Understands a PCI function, with or without `pci:` in front.
pub(crate) fn pci_address(text: &str) -> Result<PciAddress, String> {
    if text.contains("?ns=") {
        return Err("a function is bound whole: leave ?ns= out".to_owned());
    }
    let address = text.strip_prefix("pci:").unwrap_or(text).parse();
    address.map_err(|error| format!("{error}; `underpin list` shows them"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use clap::CommandFactory;

    /// clap checks its own rules: no two options of one name, no impossible default.
    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    /// A mistake in an option of an embedded controller is found before it is made.
    #[test]
    fn urls_are_checked_to_the_last_option() {
        assert!(device_url("emu:size=64m,lba=4096?ns=1").is_ok());
        for (url, hint) in [
            ("emu:szie=1g", "`size`"),
            ("emu:size=1g?ns=0", "from 1 up"),
            ("nvme0", "emu:"),
            ("pci:nvme0", "not a PCI address"),
        ] {
            let error = device_url(url).unwrap_err();
            assert!(error.contains(hint), "{url}: {error}");
            assert!(error.contains("Device URLs:"), "{url}: {error}");
        }
    }
}
