//! What the tests share: a context that remembers its mappings and refuses on demand, and a
//! watcher that remembers what is lent.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use underpin_dma::rt::sync::Mutex;
use underpin_dma::{Iova, MapRequest, Mapper, MapperError, Memory, MemoryWatch};

/// An IOMMU context in a table. Mapping over a mapping, unmapping what is not mapped or going
/// beyond what it said it can use is an error of the space, remembered and found by
/// [`assert_sound`](Self::assert_sound).
#[derive(Debug)]
pub(crate) struct MockMapper {
    name: String,
    usable: Vec<RangeInclusive<u64>>,
    limit: Option<usize>,
    table: Mutex<Table>,
    unsound: AtomicBool,
}

#[derive(Debug, Default)]
struct Table {
    mapped: BTreeMap<Iova, Arc<Memory>>,
    maps: usize,
    refuse_map: Option<usize>,
    refuse_unmap: bool,
}

impl MockMapper {
    pub(crate) fn new(name: &str) -> Arc<Self> {
        Self::with(name, vec![0..=u64::MAX], None)
    }

    pub(crate) fn with(
        name: &str,
        usable: Vec<RangeInclusive<u64>>,
        limit: Option<usize>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            usable,
            limit,
            table: Mutex::new(Table::default()),
            unsound: AtomicBool::new(false),
        })
    }

    /// The `after`-th map from now on (0 is the next) and all later ones are refused; `None`
    /// ends that.
    pub(crate) fn refuse_map(&self, after: Option<usize>) {
        let mut table = self.table.lock();
        table.refuse_map = after.map(|after| table.maps + after);
    }

    /// Whether unmapping fails and leaves the mapping.
    pub(crate) fn refuse_unmap(&self, refuse: bool) {
        self.table.lock().refuse_unmap = refuse;
    }

    /// What is mapped, in order.
    pub(crate) fn mapped(&self) -> Vec<(Iova, u64)> {
        let table = self.table.lock();
        let mapped = table.mapped.iter();
        mapped
            .map(|(&iova, memory)| (iova, memory.len_bytes() as u64))
            .collect()
    }

    /// The memory behind an IOVA.
    pub(crate) fn memory(&self, iova: Iova) -> Option<Arc<Memory>> {
        self.table.lock().mapped.get(&iova).cloned()
    }

    pub(crate) fn assert_sound(&self) {
        assert!(!self.unsound.load(Ordering::Relaxed), "{}", self.name);
    }

    fn no<T>(&self, what: &str) -> Result<T, MapperError> {
        Err(MapperError {
            context: self.name.clone(),
            what: what.to_owned(),
        })
    }

    fn check(&self, sound: bool, what: &str) {
        if !sound {
            eprintln!("{}: {what}", self.name);
            self.unsound.store(true, Ordering::Relaxed);
        }
    }
}

impl Mapper for MockMapper {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn map(&self, request: &MapRequest) -> Result<(), MapperError> {
        let mut table = self.table.lock();
        let number = table.maps;
        table.maps += 1;
        if table.refuse_map.is_some_and(|from| number >= from) {
            return self.no("refused as asked");
        }
        if self.limit.is_some_and(|limit| table.mapped.len() >= limit) {
            return self.no("mappings are used up");
        }
        let first = request.iova.get();
        let last = first + (request.len_bytes() - 1);
        let usable = |range: &RangeInclusive<u64>| range.contains(&first) && range.contains(&last);
        self.check(self.usable.iter().any(usable), "mapped beyond its ranges");
        let overlaps = table.mapped.iter().any(|(&iova, memory)| {
            iova.get() <= last && first <= iova.get() + (memory.len_bytes() as u64 - 1)
        });
        self.check(!overlaps, "mapped over a mapping");
        let memory = Arc::clone(&request.memory);
        table.mapped.insert(request.iova, memory);
        Ok(())
    }

    fn unmap(&self, iova: Iova, len_bytes: u64) -> Result<(), MapperError> {
        let mut table = self.table.lock();
        let there = table.mapped.get(&iova);
        let same = there.is_some_and(|memory| memory.len_bytes() as u64 == len_bytes);
        self.check(same, "unmapped what is not mapped");
        if table.refuse_unmap {
            return self.no("refused as asked");
        }
        table.mapped.remove(&iova);
        Ok(())
    }

    fn usable(&self) -> Vec<RangeInclusive<u64>> {
        self.usable.clone()
    }

    fn mappings_left(&self) -> Option<usize> {
        Some(self.limit?.saturating_sub(self.table.lock().mapped.len()))
    }
}

/// Remembers what is lent. Lending what is lent, or returning what is not, is remembered too.
#[derive(Debug, Default)]
pub(crate) struct WatchLog {
    lent: Mutex<BTreeMap<Iova, u64>>,
    unsound: AtomicBool,
}

impl WatchLog {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn lent_now(&self) -> Vec<(Iova, u64)> {
        let lent = self.lent.lock();
        lent.iter().map(|(&iova, &len)| (iova, len)).collect()
    }

    pub(crate) fn assert_sound(&self) {
        assert!(!self.unsound.load(Ordering::Relaxed));
    }
}

impl MemoryWatch for WatchLog {
    fn lent(&self, iova: Iova, len_bytes: u64) {
        let mut lent = self.lent.lock();
        let before = lent.range(..iova.wrapping_add(len_bytes)).next_back();
        let overlaps = before.is_some_and(|(&at, &len)| at.get() + len > iova.get());
        if overlaps || lent.insert(iova, len_bytes).is_some() {
            eprintln!("lent twice: {iova} {len_bytes}");
            self.unsound.store(true, Ordering::Relaxed);
        }
    }

    fn returned(&self, iova: Iova, len_bytes: u64) {
        if self.lent.lock().remove(&iova) != Some(len_bytes) {
            eprintln!("returned though not lent: {iova} {len_bytes}");
            self.unsound.store(true, Ordering::Relaxed);
        }
    }
}
