//! Scatter gather lists (NVMe Base 2.0, 4.1.2): which commands have one, and a command's memory as
//! its descriptors. Pure geometry over spans; the list's memory is the caller's.
//!
//! The rule, where the device takes SGLs (Identify Controller, SGLS):
//!
//! 1. Memory that PRP1 and PRP2 name without a list has PRPs. That is most commands, and costs them
//!    nothing more.
//! 2. Memory that no PRPs can name (a part begins or ends inside a page, or skips bytes) has an
//!    SGL.
//! 3. Other memory has whichever list is shorter in bytes: 16 for each run that is not adjacent to
//!    the one before it, none for a single run, against 8 for each page but the first. A device
//!    that gives a threshold (SGLS bits 15:8) has PRPs beyond it.
use crate::DataPointers;
use crate::dma::{Iova, Span};
use crate::prp::{self, ListPages, PrpError, Prps};
use underpin_nvme_spec::{SglDescriptor, SglType, Sgls, Sqe};

/// What a device takes, and its user wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SglRule {
    /// What data blocks' addresses and lengths are multiples of; `None`: no SGLs.
    granularity_bytes: Option<u64>,
    bit_bucket: bool,
    /// Descriptors beyond which PRPs are better.
    threshold: u64,
    /// Wherever it can be, and not by the rule.
    always: bool,
}

impl SglRule {
    pub(crate) fn new(sgls: Sgls, wanted: DataPointers) -> Self {
        if wanted == DataPointers::Prp {
            return Self::default();
        }
        Self {
            granularity_bytes: sgls.granularity_bytes(),
            bit_bucket: sgls.has_bit_bucket(),
            threshold: match sgls.threshold() {
                0 => u64::MAX,
                threshold => u64::from(threshold),
            },
            always: wanted == DataPointers::Sgl,
        }
    }

    /// List pages for `runs` runs of memory.
    pub(crate) const fn list_pages_for(self, runs: u64, page_bytes: u64) -> usize {
        match self.granularity_bytes {
            Some(_) => prp::list_pages(runs, page_bytes / DESCRIPTOR_BYTES),
            None => 0,
        }
    }

    /// True when even the shortest transfer has an SGL.
    pub(crate) const fn is_for_all(self) -> bool {
        self.always && self.granularity_bytes.is_some()
    }
}

const DESCRIPTOR_BYTES: u64 = SglDescriptor::LEN_BYTES as u64;

/// A command's memory as its data pointer names it: PRP1 and PRP2, or the two halves of an SGL
/// descriptor, which lie in their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) prps: Prps,
    pub(crate) psdt: u8,
}

impl From<Prps> for Named {
    fn from(prps: Prps) -> Self {
        let psdt = Sqe::PSDT_PRP;
        Self { prps, psdt }
    }
}

impl From<SglDescriptor> for Named {
    fn from(sgl1: SglDescriptor) -> Self {
        let [prp1, prp2] = sgl1.as_u64s();
        let prps = Prps { prp1, prp2 };
        let psdt = Sqe::PSDT_SGL;
        Self { prps, psdt }
    }
}

/// Why memory cannot be named by an SGL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SglError {
    #[error(
        "the device takes none (Identify Controller, SGLS), or ControllerOptions::data_pointers keeps to PRPs"
    )]
    None,
    #[error(
        "its part of {len_bytes} bytes at {iova} does not begin and end at multiples of {granularity_bytes} bytes, which the device wants (SGLS bits 1:0)"
    )]
    Granularity {
        iova: Iova,
        len_bytes: usize,
        granularity_bytes: u64,
    },
    #[error("it skips bytes, and the device has no bit buckets (SGLS bit 16)")]
    NoBitBucket,
    #[error("it skips bytes, which only a read can")]
    SkipsInWrite,
    #[error(
        "its {runs} runs of memory need {needed} list pages and {available} are there; raise ControllerOptions::max_runs, or make the request shorter"
    )]
    ListFull {
        runs: u64,
        needed: usize,
        available: usize,
    },
}

/// Why a command's memory cannot be named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{prp}, so that no PRPs can name it; nor can an SGL: {sgl}")]
pub(crate) struct NameError {
    prp: PrpError,
    sgl: SglError,
}

/// Names memory by the rule. `is_read`: the device writes it.
#[inline(never)]
pub(crate) fn name<L: ListPages>(
    rule: SglRule,
    spans: impl Iterator<Item = Span> + Clone,
    is_read: bool,
    page_bytes: u64,
    list: &mut L,
) -> Result<Named, NameError> {
    let Some(granularity_bytes) = rule.granularity_bytes else {
        return match prp::build(spans, page_bytes, list) {
            Ok(prps) => Ok(prps.into()),
            Err(prp) => Err(NameError {
                prp,
                sgl: SglError::None,
            }),
        };
    };
    let runs = Joined::new(spans.clone());
    let sgl = count(runs.clone(), rule, granularity_bytes, is_read);
    let prefer = match sgl {
        Ok(_) if rule.always => true,
        // One run: by PRPs only where they need no list.
        Ok(1) => match runs.clone().next() {
            Some(Span { iova, len_bytes }) => {
                prp::without_list(iova, len_bytes as u64, page_bytes).is_none()
            }
            None => false,
        },
        Ok(runs) if runs <= rule.threshold => match prp::count(spans.clone(), page_bytes) {
            Ok(pages) => pages > 2 && runs * DESCRIPTOR_BYTES <= (pages - 1) * 8,
            Err(_) => true,
        },
        _ => false,
    };
    let by_sgl = |list: &mut L| {
        let count = sgl.clone()?;
        build(runs.clone(), count, page_bytes, list)
    };
    if prefer && let Ok(sgl1) = by_sgl(list) {
        return Ok(sgl1.into());
    }
    match prp::build(spans, page_bytes, list) {
        Ok(prps) => Ok(prps.into()),
        Err(prp) => match by_sgl(list) {
            Ok(sgl1) => Ok(sgl1.into()),
            Err(sgl) => Err(NameError { prp, sgl }),
        },
    }
}

/// How many descriptors the runs take, if the device takes them.
fn count(
    runs: impl Iterator<Item = Span>,
    rule: SglRule,
    granularity_bytes: u64,
    is_read: bool,
) -> Result<u64, SglError> {
    let mut count = 0;
    for run in runs {
        count += 1;
        if run.is_discarded() {
            if !is_read {
                return Err(SglError::SkipsInWrite);
            }
            if !rule.bit_bucket {
                return Err(SglError::NoBitBucket);
            }
        } else if (run.iova.get() | run.len_bytes as u64) & (granularity_bytes - 1) != 0 {
            return Err(SglError::Granularity {
                iova: run.iova,
                len_bytes: run.len_bytes,
                granularity_bytes,
            });
        }
    }
    Ok(count)
}

/// Writes the list of `count` runs, if there is more than one, and gives the command's descriptor.
/// A list goes on from page to page: its pages are not taken to be adjacent.
fn build<L: ListPages>(
    runs: impl Iterator<Item = Span>,
    count: u64,
    page_bytes: u64,
    list: &mut L,
) -> Result<SglDescriptor, SglError> {
    let mut blocks = runs.map(block);
    if count <= 1 {
        return Ok(blocks.next().unwrap_or_default());
    }
    let per_page = page_bytes / DESCRIPTOR_BYTES;
    let (needed, available) = (prp::list_pages(count, per_page), list.count());
    if needed > available {
        return Err(SglError::ListFull {
            runs: count,
            needed,
            available,
        });
    }
    let (mut page, mut index, mut left) = (0, 0, count);
    for block in blocks {
        // The last place of a page leads to the next, unless one descriptor alone is left for it.
        if index + 1 == per_page && left > 1 {
            write(list, page, index, lead(list.iova(page + 1), left, per_page));
            (page, index) = (page + 1, 0);
        }
        write(list, page, index, block);
        (index, left) = (index + 1, left - 1);
    }
    Ok(lead(list.iova(0), count, per_page))
}

fn write<L: ListPages>(list: &mut L, page: usize, index: u64, descriptor: SglDescriptor) {
    let at = 2 * index as usize;
    let [low, high] = descriptor.as_u64s();
    list.write(page, at, low);
    list.write(page, at + 1, high);
}

/// The descriptor of the segment at `iova`, from which on `left` descriptors of data lie.
fn lead(iova: Iova, left: u64, per_page: u64) -> SglDescriptor {
    let (kind, descriptors) = match left <= per_page {
        true => (SglType::LAST_SEGMENT, left),
        false => (SglType::SEGMENT, per_page),
    };
    SglDescriptor::new(kind, iova.get(), (descriptors * DESCRIPTOR_BYTES) as u32)
}

fn block(run: Span) -> SglDescriptor {
    // No longer than a command's transfer, which is far below 4 GiB.
    let len_bytes = run.len_bytes as u32;
    match run.is_discarded() {
        true => SglDescriptor::new(SglType::BIT_BUCKET, 0, len_bytes),
        false => SglDescriptor::new(SglType::DATA_BLOCK, run.iova.get(), len_bytes),
    }
}

/// Runs of spans: adjacent ones are one, and empty ones none.
#[derive(Clone)]
struct Joined<I> {
    spans: I,
    run: Option<Span>,
}

impl<I: Iterator<Item = Span>> Joined<I> {
    fn new(spans: I) -> Self {
        Self { spans, run: None }
    }
}

impl<I: Iterator<Item = Span>> Iterator for Joined<I> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        for span in self.spans.by_ref() {
            if span.len_bytes == 0 {
                continue;
            }
            let Some(run) = &mut self.run else {
                self.run = Some(span);
                continue;
            };
            let goes_on = match (run.is_discarded(), span.is_discarded()) {
                (true, true) => true,
                (false, false) => run.iova.wrapping_add(run.len_bytes as u64) == span.iova,
                _ => false,
            };
            if !goes_on {
                return self.run.replace(span);
            }
            run.len_bytes += span.len_bytes;
        }
        self.run.take()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    struct Pages(usize);
    impl ListPages for Pages {
        fn write(&mut self, _page: usize, _index: usize, _value: u64) {}
        fn iova(&self, page: usize) -> Iova {
            Iova::new(0x1_0000_0000 + page as u64 * 4096)
        }
        fn count(&self) -> usize {
            self.0
        }
    }

    fn span(iova: u64, len_bytes: usize) -> Span {
        Span {
            iova: Iova::new(iova),
            len_bytes,
        }
    }

    const PAGE: u64 = 4096;

    fn psdt(sgls: u32, wanted: DataPointers, spans: &[Span]) -> u8 {
        let rule = SglRule::new(Sgls(sgls), wanted);
        let named = name(rule, spans.iter().copied(), true, PAGE, &mut Pages(4));
        named.unwrap().psdt
    }

    /// The rule as the top of this file has it, at its edges.
    #[test]
    fn the_rule_is_followed() {
        let pages = |count: usize| -> Vec<Span> {
            // Every second page, so that none is adjacent to another.
            (0..count as u64)
                .map(|nth| span(0x10_0000 + nth * 2 * PAGE, 4096))
                .collect()
        };
        let of = |spans: &[Span]| psdt(1, DataPointers::ByRule, spans);
        // No list, however many spans there are.
        assert_eq!(of(&[span(0x10_0000, 4096)]), 0);
        assert_eq!(of(&[span(0x10_0004, 4096)]), 0);
        assert_eq!(of(&pages(2)), 0);
        // One run that takes a list of PRPs; and one that is no dword.
        assert_eq!(of(&[span(0x10_0000, 3 * 4096)]), 1);
        assert_eq!(of(&[span(0x10_0000, 4096), span(0x10_1000, 8192)]), 1);
        assert_eq!(of(&[span(0x10_0001, 512)]), 1);
        // Scattered single pages: 16 bytes each against 8. Runs of two and a half pages: as many.
        assert_eq!(of(&pages(3)), 0);
        let long: Vec<Span> = (0..4)
            .map(|nth| span(0x10_0000 + nth * 0x10_0000, 3 * 4096))
            .collect();
        assert_eq!(of(&long), 1);
        // Gaps.
        assert_eq!(of(&[span(0x10_0000, 512), span(0x20_0000, 512)]), 1);
        let skips = [span(0x10_0000, 512), Span::discarded(512)];
        assert_eq!(psdt(0x1_0001, DataPointers::ByRule, &skips), 1);
        // The device's threshold, and the user's wish.
        assert_eq!(psdt(0x0301, DataPointers::ByRule, &long), 0);
        assert_eq!(psdt(0x0401, DataPointers::ByRule, &long), 1);
        assert_eq!(psdt(1, DataPointers::Prp, &long), 0);
        assert_eq!(psdt(1, DataPointers::Sgl, &[span(0x10_0000, 512)]), 1);
        assert_eq!(psdt(0, DataPointers::Sgl, &[span(0x10_0000, 512)]), 0);
        // Beyond the threshold still, where PRPs cannot.
        assert_eq!(
            psdt(
                0x0101,
                DataPointers::ByRule,
                &[span(0x10_0001, 512), span(0, 512)]
            ),
            1
        );
    }

    /// What neither can name is refused with both reasons.
    #[test]
    fn refusals_say_why() {
        let refuse = |sgls, is_read, spans: &[Span], pages| {
            let rule = SglRule::new(Sgls(sgls), DataPointers::ByRule);
            let named = name(
                rule,
                spans.iter().copied(),
                is_read,
                PAGE,
                &mut Pages(pages),
            );
            named.unwrap_err().sgl
        };
        let odd = [span(0x10_0001, 512)];
        assert_eq!(refuse(0, true, &odd, 4), SglError::None);
        let refused = refuse(2, true, &odd, 4);
        assert!(matches!(
            refused,
            SglError::Granularity {
                granularity_bytes: 4,
                ..
            }
        ));
        let short = [span(0x10_0000, 510), span(0x20_0000, 514)];
        assert!(matches!(
            refuse(2, true, &short, 4),
            SglError::Granularity { .. }
        ));
        let skips = [span(0x10_0000, 512), Span::discarded(512)];
        assert_eq!(refuse(1, true, &skips, 4), SglError::NoBitBucket);
        assert_eq!(refuse(0x1_0001, false, &skips, 4), SglError::SkipsInWrite);
        let many: Vec<Span> = (0..257)
            .map(|nth| span(0x10_0000 + nth * 1024, 512))
            .collect();
        let full = SglError::ListFull {
            runs: 257,
            needed: 2,
            available: 1,
        };
        assert_eq!(refuse(1, true, &many, 1), full);
    }

    /// Adjacent spans are one run, and so are bytes that go nowhere one after the other.
    #[test]
    fn runs_are_joined() {
        let spans = [
            span(0x1000, 0),
            span(0x1000, 512),
            span(0x1200, 512),
            span(0x9000, 0),
            Span::discarded(1),
            Span::discarded(2),
            span(0x1400, 512),
            span(0x2000, 1),
        ];
        let runs: Vec<Span> = Joined::new(spans.into_iter()).collect();
        let expected = [
            span(0x1000, 1024),
            Span::discarded(3),
            span(0x1400, 512),
            span(0x2000, 1),
        ];
        assert_eq!(runs, expected);
    }
}
