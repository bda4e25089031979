//! IOMMU groups: which functions can reach each other's memory, and so can be given away only
//! together.
use crate::machine::Machine;
use crate::sysfs;
use serde::Serialize;
use underpin::nvme::{PciClass, shares_group_with_vfio};

/// What is in the same group as a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Group {
    /// Its number, as in `/dev/vfio/NUMBER`.
    pub(crate) number: String,
    /// The other functions, in order of address.
    pub(crate) others: Vec<Member>,
}

/// Another function of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Member {
    pub(crate) address: String,
    pub(crate) driver: Option<String>,
    /// Whether VFIO refuses the group as long as this driver has the function.
    pub(crate) blocks: bool,
}

impl Group {
    /// The group of a function; `None` if no IOMMU that is on stands before it.
    pub(crate) fn of(machine: &Machine, address: &str) -> Option<Self> {
        let number = sysfs::link(&machine.function(address).join("iommu_group"))?;
        if !sysfs::is_number(&number) {
            return None;
        }
        let directory = machine.sys(&format!("kernel/iommu_groups/{number}/devices"));
        let others = sysfs::children(&directory, |name| name != address);
        let others = others.iter().map(|path| {
            let address = sysfs::name_of(path);
            let driver = machine.driver(&address);
            // Kernels before 5.19 count no bridges; later ones go by the driver, and theirs is
            // pcieport as a rule.
            let class = sysfs::class(&machine.function(&address));
            let is_bridge = class.is_some_and(PciClass::is_bridge);
            let lets = |driver: &String| shares_group_with_vfio(driver);
            Member {
                blocks: !is_bridge && !driver.as_ref().is_none_or(lets),
                address,
                driver,
            }
        });
        Some(Self {
            number,
            others: others.collect(),
        })
    }

    /// The functions that keep VFIO from the group.
    pub(crate) fn blocking(&self) -> impl Iterator<Item = &Member> {
        self.others.iter().filter(|member| member.blocks)
    }

    /// Functions as a person reads them: `0000:01:00.1 (driver snd_hda_intel)`.
    pub(crate) fn named<'a>(members: impl Iterator<Item = &'a Member>) -> String {
        let named = members.map(|member| match &member.driver {
            Some(driver) => format!("{} (driver {driver})", member.address),
            None => member.address.clone(),
        });
        named.collect::<Vec<_>>().join(", ")
    }
}
