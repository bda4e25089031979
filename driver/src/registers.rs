//! The controller's registers, typed, and what they prove about a device being there.
//! A dead device reads all ones on hardware and zero in some virtual machines: neither is proof.
use crate::{Error, Failure, Transport, TransportError};
use underpin_nvme_spec::registers::{Cap, Cc, Csts, Vs, offset};

/// What was read when the controller was opened; a later proof must read the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cap: Cap,
    pub(crate) vs: Vs,
}

/// Reads CAP and VS of a device that answers.
pub(crate) fn identity(transport: &dyn Transport) -> Result<Identity, Error> {
    let raw_cap = transport.read64(offset::CAP)?;
    if raw_cap == u64::MAX || raw_cap == 0 {
        return Err(Failure::Gone {
            register: "CAP",
            value: raw_cap,
        }
        .into());
    }
    let raw_vs = transport.read32(offset::VS)?;
    if raw_vs == u32::MAX {
        return Err(Failure::Gone {
            register: "VS",
            value: u64::from(raw_vs),
        }
        .into());
    }
    Ok(Identity {
        cap: Cap(raw_cap),
        vs: Vs(raw_vs),
    })
}

/// Reads CSTS and says whether the controller lives: neither gone nor in fatal status.
pub(crate) fn check_alive(transport: &dyn Transport) -> Result<Csts, Failure> {
    alive(transport, transport.read32(offset::CSTS))
}

/// Whether a controller lives that says this of CSTS.
fn alive(transport: &dyn Transport, csts: Result<u32, TransportError>) -> Result<Csts, Failure> {
    let csts = csts.map_err(|error| Failure::Transport(error.to_string()))?;
    if csts == u32::MAX {
        return Err(Failure::Gone {
            register: "CSTS",
            value: u64::from(csts),
        });
    }
    if Csts(csts).cfs() {
        return Err(Failure::Fatal { csts });
    }
    // Zero may be a disabled controller or a dead one; CAP is never zero while a device is there.
    if csts == 0 {
        let cap = transport.read64(offset::CAP).unwrap_or(u64::MAX);
        if cap == 0 || cap == u64::MAX {
            return Err(Failure::Gone {
                register: "CAP",
                value: cap,
            });
        }
    }
    Ok(Csts(csts))
}

/// The same of a controller that is up: one that is not ready any more has been reset by somebody
/// else, and nothing that was in flight will ever complete. False when its answer is still to come:
/// whoever asks is owed something, and does not wait for a register.
pub(crate) fn check_up(transport: &dyn Transport) -> Result<bool, Failure> {
    let asked = transport.ask32(offset::CSTS).transpose();
    let Some(answer) = asked else {
        return Ok(false);
    };
    let csts = alive(transport, answer)?;
    match csts.rdy() {
        true => Ok(true),
        false => Err(Failure::Reset { csts: csts.0 }),
    }
}

/// CSTS as a number, whatever it says.
pub(crate) fn csts(transport: &dyn Transport) -> Result<Csts, Error> {
    Ok(Csts(transport.read32(offset::CSTS)?))
}

/// CC as it stands.
pub(crate) fn cc(transport: &dyn Transport) -> Result<Cc, Error> {
    Ok(Cc(transport.read32(offset::CC)?))
}

/// Writes CC.
pub(crate) fn set_cc(transport: &dyn Transport, cc: Cc) -> Result<(), Error> {
    Ok(transport.write32(offset::CC, cc.0)?)
}
