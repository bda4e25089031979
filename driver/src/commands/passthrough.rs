//! Commands that the driver does not know, sent as their caller has them: admin commands with
//! memory of the driver's own, I/O commands with the caller's buffer.
use super::call::{AdminCall, Data};
use super::features::switches_cache;
use crate::dma::Payload;
use crate::slots::{Describe, Head, Token};
use crate::{Controller, Error, Namespace, QueuePair, Refused};
use std::time::Duration;
use underpin_nvme_spec::nvm::{DatasetManagement, ReadWrite};
use underpin_nvme_spec::{AdminOpcode, Nsid, NvmOpcode, Sqe};

/// The data of a command.
///
/// ```
/// use underpin_nvme::{Error, Passthrough, PassthroughData};
///
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// // Set Features (0x09) takes data to the device; none come back.
/// let mut command = Passthrough { opcode: 0x09, cdw10: 0x0e, ..Passthrough::default() };
/// command.data = PassthroughData::In(8);
/// assert!(matches!(controller.admin_passthrough(&command), Err(Error::Request(_))));
/// command.data = PassthroughData::Out(vec![0; 8]);
/// controller.admin_passthrough(&command)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PassthroughData {
    /// It has none.
    #[default]
    None,
    /// So many bytes come from the device.
    In(usize),
    /// These bytes go to the device.
    Out(Vec<u8>),
}

/// A command as its caller has it. Identifier and data pointer are the driver's to fill in.
///
/// ```
/// use underpin_dma::DmaSpace;
/// use underpin_nvme::{Controller, ControllerOptions, Passthrough, PassthroughData};
///
/// let space = DmaSpace::new();
/// let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// let identify = Passthrough {
///     opcode: 0x06,
///     cdw10: 1,
///     data: PassthroughData::In(4096),
///     ..Passthrough::default()
/// };
/// let answer = controller.admin_passthrough(&identify)?;
/// assert_eq!(&answer.data[24..32], b"Underpin");
/// # Ok::<(), underpin_nvme::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passthrough {
    /// Opcode. Its low two bits say which way data go: 0 none, 1 to the device, 2 from it, 3 both.
    pub opcode: u8,
    /// Namespace; 0 for none. For I/O commands it is the namespace's own, whatever stands here.
    pub nsid: Nsid,
    /// Command specific.
    pub cdw2: u32,
    /// Command specific.
    pub cdw3: u32,
    /// Command specific.
    pub cdw10: u32,
    /// Command specific.
    pub cdw11: u32,
    /// Command specific.
    pub cdw12: u32,
    /// Command specific.
    pub cdw13: u32,
    /// Command specific.
    pub cdw14: u32,
    /// Command specific.
    pub cdw15: u32,
    /// The data of an admin command.
    pub data: PassthroughData,
    /// How long it may take, in milliseconds, where that is not `admin_timeout` of
    /// [`ControllerOptions`](crate::ControllerOptions). A command that is late fails the
    /// controller: nothing else proves that its memory is free. Not for I/O commands.
    pub timeout_ms: Option<u32>,
    /// Send it though the device says that it lacks it, or though it changes what the driver
    /// relies on: queues, doorbells, block sizes. What the driver does from then on is defined,
    /// but may be errors only.
    pub overrule_driver: bool,
}

/// A good answer to an admin command.
///
/// ```
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// // Get Features (0x0a), Number of Queues: the answer is in dword 0.
/// let command = Passthrough { opcode: 0x0a, cdw10: 0x07, ..Passthrough::default() };
/// let answer = controller.admin_passthrough(&command)?;
/// assert!(answer.data.is_empty());
/// assert_eq!((answer.dw0 & 0xffff) + 1, u32::from(controller.granted_queues()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassthroughAnswer {
    /// Dword 0 of the completion.
    pub dw0: u32,
    /// The bytes that came back; as many as were asked for.
    pub data: Vec<u8>,
}

impl Passthrough {
    fn sqe(&self) -> Sqe {
        Sqe::new()
            .with_opcode(self.opcode)
            .with_nsid(self.nsid)
            .with_cdw2(self.cdw2)
            .with_cdw3(self.cdw3)
            .with_cdw10(self.cdw10)
            .with_cdw11(self.cdw11)
            .with_cdw12(self.cdw12)
            .with_cdw13(self.cdw13)
            .with_cdw14(self.cdw14)
            .with_cdw15(self.cdw15)
    }
}

/// Refuses data that go the way that the opcode does not (Base 2.0, 3.3.3.1: bits 1:0).
fn check_direction(opcode: u8, name: &str, data: &PassthroughData) -> Result<(), Error> {
    let (bit, way) = match data {
        PassthroughData::None => return Ok(()),
        PassthroughData::In(_) => (0b10, "from the device"),
        PassthroughData::Out(_) => (0b01, "to the device"),
    };
    if opcode & bit == 0 {
        return Err(Error::Request(format!(
            "{name} ({opcode:#04x}) has no data {way}, by the low two bits of its opcode"
        )));
    }
    Ok(())
}

impl Controller {
    /// Begins an admin command.
    ///
    /// # Errors
    /// [`Error::WouldBreakDriver`] and [`Error::NotSupported`] unless overruled;
    /// [`Error::Request`] for data in the wrong direction; [`Error::TooLong`]; [`Error::Dma`] for
    /// memory.
    pub fn begin_admin_passthrough(
        &self,
        command: &Passthrough,
    ) -> Result<AdminCall<PassthroughAnswer>, Error> {
        let sqe = command.sqe();
        let opcode = AdminOpcode(command.opcode);
        let cache = switches_cache(&sqe);
        if !command.overrule_driver {
            self.0.refuse_harm(&sqe)?;
            self.0.need(
                self.0.has_admin(opcode),
                &format!("{opcode}"),
                "its Commands Supported and Effects log has no such admin command",
            )?;
        }
        check_direction(command.opcode, &opcode.to_string(), &command.data)?;
        let data = match &command.data {
            PassthroughData::None => Data::None,
            PassthroughData::In(len_bytes) => Data::In(*len_bytes),
            PassthroughData::Out(bytes) => Data::Out(bytes),
        };
        let time = command
            .timeout_ms
            .map(|ms| Duration::from_millis(u64::from(ms)));
        let controller = self.clone();
        let call = AdminCall::new(&self.0, sqe, &data, time, move |dw0, data| {
            cache.into_iter().for_each(|on| controller.0.cache_is(on));
            Ok(PassthroughAnswer { dw0, data })
        })?;
        self.0.cache_may_be(cache);
        Ok(call)
    }

    /// Sends an admin command and waits for its end.
    ///
    /// # Errors
    /// As [`begin_admin_passthrough`](Self::begin_admin_passthrough); [`Error::Admin`] with the
    /// device's status; [`Error::Failed`].
    pub fn admin_passthrough(&self, command: &Passthrough) -> Result<PassthroughAnswer, Error> {
        self.begin_admin_passthrough(command)?.wait()
    }
}

/// An I/O command as its caller has it, to be given to a queue of its controller with
/// [`QueuePair::submit_raw`].
///
/// ```
/// use underpin_nvme::Passthrough;
/// use underpin_nvme::spec::NvmOpcode;
///
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
/// // Two blocks from block 8 on, as the specification writes it.
/// let read = Passthrough {
///     opcode: NvmOpcode::READ.0,
///     cdw10: 8,
///     cdw12: 2 - 1,
///     ..Passthrough::default()
/// };
/// assert!(ns.passthrough(&read, 512).is_err(), "they have 1024 bytes");
/// let raw = ns.passthrough(&read, 1024)?;
/// assert_eq!(raw.len_bytes(), 1024);
/// let (page, dw0) = queue.run_raw(raw, space.alloc(4096, 4096)?)?;
/// assert_eq!(dw0, 0);
///
/// let token = queue.submit_raw(raw, page)?;
/// queue.wait_for(token).result?;
/// let flush = Passthrough { opcode: NvmOpcode::FLUSH.0, ..Passthrough::default() };
/// let token = queue.submit_raw_bare(ns.passthrough(&flush, 0)?)?;
/// queue.wait_for(token).result?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "a request does nothing until it is submitted"]
pub struct RawIo {
    pub(crate) controller: u32,
    sqe: Sqe,
    describe: Describe,
}

impl RawIo {
    /// How many bytes of the buffer are its data.
    pub const fn len_bytes(&self) -> u64 {
        self.describe.len_bytes
    }
}

impl Namespace {
    /// An I/O command of any opcode, whose data are `len_bytes` bytes of the buffer that it is
    /// submitted with. The fields `data` and `timeout_ms` do not count here.
    ///
    /// # Errors
    /// [`Error::NotSupported`] for an opcode that the device says it lacks, unless overruled;
    /// [`Error::Request`] where the command is known to transfer more than `len_bytes` bytes: the
    /// device would write over what lies behind; and, unless overruled, for one that names blocks
    /// where the device does not say how long they are.
    pub fn passthrough(&self, command: &Passthrough, len_bytes: u64) -> Result<RawIo, Error> {
        let sqe = command.sqe().with_nsid(self.nsid());
        let opcode = NvmOpcode(command.opcode);
        if !command.overrule_driver && !self.abilities().has_io(opcode) {
            return Err(Error::NotSupported {
                device: self.to_string(),
                command: opcode.to_string(),
                why: "its Commands Supported and Effects log has no such I/O command".to_owned(),
            });
        }
        let transfers = match opcode {
            NvmOpcode::READ | NvmOpcode::WRITE | NvmOpcode::COMPARE => {
                let blocks = u64::from(ReadWrite::from_sqe(&sqe).blocks);
                match self.transferred_block_bytes() {
                    Some(bytes) => blocks.saturating_mul(bytes),
                    None if command.overrule_driver => 0,
                    None => {
                        return Err(Error::Request(format!(
                            "{opcode} transfers nobody knows how many bytes: how long the blocks \
                             of {self} are is not known"
                        )));
                    }
                }
            }
            // NUMD, counted from 0 (Base 2.0, 7.4).
            NvmOpcode::RESERVATION_REPORT => (u64::from(command.cdw10) + 1) * 4,
            NvmOpcode::DATASET_MANAGEMENT => {
                u64::from(DatasetManagement::from_sqe(&sqe).ranges) * 16
            }
            _ => 0,
        };
        if transfers > len_bytes {
            return Err(Error::Request(format!(
                "{opcode} as given transfers {transfers} bytes and is to have {len_bytes}"
            )));
        }
        Ok(RawIo {
            controller: self.controller(),
            sqe,
            describe: Describe {
                head: Head::of(sqe),
                lba: u64::from(command.cdw10) | u64::from(command.cdw11) << 32,
                len_bytes,
            },
        })
    }
}

impl<B: Payload> QueuePair<B> {
    /// Writes a raw command into the ring, with the first [`len_bytes`](RawIo::len_bytes) bytes of
    /// the buffer as its data, named by PRPs. It is never split. As with
    /// [`submit`](Self::submit), the buffer belongs to the queue until the request ends.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn submit_raw(&mut self, raw: RawIo, buffer: B) -> Result<Token, Refused<B>> {
        match self.check_controller(raw.controller) {
            Ok(()) => self.queue_mut().submit_whole(raw.sqe, raw.describe, buffer),
            Err(error) => Err(Refused { error, buffer }),
        }
    }

    /// Writes a raw command without data into the ring.
    ///
    /// # Errors
    /// As [`submit_bare`](Self::submit_bare); [`Error::Buffer`] for a command that has data.
    pub fn submit_raw_bare(&mut self, raw: RawIo) -> Result<Token, Error> {
        self.check_controller(raw.controller)?;
        if raw.len_bytes() != 0 {
            return Err(Error::Buffer(format!(
                "the command has {} bytes of data and needs one",
                raw.len_bytes()
            )));
        }
        let pushed = self.queue_mut().push(raw.sqe, raw.describe, None);
        pushed.map_err(|(error, _)| error)
    }

    /// Submits a raw command and waits for its end: the buffer, and dword 0 of the completion.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_raw(&mut self, raw: RawIo, buffer: B) -> Result<(B, u32), Error> {
        let token = self.submit_raw(raw, buffer)?;
        let completion = self.wait_for(token);
        completion.result?;
        match completion.buffer {
            Some(buffer) => Ok((buffer, completion.dw0)),
            None => Err(Error::Buffer("the request carried none".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use underpin_nvme_spec::identify::{IdentifyNamespace, LbaFormat};

    /// Base 2.0, 3.3.3.1: 01b to the device, 10b from it, 11b both, 00b neither.
    #[test]
    fn data_go_the_way_of_the_opcode() {
        for (bits, may_read, may_write) in [
            (0, false, false),
            (1, false, true),
            (2, true, false),
            (3, true, true),
        ] {
            let opcode = 0xc0 | bits;
            let goes = |data| check_direction(opcode, "it", &data).is_ok();
            assert!(goes(PassthroughData::None));
            assert_eq!(goes(PassthroughData::In(4)), may_read, "{bits}");
            assert_eq!(goes(PassthroughData::Out(vec![0])), may_write, "{bits}");
        }
    }

    /// What a block has by the namespace's own format counts, be it one that the driver does not
    /// use itself: the device would write over what lies behind the buffer.
    #[test]
    fn no_block_is_longer_than_its_buffer() {
        for (lbads, ms, flbas, bytes) in [
            (9, 0, 0, 512),
            (12, 0, 0, 4096),
            (17, 0, 0, 128 << 10),
            (9, 8, 1 << 4, 520),
            // Metadata elsewhere.
            (9, 8, 0, 512),
        ] {
            let mut page = IdentifyNamespace::zeroed();
            page.set_nsze(1 << 10);
            page.set_lba_format(0, LbaFormat::new(ms, lbads, 0));
            page.set_flbas(flbas);
            let ns = Namespace::new(1, Nsid(1), Box::new(page), (0, 0), u64::MAX);
            let read = Passthrough {
                opcode: NvmOpcode::READ.0,
                ..Passthrough::default()
            };
            assert!(ns.passthrough(&read, bytes).is_ok(), "{ns}");
            assert!(ns.passthrough(&read, bytes - 1).is_err(), "{ns}");
        }
        let unknown = Namespace::of_other_command_set(1, Nsid(1), Some(2));
        let mut command = Passthrough {
            opcode: NvmOpcode::READ.0,
            ..Passthrough::default()
        };
        assert!(unknown.passthrough(&command, 4096).is_err());
        command.overrule_driver = true;
        assert!(unknown.passthrough(&command, 4096).is_ok());
        let report = Passthrough {
            opcode: NvmOpcode::RESERVATION_REPORT.0,
            cdw10: 15,
            ..Passthrough::default()
        };
        assert!(unknown.passthrough(&report, 64).is_ok());
        assert!(unknown.passthrough(&report, 63).is_err());
    }

    /// Every dword of the command is the caller's.
    #[test]
    fn each_field_has_its_dword() {
        let command = Passthrough {
            opcode: 0xc1,
            nsid: Nsid(1),
            cdw2: 2,
            cdw3: 3,
            cdw10: 10,
            cdw11: 11,
            cdw12: 12,
            cdw13: 13,
            cdw14: 14,
            cdw15: 15,
            ..Passthrough::default()
        };
        let dwords = [0xc1, 1, 2, 3, 0, 0, 0, 0, 0, 0, 10, 11, 12, 13, 14, 15];
        assert_eq!(command.sqe().as_dwords(), dwords);
    }
}
