//! Messages over a stream socket: pieces put together, descriptors passed and always closed.
//! Neither half ever blocks; a message that was begun has a deadline, so that nobody dribbles.
use crate::Error;
use crate::message::{HEADER_BYTES, Header};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use underpin_dma::rt::Instant;

/// The most descriptors taken with one message, which is also what we tell peers.
pub(crate) const MOST_FDS: usize = 64;
/// The most bytes of one access, which is also what we tell peers.
pub(crate) const MOST_DATA_BYTES: usize = 64 << 10;
/// Messages or pieces taken in one go, before clocks and other descriptors are looked at again: a
/// peer may send without end.
pub(crate) const AT_ONCE: usize = 64;
/// The longest message: an access with its header, and room for any other body.
pub(crate) const MOST_MESSAGE_BYTES: usize = MOST_DATA_BYTES + 4096;

/// A message that has come.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) header: Header,
    pub(crate) body: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

/// The receiving half.
#[derive(Debug)]
pub(crate) struct Inbox {
    head: [u8; HEADER_BYTES],
    /// Bytes of the present message that have come, header included.
    have: usize,
    /// Known once the header is complete.
    header: Option<Header>,
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
    /// When the present message's first byte came.
    began: Option<Instant>,
    /// How long a message may take from its first byte to its last.
    patience: Duration,
    /// The peer has closed its side: nothing more will come.
    ended: bool,
}

impl Inbox {
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            head: [0; HEADER_BYTES],
            have: 0,
            header: None,
            body: Vec::new(),
            fds: Vec::new(),
            began: None,
            patience,
            ended: false,
        }
    }

    /// True when the peer has closed its side.
    pub(crate) const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Until when the rest of a message must have come that was begun.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.began.map(|began| began + self.patience)
    }

    /// Takes what has come. A message when one is complete; never reads beyond it.
    ///
    /// After an error the stream's place is lost and the connection of no more use.
    pub(crate) fn poll(
        &mut self,
        socket: &UnixStream,
        now: Instant,
    ) -> Result<Option<Message>, Error> {
        loop {
            if let Some(message) = self.complete()? {
                return Ok(Some(message));
            }
            if !self.receive(socket, now)? {
                let late = self.deadline().is_some_and(|deadline| now >= deadline);
                return match late {
                    true => Err(Error::Timeout {
                        what: format!("the rest of a message, after {} bytes,", self.have),
                        timeout: self.patience,
                    }),
                    false => Ok(None),
                };
            }
        }
    }

    /// The present message, if all of it is there.
    fn complete(&mut self) -> Result<Option<Message>, Error> {
        if self.have < HEADER_BYTES {
            return Ok(None);
        }
        let header = match self.header {
            Some(header) => header,
            None => {
                let header = Header::decode(&self.head);
                let size = header.size as usize;
                if !(HEADER_BYTES..=MOST_MESSAGE_BYTES).contains(&size) {
                    return Err(Error::Protocol(format!(
                        "{} has {size} bytes; {HEADER_BYTES} to {MOST_MESSAGE_BYTES} are possible",
                        header.name()
                    )));
                }
                self.body = vec![0; size - HEADER_BYTES];
                *self.header.insert(header)
            }
        };
        if self.have < header.size as usize {
            return Ok(None);
        }
        self.have = 0;
        self.header = None;
        self.began = None;
        Ok(Some(Message {
            header,
            body: std::mem::take(&mut self.body),
            fds: std::mem::take(&mut self.fds),
        }))
    }

    /// Receives once. False when nothing is there.
    fn receive(&mut self, socket: &UnixStream, now: Instant) -> Result<bool, Error> {
        let target = match self.header {
            None => self.head.get_mut(self.have..),
            Some(_) => self.body.get_mut(self.have - HEADER_BYTES..),
        };
        let Some(target) = target else {
            return Ok(false);
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(
            socket,
            &mut [IoSliceMut::new(target)],
            &mut ancillary,
            flags,
        );
        let received = match received {
            Ok(received) => received,
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => return Ok(true),
            Err(Errno::CONNRESET) => return self.end(),
            Err(errno) => return Err(Error::system("receiving a vfio-user message")(errno)),
        };
        // Owned from here on: dropped, and so closed, with the message or the inbox.
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) || self.fds.len() > MOST_FDS {
            return Err(Error::Protocol(format!(
                "more than {MOST_FDS} descriptors came with one message"
            )));
        }
        if received.bytes == 0 {
            return self.end();
        }
        self.began.get_or_insert(now);
        self.have += received.bytes;
        Ok(true)
    }

    fn end(&mut self) -> Result<bool, Error> {
        self.ended = true;
        match self.have {
            0 => Err(Error::Closed),
            have => Err(Error::Protocol(format!(
                "the connection was closed within a message, after {have} bytes of it"
            ))),
        }
    }

    /// Drops what comes until the peer closes its side. True when it has.
    pub(crate) fn drain(&mut self, socket: &UnixStream) -> bool {
        let mut scrap = [0; 4096];
        for _ in 0..AT_ONCE {
            if self.ended {
                break;
            }
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let target = &mut [IoSliceMut::new(&mut scrap)];
            match recvmsg(socket, target, &mut ancillary, flags) {
                Ok(received) if received.bytes > 0 => {}
                Ok(_) | Err(Errno::CONNRESET) => self.ended = true,
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        self.ended
    }
}

/// A message on its way out.
#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

/// The sending half.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Outgoing>,
}

impl Outbox {
    /// Adds a message; the descriptors are closed when it was sent or the outbox dropped.
    pub(crate) fn push(&mut self, bytes: Vec<u8>, fds: Vec<OwnedFd>) {
        self.queue.push_back(Outgoing {
            bytes,
            sent: 0,
            fds,
        });
    }

    /// Messages that have not been sent wholly.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Sends what the socket takes. True when all was sent.
    pub(crate) fn poll(&mut self, socket: &UnixStream) -> Result<bool, Error> {
        while let Some(outgoing) = self.queue.front_mut() {
            let rest = outgoing.bytes.get(outgoing.sent..).unwrap_or_default();
            let fds: Vec<_> = outgoing.fds.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
                return Err(Error::Mismatch(format!(
                    "{} descriptors in one message; {MOST_FDS} can be sent",
                    fds.len()
                )));
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match sendmsg(socket, &[IoSlice::new(rest)], &mut ancillary, flags) {
                Ok(sent) => {
                    outgoing.sent += sent;
                    // They travelled with the first byte.
                    outgoing.fds.clear();
                    if outgoing.sent >= outgoing.bytes.len() {
                        self.queue.pop_front();
                    }
                }
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Error::Closed),
                Err(errno) => return Err(Error::system("sending a vfio-user message")(errno)),
            }
        }
        Ok(true)
    }
}
