//! `underpin passthru`: any command, as it is given.
use crate::args::{DEVICE_URLS, device_url};
use crate::device;
use crate::failure::Failure;
use crate::identify::rows::hexadecimal;
use crate::number::number;
use crate::output::Answer;
use crate::text::{dump, escape};
use serde_json::json;
use std::io::Read;
use std::path::{Path, PathBuf};
use underpin::nvme::{Passthrough, PassthroughAnswer, PassthroughData};
use underpin::spec::{AdminOpcode, NvmOpcode};
use underpin::{Controller, DeviceUrl, Error, Nsid, QueueOptions};

/// No command has more data.
const LONGEST: u64 = 64 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct PassthruArgs {
    /// The device; with ?ns=N that namespace
    #[arg(
        value_name = "URL",
        value_parser = device_url,
        long_help = format!("The device; with ?ns=N that namespace\n\n{DEVICE_URLS}")
    )]
    url: DeviceUrl,
    /// Which queue it goes to
    queue: Queue,
    /// The command
    #[arg(long, value_name = "N", value_parser = number::<u8>)]
    opcode: u8,
    /// The namespace, where the URL does not say; an I/O command goes to the first without it
    #[arg(long, value_name = "N", value_parser = number::<u32>)]
    nsid: Option<u32>,
    #[command(flatten)]
    dwords: Dwords,
    /// So many bytes come from the device
    #[arg(long, value_name = "BYTES", value_parser = number::<usize>, conflicts_with = "data_out")]
    data_in: Option<usize>,
    /// The bytes of this file go to the device; - is standard input
    #[arg(long, value_name = "FILE")]
    data_out: Option<PathBuf>,
    /// How long an admin command may take; a late one fails the controller
    #[arg(long, value_name = "MS", value_parser = number::<u32>)]
    timeout_ms: Option<u32>,
    /// Send it though it breaks what the driver relies on, or the device says that it lacks it
    #[arg(long)]
    dangerous: bool,
    /// Write the bytes from the device as they are, and nothing else
    #[arg(long, requires = "data_in", conflicts_with = "json")]
    binary: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Command dwords that the driver does not fill in.
#[derive(Debug, clap::Args)]
struct Dwords {
    /// Command dword 2
    #[arg(long, value_name = "N", value_parser = number::<u32>, default_value = "0")]
    cdw2: u32,
    /// Command dword 3
    #[arg(long, value_name = "N", value_parser = number::<u32>, default_value = "0")]
    cdw3: u32,
    /// Command dword 10
    #[arg(long, value_name = "N", value_parser = number::<u32>, default_value = "0")]
    cdw10: u32,
    /// Command dword 11
    #[arg(long, value_name = "N", value_parser = number::<u32>, default_value = "0")]
    cdw11: u32,
    /// Command dword 12
    #[arg(long, value_name = "N", value_parser = number::<u32>, default_value = "0")]
    cdw12: u32,
    /// Command dword 13
    #[arg(long, value_name = "N", value_parser = number::<u32>, default_value = "0")]
    cdw13: u32,
    /// Command dword 14
    #[arg(long, value_name = "N", value_parser = number::<u32>, default_value = "0")]
    cdw14: u32,
    /// Command dword 15
    #[arg(long, value_name = "N", value_parser = number::<u32>, default_value = "0")]
    cdw15: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Queue {
    /// The admin queue
    Admin,
    /// An I/O queue
    Io,
}

pub(crate) fn run(args: &PassthruArgs) -> Result<(), Failure> {
    if let (Some(nsid), Some(url)) = (args.nsid, args.url.nsid)
        && Nsid(nsid) != url
    {
        return Err(Failure::usage(
            format!("--nsid {nsid} is not the URL's namespace {url}"),
            "leave one of them out",
        ));
    }
    if args.queue == Queue::Io && args.timeout_ms.is_some() {
        return Err(Failure::usage(
            "--timeout-ms is for admin commands; those of an I/O queue have the queue's deadline",
            "leave it out",
        ));
    }
    let data = match (args.data_in, &args.data_out) {
        (Some(len_bytes), _) if len_bytes as u64 > LONGEST => {
            return Err(Failure::usage(
                format!("--data-in {len_bytes} is more than any command has"),
                "64 MiB are the most",
            ));
        }
        (Some(len_bytes), _) => PassthroughData::In(len_bytes),
        (None, Some(path)) => PassthroughData::Out(read_file(path)?),
        (None, None) => PassthroughData::None,
    };
    let Dwords {
        cdw2,
        cdw3,
        cdw10,
        cdw11,
        cdw12,
        cdw13,
        cdw14,
        cdw15,
    } = args.dwords;
    let command = Passthrough {
        opcode: args.opcode,
        nsid: args.nsid.map(Nsid).or(args.url.nsid).unwrap_or(Nsid(0)),
        cdw2,
        cdw3,
        cdw10,
        cdw11,
        cdw12,
        cdw13,
        cdw14,
        cdw15,
        data,
        timeout_ms: args.timeout_ms,
        overrule_driver: args.dangerous,
    };
    device::answer(&args.url, |controller| {
        let answer = match args.queue {
            Queue::Admin => controller.admin_passthrough(&command)?,
            Queue::Io => io(controller, &command)?,
        };
        Ok(show(args, answer))
    })
}

/// An I/O command on a queue of its own.
fn io(controller: &Controller, command: &Passthrough) -> Result<PassthroughAnswer, Error> {
    let nsid = Some(command.nsid).filter(|&nsid| nsid != Nsid(0));
    let namespace = controller.namespace(nsid)?;
    // Base 2.0, 3.3.3.1: bits 1:0 of an opcode tell which way its data go.
    let wrong_way = match &command.data {
        PassthroughData::In(_) if command.opcode & 0b10 == 0 => Some("from"),
        PassthroughData::Out(_) if command.opcode & 0b01 == 0 => Some("to"),
        _ => None,
    };
    if let Some(way) = wrong_way {
        let opcode = NvmOpcode(command.opcode);
        return Err(Error::Request(format!(
            "{opcode} ({:#04x}) has no data {way} the device, by the low two bits of its opcode",
            command.opcode
        )));
    }
    let len_bytes = match &command.data {
        PassthroughData::In(len_bytes) => *len_bytes,
        PassthroughData::Out(bytes) => bytes.len(),
        _ => 0,
    };
    let raw = namespace.passthrough(command, len_bytes as u64)?;
    let mut queue = controller.queue_pair(QueueOptions::default())?;
    if len_bytes == 0 {
        let token = queue.submit_raw_bare(raw)?;
        let completion: underpin::Completion<underpin::DmaBuf> = queue.wait_for(token);
        completion.result?;
        return Ok(PassthroughAnswer {
            dw0: completion.dw0,
            data: Vec::new(),
        });
    }
    let mut buffer = controller.space().alloc(len_bytes, 4096)?;
    if let PassthroughData::Out(bytes) = &command.data {
        buffer
            .copy_from(0, bytes)
            .map_err(underpin::dma::Error::from)?;
    }
    let (buffer, dw0) = queue.run_raw(raw, buffer)?;
    let mut data = Vec::new();
    if let PassthroughData::In(len_bytes) = command.data {
        data.resize(len_bytes, 0);
        buffer
            .copy_to(0, &mut data)
            .map_err(underpin::dma::Error::from)?;
    }
    Ok(PassthroughAnswer { dw0, data })
}

fn show(args: &PassthruArgs, answer: PassthroughAnswer) -> Answer {
    let PassthroughAnswer { dw0, data } = answer;
    if args.binary {
        return Answer::Bytes(data);
    }
    let name = match args.queue {
        Queue::Admin => AdminOpcode(args.opcode).to_string(),
        Queue::Io => NvmOpcode(args.opcode).to_string(),
    };
    if args.json {
        return Answer::Json(json!({
            "url": args.url.to_string(),
            "opcode": args.opcode,
            "name": name,
            "dword": dw0,
            "data": args.data_in.map(|_| hexadecimal(data.iter())),
        }));
    }
    let head = format!(
        "{name} ({:#04x}) succeeded; the answer is {dw0:#010x}\n",
        args.opcode
    );
    Answer::Text(head + &dump(&data))
}

/// The bytes of a file of the user's, or of standard input.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        let stdin = std::io::stdin().lock();
        stdin.take(LONGEST + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes))
    };
    let name = escape(&path.to_string_lossy());
    match read {
        Err(error) => Err(Failure::file(
            format!("{name} cannot be read: {error}"),
            "name a file that is there, or - for standard input",
        )),
        Ok(_) if bytes.len() as u64 > LONGEST => Err(Failure::file(
            format!("{name} has more than {LONGEST} bytes"),
            "no command has more data; cut the file",
        )),
        Ok(_) if bytes.is_empty() => Err(Failure::file(
            format!("{name} is empty"),
            "leave it out for a command without data",
        )),
        Ok(_) => Ok(bytes),
    }
}
