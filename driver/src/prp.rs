//! Physical region pages: a command's memory as PRP1, PRP2 and, from three pages on, a list.
//! NVMe Base 2.0, 4.1.1. Pure geometry over spans; the list's memory is the caller's.
use crate::dma::{Iova, Span};

/// The list pages that a slot owns.
pub(crate) trait ListPages {
    /// Writes entry `index` of list page `page`.
    fn write(&mut self, page: usize, index: usize, value: u64);
    /// Where list page `page` lies.
    fn iova(&self, page: usize) -> Iova;
    /// How many there are.
    fn count(&self) -> usize;
}

/// A command's memory as its PRP1 and PRP2 name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prps {
    pub(crate) prp1: u64,
    pub(crate) prp2: u64,
}

/// Why memory cannot be named by PRPs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PrpError {
    #[error("it begins at {0}, which is no multiple of 4 bytes")]
    Misaligned(Iova),
    #[error(
        "its part at {iova} does not begin and end on pages of {page_bytes} bytes, which only the first and the last may"
    )]
    Gap { iova: Iova, page_bytes: u64 },
    #[error("it skips bytes")]
    Skips,
    #[error("it needs {needed} PRP list pages and {available} are there")]
    ListFull { needed: usize, available: usize },
}

/// How many list pages a transfer of `len_bytes` may need at worst, beginning anywhere in a page.
pub(crate) const fn list_pages_for(len_bytes: u64, page_bytes: u64) -> usize {
    // Beginning inside a page it touches one page more than its length in pages; PRP1 names one.
    let entries = len_bytes.div_ceil(page_bytes);
    list_pages(entries, page_bytes / 8)
}

/// List pages for `entries` entries: each page but the last gives one place to the link.
pub(crate) const fn list_pages(entries: u64, per_page: u64) -> usize {
    if entries <= 1 {
        0 // PRP2 itself
    } else if entries <= per_page {
        1
    } else {
        ((entries - 1).div_ceil(per_page - 1)) as usize
    }
}

/// Names one contiguous run where PRP1 alone can: `None` when it does not end within the first
/// `page_bytes` bytes of its page, or when it is misaligned.
#[inline(always)]
pub(crate) const fn within_page(
    first: Iova,
    len_bytes: u64,
    page_mask: u64,
    page_bytes: u64,
) -> Option<u64> {
    let prp1 = first.get();
    let fits = (prp1 & page_mask) + len_bytes <= page_bytes;
    if prp1 & 3 == 0 && fits {
        Some(prp1)
    } else {
        None
    }
}

/// Names one contiguous run where PRP1 and PRP2 alone can: `None` when it takes a list, or when
/// it is misaligned.
pub(crate) const fn without_list(first: Iova, len_bytes: u64, page_bytes: u64) -> Option<Prps> {
    if let Some(prp1) = within_page(first, len_bytes, page_bytes - 1, page_bytes) {
        return Some(Prps { prp1, prp2: 0 });
    }
    let prp1 = first.get();
    let in_page = prp1 & (page_bytes - 1);
    if prp1 & 3 != 0 || in_page + len_bytes > 2 * page_bytes {
        return None;
    }
    let prp2 = prp1 - in_page + page_bytes;
    Some(Prps { prp1, prp2 })
}

/// How many pages the runs touch, if PRPs can name them.
pub(crate) fn count(spans: impl Iterator<Item = Span>, page_bytes: u64) -> Result<u64, PrpError> {
    let mut entries = 0;
    for page in Pages::new(spans, page_bytes) {
        page?;
        entries += 1;
    }
    Ok(entries)
}

/// Names any number of runs: all but the first begin on a page, all but the last end on one.
#[inline(never)]
pub(crate) fn build<L: ListPages>(
    spans: impl Iterator<Item = Span> + Clone,
    page_bytes: u64,
    list: &mut L,
) -> Result<Prps, PrpError> {
    let pages = Pages::new(spans.clone(), page_bytes);
    // A first walk counts and checks, so that nothing is half written.
    let entries = count(spans, page_bytes)?;
    let per_page = page_bytes / 8;
    let (needed, available) = (
        list_pages(entries.saturating_sub(1), per_page),
        list.count(),
    );
    if needed > available {
        return Err(PrpError::ListFull { needed, available });
    }
    let mut pages = pages.map_while(Result::ok);
    let prp1 = pages.next().unwrap_or(0);
    if needed == 0 {
        return Ok(Prps {
            prp1,
            prp2: pages.next().unwrap_or(0),
        });
    }
    let per_page = per_page as usize;
    let (mut page, mut index) = (0, 0);
    let mut pages = pages.peekable();
    while let Some(entry) = pages.next() {
        // The last place of a page is a link, unless exactly one entry is left for it.
        if index == per_page - 1 && pages.peek().is_some() {
            list.write(page, index, list.iova(page + 1).get());
            (page, index) = (page + 1, 0);
        }
        list.write(page, index, entry);
        index += 1;
    }
    Ok(Prps {
        prp1,
        prp2: list.iova(0).get(),
    })
}

/// The pages that a run of spans touches: the first with its offset, the others whole.
#[derive(Clone)]
struct Pages<I> {
    spans: I,
    page_bytes: u64,
    /// What is left of the present span.
    next: u64,
    left: u64,
    /// The offset within its page at which the last span ended.
    ended_in_page: bool,
    first: bool,
}

impl<I: Iterator<Item = Span>> Pages<I> {
    fn new(spans: I, page_bytes: u64) -> Self {
        Self {
            spans,
            page_bytes,
            next: 0,
            left: 0,
            ended_in_page: false,
            first: true,
        }
    }
}

impl<I: Iterator<Item = Span>> Iterator for Pages<I> {
    type Item = Result<u64, PrpError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mask = self.page_bytes - 1;
        while self.left == 0 {
            let span = self.spans.next()?;
            if span.len_bytes == 0 {
                continue;
            }
            if span.is_discarded() {
                return Some(Err(PrpError::Skips));
            }
            let begin = span.iova.get();
            if self.first && begin & 3 != 0 {
                return Some(Err(PrpError::Misaligned(span.iova)));
            }
            if !self.first && (self.ended_in_page || begin & mask != 0) {
                return Some(Err(PrpError::Gap {
                    iova: span.iova,
                    page_bytes: self.page_bytes,
                }));
            }
            self.first = false;
            self.next = begin;
            self.left = span.len_bytes as u64;
        }
        let here = self.next;
        let step = (self.page_bytes - (here & mask)).min(self.left);
        self.next = here.wrapping_add(step);
        self.left -= step;
        self.ended_in_page = self.next & mask != 0;
        Some(Ok(here))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    struct Lists(Vec<Vec<u64>>);
    impl ListPages for Lists {
        fn write(&mut self, page: usize, index: usize, value: u64) {
            assert_eq!(
                self.0[page].len(),
                index,
                "entries are written in order, once"
            );
            self.0[page].push(value);
        }
        fn iova(&self, page: usize) -> Iova {
            Iova::new(0x1_0000_0000 + page as u64 * 4096)
        }
        fn count(&self) -> usize {
            self.0.len()
        }
    }

    fn run(iova: u64, len_bytes: usize, pages: usize) -> (Result<Prps, PrpError>, Vec<Vec<u64>>) {
        let mut lists = Lists(vec![Vec::new(); pages]);
        let span = Span {
            iova: Iova::new(iova),
            len_bytes,
        };
        let prps = build(std::iter::once(span), 4096, &mut lists);
        if let Some(short) = without_list(span.iova, len_bytes as u64, 4096) {
            assert_eq!(prps, Ok(short), "both ways name the same memory");
        }
        (prps, lists.0)
    }

    /// The boundaries of 4.1.1: one page, two, list of two, list exactly full, one more.
    #[test]
    fn boundaries() {
        let p = 0x20_0000_u64;
        assert_eq!(run(p, 4096, 0).0, Ok(Prps { prp1: p, prp2: 0 }));
        assert_eq!(
            run(p + 512, 4096, 0).0,
            Ok(Prps {
                prp1: p + 512,
                prp2: p + 4096
            })
        );
        assert_eq!(
            run(p, 8192, 0).0,
            Ok(Prps {
                prp1: p,
                prp2: p + 4096
            })
        );
        let (prps, lists) = run(p, 8196, 1);
        assert_eq!(
            prps,
            Ok(Prps {
                prp1: p,
                prp2: 0x1_0000_0000
            })
        );
        assert_eq!(lists[0], [p + 4096, p + 8192]);
        let (_, lists) = run(p, 513 * 4096, 2);
        assert_eq!(
            (lists[0].len(), lists[1].len()),
            (512, 0),
            "512 entries fill one page"
        );
        let (_, lists) = run(p, 514 * 4096, 2);
        assert_eq!(lists[0].len(), 512);
        assert_eq!(lists[0][511], 0x1_0000_1000, "the last place links");
        assert_eq!(lists[1], [p + 512 * 4096, p + 513 * 4096]);
    }

    #[test]
    fn refusals() {
        assert_eq!(
            run(0x1002, 512, 0).0,
            Err(PrpError::Misaligned(Iova::new(0x1002)))
        );
        let refused = Err(PrpError::ListFull {
            needed: 2,
            available: 1,
        });
        assert_eq!(run(0x20_0000, 514 * 4096, 1).0, refused);
    }

    #[test]
    fn list_pages_suffice_for_every_offset() {
        for pages in [1_u64, 2, 3, 511, 512, 513, 514, 1023, 1024, 1025, 2048] {
            for offset in [0_u64, 4, 512, 4092] {
                let available = list_pages_for(pages * 4096, 4096);
                let (prps, _) = run(0x40_0000 + offset, pages as usize * 4096, available);
                assert!(prps.is_ok(), "{pages} pages at offset {offset}");
            }
        }
    }

    /// Runs that meet on pages are one transfer; a gap inside a page is refused.
    #[test]
    fn several_runs() {
        let span = |iova, len_bytes| Span {
            iova: Iova::new(iova),
            len_bytes,
        };
        let mut lists = Lists(vec![Vec::new()]);
        let spans = [
            span(0x10_0e00, 512),
            span(0x30_0000, 8192),
            span(0x50_0000, 100),
        ];
        let prps = build(spans.into_iter(), 4096, &mut lists).unwrap();
        assert_eq!(prps.prp1, 0x10_0e00);
        assert_eq!(lists.0[0], [0x30_0000, 0x30_1000, 0x50_0000]);
        for bad in [
            [span(0x1000, 512), span(0x3000, 512)],
            [span(0x1000, 4096), span(0x3200, 512)],
        ] {
            let mut lists = Lists(vec![Vec::new()]);
            let result = build(bad.into_iter(), 4096, &mut lists);
            assert!(matches!(result, Err(PrpError::Gap { .. })), "{bad:?}");
        }
    }
}
