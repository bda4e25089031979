//! What an emulator is made of: a plain struct, and the text form that device URLs carry.
//! `emu:size=1g,lba=4096,queues=4` is the struct's text after `emu:`.
use crate::abilities::Abilities;
use crate::sgl::SglSupport;
use crate::text::{nearest, number, parse_duration, size};
use crate::{EmulatorError, Fault, Referee};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// What keeps a namespace's blocks.
///
/// ```
/// use underpin_emulator::{EmulatorConfig, Media};
///
/// let config: EmulatorConfig = "ns=3,ns1.file=a.img,ns2.media=null".parse()?;
/// let media: Vec<_> = config.namespaces.iter().map(|one| one.media.clone()).collect();
/// assert_eq!(media, [Media::File("a.img".into()), Media::Null, Media::Ram]);
/// # Ok::<(), underpin_emulator::EmulatorError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Media {
    /// Memory, gone with the emulator.
    #[default]
    Ram,
    /// A file of the host, made and extended as needed. A flush is `fdatasync`; without a
    /// volatile write cache (`vwc=off`) every write is durable when it completes.
    File(PathBuf),
    /// Nothing: reads and writes move no data. Their addresses are still walked and checked
    /// against the IOMMU, so that all but the copy is measured.
    Null,
}

/// One namespace.
///
/// ```
/// use underpin_emulator::{Emulator, EmulatorConfig, Media, NamespaceConfig};
///
/// let namespace = NamespaceConfig {
///     size_bytes: Some(64 << 20),
///     lba_bytes: 4096,
///     media: Media::Null,
///     ..NamespaceConfig::default()
/// };
/// let namespaces = vec![namespace.clone(), namespace];
/// let emulator = Emulator::new(EmulatorConfig { namespaces, ..EmulatorConfig::default() })?;
/// # drop(emulator);
/// # Ok::<(), underpin_emulator::EmulatorError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceConfig {
    /// How many bytes it holds, rounded down to whole blocks; `None`: the length of an existing
    /// file, else 1 GiB.
    pub size_bytes: Option<u64>,
    /// Bytes of a logical block: 512 or 4096.
    pub lba_bytes: u32,
    /// What keeps the blocks.
    pub media: Media,
    /// Namespace Atomic Write Unit Normal, in blocks counted from 0; `None`: the controller's.
    pub nawun: Option<u16>,
    /// Namespace Atomic Write Unit Power Fail, in blocks counted from 0; `None`: the controller's.
    pub nawupf: Option<u16>,
    /// Blocks between boundaries that an atomic write must not cross, counted from 0 as on the
    /// wire (NABSN and NABSPF); 0: none.
    pub atomic_boundary: u16,
    /// Write-protected: the file is opened for reading alone, and others may read it, too. It has
    /// to be there, and large enough.
    pub read_only: bool,
    /// The command set that it says it is of: 0 NVM, 1 Key Value, 2 Zoned (NVMe Base 2.0,
    /// figure 274). It is served as an NVM one all the same: for hosts that must not be fooled.
    pub csi: u8,
}

impl Default for NamespaceConfig {
    fn default() -> Self {
        Self {
            size_bytes: None,
            lba_bytes: 512,
            media: Media::Ram,
            nawun: None,
            nawupf: None,
            atomic_boundary: 0,
            read_only: false,
            csi: 0,
        }
    }
}

impl NamespaceConfig {
    pub(crate) fn size_or_default(&self) -> u64 {
        let size_bytes = self.size_bytes.unwrap_or(1 << 30);
        size_bytes - size_bytes % u64::from(self.lba_bytes.max(1))
    }
}

/// What an emulator is made of.
///
/// As text, it is `KEY=VALUE` separated by commas:
///
/// | key | value | default |
/// |---|---|---|
/// | `size` | bytes: `512m`, `1g` | the file's length, or `1g` |
/// | `media` | `ram`, `file`, `null` | `ram` |
/// | `file` | a path (without commas); implies `media=file` | |
/// | `lba` | `512`, `4096` | `512` |
/// | `ro` | write-protected, from a file that others may read as well: `on`, `off` | `off` |
/// | `csi` | the command set named in its descriptors: 0 NVM, 2 Zoned | `0` |
/// | `ns` | how many namespaces, 1 to 64 | `1`, or the highest `nsK.` given |
/// | `nsK.size`, `.media`, `.file`, `.lba`, `.nawun`, `.nawupf`, `.boundary`, `.ro`, `.csi` | of namespace K | as without the prefix, but for `file` |
/// | `serial` | its serial number, up to 20 characters | one of its own |
/// | `mdts` | longest transfer, as a power of two of smallest pages; `0`: none | `5` |
/// | `queues` | I/O queue pairs granted | `16` |
/// | `mqes` (`depth`) | entries of the longest queue, 2 to 65536 | `1024` |
/// | `dbbuf` | shadow doorbells: `on`, `off` | `on` |
/// | `sgl` | scatter gather lists: `off`, `dword` (data blocks of whole dwords), `byte` | `byte` |
/// | `oncs` | optional NVM commands, as in identify: `0xdd` is all there are | `0xdd` |
/// | `format`, `effects` | Format NVM; the Commands Supported and Effects log: `on`, `off` | `on` |
/// | `vsl`, `wzsl` | longest Verify and Write Zeroes, as `mdts`; `0`: none | `0` |
/// | `dmrl` | ranges of one Dataset Management command; `0`: 256 | `0` |
/// | `vwc` | volatile write cache: `on`, `off` | `on` |
/// | `awun`, `awupf` | atomic write units in blocks, counted from 0 | `0` |
/// | `dstrd` | doorbell stride, 0 to 15 | `0` |
/// | `mpsmin`, `mpsmax` | page sizes, as powers of two of 4 KiB | `0`, `4` |
/// | `to_ms`, `crto_ms` | CAP.TO and CRTO.CRWMT in ms | `5000`, as `to_ms` |
/// | `enable` | how long an enable takes: `10ms` | `0ms` |
/// | `latency` | how long an I/O command takes, beside all others: `20us` | `0us` |
/// | `bw` | bytes a second that all I/O commands together transfer: `2g` | no limit |
/// | `step` | one micro-operation at a time, drawn from the seed: `on`, `off` | on in simulated builds |
/// | `chunk` | bytes moved by one such operation | `512` |
/// | `seed` | of all randomness | `1` |
/// | `fault` | a [`Fault`], conditions joined by `+`; may be given again | |
/// | `referee` | `on`: with a [`Referee`] of its own | `off` |
/// | `mappings` | mappings the IOMMU takes | no limit |
///
/// No key may be given twice but `fault`.
///
/// ```
/// use underpin_emulator::{EmulatorConfig, Media};
///
/// let config: EmulatorConfig = "size=64m,queues=2,ns2.lba=4096,ns2.media=null".parse()?;
/// assert_eq!((config.namespaces.len(), config.queues), (2, 2));
/// assert_eq!(config.namespaces[1].lba_bytes, 4096);
/// assert_eq!(config.namespaces[1].media, Media::Null);
/// let error = "szie=1g".parse::<EmulatorConfig>().unwrap_err();
/// assert!(error.to_string().contains("did you mean `size`"));
/// # Ok::<(), underpin_emulator::EmulatorError>(())
/// ```
#[derive(Clone, Debug)]
pub struct EmulatorConfig {
    /// A name for messages and its thread.
    pub name: String,
    /// Its serial number, up to 20 printable ASCII characters; `None`: one of its own, made from
    /// the seed and from the file of its first namespace or the number of the controller in this
    /// process. EUI64 and NGUID of its namespaces follow from it.
    pub serial: Option<String>,
    /// The namespaces; the first has NSID 1.
    pub namespaces: Vec<NamespaceConfig>,
    /// Longest transfer of a command: `2^mdts` smallest pages; 0: no limit.
    pub mdts: u8,
    /// I/O queue pairs granted.
    pub queues: u16,
    /// Entries of the longest queue, 2 to 65536.
    pub max_queue_entries: u32,
    /// Doorbell Buffer Config is supported.
    pub dbbuf: bool,
    /// Optional commands and their limits.
    pub abilities: Abilities,
    /// Which scatter gather lists commands may have.
    pub sgl: SglSupport,
    /// A volatile write cache is reported.
    pub vwc: bool,
    /// Atomic Write Unit Normal, in blocks counted from 0.
    pub awun: u16,
    /// Atomic Write Unit Power Fail, in blocks counted from 0.
    pub awupf: u16,
    /// Doorbells lie `4 << dstrd` bytes apart.
    pub dstrd: u8,
    /// The smallest page: `4096 << mpsmin` bytes.
    pub mpsmin: u8,
    /// The largest page: `4096 << mpsmax` bytes.
    pub mpsmax: u8,
    /// CAP.TO in milliseconds; rounded up to 500.
    pub timeout_ms: u32,
    /// CRTO.CRWMT in milliseconds; `None`: as CAP.TO.
    pub ready_timeout_ms: Option<u32>,
    /// How long after CC.EN is set the controller becomes ready.
    pub enable_time: Duration,
    /// How long an I/O command takes, beside all others.
    pub latency: Duration,
    /// How many bytes a second all I/O commands together transfer; `None`: as fast as it goes.
    pub bytes_per_s: Option<u64>,
    /// One micro-operation a step, drawn from the seed among all that could happen.
    pub stepped: bool,
    /// Bytes moved by one such operation; at least 4.
    pub chunk_bytes: usize,
    /// Of all randomness.
    pub seed: u64,
    /// What goes wrong, from the start.
    pub faults: Vec<Fault>,
    /// Told of every DMA. Give the same one to the space's
    /// [`watch`](underpin_dma::SpaceOptions::watch).
    pub referee: Option<Arc<Referee>>,
    /// The IOVA ranges the controller can use.
    pub usable: Vec<RangeInclusive<u64>>,
    /// How many mappings the IOMMU takes.
    pub max_mappings: Option<usize>,
}

impl Default for EmulatorConfig {
    fn default() -> Self {
        Self {
            name: "emu".to_owned(),
            serial: None,
            namespaces: vec![NamespaceConfig::default()],
            mdts: 5,
            queues: 16,
            max_queue_entries: 1024,
            dbbuf: true,
            abilities: Abilities::default(),
            sgl: SglSupport::default(),
            vwc: true,
            awun: 0,
            awupf: 0,
            dstrd: 0,
            mpsmin: 0,
            mpsmax: 4,
            timeout_ms: 5000,
            ready_timeout_ms: None,
            enable_time: Duration::ZERO,
            latency: Duration::ZERO,
            bytes_per_s: None,
            stepped: underpin_dma::rt::sim::is_simulated(),
            chunk_bytes: 512,
            seed: 1,
            faults: Vec::new(),
            referee: None,
            // 39 bits but for the interrupt window of x86, as with a small IOMMU.
            usable: vec![0..=0xfedf_ffff, 0xfef0_0000..=(1 << 39) - 1],
            max_mappings: None,
        }
    }
}

/// The keys of one namespace, also after `nsK.`.
const NAMESPACE_KEYS: &[&str] = &[
    "size", "media", "file", "lba", "nawun", "nawupf", "boundary", "ro", "csi",
];
/// The keys of the controller.
const CONTROLLER_KEYS: &[&str] = &[
    "ns", "serial", "mdts", "queues", "mqes", "depth", "dbbuf", "sgl", "oncs", "format", "effects",
    "vsl", "wzsl", "dmrl", "vwc", "awun", "awupf", "dstrd", "mpsmin", "mpsmax", "to_ms", "crto_ms",
    "enable", "latency", "bw", "step", "chunk", "seed", "fault", "referee", "mappings",
];
const MAX_NAMESPACES: usize = 64;

fn refuse<T>(option: &str, what: impl Into<String>) -> Result<T, EmulatorError> {
    Err(EmulatorError::Option {
        option: option.to_owned(),
        what: what.into(),
    })
}

/// One `KEY=VALUE` of the text.
#[derive(Clone, Copy)]
struct Pair<'a> {
    whole: &'a str,
    key: &'a str,
    value: &'a str,
}

impl Pair<'_> {
    fn within<T: TryFrom<u64>>(&self, range: RangeInclusive<u64>) -> Result<T, EmulatorError> {
        let value = number(self.value).filter(|value| range.contains(value));
        match value.and_then(|value| T::try_from(value).ok()) {
            Some(value) => Ok(value),
            None => refuse(
                self.whole,
                format!("a number in {}-{} is wanted", range.start(), range.end()),
            ),
        }
    }

    fn switch(&self) -> Result<bool, EmulatorError> {
        match self.value {
            "on" | "1" | "yes" | "true" => Ok(true),
            "off" | "0" | "no" | "false" => Ok(false),
            _ => refuse(self.whole, "on or off is wanted"),
        }
    }

    fn size(&self) -> Result<u64, EmulatorError> {
        match size(self.value).filter(|&size| size > 0) {
            Some(size) => Ok(size),
            None => refuse(self.whole, "a size such as 512m or 1g is wanted"),
        }
    }

    fn namespace(&self, config: &mut NamespaceConfig) -> Result<(), EmulatorError> {
        match self.key {
            "size" => config.size_bytes = Some(self.size()?),
            "media" => {
                config.media = match (self.value, &config.media) {
                    ("ram", _) => Media::Ram,
                    ("null", _) => Media::Null,
                    ("file", Media::File(path)) => Media::File(path.clone()),
                    ("file", _) => Media::File(PathBuf::new()),
                    _ => return refuse(self.whole, "media are ram, file and null"),
                }
            }
            "file" => {
                if self.value.is_empty() {
                    return refuse(self.whole, "a path is wanted");
                }
                config.media = Media::File(PathBuf::from(self.value));
            }
            "lba" => match size(self.value) {
                Some(512) => config.lba_bytes = 512,
                Some(4096) => config.lba_bytes = 4096,
                _ => return refuse(self.whole, "blocks have 512 or 4096 bytes"),
            },
            "nawun" => config.nawun = Some(self.within(0..=0xffff)?),
            "nawupf" => config.nawupf = Some(self.within(0..=0xffff)?),
            "ro" => config.read_only = self.switch()?,
            "csi" => config.csi = self.within(0..=0x3f)?,
            _ => config.atomic_boundary = self.within(0..=0xffff)?,
        }
        Ok(())
    }

    fn unknown(&self, keys: &[&str]) -> EmulatorError {
        EmulatorError::Option {
            option: self.whole.to_owned(),
            what: format!(
                "no such option; did you mean `{}`?",
                nearest(self.key, keys)
            ),
        }
    }
}

/// `nsK.KEY` taken apart: K from 1, and the key.
fn prefixed(key: &str) -> Option<(usize, &str)> {
    let (prefix, key) = key.split_once('.')?;
    Some((prefix.strip_prefix("ns")?.parse().ok()?, key))
}

impl FromStr for EmulatorConfig {
    type Err = EmulatorError;

    fn from_str(text: &str) -> Result<Self, EmulatorError> {
        let all_keys = || -> Vec<&str> { [NAMESPACE_KEYS, CONTROLLER_KEYS].concat() };
        let mut seen: Vec<(usize, &str)> = Vec::new();
        let mut config = Self::default();
        let mut common = NamespaceConfig::default();
        let mut count = 0_usize;
        let mut own: Vec<(usize, Pair<'_>)> = Vec::new();
        for whole in text.split(',').filter(|part| !part.trim().is_empty()) {
            let Some((key, value)) = whole.split_once('=') else {
                return refuse(whole, "an option is KEY=VALUE, such as size=1g");
            };
            let (key, value) = (key.trim(), value.trim());
            let pair = Pair { whole, key, value };
            // Whichever of two values were taken, it might not be the one that was meant.
            let place = prefixed(key).unwrap_or((0, if key == "depth" { "mqes" } else { key }));
            if key != "fault" && seen.contains(&place) {
                return refuse(whole, "it is given twice; leave one out");
            }
            seen.push(place);
            if let Some((number, key)) = prefixed(key) {
                let pair = Pair { whole, key, value };
                if !(1..=MAX_NAMESPACES).contains(&number) {
                    return refuse(whole, format!("namespaces are ns1 to ns{MAX_NAMESPACES}"));
                }
                if !NAMESPACE_KEYS.contains(&key) {
                    return Err(pair.unknown(NAMESPACE_KEYS));
                }
                own.push((number, pair));
                continue;
            }
            if NAMESPACE_KEYS.contains(&key) {
                pair.namespace(&mut common)?;
                continue;
            }
            match key {
                "ns" => count = pair.within(1..=MAX_NAMESPACES as u64)?,
                "serial" => config.serial = Some(value.to_owned()),
                "mdts" => config.mdts = pair.within(0..=16)?,
                "queues" => config.queues = pair.within(1..=4096)?,
                "mqes" | "depth" => config.max_queue_entries = pair.within(2..=65536)?,
                "dbbuf" => config.dbbuf = pair.switch()?,
                "oncs" => config.abilities.oncs = pair.within(0..=0xffff)?,
                "format" => config.abilities.format = pair.switch()?,
                "effects" => config.abilities.effects = pair.switch()?,
                "vsl" => config.abilities.vsl = pair.within(0..=16)?,
                "wzsl" => config.abilities.wzsl = pair.within(0..=16)?,
                "dmrl" => config.abilities.dmrl = pair.within(0..=255)?,
                "sgl" => {
                    config.sgl = match pair.value {
                        "off" => SglSupport::Off,
                        "dword" => SglSupport::Dword,
                        "byte" => SglSupport::Byte,
                        _ => return refuse(whole, "off, dword or byte is wanted"),
                    }
                }
                "vwc" => config.vwc = pair.switch()?,
                "awun" => config.awun = pair.within(0..=0xffff)?,
                "awupf" => config.awupf = pair.within(0..=0xffff)?,
                "dstrd" => config.dstrd = pair.within(0..=15)?,
                "mpsmin" => config.mpsmin = pair.within(0..=15)?,
                "mpsmax" => config.mpsmax = pair.within(0..=15)?,
                "to_ms" => config.timeout_ms = pair.within(500..=127_500)?,
                "crto_ms" => config.ready_timeout_ms = Some(pair.within(500..=32_767_500)?),
                "enable" => match parse_duration(value) {
                    Some(time) => config.enable_time = time,
                    None => return refuse(whole, "a time such as 10ms is wanted"),
                },
                "latency" => match parse_duration(value) {
                    Some(time) => config.latency = time,
                    None => return refuse(whole, "a time such as 20us is wanted"),
                },
                "bw" => config.bytes_per_s = Some(pair.size()?),
                "step" => config.stepped = pair.switch()?,
                "chunk" => match usize::try_from(pair.size()?) {
                    Ok(chunk_bytes) => config.chunk_bytes = chunk_bytes,
                    Err(_) => return refuse(whole, "it is too large"),
                },
                "seed" => config.seed = pair.within(0..=u64::MAX)?,
                "fault" => match Fault::parse_list(value)? {
                    faults if faults.is_empty() => {
                        return refuse(whole, "a fault is wanted, such as drop@op=read");
                    }
                    faults => config.faults.extend(faults),
                },
                "referee" => config.referee = pair.switch()?.then(Referee::new),
                "mappings" => config.max_mappings = Some(pair.within(0..=u64::from(u32::MAX))?),
                _ => return Err(pair.unknown(&all_keys())),
            }
        }
        let highest = own.iter().map(|&(number, _)| number).max().unwrap_or(1);
        if count != 0 && highest > count {
            return refuse(
                &format!("ns={count}"),
                format!("options of ns{highest} are given"),
            );
        }
        config.namespaces = vec![common; count.max(highest)];
        for (number, pair) in own {
            if let Some(namespace) = config.namespaces.get_mut(number - 1) {
                pair.namespace(namespace)?;
            }
        }
        config.check()?;
        Ok(config)
    }
}

impl EmulatorConfig {
    /// A configuration with one `ram` namespace of `size_bytes` and blocks of `lba_bytes`.
    ///
    /// ```
    /// use underpin_emulator::{EmulatorConfig, Referee};
    ///
    /// let config = EmulatorConfig::ram(16 << 20, 512)
    ///     .named("mine")
    ///     .with_seed(7)
    ///     .with_fault("drop@op=write+nth=3".parse()?)
    ///     .with_referee(Referee::new());
    /// assert_eq!((config.name.as_str(), config.seed, config.faults.len()), ("mine", 7, 1));
    /// # Ok::<(), underpin_emulator::FaultParseError>(())
    /// ```
    pub fn ram(size_bytes: u64, lba_bytes: u32) -> Self {
        Self {
            namespaces: vec![NamespaceConfig {
                size_bytes: Some(size_bytes),
                lba_bytes,
                ..NamespaceConfig::default()
            }],
            ..Self::default()
        }
    }

    /// The same with another name, for messages and its thread.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// The same with another seed of all randomness.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The same with one fault more.
    #[must_use]
    pub fn with_fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// The same, watched by `referee`. Give the same one to the space's
    /// [`watch`](underpin_dma::SpaceOptions::watch).
    #[must_use]
    pub fn with_referee(mut self, referee: Arc<Referee>) -> Self {
        self.referee = Some(referee);
        self
    }

    /// Refuses what no controller can be.
    pub(crate) fn check(&self) -> Result<(), EmulatorError> {
        let mut paths: Vec<&PathBuf> = Vec::new();
        for (index, namespace) in self.namespaces.iter().enumerate() {
            let name = format!("ns{}", index + 1);
            if !matches!(namespace.lba_bytes, 512 | 4096) {
                return refuse(&name, "blocks have 512 or 4096 bytes");
            }
            if namespace.size_or_default() == 0 {
                return refuse(&name, "it holds not a single block");
            }
            if namespace.read_only && !matches!(namespace.media, Media::File(_)) {
                let what = "ro=on needs file=PATH: what is never written is read from a file";
                return refuse(&name, what);
            }
            if let Media::File(path) = &namespace.media {
                if path.as_os_str().is_empty() {
                    return refuse(
                        &name,
                        format!("media=file needs file=PATH or {name}.file=PATH"),
                    );
                }
                if paths.contains(&path) {
                    let what = format!("{path:?} serves two namespaces; give {name}.file=PATH");
                    return refuse(&name, what);
                }
                paths.push(path);
            }
        }
        if let Some(serial) = &self.serial {
            let printable = serial.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            if !printable || !(1..=20).contains(&serial.len()) {
                return refuse(
                    &format!("serial={serial}"),
                    "a serial number has 1 to 20 printable ASCII characters",
                );
            }
        }
        let count = self.namespaces.len();
        if !(1..=MAX_NAMESPACES).contains(&count) {
            return refuse(
                "ns",
                format!("{count} namespaces; 1 to {MAX_NAMESPACES} can be had"),
            );
        }
        if !(2..=65536).contains(&self.max_queue_entries) {
            return refuse("mqes", "queues have 2 to 65536 entries");
        }
        if !(1..=4096).contains(&self.queues) {
            return refuse("queues", "1 to 4096 can be had");
        }
        if self.mpsmin > self.mpsmax || self.mpsmax > 15 {
            return refuse("mpsmin", "page sizes need 0 <= mpsmin <= mpsmax <= 15");
        }
        if self.dstrd > 15 || self.mdts > 16 {
            return refuse("dstrd", "dstrd is at most 15 and mdts at most 16");
        }
        if self.chunk_bytes < 4 {
            return refuse("chunk", "at least 4 bytes are moved at a time");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_key_is_read() {
        let config: EmulatorConfig = "size=8m,lba=4096,ns=3,ns2.size=4m,ns3.media=null,mdts=3,\
            queues=4,mqes=64,dbbuf=off,sgl=dword,oncs=0x9,format=off,effects=off,vsl=1,wzsl=2,dmrl=3,vwc=off,awun=7,awupf=3,nawun=15,dstrd=2,mpsmin=1,mpsmax=2,\
            to_ms=1000,crto_ms=2500,enable=3ms,step=on,chunk=64,seed=9,fault=drop@op=read+nth=2,\
            fault=delay:1ms,referee=on,mappings=5,serial=S 1,ns2.csi=2"
            .parse()
            .unwrap();
        let sizes: Vec<_> = config.namespaces.iter().map(|ns| ns.size_bytes).collect();
        assert_eq!(sizes, [Some(8 << 20), Some(4 << 20), Some(8 << 20)]);
        assert!(
            config
                .namespaces
                .iter()
                .all(|ns| ns.lba_bytes == 4096 && ns.nawun == Some(15))
        );
        assert_eq!(config.namespaces[2].media, Media::Null);
        assert_eq!(
            (config.mdts, config.queues, config.max_queue_entries),
            (3, 4, 64)
        );
        assert_eq!(config.sgl, SglSupport::Dword);
        let abilities = Abilities {
            oncs: 9,
            format: false,
            effects: false,
            vsl: 1,
            wzsl: 2,
            dmrl: 3,
        };
        assert_eq!(config.abilities, abilities);
        assert_eq!(
            (config.dbbuf, config.vwc, config.awun, config.awupf),
            (false, false, 7, 3)
        );
        assert_eq!((config.dstrd, config.mpsmin, config.mpsmax), (2, 1, 2));
        assert_eq!(
            (config.timeout_ms, config.ready_timeout_ms),
            (1000, Some(2500))
        );
        assert_eq!(config.enable_time, Duration::from_millis(3));
        assert_eq!(
            (config.stepped, config.chunk_bytes, config.seed),
            (true, 64, 9)
        );
        assert_eq!((config.faults.len(), config.max_mappings), (2, Some(5)));
        assert!(config.referee.is_some());
        assert_eq!(config.serial.as_deref(), Some("S 1"));
        assert_eq!(config.namespaces[1].csi, 2);
        let config: EmulatorConfig = "file=/x,ro=on".parse().unwrap();
        assert!(config.namespaces[0].read_only);
    }

    /// Keys may come in any order; every documented key exists, and a wrong one names the near.
    #[test]
    fn mistakes_name_what_was_meant() {
        for (text, hint) in [
            ("szie=1g", "`size`"),
            ("ns2.szie=1g", "`size`"),
            ("ns2.queues=1", "no such option"),
            ("size", "KEY=VALUE"),
            ("size=big", "512m"),
            ("lba=520", "512 or 4096"),
            ("queues=0", "1-4096"),
            ("mqes=1", "2-65536"),
            ("media=file", "file=PATH"),
            ("ns=2,file=/tmp/x", "two namespaces"),
            ("ns=1,ns2.size=1m", "ns2"),
            ("size=100", "not a single block"),
            ("mpsmin=3,mpsmax=1", "mpsmin <= mpsmax"),
            ("fault=dorp", "`drop`"),
            ("fault=", "a fault is wanted"),
            ("dbbuf=maybe", "on or off"),
            ("sgl=on", "off, dword or byte"),
            ("size=1g,size=2g", "twice"),
            ("mqes=8,depth=8", "twice"),
            ("ns2.lba=512,ns2.lba=512", "twice"),
            ("ro=on", "file=PATH"),
            ("serial=123456789012345678901", "1 to 20"),
        ] {
            let error = text.parse::<EmulatorConfig>().unwrap_err().to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
        assert_eq!("".parse::<EmulatorConfig>().unwrap().namespaces.len(), 1);
    }
}
