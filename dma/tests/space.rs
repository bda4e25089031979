//! The IOVA space: regions and contexts that come, go and refuse in every order, and the heap.
//! Above all R32: an IOVA is not given out again while anybody may still reach what lay there.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod support;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use support::{MockMapper, WatchLog};
use underpin_dma::rt::Rng;
use underpin_dma::{
    Attachment, DmaBuf, DmaSpace, Error, Iova, MapRequest, Mapper, MapperError, Region,
    SpaceOptions, SpaceStats,
};

const GIB: u64 = 1 << 30;

/// A world of one space, driven at random and checked after every step.
struct World {
    rng: Rng,
    space: DmaSpace,
    watch: Arc<WatchLog>,
    /// Always attached, refuses nothing: what it has mapped is what lives.
    witness: Arc<MockMapper>,
    _witness: Attachment,
    attached: Vec<(Arc<MockMapper>, Attachment)>,
    /// All contexts there ever were.
    ever: Vec<Arc<MockMapper>>,
    regions: Vec<Arc<Region>>,
    bufs: Vec<(DmaBuf, u64)>,
    heap_bytes: u64,
    stamp: u64,
    refusals: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let watch = WatchLog::new();
        let space = DmaSpace::with_options(SpaceOptions {
            watch: Some(watch.clone()),
            ..SpaceOptions::default()
        });
        let witness = MockMapper::new("witness");
        let attachment = space.attach(witness.clone()).unwrap();
        Self {
            rng: Rng::seeded(seed),
            space,
            watch,
            witness,
            _witness: attachment,
            attached: Vec::new(),
            ever: Vec::new(),
            regions: Vec::new(),
            bufs: Vec::new(),
            heap_bytes: 0,
            stamp: 0,
            refusals: 0,
        }
    }

    fn live(&self) -> Vec<(Iova, u64)> {
        self.witness.mapped()
    }

    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.rng.below(len as u64)).unwrap()
    }

    /// Sometimes one of the attached contexts refuses what comes next.
    fn upset_somebody(&mut self) {
        for (mapper, _) in &self.attached {
            mapper.refuse_map(None);
            mapper.refuse_unmap(false);
        }
        if !self.attached.is_empty() && self.rng.chance(1, 4) {
            let at = self.index(self.attached.len());
            let (in_map, in_unmap) = (self.rng.chance(1, 2), self.rng.chance(1, 2));
            self.attached[at].0.refuse_map(in_map.then_some(0));
            self.attached[at].0.refuse_unmap(in_unmap);
            self.refusals += 1;
        }
    }

    fn step(&mut self) {
        self.upset_somebody();
        match self.rng.below(10) {
            0 | 1 => self.make_region(),
            2 if !self.regions.is_empty() => {
                let at = self.index(self.regions.len());
                self.regions.swap_remove(at);
            }
            3 | 4 => self.alloc_heap(),
            5 => self.take_part(),
            6 if !self.bufs.is_empty() => {
                let at = self.index(self.bufs.len());
                self.drop_buf(at);
            }
            7 => self.attach(),
            8 if !self.attached.is_empty() => {
                let at = self.index(self.attached.len());
                let (mapper, attachment) = self.attached.swap_remove(at);
                let refused = attachment.detach().is_err();
                // What was given up earlier may still be there; of what lives, nothing.
                let left = mapper.mapped();
                let left = self.live().iter().any(|region| left.contains(region));
                assert_eq!(refused, left, "an error says that something is left");
            }
            _ => {}
        }
        self.check();
    }

    fn make_region(&mut self) {
        let len = 4096 * (1 + self.rng.below(1000));
        let before = self.live().len();
        match self.space.region("region", len) {
            Ok(region) => self.regions.push(region),
            Err(Error::Mapper(_) | Error::IovaExhausted { .. }) => {
                assert_eq!(self.live().len(), before, "a refused region leaves nothing");
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn alloc_heap(&mut self) {
        let bound = if self.rng.chance(1, 8) { 3 << 20 } else { 9000 };
        let len = 1 + self.index(bound);
        let align = 1 << self.rng.below(22);
        match self.space.alloc(len, align) {
            Ok(buf) => {
                assert_eq!(buf.len_bytes(), len);
                assert!(buf.iova().is_aligned(align as u64));
                assert_eq!(buf.view().len_bytes(), len);
                let mut bytes = vec![1; len];
                buf.copy_to(0, &mut bytes).unwrap();
                assert!(bytes.iter().all(|&byte| byte == 0), "not zeroed");
                self.heap_bytes += (len as u64).next_multiple_of(64);
                self.stamp_buf(buf);
            }
            Err(Error::Mapper(_) | Error::IovaExhausted { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }

    fn take_part(&mut self) {
        let Some(region) = self.rng.pick(&self.regions).cloned() else {
            return;
        };
        let size = usize::try_from(region.len_bytes()).unwrap();
        let offset = self.index(size);
        let len = 1 + self.index(size - offset);
        if let Ok(buf) = region.buf(offset, len) {
            self.stamp_buf(buf);
        }
    }

    /// Marks both ends, and sees that a device would find the mark at the buffer's IOVA.
    fn stamp_buf(&mut self, mut buf: DmaBuf) {
        self.stamp += 1;
        let bytes = self.stamp.to_le_bytes();
        let len = buf.len_bytes().min(8);
        buf.copy_from(buf.len_bytes() - len, &bytes[..len]).unwrap();
        buf.copy_from(0, &bytes[..len]).unwrap();
        let live = self.live();
        let (region, _) = *live
            .iter()
            .rfind(|(iova, _)| *iova <= buf.iova())
            .expect("a buffer lies in a live region");
        let memory = self.witness.memory(region).unwrap();
        let at = usize::try_from(buf.iova().get() - region.get()).unwrap();
        let seen = memory.part(at, buf.len_bytes()).expect("all of it does");
        let mut found = [0; 8];
        seen.copy_to(0, &mut found[..len]).unwrap();
        assert_eq!(found[..len], bytes[..len]);
        self.bufs.push((buf, self.stamp));
    }

    fn drop_buf(&mut self, at: usize) {
        let (buf, stamp) = self.bufs.swap_remove(at);
        let bytes = stamp.to_le_bytes();
        let len = buf.len_bytes().min(8);
        let mut found = [0; 8];
        buf.copy_to(0, &mut found[..len]).unwrap();
        assert_eq!(found[..len], bytes[..len], "another buffer wrote here");
        if self.space.stats().heap_used_bytes > 0 {
            let before = self.space.stats().heap_used_bytes;
            drop(buf);
            self.heap_bytes -= before - self.space.stats().heap_used_bytes;
        }
    }

    #[allow(clippy::reversed_empty_ranges)]
    fn attach(&mut self) {
        // What a context says, and what that means.
        let all = 0..=u64::MAX;
        let low = 4 * GIB..=4 * GIB + (64 << 20) - 1;
        let some = 4 * GIB..=6 * GIB;
        let hole = vec![0..=0xfedf_ffff, 0xfef0_0000..=(1 << 39) - 1];
        let untidy = vec![5 * GIB..=6 * GIB, 4 * GIB..=5 * GIB, 9..=3, some.clone()];
        let choices = [
            (vec![all.clone()], vec![all]),
            (hole.clone(), hole),
            (untidy, vec![some]),
            (vec![low.clone()], vec![low]),
            (vec![], vec![]),
        ];
        let (usable, meant) = self.rng.pick(&choices).unwrap().clone();
        let limit = self.rng.chance(1, 4).then(|| self.index(20));
        let name = format!("context {}", self.ever.len());
        let mapper = MockMapper::with(&name, usable, limit);
        if self.rng.chance(1, 4) {
            mapper.refuse_map(Some(self.index(8)));
            mapper.refuse_unmap(self.rng.chance(1, 2));
            self.refusals += 1;
        }
        self.ever.push(mapper.clone());
        let live = self.live();
        match self.space.attach(mapper.clone()) {
            Ok(attachment) => {
                assert!(limit.is_none_or(|limit| live.len() <= limit));
                for (iova, len) in live {
                    let last = iova.get() + len - 1;
                    let reaches = |range: &RangeInclusive<u64>| {
                        range.contains(&iova.get()) && range.contains(&last)
                    };
                    assert!(meant.iter().any(reaches));
                }
                self.attached.push((mapper, attachment));
            }
            Err(Error::Mapper(_)) => {}
            Err(Error::Unreachable { iova, .. }) => {
                assert!(mapper.mapped().is_empty(), "it was refused beforehand");
                let &(_, len) = live.iter().find(|(first, _)| *first == iova).unwrap();
                let last = iova.get() + len - 1;
                let reaches = |range: &RangeInclusive<u64>| {
                    range.contains(&iova.get()) && range.contains(&last)
                };
                let too_many = limit.is_some_and(|limit| live.len() > limit);
                assert!(too_many || !meant.iter().any(reaches));
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn check(&self) {
        let live = self.live();
        for pair in live.windows(2) {
            assert!(pair[0].0.get() + pair[0].1 <= pair[1].0.get(), "{pair:?}");
        }
        for &(iova, len) in &live {
            assert!(iova.is_aligned(2 << 20) && iova.get() >= 4 * GIB);
            assert!(iova.get() + len <= 1 << 39);
        }
        for region in &self.regions {
            assert!(live.contains(&(region.iova(), region.len_bytes())));
        }
        for (mapper, _) in &self.attached {
            let mapped = mapper.mapped();
            assert!(
                live.iter().all(|region| mapped.contains(region)),
                "an attached context has every region"
            );
        }
        // Whatever any context ever kept is either a live region, the very same memory, or
        // given up; it never overlaps a region made later.
        let mut lost = BTreeMap::new();
        for mapper in &self.ever {
            mapper.assert_sound();
            for (iova, len) in mapper.mapped() {
                if live.contains(&(iova, len)) {
                    let (kept, now) = (mapper.memory(iova), self.witness.memory(iova));
                    assert!(
                        Arc::ptr_eq(&kept.unwrap(), &now.unwrap()),
                        "R32: {iova} reused"
                    );
                } else {
                    let overlaps = live.iter().any(|&(at, size)| {
                        at.get() < iova.get() + len && iova.get() < at.get() + size
                    });
                    assert!(!overlaps, "R32: {iova} reused while it may be reached");
                    lost.insert(iova, len);
                }
            }
        }
        self.witness.assert_sound();
        self.watch.assert_sound();
        let mut expected = SpaceStats::default();
        expected.regions = live.len();
        expected.region_bytes = live.iter().map(|(_, len)| len).sum();
        expected.contexts = 1 + self.attached.len();
        expected.heap_used_bytes = self.heap_bytes;
        expected.iova_lost_bytes = lost.values().sum();
        expected.iova_used_bytes = expected.region_bytes + expected.iova_lost_bytes;
        let stats = self.space.stats();
        // What was there at most depends on the whole history; never less than what is there.
        assert!(stats.peak_region_bytes >= stats.region_bytes);
        expected.peak_region_bytes = stats.peak_region_bytes;
        assert_eq!(stats, expected);
    }
}

/// Whatever is made, dropped, attached, detached and refused, in any order: regions are disjoint
/// and within reach of all, every context has exactly what lives, buffers do not overlap, and
/// nothing that may still be reached is used again.
#[test]
fn any_history_keeps_the_rules() {
    let (mut refusals, mut lost, mut attached) = (0, 0, 0);
    for seed in 0..60 {
        let mut world = World::new(seed);
        for _ in 0..150 {
            world.step();
        }
        refusals += world.refusals;
        lost += u64::from(world.space.stats().iova_lost_bytes > 0);
        attached += world.ever.len();
        while !world.bufs.is_empty() {
            world.drop_buf(0);
        }
        world.regions.clear();
        world.check();
    }
    assert!(
        refusals > 100 && lost > 10 && attached > 300,
        "{refusals} {lost} {attached}"
    );
}

/// The limits of a context end when it leaves: what it could not reach is given out again.
#[test]
fn a_narrow_context_narrows_only_while_it_is_there() {
    let space = DmaSpace::new();
    let narrow = vec![4 * GIB..=4 * GIB + (4 << 20) - 1];
    let mapper = MockMapper::with("narrow", narrow, None);
    let attachment = space.attach(mapper).unwrap();
    let _first = space.region("first", 2 << 20).unwrap();
    let error = space.region("second", 4 << 20).unwrap_err();
    assert!(matches!(error, Error::IovaExhausted { .. }), "{error}");
    attachment.detach().unwrap();
    let second = space.region("second", 4 << 20).unwrap();
    assert!(second.iova().get() >= 4 * GIB + (2 << 20));
    let late = MockMapper::with("narrow", vec![4 * GIB..=4 * GIB + (4 << 20) - 1], None);
    let error = space.attach(late.clone()).unwrap_err().to_string();
    assert!(
        error.contains("second") && error.contains("narrow"),
        "{error}"
    );
    assert_eq!(late.mapped(), []);
}

/// A context that refuses the n-th region when it joins has none of them afterwards, and is not
/// attached.
#[test]
fn a_late_joiner_that_refuses_leaves_nothing_behind() {
    for refused in 0..4 {
        let space = DmaSpace::new();
        let regions: Vec<_> = (0..4).map(|_| space.region("r", 4096).unwrap()).collect();
        let mapper = MockMapper::new("late");
        mapper.refuse_map(Some(refused));
        let error = space.attach(mapper.clone()).unwrap_err();
        assert!(matches!(error, Error::Mapper(_)), "{error}");
        assert_eq!(mapper.mapped(), []);
        assert_eq!(space.stats().contexts, 0);
        mapper.refuse_map(None);
        let _attached = space.attach(mapper.clone()).unwrap();
        assert_eq!(mapper.mapped().len(), regions.len());
    }
}

/// A context that takes fewer mappings than there are regions is told so before anything is
/// mapped, and with the region that is one too many.
#[test]
fn a_late_joiner_with_few_mappings_is_refused_beforehand() {
    let space = DmaSpace::new();
    let _regions: Vec<_> = (0..3)
        .map(|n| space.region(&format!("r{n}"), 4096).unwrap())
        .collect();
    let small = MockMapper::with("small", vec![0..=u64::MAX], Some(2));
    let error = space.attach(small.clone()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Unreachable { .. }), "{text}");
    assert!(text.contains("small") && text.contains("r2"), "{text}");
    assert!(text.contains("2 more mappings"), "{text}");
    let enough = MockMapper::with("enough", vec![0..=u64::MAX], Some(3));
    let _attached = space.attach(enough.clone()).unwrap();
    let error = space.region("r3", 4096).unwrap_err();
    assert!(matches!(error, Error::Mapper(_)), "{error}");
    assert_eq!(enough.mapped().len(), 3);
}

/// A region refused by one context is taken out of every other, also when one of them refuses
/// that too: the rest still has to go, and the IOVA is given up.
#[test]
fn a_refused_region_is_taken_out_of_all_others() {
    let space = DmaSpace::new();
    let mappers: Vec<_> = (0..4).map(|n| MockMapper::new(&format!("{n}"))).collect();
    let _attached: Vec<_> = mappers
        .iter()
        .map(|mapper| space.attach(mapper.clone()).unwrap())
        .collect();
    mappers[3].refuse_map(Some(0));
    mappers[0].refuse_unmap(true);
    space.region("refused", 4096).unwrap_err();
    let left: Vec<_> = mappers.iter().map(|mapper| mapper.mapped().len()).collect();
    assert_eq!(left, [1, 0, 0, 0]);
    assert_eq!(space.stats().iova_lost_bytes, 4096);
    assert_eq!(space.stats().region_bytes, 0);
    mappers[3].refuse_map(None);
    let region = space.region("next", 4096).unwrap();
    assert_ne!(region.iova(), mappers[0].mapped()[0].0, "R32");
}

/// The limit counts what is given up too: that memory is still taken.
#[test]
fn the_limit_counts_all_memory() {
    let space = DmaSpace::with_options(SpaceOptions {
        limit_bytes: 4 << 20,
        ..SpaceOptions::default()
    });
    let mapper = MockMapper::new("m");
    let _attached = space.attach(mapper.clone()).unwrap();
    let region = space.region("a", 3 << 20).unwrap();
    let error = space.region("b", 2 << 20).unwrap_err();
    assert!(error.to_string().contains("limit_bytes"), "{error}");
    mapper.refuse_unmap(true);
    drop(region);
    mapper.refuse_unmap(false);
    assert!(matches!(
        space.region("b", 2 << 20),
        Err(Error::Limit { .. })
    ));
    drop(space.region("c", 1 << 20).unwrap());
    drop(space.region("d", 1 << 20).unwrap());
}

/// Pieces lie within one region: two regions may be neighbours in IOVA space, but their memory
/// is not contiguous for the host.
#[test]
fn heap_pieces_never_span_regions() {
    let space = DmaSpace::new();
    let mut kept = Vec::new();
    for len in [
        1 << 20,
        3 << 19,
        3 << 19,
        3 << 20,
        1 << 20,
        1 << 19,
        5 << 20,
    ] {
        let mut buf = space.alloc(len, 4096).unwrap();
        assert_eq!(buf.view().len_bytes(), len);
        buf.copy_from(len - 1, &[7]).unwrap();
        buf.slice().unwrap();
        kept.push(buf);
    }
    drop(kept);
    assert_eq!(space.stats().heap_used_bytes, 0);
    let before = space.stats().region_bytes;
    drop(space.alloc(5 << 20, 2 << 20).unwrap());
    assert_eq!(space.stats().region_bytes, before, "room is used again");
}

/// A mapper that owns memory of the space it serves, as an emulator with an internal ring might.
#[derive(Debug)]
struct Owning(#[allow(dead_code)] Arc<Region>, #[allow(dead_code)] DmaBuf);

impl Mapper for Owning {
    fn name(&self) -> String {
        "owning".to_owned()
    }
    fn map(&self, _: &MapRequest) -> Result<(), MapperError> {
        Ok(())
    }
    fn unmap(&self, _: Iova, _: u64) -> Result<(), MapperError> {
        Ok(())
    }
    fn usable(&self) -> Vec<RangeInclusive<u64>> {
        vec![0..=u64::MAX]
    }
}

/// Dropping the last share of a mapper, a region or a space inside the space's own calls does
/// not wait for a lock that this very thread holds.
#[test]
fn drops_within_the_space_do_not_lock_twice() {
    let space = DmaSpace::new();
    let owning = || {
        let region = space.region("its own", 4096).unwrap();
        Arc::new(Owning(region, space.alloc(64, 64).unwrap()))
    };
    space.attach(owning()).unwrap().detach().unwrap();
    drop(space.attach(owning()).unwrap());
    let refusing = MockMapper::with("refusing", vec![], None);
    let region = space.region("r", 4096).unwrap();
    space.attach(refusing).unwrap_err();
    let buf = region.buf(0, 64).unwrap();
    let heap = space.alloc(64, 64).unwrap();
    drop((space, region));
    drop(heap);
    assert_eq!(buf.view().len_bytes(), 64, "a buffer outlives its space");
}

/// In a simulated build one thread plays all parts, and a lock that would wait is a bug.
#[cfg(not(underpin_sim))]
mod threads {
    use super::*;
    use underpin_dma::rt::thread::spawn;

    /// While others take what a growth brought, the one who grew still gets its piece.
    #[test]
    fn the_heap_grows_for_the_one_who_asked() {
        let space = DmaSpace::new();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let space = space.clone();
                spawn("grower", move || {
                    let bufs: Result<Vec<_>, _> =
                        (0..40).map(|_| space.alloc(3 << 19, 64)).collect();
                    bufs.map(|bufs| bufs.len())
                })
                .unwrap()
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap().unwrap(), 40);
        }
    }

    /// Contexts come and go while regions do: each context sees every map and unmap once, and
    /// has nothing when it has left.
    #[test]
    fn contexts_and_regions_come_and_go_together() {
        let space = DmaSpace::new();
        let makers: Vec<_> = (0..2)
            .map(|seed| {
                let space = space.clone();
                spawn("maker", move || {
                    let mut rng = Rng::seeded(seed);
                    let mut regions = Vec::new();
                    for _ in 0..300 {
                        if rng.chance(1, 2) || regions.is_empty() {
                            regions.push(space.region("r", 4096).unwrap());
                        } else {
                            let at = usize::try_from(rng.below(regions.len() as u64)).unwrap();
                            regions.swap_remove(at);
                        }
                        drop(space.alloc(100, 64).unwrap());
                    }
                })
                .unwrap()
            })
            .collect();
        let joiner = spawn("joiner", {
            let space = space.clone();
            move || {
                for _ in 0..100 {
                    let mapper = MockMapper::new("joiner");
                    let attachment = space.attach(mapper.clone()).unwrap();
                    space.stats();
                    attachment.detach().unwrap();
                    assert_eq!(mapper.mapped(), []);
                    mapper.assert_sound();
                }
            }
        });
        for thread in makers.into_iter().chain(joiner) {
            thread.join().unwrap();
        }
        let stats = space.stats();
        assert_eq!(
            (stats.regions, stats.heap_used_bytes),
            (1, 0),
            "the heap's region"
        );
        let options = underpin_dma::PoolOptions {
            buf_bytes: 4096,
            count: 1,
        };
        drop(space.pool("p", options).unwrap());
        assert_eq!(space.stats(), stats);
    }
}

/// A context with several devices behind it is attached once for each: mapped once, and unmapped
/// when the last has left, however each leaves.
#[test]
fn a_context_of_several_devices_is_mapped_once() {
    let space = DmaSpace::new();
    let region = space.region("before", 4096).unwrap();
    let context = MockMapper::new("container");
    let first = space.attach(context.clone()).unwrap();
    let second = space.attach(context.clone()).unwrap();
    let third = space.attach(context.clone()).unwrap();
    let later = space.region("later", 4096).unwrap();
    assert_eq!(space.stats().contexts, 1);
    assert_eq!(context.mapped().len(), 2);
    second.detach().unwrap();
    drop(first);
    assert_eq!(context.mapped().len(), 2, "one is still behind it");
    assert!(context.memory(region.iova()).is_some());
    drop(third);
    assert_eq!(context.mapped().len(), 0);
    assert_eq!(space.stats().contexts, 0);
    drop((region, later));
    context.assert_sound();
}

/// A context whose devices are attached to NUMA node 0, the one that every machine has.
#[derive(Debug)]
struct OnNodeZero(Arc<MockMapper>);

impl Mapper for OnNodeZero {
    fn name(&self) -> String {
        self.0.name()
    }

    fn map(&self, request: &MapRequest) -> Result<(), MapperError> {
        self.0.map(request)
    }

    fn unmap(&self, iova: Iova, len_bytes: u64) -> Result<(), MapperError> {
        self.0.unmap(iova, len_bytes)
    }

    fn usable(&self) -> Vec<RangeInclusive<u64>> {
        self.0.usable()
    }

    fn numa_node(&self) -> Option<u32> {
        Some(0)
    }
}

/// Regions are taken from the node of the devices that use them, as the kernel's list of mappings
/// shows; where it has no such list it has no nodes either, and regions are made all the same.
#[test]
fn regions_lie_on_their_devices_node() {
    let space = DmaSpace::new();
    let elsewhere = space.region("anywhere", 4096).unwrap();
    let attached = space.attach(Arc::new(OnNodeZero(MockMapper::new("near"))));
    let near = space.region("nearby-region", 4096).unwrap();
    if let Ok(maps) = std::fs::read_to_string("/proc/self/numa_maps") {
        let line = |name: &str| maps.lines().find(|line| line.contains(name)).unwrap();
        let policy = line("nearby-region");
        assert!(policy.contains("prefer"), "{policy}");
        assert!(line("anywhere").contains("default"));
    }
    drop((attached, elsewhere, near));
}
