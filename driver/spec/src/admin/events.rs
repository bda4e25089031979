//! Asynchronous Event Request (Base 2.0, 5.2): held by the controller until it has something to
//! tell. What it tells is dword 0 of the completion.

use super::LogId;
use crate::{AdminOpcode, Sqe};
use core::fmt;

/// Asynchronous Event Request: an opcode and nothing else.
///
/// ```
/// use underpin_nvme_spec::admin::AsyncEventRequest;
///
/// assert_eq!(AsyncEventRequest.to_sqe().opcode(), 0x0c);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AsyncEventRequest;

impl AsyncEventRequest {
    /// The submission queue entry, without a command identifier.
    #[must_use]
    pub const fn to_sqe(&self) -> Sqe {
        Sqe::new().with_opcode(AdminOpcode::ASYNC_EVENT_REQUEST.0)
    }
}

/// What kind of event it is, bits 2:0.
///
/// ```
/// use underpin_nvme_spec::admin::{AsyncEvent, EventKind, LogId};
///
/// let event = AsyncEvent::new(1, 0x01, LogId::SMART);
/// assert_eq!(event.kind(), EventKind::Smart);
/// assert_eq!(EventKind::Reserved(5).to_string(), "reserved kind 5");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// An error that belongs to no command.
    Error,
    /// SMART / Health status.
    Smart,
    /// A notice.
    Notice,
    /// The command set's own.
    CommandSet,
    /// The vendor's own.
    Vendor,
    /// A kind that the specification reserves, by number.
    Reserved(u8),
}

/// One asynchronous event: dword 0 of the request's completion (Base 2.0, figures 148 to 152).
///
/// ```
/// use underpin_nvme_spec::admin::{AsyncEvent, EventKind, LogId};
///
/// let event = AsyncEvent::NAMESPACE_CHANGED;
/// assert_eq!(event.kind(), EventKind::Notice);
/// assert_eq!(event.log_page(), LogId::CHANGED_NAMESPACES);
/// assert_eq!(event.to_string(), "notice: Namespace Attribute Changed, see Changed Namespace List");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct AsyncEvent(pub u32);

impl AsyncEvent {
    /// A write to a doorbell register of no queue.
    pub const INVALID_DOORBELL: Self = Self::new(0, 0x00, LogId::ERROR);
    /// A doorbell value that the queue cannot have.
    pub const INVALID_DOORBELL_VALUE: Self = Self::new(0, 0x01, LogId::ERROR);
    /// The subsystem's reliability is compromised.
    pub const RELIABILITY: Self = Self::new(1, 0x00, LogId::SMART);
    /// A temperature is beyond its threshold.
    pub const TEMPERATURE: Self = Self::new(1, 0x01, LogId::SMART);
    /// The available spare is below its threshold.
    pub const SPARE: Self = Self::new(1, 0x02, LogId::SMART);
    /// What a namespace is has changed, or which ones there are.
    pub const NAMESPACE_CHANGED: Self = Self::new(2, 0x00, LogId::CHANGED_NAMESPACES);
    /// A new firmware begins to run.
    pub const FIRMWARE_ACTIVATION: Self = Self::new(2, 0x01, LogId::FIRMWARE);

    /// The event of a kind (three bits), with what it says and where more is to be read.
    #[must_use]
    pub const fn new(kind: u8, info: u8, log_page: LogId) -> Self {
        Self(kind as u32 & 0b111 | (info as u32) << 8 | (log_page.0 as u32) << 16)
    }

    /// What kind it is.
    #[must_use]
    pub const fn kind(self) -> EventKind {
        match self.0 as u8 & 0b111 {
            0 => EventKind::Error,
            1 => EventKind::Smart,
            2 => EventKind::Notice,
            6 => EventKind::CommandSet,
            7 => EventKind::Vendor,
            other => EventKind::Reserved(other),
        }
    }

    /// What it says, bits 15:8; the meaning belongs to the kind.
    #[must_use]
    pub const fn info(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The log page to read, bits 23:16. Reading it allows the next event of this kind.
    #[must_use]
    pub const fn log_page(self) -> LogId {
        LogId((self.0 >> 16) as u8)
    }

    /// The name of what it says; `None` for what is reserved or the vendor's.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match (self.kind(), self.info()) {
            (EventKind::Error, 0x00) => "Write to Invalid Doorbell Register",
            (EventKind::Error, 0x01) => "Invalid Doorbell Write Value",
            (EventKind::Error, 0x02) => "Diagnostic Failure",
            (EventKind::Error, 0x03) => "Persistent Internal Error",
            (EventKind::Error, 0x04) => "Transient Internal Error",
            (EventKind::Error, 0x05) => "Firmware Image Load Error",
            (EventKind::Smart, 0x00) => "NVM Subsystem Reliability",
            (EventKind::Smart, 0x01) => "Temperature Threshold",
            (EventKind::Smart, 0x02) => "Spare Below Threshold",
            (EventKind::Notice, 0x00) => "Namespace Attribute Changed",
            (EventKind::Notice, 0x01) => "Firmware Activation Starting",
            (EventKind::Notice, 0x02) => "Telemetry Log Changed",
            (EventKind::Notice, 0x03) => "Asymmetric Namespace Access Change",
            (EventKind::Notice, 0x04) => "Predictable Latency Event Aggregate Log Change",
            (EventKind::Notice, 0x05) => "LBA Status Information Alert",
            (EventKind::Notice, 0x06) => "Endurance Group Event Aggregate Log Page Change",
            (EventKind::CommandSet, 0x00) => "Reservation Log Page Available",
            (EventKind::CommandSet, 0x01) => "Sanitize Operation Completed",
            (EventKind::CommandSet, 0x02) => {
                "Sanitize Operation Completed With Unexpected Deallocation"
            }
            _ => return None,
        })
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error => f.pad("error"),
            Self::Smart => f.pad("health"),
            Self::Notice => f.pad("notice"),
            Self::CommandSet => f.pad("command set"),
            Self::Vendor => f.pad("vendor"),
            Self::Reserved(kind) => write!(f, "reserved kind {kind}"),
        }
    }
}

impl fmt::Display for AsyncEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.kind())?;
        match self.name() {
            Some(name) => f.write_str(name)?,
            None => write!(f, "event {:#04x}", self.info())?,
        }
        write!(f, ", see {}", self.log_page())
    }
}

/// Which events a controller is to tell: the value of feature 0Bh, Asynchronous Event
/// Configuration (Base 2.0, 5.27.1.8).
///
/// ```
/// use underpin_nvme_spec::admin::EventMask;
///
/// let wanted = EventMask::CRITICAL_WARNINGS.with(EventMask::NAMESPACES).with(EventMask::FIRMWARE);
/// // A controller that offers notices of namespaces alone.
/// let offered = wanted.offered(1 << 8);
/// assert!(offered.contains(EventMask::NAMESPACES) && !offered.contains(EventMask::FIRMWARE));
/// assert!(offered.contains(EventMask::CRITICAL_WARNINGS));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct EventMask(pub u32);

impl EventMask {
    /// All critical warnings of the SMART log, bits 7:0.
    pub const CRITICAL_WARNINGS: Self = Self(0x3f);
    /// Notices that a namespace has changed; offered by OAES bit 8.
    pub const NAMESPACES: Self = Self(1 << 8);
    /// Notices that a firmware begins to run; offered by OAES bit 9.
    pub const FIRMWARE: Self = Self(1 << 9);

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other`'s bits are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Of these, what a controller with this OAES field can tell. Critical warnings need no offer.
    #[must_use]
    pub const fn offered(self, oaes: u32) -> Self {
        Self(self.0 & (oaes | 0xff))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base 2.0, 5.2: all but the opcode is reserved.
    #[test]
    fn the_request_is_its_opcode() {
        let mut dwords = [0; 16];
        dwords[0] = 0x0c;
        assert_eq!(AsyncEventRequest.to_sqe().as_dwords(), dwords);
    }

    /// Base 2.0, figure 148: type 2:0, information 15:8, log page 23:16.
    #[test]
    fn parts_lie_where_the_specification_has_them() {
        let event = AsyncEvent(0x0002_0101);
        assert_eq!(event, AsyncEvent::TEMPERATURE);
        assert_eq!((event.kind(), event.info()), (EventKind::Smart, 1));
        assert_eq!(event.log_page(), LogId::SMART);
        assert_eq!(AsyncEvent::NAMESPACE_CHANGED.0, 0x0004_0002);
    }

    /// A device may tell anything; each of it has a text.
    #[test]
    fn any_event_displays() {
        for kind in 0..8 {
            for info in 0..=u8::MAX {
                let event = AsyncEvent::new(kind, info, LogId(info));
                assert!(!event.to_string().is_empty());
            }
        }
        let text = AsyncEvent(0x00c0_0703).to_string();
        assert_eq!(text, "reserved kind 3: event 0x07, see log page 0xc0");
    }

    /// What a controller does not offer is not asked of it.
    #[test]
    fn a_mask_is_cut_to_what_is_offered() {
        let all = EventMask::CRITICAL_WARNINGS
            .with(EventMask::NAMESPACES)
            .with(EventMask::FIRMWARE);
        assert_eq!(all.offered(1 << 8).0, 0x13f);
        assert!(!all.offered(0).contains(EventMask::NAMESPACES));
    }
}
