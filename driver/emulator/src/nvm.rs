//! The NVM command set (NVM Command Set 1.0): Read, Write and Flush.
//! A transfer is a state machine that moves as many bytes as it is allowed to at a time; what is
//! promised to be atomic passes a stage of its own, so that pieces of it are never seen.
use crate::bus::{Blocked, Bus, Who};
use crate::iommu::{Direction, Mappings};
use crate::media::MediumError;
use crate::namespace::Namespace;
use crate::walk::{PrpWalk, Segment};
use underpin_nvme_spec::nvm::ReadWrite;
use underpin_nvme_spec::{Nsid, NvmOpcode, Sqe, Status};

const INVALID_FIELD: Status = Status::INVALID_FIELD.with_do_not_retry();
const INVALID_NAMESPACE: Status = Status::INVALID_NAMESPACE_OR_FORMAT.with_do_not_retry();

/// What limits a transfer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) page_bytes: u64,
    /// MDTS in bytes.
    pub(crate) max_bytes: u64,
    /// Writes are durable when they complete: the volatile write cache is absent or off.
    pub(crate) write_through: bool,
    /// Transfers are made in pieces, between which others are: what is atomic must be staged.
    pub(crate) in_pieces: bool,
}

/// Why a piece of a transfer failed.
enum Trouble {
    Blocked,
    Medium,
}

impl From<Blocked> for Trouble {
    fn from(_: Blocked) -> Self {
        Self::Blocked
    }
}

impl From<MediumError> for Trouble {
    fn from(_: MediumError) -> Self {
        Self::Medium
    }
}

/// A Read or Write under way.
#[derive(Debug)]
pub(crate) struct Transfer {
    /// The namespace's place in the list.
    namespace: usize,
    direction: Direction,
    /// Of the medium, in bytes.
    at: u64,
    left: u64,
    segment: Segment,
    walk: PrpWalk,
    /// To be made durable before it completes.
    durable: bool,
    stage: Option<Stage>,
}

/// The data of an atomic transfer: read from the medium at once and written to it at once,
/// while DMA goes piece by piece.
#[derive(Debug)]
struct Stage {
    /// Where it begins on the medium.
    base: u64,
    bytes: Vec<u8>,
    /// A read's data is there.
    filled: bool,
}

impl Transfer {
    /// Checks a Read or Write command.
    #[inline(always)]
    pub(crate) fn begin(
        namespaces: &[Namespace],
        limits: &Limits,
        sqe: &Sqe,
    ) -> Result<Self, Status> {
        let command = ReadWrite::from_sqe(sqe);
        // No fused operations and no SGLs (Base 2.0, 3.3.3.1).
        if sqe.fuse() != 0 || sqe.psdt() != 0 {
            return Err(INVALID_FIELD);
        }
        let index = (command.nsid.0 as usize).wrapping_sub(1);
        let Some(namespace) = namespaces.get(index) else {
            return Err(INVALID_NAMESPACE);
        };
        let blocks = u64::from(command.blocks);
        if blocks > namespace.blocks || command.slba.0 > namespace.blocks - blocks {
            return Err(Status::LBA_OUT_OF_RANGE.with_do_not_retry());
        }
        let len_bytes = blocks << namespace.lba_shift;
        if len_bytes > limits.max_bytes {
            return Err(INVALID_FIELD);
        }
        let is_write = command.opcode == NvmOpcode::WRITE;
        let at = command.slba.0 << namespace.lba_shift;
        let staged = limits.in_pieces && blocks <= namespace.atomic_blocks;
        let stage = staged.then(|| Stage {
            base: at,
            bytes: vec![0; len_bytes as usize],
            filled: false,
        });
        Ok(Self {
            namespace: index,
            direction: if is_write {
                Direction::FromHost
            } else {
                Direction::ToHost
            },
            at,
            left: len_bytes,
            segment: Segment {
                iova: 0,
                len_bytes: 0,
            },
            walk: PrpWalk::new(sqe.prp1(), sqe.prp2(), len_bytes, limits.page_bytes),
            durable: is_write && (command.fua || limits.write_through),
            stage: stage.filter(|_| namespace.medium.has_bytes()),
        })
    }

    /// Moves up to `chunk` bytes. True when the transfer is complete.
    #[inline(always)]
    pub(crate) fn advance(
        &mut self,
        bus: &mut Bus,
        map: &Mappings,
        namespaces: &mut [Namespace],
        who: Who,
        chunk: u64,
    ) -> Result<bool, Status> {
        let Some(namespace) = namespaces.get_mut(self.namespace) else {
            return Err(INVALID_NAMESPACE);
        };
        let medium = &mut namespace.medium;
        let failed = |direction| match direction {
            Direction::ToHost => Status::UNRECOVERED_READ_ERROR,
            Direction::FromHost => Status::WRITE_FAULT,
        };
        if let Some(stage) = &mut self.stage
            && !stage.filled
            && self.direction == Direction::ToHost
        {
            stage.filled = true;
            let read = medium.read_bytes(stage.base, &mut stage.bytes);
            read.map_err(|_| failed(Direction::ToHost))?;
        }
        let mut budget = chunk;
        while self.left > 0 {
            if budget == 0 {
                return Ok(false);
            }
            if self.segment.len_bytes == 0 {
                let Some(segment) = self.walk.next(bus, map, who)? else {
                    return Err(Status::INTERNAL_ERROR);
                };
                self.segment = segment;
            }
            let len = self.segment.len_bytes.min(budget);
            let (iova, direction) = (self.segment.iova, self.direction);
            let moved: Result<(), Trouble> = if !medium.has_bytes() {
                bus.check(map, iova, len as usize, direction, who)
                    .map_err(Trouble::from)
            } else if let Some(stage) = &mut self.stage {
                let from = (self.at - stage.base) as usize;
                bus.windows(map, iova, len as usize, direction, who, |offset, view| {
                    let range = from + offset..from + offset + view.len_bytes();
                    let part = stage.bytes.get_mut(range).ok_or(Trouble::Medium)?;
                    let copied = match direction {
                        Direction::ToHost => view.copy_from(0, part),
                        Direction::FromHost => view.copy_to(0, part),
                    };
                    copied.map_err(|_| Trouble::Medium)
                })
            } else {
                let base = self.at;
                bus.windows(map, iova, len as usize, direction, who, |offset, view| {
                    let at = base + offset as u64;
                    match direction {
                        Direction::ToHost => medium.read(at, view)?,
                        Direction::FromHost => medium.write(at, view)?,
                    }
                    Ok(())
                })
            };
            moved.map_err(|trouble| match trouble {
                Trouble::Blocked => Status::DATA_TRANSFER_ERROR,
                Trouble::Medium => failed(direction),
            })?;
            self.segment.iova = iova.wrapping_add(len);
            self.segment.len_bytes -= len;
            self.at += len;
            self.left -= len;
            budget -= len;
        }
        if let Some(stage) = &self.stage
            && self.direction == Direction::FromHost
        {
            let written = medium.write_bytes(stage.base, &stage.bytes);
            written.map_err(|_| Status::WRITE_FAULT)?;
        }
        if self.durable {
            medium.flush().map_err(|_| Status::WRITE_FAULT)?;
        }
        Ok(true)
    }
}

/// Flush: of one namespace, or of all of them.
pub(crate) fn flush(namespaces: &mut [Namespace], nsid: Nsid) -> Status {
    let mut flushed = false;
    for namespace in namespaces {
        if nsid == Nsid::ALL || nsid == Nsid(namespace.nsid) {
            flushed = true;
            if namespace.medium.flush().is_err() {
                return Status::WRITE_FAULT;
            }
        }
    }
    match flushed {
        true => Status::SUCCESS,
        false => INVALID_NAMESPACE,
    }
}
