//! What may be read of a block, from the cache and, after a power cut, from the medium: every
//! write of it in order, up to which it had ended, and up to which it was made durable.

/// Zero; versions count from 1.
pub(crate) const ZERO: u64 = 0;

/// 512 bytes of a file. Of each page at most one write is in flight, so its writes have an order.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// What it held, and holds or may hold by now, since it was last cut off.
    versions: Vec<u64>,
    /// The last of them whose write has ended.
    ended: usize,
    /// The last of them that an fsync promised; the medium has this or a later one.
    durable: Option<usize>,
    /// A bit for each version that it ever was to hold, before it was cut off as well.
    ever: u64,
}

impl Block {
    pub(crate) fn new() -> Self {
        Self {
            versions: vec![ZERO],
            ended: 0,
            durable: Some(0),
            ever: 1 << ZERO,
        }
    }

    /// A write of it has begun.
    pub(crate) fn begin(&mut self, version: u64) {
        self.versions.push(version);
        self.ever |= 1 << version;
    }

    /// It has ended.
    pub(crate) fn end(&mut self) {
        self.ended = self.versions.len() - 1;
    }

    /// It was cut off or punched: zero, whoever still writes into its old page. What the medium
    /// has is nobody's to say, until something is written and made durable.
    pub(crate) fn cut(&mut self) {
        *self = Self {
            versions: vec![ZERO],
            ended: 0,
            durable: None,
            ever: self.ever,
        };
    }

    /// What an fsync that begins now promises.
    pub(crate) const fn promise(&self) -> usize {
        self.ended
    }

    pub(crate) fn keep(&mut self, promised: usize) {
        // Zeroes of a hole are not written.
        if promised > 0 || self.durable.is_some() {
            self.durable = self.durable.max(Some(promised));
        }
    }

    /// A read gives the last write that has ended, or one that is under way.
    pub(crate) fn may_be_read(&self, version: Option<u64>) -> bool {
        version.is_some_and(|version| self.versions[self.ended..].contains(&version))
    }

    /// The medium has what was promised, or anything later; or something old, if nothing was. Never
    /// what a device wrote past the end of the file (R24).
    pub(crate) fn may_be_durable(&self, version: Option<u64>) -> bool {
        match self.durable {
            Some(durable) => {
                version.is_some_and(|version| self.versions[durable..].contains(&version))
            }
            None => version.is_some_and(|version| self.ever >> version & 1 == 1),
        }
    }
}

/// Which version of block `block` of page `page` the bytes are; `None` when they are torn, another
/// page's, or no version at all.
pub(crate) fn version_of(page: usize, block: usize, bytes: &[u8]) -> Option<u64> {
    let mut words = bytes.chunks(8).map(|word| {
        let word: [u8; 8] = word.try_into().unwrap();
        u64::from_le_bytes(word)
    });
    let first = words.next()?;
    if !words.all(|word| word == first) {
        return None;
    }
    if first == 0 {
        return Some(ZERO);
    }
    let version = first >> 8 & 0xffff;
    (first == crate::stamps::stamp(page, version, block)).then_some(version)
}
