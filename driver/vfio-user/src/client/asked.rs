//! Reads that nobody waits for: asked for now, looked for later.
//! They have the deadline of every message, which whoever looks keeps.
use super::{Client, accepted};
use crate::message::{self, RegionAccess, header_flags};
use crate::{Command, Error};
use underpin_dma::rt::Instant;

/// `N` bytes of a region that were asked for with [`Client::region_ask`]. Forgotten, their reply is
/// kept as long as the connection.
#[derive(Debug)]
#[must_use = "the answer has to be fetched"]
pub struct AskedRead<const N: usize> {
    id: u16,
    access: RegionAccess,
    /// Until when the answer must have come.
    deadline: Instant,
}

impl Client {
    /// Asks for `N` bytes of a region, from `offset` on, and does not wait for them; see
    /// [`region_answer`](Self::region_answer).
    ///
    /// # Errors
    /// As [`region_read`](Self::region_read).
    pub fn region_ask<const N: usize>(
        &self,
        region: u32,
        offset: u64,
    ) -> Result<AskedRead<N>, Error> {
        let access = self.access(region, offset, N)?;
        self.check()?;
        let id = self.expect_reply(Command::RegionRead)?;
        let flags = header_flags::COMMAND;
        let bytes = message::encode(
            id,
            Command::RegionRead as u16,
            flags,
            0,
            &[&access.encode()],
        );
        self.outbox.lock().push(bytes, Vec::new());
        // What does not go out now does so with the next message, or look for the answer.
        self.flush()?;
        let deadline = Instant::now() + self.timeout;
        Ok(AskedRead {
            id,
            access,
            deadline,
        })
    }

    /// Looks for what was asked for; never waits. `None` when it has not come. It has as long as
    /// any message: whoever looks later and in vain ends the connection. Looked for again after it
    /// came it is an error.
    ///
    /// # Errors
    /// As [`region_read`](Self::region_read).
    pub fn region_answer<const N: usize>(
        &self,
        asked: &AskedRead<N>,
    ) -> Result<Option<[u8; N]>, Error> {
        let now = Instant::now();
        let reply = match self.turn(asked.id, now) {
            Some(Ok(reply)) => reply,
            Some(Err(error)) => {
                self.replies.lock().waiting.remove(&asked.id);
                return Err(error);
            }
            None if now < asked.deadline => return Ok(None),
            None => {
                return Err(self.fail(Error::Timeout {
                    what: format!("the reply to {}", Command::RegionRead),
                    timeout: self.timeout,
                }));
            }
        };
        let reply = accepted(Command::RegionRead, reply)?;
        let mut data = [0; N];
        self.read_into(&mut data, asked.access, &reply)?;
        Ok(Some(data))
    }
}
