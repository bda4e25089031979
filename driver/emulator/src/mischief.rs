//! The faults that do more than change a completion: what they do to the controller, to a page on
//! its way to the host, and to data.
use crate::bus::Who;
use crate::core::{Cx, Machine};
use crate::faults::{Plan, PowerLoss};
use crate::iommu::Direction;
use crate::job::Reply;
use crate::nvm::Transfer;
use underpin_dma::rt::Instant;
use underpin_nvme_spec::admin::{Cns, Identify};
use underpin_nvme_spec::identify::{Field, IdentifyController, IdentifyNamespace};
use underpin_nvme_spec::{AdminOpcode, Sqe};

/// Fields of identify pages that a driver takes something from.
const OF_CONTROLLER: [&str; 22] = [
    "mdts",
    "nn",
    "sqes",
    "cqes",
    "oacs",
    "oncs",
    "vwc",
    "awun",
    "awupf",
    "ver",
    "mnan",
    "sgls",
    "acl",
    "aerl",
    "lpa",
    "elpe",
    "cntrltype",
    "cntlid",
    "maxcmd",
    "rtd3e",
    "nvscc",
    "sn",
];
const OF_NAMESPACE: [&str; 12] = [
    "nsze", "ncap", "nlbaf", "flbas", "nsfeat", "nawun", "nawupf", "nabsn", "nabo", "nabspf",
    "nulbaf", "dps",
];

impl Machine {
    /// What ends the controller. True when it did.
    pub(crate) fn ended_by(&mut self, cx: &Cx<'_>, plan: &Plan) -> bool {
        if let Some(loss) = plan.power_cut {
            self.cut_power(cx, loss);
        } else if plan.removed_zero {
            cx.shared.bar.read_as_zero();
            self.remove(cx);
        } else if plan.removed {
            self.remove(cx);
        } else if plan.fatal {
            self.fail(cx, "a fault");
        } else {
            return false;
        }
        true
    }

    /// Power fails: what was not flushed is lost, torn or reordered, and the device is gone.
    fn cut_power(&mut self, cx: &Cx<'_>, loss: PowerLoss) {
        const LOSSES: [PowerLoss; 3] = [PowerLoss::Lost, PowerLoss::Torn, PowerLoss::Reordered];
        let loss = match loss {
            PowerLoss::Any => self.rng.pick(&LOSSES).copied().unwrap_or(PowerLoss::Lost),
            told => told,
        };
        self.remove(cx);
        self.health.power_cycles += 1;
        self.health.unsafe_shutdowns += 1;
        for namespace in &mut self.namespaces {
            if namespace.cut_power(loss, &mut self.rng).is_err() {
                tracing::error!(nsid = namespace.nsid, "the medium failed at a power cut");
            }
        }
        tracing::info!(emulator = %cx.shared.name, ?loss, "power cut");
        cx.shared.bar.power_off();
    }

    /// Remembers writes that are not flushed, while the power may fail.
    pub(crate) fn cache_writes(&mut self) {
        let wanted = self.supports.vwc && self.faults.may_cut_power();
        for namespace in &mut self.namespaces {
            namespace.cache_writes(wanted);
        }
    }

    /// The namespace is not there any more.
    pub(crate) fn vanish(&mut self, nsid: u32) {
        let gone = self.namespaces.iter_mut().find(|other| other.nsid == nsid);
        if let Some(namespace) = gone {
            namespace.vanish();
            self.namespace_changed(nsid);
        }
    }

    /// The command with its data elsewhere.
    pub(crate) fn misplace(sqe: Sqe, offset: u32) -> Sqe {
        sqe.with_prp1(sqe.prp1().wrapping_add(u64::from(offset)))
    }

    /// Spoils an identify or log page, as the faults have it.
    pub(crate) fn spoil(&mut self, sqe: &Sqe, plan: &Plan, reply: &mut Reply) {
        let opcode = AdminOpcode(sqe.opcode());
        if opcode == AdminOpcode::GET_LOG_PAGE && plan.garbage_log {
            self.fill_with_garbage(reply.bytes_mut());
        }
        if opcode != AdminOpcode::IDENTIFY {
            return;
        }
        if plan.garbage_identify {
            self.fill_with_garbage(reply.bytes_mut());
        }
        if plan.absurd_identify {
            self.exaggerate(Identify::from_sqe(sqe).cns, reply.bytes_mut());
        }
        if let Some(len_bytes) = plan.short_identify {
            reply.cut_to(len_bytes as usize);
        }
    }

    fn fill_with_garbage(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.rng.next_u64().to_le_bytes();
            for (byte, random) in chunk.iter_mut().zip(random) {
                *byte = random;
            }
        }
    }

    /// One field of an identify page becomes as extreme as it can be.
    fn exaggerate(&mut self, cns: Cns, bytes: &mut [u8]) {
        let place = |fields: &[Field], name: Option<&&str>| {
            let field = fields.iter().find(|field| Some(&field.name) == name)?;
            Some((field.offset, field.len_bytes))
        };
        let (offset, len_bytes) = match cns {
            Cns::CONTROLLER => {
                let name = self.rng.pick(&OF_CONTROLLER);
                place(IdentifyController::FIELDS, name).unwrap_or((77, 1))
            }
            // The format in use, every fourth time: its size of a block, and of metadata.
            Cns::NAMESPACE if self.rng.chance(1, 4) => (128 + self.rng.below(3) as usize, 1),
            Cns::NAMESPACE => {
                let name = self.rng.pick(&OF_NAMESPACE);
                place(IdentifyNamespace::FIELDS, name).unwrap_or((0, 8))
            }
            // Lists and descriptors: their first entries.
            _ => (self.rng.below(4) as usize, 8),
        };
        const EXTREMES: [u8; 5] = [0, 0xff, 0x80, 0x7f, 1];
        let extreme = self.rng.pick(&EXTREMES).copied().unwrap_or(0xff);
        let field = bytes.get_mut(offset..offset.saturating_add(len_bytes));
        field.into_iter().flatten().for_each(|byte| *byte = extreme);
    }

    /// Flips one bit of what a transfer has moved: of the host's memory, or of the medium.
    pub(crate) fn flip_a_bit(&mut self, cx: &Cx<'_>, transfer: &Transfer, who: Who) {
        let Some(moved) = transfer.last_byte() else {
            return;
        };
        let bit = 1_u8 << self.rng.below(8);
        let flipped = match moved.direction {
            Direction::ToHost => {
                let flip = |_, view: underpin_dma::View<'_>| {
                    let mut byte = [0];
                    view.copy_to(0, &mut byte)
                        .map_err(|_| crate::bus::Blocked)?;
                    let [old] = byte;
                    view.copy_from(0, &[old ^ bit])
                        .map_err(|_| crate::bus::Blocked)
                };
                self.bus
                    .windows(cx.map, moved.iova, 1, Direction::ToHost, who, flip)
                    .is_ok()
            }
            Direction::FromHost => {
                let namespace = self.namespaces.get(moved.namespace);
                namespace.is_some_and(|namespace| {
                    let mut byte = [0];
                    let read = namespace.medium.read_bytes(moved.at, &mut byte);
                    let [old] = byte;
                    read.is_ok() && namespace.medium.write_bytes(moved.at, &[old ^ bit]).is_ok()
                })
            }
        };
        if !flipped {
            tracing::warn!("corrupt-data found nothing to flip");
        }
    }

    /// Nothing is written to completion queue `cqid` before `until`.
    pub(crate) fn stall(&mut self, cqid: u16, until: Instant) {
        self.stalls.push((cqid, until));
    }

    /// True while nothing shall be written to completion queue `cqid`.
    pub(crate) fn is_stalled(&mut self, cx: &Cx<'_>, cqid: u16) -> bool {
        self.stalls.retain(|&(_, until)| until > cx.now);
        self.stalls.iter().any(|&(stalled, _)| stalled == cqid)
    }

    /// When the first stall ends.
    pub(crate) fn next_stall_end(&self) -> Option<Instant> {
        self.stalls.iter().map(|&(_, until)| until).min()
    }
}
