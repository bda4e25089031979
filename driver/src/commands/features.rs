//! Features (NVMe Base 2.0, 5.15 and 5.27): any of them as numbers and bytes, and those with a
//! meaning here as typed values.
use super::abilities::oncs;
use super::call::{AdminCall, Data};
use crate::controller::Inner;
use crate::{Controller, Error};
use underpin_nvme_spec::admin::{
    FeatureAbility, FeatureId, FeatureSelect, GetFeatures, SetFeatures, TemperatureThreshold,
};
use underpin_nvme_spec::{AdminOpcode, Nsid, Sqe};

/// Which value of which feature is wanted.
///
/// ```
/// use underpin_nvme::{FeatureRequest, spec::admin::{FeatureId, FeatureSelect}};
///
/// let default = FeatureRequest {
///     select: FeatureSelect::DEFAULT,
///     ..FeatureRequest::new(FeatureId::ERROR_RECOVERY)
/// };
/// assert_eq!(default.data_len_bytes, 0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureRequest {
    /// Which feature.
    pub id: FeatureId,
    /// Which of its values.
    pub select: FeatureSelect,
    /// Of which namespace, where namespaces have values of their own; 0 otherwise.
    pub nsid: Nsid,
    /// What the feature defines.
    pub cdw11: u32,
    /// How many bytes of memory the value has, beside its number.
    pub data_len_bytes: usize,
}

impl FeatureRequest {
    /// The current value of a feature, with as many bytes as it is known to have.
    #[must_use]
    pub const fn new(id: FeatureId) -> Self {
        Self {
            id,
            select: FeatureSelect::CURRENT,
            nsid: Nsid(0),
            cdw11: 0,
            data_len_bytes: match id.data_len_bytes() {
                Some(len_bytes) => len_bytes,
                None => 0,
            },
        }
    }
}

/// A feature's value.
///
/// ```
/// use underpin_nvme::{FeatureRequest, spec::admin::FeatureId};
///
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// let value = controller.feature(&FeatureRequest::new(FeatureId::TIMESTAMP))?;
/// assert_eq!(value.data.len(), 8);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureValue {
    /// Dword 0 of the completion.
    pub dword: u32,
    /// The bytes that came with it.
    pub data: Vec<u8>,
}

/// A feature's new value.
///
/// ```
/// use underpin_nvme::{FeatureRequest, SetFeature, spec::admin::FeatureId};
///
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// let id = FeatureId::ERROR_RECOVERY;
/// controller.set_feature(&SetFeature { nsid: ns.nsid(), ..SetFeature::new(id, 50) })?;
/// let request = FeatureRequest { nsid: ns.nsid(), ..FeatureRequest::new(id) };
/// assert_eq!(controller.feature(&request)?.dword, 50);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetFeature {
    /// Which feature.
    pub id: FeatureId,
    /// The value, or what the feature defines, in dword 11.
    pub cdw11: u32,
    /// What else the feature defines, in dwords 12 to 15.
    pub more: [u32; 4],
    /// Of which namespace, where namespaces have values of their own; 0 otherwise.
    pub nsid: Nsid,
    /// The value is to outlive power cycles and resets.
    pub save: bool,
    /// The value's bytes, where it has some.
    pub data: Vec<u8>,
}

impl SetFeature {
    /// A feature whose value is a number.
    #[must_use]
    pub const fn new(id: FeatureId, cdw11: u32) -> Self {
        Self {
            id,
            cdw11,
            more: [0; 4],
            nsid: Nsid(0),
            save: false,
            data: Vec::new(),
        }
    }
}

/// Whether a command switches the volatile write cache, and which way.
pub(super) fn switches_cache(sqe: &Sqe) -> Option<bool> {
    let is_set = AdminOpcode(sqe.opcode()) == AdminOpcode::SET_FEATURES;
    let is_cache = SetFeatures::from_sqe(sqe).fid == FeatureId::VOLATILE_WRITE_CACHE;
    (is_set && is_cache).then(|| sqe.cdw11() & 1 != 0)
}

impl Inner {
    /// A command that switches the write cache is about to be sent. One that switches it on may
    /// do so though nobody fetches its answer: taken at its worst, it is on from now on.
    pub(super) fn cache_may_be(&self, switched: Option<bool>) {
        if switched == Some(true) {
            self.cache_is(true);
        }
    }
}

impl Controller {
    fn need_feature(&self, id: FeatureId) -> Result<(), Error> {
        let identify = self.identify();
        let (has, why) = match id {
            FeatureId::VOLATILE_WRITE_CACHE => (
                identify.vwc() & 1 != 0,
                "VWC bit 0 is 0: there is no volatile write cache",
            ),
            FeatureId::TIMESTAMP => (
                identify.oncs() & oncs::TIMESTAMP != 0,
                "ONCS bit 6, Timestamp, is 0",
            ),
            FeatureId::WRITE_PROTECTION => (
                identify.nwpc() & 1 != 0,
                "NWPC bit 0, namespace write protection, is 0",
            ),
            _ => return Ok(()),
        };
        self.0.need(has, &format!("feature {id}"), why)
    }

    /// Begins to ask for a feature's value.
    ///
    /// # Errors
    /// [`Error::NotSupported`] for a feature that the controller says it lacks;
    /// [`Error::TooLong`]; [`Error::Dma`] for memory.
    pub fn begin_feature(
        &self,
        request: &FeatureRequest,
    ) -> Result<AdminCall<FeatureValue>, Error> {
        self.need_feature(request.id)?;
        let command = GetFeatures {
            fid: request.id,
            sel: request.select,
            nsid: request.nsid,
            cdw11: request.cdw11,
            ..GetFeatures::default()
        };
        // What it supports is a number, whatever the feature is (Base 2.0, 5.15.2).
        let len_bytes = match request.select {
            FeatureSelect::SUPPORTED => 0,
            _ => request.data_len_bytes,
        };
        AdminCall::new(
            &self.0,
            command.to_sqe(),
            &Data::In(len_bytes),
            None,
            |dword, data| Ok(FeatureValue { dword, data }),
        )
    }

    /// A feature's value.
    ///
    /// # Errors
    /// As [`begin_feature`](Self::begin_feature); [`Error::Admin`] with the device's status;
    /// [`Error::Failed`].
    pub fn feature(&self, request: &FeatureRequest) -> Result<FeatureValue, Error> {
        self.begin_feature(request)?.wait()
    }

    /// What can be done with a feature. Controllers that cannot say (ONCS bit 4) end it with an
    /// error status.
    ///
    /// # Errors
    /// As [`feature`](Self::feature).
    ///
    /// ```
    /// use underpin_nvme::{Nsid, spec::admin::FeatureId};
    ///
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// let ability = controller.feature_ability(FeatureId::VOLATILE_WRITE_CACHE, Nsid(0))?;
    /// assert!(ability.changeable);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn feature_ability(&self, id: FeatureId, nsid: Nsid) -> Result<FeatureAbility, Error> {
        let request = FeatureRequest {
            select: FeatureSelect::SUPPORTED,
            nsid,
            ..FeatureRequest::new(id)
        };
        Ok(FeatureAbility::from_dword(self.feature(&request)?.dword))
    }

    /// Begins to set a feature; the answer is dword 0 of the completion.
    ///
    /// # Errors
    /// [`Error::WouldBreakDriver`] for features that are the driver's own business;
    /// [`Error::NotSupported`] for a feature that the controller lacks, or a saved value where it
    /// saves none; [`Error::TooLong`]; [`Error::Dma`] for memory.
    ///
    /// ```
    /// use underpin_nvme::{Error, SetFeature, spec::admin::FeatureId};
    ///
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// controller.begin_set_feature(&SetFeature::new(FeatureId::ARBITRATION, 0))?.wait()?;
    /// // How many queues there are is the driver's to agree with the device.
    /// let queues = SetFeature::new(FeatureId::NUMBER_OF_QUEUES, 0);
    /// assert!(matches!(controller.set_feature(&queues), Err(Error::WouldBreakDriver { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn begin_set_feature(&self, feature: &SetFeature) -> Result<AdminCall<u32>, Error> {
        let [cdw12, cdw13, cdw14, cdw15] = feature.more;
        let command = SetFeatures {
            fid: feature.id,
            save: feature.save,
            nsid: feature.nsid,
            cdw11: feature.cdw11,
            ..SetFeatures::default()
        };
        let sqe = command
            .to_sqe()
            .with_cdw12(cdw12)
            .with_cdw13(cdw13)
            .with_cdw14(cdw14)
            .with_cdw15(cdw15);
        self.0.refuse_harm(&sqe)?;
        self.need_feature(feature.id)?;
        self.0.need(
            !feature.save || self.identify().oncs() & oncs::SAVE != 0,
            &format!("saving feature {}", feature.id),
            "ONCS bit 4, saved values of features, is 0",
        )?;
        let controller = self.clone();
        let cache = switches_cache(&sqe);
        let data = Data::Out(&feature.data);
        let call = AdminCall::new(&self.0, sqe, &data, None, move |dword, _| {
            cache.into_iter().for_each(|on| controller.0.cache_is(on));
            Ok(dword)
        })?;
        self.0.cache_may_be(cache);
        Ok(call)
    }

    /// Sets a feature; the answer is dword 0 of the completion.
    ///
    /// # Errors
    /// As [`begin_set_feature`](Self::begin_set_feature); [`Error::Admin`] with the device's
    /// status; [`Error::Failed`].
    pub fn set_feature(&self, feature: &SetFeature) -> Result<u32, Error> {
        self.begin_set_feature(feature)?.wait()
    }

    /// Switches the volatile write cache on or off. Off, every completed write is durable.
    ///
    /// # Errors
    /// As [`set_feature`](Self::set_feature); [`Error::NotSupported`] where there is no cache.
    ///
    /// ```
    /// use underpin_nvme::WriteCache;
    ///
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// controller.set_write_cache(false)?;
    /// assert_eq!(controller.write_cache(), WriteCache::Disabled);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_write_cache(&self, on: bool) -> Result<(), Error> {
        let feature = SetFeature::new(FeatureId::VOLATILE_WRITE_CACHE, u32::from(on));
        self.set_feature(&feature).map(|_| ())
    }

    /// The temperature at which the controller warns: of the composite temperature (sensor 0) or
    /// of one sensor, from below or from above.
    ///
    /// # Errors
    /// As [`feature`](Self::feature).
    pub fn temperature_threshold(
        &self,
        sensor: u8,
        under: bool,
    ) -> Result<TemperatureThreshold, Error> {
        let asked = TemperatureThreshold {
            kelvins: 0,
            sensor,
            under,
        };
        let request = FeatureRequest {
            cdw11: asked.to_cdw(),
            ..FeatureRequest::new(FeatureId::TEMPERATURE_THRESHOLD)
        };
        let kelvins = self.feature(&request)?.dword as u16;
        Ok(TemperatureThreshold { kelvins, ..asked })
    }

    /// Sets the temperature at which the controller warns.
    ///
    /// # Errors
    /// As [`set_feature`](Self::set_feature).
    ///
    /// ```
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// let mut threshold = controller.temperature_threshold(0, false)?;
    /// threshold.kelvins = 273 + 70;
    /// controller.set_temperature_threshold(threshold)?;
    /// assert_eq!(controller.temperature_threshold(0, false)?.kelvins, 343);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_temperature_threshold(&self, threshold: TemperatureThreshold) -> Result<(), Error> {
        let feature = SetFeature::new(FeatureId::TEMPERATURE_THRESHOLD, threshold.to_cdw());
        self.set_feature(&feature).map(|_| ())
    }

    /// Protects a namespace from being written, or lets it be written again, until then. Writes
    /// to it end with Namespace is Write Protected meanwhile.
    ///
    /// # Errors
    /// As [`set_feature`](Self::set_feature); [`Error::NotSupported`] where namespaces cannot be
    /// protected.
    ///
    /// ```
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
    /// controller.set_write_protection(ns.nsid(), true)?;
    /// assert!(queue.run(ns.write(Lba(0), 8)?, space.alloc(4096, 4096)?).is_err());
    /// controller.set_write_protection(ns.nsid(), false)?;
    /// queue.run(ns.write(Lba(0), 8)?, space.alloc(4096, 4096)?)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_write_protection(&self, nsid: Nsid, protected: bool) -> Result<(), Error> {
        let feature = SetFeature {
            nsid,
            ..SetFeature::new(FeatureId::WRITE_PROTECTION, u32::from(protected))
        };
        self.set_feature(&feature).map(|_| ())
    }
}
