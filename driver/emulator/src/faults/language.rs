//! Faults as text, read with errors that name the place, and written so that they read back.
//! Conditions are joined by `+` (or `,`), so that a fault fits into a device URL.
use super::{Fault, FaultKind, FaultOp, PowerLoss, Trigger};
use crate::text::{duration, nearest, number, parse_duration};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A fault could not be read.
///
/// ```
/// use underpin_emulator::Fault;
///
/// let error = "drop@opp=read".parse::<Fault>().unwrap_err();
/// assert_eq!(error.at, "drop@".len());
/// assert!(error.what.contains("did you mean `op`"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fault {text:?}, at {place:?} (byte {at}): {what}")]
pub struct FaultParseError {
    /// The whole text.
    pub text: String,
    /// The part that means nothing.
    pub place: String,
    /// Where in the text that part begins.
    pub at: usize,
    /// What is wrong and what is accepted.
    pub what: String,
}

const KINDS: [&str; FaultKind::COUNT] = [
    "status",
    "delay",
    "drop",
    "duplicate",
    "corrupt-cid",
    "corrupt-sqid",
    "corrupt-phase",
    "corrupt-sqhd",
    "late-dma",
    "hold",
    "never-ready",
    "never-disabled",
    "cfs",
    "removed",
    "short-identify",
    "garbage-identify",
    "corrupt-cqe",
    "never-shut-down",
    "removed-zero",
    "absurd-identify",
    "garbage-log",
    "ns-vanish",
    "wrong-iova",
    "corrupt-data",
    "dma-after-abort",
    "cq-stall",
    "power-cut",
    "irq-lost",
    "irq-spurious",
    "irq-storm",
    "aer-storm",
];
const LOSSES: [(&str, PowerLoss); 4] = [
    ("any", PowerLoss::Any),
    ("lost", PowerLoss::Lost),
    ("torn", PowerLoss::Torn),
    ("reordered", PowerLoss::Reordered),
];
const CONDITIONS: [&str; 7] = ["q", "op", "nsid", "lba", "nth", "count", "p"];
const OPS: [(&str, FaultOp); 11] = [
    ("any", FaultOp::Any),
    ("read", FaultOp::Read),
    ("write", FaultOp::Write),
    ("flush", FaultOp::Flush),
    ("identify", FaultOp::Identify),
    ("log", FaultOp::Log),
    ("io", FaultOp::Io),
    ("admin", FaultOp::Admin),
    ("enable", FaultOp::Enable),
    ("disable", FaultOp::Disable),
    ("shutdown", FaultOp::Shutdown),
];

/// A text and the place in it that is being read.
struct Reader<'a> {
    text: &'a str,
}

impl<'a> Reader<'a> {
    fn error(&self, place: &str, what: impl Into<String>) -> FaultParseError {
        // `place` is always a part of `text`.
        let at = (place.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        FaultParseError {
            text: self.text.to_owned(),
            place: place.to_owned(),
            at,
            what: what.into(),
        }
    }

    fn number(&self, place: &'a str) -> Result<u64, FaultParseError> {
        number(place).ok_or_else(|| self.error(place, "a number such as 7 or 0x1f is wanted"))
    }

    fn small<T: TryFrom<u64>>(&self, place: &'a str) -> Result<T, FaultParseError> {
        T::try_from(self.number(place)?).map_err(|_| self.error(place, "the number is too large"))
    }

    fn fault(&self, text: &'a str) -> Result<Fault, FaultParseError> {
        let text = text.trim();
        let (kind, conditions) = match text.split_once('@') {
            Some((kind, conditions)) => (kind, Some(conditions)),
            None => (text, None),
        };
        let kind = self.kind(kind)?;
        let mut trigger = Trigger::FIRST;
        let mut counted = false;
        let mut seen: Vec<&str> = Vec::new();
        for condition in conditions.into_iter().flat_map(|all| all.split(['+', ','])) {
            let Some((key, value)) = condition.split_once('=') else {
                return Err(self.error(condition, "a condition is KEY=VALUE, such as op=read"));
            };
            if seen.contains(&key.trim()) {
                return Err(self.error(condition, "this condition is given twice"));
            }
            seen.push(key.trim());
            match key.trim() {
                "q" => trigger.queue = Some(self.small(value)?),
                "op" => trigger.op = self.op(value)?,
                "nsid" => trigger.nsid = Some(self.small(value)?),
                "lba" => {
                    let (first, last) = value.split_once('-').unwrap_or((value, value));
                    let (first, last) = (self.number(first)?, self.number(last)?);
                    if first > last {
                        return Err(self.error(value, "the first block lies behind the last"));
                    }
                    trigger.lba = Some((first, last));
                }
                "nth" => {
                    trigger.nth = self.number(value)?;
                    if trigger.nth == 0 {
                        return Err(self.error(value, "occasions are counted from 1"));
                    }
                }
                "count" => {
                    counted = true;
                    trigger.count = match value.trim() {
                        "all" => None,
                        _ => Some(self.number(value)?),
                    };
                }
                "p" => {
                    let Some((numerator, denominator)) = value.split_once('/') else {
                        return Err(self.error(value, "a chance is written 1/100"));
                    };
                    let (numerator, denominator) =
                        (self.small(numerator)?, self.small::<u32>(denominator)?);
                    if denominator == 0 {
                        return Err(self.error(value, "a chance of so many in none"));
                    }
                    if numerator > denominator {
                        return Err(self.error(value, "a chance is at most 1/1"));
                    }
                    trigger.chance = Some((numerator, denominator));
                }
                other => {
                    let near = nearest(other, &CONDITIONS);
                    let what = format!("no such condition; did you mean `{near}`?");
                    return Err(self.error(key, what));
                }
            }
        }
        if trigger.chance.is_some() && !counted {
            trigger.count = None;
        }
        self.check(text, kind, &mut trigger)?;
        Ok(Fault { kind, trigger })
    }

    /// Faults of enabling and disabling happen there and nowhere else, and others not there.
    fn check(
        &self,
        text: &'a str,
        kind: FaultKind,
        trigger: &mut Trigger,
    ) -> Result<(), FaultParseError> {
        let wanted = match kind {
            FaultKind::NeverReady => Some(FaultOp::Enable),
            FaultKind::NeverDisabled => Some(FaultOp::Disable),
            FaultKind::NeverShutDown => Some(FaultOp::Shutdown),
            FaultKind::ShortIdentify(_)
            | FaultKind::GarbageIdentify
            | FaultKind::AbsurdIdentify => Some(FaultOp::Identify),
            FaultKind::GarbageLog => Some(FaultOp::Log),
            _ => None,
        };
        if let Some(wanted) = wanted {
            if trigger.op != FaultOp::Any && trigger.op != wanted {
                let what = format!("`{}` happens only at op={wanted}", kind.name());
                return Err(self.error(text, what));
            }
            trigger.op = wanted;
        }
        let of_registers = matches!(
            trigger.op,
            FaultOp::Enable | FaultOp::Disable | FaultOp::Shutdown
        );
        let ends_all = matches!(
            kind,
            FaultKind::ControllerFatal
                | FaultKind::Removed
                | FaultKind::RemovedZero
                | FaultKind::PowerCut(_)
        );
        let may = ends_all || wanted == Some(trigger.op);
        if of_registers && !may {
            let what = format!("`{}` needs a command to happen at", kind.name());
            return Err(self.error(text, what));
        }
        Ok(())
    }

    fn kind(&self, text: &'a str) -> Result<FaultKind, FaultParseError> {
        let (name, parameter) = match text.split_once(':') {
            Some((name, parameter)) => (name, Some(parameter)),
            None => (text, None),
        };
        let time = |default: Duration| match parameter {
            None => Ok(default),
            Some(parameter) => parse_duration(parameter)
                .ok_or_else(|| self.error(parameter, "a time such as 5ms, 20us or 1s is wanted")),
        };
        let kind = match name.trim() {
            "status" => {
                let Some(parameter) = parameter else {
                    return Err(self.error(text, "which status? such as status:0x281"));
                };
                let status: u16 = self.small(parameter)?;
                if status == 0 || status > 0x7fff {
                    return Err(self.error(parameter, "an error status is in 0x1-0x7fff"));
                }
                FaultKind::Status(status)
            }
            "delay" => FaultKind::Delay(time(Duration::from_millis(1))?),
            "drop" => FaultKind::Drop,
            "duplicate" => FaultKind::Duplicate,
            "corrupt-cid" => FaultKind::CorruptCid,
            "corrupt-sqid" => FaultKind::CorruptSqid,
            "corrupt-phase" => FaultKind::CorruptPhase,
            "corrupt-sqhd" => FaultKind::CorruptSqhd,
            "late-dma" => FaultKind::LateDma(time(Duration::from_millis(1))?),
            "hold" => FaultKind::Hold,
            "never-ready" => FaultKind::NeverReady,
            "never-disabled" => FaultKind::NeverDisabled,
            "cfs" => FaultKind::ControllerFatal,
            "removed" => FaultKind::Removed,
            "short-identify" => FaultKind::ShortIdentify(match parameter {
                None => 512,
                Some(parameter) => match self.small(parameter)? {
                    whole if whole >= 4096 => {
                        let what = "a short page has fewer than 4096 bytes";
                        return Err(self.error(parameter, what));
                    }
                    len_bytes => len_bytes,
                },
            }),
            "garbage-identify" => FaultKind::GarbageIdentify,
            "corrupt-cqe" => FaultKind::CorruptCqe,
            "never-shut-down" => FaultKind::NeverShutDown,
            "removed-zero" => FaultKind::RemovedZero,
            "absurd-identify" => FaultKind::AbsurdIdentify,
            "garbage-log" => FaultKind::GarbageLog,
            "ns-vanish" => FaultKind::NamespaceGone,
            "wrong-iova" => FaultKind::WrongIova(match parameter {
                None => 0x1000,
                Some(parameter) => match self.small(parameter)? {
                    right if right % 4 != 0 || right == 0 => {
                        let what = "addresses are off by a multiple of 4 bytes";
                        return Err(self.error(parameter, what));
                    }
                    offset => offset,
                },
            }),
            "corrupt-data" => FaultKind::CorruptData,
            "dma-after-abort" => FaultKind::DmaAfterAbort(time(Duration::from_millis(1))?),
            "cq-stall" => FaultKind::CqStall(time(Duration::from_millis(1))?),
            "power-cut" => FaultKind::PowerCut(match parameter.map(str::trim) {
                None => PowerLoss::Any,
                Some(word) => match LOSSES.iter().find(|(name, _)| *name == word) {
                    Some(&(_, loss)) => loss,
                    None => {
                        let near = nearest(word, &LOSSES.map(|(name, _)| name));
                        let what = format!("no such loss; did you mean `{near}`?");
                        return Err(self.error(word, what));
                    }
                },
            }),
            "irq-lost" => FaultKind::IrqLost,
            "irq-spurious" => FaultKind::IrqSpurious,
            "irq-storm" => FaultKind::IrqStorm(match parameter {
                None => 1000,
                Some(parameter) => match self.small(parameter)? {
                    times @ 1..=1_000_000 => times,
                    _ => return Err(self.error(parameter, "a storm has 1 to 1000000 interrupts")),
                },
            }),
            "aer-storm" => FaultKind::AerStorm(match parameter {
                None => 16,
                Some(parameter) => match self.small(parameter)? {
                    times @ 1..=1_000_000 => times,
                    _ => return Err(self.error(parameter, "a storm has 1 to 1000000 events")),
                },
            }),
            other => {
                let near = nearest(other, &KINDS);
                return Err(self.error(name, format!("no such fault; did you mean `{near}`?")));
            }
        };
        let takes = matches!(
            kind,
            FaultKind::Status(_)
                | FaultKind::Delay(_)
                | FaultKind::LateDma(_)
                | FaultKind::ShortIdentify(_)
                | FaultKind::WrongIova(_)
                | FaultKind::DmaAfterAbort(_)
                | FaultKind::CqStall(_)
                | FaultKind::PowerCut(_)
                | FaultKind::IrqStorm(_)
                | FaultKind::AerStorm(_)
        );
        match parameter {
            Some(parameter) if !takes => {
                Err(self.error(parameter, format!("`{}` takes no parameter", kind.name())))
            }
            _ => Ok(kind),
        }
    }

    fn op(&self, text: &'a str) -> Result<FaultOp, FaultParseError> {
        if let Some(&(_, op)) = OPS.iter().find(|(name, _)| *name == text.trim()) {
            return Ok(op);
        }
        if text.trim().starts_with("0x") {
            return Ok(FaultOp::Opcode(self.small(text)?));
        }
        let near = nearest(text, &OPS.map(|(name, _)| name));
        let what = format!("no such operation; did you mean `{near}`? An opcode is written 0x02");
        Err(self.error(text, what))
    }
}

pub(super) fn parse_list(text: &str) -> Result<Vec<Fault>, FaultParseError> {
    let reader = Reader { text };
    text.split(';')
        .filter(|part| !part.trim().is_empty())
        .map(|part| reader.fault(part))
        .collect()
}

impl FromStr for Fault {
    type Err = FaultParseError;
    fn from_str(text: &str) -> Result<Self, FaultParseError> {
        Reader { text }.fault(text)
    }
}

impl fmt::Display for FaultOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opcode(opcode) => write!(f, "{opcode:#04x}"),
            named => {
                let name = OPS.iter().find(|(_, op)| op == named);
                f.write_str(name.map_or("any", |(name, _)| name))
            }
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Status(status) => write!(f, ":{status:#x}"),
            Self::Delay(time)
            | Self::LateDma(time)
            | Self::DmaAfterAbort(time)
            | Self::CqStall(time) => write!(f, ":{}", duration(*time)),
            Self::ShortIdentify(len_bytes) => write!(f, ":{len_bytes}"),
            Self::IrqStorm(times) | Self::AerStorm(times) => write!(f, ":{times}"),
            Self::WrongIova(offset) => write!(f, ":{offset:#x}"),
            Self::PowerCut(loss) if *loss != PowerLoss::Any => {
                let name = LOSSES.iter().find(|(_, known)| known == loss);
                write!(f, ":{}", name.map_or("any", |(name, _)| name))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, trigger } = self;
        write!(f, "{kind}")?;
        let mut conditions: Vec<String> = Vec::new();
        if let Some(queue) = trigger.queue {
            conditions.push(format!("q={queue}"));
        }
        if trigger.op != FaultOp::Any {
            conditions.push(format!("op={}", trigger.op));
        }
        if let Some(nsid) = trigger.nsid {
            conditions.push(format!("nsid={nsid}"));
        }
        if let Some((first, last)) = trigger.lba {
            conditions.push(format!("lba={first}-{last}"));
        }
        if trigger.nth != 1 {
            conditions.push(format!("nth={}", trigger.nth));
        }
        match (trigger.count, trigger.chance) {
            (Some(1), None) | (None, Some(_)) => {}
            (Some(count), _) => conditions.push(format!("count={count}")),
            (None, None) => conditions.push("count=all".to_owned()),
        }
        if let Some((numerator, denominator)) = trigger.chance {
            conditions.push(format!("p={numerator}/{denominator}"));
        }
        match conditions.is_empty() {
            true => Ok(()),
            false => write!(f, "@{}", conditions.join("+")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use underpin_dma::rt::Rng;

    /// Whatever the generator makes is written and read back unchanged, and every kind comes up.
    #[test]
    fn text_round_trips_and_every_kind_comes_up() {
        let mut rng = Rng::seeded(11);
        let mut seen = [0; FaultKind::COUNT];
        for _ in 0..8000 {
            let fault = Fault::random(&mut rng);
            let text = fault.to_string();
            assert_eq!(text.parse::<Fault>().unwrap(), fault, "{text}");
            seen[fault.kind.ordinal()] += 1;
        }
        assert!(seen.iter().all(|&count| count > 150), "even: {seen:?}");
        for (ordinal, name) in KINDS.iter().enumerate() {
            let text = if *name == "status" { "status:1" } else { name };
            let kind = text.parse::<Fault>().unwrap().kind;
            assert_eq!((kind.ordinal(), kind.name()), (ordinal, *name));
        }
    }

    /// The table that the documentation refers to has a row for each kind, and no other.
    #[test]
    fn every_kind_is_in_the_table_of_the_documentation() {
        let told: Vec<&str> = include_str!("../../FAULTS.md")
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split(['`', ':']).next())
            .collect();
        let mut missing = KINDS.iter().filter(|kind| !told.contains(kind));
        assert_eq!(missing.next(), None);
        let conditions = CONDITIONS.map(|condition| format!("{condition}="));
        let mut unknown = told.iter().filter(|word| {
            !KINDS.contains(word) && !conditions.iter().any(|known| word.starts_with(known))
        });
        assert_eq!(unknown.next(), None);
    }

    #[test]
    fn every_condition_is_read() {
        let fault: Fault = "delay:20us@q=2+op=0x02,nsid=3+lba=5-9+nth=4+count=7+p=1/3"
            .parse()
            .unwrap();
        let wanted = Trigger {
            nsid: Some(3),
            ..Trigger::FIRST
                .on_queue(2)
                .on(FaultOp::Opcode(2))
                .in_blocks(5, 9)
                .from_nth(4)
                .times(7)
                .with_chance(1, 3)
        };
        assert_eq!(
            fault,
            Fault::new(FaultKind::Delay(Duration::from_micros(20)), wanted)
        );
        let always: Fault = "drop@p=1/100".parse().unwrap();
        assert_eq!(
            always.trigger.count, None,
            "a chance has no limit unless given"
        );
    }

    /// A mistake is answered with its place and, where one is near, the right word.
    #[test]
    fn mistakes_name_their_place() {
        for (text, at, place, hint) in [
            ("dorp", 0, "dorp", "`drop`"),
            ("drop;stauts:1", 5, "stauts", "`status`"),
            ("status", 0, "status", "which status"),
            ("status:0", 7, "0", "0x1-0x7fff"),
            ("drop:1", 5, "1", "no parameter"),
            ("drop@op=raed", 8, "raed", "`read`"),
            ("drop@nht=1", 5, "nht", "`nth`"),
            ("drop@nth=x", 9, "x", "a number"),
            ("drop@nth=0", 9, "0", "from 1"),
            ("drop@lba=9-5", 9, "9-5", "behind"),
            ("drop@p=1", 7, "1", "1/100"),
            ("drop@p=1/0", 7, "1/0", "none"),
            ("drop@p=2/1", 7, "2/1", "at most"),
            ("drop@nth=3+nth=4", 11, "nth=4", "twice"),
            ("short-identify:4096", 15, "4096", "fewer"),
            ("delay:5", 6, "5", "a time"),
            ("never-ready@op=read", 0, "never-ready@op=read", "op=enable"),
            ("drop@op=enable", 0, "drop@op=enable", "a command"),
            ("wrong-iova:2", 11, "2", "multiple of 4"),
            ("irq-storm:0", 10, "0", "1 to 1000000"),
            ("power-cut:tron", 10, "tron", "`torn`"),
            ("garbage-log@op=read", 0, "garbage-log@op=read", "op=log"),
        ] {
            let error = Fault::parse_list(text).unwrap_err();
            assert_eq!(
                (error.at, error.place.as_str()),
                (at, place),
                "{text}: {error}"
            );
            assert!(error.what.contains(hint), "{text}: {error}");
        }
    }
}
