//! Identify Controller of the NVM command set, CNS 06h (NVM Command Set 1.0, figure 118): the
//! limits of commands that have no data to be limited by MDTS.

super::fields::page! {
    /// What a controller says of the NVM command set: how long its commands may be.
    ///
    /// ```
    /// use underpin_nvme_spec::identify::IdentifyNvmController;
    ///
    /// let mut page = IdentifyNvmController::zeroed();
    /// page.set_wzsl(4);
    /// assert_eq!(page.wzsl(), 4, "sixteen memory pages of zeroes a command");
    /// ```
    IdentifyNvmController [4096] {
        vsl set_vsl u8 @ 0 "Verify size limit: a power of two in units of the smallest memory page (`CAP.MPSMIN`); 0 means no limit";
        wzsl set_wzsl u8 @ 1 "Write Zeroes size limit: a power of two in units of the smallest memory page (`CAP.MPSMIN`); 0 means no limit";
        wusl set_wusl u8 @ 2 "Write Uncorrectable size limit: a power of two in units of the smallest memory page (`CAP.MPSMIN`); 0 means no limit";
        dmrl set_dmrl u8 @ 3 "Dataset Management ranges limit: ranges of one command; 0 means no limit";
        dmrsl set_dmrsl u32 @ 4 "Dataset Management range size limit: logical blocks of one range; 0 means no limit";
        dmsl set_dmsl u64 @ 8 "Dataset Management size limit: logical blocks of one command; 0 means no limit";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::fields::testing::holes;

    /// NVM Command Set 1.0, figure 118: sixteen bytes of limits, the rest reserved.
    #[test]
    fn limits_lie_where_the_specification_has_them() {
        assert_eq!(holes(IdentifyNvmController::FIELDS), [(16, 4080)]);
        let mut bytes = [0; 4096];
        bytes[..16].copy_from_slice(&[1, 2, 3, 4, 5, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 1]);
        let page = IdentifyNvmController::from_bytes(&bytes);
        assert_eq!((page.vsl(), page.wzsl(), page.wusl()), (1, 2, 3));
        assert_eq!(
            (page.dmrl(), page.dmrsl(), page.dmsl()),
            (4, 5, 6 | 1 << 56)
        );
    }
}
