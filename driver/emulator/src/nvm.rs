//! The NVM command set (NVM Command Set 1.0): Read, Write and Flush; the others are in files of their own.
//! A transfer is a state machine that moves as many bytes as it is allowed to at a time; what is
//! promised to be atomic passes a stage of its own, so that pieces of it are never seen.
mod compare;
mod dsm;
mod other;
mod verify;
mod write_zeroes;

use crate::bus::{Blocked, Bus, Who};
use crate::iommu::{Direction, Mappings};
use crate::media::{Medium, MediumError};
use crate::namespace::Namespace;
use crate::power::Cache;
use crate::sgl::{Run, SglSupport, Walk};
use crate::walk::{Segment, without_list};
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
    /// Which SGLs commands may have.
    pub(crate) sgl: SglSupport,
    /// Transfers are made in pieces, between which others are: what is atomic must be staged.
    pub(crate) in_pieces: bool,
}

/// Why a piece of a transfer failed.
enum Trouble {
    Blocked,
    Medium,
}

impl Trouble {
    fn status(&self, direction: Direction, medium: &Medium) -> Status {
        match self {
            Self::Blocked => Status::DATA_TRANSFER_ERROR,
            Self::Medium => failed(direction, medium),
        }
    }
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
    /// The segment's bytes go nowhere.
    discarded: bool,
    walk: Walk,
    /// To be made durable before it completes.
    durable: bool,
    stage: Option<Stage>,
    /// Its number in the namespace's cache, once a write has begun there.
    cached: Option<u64>,
}

/// The last byte that a transfer has moved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastByte {
    pub(crate) namespace: usize,
    pub(crate) direction: Direction,
    /// Of the medium.
    pub(crate) at: u64,
    pub(crate) iova: u64,
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

/// A Read or Write command that may be carried out.
#[derive(Clone, Copy, Debug)]
struct Checked {
    /// The namespace's place in the list.
    namespace: usize,
    direction: Direction,
    /// Of the medium, in bytes.
    at: u64,
    len_bytes: u64,
    /// To be made durable before it completes.
    durable: bool,
}

impl Checked {
    /// Checks a Read or Write command.
    #[inline(always)]
    fn new(namespaces: &[Namespace], limits: &Limits, sqe: &Sqe) -> Result<Self, Status> {
        let command = ReadWrite::from_sqe(sqe);
        // No fused operations (Base 2.0, 3.3.3.1).
        if sqe.fuse() != 0 || !limits.sgl.takes(sqe.psdt()) {
            return Err(INVALID_FIELD);
        }
        let index = (command.nsid.0 as usize).wrapping_sub(1);
        let Some(namespace) = namespaces.get(index) else {
            return Err(INVALID_NAMESPACE);
        };
        let blocks = u64::from(command.blocks);
        if blocks > namespace.blocks || command.slba.0 > namespace.blocks - blocks {
            return Err(namespace.refusal());
        }
        let len_bytes = blocks << namespace.lba_shift;
        if len_bytes > limits.max_bytes {
            return Err(INVALID_FIELD);
        }
        let is_write = command.opcode == NvmOpcode::WRITE;
        Ok(Self {
            namespace: index,
            direction: if is_write {
                Direction::FromHost
            } else {
                Direction::ToHost
            },
            at: command.slba.0 << namespace.lba_shift,
            len_bytes,
            durable: is_write && (command.fua || limits.write_through),
        })
    }
}

fn failed(direction: Direction, medium: &Medium) -> Status {
    match direction {
        Direction::ToHost => Status::UNRECOVERED_READ_ERROR,
        Direction::FromHost => medium.write_failure(),
    }
}

/// Moves `len_bytes` bytes between a medium, from `at` on, and host memory.
#[inline(always)]
fn move_bytes(
    medium: &mut Medium,
    at: u64,
    bus: &mut Bus,
    map: &Mappings,
    (iova, len_bytes): (u64, u64),
    direction: Direction,
    who: Who,
) -> Result<(), Status> {
    let len = len_bytes as usize;
    let moved: Result<(), Trouble> = if medium.has_bytes() {
        bus.windows(map, iova, len, direction, who, |offset, view| {
            let at = at + offset as u64;
            match direction {
                Direction::ToHost => medium.read(at, view)?,
                Direction::FromHost => medium.write(at, view)?,
            }
            Ok(())
        })
    } else {
        let checked = bus.check(map, iova, len, direction, who);
        checked.map_err(Trouble::from)
    };
    moved.map_err(|trouble| trouble.status(direction, medium))
}

/// The same, out of the way of transfers that lie within one page.
#[inline(never)]
fn move_more(
    medium: &mut Medium,
    at: u64,
    bus: &mut Bus,
    map: &Mappings,
    memory: (u64, u64),
    direction: Direction,
    who: Who,
) -> Result<(), Status> {
    move_bytes(medium, at, bus, map, memory, direction, who)
}

/// Carries out a Read or Write at once.
#[inline(always)]
pub(crate) fn at_once(
    bus: &mut Bus,
    map: &Mappings,
    namespaces: &mut [Namespace],
    limits: &Limits,
    sqe: &Sqe,
    who: Who,
) -> Result<(), Status> {
    if sqe.psdt() != Sqe::PSDT_PRP {
        return all_of_it(bus, map, namespaces, limits, sqe, who);
    }
    let command = Checked::new(namespaces, limits, sqe)?;
    let (prp1, prp2) = (sqe.prp1(), sqe.prp2());
    let direct = without_list(prp1, prp2, command.len_bytes, limits.page_bytes);
    let (Some(segments), false) = (direct, limits.in_pieces) else {
        return all_of_it(bus, map, namespaces, limits, sqe, who);
    };
    let Some(namespace) = namespaces.get_mut(command.namespace) else {
        return Err(INVALID_NAMESPACE);
    };
    let medium = &mut namespace.medium;
    let (at, direction) = (command.at, command.direction);
    let [first, second] = segments?.map(|segment| (segment.iova, segment.len_bytes));
    move_bytes(medium, at, bus, map, first, direction, who)?;
    if second.1 != 0 {
        move_more(medium, at + first.1, bus, map, second, direction, who)?;
    }
    if command.durable {
        medium.flush().map_err(|_| Status::WRITE_FAULT)?;
    }
    Ok(())
}

/// The same by way of a [`Transfer`].
#[inline(never)]
fn all_of_it(
    bus: &mut Bus,
    map: &Mappings,
    namespaces: &mut [Namespace],
    limits: &Limits,
    sqe: &Sqe,
    who: Who,
) -> Result<(), Status> {
    let mut transfer = Transfer::begin(namespaces, limits, sqe)?;
    transfer
        .advance(bus, map, namespaces, who, u64::MAX)
        .map(|_| ())
}

impl Transfer {
    /// Checks a Read or Write command.
    pub(crate) fn begin(
        namespaces: &[Namespace],
        limits: &Limits,
        sqe: &Sqe,
    ) -> Result<Self, Status> {
        let Checked {
            namespace: index,
            direction,
            at,
            len_bytes,
            durable,
        } = Checked::new(namespaces, limits, sqe)?;
        let Some(namespace) = namespaces.get(index) else {
            return Err(INVALID_NAMESPACE);
        };
        let blocks = len_bytes >> namespace.lba_shift;
        let staged = limits.in_pieces && blocks <= namespace.atomic_blocks;
        let stage = staged.then(|| Stage {
            base: at,
            bytes: vec![0; len_bytes as usize],
            filled: false,
        });
        Ok(Self {
            namespace: index,
            direction,
            at,
            left: len_bytes,
            segment: Segment {
                iova: 0,
                len_bytes: 0,
            },
            discarded: false,
            walk: Walk::new(sqe, len_bytes, direction, limits),
            durable,
            stage: stage.filter(|_| namespace.medium.has_bytes()),
            cached: None,
        })
    }

    /// Moves up to `chunk` bytes. True when the transfer is complete.
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
        let Namespace { medium, cache, .. } = namespace;
        if self.direction == Direction::FromHost
            && let (None, Some(cache)) = (self.cached, cache.as_mut())
        {
            self.cached = Some(cache.begin(self.at, self.left));
        }
        if let Some(stage) = &mut self.stage
            && !stage.filled
            && self.direction == Direction::ToHost
        {
            stage.filled = true;
            let read = medium.read_bytes(stage.base, &mut stage.bytes);
            read.map_err(|_| failed(Direction::ToHost, medium))?;
        }
        let mut budget = chunk;
        while self.left > 0 {
            if budget == 0 {
                return Ok(false);
            }
            if self.segment.len_bytes == 0 {
                (self.segment, self.discarded) = match self.walk.next(bus, map, who)? {
                    Some(Run::Memory(segment)) => (segment, false),
                    Some(Run::Discarded(len_bytes)) => (Segment { iova: 0, len_bytes }, true),
                    None => return Err(Status::INTERNAL_ERROR),
                };
            }
            let len = self.segment.len_bytes.min(budget);
            let (iova, direction) = (self.segment.iova, self.direction);
            if self.discarded {
                // Nothing moves.
            } else if let Some(stage) = &mut self.stage {
                let from = (self.at - stage.base) as usize;
                let moved: Result<(), Trouble> =
                    bus.windows(map, iova, len as usize, direction, who, |offset, view| {
                        let range = from + offset..from + offset + view.len_bytes();
                        let part = stage.bytes.get_mut(range).ok_or(Trouble::Medium)?;
                        let copied = match direction {
                            Direction::ToHost => view.copy_from(0, part),
                            Direction::FromHost => view.copy_to(0, part),
                        };
                        copied.map_err(|_| Trouble::Medium)
                    });
                moved.map_err(|trouble| trouble.status(direction, medium))?;
            } else {
                let (at, cached) = (self.at, self.cached);
                let before = Before::of(medium, cache.is_some() && cached.is_some(), at, len);
                let moved = move_bytes(medium, at, bus, map, (iova, len), direction, who);
                before.note(medium, cache, cached);
                moved?;
            }
            self.segment.iova = iova.wrapping_add(len);
            self.segment.len_bytes -= len;
            self.at += len;
            self.left -= len;
            budget -= len;
        }
        if let Some(stage) = &self.stage
            && self.direction == Direction::FromHost
        {
            let (len, cached) = (stage.bytes.len() as u64, self.cached);
            let before = Before::of(medium, cache.is_some() && cached.is_some(), stage.base, len);
            let written = medium.write_bytes(stage.base, &stage.bytes);
            before.note(medium, cache, cached);
            written.map_err(|_| medium.write_failure())?;
        }
        if self.durable {
            medium.flush().map_err(|_| Status::WRITE_FAULT)?;
            if let (Some(cache), Some(write)) = (cache.as_mut(), self.cached) {
                cache.harden(write);
            }
        }
        Ok(true)
    }

    /// The last byte moved, if any was.
    pub(crate) fn last_byte(&self) -> Option<LastByte> {
        let at = self.at.checked_sub(1).filter(|_| !self.discarded)?;
        Some(LastByte {
            namespace: self.namespace,
            direction: self.direction,
            at,
            iova: self.segment.iova.wrapping_sub(1),
        })
    }
}

/// What a piece of the medium held before it was written, for the cache.
struct Before {
    at: u64,
    old: Vec<u8>,
}

impl Before {
    /// Empty unless `wanted`.
    fn of(medium: &Medium, wanted: bool, at: u64, len_bytes: u64) -> Self {
        let old = match wanted {
            true => read_back(medium, at, len_bytes as usize),
            false => Vec::new(),
        };
        Self { at, old }
    }

    fn note(self, medium: &Medium, cache: &mut Option<Box<Cache>>, write: Option<u64>) {
        if let (Some(cache), Some(write)) = (cache, write)
            && !self.old.is_empty()
        {
            let new = read_back(medium, self.at, self.old.len());
            cache.note(write, self.at, self.old, new);
        }
    }
}

/// Nothing when the medium fails, or has no bytes.
fn read_back(medium: &Medium, at: u64, len_bytes: usize) -> Vec<u8> {
    let mut bytes = vec![0; len_bytes];
    match medium.has_bytes() && medium.read_bytes(at, &mut bytes).is_ok() {
        true => bytes,
        false => Vec::new(),
    }
}

/// Flush: of one namespace, or of all of them.
pub(crate) fn flush(namespaces: &mut [Namespace], nsid: Nsid) -> Status {
    let mut flushed = false;
    for namespace in namespaces {
        if (nsid == Nsid::ALL || nsid == Nsid(namespace.nsid)) && !namespace.gone {
            flushed = true;
            if let Some(cache) = &mut namespace.cache {
                cache.flush();
            }
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
