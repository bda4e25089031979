//! The short way of reads that move no bytes: decoded from the ring, checked and answered in bursts.
//! Whatever is not plain in every respect is left as it is for the long way, which decides.
use crate::bus::Bus;
use crate::iommu::Mappings;
use crate::namespace::Namespace;
use crate::nvm::Limits;
use crate::queues::{Cq, Sq};
use underpin_nvme_spec::NvmOpcode;

/// Commands looked at before the first of them is answered: four cache lines of completions, each
/// of which goes to the host once. 8 and 32 gave less at a depth of 128.
const BURST: usize = 16;

/// All of the first word but the CID: opcode, FUSE, the reserved bits, PSDT and NSID.
const NOT_CID: u64 = 0xffff_ffff_0000_ffff;

/// What a plain read is like, as long as neither namespaces nor the IOMMU's table change: within
/// one page and one mapping, by PRP, of a namespace whose medium has no bytes.
///
/// Bounds are taken for a whole page of data; a smaller read close behind them goes the long way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlainRead {
    /// The first word, without the CID.
    first_word: u64,
    last_slba: u64,
    lba_shift: u32,
    page_bytes: u64,
    /// Of the mapping.
    first_iova: u64,
    last_offset: u64,
}

/// What a run of plain reads came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) reads: usize,
    pub(crate) bytes: u64,
    /// The wrapping sum of all words of their entries.
    pub(crate) sum: u64,
}

impl PlainRead {
    /// What is plain for the command at the head of the queue and those like it. `None` when it
    /// cannot be.
    #[inline(always)]
    pub(crate) fn like_next(
        sq: &Sq,
        bus: &Bus,
        map: &Mappings,
        namespaces: &[Namespace],
        limits: &Limits,
    ) -> Option<Self> {
        let page_bytes = limits.page_bytes;
        // Admin commands are others; the referee is to hear of each access.
        if sq.qid == 0 || limits.in_pieces || page_bytes > limits.max_bytes {
            return None;
        }
        let nsid = (sq.next_word()? >> 32) as u32;
        let namespace = namespaces.get((nsid as usize).wrapping_sub(1))?;
        if namespace.medium.has_bytes() {
            return None;
        }
        let page_blocks = page_bytes >> namespace.lba_shift;
        let (first_iova, span) = bus.last_found(map)?;
        Some(Self {
            first_word: u64::from(NvmOpcode::READ.0) | u64::from(nsid) << 32,
            last_slba: namespace.blocks.checked_sub(page_blocks)?,
            lba_shift: namespace.lba_shift,
            page_bytes,
            first_iova,
            last_offset: span.checked_sub(page_bytes - 1)?,
        })
    }

    /// How many bytes an entry reads; `None` when it is no plain read.
    #[inline(always)]
    const fn len_bytes(&self, words: &[u64; 8]) -> Option<u64> {
        let [first_word, _, _, prp1, _, slba, length, _] = *words;
        let len_bytes = ((length & 0xffff) + 1) << self.lba_shift;
        let in_page = prp1 & (self.page_bytes - 1);
        let plain = first_word & NOT_CID == self.first_word
            && slba <= self.last_slba
            && prp1 & 3 == 0
            && in_page + len_bytes <= self.page_bytes
            && prp1.wrapping_sub(self.first_iova) <= self.last_offset;
        if plain { Some(len_bytes) } else { None }
    }

    /// Takes up to `most` plain reads from the head of one queue and answers them in the other, as
    /// far as that has room. Stops at the first command that is not plain.
    ///
    /// Not inlined: it needs all the registers there are.
    #[inline(never)]
    pub(crate) fn run(&self, sq: &mut Sq, cq: &mut Cq, most: usize) -> Done {
        let mut done = Done::default();
        let mut cids = [0_u64; BURST];
        loop {
            let burst = BURST.min(most - done.reads).min(cq.room() as usize);
            if burst == 0 {
                return done;
            }
            let Some((ring, range)) = sq.ahead(burst) else {
                return done;
            };
            let mut count = 0;
            for (cid, at) in cids.iter_mut().zip(range) {
                let words = ring.read(at);
                let Some(len_bytes) = self.len_bytes(&words) else {
                    break;
                };
                done.bytes += len_bytes;
                let add = |sum: u64, word: &u64| sum.wrapping_add(*word);
                done.sum = words.iter().fold(done.sum, add);
                *cid = words[0] >> 16 & 0xffff;
                count += 1;
            }
            if count == 0 {
                return done;
            }
            done.reads += count;
            sq.pass(count);
            // What comes next is on its way while this is answered.
            sq.expect(BURST as u32);
            let answered = cids.get(..count).unwrap_or_default();
            cq.post_successes(answered, sq.head as u16, sq.qid);
            cq.expect(BURST as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::bus::Who;
    use crate::config::EmulatorConfig;
    use crate::iommu::Iommu;
    use crate::nvm;
    use std::sync::Arc;
    use underpin_dma::rt::Rng;
    use underpin_dma::{Access, Iova, MapRequest, Mapper, Memory, PageSize};
    use underpin_nvme_spec::Sqe;

    const BASE: u64 = 0x10_0000;
    const PAGES: u64 = 4;

    /// What the short way takes the long way would have done, and just so, whatever the host
    /// wrote; and much of what is within a page goes it.
    #[test]
    fn the_short_way_is_the_long_way() {
        let config: EmulatorConfig = "media=null,size=64k,lba=512".parse().unwrap();
        let namespace = config.namespaces.first().unwrap();
        let mut namespaces = vec![Namespace::open(&config, 1, namespace).unwrap()];
        let iommu = Iommu::new("emu".to_owned(), vec![0..=u64::MAX], None);
        let request = MapRequest {
            iova: Iova::new(BASE),
            memory: Memory::new("data", PAGES * 4096, PageSize::Small).unwrap(),
            access: Access::ReadWrite,
            name: "data".to_owned(),
        };
        iommu.map(&request).unwrap();
        let map = iommu.read();
        let mut bus = Bus::new(Arc::clone(&iommu), None);
        bus.revalidate(&map);
        let who = Who {
            qid: 1,
            cid: Some(0),
            told: false,
        };
        let limits = Limits {
            page_bytes: 4096,
            max_bytes: u64::MAX,
            write_through: false,
            sgl: config.sgl,
            in_pieces: false,
        };
        assert_eq!(bus.last_found(&map), None, "nothing was looked up yet");
        bus.check(&map, BASE, 1, crate::iommu::Direction::ToHost, who)
            .unwrap();
        let (first_iova, span) = bus.last_found(&map).unwrap();
        let plain = PlainRead {
            first_word: 2 | 1 << 32,
            last_slba: 128 - 8,
            lba_shift: 9,
            page_bytes: 4096,
            first_iova,
            last_offset: span - 4095,
        };
        let mut rng = Rng::seeded(3);
        let mut pick = |from: &[u64]| from[rng.below(from.len() as u64) as usize];
        let (mut done, mut taken) = (0, 0);
        for _ in 0..200_000 {
            let opcode = pick(&[2, 2, 2, 2, 2, 2, 1, 0, 0x82]);
            let flags = pick(&[0, 0, 0, 0, 0, 0, 1 << 8, 2 << 8, 1 << 10, 1 << 14, 3 << 14]);
            let nsid = pick(&[1, 1, 1, 1, 1, 0, 2, u32::MAX.into()]);
            let page = pick(&[0, 1, 2, 3, 3, 4, 1 << 40, u64::MAX >> 12, (1 << 52) - 256]);
            let offset = pick(&[0, 0, 0, 4, 512, 2048, 4092, 4095, 2]);
            let prp1 = BASE.wrapping_add(page << 12).wrapping_add(offset);
            let slba = pick(&[0, 1, 60, 119, 120, 121, 127, 128, 1 << 55, u64::MAX]);
            let blocks = pick(&[0, 0, 1, 3, 7, 7, 8, 0xffff]) | pick(&[0, 0, 0xffff_ffff << 16]);
            let words = [
                opcode | flags | 5 << 16 | nsid << 32,
                0,
                0,
                prp1,
                BASE,
                slba,
                blocks,
                0,
            ];
            let short = plain.len_bytes(&words);
            if opcode == 0 || opcode == 0x82 {
                assert_eq!(short, None);
                continue;
            }
            let before = bus.bytes_to_host;
            let sqe = Sqe::from_u64s(words);
            let long = nvm::at_once(&mut bus, &map, &mut namespaces, &limits, &sqe, who);
            let moved = bus.bytes_to_host - before;
            done += u32::from(long.is_ok() && moved != 0 && moved <= 4096);
            if let Some(len_bytes) = short {
                taken += 1;
                assert_eq!((long, moved), (Ok(()), len_bytes), "{words:x?}");
            }
        }
        assert!(taken > 1_000 && 3 * taken > done, "{taken} of {done}");
    }
}
