//! The commands in flight on one queue, and what they own until the device lets go of it.
//! A slot gives its buffer back with the completion, or keeps it in quarantine: nothing else.
use crate::dma::rt::Instant;
use underpin_nvme_spec::{Cid, Status};

/// How a queue names a request to its caller: unique for the queue's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub(crate) u64);

/// One command identifier's worth of state. A request that was split holds several slots; the
/// first, its *lead*, carries what belongs to the request.
#[derive(Debug)]
pub(crate) struct Slot<B> {
    /// The command identifier in use: the slot's number, and above it a count that moves with
    /// every use, so that a stale completion is noticed.
    cid: u16,
    /// The lead of the request that this command is part of: the slot itself, except in a part of
    /// a request that was split.
    pub(crate) lead: u16,
    /// The free slot after this one, while this one is free.
    next_free: u16,
    pub(crate) state: SlotState,
    pub(crate) opcode: u8,
    /// For deadlines: when the command was first seen in flight; `None` until then.
    pub(crate) seen: Option<Instant>,
    // Of the request; meaningful in a lead only.
    pub(crate) request: Request<B>,
}

impl<B> Slot<B> {
    pub(crate) const fn cid(&self) -> Cid {
        Cid(self.cid)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotState {
    Free,
    /// The device has the command, which is all of its request.
    InFlight,
    /// The device has the command, which is one of several of its request.
    PartInFlight,
    /// The command has ended, but others of the same request have not.
    Ended,
    /// The controller failed under it: the owner was told; the buffer stays until proof.
    Quarantined,
}

impl SlotState {
    #[inline(always)]
    pub(crate) const fn is_in_flight(self) -> bool {
        matches!(self, Self::InFlight | Self::PartInFlight)
    }
}

impl<B> Slot<B> {
    /// Makes it the lead of a request of `commands` commands, which owns `buffer` from now on.
    #[inline(always)]
    pub(crate) fn lead(
        &mut self,
        token: Token,
        commands: u16,
        describe: Describe,
        buffer: Option<B>,
    ) {
        let request = &mut self.request;
        request.token = token;
        request.remaining = commands;
        request.status = Status::SUCCESS;
        request.describe = describe;
        // A free slot owns nothing. Were that wrong, a device might still use what it owns.
        std::mem::forget(std::mem::replace(&mut request.buffer, buffer));
    }
}

/// What belongs to a request as a whole.
#[derive(Debug)]
pub(crate) struct Request<B> {
    pub(crate) token: Token,
    /// Commands of it that have not ended, where it has several.
    pub(crate) remaining: u16,
    /// The first error of any of its commands.
    pub(crate) status: Status,
    pub(crate) describe: Describe,
    pub(crate) buffer: Option<B>,
}

/// What an error message says of a request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Describe {
    pub(crate) nsid: u32,
    pub(crate) lba: u64,
    pub(crate) len_bytes: u64,
}

/// The slots of one queue.
#[derive(Debug)]
pub(crate) struct Slots<B> {
    slots: Vec<Slot<B>>,
    /// The slot that was freed last; beyond the end when none is free.
    first_free: u16,
    free_count: usize,
    /// Masks the slot's number out of a command identifier.
    index_mask: u16,
}

impl<B> Slots<B> {
    pub(crate) fn new(depth: u16) -> Self {
        let slot = |index: u16| Slot {
            cid: 0,
            lead: index,
            next_free: index + 1,
            state: SlotState::Free,
            opcode: 0,
            seen: None,
            request: Request {
                token: Token(0),
                remaining: 0,
                status: Status::SUCCESS,
                describe: Describe::default(),
                buffer: None,
            },
        };
        Self {
            slots: (0..depth).map(slot).collect(),
            first_free: 0,
            free_count: usize::from(depth),
            // Beyond 2^15 slots the identifier is the slot's number alone.
            index_mask: depth
                .checked_next_power_of_two()
                .map_or(u16::MAX, |slots| slots - 1),
        }
    }

    #[inline(always)]
    pub(crate) fn depth(&self) -> usize {
        self.slots.len()
    }

    #[inline(always)]
    pub(crate) fn free_count(&self) -> usize {
        self.free_count
    }

    /// Takes a free slot and gives it a fresh command identifier.
    #[inline(always)]
    pub(crate) fn take(&mut self, opcode: u8) -> Option<(u16, Cid, &mut Slot<B>)> {
        let index = self.first_free;
        let slot = self.slots.get_mut(usize::from(index))?;
        self.first_free = slot.next_free;
        self.free_count -= 1;
        // 0xffff is not used: the error log gives it a meaning of its own (Base 2.0, 3.3.3.1).
        let mut cid = (slot.cid | self.index_mask).wrapping_add(1) | index;
        if cid == u16::MAX {
            cid = index;
        }
        slot.cid = cid;
        slot.state = SlotState::InFlight;
        slot.opcode = opcode;
        slot.seen = None;
        Some((index, Cid(cid), slot))
    }

    /// Frees a slot whose command has ended, or was never sent.
    pub(crate) fn give_back(&mut self, index: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(index)) {
            slot.state = SlotState::Free;
            slot.lead = index;
            slot.next_free = self.first_free;
            self.first_free = index;
            self.free_count += 1;
        }
    }

    /// Ends the request whose one command has this identifier and frees its slot, then gives its
    /// token and its buffer to `end`. False, and nothing done, when no such command is in flight,
    /// or it is one of several of its request.
    #[inline(always)]
    pub(crate) fn finish(&mut self, cid: Cid, end: impl FnOnce(Token, Option<B>)) -> bool {
        let Some((index, slot)) = named(&mut self.slots, self.index_mask, cid) else {
            return false;
        };
        if slot.state != SlotState::InFlight {
            return false;
        }
        slot.state = SlotState::Free;
        slot.next_free = self.first_free;
        self.first_free = index;
        self.free_count += 1;
        end(slot.request.token, slot.request.buffer.take());
        true
    }

    /// The slot that a completion's command identifier names, if that command is in flight.
    pub(crate) fn in_flight(&mut self, cid: Cid) -> Option<u16> {
        named(&mut self.slots, self.index_mask, cid).map(|(index, _)| index)
    }

    pub(crate) fn slot(&mut self, index: u16) -> Option<&mut Slot<B>> {
        self.slots.get_mut(usize::from(index))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot<B>> {
        self.slots.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u16, &mut Slot<B>)> {
        (0_u16..).zip(self.slots.iter_mut())
    }
}

/// The slot whose command has this identifier and is in flight.
#[inline(always)]
fn named<B>(slots: &mut [Slot<B>], index_mask: u16, cid: Cid) -> Option<(u16, &mut Slot<B>)> {
    let index = cid.0 & index_mask;
    let slot = slots.get_mut(usize::from(index))?;
    (slot.cid == cid.0 && slot.state.is_in_flight()).then_some((index, slot))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A command identifier is not used again before its count has run through all its values,
    /// never 0xffff, and a stale one names nothing.
    #[test]
    fn stale_identifiers_name_nothing() {
        for depth in [1_u16, 2, 3, 32, 1000, 1023, 16_384] {
            let mut slots = Slots::<()>::new(depth);
            let mut last: Option<Cid> = None;
            for _ in 0..200_000 / u32::from(depth) {
                let mut taken = Vec::new();
                while let Some((index, cid, _)) = slots.take(0) {
                    assert_ne!(cid.0, 0xffff);
                    assert_eq!(slots.in_flight(cid), Some(index));
                    taken.push((index, cid));
                }
                assert_eq!(taken.len(), usize::from(depth));
                if let Some(stale) = last {
                    assert_eq!(slots.in_flight(stale), None, "{stale:?} is long done");
                }
                last = taken.first().map(|&(_, cid)| cid);
                for (index, cid) in taken {
                    slots.give_back(index);
                    assert_eq!(slots.in_flight(cid), None);
                }
            }
        }
    }
}
