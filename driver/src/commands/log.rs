//! Log pages (NVMe Base 2.0, 5.16): any of them as bytes, in as many pieces as it takes, and those
//! with a meaning here as typed pages.
use super::call::{AdminCall, Data};
use crate::{Controller, Error};
use underpin_nvme_spec::Nsid;
use underpin_nvme_spec::admin::{GetLogPage, LogId};
use underpin_nvme_spec::log::{
    ChangedNamespaces, CommandEffectsLog, ErrorLogEntry, FirmwareSlotLog, SmartLog,
};

/// Which part of which log page is wanted.
///
/// ```
/// use underpin_nvme::{LogRequest, spec::admin::LogId};
///
/// let request = LogRequest { offset: 64, ..LogRequest::new(LogId::ERROR, 128) };
/// assert_eq!(request.len_bytes, 128);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRequest {
    /// Which page.
    pub id: LogId,
    /// Of which namespace; [`Nsid::ALL`] for the controller's own.
    pub nsid: Nsid,
    /// Log specific field, seven bits.
    pub lsp: u8,
    /// Log specific identifier.
    pub lsi: u16,
    /// Where in the page to begin, in bytes, a multiple of four. Not 0 only where the controller
    /// has extended data (LPA bit 2).
    pub offset: u64,
    /// How many bytes, a multiple of four.
    pub len_bytes: usize,
    /// Leave the event that told of this page pending: no further one of its kind is told until
    /// the page is read without this.
    pub retain_event: bool,
    /// Command set identifier; 0 is the NVM command set.
    pub csi: u8,
}

impl LogRequest {
    /// The first `len_bytes` bytes of a page of the controller's own.
    #[must_use]
    pub const fn new(id: LogId, len_bytes: usize) -> Self {
        Self {
            id,
            nsid: Nsid::ALL,
            lsp: 0,
            lsi: 0,
            offset: 0,
            len_bytes,
            retain_event: false,
            csi: 0,
        }
    }
}

/// Bits of LPA, Log Page Attributes (Base 2.0, figure 275).
const LPA_SMART_OF_NAMESPACES: u8 = 1 << 0;
const LPA_EFFECTS: u8 = 1 << 1;
const LPA_EXTENDED: u8 = 1 << 2;
/// The longest log that is read, in all its pieces: a host's memory is not the device's to fill.
const LONGEST: usize = 64 << 20;
/// A piece of a long log.
const PIECE_BYTES: usize = 64 << 10;

impl Controller {
    /// Begins to read a log page, or a part of it, as one command. At most
    /// [`max_transfer_bytes`](Self::max_transfer_bytes) bytes.
    ///
    /// What the device does not write of it reads as zeroes.
    ///
    /// # Errors
    /// [`Error::Request`] for lengths or offsets that are no multiple of four, or none;
    /// [`Error::NotSupported`] for an offset or a length that needs extended data where there is
    /// none; [`Error::TooLong`]; [`Error::Dma`] for memory.
    pub fn begin_log_page(&self, request: &LogRequest) -> Result<AdminCall<Vec<u8>>, Error> {
        let &LogRequest {
            id,
            nsid,
            lsp,
            lsi,
            offset,
            len_bytes,
            retain_event,
            csi,
        } = request;
        if len_bytes == 0 || !len_bytes.is_multiple_of(4) || !offset.is_multiple_of(4) {
            return Err(Error::Request(format!(
                "{len_bytes} bytes at {offset} of {id} are no whole dwords"
            )));
        }
        // NUMDU and the offset are extended data's, too (Base 2.0, 5.16.1).
        let is_extended = self.identify().lpa() & LPA_EXTENDED != 0;
        self.0.need(
            is_extended || (offset == 0 && len_bytes <= 16 << 10),
            &format!("Get Log Page with an offset, or beyond 16 KiB, of {id}"),
            "LPA bit 2, extended data, is 0",
        )?;
        let command = GetLogPage {
            lid: id,
            nsid,
            lsp,
            retain: retain_event,
            len_bytes: len_bytes as u64,
            lsi,
            offset,
            csi,
            ..GetLogPage::default()
        };
        let data = Data::In(len_bytes);
        AdminCall::new(&self.0, command.to_sqe(), &data, None, |_, bytes| Ok(bytes))
    }

    /// Reads a log page, or a part of it, in as many pieces as it takes. A page that the device
    /// changes meanwhile may be of two ages.
    ///
    /// # Errors
    /// As [`begin_log_page`](Self::begin_log_page), but for the transfer's limit: logs may have
    /// 64 MiB. [`Error::Admin`] with the device's status; [`Error::Failed`].
    ///
    /// ```
    /// use underpin_nvme::{LogRequest, spec::admin::LogId};
    ///
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// let page = controller.log_page(&LogRequest::new(LogId::SMART, 512))?;
    /// let kelvins = u16::from_le_bytes([page[1], page[2]]);
    /// assert_eq!(kelvins, controller.smart_log()?.temperature());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn log_page(&self, request: &LogRequest) -> Result<Vec<u8>, Error> {
        if request.len_bytes > LONGEST {
            return Err(Error::TooLong {
                len_bytes: request.len_bytes as u64,
                max_bytes: LONGEST as u64,
            });
        }
        let longest = usize::try_from(self.max_transfer_bytes()).unwrap_or(PIECE_BYTES);
        let piece = longest.min(PIECE_BYTES);
        let mut bytes = Vec::with_capacity(request.len_bytes);
        loop {
            let left = request.len_bytes - bytes.len();
            let read = self.begin_log_page(&LogRequest {
                offset: request.offset.saturating_add(bytes.len() as u64),
                len_bytes: left.min(piece),
                // Only the last piece may let the next event through.
                retain_event: request.retain_event || left > piece,
                ..*request
            })?;
            bytes.extend(read.wait()?);
            if bytes.len() >= request.len_bytes {
                return Ok(bytes);
            }
        }
    }

    fn fixed_page<const N: usize>(&self, request: LogRequest) -> Result<Box<[u8; N]>, Error> {
        let bytes = self.log_page(&LogRequest {
            len_bytes: N,
            ..request
        })?;
        let mut page = Box::new([0; N]);
        page.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        Ok(page)
    }

    /// The errors that the controller remembers, newest first.
    ///
    /// # Errors
    /// As [`log_page`](Self::log_page).
    ///
    /// ```
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m,fault=status:0x281@op=read+lba=8", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
    /// let _ = queue.run(ns.read(Lba(8), 1)?, space.alloc(512, 512)?);
    /// let log = controller.error_log()?;
    /// assert_eq!(log[0].status().code(), Status::UNRECOVERED_READ_ERROR.code());
    /// assert_eq!((log[0].first_lba(), log[0].queue()), (Lba(8), Some(queue.qid())));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn error_log(&self) -> Result<Vec<ErrorLogEntry>, Error> {
        let entries = usize::from(self.identify().elpe()) + 1;
        let len_bytes = entries * ErrorLogEntry::LEN_BYTES;
        let bytes = self.log_page(&LogRequest::new(LogId::ERROR, len_bytes))?;
        let used = ErrorLogEntry::entries(&bytes).filter(ErrorLogEntry::is_used);
        Ok(used.collect())
    }

    /// How the controller is doing.
    ///
    /// ```
    /// # use underpin_nvme::{Controller, ControllerOptions};
    /// # use underpin_dma::DmaSpace;
    /// let space = DmaSpace::new();
    /// let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// let health = controller.smart_log()?;
    /// println!("{} read commands", health.host_reads());
    /// # Ok::<(), underpin_nvme::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`log_page`](Self::log_page).
    pub fn smart_log(&self) -> Result<SmartLog, Error> {
        let page = self.fixed_page(LogRequest::new(LogId::SMART, 0))?;
        Ok(SmartLog::from_bytes(&page))
    }

    /// How one namespace is doing.
    ///
    /// # Errors
    /// As [`log_page`](Self::log_page); [`Error::NotSupported`] where namespaces have no health of
    /// their own.
    ///
    /// ```
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// match controller.smart_log_of(ns.nsid()) {
    ///     Ok(health) => println!("{} warnings", health.warnings().names().count()),
    ///     Err(Error::NotSupported { why, .. }) => println!("only the whole controller: {why}"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn smart_log_of(&self, nsid: Nsid) -> Result<SmartLog, Error> {
        self.0.need(
            self.identify().lpa() & LPA_SMART_OF_NAMESPACES != 0,
            "the SMART log of one namespace",
            "LPA bit 0 is 0",
        )?;
        let page = self.fixed_page(LogRequest {
            nsid,
            ..LogRequest::new(LogId::SMART, 0)
        })?;
        Ok(SmartLog::from_bytes(&page))
    }

    /// Which firmware the controller has, and which of it runs.
    ///
    /// # Errors
    /// As [`log_page`](Self::log_page).
    ///
    /// ```
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// let log = controller.firmware_log()?;
    /// let running = log.revision(log.active_slot()).expect("something runs");
    /// assert_eq!(running, controller.identify().fr());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn firmware_log(&self) -> Result<FirmwareSlotLog, Error> {
        let page = self.fixed_page(LogRequest::new(LogId::FIRMWARE, 0))?;
        Ok(FirmwareSlotLog::from_bytes(&page))
    }

    /// The namespaces that have changed since this was last read. A list that begins with
    /// [`Nsid::ALL`] says that there are more than it has room for.
    ///
    /// # Errors
    /// As [`log_page`](Self::log_page); [`Error::NotSupported`] where OAES bit 8 is 0.
    ///
    /// ```
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// assert_eq!(controller.changed_namespaces()?.iter().count(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn changed_namespaces(&self) -> Result<ChangedNamespaces, Error> {
        self.0.need(
            self.identify().oaes() & 1 << 8 != 0,
            "the Changed Namespace List",
            "OAES bit 8, namespace attribute notices, is 0",
        )?;
        let page = self.fixed_page(LogRequest::new(LogId::CHANGED_NAMESPACES, 0))?;
        Ok(ChangedNamespaces::from_bytes(&page))
    }

    /// Which commands the controller has, and what they change.
    ///
    /// # Errors
    /// As [`log_page`](Self::log_page); [`Error::NotSupported`] where LPA bit 1 is 0.
    ///
    /// ```
    /// use underpin_nvme::spec::NvmOpcode;
    ///
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m,oncs=0", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// let effects = controller.command_effects()?;
    /// assert!(effects.io(NvmOpcode::WRITE).is_supported());
    /// assert!(!effects.io(NvmOpcode::COMPARE).is_supported());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn command_effects(&self) -> Result<CommandEffectsLog, Error> {
        self.0.need(
            self.identify().lpa() & LPA_EFFECTS != 0,
            "the Commands Supported and Effects log",
            "LPA bit 1 is 0",
        )?;
        let page = self.fixed_page(LogRequest::new(LogId::COMMAND_EFFECTS, 0))?;
        Ok(CommandEffectsLog::from_bytes(&page))
    }
}
