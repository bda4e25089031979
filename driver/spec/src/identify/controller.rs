//! Identify Controller, CNS 01h (Base 2.0, figure 275).

super::fields::page! {
    /// What a controller says of itself.
    ///
    /// ```
    /// use underpin_nvme_spec::identify::IdentifyController;
    ///
    /// let mut page = IdentifyController::zeroed();
    /// page.set_sn("S123");
    /// page.set_mdts(5);
    /// let read = IdentifyController::from_bytes(page.as_bytes());
    /// assert_eq!(read.sn().to_string(), "S123");
    /// assert_eq!(read.mdts(), 5);
    /// ```
    IdentifyController [4096] {
        vid set_vid u16 @ 0 "PCI vendor identifier";
        ssvid set_ssvid u16 @ 2 "PCI subsystem vendor identifier";
        sn set_sn (20) @ 4 "Serial number";
        mn set_mn (40) @ 24 "Model number";
        fr set_fr (8) @ 64 "Firmware revision";
        rab set_rab u8 @ 72 "Recommended arbitration burst, as a power of two";
        ieee set_ieee [3] @ 73 "IEEE organizationally unique identifier, least significant byte first";
        cmic set_cmic u8 @ 76 "Controller multi-path I/O and namespace sharing capabilities";
        mdts set_mdts u8 @ 77 "Maximum data transfer size: a power of two in units of the smallest memory page (`CAP.MPSMIN`); 0 means no limit";
        cntlid set_cntlid u16 @ 78 "Controller identifier, unique within the NVM subsystem";
        ver set_ver u32 @ 80 "Version, laid out as the VS register";
        rtd3r set_rtd3r u32 @ 84 "RTD3 resume latency in microseconds; 0 means not reported";
        rtd3e set_rtd3e u32 @ 88 "RTD3 entry latency in microseconds; 0 means not reported";
        oaes set_oaes u32 @ 92 "Optional asynchronous events supported";
        ctratt set_ctratt u32 @ 96 "Controller attributes";
        rrls set_rrls u16 @ 100 "Read recovery levels supported, one bit each";
        cntrltype set_cntrltype u8 @ 111 "Controller type: 1 I/O, 2 discovery, 3 administrative; 0 means not reported";
        fguid set_fguid [16] @ 112 "FRU globally unique identifier, big-endian";
        crdt1 set_crdt1 u16 @ 128 "Command retry delay time 1, in 100 ms units";
        crdt2 set_crdt2 u16 @ 130 "Command retry delay time 2, in 100 ms units";
        crdt3 set_crdt3 u16 @ 132 "Command retry delay time 3, in 100 ms units";
        nvmsr set_nvmsr u8 @ 253 "NVM subsystem report";
        vwci set_vwci u8 @ 254 "VPD write cycle information";
        mec set_mec u8 @ 255 "Management endpoint capabilities";
        oacs set_oacs u16 @ 256 "Optional admin command support: bit 8 is Doorbell Buffer Config";
        acl set_acl u8 @ 258 "Abort command limit: Abort commands outstanding at once, counted from 0";
        aerl set_aerl u8 @ 259 "Asynchronous event request limit: outstanding at once, counted from 0";
        frmw set_frmw u8 @ 260 "Firmware updates";
        lpa set_lpa u8 @ 261 "Log page attributes";
        elpe set_elpe u8 @ 262 "Error log page entries, counted from 0";
        npss set_npss u8 @ 263 "Number of power states, counted from 0";
        avscc set_avscc u8 @ 264 "Admin vendor specific command configuration";
        apsta set_apsta u8 @ 265 "Autonomous power state transition attributes";
        wctemp set_wctemp u16 @ 266 "Warning composite temperature threshold in kelvins; 0 means not reported";
        cctemp set_cctemp u16 @ 268 "Critical composite temperature threshold in kelvins; 0 means not reported";
        mtfa set_mtfa u16 @ 270 "Maximum time for firmware activation, in 100 ms units; 0 means undefined";
        hmpre set_hmpre u32 @ 272 "Host memory buffer preferred size in 4 KiB units; 0 means not supported";
        hmmin set_hmmin u32 @ 276 "Host memory buffer minimum size in 4 KiB units";
        tnvmcap set_tnvmcap u128 @ 280 "Total NVM capacity in bytes";
        unvmcap set_unvmcap u128 @ 296 "Unallocated NVM capacity in bytes";
        rpmbs set_rpmbs u32 @ 312 "Replay protected memory block support";
        edstt set_edstt u16 @ 316 "Extended device self-test time, in minutes";
        dsto set_dsto u8 @ 318 "Device self-test options";
        fwug set_fwug u8 @ 319 "Firmware update granularity in 4 KiB units; 0 means not reported, 255 none";
        kas set_kas u16 @ 320 "Keep alive granularity, in 100 ms units; 0 means not supported";
        hctma set_hctma u16 @ 322 "Host controlled thermal management attributes";
        mntmt set_mntmt u16 @ 324 "Minimum thermal management temperature in kelvins";
        mxtmt set_mxtmt u16 @ 326 "Maximum thermal management temperature in kelvins";
        sanicap set_sanicap u32 @ 328 "Sanitize capabilities";
        hmminds set_hmminds u32 @ 332 "Host memory buffer minimum descriptor entry size in 4 KiB units";
        hmmaxd set_hmmaxd u16 @ 336 "Host memory maximum descriptor entries; 0 means no limit";
        nsetidmax set_nsetidmax u16 @ 338 "NVM set identifier maximum";
        endgidmax set_endgidmax u16 @ 340 "Endurance group identifier maximum";
        anatt set_anatt u8 @ 342 "ANA transition time, in seconds";
        anacap set_anacap u8 @ 343 "Asymmetric namespace access capabilities";
        anagrpmax set_anagrpmax u32 @ 344 "ANA group identifier maximum";
        nanagrpid set_nanagrpid u32 @ 348 "Number of ANA group identifiers";
        pels set_pels u32 @ 352 "Persistent event log size, in 64 KiB units";
        domain_id set_domain_id u16 @ 356 "Domain identifier; 0 where there are no domains";
        megcap set_megcap u128 @ 368 "Max endurance group capacity in bytes";
        sqes set_sqes u8 @ 512 "Submission queue entry size: required (bits 3:0) and largest (bits 7:4), as powers of two";
        cqes set_cqes u8 @ 513 "Completion queue entry size: required (bits 3:0) and largest (bits 7:4), as powers of two";
        maxcmd set_maxcmd u16 @ 514 "Maximum outstanding commands per queue; 0 means not reported";
        nn set_nn u32 @ 516 "Number of namespaces: the largest valid NSID";
        oncs set_oncs u16 @ 520 "Optional NVM command support: bit 2 Dataset Management, bit 3 Write Zeroes, bit 8 Copy";
        fuses set_fuses u16 @ 522 "Fused operation support";
        fna set_fna u8 @ 524 "Format NVM attributes";
        vwc set_vwc u8 @ 525 "Volatile write cache: bit 0 present, bits 2:1 what Flush does with the broadcast NSID";
        awun set_awun u16 @ 526 "Atomic write unit normal, in logical blocks counted from 0";
        awupf set_awupf u16 @ 528 "Atomic write unit power fail, in logical blocks counted from 0";
        icsvscc set_icsvscc u8 @ 530 "I/O command set vendor specific command configuration";
        nwpc set_nwpc u8 @ 531 "Namespace write protection capabilities";
        acwu set_acwu u16 @ 532 "Atomic compare and write unit, in logical blocks counted from 0";
        ocfs set_ocfs u16 @ 534 "Optional copy formats supported";
        sgls set_sgls u32 @ 536 "SGL support; bits 1:0 zero means none";
        mnan set_mnan u32 @ 540 "Maximum number of allowed namespaces; 0 means NN";
        maxdna set_maxdna u128 @ 544 "Maximum domain namespace attachments";
        maxcna set_maxcna u32 @ 560 "Maximum I/O controller namespace attachments";
        subnqn set_subnqn (256 nul) @ 768 "NVM subsystem NVMe qualified name";
        ioccsz set_ioccsz u32 @ 1792 "Fabrics: I/O queue command capsule size in 16-byte units";
        iorcsz set_iorcsz u32 @ 1796 "Fabrics: I/O queue response capsule size in 16-byte units";
        icdoff set_icdoff u16 @ 1800 "Fabrics: in capsule data offset in 16-byte units";
        fcatt set_fcatt u8 @ 1802 "Fabrics: controller attributes";
        msdbd set_msdbd u8 @ 1803 "Fabrics: maximum SGL data block descriptors; 0 means no limit";
        ofcs set_ofcs u16 @ 1804 "Fabrics: optional commands support";
        dctype set_dctype u8 @ 1806 "Discovery controller type";
        psd set_psd { 1024 } @ 2048 "Power state descriptors";
        vendor set_vendor { 1024 } @ 3072 "Vendor specific";
    }
}

/// Power state descriptors of a controller: states 0 to 31.
const POWER_STATES_OFFSET: usize = 2048;
const POWER_STATE_LEN_BYTES: usize = 32;

impl IdentifyController {
    /// The descriptor of power state `state`, as bytes; `None` beyond [`npss`](Self::npss).
    #[must_use]
    pub fn power_state(&self, state: u8) -> Option<&[u8; POWER_STATE_LEN_BYTES]> {
        if state > self.npss() {
            return None;
        }
        let at = POWER_STATES_OFFSET + usize::from(state) * POWER_STATE_LEN_BYTES;
        // NPSS is a byte that a device fills in, the page has room for 32 states.
        (state < 32).then(|| self.0[at..].first_chunk()).flatten()
    }

    /// What the vendor put into the last 1024 bytes.
    #[must_use]
    pub fn vendor_specific(&self) -> &[u8] {
        &self.0[3072..]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::identify::fields::testing::holes;

    /// Base 2.0, figure 275: the reserved ranges are these and no others.
    #[test]
    fn reserved_ranges_are_those_of_the_specification() {
        let reserved = [
            (102, 9),
            (134, 119),
            (358, 10),
            (384, 128),
            (564, 204),
            (1024, 768),
            (1807, 241),
            (4096, 0),
        ];
        assert_eq!(holes(IdentifyController::FIELDS), reserved);
    }

    /// Landmarks of figure 275, told as bytes in memory.
    #[test]
    fn known_bytes_are_read() {
        let mut bytes = [0; 4096];
        bytes[..4].copy_from_slice(&[0x36, 0x1b, 0xf4, 0x1a]);
        bytes[4..24].copy_from_slice(b"S5GXNX0T            ");
        bytes[24..64].copy_from_slice(b"A Model Of Some Drive                   ");
        bytes[64..72].copy_from_slice(b"5B2QGXA7");
        bytes[73..76].copy_from_slice(&[0x38, 0x25, 0x00]);
        bytes[77] = 7;
        bytes[80..84].copy_from_slice(&[0x00, 0x04, 0x01, 0x00]);
        bytes[256..258].copy_from_slice(&[0x17, 0x01]);
        bytes[280..288].copy_from_slice(&0x00e8_e0db_6000_u64.to_le_bytes());
        bytes[512..514].copy_from_slice(&[0x66, 0x44]);
        bytes[516] = 32;
        bytes[520] = 0x5f;
        bytes[525] = 7;
        bytes[526..528].copy_from_slice(&1023_u16.to_le_bytes());
        bytes[528] = 7;
        bytes[768..781].copy_from_slice(b"nqn.2014.08.x");
        let page = IdentifyController::from_bytes(&bytes);
        assert_eq!((page.vid(), page.ssvid()), (0x1b36, 0x1af4));
        assert_eq!(page.sn(), "S5GXNX0T");
        assert_eq!(page.mn(), "A Model Of Some Drive");
        assert_eq!(page.fr(), "5B2QGXA7");
        assert_eq!(page.ieee(), [0x38, 0x25, 0x00]);
        assert_eq!((page.mdts(), page.ver()), (7, 0x0001_0400));
        assert_eq!(page.oacs() & 1 << 8, 1 << 8, "Doorbell Buffer Config");
        assert_eq!(page.tnvmcap(), 0x00e8_e0db_6000);
        assert_eq!((page.sqes(), page.cqes(), page.nn()), (0x66, 0x44, 32));
        assert_eq!((page.oncs(), page.vwc()), (0x5f, 7));
        assert_eq!((page.awun(), page.awupf()), (1023, 7));
        assert_eq!(page.subnqn(), "nqn.2014.08.x");
        assert_eq!(page.as_bytes(), &bytes);
    }

    /// Text is padded as each field has it: spaces, but NULs after the NQN.
    #[test]
    fn text_is_padded() {
        let mut page = IdentifyController::from_bytes(&[0xff; 4096]);
        page.set_sn("UNDERPIN");
        page.set_mn("a model number of more than forty characters");
        page.set_fr("");
        page.set_subnqn("nqn.2014-08.org.nvmexpress:uuid:0");
        assert_eq!(&page.as_bytes()[4..24], b"UNDERPIN            ");
        assert_eq!(page.mn(), "a model number of more than forty charac");
        assert_eq!(page.as_bytes()[64..72], [b' '; 8]);
        assert_eq!(page.subnqn(), "nqn.2014-08.org.nvmexpress:uuid:0");
        assert_eq!(page.as_bytes()[768 + 33..1024], [0; 223]);
        assert_eq!(page.as_bytes()[1024], 0xff, "nothing beyond the field");
    }

    /// Each setter writes its own field and nothing else, and its getter reads it back.
    #[test]
    fn numbers_go_to_their_own_bytes() {
        let mut page = IdentifyController::from_bytes(&[0xff; 4096]);
        page.set_unvmcap(1);
        page.set_vwc(0);
        page.set_cntlid(0x0102);
        page.set_fguid([7; 16]);
        page.set_mnan(0x0102_0304);
        let mut expected = [0xff; 4096];
        expected[296..312].copy_from_slice(&1_u128.to_le_bytes());
        expected[525] = 0;
        expected[78..80].copy_from_slice(&[2, 1]);
        expected[112..128].fill(7);
        expected[540..544].copy_from_slice(&[4, 3, 2, 1]);
        assert_eq!(page.as_bytes(), &expected);
        assert_eq!((page.unvmcap(), page.vwc(), page.cntlid()), (1, 0, 0x0102));
        assert_eq!((page.fguid(), page.mnan()), ([7; 16], 0x0102_0304));
    }

    /// `Debug` calls every getter: no page, however hostile, makes one panic.
    #[test]
    fn any_page_is_read_without_panic() {
        for byte in [0, 0x20, 0x7f, 0x80, 0xff] {
            let page = IdentifyController::from_bytes(&[byte; 4096]);
            let text = format!("{page:?}");
            assert!(text.contains("maxcna") && text.is_ascii(), "{text}");
            for state in 0..=u8::MAX {
                let in_page = state < 32 && state <= byte;
                assert_eq!(page.power_state(state).is_some(), in_page);
            }
            assert_eq!(page.vendor_specific().len(), 1024);
        }
    }

    #[test]
    fn power_states_lie_one_after_the_other() {
        let mut bytes = [0; 4096];
        bytes[263] = 2;
        bytes[2048 + 2 * 32] = 0xab;
        let page = IdentifyController::from_bytes(&bytes);
        assert_eq!(page.power_state(2).unwrap()[0], 0xab);
        assert_eq!(page.power_state(3), None);
    }
}
