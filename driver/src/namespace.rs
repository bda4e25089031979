//! A namespace as its user sees it: blocks, what is atomic, and the requests one can make of it.
//! Requests are checked here, against the namespace, so that a queue need not.
use crate::Error;
use crate::commands::Abilities;
use crate::queue::Transfer;
use crate::slots::Head;
use std::fmt;
use std::sync::Arc;
use underpin_nvme_spec::identify::IdentifyNamespace;
use underpin_nvme_spec::{Lba, Nsid, NvmOpcode, Status};

/// What the device promises to write as a whole or not at all, in logical blocks
/// (NVM Command Set 1.0, 2.1.4).
///
/// ```
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m,awun=7,awupf=0", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// let atomic = ns.atomic_writes();
/// assert_eq!((atomic.normal_blocks, atomic.power_fail_blocks), (8, 1));
/// assert_eq!(atomic.boundary_blocks, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtomicWrites {
    /// With respect to other commands running at the same time.
    pub normal_blocks: u32,
    /// With respect to power failure and error as well.
    pub power_fail_blocks: u32,
    /// A write that crosses a multiple of this many blocks may not be atomic; `None`: no boundary.
    pub boundary_blocks: Option<u32>,
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Transfer,
    Flush,
    /// Blocks are named and no data moves; so many blocks a command, as a power of two.
    Blocks {
        most_shift: u8,
    },
}

/// A checked request for one namespace, to be given to a queue of its controller.
///
/// ```
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// let read = ns.read(Lba(0), 8)?;
/// assert_eq!(read.len_bytes(), 8 * u64::from(ns.lba_bytes()));
/// assert_eq!(ns.flush().len_bytes(), 0);
/// // A request is a plain value: it can be made again and again.
/// let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
/// let page = queue.run(read, space.alloc(4096, 4096)?)?;
/// queue.run(read, page)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Io {
    pub(crate) controller: u32,
    pub(crate) kind: Kind,
    pub(crate) transfer: Transfer,
}

impl Io {
    /// How many bytes it transfers; 0 for a flush, and for others that move no data.
    pub const fn len_bytes(&self) -> u64 {
        self.transfer.len_bytes
    }

    /// The same write with Force Unit Access: complete only when it is on the medium, whatever
    /// the write cache. A read with it is read from the medium.
    ///
    /// ```
    /// # use underpin_nvme::{Controller, ControllerOptions};
    /// # use underpin_dma::DmaSpace;
    /// # let controller = Controller::open("emu:size=1m", &DmaSpace::new(), ControllerOptions::default())?;
    /// # let ns = controller.namespaces()[0].clone();
    /// let durable = ns.write(underpin_nvme::Lba(0), 8)?.force_unit_access();
    /// # Ok::<(), underpin_nvme::Error>(())
    /// ```
    #[must_use]
    pub fn force_unit_access(mut self) -> Self {
        if self.kind != Kind::Flush {
            // CDW12 bit 30 (NVM Command Set 1.0, 3.2.4 and 3.2.6).
            self.transfer.flags |= 1 << 30;
        }
        self
    }

    /// The same blocks, without their data.
    pub(crate) const fn without_data(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self.transfer.len_bytes = 0;
        self
    }
}

/// A namespace that can be read and written.
///
/// ```
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m,lba=4096", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// assert_eq!((ns.nsid(), ns.blocks(), ns.lba_bytes()), (Nsid(1), 256, 4096));
/// assert_eq!(ns.len_bytes(), 1 << 20);
/// assert_eq!(ns.unusable(), None);
/// assert_eq!(ns.identify().nsze(), 256);
/// assert_eq!(ns.to_string(), "namespace 1 of 256 blocks of 4096 bytes");
///
/// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
/// let mut block = space.alloc(4096, 4096)?;
/// block.copy_from(0, b"the last block")?;
/// let block = queue.run(ns.write(Lba(255), 1)?, block)?;
/// queue.flush(&ns)?;
/// queue.run(ns.read(Lba(255), 1)?, block)?;
/// assert!(ns.read(Lba(255), 2).is_err(), "it ends there");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Namespace {
    controller: u32,
    nsid: Nsid,
    /// What all commands to it begin with.
    head: Head,
    blocks: u64,
    /// Blocks that can be read and written: all of them, or none.
    usable_blocks: u64,
    lba_shift: u8,
    lba_bytes: u64,
    atomic: AtomicWrites,
    unusable: Option<String>,
    identify: Box<IdentifyNamespace>,
    /// The controller's.
    abilities: Arc<Abilities>,
}

impl Namespace {
    /// Reads what the device says of a namespace, believing none of it.
    pub(crate) fn new(
        controller: u32,
        nsid: Nsid,
        identify: Box<IdentifyNamespace>,
        controller_atomic: (u16, u16),
        max_transfer_bytes: u64,
    ) -> Self {
        let format = identify.format();
        let lba_shift = format.lbads();
        let blocks = identify.nsze();
        let bytes = u32::from(lba_shift);
        let unusable = if !(9..=16).contains(&lba_shift) {
            Some(format!(
                "its blocks have 2^{lba_shift} bytes; 512 to 65536 are supported"
            ))
        } else if format.ms() != 0 {
            Some(format!(
                "its blocks carry {} bytes of metadata, which is not supported yet",
                format.ms()
            ))
        } else if 1 << lba_shift > max_transfer_bytes {
            Some(format!(
                "its blocks have {} bytes, and one command transfers at most {max_transfer_bytes} (the device's MDTS, or ControllerOptions::max_transfer_bytes)",
                1_u64 << lba_shift
            ))
        } else if blocks
            .checked_shl(bytes)
            .is_none_or(|len| len >> bytes != blocks)
        {
            Some(format!(
                "its size, {blocks} blocks, is larger than 2^64 bytes"
            ))
        } else {
            None
        };
        let lba_shift = match lba_shift {
            9..=16 => lba_shift,
            _ => 9,
        };
        Self {
            controller,
            nsid,
            head: Head::new(0, nsid.0),
            blocks,
            usable_blocks: if unusable.is_none() { blocks } else { 0 },
            lba_shift,
            lba_bytes: 1 << lba_shift,
            atomic: atomic_writes(&identify, controller_atomic),
            unusable,
            identify,
            abilities: Arc::default(),
        }
    }

    /// The same of a controller that has this number and can this.
    pub(crate) fn with_abilities(self, controller: u32, abilities: &Arc<Abilities>) -> Self {
        Self {
            controller,
            abilities: Arc::clone(abilities),
            ..self
        }
    }

    pub(crate) fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    pub(crate) const fn controller(&self) -> u32 {
        self.controller
    }

    /// A namespace in the device's list that it would not identify.
    pub(crate) fn unidentified(controller: u32, nsid: Nsid, status: Status) -> Self {
        let identify = Box::new(IdentifyNamespace::zeroed());
        Self {
            unusable: Some(format!("the device does not identify it: {status}")),
            ..Self::new(controller, nsid, identify, (0, 0), u64::MAX)
        }
    }

    /// A namespace that says that it is of another command set than NVM, or does not say of which.
    pub(crate) fn of_other_command_set(controller: u32, nsid: Nsid, csi: Option<u8>) -> Self {
        let identify = Box::new(IdentifyNamespace::zeroed());
        let unusable = match csi {
            Some(csi) => {
                // Base 2.0, figure 274.
                let name = match csi {
                    1 => "Key Value",
                    2 => "Zoned Namespace",
                    _ => "unknown",
                };
                format!(
                    "it is of the {name} command set (CSI {csi:#x}); only NVM (CSI 0x0) is supported"
                )
            }
            None => "its descriptors do not say of which command set it is (no CSI)".to_owned(),
        };
        Self {
            unusable: Some(unusable),
            ..Self::new(controller, nsid, identify, (0, 0), u64::MAX)
        }
    }

    /// Its identifier.
    pub const fn nsid(&self) -> Nsid {
        self.nsid
    }

    /// Its size in logical blocks.
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The size of a logical block; 512 where the device's is none that is supported, see
    /// [`unusable`](Self::unusable).
    pub const fn lba_bytes(&self) -> u32 {
        1 << self.lba_shift
    }

    /// Its size in bytes.
    pub const fn len_bytes(&self) -> u64 {
        self.blocks << self.lba_shift
    }

    /// What the device writes as a whole. A request that is longer than the controller's
    /// [`max_transfer_bytes`](crate::Controller::max_transfer_bytes) is split, and then is
    /// atomic only part by part.
    pub const fn atomic_writes(&self) -> AtomicWrites {
        self.atomic
    }

    /// Why it cannot be read and written, if it cannot.
    ///
    /// ```
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m,ns2.csi=2", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// let zoned = controller.namespace(Some(Nsid(2)))?;
    /// assert!(zoned.unusable().is_some_and(|why| why.contains("Zoned Namespace")));
    /// assert!(zoned.read(Lba(0), 1).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unusable(&self) -> Option<&str> {
        self.unusable.as_deref()
    }

    /// The identify page as the device gave it.
    pub const fn identify(&self) -> &IdentifyNamespace {
        &self.identify
    }

    /// The bytes of a block as they are transferred, with metadata where these lie behind the data
    /// (FLBAS bit 4); `None` where the device does not say.
    pub(crate) fn transferred_block_bytes(&self) -> Option<u64> {
        let format = self.identify.format();
        let data = 1_u64.checked_shl(format.lbads().into());
        let behind = match self.identify.flbas() & 1 << 4 {
            0 => 0,
            _ => u64::from(format.ms()),
        };
        data.filter(|&data| data >= 512)?.checked_add(behind)
    }

    /// True when `new` is the same namespace with blocks of another length.
    pub(crate) fn is_resized(&self, new: &Self) -> bool {
        let (old, new_bytes) = (
            self.transferred_block_bytes(),
            new.transferred_block_bytes(),
        );
        self.nsid == new.nsid && old.zip(new_bytes).is_some_and(|(old, new)| old != new)
    }

    /// A read of `blocks` blocks from `lba` on.
    ///
    /// A part of them is read with a [`Vectored`](crate::dma::Vectored) buffer that skips the rest,
    /// where the device has bit buckets:
    ///
    /// ```
    /// # use underpin_nvme::{Controller, ControllerOptions, Lba, QueueOptions};
    /// use underpin_nvme::dma::{DmaSpace, Vectored};
    ///
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// let mut queue = controller.queue_pair::<Vectored>(QueueOptions::default())?;
    /// let mut part = Vectored::new(&space);
    /// part.skip(700);
    /// part.push(space.alloc(100, 64)?)?;
    /// part.skip(1024 - 800);
    /// let part = queue.run(ns.read(Lba(8), 2)?, part)?;
    /// assert_eq!(part.memory_bytes(), 100);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when they do not lie within the namespace, or there are none;
    /// [`Error::Unsupported`] when the namespace cannot be used.
    #[inline]
    pub fn read(&self, lba: Lba, blocks: u64) -> Result<Io, Error> {
        self.transfer(lba, blocks, NvmOpcode::READ)
    }

    /// A write of `blocks` blocks from `lba` on.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    #[inline]
    pub fn write(&self, lba: Lba, blocks: u64) -> Result<Io, Error> {
        self.transfer(lba, blocks, NvmOpcode::WRITE)
    }

    /// A flush: every write completed before it is on the medium when it completes.
    ///
    /// ```
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
    /// queue.run(ns.write(Lba(0), 8)?, space.alloc(4096, 4096)?)?;
    /// let token = queue.submit_bare(ns.flush())?;
    /// queue.wait_for(token).result?; // From now on the write outlives a power failure.
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn flush(&self) -> Io {
        let transfer = Transfer {
            lba: 0,
            blocks: 0,
            len_bytes: 0,
            head: self.head.with_opcode(NvmOpcode::FLUSH.0),
            flags: 0,
            lba_shift: self.lba_shift,
        };
        Io {
            controller: self.controller,
            kind: Kind::Flush,
            transfer,
        }
    }

    #[inline(always)]
    pub(crate) fn transfer(&self, lba: Lba, blocks: u64, opcode: NvmOpcode) -> Result<Io, Error> {
        // In this order: for a number of blocks that the caller's code names, it is one comparison.
        let ahead = self.usable_blocks.checked_sub(lba.0);
        if blocks == 0 || ahead.is_none_or(|ahead| blocks > ahead) {
            // Made here, so that the compiler sees which error it is, and that it is one.
            return Err(match self.why_unusable() {
                Some(why) => Error::Unsupported {
                    device: self.to_string(),
                    why,
                },
                None => Error::OutOfRange {
                    nsid: self.nsid,
                    lba,
                    blocks,
                    namespace_blocks: self.blocks,
                },
            });
        }
        let transfer = Transfer {
            lba: lba.0,
            blocks,
            len_bytes: blocks.wrapping_mul(self.lba_bytes),
            head: self.head.with_opcode(opcode.0),
            flags: 0,
            lba_shift: self.lba_shift,
        };
        Ok(Io {
            controller: self.controller,
            kind: Kind::Transfer,
            transfer,
        })
    }

    #[cold]
    #[inline(never)]
    fn why_unusable(&self) -> Option<String> {
        self.unusable.clone()
    }
}

/// NAWUN and NAWUPF count where NSFEAT.NSABP is set and they are not 0, AWUN and AWUPF of the
/// controller otherwise; all are counted from 0 (NVM Command Set 1.0, 2.1.4 and 4.1.5.1).
fn atomic_writes(identify: &IdentifyNamespace, (awun, awupf): (u16, u16)) -> AtomicWrites {
    let has_own = identify.nsfeat() & 0b10 != 0;
    let blocks = |own: u16, of_controller: u16| match own {
        1.. if has_own => u32::from(own) + 1,
        _ => u32::from(of_controller) + 1,
    };
    // Boundaries for normal operation lie NABSN + 1 blocks apart, those for power failure NABSPF
    // + 1, the first ones at NABO. The one that is reported divides all of that.
    let boundary = [identify.nabsn(), identify.nabspf()]
        .into_iter()
        .filter(|&size| size != 0)
        .map(|size| u32::from(size) + 1)
        .reduce(common_divisor);
    AtomicWrites {
        normal_blocks: blocks(identify.nawun(), awun),
        power_fail_blocks: blocks(identify.nawupf(), awupf),
        boundary_blocks: boundary.map(|blocks| common_divisor(blocks, u32::from(identify.nabo()))),
    }
}

/// The greatest common divisor; of a number and 0 it is the number.
const fn common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Whether they are the same namespace, as it was identified the same way.
impl PartialEq for Namespace {
    fn eq(&self, other: &Self) -> bool {
        self.controller == other.controller
            && self.nsid == other.nsid
            && self.unusable == other.unusable
            && self.identify == other.identify
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(why) = &self.unusable {
            return write!(f, "namespace {}, unusable: {why}", self.nsid);
        }
        write!(
            f,
            "namespace {} of {} blocks of {} bytes",
            self.nsid,
            self.blocks,
            self.lba_bytes()
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use underpin_nvme_spec::identify::LbaFormat;

    fn page(lbads: u8) -> IdentifyNamespace {
        let mut page = IdentifyNamespace::zeroed();
        page.set_nsze(1 << 20);
        page.set_lba_format(0, LbaFormat::new(0, lbads, 0));
        page
    }

    /// A block that no command may transfer makes a namespace unusable, with the reason; one that
    /// just fits does not.
    #[test]
    fn blocks_longer_than_a_transfer_are_refused_in_words() {
        let of = |lbads, most| Namespace::new(1, Nsid(1), Box::new(page(lbads)), (0, 0), most);
        assert_eq!(of(16, 65_536).unusable(), None);
        let namespace = of(16, 32_768);
        let why = namespace.unusable().unwrap();
        assert!(why.contains("65536") && why.contains("32768"), "{why}");
        assert!(namespace.read(Lba(0), 1).is_err());
        // Nor is a size of blocks told that there is none of.
        let text = of(17, u64::MAX).to_string();
        assert!(text.contains("2^17") && !text.contains("of 512"), "{text}");
    }

    /// NVM Command Set 1.0, 4.1.5.1: NAWUN and NAWUPF of 0 mean what the controller says.
    #[test]
    fn an_atomic_unit_of_none_is_the_controllers() {
        let mut page = page(9);
        page.set_nsfeat(0b10);
        let atomic = atomic_writes(&page, (7, 3));
        assert_eq!((atomic.normal_blocks, atomic.power_fail_blocks), (8, 4));
        page.set_nawun(1);
        let atomic = atomic_writes(&page, (7, 3));
        assert_eq!((atomic.normal_blocks, atomic.power_fail_blocks), (2, 4));
    }

    /// Whatever boundary the device has, for normal operation or power failure, and wherever the
    /// first of them lies (NABO), is a multiple of the one that is reported: what does not cross
    /// that is atomic.
    #[test]
    fn every_atomic_boundary_is_a_multiple_of_the_reported_one() {
        for (nabsn, nabspf, nabo) in [
            (0_u16, 7, 0),
            (7, 0, 0),
            (7, 31, 0),
            (11, 7, 0),
            (7, 31, 4),
            (31, 0, 3),
            (0xffff, 0xffff, 0),
        ] {
            let mut page = page(9);
            page.set_nabsn(nabsn);
            page.set_nabspf(nabspf);
            page.set_nabo(nabo);
            let boundary = atomic_writes(&page, (0, 0)).boundary_blocks.unwrap();
            for size in [nabsn, nabspf].into_iter().filter(|&size| size != 0) {
                for nth in 0..3 {
                    let at = u32::from(nabo) + nth * (u32::from(size) + 1);
                    assert_eq!(at % boundary, 0, "{at} of {nabsn}, {nabspf}, {nabo}");
                }
            }
        }
        let mut page = page(9);
        page.set_nabo(5);
        assert_eq!(atomic_writes(&page, (0, 0)).boundary_blocks, None);
    }
}
