//! Bytes on their way from the host, for commands that look at all of them before they do anything:
//! ranges, a feature's value, blocks to compare.
use crate::bus::{Bus, Who};
use crate::iommu::{Direction, Mappings};
use crate::nvm::Limits;
use crate::sgl::{Run, Walk};
use crate::walk::Segment;
use underpin_nvme_spec::{Sqe, Status};

/// Data that are gathered piece by piece.
#[derive(Debug)]
pub(crate) struct Intake {
    bytes: Vec<u8>,
    done: usize,
    segment: Segment,
    walk: Walk,
}

impl Intake {
    /// So many bytes of the command's memory.
    pub(crate) fn new(sqe: &Sqe, len_bytes: usize, limits: &Limits) -> Self {
        Self {
            bytes: vec![0; len_bytes],
            done: 0,
            segment: Segment {
                iova: 0,
                len_bytes: 0,
            },
            walk: Walk::new(sqe, len_bytes as u64, Direction::FromHost, limits),
        }
    }

    /// Moves up to `chunk` bytes. True when all are here.
    pub(crate) fn advance(
        &mut self,
        bus: &mut Bus,
        map: &Mappings,
        who: Who,
        chunk: usize,
    ) -> Result<bool, Status> {
        let mut budget = chunk;
        while self.done < self.bytes.len() {
            if budget == 0 {
                return Ok(false);
            }
            if self.segment.len_bytes == 0 {
                // Nothing of what the host gives is skipped.
                let Some(Run::Memory(segment)) = self.walk.next(bus, map, who)? else {
                    return Err(Status::INTERNAL_ERROR);
                };
                self.segment = segment;
            }
            let len = (self.segment.len_bytes as usize).min(budget);
            let part = self.bytes.get_mut(self.done..self.done + len);
            bus.read(map, self.segment.iova, part.unwrap_or(&mut []), who)
                .map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            self.segment.iova = self.segment.iova.wrapping_add(len as u64);
            self.segment.len_bytes -= len as u64;
            self.done += len;
            budget -= len;
        }
        Ok(true)
    }

    /// All of them, or as many as came.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}
