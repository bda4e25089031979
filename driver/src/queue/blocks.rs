//! Commands that name blocks and move no data: Write Zeroes, Verify; split where the device takes
//! fewer blocks at a time. And the ranges of Dataset Management, whose memory is the queue's own.
use super::{Queue, Transfer};
use crate::Error;
use crate::dma::{DmaBuf, DmaSpace};
use crate::prp::Prps;
use crate::slots::{Describe, Head, SlotState, Token};
use underpin_nvme_spec::nvm::{DatasetManagement, DsmRange};
use underpin_nvme_spec::{Cid, Nsid, Status};

/// Why, and what the request was to own.
type RefusedBare<B> = (Error, Option<B>);

impl<B> Queue<B> {
    /// Writes the command or commands of a request without data, of at most `most` blocks each.
    /// `buffer` is what it owns while in flight.
    pub(crate) fn submit_blocks(
        &mut self,
        transfer: &Transfer,
        most: u64,
        mut buffer: Option<B>,
    ) -> Result<Token, RefusedBare<B>> {
        if self.health.is_failed() {
            return Err((self.failed(), buffer));
        }
        let needed = transfer.blocks.div_ceil(most);
        let needed = usize::try_from(needed).unwrap_or(usize::MAX);
        if needed > self.slots.depth() {
            let bytes = |blocks: u64| blocks << transfer.lba_shift;
            let error = Error::TooLong {
                len_bytes: bytes(transfer.blocks),
                max_bytes: bytes(most * self.slots.depth() as u64),
            };
            return Err((error, buffer));
        }
        if needed > self.free_count() {
            return Err((self.full(needed), buffer));
        }
        let describe = Describe {
            len_bytes: transfer.blocks << transfer.lba_shift,
            ..transfer.describe()
        };
        // The number of its (first) entry, as with any request.
        let token = self.next_token();
        self.tally.other(transfer.opcode().0);
        let (mut at, mut lead) = (0, None);
        let mut number = token;
        while at < transfer.blocks {
            let blocks = most.min(transfer.blocks - at);
            let Some((index, cid, slot)) = self.slots.take() else {
                // There were slots enough, so there are.
                return Err((self.full(needed), buffer));
            };
            let lead = *lead.get_or_insert(index);
            if lead == index {
                // At most as many as there are slots.
                slot.lead(token, describe, buffer.take());
                slot.remaining = needed as u16;
                slot.status = Status::SUCCESS;
            }
            if needed > 1 {
                slot.join(lead, number, transfer.head);
            }
            let nowhere = Prps { prp1: 0, prp2: 0 };
            let command = transfer.command(transfer.lba + at, blocks, nowhere, cid);
            number = Token(self.write(command) + 1);
            at += blocks;
        }
        Ok(token)
    }

    /// Writes a Dataset Management command with these ranges, of which there are at most 256.
    pub(crate) fn submit_ranges(
        &mut self,
        space: &DmaSpace,
        nsid: Nsid,
        ranges: &[DsmRange],
    ) -> Result<Token, Error> {
        if self.health.is_failed() {
            return Err(self.failed());
        }
        if self.free_count() == 0 {
            return Err(self.full(1));
        }
        let place = self.free_page(space)?;
        let mut command = DatasetManagement {
            nsid,
            ranges: ranges.len() as u16,
            deallocate: true,
            ..DatasetManagement::default()
        };
        let describe = Describe {
            head: Head::of(command.to_sqe()),
            lba: ranges.first().map_or(0, |range| range.slba.0),
            len_bytes: 0,
        };
        if let Some(page) = self.range_pages.get_mut(place) {
            for (index, range) in ranges.iter().enumerate() {
                let at = index * DsmRange::LEN_BYTES;
                let copied = page.memory.copy_from(at, &range.to_bytes());
                copied.map_err(crate::dma::Error::from)?;
            }
            command.prp1 = page.memory.iova().get();
        }
        let token = self.next_token();
        let Some((_, cid, slot)) = self.slots.take() else {
            return Err(self.full(1));
        };
        slot.lead(token, describe, None);
        self.write(command.to_sqe().with_cid(cid));
        self.tally.other(command.to_sqe().opcode());
        if let Some(page) = self.range_pages.get_mut(place) {
            page.used_by = Some(cid);
        }
        Ok(token)
    }

    /// A page that no command in flight uses: an old one, or one more. An identifier that is in
    /// flight again for another command keeps its old page; that is as safe, and ends with it.
    fn free_page(&mut self, space: &DmaSpace) -> Result<usize, Error> {
        let slots = &self.slots;
        let is_free = |page: &RangePage| {
            page.used_by
                .is_none_or(|cid| slots.in_flight(cid).is_none())
        };
        if let Some(place) = self.range_pages.iter().position(is_free) {
            return Ok(place);
        }
        let len_bytes = DatasetManagement::MAX_RANGES * DsmRange::LEN_BYTES;
        self.range_pages.push(RangePage {
            memory: space.alloc(len_bytes, len_bytes)?,
            used_by: None,
        });
        Ok(self.range_pages.len() - 1)
    }

    /// The commands of a request that are in flight, by identifier; none when it has ended.
    pub(crate) fn commands_of(&mut self, token: Token) -> Vec<Cid> {
        let lead = self.slots.iter_mut().find_map(|(index, slot)| {
            let live = slot.state().is_in_flight() || slot.state() == SlotState::Ended;
            (live && slot.lead_index(index) == index && slot.request.token == token)
                .then_some(index)
        });
        let Some(lead) = lead else {
            return Vec::new();
        };
        let mine = self
            .slots
            .iter_mut()
            .filter(|(index, slot)| slot.state().is_in_flight() && slot.lead_index(*index) == lead);
        mine.map(|(_, slot)| slot.cid()).collect()
    }
}

/// Memory for the ranges of one Dataset Management command. It never crosses a memory page.
#[derive(Debug)]
pub(crate) struct RangePage {
    memory: DmaBuf,
    /// The last command that named it.
    used_by: Option<Cid>,
}
