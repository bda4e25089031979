//! The identify pages that this controller answers with, made from its configuration.
//! Identifiers differ between controllers and are stable from run to run: they are derived from
//! the serial number, and that from the seed and the medium's file or the controller's number.
use crate::abilities::Abilities;
use crate::config::EmulatorConfig;
use crate::namespace::{FORMAT_SHIFTS, Namespace};
use std::sync::atomic::{AtomicU64, Ordering};
use underpin_dma::rt::Rng;
use underpin_nvme_spec::admin::{Cns, Identify};
use underpin_nvme_spec::identify::{
    Descriptor, IdentifyController, IdentifyNamespace, IdentifyNvmController, LbaFormat,
    NamespaceDescriptors, NamespaceList,
};
use underpin_nvme_spec::registers::Vs;
use underpin_nvme_spec::{Nsid, Status};

/// The version that the controller follows.
pub(crate) const VERSION: Vs = Vs::new(2, 0, 0);

/// What the controller says of itself, whatever happens.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    controller: Box<IdentifyController>,
    limits: Box<IdentifyNvmController>,
    /// Of all identifiers.
    seed: u64,
    /// As identify has it: of the controller, for namespaces without their own.
    awun: u16,
    awupf: u16,
}

impl Identity {
    /// `inode` is of the file that the controller alone uses, if there is one.
    pub(crate) fn new(config: &EmulatorConfig, inode: Option<u64>) -> Self {
        let (serial, seed) = serial(config, inode);
        let mut page = Box::new(IdentifyController::zeroed());
        page.set_sn(&serial);
        page.set_mn("Underpin Emulator");
        page.set_fr(env!("CARGO_PKG_VERSION"));
        page.set_subnqn(&format!(
            "nqn.2026-11.org.underpin:emulator:{}",
            config.name
        ));
        page.set_mdts(config.mdts);
        page.set_cntlid(1);
        page.set_ver(VERSION.0);
        page.set_cntrltype(1);
        let Abilities {
            format, effects, ..
        } = config.abilities;
        // Format NVM; Doorbell Buffer Config.
        page.set_oacs(u16::from(format) << 1 | u16::from(config.dbbuf) << 8);
        page.set_acl(3);
        page.set_aerl(crate::admin::ASYNC_EVENTS - 1);
        // Namespace attribute notices.
        page.set_oaes(1 << 8);
        // Host identifiers of 128 bits.
        page.set_ctratt(1);
        // One firmware slot, which cannot be written.
        page.set_frmw(1 << 1 | 1);
        // Commands Supported and Effects; lengths and offsets beyond twelve bits.
        page.set_lpa(u8::from(effects) << 1 | 1 << 2);
        page.set_elpe((crate::health::ERROR_ENTRIES - 1) as u8);
        page.set_wctemp(crate::health::TOO_WARM);
        page.set_oncs(config.abilities.oncs());
        // A format erases one namespace or all; cryptographic erasure is there.
        page.set_fna(1 << 2);
        // Namespaces can be write-protected.
        page.set_nwpc(1);
        // Entries of 64 and 16 bytes, required and largest alike.
        page.set_sqes(0x66);
        page.set_cqes(0x44);
        page.set_nn(config.namespaces.len() as u32);
        // Flush with the broadcast NSID is supported (bits 2:1 = 11b).
        page.set_vwc(if config.vwc { 0b111 } else { 0b110 });
        page.set_awun(config.awun);
        page.set_awupf(config.awupf);
        page.set_sgls(config.sgl.sgls().0);
        Self {
            controller: page,
            limits: Box::new(config.abilities.page()),
            seed,
            awun: config.awun,
            awupf: config.awupf,
        }
    }

    /// The page that an Identify command asks for.
    pub(crate) fn page(
        &self,
        namespaces: &[Namespace],
        command: &Identify,
    ) -> Result<[u8; 4096], Status> {
        const NO_NAMESPACE: Status = Status::INVALID_NAMESPACE_OR_FORMAT.with_do_not_retry();
        const NVM_COMMAND_SET: u8 = 0;
        let namespace = || {
            let index = (command.nsid.0 as usize).wrapping_sub(1);
            let found = namespaces.get(index).filter(|namespace| !namespace.gone);
            found.ok_or(NO_NAMESPACE)
        };
        match command.cns {
            Cns::CONTROLLER => Ok(*self.controller.as_bytes()),
            Cns::NAMESPACE => Ok(*self.namespace(namespace()?).as_bytes()),
            Cns::ACTIVE_NAMESPACES => {
                // The two highest values name no list (Base 2.0, 5.17.2.2).
                if command.nsid.0 >= 0xffff_fffe {
                    return Err(NO_NAMESPACE);
                }
                let there = namespaces.iter().filter(|namespace| !namespace.gone);
                let nsids = there.map(|namespace| Nsid(namespace.nsid));
                let list = NamespaceList::from_nsids(nsids.filter(|nsid| *nsid > command.nsid));
                Ok(*list.as_bytes())
            }
            Cns::DESCRIPTORS => {
                let namespace = namespace()?;
                let (eui64, nguid) = self.identifiers(namespace.nsid);
                let list = NamespaceDescriptors::from_descriptors([
                    Descriptor {
                        nidt: Descriptor::EUI64,
                        nid: &eui64,
                    },
                    Descriptor {
                        nidt: Descriptor::NGUID,
                        nid: &nguid,
                    },
                    Descriptor {
                        nidt: Descriptor::CSI,
                        nid: &[namespace.csi],
                    },
                ]);
                Ok(*list.as_bytes())
            }
            // Nothing beyond the common pages is to be said of the NVM command set here.
            Cns::COMMAND_SET_NAMESPACE if command.csi == NVM_COMMAND_SET => {
                namespace().map(|_| [0; 4096])
            }
            Cns::COMMAND_SET_CONTROLLER if command.csi == NVM_COMMAND_SET => {
                Ok(*self.limits.as_bytes())
            }
            _ => Err(Status::INVALID_FIELD.with_do_not_retry()),
        }
    }

    fn identifiers(&self, nsid: u32) -> ([u8; 8], [u8; 16]) {
        let mut rng = Rng::seeded(self.seed ^ u64::from(nsid) << 32 ^ 0x1de4_71f1);
        let mut nguid = [0; 16];
        let (high, low) = nguid.split_at_mut(8);
        high.copy_from_slice(&rng.next_u64().to_be_bytes());
        low.copy_from_slice(&rng.next_u64().to_be_bytes());
        (rng.next_u64().to_be_bytes(), nguid)
    }

    fn namespace(&self, namespace: &Namespace) -> Box<IdentifyNamespace> {
        let mut page = Box::new(IdentifyNamespace::zeroed());
        page.set_nsze(namespace.blocks);
        page.set_ncap(namespace.blocks);
        page.set_nuse(namespace.blocks);
        page.set_nvmcap(u128::from(namespace.blocks) << namespace.lba_shift);
        for (index, &shift) in (0..).zip(&FORMAT_SHIFTS) {
            page.set_lba_format(index, LbaFormat::new(0, shift as u8, 0));
            page.set_nlbaf(index);
            if shift == namespace.lba_shift {
                page.set_flbas(index);
            }
        }
        // What was deallocated reads as zeroes, and Write Zeroes may deallocate.
        page.set_dlfeat(0b1001);
        let own = namespace.nawun.is_some()
            || namespace.nawupf.is_some()
            || namespace.atomic_boundary != 0;
        if own {
            // NSABP: the fields below count for this namespace instead of the controller's.
            page.set_nsfeat(1 << 1);
            page.set_nawun(namespace.nawun.unwrap_or(self.awun));
            page.set_nawupf(namespace.nawupf.unwrap_or(self.awupf));
            page.set_nabsn(namespace.atomic_boundary);
            page.set_nabspf(namespace.atomic_boundary);
        }
        page.set_nsattr(u8::from(namespace.medium.is_protected()));
        let (eui64, nguid) = self.identifiers(namespace.nsid);
        page.set_eui64(eui64);
        page.set_nguid(nguid);
        page
    }
}

/// The serial number, and the seed of the identifiers.
fn serial(config: &EmulatorConfig, inode: Option<u64>) -> (String, u64) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // Moves with every controller, so that which number one has depends on nothing else of it.
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    if let Some(serial) = &config.serial {
        let sum = serial.bytes().fold(config.seed, |sum, byte| {
            Rng::seeded(sum ^ u64::from(byte)).next_u64()
        });
        return (serial.clone(), sum);
    }
    let unit = inode.unwrap_or(number << 32);
    let seed = Rng::seeded(config.seed ^ unit.rotate_left(17)).next_u64();
    (format!("EMU{seed:016x}"), seed)
}
