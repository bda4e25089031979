//! Reads scatter gather lists (Base 2.0, 4.1.2) as a strict controller does, all of a list before
//! any data moves. Written from the specification, sharing nothing with the driver that builds them.
use crate::bus::{Bus, Who};
use crate::iommu::{Direction, Mappings};
use crate::nvm::Limits;
use crate::walk::{PrpWalk, Segment};
use underpin_nvme_spec::{SglDescriptor, SglType, Sgls, Sqe, Status};

/// Descriptors of one command, those of its segments' ends included. Whoever needs more gets an
/// error; so a list that goes round in circles has an end, too.
const MOST_DESCRIPTORS: u64 = 1 << 17;
/// Descriptors read at a time.
const AHEAD: usize = 16;

const TYPE_INVALID: Status = Status::SGL_DESCRIPTOR_TYPE_INVALID.with_do_not_retry();
const SEGMENT_INVALID: Status = Status::INVALID_SGL_SEGMENT_DESCRIPTOR.with_do_not_retry();
const COUNT_INVALID: Status = Status::INVALID_SGL_DESCRIPTOR_COUNT.with_do_not_retry();
const LENGTH_INVALID: Status = Status::DATA_SGL_LENGTH_INVALID.with_do_not_retry();
const GRANULARITY_INVALID: Status = Status::SGL_DATA_BLOCK_GRANULARITY_INVALID.with_do_not_retry();

/// What a controller takes of scatter gather lists.
///
/// ```
/// use underpin_emulator::{EmulatorConfig, SglSupport};
///
/// let config: EmulatorConfig = "sgl=dword".parse()?;
/// assert_eq!(config.sgl, SglSupport::Dword);
/// assert_eq!(EmulatorConfig::default().sgl, SglSupport::Byte);
/// # Ok::<(), underpin_emulator::EmulatorError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SglSupport {
    /// None: every command has PRPs.
    Off,
    /// Data blocks of whole dwords at whole dwords, and bit buckets.
    Dword,
    /// Data blocks anywhere and of any length, and bit buckets.
    #[default]
    Byte,
}

impl SglSupport {
    /// As Identify Controller tells it.
    pub(crate) const fn sgls(self) -> Sgls {
        match self {
            Self::Off => Sgls(0),
            Self::Dword => Sgls::DWORD.with_bit_bucket(),
            Self::Byte => Sgls::BYTE.with_bit_bucket(),
        }
    }

    /// Whether an I/O command may have this PSDT. MPTR as an SGL (10b) is never supported.
    #[inline(always)]
    pub(crate) fn takes(self, psdt: u8) -> bool {
        psdt == Sqe::PSDT_PRP || (psdt == Sqe::PSDT_SGL && self != Self::Off)
    }
}

/// A part of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    Memory(Segment),
    /// Bytes of a read that go nowhere.
    Discarded(u64),
}

/// Yields the parts of one transfer in order, whichever way the command names them.
#[derive(Debug)]
pub(crate) enum Walk {
    Prp(PrpWalk),
    Sgl(SglWalk),
}

impl Walk {
    /// For a command whose PSDT was found good.
    pub(crate) fn new(sqe: &Sqe, len_bytes: u64, direction: Direction, limits: &Limits) -> Self {
        if sqe.psdt() == Sqe::PSDT_PRP {
            let (prp1, prp2) = (sqe.prp1(), sqe.prp2());
            return Self::Prp(PrpWalk::new(prp1, prp2, len_bytes, limits.page_bytes));
        }
        Self::Sgl(SglWalk {
            sgl1: sqe.sgl1(),
            unread: true,
            len_bytes,
            direction,
            support: limits.sgl,
            runs: Vec::new(),
            at: 0,
        })
    }

    /// The next part; `None` at the end of the transfer.
    #[inline(always)]
    pub(crate) fn next(
        &mut self,
        bus: &mut Bus,
        map: &Mappings,
        who: Who,
    ) -> Result<Option<Run>, Status> {
        match self {
            Self::Prp(walk) => Ok(walk.next(bus, map, who)?.map(Run::Memory)),
            Self::Sgl(walk) => walk.next(bus, map, who),
        }
    }
}

/// The list of one command: read as a whole when its first part is asked for.
#[derive(Debug)]
pub(crate) struct SglWalk {
    sgl1: SglDescriptor,
    unread: bool,
    len_bytes: u64,
    direction: Direction,
    support: SglSupport,
    runs: Vec<Run>,
    at: usize,
}

/// The next segment of a list.
#[derive(Clone, Copy, Debug)]
struct Link {
    iova: u64,
    descriptors: u64,
    last: bool,
}

impl SglWalk {
    fn next(&mut self, bus: &mut Bus, map: &Mappings, who: Who) -> Result<Option<Run>, Status> {
        if self.unread {
            self.read(bus, map, who)?;
            self.unread = false;
        }
        let run = self.runs.get(self.at).copied();
        self.at += 1;
        Ok(run)
    }

    /// Reads and checks all of it.
    fn read(&mut self, bus: &mut Bus, map: &Mappings, who: Who) -> Result<(), Status> {
        let mut left = self.len_bytes;
        let mut seen = 1;
        // The command's own descriptor is a segment of one.
        let mut next = self.take(self.sgl1, &mut left, true, false)?;
        while let Some(link) = next {
            seen += link.descriptors;
            if seen > MOST_DESCRIPTORS {
                return Err(COUNT_INVALID);
            }
            next = self.segment(bus, map, who, link, &mut left)?;
            if next.is_none() && !link.last {
                // Only a last segment ends without leading on.
                return Err(SEGMENT_INVALID);
            }
        }
        if left != 0 {
            return Err(LENGTH_INVALID);
        }
        Ok(())
    }

    fn segment(
        &mut self,
        bus: &mut Bus,
        map: &Mappings,
        who: Who,
        link: Link,
        left: &mut u64,
    ) -> Result<Option<Link>, Status> {
        let mut next = None;
        let mut read = 0;
        while read < link.descriptors {
            let count = (link.descriptors - read).min(AHEAD as u64);
            let mut words = [0; 2 * AHEAD];
            let Some(words) = words.get_mut(..2 * count as usize) else {
                return Err(Status::INTERNAL_ERROR);
            };
            let iova = link
                .iova
                .checked_add(SglDescriptor::LEN_BYTES as u64 * read);
            let iova = iova.ok_or(Status::DATA_TRANSFER_ERROR)?;
            bus.read_words(map, iova, words, who)
                .map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            for pair in words.chunks_exact(2) {
                let &[low, high] = pair else { continue };
                read += 1;
                let is_end = read == link.descriptors;
                next = self.take(
                    SglDescriptor::from_u64s([low, high]),
                    left,
                    is_end,
                    link.last,
                )?;
            }
        }
        Ok(next)
    }

    /// Takes one descriptor: a part of the transfer, or the way to the next segment. `is_end`: it
    /// is the last of its segment; `in_last`: of the last one.
    fn take(
        &mut self,
        descriptor: SglDescriptor,
        left: &mut u64,
        is_end: bool,
        in_last: bool,
    ) -> Result<Option<Link>, Status> {
        // No subtype but 0 (address) is supported: no offsets.
        if descriptor.subtype() != 0 {
            return Err(TYPE_INVALID);
        }
        let (iova, len_bytes) = (descriptor.address(), u64::from(descriptor.len_bytes()));
        let run = match descriptor.kind() {
            SglType::DATA_BLOCK => {
                if self.support == SglSupport::Dword && (iova | len_bytes) & 3 != 0 {
                    return Err(GRANULARITY_INVALID);
                }
                Run::Memory(Segment { iova, len_bytes })
            }
            // In a write it describes nothing, whatever its length (Base 2.0, figure 93).
            SglType::BIT_BUCKET if self.direction == Direction::FromHost => return Ok(None),
            SglType::BIT_BUCKET => Run::Discarded(len_bytes),
            kind @ (SglType::SEGMENT | SglType::LAST_SEGMENT) => {
                if !is_end {
                    return Err(COUNT_INVALID);
                }
                let whole = len_bytes != 0 && len_bytes % SglDescriptor::LEN_BYTES as u64 == 0;
                if in_last || !whole || iova & 7 != 0 {
                    return Err(SEGMENT_INVALID);
                }
                return Ok(Some(Link {
                    iova,
                    descriptors: len_bytes / SglDescriptor::LEN_BYTES as u64,
                    last: kind == SglType::LAST_SEGMENT,
                }));
            }
            _ => return Err(TYPE_INVALID),
        };
        // More than the command transfers (SGLS bit 18) is not supported.
        *left = left.checked_sub(len_bytes).ok_or(LENGTH_INVALID)?;
        if len_bytes != 0 {
            self.runs.push(run);
        }
        Ok(None)
    }
}
