//! Reads of a medium without bytes go a shorter way than others: a host cannot tell which.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod common;

use common::*;
use underpin_dma::DmaBuf;
use underpin_dma::rt::Rng;
use underpin_nvme_spec::{Cqe, Sqe, Status};

/// One controller and its host.
struct Arm {
    host: Host,
    pair: Pair,
    buf: DmaBuf,
}

impl Arm {
    fn new(media: &str) -> Self {
        let text = format!("media={media},size=1m,lba=512,ns2.lba=4096");
        let mut host = Host::up(config(&text), Mode::Inline);
        host.hurry = true;
        // Rings that end at different places, and where no batch does.
        let (mut pair, other) = (host.pair(1, 13), host.pair(1, 17));
        for create in [
            Host::create_cq_of(&other).to_sqe(),
            Host::create_sq_of(&pair).to_sqe(),
        ] {
            assert_eq!(host.admin(create).status(), Status::SUCCESS);
        }
        (pair.cq, pair.cq_buf) = (other.cq, other.cq_buf);
        let buf = host.space.alloc(4 * 4096, 4096).unwrap();
        Self { host, pair, buf }
    }

    /// Submits all, rings once, and takes what comes.
    fn go(&mut self, entries: &[Sqe]) -> Vec<Cqe> {
        let Self { host, pair, buf } = self;
        for sqe in entries {
            pair.push(sqe.with_prp1(sqe.prp1().wrapping_add(buf.iova().get())));
        }
        pair.ring(&host.emu, host.dstrd);
        let complete = |_| host.complete(pair).expect("a command ends");
        entries.iter().map(complete).collect()
    }
}

/// The same commands, plain reads and others in batches of any length, come to the same end on
/// both ways: status, order, and what the controller counts.
#[test]
fn the_short_way_cannot_be_told() {
    let mut short = Arm::new("null");
    let mut long = Arm::new("ram");
    let mut rng = Rng::seeded(11);
    for _ in 0..2_000 {
        let mut entries = Vec::new();
        for _ in 0..1 + rng.below(12) {
            let mut pick = |from: &[u64]| from[rng.below(from.len() as u64) as usize];
            let nsid = pick(&[1, 1, 1, 1, 1, 2, 2, 0, 3]) as u32;
            let blocks = pick(&[1, 1, 8, 8, 16]) as u32;
            let lba = pick(&[0, 1, 77, 240, 248, 255, 256, 2040, 2041, 2047, u64::MAX]);
            let prp1 = pick(&[0, 0, 0, 0, 4096, 8192, 4, 2048, 2, 0xdead << 32]);
            let sqe = match pick(&[0, 0, 0, 0, 0, 0, 0, 1, 2]) {
                0 => read(nsid, lba, blocks),
                1 => write(nsid, lba, blocks),
                _ => read(nsid, lba, blocks).with_fuse(1),
            };
            entries.push(sqe.with_prp1(prp1));
        }
        let (short, long) = (short.go(&entries), long.go(&entries));
        // How far the queue was read meanwhile depends on how many were read at a time.
        let of = |cqes: &[Cqe]| {
            let told = |cqe: &Cqe| (cqe.dw0(), cqe.sqid(), cqe.cid(), cqe.status());
            cqes.iter().map(told).collect::<Vec<_>>()
        };
        assert_eq!(of(&short), of(&long), "{entries:?}");
    }
    let (short, long) = (short.host.emu.stats(), long.host.emu.stats());
    assert!(short.reads > 2_000 && short.errors > 1_000, "{short:?}");
    let counted = |stats: &underpin_emulator::EmulatorStats| {
        let moved = (stats.bytes_from_host, stats.bytes_to_host);
        let done = (stats.sqes, stats.completions, stats.errors);
        (done, moved, stats.reads, stats.writes, stats.blocked_dma)
    };
    assert_eq!(counted(&short), counted(&long));
}
