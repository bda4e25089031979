//! Memory that was given back, filled with a pattern: whoever writes it now writes memory that is
//! not his any more.
use underpin_dma::DmaBuf;

/// Buffers that nobody but their holder may write.
#[derive(Debug, Default)]
pub(crate) struct Canaries(Vec<(DmaBuf, u8)>);

impl Canaries {
    /// Takes a buffer that was given back.
    pub(crate) fn keep(&mut self, mut buffer: DmaBuf, pattern: u8) {
        buffer.fill(pattern);
        self.0.push((buffer, pattern));
    }

    /// Gives the oldest back, whole as it is.
    pub(crate) fn take(&mut self) -> Option<DmaBuf> {
        if self.0.is_empty() {
            return None;
        }
        let (buffer, pattern) = self.0.remove(0);
        whole(&buffer, pattern);
        Some(buffer)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// All are as they were.
    pub(crate) fn check(&self) {
        for (buffer, pattern) in &self.0 {
            whole(buffer, *pattern);
        }
    }
}

#[track_caller]
fn whole(buffer: &DmaBuf, pattern: u8) {
    let mut bytes = vec![0; buffer.len_bytes()];
    buffer.copy_to(0, &mut bytes).unwrap();
    let broken = bytes.iter().position(|&byte| byte != pattern);
    assert_eq!(
        broken,
        None,
        "a device wrote memory that had been given back, at {}",
        buffer.iova()
    );
}
