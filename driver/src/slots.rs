//! The commands in flight on one queue, and what they own until the device lets go of it.
//! A slot gives its buffer back with the completion, or keeps it in quarantine: nothing else.
use crate::dma::rt::Instant;
use std::time::Duration;
use underpin_nvme_spec::{Cid, Sqe, Status};

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
    live: Live,
    /// While the slot is free, the free slot after this one; in each part of a request that was
    /// split, the request's lead. A command that is all of its request has none: it leads itself.
    link: u16,
    /// Of the request; meaningful in a lead only, but for the token and the head.
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

/// What a completion is compared with, in one word: the state in bits 15:0, and in 31:16 the command
/// identifier in use, which is the slot's number and above it a count that moves with every use,
/// so that a stale completion is noticed. As the count is on top, it can run over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Live(u32);

impl Live {
    #[inline(always)]
    const fn new(cid: u16, state: SlotState) -> Self {
        Self((cid as u32) << 16 | state as u32)
    }

    #[inline(always)]
    const fn cid(self) -> u16 {
        (self.0 >> 16) as u16
    }

    const fn state(self) -> SlotState {
        match self.0 as u16 {
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
        Cid(self.live.cid())
    }

    pub(crate) const fn state(&self) -> SlotState {
        self.live.state()
    }

    /// The opcode of its command.
    pub(crate) const fn opcode(&self) -> u8 {
        self.request.describe.head.opcode()
    }

    /// The lead of the request that the command of this slot, which is number `index`, is part of.
    pub(crate) const fn lead_index(&self, index: u16) -> u16 {
        match self.state() {
            SlotState::InFlight => index,
            _ => self.link,
        }
    }

    pub(crate) const fn set_state(&mut self, state: SlotState) {
        self.live = Live::new(self.live.cid(), state);
    }

    /// Makes it one of several commands of the request that `lead` leads; `token` names it alone.
    pub(crate) const fn join(&mut self, lead: u16, token: Token, head: Head) {
        self.set_state(SlotState::PartInFlight);
        self.link = lead;
        self.request.token = token;
        self.request.describe.head = head;
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
    Free = 0,
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
    pub(crate) head: Head,
    pub(crate) lba: u64,
    pub(crate) len_bytes: u64,
}

/// Which command to which namespace: the first two dwords of its entry but for the identifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head(u64);

impl Head {
    #[inline(always)]
    pub(crate) const fn new(opcode: u8, nsid: u32) -> Self {
        Self(opcode as u64 | (nsid as u64) << 32)
    }

    #[inline(always)]
    pub(crate) const fn of(sqe: Sqe) -> Self {
        Self::new(sqe.opcode(), sqe.nsid().0)
    }

    #[inline(always)]
    pub(crate) const fn opcode(self) -> u8 {
        self.0 as u8
    }

    #[inline(always)]
    pub(crate) const fn nsid(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// That command.
    #[inline(always)]
    pub(crate) const fn with_opcode(self, opcode: u8) -> Self {
        Self(self.0 | opcode as u64)
    }

    /// The first word of the entry of a command in flight. Its identifier lies there where it does
    /// in `live`.
    #[inline(always)]
    const fn word(self, live: Live) -> u64 {
        self.0 + (live.0 - SlotState::InFlight as u32) as u64
    }
}

/// The slots of one queue.
#[derive(Debug)]
pub(crate) struct Slots<B> {
    slots: Vec<Slot<B>>,
    /// The slot that was freed last; beyond the end when none is free.
    first_free: u16,
    /// From free under the last command identifier to in flight under the next, which is one more
    /// in the count above the slot's number.
    step: u32,
    /// Masks the slot's number out of a command identifier.
    index_mask: u16,
}

impl<B> Slots<B> {
    pub(crate) fn new(depth: u16) -> Self {
        let slot = |index: u16| Slot {
            live: Live::new(index, SlotState::Free),
            link: index + 1,
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
            step: Live::new(step, SlotState::InFlight).0,
            index_mask: step.wrapping_sub(1),
        }
    }

    #[inline(always)]
    pub(crate) fn depth(&self) -> usize {
        self.slots.len()
    }

    /// Takes a free slot and gives it a fresh command identifier.
    pub(crate) fn take(&mut self) -> Option<(u16, Cid, &mut Slot<B>)> {
        let index = self.first_free;
        let (live, slot) = self.take_live()?;
        Some((index, Cid(live.cid()), slot))
    }

    /// The same for a plain command, of which only the entry's first word is wanted.
    #[inline(always)]
    pub(crate) fn take_for(&mut self, head: Head) -> Option<(u64, &mut Slot<B>)> {
        let (live, slot) = self.take_live()?;
        Some((head.word(live), slot))
    }

    #[inline(always)]
    fn take_live(&mut self) -> Option<(Live, &mut Slot<B>)> {
        let index = self.first_free;
        let slot = self.slots.get_mut(usize::from(index))?;
        self.first_free = slot.link;
        let live = Live(slot.live.0.wrapping_add(self.step));
        slot.live = live;
        Some((live, slot))
    }

    /// Frees a slot whose command has ended, or was never sent.
    pub(crate) fn give_back(&mut self, index: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(index)) {
            slot.set_state(SlotState::Free);
            slot.link = self.first_free;
            self.first_free = index;
        }
    }

    /// Frees the slot of the request whose one command has this identifier, and returns the
    /// request, whose buffer is to be taken. `None`, and nothing done, when no such command is in
    /// flight, or it is one of several of its request.
    #[inline(always)]
    pub(crate) fn finish(&mut self, cid: Cid) -> Option<&mut Request<B>> {
        let index = cid.0 & self.index_mask;
        let slot = self.slots.get_mut(usize::from(index))?;
        if slot.live != Live::new(cid.0, SlotState::InFlight) {
            return None;
        }
        slot.live = Live::new(cid.0, SlotState::Free);
        slot.link = self.first_free;
        self.first_free = index;
        Some(&mut slot.request)
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
                while let Some((index, cid, _)) = slots.take() {
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
