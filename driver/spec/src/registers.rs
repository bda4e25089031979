//! Controller properties (Base 2.0, 3.1.3): where each lies in BAR 0 and which bits mean what.
//! Views are plain words; reading and writing the device is the transport's business.

use core::fmt;

/// Byte offsets of the properties in BAR 0.
pub mod offset {
    /// Controller Capabilities, 8 bytes.
    pub const CAP: usize = 0x00;
    /// Version, 4 bytes.
    pub const VS: usize = 0x08;
    /// Interrupt Mask Set, 4 bytes.
    pub const INTMS: usize = 0x0c;
    /// Interrupt Mask Clear, 4 bytes.
    pub const INTMC: usize = 0x10;
    /// Controller Configuration, 4 bytes.
    pub const CC: usize = 0x14;
    /// Controller Status, 4 bytes.
    pub const CSTS: usize = 0x1c;
    /// NVM Subsystem Reset, 4 bytes.
    pub const NSSR: usize = 0x20;
    /// Admin Queue Attributes, 4 bytes.
    pub const AQA: usize = 0x24;
    /// Admin Submission Queue base address, 8 bytes.
    pub const ASQ: usize = 0x28;
    /// Admin Completion Queue base address, 8 bytes.
    pub const ACQ: usize = 0x30;
    /// Controller Memory Buffer Location, 4 bytes.
    pub const CMBLOC: usize = 0x38;
    /// Controller Memory Buffer Size, 4 bytes.
    pub const CMBSZ: usize = 0x3c;
    /// Boot Partition Information, 4 bytes.
    pub const BPINFO: usize = 0x40;
    /// Boot Partition Read Select, 4 bytes.
    pub const BPRSEL: usize = 0x44;
    /// Boot Partition Memory Buffer Location, 8 bytes.
    pub const BPMBL: usize = 0x48;
    /// Controller Memory Buffer Memory Space Control, 8 bytes.
    pub const CMBMSC: usize = 0x50;
    /// Controller Memory Buffer Status, 4 bytes.
    pub const CMBSTS: usize = 0x58;
    /// Controller Memory Buffer Elasticity Buffer Size, 4 bytes.
    pub const CMBEBS: usize = 0x5c;
    /// Controller Memory Buffer Sustained Write Throughput, 4 bytes.
    pub const CMBSWTP: usize = 0x60;
    /// NVM Subsystem Shutdown, 4 bytes.
    pub const NSSD: usize = 0x64;
    /// Controller Ready Timeouts, 4 bytes.
    pub const CRTO: usize = 0x68;
    /// Persistent Memory Region Capabilities, 4 bytes.
    pub const PMRCAP: usize = 0xe00;
    /// Persistent Memory Region Control, 4 bytes.
    pub const PMRCTL: usize = 0xe04;
    /// Persistent Memory Region Status, 4 bytes.
    pub const PMRSTS: usize = 0xe08;
    /// Persistent Memory Region Elasticity Buffer Size, 4 bytes.
    pub const PMREBS: usize = 0xe0c;
    /// Persistent Memory Region Sustained Write Throughput, 4 bytes.
    pub const PMRSWTP: usize = 0xe10;
    /// Persistent Memory Region Controller Memory Space Control, lower 4 bytes.
    pub const PMRMSCL: usize = 0xe14;
    /// Persistent Memory Region Controller Memory Space Control, upper 4 bytes.
    pub const PMRMSCU: usize = 0xe18;
    /// The first doorbell: the Admin Submission Queue's tail.
    pub const DOORBELLS: usize = 0x1000;

    /// Every offset above with its name, in order.
    pub const ALL: &[(&str, usize)] = &[
        ("CAP", CAP),
        ("VS", VS),
        ("INTMS", INTMS),
        ("INTMC", INTMC),
        ("CC", CC),
        ("CSTS", CSTS),
        ("NSSR", NSSR),
        ("AQA", AQA),
        ("ASQ", ASQ),
        ("ACQ", ACQ),
        ("CMBLOC", CMBLOC),
        ("CMBSZ", CMBSZ),
        ("BPINFO", BPINFO),
        ("BPRSEL", BPRSEL),
        ("BPMBL", BPMBL),
        ("CMBMSC", CMBMSC),
        ("CMBSTS", CMBSTS),
        ("CMBEBS", CMBEBS),
        ("CMBSWTP", CMBSWTP),
        ("NSSD", NSSD),
        ("CRTO", CRTO),
        ("PMRCAP", PMRCAP),
        ("PMRCTL", PMRCTL),
        ("PMRSTS", PMRSTS),
        ("PMREBS", PMREBS),
        ("PMRSWTP", PMRSWTP),
        ("PMRMSCL", PMRMSCL),
        ("PMRMSCU", PMRMSCU),
        ("DOORBELLS", DOORBELLS),
    ];
}

/// Byte offset in BAR 0 of the tail doorbell of submission queue `qid`, where `dstrd` is
/// `CAP.DSTRD` (NVMe over PCIe Transport 1.0, 3.1.2.1).
///
/// ```
/// use underpin_nvme_spec::{Qid, registers::doorbell_sq};
/// assert_eq!(doorbell_sq(Qid(2), 0), 0x1010);
/// ```
#[inline]
#[must_use]
pub const fn doorbell_sq(qid: crate::Qid, dstrd: u8) -> usize {
    offset::DOORBELLS + 2 * qid.0 as usize * (4 << (dstrd & 0xf))
}

/// Byte offset in BAR 0 of the head doorbell of completion queue `qid`, where `dstrd` is
/// `CAP.DSTRD` (NVMe over PCIe Transport 1.0, 3.1.2.2).
///
/// ```
/// use underpin_nvme_spec::{Qid, registers::doorbell_cq};
/// assert_eq!(doorbell_cq(Qid(2), 0), 0x1014);
/// ```
#[inline]
#[must_use]
pub const fn doorbell_cq(qid: crate::Qid, dstrd: u8) -> usize {
    offset::DOORBELLS + (2 * qid.0 as usize + 1) * (4 << (dstrd & 0xf))
}

/// One field of a property: `width` bits from bit `shift` up.
///
/// ```
/// use underpin_nvme_spec::registers::Cap;
///
/// let to = Cap::FIELDS.iter().find(|field| field.name == "to");
/// let to = to.expect("every register lists its fields");
/// assert_eq!((to.shift, to.width), (24, 8));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitField {
    /// Name in the specification, in lower case.
    pub name: &'static str,
    /// Number of the lowest bit.
    pub shift: u32,
    /// Number of bits.
    pub width: u32,
}

/// One property per call: getters, setters and the table of its fields from one list.
macro_rules! property {
    (
        $(#[$meta:meta])*
        $name:ident($word:ty) {$(
            $(#[$doc:meta])*
            $get:ident, $with:ident: $kind:tt, $shift:tt, $width:tt;
        )*}
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[repr(transparent)]
        pub struct $name(pub $word);

        impl $name {
            /// Every field, lowest bit first.
            pub const FIELDS: &'static [BitField] = &[
                $(BitField { name: stringify!($get), shift: $shift, width: $width },)*
            ];

            $(property!(@field $(#[$doc])* $word, $get, $with, $kind, $shift, $width);)*
        }
    };
    (@field $(#[$doc:meta])* $word:ty, $get:ident, $with:ident, bool, $shift:literal, 1) => {
        $(#[$doc])*
        #[inline]
        #[must_use]
        pub const fn $get(self) -> bool {
            self.0 >> $shift & 1 != 0
        }

        #[doc = concat!("With another `", stringify!($get), "`.")]
        #[inline]
        #[must_use]
        pub const fn $with(self, value: bool) -> Self {
            Self(self.0 & !(1 << $shift) | (value as $word) << $shift)
        }
    };
    (@field $(#[$doc:meta])* $word:ty, $get:ident, $with:ident, $kind:ty, $shift:tt, $width:tt) => {
        $(#[$doc])*
        #[inline]
        #[must_use]
        pub const fn $get(self) -> $kind {
            (self.0 >> $shift & ((1 << $width) - 1)) as $kind
        }

        #[doc = concat!(
            "With another `", stringify!($get), "`; only the low ", $width, " bits of `value` are kept."
        )]
        #[inline]
        #[must_use]
        pub const fn $with(self, value: $kind) -> Self {
            const MASK: $word = (1 << $width) - 1;
            Self(self.0 & !(MASK << $shift) | (value as $word & MASK) << $shift)
        }
    };
}

property! {
    /// Controller Capabilities (Base 2.0, 3.1.3.1). Read-only to the host.
    ///
    /// ```
    /// use underpin_nvme_spec::registers::Cap;
    /// let cap = Cap(0x0000_0020_0f01_03ff);
    /// assert_eq!((cap.mqes(), cap.timeout_ms(), cap.page_min_bytes()), (1023, 7500, 4096));
    /// ```
    Cap(u64) {
        /// Maximum Queue Entries Supported, 0-based: 1023 allows queues of 1024.
        mqes, with_mqes: u16, 0, 16;
        /// Contiguous Queues Required.
        cqr, with_cqr: bool, 16, 1;
        /// Arbitration Mechanism Supported: bit 0 weighted round robin, bit 1 vendor's own.
        ams, with_ams: u8, 17, 2;
        /// Timeout for `CSTS.RDY` to follow `CC.EN`, in units of 500 ms.
        to, with_to: u8, 24, 8;
        /// Doorbell Stride: doorbells lie `4 << DSTRD` bytes apart.
        dstrd, with_dstrd: u8, 32, 4;
        /// NVM Subsystem Reset Supported.
        nssrs, with_nssrs: bool, 36, 1;
        /// Command Sets Supported: bit 0 NVM, bit 6 more than one I/O command set, bit 7 none.
        css, with_css: u8, 37, 8;
        /// Boot Partition Support.
        bps, with_bps: bool, 45, 1;
        /// Controller Power Scope.
        cps, with_cps: u8, 46, 2;
        /// Memory Page Size Minimum: pages of `4096 << MPSMIN` bytes.
        mpsmin, with_mpsmin: u8, 48, 4;
        /// Memory Page Size Maximum: pages of `4096 << MPSMAX` bytes.
        mpsmax, with_mpsmax: u8, 52, 4;
        /// Persistent Memory Region Supported.
        pmrs, with_pmrs: bool, 56, 1;
        /// Controller Memory Buffer Supported.
        cmbs, with_cmbs: bool, 57, 1;
        /// NVM Subsystem Shutdown Supported.
        nsss, with_nsss: bool, 58, 1;
        /// Controller Ready Modes Supported: bit 0 with media, bit 1 independent of media.
        crms, with_crms: u8, 59, 2;
    }
}

impl Cap {
    /// Controller Ready With Media Supported: the low bit of `CRMS`.
    #[inline]
    #[must_use]
    pub const fn crwms(self) -> bool {
        self.crms() & 0b01 != 0
    }

    /// Controller Ready Independent of Media Supported: the high bit of `CRMS`.
    #[inline]
    #[must_use]
    pub const fn crims(self) -> bool {
        self.crms() & 0b10 != 0
    }

    /// Longest wait for `CSTS.RDY` after `CC.EN` changed, in milliseconds. A controller that has
    /// ready modes tells longer waits in [`Crto`].
    #[inline]
    #[must_use]
    pub const fn timeout_ms(self) -> u64 {
        self.to() as u64 * 500
    }

    /// Entries the longest queue may have: `MQES` made 1-based.
    #[inline]
    #[must_use]
    pub const fn queue_entries_max(self) -> u32 {
        self.mqes() as u32 + 1
    }

    /// Bytes from one doorbell to the next.
    #[inline]
    #[must_use]
    pub const fn doorbell_stride_bytes(self) -> usize {
        4 << self.dstrd()
    }

    /// Bytes of the smallest memory page the host may choose.
    #[inline]
    #[must_use]
    pub const fn page_min_bytes(self) -> u64 {
        4096 << self.mpsmin()
    }

    /// Bytes of the largest memory page the host may choose.
    #[inline]
    #[must_use]
    pub const fn page_max_bytes(self) -> u64 {
        4096 << self.mpsmax()
    }
}

property! {
    /// Version of the specification the controller follows (Base 2.0, 3.1.3.2).
    ///
    /// ```
    /// assert_eq!(underpin_nvme_spec::registers::Vs(0x0001_0400).to_string(), "1.4.0");
    /// ```
    Vs(u32) {
        /// Tertiary version number.
        tertiary, with_tertiary: u8, 0, 8;
        /// Minor version number.
        minor, with_minor: u8, 8, 8;
        /// Major version number.
        major, with_major: u16, 16, 16;
    }
}

impl Vs {
    /// Version `major.minor.tertiary`.
    #[inline]
    #[must_use]
    pub const fn new(major: u16, minor: u8, tertiary: u8) -> Self {
        Self((major as u32) << 16 | (minor as u32) << 8 | tertiary as u32)
    }
}

impl fmt::Display for Vs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major(), self.minor(), self.tertiary())
    }
}

property! {
    /// Controller Configuration (Base 2.0, 3.1.3.5), written by the host.
    ///
    /// ```
    /// use underpin_nvme_spec::registers::Cc;
    /// let cc = Cc::default().with_iosqes(6).with_iocqes(4).with_en(true);
    /// assert_eq!(cc, Cc(0x0046_0001));
    /// ```
    Cc(u32) {
        /// Enable: set to start the controller, cleared to reset it.
        en, with_en: bool, 0, 1;
        /// I/O Command Set Selected: 0 NVM, 6 all supported, 7 admin only.
        css, with_css: u8, 4, 3;
        /// Memory Page Size: pages of `4096 << MPS` bytes.
        mps, with_mps: u8, 7, 4;
        /// Arbitration Mechanism Selected: 0 round robin.
        ams, with_ams: u8, 11, 3;
        /// Shutdown Notification: one of the `SHN_` values.
        shn, with_shn: u8, 14, 2;
        /// I/O Submission Queue Entry Size, base-2 logarithm of bytes.
        iosqes, with_iosqes: u8, 16, 4;
        /// I/O Completion Queue Entry Size, base-2 logarithm of bytes.
        iocqes, with_iocqes: u8, 20, 4;
        /// Controller Ready Independent of Media Enable.
        crime, with_crime: bool, 24, 1;
    }
}

impl Cc {
    /// `SHN`: no notification.
    pub const SHN_NONE: u8 = 0b00;
    /// `SHN`: a normal shutdown.
    pub const SHN_NORMAL: u8 = 0b01;
    /// `SHN`: an abrupt shutdown, when power is about to go.
    pub const SHN_ABRUPT: u8 = 0b10;
}

property! {
    /// Controller Status (Base 2.0, 3.1.3.6). Read-only to the host but for `NSSRO`.
    ///
    /// ```
    /// use underpin_nvme_spec::registers::Csts;
    ///
    /// let csts = Csts(0x0000_0009);
    /// assert!(csts.rdy() && !csts.cfs());
    /// assert_eq!(csts.shst(), Csts::SHST_COMPLETE);
    /// assert!(Csts(u32::MAX).is_absent());
    /// ```
    Csts(u32) {
        /// Ready: the controller takes commands.
        rdy, with_rdy: bool, 0, 1;
        /// Controller Fatal Status: only a reset helps.
        cfs, with_cfs: bool, 1, 1;
        /// Shutdown Status: one of the `SHST_` values.
        shst, with_shst: u8, 2, 2;
        /// NVM Subsystem Reset Occurred; writing 1 clears it.
        nssro, with_nssro: bool, 4, 1;
        /// Processing Paused.
        pp, with_pp: bool, 5, 1;
        /// Shutdown Type: set when `SHST` tells of the whole NVM subsystem.
        st, with_st: bool, 6, 1;
    }
}

impl Csts {
    /// `SHST`: normal operation, no shutdown asked for.
    pub const SHST_NORMAL: u8 = 0b00;
    /// `SHST`: shutdown under way.
    pub const SHST_OCCURRING: u8 = 0b01;
    /// `SHST`: shutdown complete.
    pub const SHST_COMPLETE: u8 = 0b10;

    /// What a read answers when the device is gone from the bus: all ones, which is no state a
    /// controller reports, as reserved bits read as zero.
    #[inline]
    #[must_use]
    pub const fn is_absent(self) -> bool {
        self.0 == u32::MAX
    }
}

property! {
    /// Admin Queue Attributes (Base 2.0, 3.1.3.8), written by the host.
    ///
    /// ```
    /// use underpin_nvme_spec::registers::Aqa;
    ///
    /// // 32 entries each, counted from 0.
    /// assert_eq!(Aqa::default().with_asqs(31).with_acqs(31), Aqa(0x001f_001f));
    /// ```
    Aqa(u32) {
        /// Admin Submission Queue Size in entries, 0-based.
        asqs, with_asqs: u16, 0, 12;
        /// Admin Completion Queue Size in entries, 0-based.
        acqs, with_acqs: u16, 16, 12;
    }
}

property! {
    /// Controller Ready Timeouts (Base 2.0, 3.1.3.21), in units of 500 ms.
    ///
    /// ```
    /// use underpin_nvme_spec::registers::Crto;
    ///
    /// let crto = Crto(0x0002_0014);
    /// assert_eq!((crto.with_media_timeout_ms(), crto.independent_timeout_ms()), (10_000, 1_000));
    /// ```
    Crto(u32) {
        /// Controller Ready With Media Timeout.
        crwmt, with_crwmt: u16, 0, 16;
        /// Controller Ready Independent of Media Timeout.
        crimt, with_crimt: u16, 16, 16;
    }
}

impl Crto {
    /// [`crwmt`](Self::crwmt) in milliseconds.
    #[inline]
    #[must_use]
    pub const fn with_media_timeout_ms(self) -> u64 {
        self.crwmt() as u64 * 500
    }

    /// [`crimt`](Self::crimt) in milliseconds.
    #[inline]
    #[must_use]
    pub const fn independent_timeout_ms(self) -> u64 {
        self.crimt() as u64 * 500
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Qid;

    /// Fields of one property lie in order, do not overlap and fit its word.
    #[test]
    fn fields_do_not_overlap() {
        for (fields, bits) in [
            (Cap::FIELDS, 64),
            (Vs::FIELDS, 32),
            (Cc::FIELDS, 32),
            (Csts::FIELDS, 32),
            (Aqa::FIELDS, 32),
            (Crto::FIELDS, 32),
        ] {
            let mut next = 0;
            for field in fields {
                assert!(field.shift >= next, "{field:?} begins before bit {next}");
                next = field.shift + field.width;
            }
            assert!(next <= bits);
        }
    }

    /// All-ones through a setter changes exactly the field's bits, and reads back.
    macro_rules! check_field {
        ($view:ident, $get:ident, $with:ident, $value:expr, $bits:expr) => {
            assert_eq!($view::default().$with($value), $view($bits));
            assert_eq!($view($bits).$get(), $value);
            assert_eq!($view(!0).$with(Default::default()), $view(!$bits));
            assert_eq!($view(!$bits).$get(), Default::default());
        };
    }

    #[test]
    fn cap_bits() {
        check_field!(Cap, mqes, with_mqes, 0xffff, 0xffff);
        check_field!(Cap, cqr, with_cqr, true, 1 << 16);
        check_field!(Cap, ams, with_ams, 0b11, 0b11 << 17);
        check_field!(Cap, to, with_to, 0xff, 0xff00_0000);
        check_field!(Cap, dstrd, with_dstrd, 0xf, 0xf << 32);
        check_field!(Cap, nssrs, with_nssrs, true, 1 << 36);
        check_field!(Cap, css, with_css, 0xff, 0xff << 37);
        check_field!(Cap, bps, with_bps, true, 1 << 45);
        check_field!(Cap, cps, with_cps, 0b11, 0b11 << 46);
        check_field!(Cap, mpsmin, with_mpsmin, 0xf, 0xf << 48);
        check_field!(Cap, mpsmax, with_mpsmax, 0xf, 0xf << 52);
        check_field!(Cap, pmrs, with_pmrs, true, 1 << 56);
        check_field!(Cap, cmbs, with_cmbs, true, 1 << 57);
        check_field!(Cap, nsss, with_nsss, true, 1 << 58);
        check_field!(Cap, crms, with_crms, 0b11, 0b11 << 59);
    }

    #[test]
    fn cc_bits() {
        check_field!(Cc, en, with_en, true, 1);
        check_field!(Cc, css, with_css, 0b111, 0x70);
        check_field!(Cc, mps, with_mps, 0xf, 0x780);
        check_field!(Cc, ams, with_ams, 0b111, 0x3800);
        check_field!(Cc, shn, with_shn, 0b11, 0xc000);
        check_field!(Cc, iosqes, with_iosqes, 0xf, 0xf_0000);
        check_field!(Cc, iocqes, with_iocqes, 0xf, 0xf0_0000);
        check_field!(Cc, crime, with_crime, true, 1 << 24);
    }

    #[test]
    fn csts_bits() {
        check_field!(Csts, rdy, with_rdy, true, 0x01);
        check_field!(Csts, cfs, with_cfs, true, 0x02);
        check_field!(Csts, shst, with_shst, 0b11, 0x0c);
        check_field!(Csts, nssro, with_nssro, true, 0x10);
        check_field!(Csts, pp, with_pp, true, 0x20);
        check_field!(Csts, st, with_st, true, 0x40);
        assert!(Csts(!0).is_absent() && !Csts(0x7f).is_absent());
    }

    #[test]
    fn vs_aqa_crto_bits() {
        check_field!(Vs, tertiary, with_tertiary, 0xff, 0xff);
        check_field!(Vs, minor, with_minor, 0xff, 0xff00);
        check_field!(Vs, major, with_major, 0xffff, 0xffff_0000);
        check_field!(Aqa, asqs, with_asqs, 0xfff, 0xfff);
        check_field!(Aqa, acqs, with_acqs, 0xfff, 0xfff_0000);
        check_field!(Crto, crwmt, with_crwmt, 0xffff, 0xffff);
        check_field!(Crto, crimt, with_crimt, 0xffff, 0xffff_0000);
        assert_eq!(Vs::new(2, 0, 0), Vs(0x0002_0000));
    }

    /// A value wider than its field loses its high bits and spills into no neighbour.
    #[test]
    fn setters_keep_to_their_bits() {
        assert_eq!(Cap(0).with_dstrd(0xff), Cap(0xf << 32));
        assert_eq!(Cc(0).with_shn(0xff), Cc(0xc000));
        assert_eq!(Aqa(0).with_asqs(0xffff), Aqa(0xfff));
    }

    /// Base 2.0 counts queue entries from 0, timeouts in 500 ms and pages in powers of 4 KiB.
    #[test]
    fn cap_in_plain_units() {
        let cap = Cap(0)
            .with_mqes(1023)
            .with_to(30)
            .with_dstrd(1)
            .with_mpsmax(15);
        assert_eq!(cap.queue_entries_max(), 1024);
        assert_eq!(cap.timeout_ms(), 15_000);
        assert_eq!(cap.doorbell_stride_bytes(), 8);
        assert_eq!(cap.page_min_bytes(), 4096);
        assert_eq!(cap.page_max_bytes(), 128 << 20);
        assert!(Cap(1 << 59).crwms() && !Cap(1 << 59).crims());
        assert!(Cap(1 << 60).crims() && !Cap(1 << 60).crwms());
        let crto = Crto(0).with_crwmt(4).with_crimt(2);
        assert_eq!(crto.with_media_timeout_ms(), 2000);
        assert_eq!(crto.independent_timeout_ms(), 1000);
    }

    /// Submission and completion doorbells alternate at the stride, the last inside any `usize`.
    #[test]
    fn doorbells() {
        assert_eq!(doorbell_sq(Qid::ADMIN, 0), 0x1000);
        assert_eq!(doorbell_cq(Qid::ADMIN, 0), 0x1004);
        assert_eq!(doorbell_sq(Qid(3), 2), 0x1000 + 6 * 16);
        assert_eq!(doorbell_cq(Qid(3), 2), 0x1000 + 7 * 16);
        assert_eq!(
            doorbell_cq(Qid(u16::MAX), 15),
            0x1000 + 0x1_ffff * (4 << 15)
        );
        let stride = Cap(0).with_dstrd(5).doorbell_stride_bytes();
        assert_eq!(
            doorbell_cq(Qid(9), 5) - doorbell_sq(Qid(9), 5),
            stride,
            "the stride of CAP is the distance between doorbells"
        );
    }
}
