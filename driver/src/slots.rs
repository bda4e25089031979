//! The commands in flight on one queue, and what they own until the device lets go of it.
//! A slot gives its buffer back with the completion, or keeps it in quarantine: nothing else.
use crate::dma::rt::Instant;
use std::time::Duration;
use underpin_nvme_spec::{Cid, Status};

/// How a queue names a request to its caller: unique for the queue's life.
///
/// ```
/// use std::collections::HashMap;
///
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
/// // What the caller remembers of each request, by its token.
/// let mut begun = HashMap::new();
/// for lba in [0, 8, 16] {
///     let token = queue.submit(ns.read(Lba(lba), 8)?, space.alloc(4096, 4096)?)?;
///     begun.insert(token, lba);
/// }
/// while queue.wait(None) {
///     queue.poll(64, |completion| assert!(begun.remove(&completion.token).is_some()));
/// }
/// assert!(begun.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub(crate) u64);

/// One command identifier's worth of state. A request that was split holds several slots; the
/// first, its *lead*, carries what belongs to the request.
#[derive(Debug)]
pub(crate) struct Slot<B> {
    tag: Tag,
    /// Of the request; meaningful in a lead only, but for the token.
    pub(crate) request: Request<B>,
    // What follows is for requests of several commands and for deadlines; plain ones that end in
    // time never touch it.
    /// Commands of the request that have not ended, in the lead of several.
    pub(crate) remaining: u16,
    /// The first error of any of them.
    pub(crate) status: Status,
    /// For deadlines: when the command was first seen in flight, and which it was.
    seen: Option<(Token, Instant)>,
}

/// What changes with every use of a slot, in one word: each store counts while the processor waits
/// for ring lines from the device's.
#[derive(Clone, Copy, Debug)]
struct Tag {
    /// The command identifier in use: the slot's number, and above it a count that moves with
    /// every use, so that a stale completion is noticed. In bits 15:0; the state in 31:16; the
    /// opcode in 47:32; and above them, while the slot is free, the free slot after this one,
    /// otherwise the lead of the request that this command is part of: the slot itself, except in
    /// a part of a request that was split.
    word: u64,
}

impl Tag {
    #[inline(always)]
    const fn new(cid: u16, state: SlotState, opcode: u8, link: u16) -> Self {
        let word = cid as u64 | (state as u64) << 16 | (opcode as u64) << 32 | (link as u64) << 48;
        Self { word }
    }

    #[inline(always)]
    const fn cid(self) -> u16 {
        self.word as u16
    }

    #[inline(always)]
    const fn link(self) -> u16 {
        (self.word >> 48) as u16
    }

    const fn opcode(self) -> u8 {
        (self.word >> 32) as u8
    }

    #[inline(always)]
    const fn is(self, cid: u16, state: SlotState) -> bool {
        self.word as u32 == Self::new(cid, state, 0, 0).word as u32
    }

    const fn state(self) -> SlotState {
        match (self.word >> 16) as u16 {
            0 => SlotState::Free,
            1 => SlotState::InFlight,
            2 => SlotState::PartInFlight,
            3 => SlotState::Ended,
            _ => SlotState::Quarantined,
        }
    }
}

impl<B> Slot<B> {
    pub(crate) const fn cid(&self) -> Cid {
        Cid(self.tag.cid())
    }

    pub(crate) const fn state(&self) -> SlotState {
        self.tag.state()
    }

    pub(crate) const fn opcode(&self) -> u8 {
        self.tag.opcode()
    }

    /// The lead of the request that its command is part of.
    pub(crate) const fn lead_index(&self) -> u16 {
        self.tag.link()
    }

    pub(crate) const fn set_state(&mut self, state: SlotState) {
        let Self { tag, .. } = self;
        *tag = Tag::new(tag.cid(), state, tag.opcode(), tag.link());
    }

    /// Makes it one of several commands of the request that `lead` leads; `token` names it alone.
    pub(crate) const fn join(&mut self, lead: u16, token: Token) {
        let Self { tag, .. } = self;
        *tag = Tag::new(tag.cid(), SlotState::PartInFlight, tag.opcode(), lead);
        self.request.token = token;
    }

    /// Counts its command as seen at that time.
    pub(crate) const fn see(&mut self, at: Instant) {
        self.seen = Some((self.request.token, at));
    }

    /// When its command was first seen in flight, if it was.
    pub(crate) fn first_seen(&self) -> Option<Instant> {
        let (token, at) = self.seen?;
        (token == self.request.token).then_some(at)
    }

    /// How long its command has been seen in flight.
    pub(crate) fn age(&mut self, now: Instant) -> Duration {
        match self.first_seen() {
            Some(at) => now.since(at),
            None => {
                self.see(now);
                Duration::ZERO
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
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
    /// Makes it the lead of a request, which owns `buffer` from now on.
    #[inline(always)]
    pub(crate) fn lead(&mut self, token: Token, describe: Describe, buffer: Option<B>) {
        let request = &mut self.request;
        request.token = token;
        request.describe = describe;
        // A free slot owns nothing. Were that wrong, a device might still use what it owns.
        std::mem::forget(std::mem::replace(&mut request.buffer, buffer));
    }
}

/// What belongs to a request as a whole.
#[derive(Debug)]
pub(crate) struct Request<B> {
    pub(crate) token: Token,
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
    /// What a slot's next command identifier is more than its last: one in the count above the
    /// slot's number.
    step: u16,
    /// Masks the slot's number out of a command identifier.
    index_mask: u16,
}

impl<B> Slots<B> {
    pub(crate) fn new(depth: u16) -> Self {
        let slot = |index: u16| Slot {
            tag: Tag::new(index, SlotState::Free, 0, index + 1),
            request: Request {
                token: Token(0),
                describe: Describe::default(),
                buffer: None,
            },
            remaining: 0,
            status: Status::SUCCESS,
            seen: None,
        };
        // No slot has the number of all ones: so no identifier is 0xffff, to which the error log
        // gives a meaning of its own (Base 2.0, 3.3.3.1). From 2^15 slots on the identifier is
        // the slot's number alone.
        let step = depth
            .checked_add(1)
            .and_then(u16::checked_next_power_of_two)
            .unwrap_or(0);
        Self {
            slots: (0..depth).map(slot).collect(),
            first_free: 0,
            step,
            index_mask: step.wrapping_sub(1),
        }
    }

    #[inline(always)]
    pub(crate) fn depth(&self) -> usize {
        self.slots.len()
    }

    /// Takes a free slot and gives it a fresh command identifier.
    #[inline(always)]
    pub(crate) fn take(&mut self, opcode: u8) -> Option<(u16, Cid, &mut Slot<B>)> {
        let index = self.first_free;
        let slot = self.slots.get_mut(usize::from(index))?;
        self.first_free = slot.tag.link();
        let cid = slot.tag.cid().wrapping_add(self.step);
        slot.tag = Tag::new(cid, SlotState::InFlight, opcode, index);
        Some((index, Cid(cid), slot))
    }

    /// Frees a slot whose command has ended, or was never sent.
    pub(crate) fn give_back(&mut self, index: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(index)) {
            slot.tag = Tag::new(slot.tag.cid(), SlotState::Free, 0, self.first_free);
            self.first_free = index;
        }
    }

    /// Ends the request whose one command has this identifier and frees its slot, then gives its
    /// token and its buffer to `end`. False, and nothing done, when no such command is in flight,
    /// or it is one of several of its request.
    #[inline(always)]
    pub(crate) fn finish(&mut self, cid: Cid, end: impl FnOnce(Token, Option<B>)) -> bool {
        let index = cid.0 & self.index_mask;
        let Some(slot) = self.slots.get_mut(usize::from(index)) else {
            return false;
        };
        if !slot.tag.is(cid.0, SlotState::InFlight) {
            return false;
        }
        slot.tag = Tag::new(cid.0, SlotState::Free, 0, self.first_free);
        self.first_free = index;
        end(slot.request.token, slot.request.buffer.take());
        true
    }

    /// The slot that a completion's command identifier names, if that command is in flight.
    pub(crate) fn in_flight(&self, cid: Cid) -> Option<u16> {
        let index = cid.0 & self.index_mask;
        let slot = self.slots.get(usize::from(index))?;
        (slot.cid() == cid && slot.state().is_in_flight()).then_some(index)
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
